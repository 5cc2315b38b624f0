"""The byte table that a submission's own script builds: its function is called in the sandbox, and
its counts compared with decoded text.
"""

import ast
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from fast.bytes import Tokenizer
from harness.validate.execution import last_line
from harness.validate.model import Text
from harness.validate.sandbox import Box
from harness.validate.source import FUNCTIONS, Source, words
from harness.validate.submission import Submission
from harness.validate.verdict import CannotTell, Finding, failed, passed

LUTS = ("build_sentencepiece_luts", "build_luts")  # -> bytes, leading space, boundary
OURS = {"load_tokenizer", "token_bytes"}  # of maskgolf pack: (path) -> .table; (ids, ...) -> bytes
TABLE = re.compile(r"luts?(_|$)", re.IGNORECASE)
MOST_DECODED = 1 << 22  # tokens
MOST_SECONDS = 120.0
MOST_OUT = 1 << 26  # bytes of JSON read back
WORST = 5  # places named


class Builder(NamedTuple):
    """A function that builds a table, and the source that it is in."""

    node: ast.FunctionDef
    source: Source

    def __str__(self) -> str:
        return f"{self.node.name} in {self.source.label}"


class Tables(NamedTuple):
    """Per token: bytes (float64), has a leading space (bool), is a boundary that no space follows
    (bool).
    """

    bytes_V: np.ndarray
    space_V: np.ndarray
    boundary_V: np.ndarray

    def count(self, ids: np.ndarray, previous: np.ndarray) -> np.ndarray:
        """Return bytes of each token; previous -1 means none and is a boundary."""
        follows = ~np.append(self.boundary_V, True)[previous]
        return self.bytes_V[ids] + (self.space_V[ids] & follows)


class Compared(NamedTuple):
    """Documents counted against their decoded text: how many, which are wrong, and all bytes
    counted and decoded.
    """

    documents: int
    wrong: list[str]
    counted: float
    decoded: int


