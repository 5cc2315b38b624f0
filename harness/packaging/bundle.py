"""One self-contained train_gpt.py: what fast/submission.py reaches, as it is written, a section per
module.

`masking.loss` becomes `masking_loss` where it is defined and where it is used; a name that no
module asks for by its module's name, and that is the only one of its kind, stays as it is. Text is
changed at the positions that ast gives, and nowhere else.
"""

import ast
import builtins
import re
import sys
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path

from harness.packaging.names import FUNCTIONS, bindings, references
from reference.recipe import Recipe

ROOT = Path(__file__).parents[2]
ENTRY = "fast.submission"
PACKED = "fast.packed"
SCRIPT = "train_gpt.py"
OURS = ("fast", "reference")
GIVEN = {*dir(builtins), "__file__", "__name__"}
WHAT = """Train, ship and score: a language model that fits in 16,000,000 bytes, this file included.

    python train_gpt.py                             trains, writes final_model.mgolf, reads it back and scores it
    torchrun --standalone --nproc_per_node=N train_gpt.py
    python train_gpt.py --score final_model.mgolf   only scores

Environment: DATA_PATH, TOKENIZER_PATH, SEED, RUN_ID, ITERATIONS, MAX_WALLCLOCK_SECONDS. The log is logs/RUN_ID.txt.
Written by `maskgolf pack` from the modules that head the sections.
"""


class BundleError(RuntimeError):
    """The source uses something that a bundle cannot follow."""


@dataclass(frozen=True)
class Target:
    """A top-level name of one of our modules."""

    module: str
    name: str


@dataclass(eq=False)
class Statement:
    """A top-level statement with the comments above it: lines (first, last), both counted from 1
    and included.
    """

    module: str
    node: ast.stmt
    first: int
    last: int
    names: set[str]


@dataclass
class Module:
    """A parsed module: its statements, and what the names that it imports stand for."""

    name: str
    source: str
    docstring: str
    statements: list[Statement] = field(default_factory=list)
    imports: dict[str, str | Target] = field(
        default_factory=dict
    )  # ours: name -> a module's name, or a name in one
    external: dict[str, tuple[str, str | None]] = field(
        default_factory=dict
    )  # others': name -> (module, attribute or None for itself)

    @property
    def short(self) -> str:
        """Return the last part of the name."""
        return self.name.rpartition(".")[2]

    @property
    def lines(self) -> list[str]:
        """Return the source's lines."""
        return self.source.splitlines()


def literal(value: object, indent: str = "") -> str:
    """Return a recipe, or a part of it, as the expression that makes it."""
    if not is_dataclass(value):
        return repr(value)
    inner = indent + "    "
    lines = [
        f"{inner}{each.name}={literal(getattr(value, each.name), inner)}," for each in fields(value)
    ]
    return "\n".join([f"{type(value).__name__}(", *lines, f"{indent})"])


def packed_source(recipe: Recipe, codec: str) -> str:
    """Return the source of fast/packed.py that holds a run's recipe and codec."""
    values = [recipe, *(getattr(recipe, each.name) for each in fields(recipe))]
    parts = sorted({type(value).__name__ for value in values if is_dataclass(value)})
    head = '"""The recipe of the packed run, and the codec of its artifact."""\n\n'
    return (
        f"{head}from reference.recipe import {', '.join(parts)}\n\nRECIPE ="
        f" {literal(recipe)}\nCODEC = {codec!r}\n"
    )


def read_module(name: str, source: str) -> Module:
    """Parse a module into statements and imports."""
    tree = ast.parse(source)
    module, lines = Module(name, source, ast.get_docstring(tree) or ""), source.splitlines()
    for number, node in enumerate(tree.body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            _read_import(module, node)
        elif not (number == 0 and isinstance(node, ast.Expr) and module.docstring):
            first = min(
                [node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))]
            )
            while first > 1 and lines[first - 2].startswith("#"):
                first -= 1
            module.statements.append(
                Statement(name, node, first, node.end_lineno, bindings([node]))
            )
            inner = [
                each for each in ast.walk(node) if isinstance(each, ast.ImportFrom | ast.Import)
            ]
            if any(_ours(getattr(each, "module", None) or each.names[0].name) for each in inner):
                raise BundleError(
                    f"{name}, line {node.lineno}: one of our modules is imported inside a function;"
                    " import it at the top"
                )
    return module


def _ours(name: str) -> bool:
    return name.partition(".")[0] in OURS


def _read_import(module: Module, node: ast.Import | ast.ImportFrom) -> None:
    for alias in node.names:
        bound = alias.asname or alias.name.partition(".")[0]
        if isinstance(node, ast.Import):
            if _ours(alias.name):
                raise BundleError(
                    f"{module.name}: import {alias.name} is not followed; write from ... import ..."
                )
            module.external[bound] = (alias.name if alias.asname else bound, None)
        elif not _ours(node.module or ""):
            module.external[bound] = (node.module or "", alias.name)
        elif node.module in OURS:
            module.imports[bound] = f"{node.module}.{alias.name}"
        elif alias.asname not in (None, alias.name):
            raise BundleError(
                f"{module.name}: {alias.name} is imported under another name; import it under"
                " its own"
            )
        else:
            module.imports[bound] = Target(node.module, alias.name)


