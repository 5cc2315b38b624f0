"""One function of a program, with the statements that it needs and no others: a script's training
does not run where its table is wanted.
"""

import ast
import builtins
import copy
from types import CodeType

from harness.packaging import names as scopes
from harness.validate.finding import CannotTell

GIVEN = {*dir(builtins), "__file__", "__name__", "__builtins__", "__annotations__"}
FUTURE = "from __future__ import annotations\n"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def code_of(statement: ast.stmt) -> CodeType:
    """Return the code of one statement."""
    return scopes.compiled(ast.fix_missing_locations(ast.Module([statement], [])))


def asked(statement: ast.stmt) -> set[str]:
    """Return the names that a statement needs; ValueError where a function rebinds a global one."""
    code = code_of(without_annotations(statement))
    steps = [step for part in scopes.codes(code) for step in scopes.instructions(part)]
    if any(step.opname == "STORE_GLOBAL" for step in steps):
        raise ValueError("global statements are not followed")
    return scopes.asked(code)


def without_annotations(statement: ast.stmt) -> ast.stmt:
    """Return a copy whose functions have no annotations: their names are not needed where nothing
    evaluates them.
    """
    changed = copy.deepcopy(statement)
    for node in ast.walk(changed):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, FUNCTIONS):
            node.returns = None
    return changed


def is_main(statement: ast.stmt) -> bool:
    """Return whether a statement runs only where the file is started as a program."""
    return (
        isinstance(statement, ast.If)
        and "__name__" in ast.unparse(statement.test)
        and not statement.orelse
    )


def altered(statement: ast.stmt) -> set[str]:
    """Return the names whose value a statement may change in place: NAME[...] = , NAME.x = ,
    NAME.method(...).
    """
    if isinstance(statement, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Delete):
        targets = (
            statement.targets
            if isinstance(statement, ast.Assign | ast.Delete)
            else [statement.target]
        )
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        targets = [statement.value.func]
    else:
        return set()
    found = set()
    for target in targets:
        while isinstance(target, ast.Subscript | ast.Attribute):
            target = target.value
            if isinstance(target, ast.Name):
                found.add(target.id)
    return found


def stars(tree: ast.Module) -> list[ast.stmt]:
    """Return the imports of everything that a module has."""
    return [
        each for each in tree.body if isinstance(each, ast.ImportFrom) and each.names[0].name == "*"
    ]


def bound_by(alias: ast.alias) -> str:
    """Return the name that an import binds."""
    return alias.asname or alias.name.partition(".")[0]


def only(statement: ast.stmt, names: set[str]) -> ast.stmt:
    """Return an import of the names alone that are needed, any other statement as it is."""
    if not isinstance(statement, ast.Import | ast.ImportFrom):
        return statement
    kept = [alias for alias in statement.names if bound_by(alias) in names or alias.name == "*"]
    return ast.copy_location(
        type(statement)(**{**dict(ast.iter_fields(statement)), "names": kept}), statement
    )


def definitions(tree: ast.Module) -> dict[str, list[ast.stmt]]:
    """Return the top-level statements that give each name its value; what only the started program
    does is left out.
    """
    found: dict[str, list[ast.stmt]] = {}
    imported: set[str] = set()
    for statement in tree.body:
        if (
            is_main(statement)
            or isinstance(statement, ast.ImportFrom)
            and statement.module == "__future__"
        ):
            continue
        own = scopes.bound(code_of(statement))
        imported |= own if isinstance(statement, ast.Import | ast.ImportFrom) else set()
        for name in own | (altered(statement) - imported):
            found.setdefault(name, []).append(statement)
    return found


def needed(tree: ast.Module, wanted: tuple[str, ...]) -> tuple[set[ast.stmt], set[str], set[str]]:
    """Return the statements that define the names wanted and all that these need, the names, and
    those that nothing defines.
    """
    kept, names, waiting, missing = set(), set(), list(wanted), set()
    defining = definitions(tree)
    while waiting:
        name = waiting.pop()
        if name in names:
            continue
        names.add(name)
        if name not in defining and name not in GIVEN:
            missing.add(name)
        for statement in defining.get(name, ()):
            if statement not in kept:
                kept.add(statement)
                waiting += asked(statement)
    return kept, names, missing


def extract(tree: ast.Module, wanted: tuple[str, ...]) -> str:
    """Return a program of the top-level statements that define the names wanted, and of what these
    need, in the order of the file.
    """
    try:
        kept, names, missing = needed(tree, wanted)
        if missing and not stars(tree):
            raise ValueError(f"nothing at the top level defines {', '.join(sorted(missing))}")
        kept |= set(stars(tree)) if missing else set()
        body = [without_annotations(only(each, names)) for each in tree.body if each in kept]
        return FUTURE + ast.unparse(ast.Module(body, [])) + "\n"
    except (
        ValueError,
        SyntaxError,
        RecursionError,
    ) as error:  # a global statement, a name from nowhere, code nested too deeply
        raise CannotTell(f"{wanted[-1]} cannot be taken out of the script: {error}") from error
