"""Small wrong versions of a module: cosmic-ray's operators and two of our own, a sample that is the
same every time.
"""

import ast
import random
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple


class Mutant(NamedTuple):
    """One changed source: what changed it, the line, and the changed statement before and after, as
    ast.unparse writes them.
    """

    operator: str
    line: int
    before: str
    after: str
    source: str


class DropKeyword:
    """f(x, key=value) becomes f(x)."""

    def mutation_positions(self, node):
        """The positions of the keyword arguments of one call."""
        return [(argument.start_pos, argument.end_pos) for argument in _keywords(node)]

    def mutate(self, node, index):
        """The call without keyword argument `index`."""
        argument = _keywords(node)[index]
        if argument.parent is node:
            node.children.remove(argument)
        else:
            siblings = argument.parent.children
            place = siblings.index(argument)
            del siblings[max(place - 1, 0) : place + 1 if place else 2]  # with one of its commas
        return node


class DropCall:
    """x.f(...) becomes x, unless x is a module."""

    def mutation_positions(self, node):
        """The positions of the method calls on one expression."""
        return [
            (node.children[place].start_pos, node.children[place + 1].end_pos)
            for place in _method_calls(node)
        ]

    def mutate(self, node, index):
        """The expression without method call `index`."""
        place = _method_calls(node)[index]
        del node.children[place : place + 2]
        return node


def _keywords(node) -> list:
    """The `key=value` arguments of a call, given its parentheses."""
    if node.type != "trailer" or node.children[0].value != "(" or len(node.children) < 3:
        return []
    inner = node.children[1]
    arguments = inner.children if inner.type == "arglist" else [inner]
    return [
        argument
        for argument in arguments
        if argument.type == "argument" and argument.children[1] == "="
    ]


def _method_calls(node) -> list[int]:
    """Where `.name` is followed by parentheses among the children of an expression."""
    if node.type not in ("atom_expr", "power"):
        return []
    parts = node.children
    opens = [part.children[0].value if part.type == "trailer" else "" for part in parts]
    calls = [place for place in range(1, len(parts) - 1) if opens[place : place + 2] == [".", "("]]
    modules = {
        name.value
        for statement in node.get_root_node().iter_imports()
        for name in statement.get_defined_names()
    }
    return [place for place in calls if place > 1 or getattr(parts[0], "value", "") not in modules]


def operators() -> dict[str, object]:
    """Every operator by name: cosmic-ray's that need no arguments, and ours."""
    from cosmic_ray import plugins  # the mutate extra

    theirs = {name.split("/")[1]: plugins.get_operator(name) for name in plugins.operator_names()}
    return {name: kind() for name, kind in theirs.items() if not kind.arguments()} | {
        "DropKeyword": DropKeyword(),
        "DropCall": DropCall(),
    }


class _Behaviour(ast.NodeTransformer):
    """Leaves what can change a result: no annotations, docstrings, words of messages, or kinds of
    parameters.
    """

    def visit_JoinedStr(self, node):
        """Messages are the only f-strings."""
        return ast.Constant("")

    def visit_arguments(self, node):
        """Parameters in one list: which of them must be named decides no result."""
        self.generic_visit(node)
        node.args, node.posonlyargs, node.kwonlyargs = (
            node.posonlyargs + node.args + node.kwonlyargs,
            [],
            [],
        )
        node.defaults, node.kw_defaults = (
            node.defaults + [default for default in node.kw_defaults if default],
            [],
        )
        return node

    def visit_arg(self, node):
        """A parameter's name alone."""
        return ast.arg(node.arg, None)

    def visit_AnnAssign(self, node):
        """A field or variable without its type."""
        self.generic_visit(node)
        node.annotation = ast.Constant(None)
        return node

    def visit_FunctionDef(self, node):
        """A function without its return type."""
        self.generic_visit(node)
        node.returns = None
        return node

    def visit_Expr(self, node):
        """A bare string is a docstring."""
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)


def behaviour(source: str) -> str:
    """What a source does, as text: equal where two sources differ in words and types alone."""
    return ast.dump(_Behaviour().visit(ast.parse(source)))


def statements(source: str) -> list[str]:
    """Every statement of a source as ast.unparse writes it, a compound one without its body."""
    return [
        _heading(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.stmt | ast.ExceptHandler)
    ]


def _heading(node: ast.AST) -> str:
    bodies = {"body", "orelse", "finalbody", "handlers"} & set(node._fields)
    bare = {field: [] for field in bodies if isinstance(getattr(node, field), list)}
    fields = {field: getattr(node, field) for field in node._fields} | bare
    if isinstance(node, ast.Match):
        fields["cases"] = [ast.match_case(case.pattern, case.guard, []) for case in node.cases]
    return ast.unparse(type(node)(**fields, lineno=0)).strip()


def _changed(before: str, after: str) -> tuple[str, str]:
    """The statements that differ: (of before, of after)."""
    pairs = zip(statements(before), statements(after), strict=True)
    different = [pair for pair in pairs if pair[0] != pair[1]]
    return tuple("\n".join(texts) for texts in zip(*different, strict=True)) or ("", "")


def positions(source: str) -> dict[tuple[int, str], list[tuple[str, int]]]:
    """{(line, family of operators): [(operator, occurrence)]} of everything that can be changed."""
    from cosmic_ray.ast import ast_nodes, get_ast

    nodes, found = list(ast_nodes(get_ast(source))), defaultdict(list)
    for name, operator in operators().items():
        spots = [position for node in nodes for position in operator.mutation_positions(node)]
        for occurrence, (start, _) in enumerate(spots):
            found[start[0], name.split("_")[0]].append((name, occurrence))
    return dict(found)


def mutants(source: str, most: int, seed: str) -> Iterator[Mutant]:
    """Yield at most `most` mutants: a first one of every line and family in shuffled order, then a
    second one, and so on.
    """
    from cosmic_ray.mutating import mutate_code

    draw, groups, known = random.Random(seed), list(positions(source).items()), operators()
    seen = {behaviour(source)}
    for (_, _), spots in groups:
        draw.shuffle(spots)
    while most and any(spots for _, spots in groups):
        draw.shuffle(groups)
        for (line, _), spots in groups:
            while spots and most:
                name, occurrence = spots.pop()
                changed = mutate_code(source, known[name], occurrence)
                try:
                    means = behaviour(changed)
                except SyntaxError:
                    continue
                if means not in seen:
                    seen.add(means)
                    most -= 1
                    yield Mutant(name, line, *_changed(source, changed), changed)
                    break
