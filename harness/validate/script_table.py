"""The check of the byte table that the submission's own script builds: its function is taken out,
called in the sandbox, and its counts compared with decoded text.
"""

import ast
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from harness.validate.execution import fence, last_line
from harness.validate.extract import FUNCTIONS, extract
from harness.validate.finding import CannotTell, Check, Explain, Finding, failed, passed
from harness.validate.opened import Text
from harness.validate.portable import sources
from harness.validate.submission import Submission
from harness.validate.tables import MOST_DECODED, WORST, fitting, miscounted

if TYPE_CHECKING:
    import numpy as np

    from fast.bytes import Tokenizer
    from harness.validate.code import Source

LUTS = (
    "build_sentencepiece_luts",
    "build_luts",
)  # (sp, vocab_size, device) or (sp, vocab_size) -> bytes, leading space, boundary
PARAMETERS = ("sp|tok", "v", "dev")  # how the names begin
OURS = (
    "load_tokenizer",
    "token_bytes",
)  # of maskgolf pack: (path) -> .table; (ids, previous, table) -> bytes
COUNTING = ["ids", "previous", "table"]
TABLE = re.compile(r"luts?(_|$)", re.IGNORECASE)
MOST_FUNCTIONS = 4  # different ones, called
MOST_SECONDS = 120.0
MOST_OUT = 1 << 26  # bytes of JSON read back


class Builder(NamedTuple):
    """A function that builds a table: where it is, its name, how many arguments it takes, a program
    of it alone.
    """

    label: str
    name: str
    parameters: int
    program: str


class Tables(NamedTuple):
    """Per token: bytes (float64), has a leading space (bool), is a boundary that no space follows
    (bool).
    """

    bytes_V: "np.ndarray"
    space_V: "np.ndarray"
    boundary_V: "np.ndarray"

    def count(self, ids: "np.ndarray", previous: "np.ndarray") -> "np.ndarray":
        """Return bytes of each token; previous -1 means none and is a boundary."""
        import numpy as np

        return self.bytes_V[ids] + (self.space_V[ids] & ~np.append(self.boundary_V, True)[previous])


def parameters(function: ast.FunctionDef) -> list[str]:
    """Return the names of a function's positional parameters; CannotTell where it wants more than
    these.
    """
    arguments = function.args
    names = [each.arg for each in (*arguments.posonlyargs, *arguments.args)]
    if arguments.vararg or arguments.kwarg or None in arguments.kw_defaults:
        raise CannotTell(
            f"{function.name}({ast.unparse(arguments)}) is not a signature that is known"
        )
    return names


def arguments_of(function: ast.FunctionDef) -> int:
    """Return how many arguments a builder of tables takes; CannotTell for a signature that is not
    known.
    """
    names = parameters(function)
    if len(names) not in (2, 3) or not all(
        re.match(start, name) for start, name in zip(PARAMETERS, names, strict=False)
    ):
        raise CannotTell(f"{function.name}({', '.join(names)}) is not a signature that is known")
    return len(names)


def used(everything: "list[Source]") -> set[str]:
    """Return all names that programs read, attributes and imported names included."""
    found = set()
    for source in everything:
        for node in source.nodes:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                found.add(node.id)
            elif isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.alias):
                found.add(node.name)
    return found


def other_ways(everything: "list[Source]", found: list[Builder]) -> list[str]:
    """Return the functions that are called, make tables by their names, and are in none of the
    programs that were judged.
    """
    functions = {
        node.name
        for source in everything
        for node in source.nodes
        if isinstance(node, FUNCTIONS) and TABLE.search(node.name)
    }
    judged = {
        node.name
        for each in found
        for node in ast.parse(each.program).body
        if isinstance(node, FUNCTIONS)
    }
    return sorted((functions & used(everything)) - judged)


def adds_space(everything: "list[Source]") -> bool:
    """Return whether a program adds a leading space by `space[...] & ~boundary[...]`: only so are
    the tables what they are taken for.
    """
    operations = [
        node
        for source in everything
        for node in source.nodes
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd)
    ]
    sides = [side for node in operations for side in (node.left, node.right)]
    inverted = [
        side.operand
        for side in sides
        if isinstance(side, ast.UnaryOp) and isinstance(side.op, ast.Invert)
    ]
    return any(
        isinstance(each, ast.Subscript) for operand in inverted for each in ast.walk(operand)
    )