def read_modules(replaced: dict[str, str]) -> dict[str, Module]:
    """Return every module that the entry reaches by imports, what it imports before it; replaced:
    {name: source} of other text.
    """
    found: dict[str, Module] = {}

    def visit(name: str) -> None:
        if name not in found:
            source = replaced.get(name) or (ROOT / f"{name.replace('.', '/')}.py").read_text()
            module = read_module(name, source)
            for target in module.imports.values():
                visit(target if isinstance(target, str) else target.module)
            found[name] = module

    visit(ENTRY)
    return found


class Graph:
    """The statements that the entry needs, and the name that each of their definitions gets."""

    def __init__(self, modules: dict[str, Module]):
        """Follow references from the entry's program and name what is found."""
        self.modules = modules
        self.home = {
            Target(each.module, name): each
            for module in modules.values()
            for each in module.statements
            for name in each.names
        }
        self.external: dict[str, tuple[str, str | None]] = {}
        self.by_module: set[Target] = set()  # asked for as module.name somewhere
        self.words: set[str] = set()  # every identifier of the kept code
        self.uses: dict[int, list[tuple[ast.expr, Target]]] = {}
        waiting = [each for each in modules[ENTRY].statements if not each.names]
        kept: dict[int, Statement] = {}
        while waiting:
            statement = waiting.pop()
            if id(statement) not in kept:
                kept[id(statement)] = statement
                waiting += [self.home[target] for target in self._follow(statement)]
        self.kept = [
            each for module in modules.values() for each in module.statements if id(each) in kept
        ]
        self.flat = self._name()

    def _follow(self, statement: Statement) -> list[Target]:
        """Return what a statement refers to, and note where."""
        module, dotted = self.modules[statement.module], {}
        for node in ast.walk(statement.node):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                dotted[id(node.value)] = node
            self.words |= {getattr(node, "id", None), getattr(node, "arg", None)}
        uses = self.uses.setdefault(id(statement), [])
        for name in references(statement.node):
            if Target(module.name, name.id) in self.home:
                uses.append((name, Target(module.name, name.id)))
            elif name.id in module.imports:
                found = module.imports[name.id]
                if isinstance(found, str):
                    if id(name) not in dotted:
                        raise BundleError(
                            f"{module.name}, line {name.lineno}: module {name.id} is used as a"
                            " value; use its names only"
                        )
                    attribute = dotted[id(name)]
                    found = self._resolve(Target(found, attribute.attr), module, name)
                    self.by_module.add(found)
                    uses.append((attribute, found))
                else:
                    uses.append((name, self._resolve(found, module, name)))
            elif name.id in module.external:
                wanted = module.external[name.id]
                if self.external.setdefault(name.id, wanted) != wanted:
                    raise BundleError(
                        f"{module.name}: {name.id} means {wanted}, elsewhere"
                        f" {self.external[name.id]}; rename one"
                    )
            elif name.id not in GIVEN:
                raise BundleError(f"{module.name}, line {name.lineno}: {name.id} is not defined")
        return [target for _, target in uses]

    def _resolve(self, target: Target, module: Module, where: ast.AST) -> Target:
        """Return where a name is defined, through modules that only import it."""
        while target not in self.home:
            onward = self.modules[target.module].imports.get(target.name)
            if not isinstance(onward, Target):
                raise BundleError(
                    f"{module.name}, line {where.lineno}: {target.module} defines no {target.name}"
                )
            target = onward
        return target

    def _name(self) -> dict[Target, str]:
        """Return the one name of every kept definition."""
        kept = [Target(each.module, name) for each in self.kept for name in sorted(each.names)]
        bare = [target.name for target in kept]
        flat = {}
        for target in kept:
            taken = (
                bare.count(target.name) > 1 or target.name in self.external or target.name in GIVEN
            )
            flat[target] = target.name
            if taken or target in self.by_module:
                short = self.modules[target.module].short
                private = target.name.startswith("_")
                flat[target] = f"_{short}{target.name}" if private else f"{short}_{target.name}"
                if flat[target] in self.words or flat[target] in bare:
                    raise BundleError(
                        f"{target.module}.{target.name}: its name in the bundle, {flat[target]}, is"
                        " in use; rename one"
                    )
        return flat

    def text(self, statement: Statement) -> str:
        """Return the source of a statement with the names of the bundle."""
        module = self.modules[statement.module]
        lines = [line.encode() for line in module.lines]
        edits = self._definitions(statement, lines)
        strings = [node for node in ast.walk(statement.node) if isinstance(node, ast.JoinedStr)]
        inside = {id(node): string for string in reversed(strings) for node in ast.walk(string)}
        pieces: dict[int, list] = {}
        for node, target in self.uses[id(statement)]:
            old = ast.unparse(node)
            if id(node) in inside:
                pieces.setdefault(id(inside[id(node)]), [inside[id(node)]]).append(
                    (old, self.flat[target])
                )
            elif old != self.flat[target]:
                edits.append(
                    (
                        node.lineno,
                        node.col_offset,
                        node.end_lineno,
                        node.end_col_offset,
                        self.flat[target],
                    )
                )
        for string, *renames in pieces.values():
            place = (string.lineno, string.col_offset, string.end_lineno, string.end_col_offset)
            edits.append(
                (*place, _renamed_string(ast.get_source_segment(module.source, string), renames))
            )
        for first, begin, last, end, new in sorted(edits, reverse=True):
            joined = lines[first - 1][:begin] + new.encode() + lines[last - 1][end:]
            lines[first - 1 : last] = (
                [joined, *[b""] * (last - first)]
                if "\n" not in new
                else _spread(joined, last - first + 1)
            )
        return "\n".join(line.decode() for line in lines[statement.first - 1 : statement.last])

    def _definitions(self, statement: Statement, lines: list[bytes]) -> list[tuple]:
        """Return the edit that renames a function or a class where it is defined."""
        node = statement.node
        if not isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            return []
        new = self.flat[Target(statement.module, node.name)]
        begin = lines[node.lineno - 1].index(node.name.encode(), node.col_offset + len("def"))
        return (
            [(node.lineno, begin, node.lineno, begin + len(node.name.encode()), new)]
            if new != node.name
            else []
        )