def documents(ids: np.ndarray, tokenizer: Tokenizer) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of the stretches between control tokens, less the byte pieces where the
    text is cut off in mid-character.
    """
    is_byte_V = np.array([tokenizer.processor.is_byte(token) for token in range(tokenizer.vocab)])
    edges = np.concatenate([[-1], np.flatnonzero(tokenizer.table.control_V[ids]), [len(ids)]])
    for start, stop in zip((edges[:-1] + 1).tolist(), edges[1:].tolist(), strict=True):
        is_first, is_last = start == 0, stop == len(ids)
        while is_first and start < stop and is_byte_V[ids[start]]:
            start += 1
        while is_last and start < stop and is_byte_V[ids[stop - 1]]:
            stop -= 1
        if stop > start:
            yield start, stop


def miscounted(ids: np.ndarray, tokenizer: Tokenizer, count: Callable) -> Compared:
    """Compare count(ids, previous), bytes per token, with decoded text; a space in front and the
    control tokens before cost nothing.
    """
    control_V, space_V = tokenizer.table.control_V, tokenizer.table.space_V
    number, wrong, counted, total = 0, [], 0, 0
    for start, stop in documents(ids, tokenizer):
        begin = start
        while begin > 0 and control_V[ids[begin - 1]]:
            begin -= 1
        document = np.asarray(ids[begin:stop], np.int64)
        size = count(document, np.concatenate([[-1], document[:-1]])).sum()
        decoded = tokenizer.processor.decode(ids[start:stop].tolist())
        expected = len(decoded.encode()) - int(space_V[ids[start]] and decoded.startswith(" "))
        number, counted, total = number + 1, counted + size, total + expected
        if size != expected:
            where = f"document at token {start:,}"
            wrong.append(f"{where}: {size:,.12g} bytes by the table, {expected:,} decoded")
    return Compared(number, wrong, counted, total)


def _used(sources: list[Source]) -> set[str]:
    """Return all names that programs read, imported names included."""
    names = {name for source in sources if source.tree for name in words(source.tree)}
    return names | {alias.name for source in sources for alias in source.of(ast.alias)}


def builders(sources: list[Source]) -> list[Builder]:
    """Return the functions of the running code that build a byte table, each once; CannotTell for
    one that cannot be called, or whose tables nothing shows to be what they are taken for.
    """
    called, unique = _used(sources).intersection(LUTS), {}
    for source in sources:
        functions = source.of(FUNCTIONS)
        top = {node.name: node for node in functions if node in source.tree.body}
        names = called.intersection(node.name for node in functions)
        if names - top.keys():
            raise CannotTell(f"{min(names - top.keys())} in {source.label} is not at the top level")
        if names and not any(map(_adds_space, sources)):
            raise CannotTell(
                f"{min(names)} is there, but nothing adds a leading space to its bytes as"
                " space[...] & ~boundary[...]"
            )
        for name in sorted(names | ({"token_bytes"} if top.keys() >= OURS else set())):
            unique.setdefault(ast.unparse(top[name]), Builder(top[name], source))
    return list(unique.values())


def _adds_space(source: Source) -> bool:
    """Return whether a program adds leading spaces by `space[...] & ~boundary[...]`."""
    operations = [node for node in source.of(ast.BinOp) if isinstance(node.op, ast.BitAnd)]
    return any(re.search(r"~[\w.()]+\[", ast.unparse(node)) for node in operations)


def other_ways(sources: list[Source], judged: list[Builder]) -> list[str]:
    """Return the functions that are called, make tables by their names, and are none of those that
    were judged, nor called by them.
    """
    functions = {node.name for source in sources for node in source.of(FUNCTIONS)}
    known = {name for builder in judged for name in words(builder.node) | {builder.node.name}}
    return sorted(n for n in (functions & _used(sources)) - known if TABLE.search(n))


def call(submission: Submission, builder: Builder, given: Text) -> Tables:
    """Return the tables that a function gives in the sandbox."""
    seconds = min(MOST_SECONDS, submission.options.time_limit / 3)
    with Box(submission) as box:
        script, out = (box.root / "tmp" / name for name in ("script.py", "tables.json"))
        script.write_text(builder.source.text, encoding="utf-8")
        caller = shutil.copy(Path(__file__).with_name("caller.py"), box.root / "tmp")
        tokenizer = shutil.copyfile(given.tokenizer.path, box.root / "data" / "tokenizer.model")
        folder = box.folder / PurePosixPath(builder.source.file).parent
        arguments = (caller, script, builder.node.name, tokenizer, folder, out)
        ran = box.run([str(argument) for argument in arguments], seconds)
        refused = ran.noted("network") + ran.noted("write")
        if refused:
            did = ", ".join(refused[:WORST])
            raise CannotTell(f"{builder} did what no byte table needs and was refused: {did}")
        if ran.code != 0:
            still = f"did not end in {seconds:.0f} s"
            problem = still if ran.code is None else f"failed: {last_line(ran.err)}"
            raise CannotTell(f"{builder}, called alone, {problem}")
        if out.is_symlink() or not out.is_file() or out.stat().st_size > MOST_OUT:
            raise CannotTell(f"{builder} left no tables to read")
        return read(out.read_bytes(), given.tokenizer.vocab, str(builder))


def read(data: bytes, vocab: int, what: str) -> Tables:
    """Return the tables that the caller wrote; CannotTell for anything else."""
    try:
        tables = np.array(json.loads(data), np.float64)
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise CannotTell(f"{what} returned no three tables of numbers ({error})") from error
    if tables.ndim != 2 or len(tables) != 3 or tables.shape[1] < vocab:
        shapes = f"{tables.shape[:1]} of shapes {tables.shape[1:]}"
        raise CannotTell(f"{what} returned tables {shapes}; three of {vocab:,} are understood")
    length_V, *flags = tables[:, :vocab]
    if not np.isfinite(length_V).all() or not np.isin(flags, (0, 1)).all():
        raise CannotTell(f"{what} returned no bytes, or flags that are not true or false")
    return Tables(length_V, *(flag.astype(bool) for flag in flags))


def differing(tables: Tables, tokenizer: Tokenizer) -> list[str]:
    """Return how many tokens differ from our table, and the first of each kind of difference."""
    piece, faults = tokenizer.processor.id_to_piece, []
    names = ("bytes", "leading space", "boundary")
    for name, theirs_V, ours_V in zip(names, tables, tokenizer.table, strict=True):
        tokens = np.flatnonzero(theirs_V != ours_V).tolist()
        wrong = [f"{piece(token)!r} {theirs_V[token]:g} not {ours_V[token]:g}" for token in tokens]
        faults += [f"{name} of {len(wrong):,} tokens ({', '.join(wrong[:3])})"] if wrong else []
    return faults


def judge(what: str, tables: Tables, given: Text) -> Finding:
    """Compare the counts of tables with decoded documents; tokens that the text lacks but that
    differ from ours leave it open.
    """
    compared = miscounted(given.ids(MOST_DECODED), given.tokenizer, tables.count)
    others = "; ".join(differing(tables, given.tokenizer))
    if compared.wrong:
        more = 100 * (compared.counted / compared.decoded - 1)
        rest = f"; unlike ours: {others}" if others else ""
        return failed(
            f"{what}: {compared.counted:,.12g} bytes where {compared.decoded:,} are decoded"
            f" ({more:+.3f} %); {len(compared.wrong):,} of {compared.documents:,} documents are"
            f" wrong: {'; '.join(compared.wrong[:2])}{rest}"
        )
    if others or not compared.documents:
        raise CannotTell(
            f"{what}: {compared.documents:,} documents agree, but tokens that these do not show"
            f" differ from our table: {others}"
        )
    return passed(
        f"{what}: {compared.documents:,} documents have as many bytes by its tables as decoded, and"
        f" all {given.tokenizer.vocab:,} pieces of the tokenizer given are as in ours"
    )
