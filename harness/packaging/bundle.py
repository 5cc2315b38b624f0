"""One self-contained train_gpt.py: what fast/ship/submission.py reaches, a section per module.

Modules are joined in the order of their imports. `masking.loss` becomes `loss`: no two modules
define the same name. What the program does not reach is left out.
"""

import ast
import builtins
import io
import re
import sys
import tokenize
from dataclasses import dataclass, field, fields, is_dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from types import CodeType

from harness.packaging.names import ASKS, asked, bound, codes, compiled, instructions
from reference.recipe import Recipe

ROOT = Path(__file__).parents[2]
ENTRY = "fast.ship.submission"
PACKED = "fast.ship.packed"
SCRIPT = "train_gpt.py"
OURS = ("fast", "reference")
GIVEN = {*dir(builtins), "__file__", "__name__", "__annotations__"}
WHAT = """Train, ship and score: a language model that fits in 16,000,000 bytes, this file included.

    python train_gpt.py                             trains, writes final_model.mgolf, reads it back and scores it
    torchrun --standalone --nproc_per_node=N train_gpt.py
    python train_gpt.py --score final_model.mgolf   only scores

Environment: DATA_PATH, TOKENIZER_PATH, SEED, RUN_ID, ITERATIONS, MAX_WALLCLOCK_SECONDS. The log is logs/RUN_ID.txt.
Written by `maskgolf pack` from the modules that head the sections.
"""


class BundleError(RuntimeError):
    """The source uses something that a bundle cannot follow."""


@dataclass(eq=False)
class Statement:
    """A top-level statement: its text with the lines above it, the names it binds and asks for."""

    text: str
    bound: set[str]
    asked: set[str]


@dataclass
class Module:
    """A module without its imports; `module.name` is written `name`."""

    name: str
    docstring: str
    statements: list[Statement] = field(default_factory=list)
    modules: dict[str, str] = field(default_factory=dict)  # alias -> our module
    names: list[tuple[str, str]] = field(default_factory=list)  # (our module, a name of it)
    external: dict[str, str] = field(default_factory=dict)  # name -> the statement that imports it

    @property
    def bound(self) -> set[str]:
        """Return the names that the module defines."""
        return {name for statement in self.statements for name in statement.bound}


def literal(value: object, indent: str = "") -> str:
    """Return a recipe, or a part of it, as the expression that makes it."""
    if not is_dataclass(value):
        return repr(value)
    inner = indent + "    "
    lines = [
        f"{inner}{one.name}={literal(getattr(value, one.name), inner)}," for one in fields(value)
    ]
    return "\n".join([f"{type(value).__name__}(", *lines, f"{indent})"])


def packed_source(recipe: Recipe, codec: str) -> str:
    """Return the source of fast/ship/packed.py that holds a run's recipe and codec."""
    values = [recipe, *(getattr(recipe, one.name) for one in fields(recipe))]
    parts = sorted({type(value).__name__ for value in values if is_dataclass(value)})
    head = '"""The recipe of the packed run, and the codec of its artifact."""\n\n'
    return (
        f"{head}from reference.recipe import {', '.join(parts)}\n\nRECIPE ="
        f" {literal(recipe)}\nCODEC = {codec!r}\n"
    )


def _ours(name: str) -> bool:
    return name.partition(".")[0] in OURS


def _path(module: str) -> Path:
    return ROOT / f"{module.replace('.', '/')}.py"


def _read_import(
    module: Module, node: ast.Import | ast.ImportFrom, replaced: frozenset[str]
) -> None:
    """Note what an import binds."""
    for alias in node.names:
        name, source = alias.asname or alias.name, getattr(node, "module", None)
        if not _ours(source or alias.name):
            module.external[name.partition(".")[0]] = ast.unparse(
                ast.Import([alias]) if source is None else ast.ImportFrom(source, [alias], 0)
            )
        elif source is None:
            raise BundleError(
                f"{module.name}: import {alias.name} is not followed; write from ... import ..."
            )
        elif (inner := f"{source}.{alias.name}") in replaced or _path(inner).exists():
            module.modules[name] = inner
        elif name != alias.name:
            raise BundleError(
                f"{module.name}: {alias.name} is imported under another name; import it under"
                " its own"
            )
        else:
            module.names.append((source, name))