def _spread(joined: bytes, count: int) -> list[bytes]:
    """Return the lines of an edited string, as many as it had before."""
    parts = joined.split(b"\n")
    if len(parts) != count:
        raise BundleError(f"an edited string has {len(parts)} lines, expected {count}")
    return parts


def _renamed_string(text: str, renames: list[tuple[str, str]]) -> str:
    """Return the source of an f-string with names changed between its braces; Python 3.11 gives no
    positions there.
    """
    done = []

    def rename(match: re.Match) -> str:
        inner = match.group(0)
        for old, new in dict(renames).items():
            inner, count = re.subn(rf"(?<![\w.]){re.escape(old)}(?!\w)", new, inner)
            done.extend([old] * count)
        return inner

    text = re.sub(r"(?<!\{)(?:\{\{)*\{(?!\{)[^{}]*", rename, text)
    if len(done) != len(renames):
        raise BundleError(
            f"f-string {text}: expected to rename {len(renames)} names, found {len(done)}; write it"
            " more simply"
        )
    return text


def _imports(external: dict[str, tuple[str, str | None]]) -> str:
    """Return import lines: the standard library, then the rest."""
    lines, froms = [], {}
    for bound, (module, attribute) in external.items():
        if attribute is None:
            lines.append(
                (module, 0, f"import {module}" + (f" as {bound}" if bound != module else ""))
            )
        else:
            froms.setdefault(module, []).append(
                attribute + (f" as {bound}" if bound != attribute else "")
            )
    lines += [
        (module, 1, f"from {module} import {', '.join(sorted(names))}")
        for module, names in froms.items()
    ]
    groups = {True: [], False: []}
    for module, _, line in sorted(lines, key=lambda entry: (entry[1], entry[0])):
        groups[module.partition(".")[0] in sys.stdlib_module_names].append(line)
    return "\n".join(groups[True]) + "\n\n" + "\n".join(groups[False])


def assemble(modules: dict[str, Module]) -> str:
    """Return one file of what the entry reaches in these modules."""
    graph = Graph(modules)
    parts = [f'"""{WHAT}"""\n\n{_imports(graph.external)}\n']
    for module in modules.values():
        kept = [each for each in graph.kept if each.module == module.name]
        if kept:
            heading = [f"{module.name.replace('.', '/')}.py", *module.docstring.splitlines()]
            parts.append("\n\n" + "\n".join(f"# {line}".rstrip() for line in heading) + "\n")
        for number, statement in enumerate(kept):
            place = module.statements.index(statement)
            adjoins = (
                number
                and kept[number - 1] is module.statements[place - 1]
                and module.lines[statement.first - 2].strip()
            )
            parts.append(
                ("" if adjoins else "\n\n" if number else "\n") + graph.text(statement) + "\n"
            )
    text = "".join(parts)
    _check_closed(text)
    return text


def build(recipe: Recipe, codec: str = "best") -> str:
    """Return the text of train_gpt.py for a recipe and the codec of its artifact. The same input
    gives the same text.
    """
    return assemble(read_modules({PACKED: packed_source(recipe, codec)}))


def _check_closed(text: str) -> None:
    """Raise BundleError unless the file parses on Python 3.10 and every name that it uses is its
    own, imported or built in.
    """
    tree = ast.parse(text, feature_version=(3, 10))
    known = bindings(tree.body) | GIVEN
    unknown = sorted({node.id for statement in tree.body for node in references(statement)} - known)
    if unknown:
        raise BundleError(f"the bundle uses names that nothing in it defines: {', '.join(unknown)}")