def builders(submission: Submission) -> Iterator[Builder]:
    """Yield the functions of the running code that build a byte table, each once; CannotTell for
    one that cannot be called.
    """
    everything = sources(submission)
    names_used, seen = used(everything), set()
    for source in everything:
        functions = {
            node.name: node
            for node in (source.tree.body if source.tree else ())
            if isinstance(node, FUNCTIONS)
        }
        for node in source.nodes:
            if (
                isinstance(node, FUNCTIONS)
                and node.name in LUTS
                and node.name in names_used
                and node.name not in functions
            ):
                raise CannotTell(f"{node.name} in {source.label} is not at the top level")
        plans = [
            ((name,), arguments_of(functions[name]))
            for name in LUTS
            if name in functions and name in names_used
        ]
        if set(OURS) <= functions.keys() and parameters(functions["token_bytes"]) == COUNTING:
            plans.append((OURS, len(COUNTING)))
        for names, count in plans:
            if names != OURS and not adds_space(everything):
                raise CannotTell(
                    f"{names[-1]} is there, but nothing adds a leading space to its bytes as"
                    " space[...] & ~boundary[...]"
                )
            program = extract(source.tree, names)
            if program not in seen:
                seen.add(program)
                yield Builder(source.label, names[-1], count, program)


def call(submission: Submission, builder: Builder, given: Text) -> tuple[Tables, str]:
    """Return the tables that a function gives in the sandbox, and what held it."""
    from harness.validate.sandbox import Box

    what, seconds = (
        f"{builder.name} in {builder.label}",
        min(MOST_SECONDS, submission.options.time_limit / 3),
    )
    with Box(submission) as box:
        place = box.root / "tmp"
        caller, program, out = (
            place / "maskgolf_caller.py",
            place / "maskgolf_table.py",
            place / "maskgolf_tables.json",
        )
        shutil.copyfile(Path(__file__).with_name("caller.py"), caller)
        program.write_text(builder.program, encoding="utf-8")
        tokenizer = box.root / "data" / "tokenizer.model"
        shutil.copyfile(given.tokenizer.path, tokenizer)
        folder = box.folder / PurePosixPath(builder.label.partition("[")[0]).parent
        ran = box.run(
            [
                str(each)
                for each in (
                    caller,
                    program,
                    builder.name,
                    builder.parameters,
                    tokenizer,
                    folder,
                    out,
                )
            ],
            seconds,
        )
        refused = [*ran.noted("network"), *ran.noted("write")]
        if refused:
            raise CannotTell(
                f"{what} did what a byte table does not need and was refused:"
                f" {', '.join(refused[:WORST])}"
            )
        if ran.code != 0:
            ending = (
                f"did not end in {seconds:.0f} s"
                if ran.code is None
                else f"failed: {last_line(ran.err)}"
            )
            raise CannotTell(f"{what}, called alone, {ending}")
        if out.is_symlink() or not out.is_file() or out.stat().st_size > MOST_OUT:
            raise CannotTell(f"{what} left no tables to read")
        data = out.read_bytes()
    return read(data, given.tokenizer.vocab, what), fence(ran)


def read(data: bytes, vocab: int, what: str) -> Tables:
    """Return the tables that the caller wrote; CannotTell for anything else."""
    import numpy as np

    try:
        columns = [np.array(each, np.float64) for each in json.loads(data)]
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise CannotTell(f"{what} returned no three tables of numbers ({error})") from error
    if len(columns) != 3 or any(each.ndim != 1 or len(each) < vocab for each in columns):
        shapes = ", ".join(str(each.shape) for each in columns)
        raise CannotTell(
            f"{what} returned tables of shapes {shapes}; three of {vocab:,} are understood"
        )
    length_V, *flags = (each[:vocab] for each in columns)
    if not np.isfinite(length_V).all() or not all(np.isin(each, (0, 1)).all() for each in flags):
        raise CannotTell(
            f"{what} returned numbers that are no bytes, or flags that are not true or false"
        )
    return Tables(length_V, *(each.astype(bool) for each in flags))