def without_prefixes(source: str, aliases: set[str]) -> str:
    """Return the source with `alias.name` written `name`, in strings only between the braces of an
    f-string.
    """
    prefix = re.compile(rf"(?<![\w.])(?:{'|'.join(map(re.escape, aliases)) or '(?!)'})\.(?=\w)")
    starts = list(accumulate(map(len, source.splitlines(keepends=True)), initial=0))
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    for before, token, after in reversed(list(zip(tokens, tokens[1:], tokens[2:], strict=False))):
        begin, end = (starts[row - 1] + column for row, column in (token.start, token.end))
        if (token.string in aliases, before.string == ".", after.string) == (True, False, "."):
            source = source[:begin] + source[end + 1 :]
        elif token.type == tokenize.STRING and token.string.lower().startswith(("f", "rf")):
            new = re.sub(r"\{[^{}]*", lambda inner: prefix.sub("", inner[0]), token.string)
            source = source[:begin] + new + source[end:]
    return source


def _check_flat(module: Module, before: CodeType, after: CodeType) -> None:
    """Raise BundleError unless code without prefixes asks for the same names and keeps every
    constant; note the names that it asks other modules for.
    """
    for old, new in zip(codes(before), codes(after), strict=True):
        where, steps, expected = f"{module.name}, {old.co_name}", instructions(old), set()
        for step, following in pairwise(steps):
            if step.opname not in ASKS or step.argval not in module.modules:
                expected |= {step.argval} if step.opname in ASKS else set()
                continue
            if following.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
                raise BundleError(
                    f"{where}: module {step.argval} is used as a value; use its names only"
                )
            expected.add(following.argval)
            module.names.append((module.modules[step.argval], following.argval))
        hidden = expected ^ {step.argval for step in instructions(new) if step.opname in ASKS}
        if hidden:
            raise BundleError(
                f"{where}: a local variable has the name of what another module defines,"
                f" {', '.join(sorted(hidden))}; rename the variable"
            )
        local = {*old.co_varnames, *old.co_cellvars, *old.co_freevars}
        if old is not before:  # in a class, what it has bound comes before what the module has
            local |= {step.argval for step in steps if step.opname == "STORE_NAME"}
        taken = {
            following.argval
            for step, following in pairwise(steps)
            if step.opname in ASKS and step.argval in module.modules
        }
        shadowed = local & (taken | module.modules.keys())
        if shadowed:
            raise BundleError(
                f"{where}: a local variable has the name of a module or of what a module defines,"
                f" {', '.join(sorted(shadowed))}; rename the variable"
            )
        if _constants(old) != _constants(new):
            raise BundleError(f"{where}: an f-string is too hard to follow; write it more simply")


def _constants(code: CodeType) -> list:
    return [repr(value) for value in code.co_consts if not isinstance(value, CodeType)]


@lru_cache(maxsize=128)
def read_module(name: str, source: str, replaced: frozenset[str] = frozenset()) -> Module:
    """Parse a module into statements and imports, the same text once; replaced: modules that need
    no file.
    """
    tree, imports = ast.parse(source), (ast.Import, ast.ImportFrom)
    module = Module(name, ast.get_docstring(tree) or "")
    for node in ast.walk(tree):
        if isinstance(node, imports) and node in tree.body:
            _read_import(module, node, replaced)
        elif isinstance(node, imports) and _ours(getattr(node, "module", "") or node.names[0].name):
            raise BundleError(
                f"{name}, line {node.lineno}: one of our modules is imported inside a function;"
                " import it at the top"
            )
    flat = without_prefixes(source, set(module.modules))
    _check_flat(module, compiled(source), compiled(flat))
    lines, end = flat.splitlines(keepends=True), 0
    for node in tree.body:
        text, end = "".join(lines[end : node.end_lineno]), node.end_lineno
        documents = node is tree.body[0] and module.docstring
        if not isinstance(node, imports) and not documents:
            code = compiled(text)
            module.statements.append(Statement(text, bound(code), asked(code)))
    return module


