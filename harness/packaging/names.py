"""Which names a piece of Python refers to outside its own scopes: what a bundle must bring along,
and may rename.
"""

import ast
from collections.abc import Iterator

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def bindings(nodes: list[ast.AST]) -> set[str]:
    """Return the names that statements or targets bind in their own scope, those of inner scopes
    left out.
    """
    found, stack = set(), list(nodes)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Global):
            raise ValueError(f"line {node.lineno}: global statements are not followed")
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Lambda, *COMPREHENSIONS)):
            found |= {
                inner.target.id for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr)
            }
        else:
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                found.add(node.id)
            elif isinstance(node, ast.alias):
                found.add(node.asname or node.name.partition(".")[0])
            elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
                found.add(node.name)
            elif isinstance(node, ast.MatchMapping) and node.rest:
                found.add(node.rest)
            stack += ast.iter_child_nodes(node)
    return found


def _arguments(arguments: ast.arguments) -> tuple[set[str], list[ast.AST]]:
    """Return (names of the parameters, expressions of defaults and annotations)."""
    every = [
        *arguments.posonlyargs,
        *arguments.args,
        *arguments.kwonlyargs,
        arguments.vararg,
        arguments.kwarg,
    ]
    every = [argument for argument in every if argument]
    outside = [
        *arguments.defaults,
        *arguments.kw_defaults,
        *(argument.annotation for argument in every),
    ]
    return {argument.arg for argument in every}, [node for node in outside if node]


def references(
    node: ast.AST, hidden: frozenset[str] = frozenset(), in_class: frozenset[str] = frozenset()
) -> Iterator[ast.Name]:
    """Yield every Name under a node that means a name of the module: hidden are those of enclosing
    functions, in_class those of the class whose body this is, which its methods do not see.
    """
    if isinstance(node, ast.Name):
        if node.id not in hidden | in_class:
            yield node
        return
    if isinstance(node, (*FUNCTIONS, ast.Lambda)):
        parameters, outside = _arguments(node.args)
        body = [node.body] if isinstance(node, ast.Lambda) else node.body
        outside += (
            []
            if isinstance(node, ast.Lambda)
            else [*node.decorator_list, *([node.returns] if node.returns else [])]
        )
        inner = hidden | parameters | bindings(body)
        yield from (found for part in outside for found in references(part, hidden, in_class))
        yield from (found for part in body for found in references(part, inner))
    elif isinstance(node, ast.ClassDef):
        outside = [*node.decorator_list, *node.bases, *node.keywords]
        yield from (found for part in outside for found in references(part, hidden, in_class))
        # A name of the body means the module's until the body has bound it.
        for number, part in enumerate(node.body):
            own = frozenset(bindings(node.body[:number]))
            yield from (
                found for found in references(part, hidden, own) if isinstance(found.ctx, ast.Load)
            )
    elif isinstance(node, COMPREHENSIONS):
        first, inner = (
            node.generators[0].iter,
            hidden | bindings([generator.target for generator in node.generators]),
        )
        yield from references(first, hidden, in_class)
        yield from (
            found
            for part in _children(node)
            if part is not first
            for found in references(part, inner)
        )
    else:
        yield from (
            found
            for part in ast.iter_child_nodes(node)
            for found in references(part, hidden, in_class)
        )


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the children of a comprehension, its generators taken apart."""
    for child in ast.iter_child_nodes(node):
        yield from ast.iter_child_nodes(child) if isinstance(child, ast.comprehension) else (child,)