def differing(found: Tables, tokenizer: "Tokenizer") -> list[str]:
    """Return how many tokens differ from our table, and the first of each kind of difference."""
    import numpy as np

    length_V, space_V, control_V = tokenizer.table
    piece = tokenizer.processor.id_to_piece
    faults = []
    for theirs_V, ours_V, name in (
        (found.bytes_V, length_V, "bytes"),
        (found.space_V, space_V, "leading space"),
        (found.boundary_V, control_V, "boundary"),
    ):
        wrong = np.flatnonzero(theirs_V != ours_V)
        if len(wrong):
            shown = [
                f"{piece(int(token))!r} {theirs_V[token]:g} not {ours_V[token]:g}"
                for token in wrong[:3]
            ]
            faults.append(f"{name} of {len(wrong):,} tokens ({', '.join(shown)})")
    return faults


def judge(builder: Builder, found: Tables, given: Text) -> Finding:
    """Compare the counts of tables with decoded documents; tokens that the text lacks but that
    differ from ours leave it open.
    """
    compared = miscounted(given.ids(MOST_DECODED), given.tokenizer, found.count)
    if not compared.documents:
        raise CannotTell("the validation text holds no text between control tokens")
    what, others = (
        f"{builder.name} in {builder.label}",
        "; ".join(differing(found, given.tokenizer)),
    )
    if compared.wrong:
        more = 100 * (compared.counted / compared.decoded - 1)
        rest = f"; unlike ours: {others}" if others else ""
        return failed(
            f"{what}: {compared.counted:,.12g} bytes where {compared.decoded:,} are decoded"
            f" ({more:+.3f} %); {len(compared.wrong):,} of {compared.documents:,} documents are"
            f" wrong: {'; '.join(compared.wrong[:2])}{rest}"
        )
    if others:
        raise CannotTell(
            f"{what}: {compared.documents:,} documents agree, but tokens that these do not show"
            f" differ from our table: {others}"
        )
    return passed(
        f"{what}: {compared.documents:,} documents have as many bytes by its tables as decoded, and"
        f" all {given.tokenizer.vocab:,} pieces of the tokenizer given are as in ours"
    )


def script_table(submission: Submission) -> Finding:
    """The byte table that the script itself builds agrees with the UTF-8 of decoded documents."""
    if not submission.options.run:
        raise CannotTell("nothing is executed without --run")
    given = fitting(submission)
    found = list(builders(submission))
    if not found:
        unread = (
            f"; not all code could be read: {submission.code.unseen[0]}"
            if submission.code.unseen
            else ""
        )
        raise CannotTell(f"no {LUTS[0]} is called in the code that runs{unread}")
    if len(found) > MOST_FUNCTIONS:
        raise CannotTell(f"the code that runs builds byte tables in {len(found)} ways")
    findings, reasons, held = [], [], ""
    for builder in found:
        try:
            tables, held = call(submission, builder, given)
            findings.append(judge(builder, tables, given))
        except CannotTell as reason:
            reasons.append(str(reason))
    faults = [each.evidence for each in findings if each.verdict == "fail"]
    if faults:
        return failed("; ".join(faults))
    if reasons:
        raise CannotTell("; ".join(reasons))
    submission.code.require_read()
    others = other_ways(sources(submission), found)
    if others:
        raise CannotTell(
            f"{'; '.join(each.evidence for each in findings)}; but {', '.join(others[:WORST])} may"
            " make the tables that count"
        )
    return passed(f"{'; '.join(each.evidence for each in findings)}; {held}")


CHECKS = (
    Check(
        "script's byte table",
        "score",
        script_table,
        Explain(
            "With --run, --data and --tokenizer: the script's own build_sentencepiece_luts is"
            " called alone, in the sandbox, and the bytes that its tables give (bytes[token] +"
            " (space[token] and not boundary[previous])) add up to the UTF-8 length of decoded"
            " documents.",
            "A table that counted the space mark in the bytes of a piece and again as a leading"
            " space, 17 % too many bytes; one that looked for another character than the space"
            " mark, which then counted as three bytes, 33 % too many.",
            "Build the table as the challenge's own script does: 1 for a byte piece, 0 for control"
            " tokens, no space after a boundary.",
        ),
    ),
)