def read_modules(replaced: dict[str, str]) -> dict[str, Module]:
    """Return every module that the entry reaches by imports, what it imports before it; replaced:
    {name: source} of other text.
    """
    modules: dict[str, Module] = {}

    def visit(name: str) -> None:
        if name not in modules:
            text = replaced.get(name) or _path(name).read_text()
            module = read_module(name, text, frozenset(replaced))
            for wanted in [*module.modules.values(), *(home for home, _ in module.names)]:
                visit(wanted)
            for home, wanted in module.names:
                if wanted not in modules[home].bound | {own for _, own in modules[home].names}:
                    raise BundleError(f"{name}: {home} defines no {wanted}")
            modules[name] = module

    visit(ENTRY)
    return modules


def meanings(modules: dict[str, Module]) -> dict[str, Statement | str]:
    """Return what binds each name: a statement, or the text of an import; BundleError where a name
    has two meanings.
    """
    known, owners = {}, dict.fromkeys(GIVEN, "Python")
    for module in modules.values():
        defined = [(name, statement) for statement in module.statements for name in statement.bound]
        for name, meaning in [*module.external.items(), *defined]:
            if name in owners and known.get(name) != meaning:
                raise BundleError(
                    f"{name} is defined in {owners[name]} and again in {module.name}; rename one"
                )
            known[name], owners[name] = meaning, module.name
    return known


def reached(modules: dict[str, Module], meaning_of: dict[str, Statement | str]) -> list:
    """Return the statements, and the imports as text, that what the modules run needs."""
    needed = [part for module in modules.values() for part in module.statements if not part.bound]
    for statement in needed:
        for name in sorted(getattr(statement, "asked", set()) - GIVEN):
            if name not in meaning_of:
                raise BundleError(
                    f"{name} is not defined; it is asked for in {statement.text!r:.80}"
                )
            if meaning_of[name] not in needed:
                needed.append(meaning_of[name])
    return needed


def import_lines(imports: list[str]) -> str:
    """Return the lines of imports: the standard library, then the rest."""
    merged: dict[str, list[str]] = {}
    for line in sorted(imports):
        head, _, name = line.partition(" import ")
        merged.setdefault(head, []).extend([name] if name else [])
    lines = [
        head + (f" import {', '.join(names)}" if names else "") for head, names in merged.items()
    ]
    groups = {True: [], False: []}
    for line in sorted(lines, key=lambda line: (line.startswith("from"), line.split()[1])):
        groups[line.split()[1].partition(".")[0] in sys.stdlib_module_names].append(line)
    return "\n\n".join("\n".join(lines) for lines in groups.values())


def assemble(modules: dict[str, Module]) -> str:
    """Return one file of what the entry reaches in these modules."""
    needed = reached(modules, meanings(modules))
    parts = [f'"""{WHAT}"""\n', import_lines([part for part in needed if isinstance(part, str)])]
    for module in modules.values():
        text = "".join(part.text for part in module.statements if part in needed)
        if text:
            heading = [f"{module.name.replace('.', '/')}.py", *module.docstring.splitlines()]
            parts += ["\n", *(f"# {line}".rstrip() for line in heading), "", text.strip("\n")]
    return "\n".join(parts) + "\n"


def build(recipe: Recipe, codec: str = "best") -> str:
    """Return the text of train_gpt.py for a recipe and the codec of its artifact. The same input
    gives the same text.
    """
    return assemble(read_modules({PACKED: packed_source(recipe, codec)}))
