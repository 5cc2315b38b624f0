"""Checks of what a token is worth in bytes: no constant of bytes per token in the code, and tables
that agree with decoded text.
"""

import ast
import math
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from harness.validate.finding import CannotTell, Check, Explain, Finding, failed, judged, passed
from harness.validate.log import setting
from harness.validate.opened import Text, text
from harness.validate.portable import sources
from harness.validate.submission import Submission
from harness.validate.trainlog import Log

RATE = re.compile(r"(^|_)(bpb|bits_per_byte|bpbyte|bits_byte)", re.IGNORECASE)
RATIO = re.compile(
    r"(bytes?|tokens?|chars?|characters)_per_(tokens?|bytes?|chars?)|bytes_token|tok(en)?_bytes_ratio",
    re.IGNORECASE,
)
PLAIN = (
    math.log(2),
    1 / math.log(2),
    1.0,
    2.0,
    8.0,
    0.5,
    0.125,
)  # nats to bits, means, bits of a byte
MOST_DECODED = 1 << 22  # tokens
DEPTH = 6  # assignments followed back
WORST = 5  # documents named


class Factors(NamedTuple):
    """The numbers that an expression multiplies or divides by, with their lines, and whether it
    mentions a count of bytes.
    """

    numbers: list[tuple[float, int]]
    counts_bytes: bool


def assignments(scope: ast.AST) -> dict[str, list[ast.AST]]:
    """Return what each name is assigned in a function or module, nested functions excluded."""
    found: dict[str, list[ast.AST]] = {}
    waiting = list(ast.iter_child_nodes(scope))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.Assign):
            for target in node.targets:
                for name, value in _pairs(target, node.value):
                    found.setdefault(name, []).append(value)
        elif (
            isinstance(node, ast.AnnAssign | ast.NamedExpr | ast.AugAssign)
            and node.value is not None
        ):
            for name, value in _pairs(node.target, node.value):
                found.setdefault(name, []).append(value)
        waiting += ast.iter_child_nodes(node)
    return found


def _pairs(target: ast.AST, value: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Attribute):
        yield target.attr, value
    elif isinstance(target, ast.Tuple | ast.List):
        values = (
            value.elts
            if isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts)
            else [value] * len(target.elts)
        )
        for each, its in zip(target.elts, values, strict=True):
            yield from _pairs(each, its)


def factors(node: ast.AST, known: dict[str, list[ast.AST]], depth: int = 0) -> Factors:
    """Return the factors of an expression, names replaced by what they were assigned; sums and
    logarithms hold no factors.
    """
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div | ast.Pow):
        return _joined(factors(node.left, known, depth), factors(node.right, known, depth))
    if isinstance(node, ast.UnaryOp):
        return factors(node.operand, known, depth)
    if isinstance(node, ast.IfExp):
        return _joined(factors(node.body, known, depth), factors(node.orelse, known, depth))
    if isinstance(node, ast.Constant):
        number = isinstance(node.value, int | float) and not isinstance(node.value, bool)
        return Factors([(float(node.value), node.lineno)] if number else [], False)
    name = (
        node.id
        if isinstance(node, ast.Name)
        else node.attr
        if isinstance(node, ast.Attribute)
        else None
    )
    if name is not None:
        own = Factors([], "byte" in name.lower())
        if depth >= DEPTH:
            return own
        return _joined(own, *(factors(value, known, depth + 1) for value in known.get(name, ())))
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func).lower()
        mention = Factors([], "byte" in ast.unparse(node).lower())
        if (
            re.search(r"environ|getenv", called)
            and len(node.args) == 2
            and isinstance(node.args[1], ast.Constant)
        ):
            try:
                return _joined(mention, Factors([(float(node.args[1].value), node.lineno)], False))
            except (TypeError, ValueError):
                return mention
        if called.rpartition(".")[2] in ("float", "int", "round", "tensor", "item", "abs"):
            inner = [
                *node.args[:1],
                *(
                    [node.func.value]
                    if isinstance(node.func, ast.Attribute) and called.endswith("item")
                    else []
                ),
            ]
            return _joined(mention, *(factors(each, known, depth) for each in inner))
        return mention
    return Factors([], "byte" in ast.unparse(node).lower())


def _joined(*parts: Factors) -> Factors:
    return Factors(
        [number for part in parts for number in part.numbers],
        any(part.counts_bytes for part in parts),
    )


def suspicious(number: float) -> bool:
    """Return whether a factor may stand for bytes per token, or for tokens per byte."""
    size = abs(number)
    size = 1 / size if 0 < size < 1 else size
    return 1.2 < size < 16 and not any(
        math.isclose(abs(number), plain, rel_tol=5e-3) for plain in PLAIN
    )


def rates(tree: ast.AST) -> Iterator[tuple[str, int, ast.AST, dict]]:
    """Yield (name, line, expression, what names were assigned) wherever bits per byte are
    computed.
    """
    whole = assignments(tree)
    classes = {
        name: values
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for name, values in assignments(node).items()
    }
    scopes = [
        tree,
        *(
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ),
    ]
    for scope in scopes:
        own = assignments(scope)
        known = {**classes, **whole, **own}
        for name, values in own.items():
            if RATE.search(name):
                yield from (
                    (name, value.lineno, value, known) for value in values if _arithmetic(value)
                )
        waiting = list(ast.iter_child_nodes(scope))
        while waiting:
            node = waiting.pop()
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if isinstance(node, ast.Return) and node.value is not None:
                for value in node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]:
                    if _arithmetic(value) and (
                        "per_byte" in ast.unparse(value) or RATE.search(getattr(scope, "name", ""))
                    ):
                        yield "return", value.lineno, value, known
            waiting += ast.iter_child_nodes(node)


def _arithmetic(node: ast.AST) -> bool:
    return any(
        isinstance(each, ast.BinOp) and isinstance(each.op, ast.Mult | ast.Div)
        for each in ast.walk(node)
    )


def constants(tree: ast.AST) -> tuple[list[str], list[str], int]:
    """Return (constants of bytes per token, rates that count no bytes, rates that do) of a
    program.
    """
    fixed, uncounted, counted = [], [], 0
    for name, line, value, known in rates(tree):
        found = factors(value, known)
        numbers = [(number, at) for number, at in found.numbers if suspicious(number)]
        if numbers:
            fixed += [f"{number:g} in {name} (line {at})" for number, at in numbers]
        elif found.counts_bytes:
            counted += 1
        elif re.search(r"log", ast.unparse(value)):
            uncounted.append(f"{name} (line {line})")
    for scope in (
        tree,
        *(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)),
    ):
        for name, values in assignments(scope).items():
            if RATIO.search(name):
                numbers = [
                    (number, at)
                    for value in values
                    for number, at in factors(value, {}).numbers
                    if suspicious(number)
                ]
                fixed += [f"{number:g} as {name} (line {at})" for number, at in numbers]
    return list(dict.fromkeys(fixed)), list(dict.fromkeys(uncounted)), counted


def bytes_per_token(submission: Submission) -> Finding:
    """Bits per byte come from counted bytes, not from a constant of bytes per token."""
    faults, uncounted, counted, unread = [], [], 0, []
    for source in sources(submission):
        if source.tree is None:
            unread.append(f"{source.label}: {source.error}")
            continue
        fixed, plain, good = constants(source.tree)
        faults += [f"{source.label}: {each}" for each in fixed]
        uncounted += [f"{source.label}: {each}" for each in plain]
        counted += good
    if faults:
        return failed(f"a constant where bytes should be counted: {', '.join(faults[:WORST])}")
    if unread or submission.code.unread:
        raise CannotTell(
            f"not all code could be read: {', '.join([*unread, *submission.code.unread][:WORST])}"
        )
    if uncounted:
        raise CannotTell(
            "bits per token under the name of bits per byte, right for a byte-level model only:"
            f" {', '.join(uncounted[:WORST])}"
        )
    if not counted:
        raise CannotTell("no place was found where bits per byte are computed")
    return passed(f"bits per byte are computed from counted bytes in {counted} places")


def documents(ids, tokenizer) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of the stretches between control tokens, less the byte pieces where the
    text is cut off in mid-character.
    """
    import numpy as np

    is_byte_V = np.array([tokenizer.processor.is_byte(token) for token in range(tokenizer.vocab)])
    edges = np.concatenate([[-1], np.flatnonzero(tokenizer.table.control_V[ids]), [len(ids)]])
    for start, stop in zip((edges[:-1] + 1).tolist(), edges[1:].tolist(), strict=True):
        while start == 0 and start < stop and is_byte_V[ids[start]]:
            start += 1
        while stop == len(ids) and start < stop and is_byte_V[ids[stop - 1]]:
            stop -= 1
        if stop > start:
            yield start, stop


class Compared(NamedTuple):
    """Documents counted against their decoded text: how many, which are wrong, and all bytes
    counted and decoded.
    """

    documents: int
    wrong: list[str]
    counted: float
    decoded: int


def miscounted(ids, tokenizer, count: Callable) -> Compared:
    """Compare count(ids, previous), bytes per token, with decoded text; a space in front and the
    control tokens before cost nothing.
    """
    import numpy as np

    control_V = tokenizer.table.control_V
    documents_seen, wrong, counted, total = 0, [], 0, 0
    for start, stop in documents(ids, tokenizer):
        begin = start
        while begin > 0 and control_V[ids[begin - 1]]:
            begin -= 1
        document = np.asarray(ids[begin:stop], np.int64)
        found = count(document, np.concatenate([[-1], document[:-1]])).sum()
        decoded = tokenizer.processor.decode(document[start - begin :].tolist())
        expected = len(decoded.encode()) - int(
            tokenizer.table.space_V[document[start - begin]] and decoded.startswith(" ")
        )
        documents_seen, counted, total = documents_seen + 1, counted + found, total + expected
        if found != expected:
            wrong.append(
                f"document at token {start:,}: {found:,.12g} bytes by the table, {expected:,}"
                " decoded"
            )
    return Compared(documents_seen, wrong, counted, total)


def fitting(submission: Submission) -> Text:
    """Return the text given; CannotTell where the submission's vocabulary is another than its
    tokenizer's.
    """
    given = text(submission)
    named = {
        size
        for log in submission.logs or (Log(""),)
        if (size := setting(submission, log, "vocab_size")) is not None
    }
    if named and given.tokenizer.vocab not in named:
        sizes = ", ".join(f"{size:,.0f}" for size in sorted(named))
        raise CannotTell(
            f"the submission's vocabulary is {sizes}, the tokenizer given has"
            f" {given.tokenizer.vocab:,} pieces"
        )
    return given


def byte_table(submission: Submission) -> Finding:
    """The tokenizer's byte table agrees with the UTF-8 of decoded documents."""
    from fast.bytes import token_bytes

    given = fitting(submission)
    found = miscounted(
        given.ids(MOST_DECODED), given.tokenizer, partial(token_bytes, table=given.tokenizer.table)
    )
    if not found.documents:
        raise CannotTell("the validation text holds no text between control tokens")
    faults = (
        [f"{len(found.wrong):,} of {found.documents:,} documents: {'; '.join(found.wrong[:WORST])}"]
        if found.wrong
        else []
    )
    return judged(
        faults,
        f"{found.documents:,} documents have as many bytes by the table as decoded (byte pieces 1,"
        " leading space 1, control 0)",
    )


CHECKS = (
    Check(
        "bytes per token",
        "score",
        bytes_per_token,
        Explain(
            "Where the code computes bits per byte, no constant stands in for bytes per token:"
            " bytes are counted from the tokens scored.",
            "A masked-diffusion submission that divided by 4.3 bytes per token where the data have"
            " 2.44: 1.1465 for what is about 2.02.",
            "Divide the total of bits by the total of UTF-8 bytes of the scored tokens.",
        ),
    ),
    Check(
        "byte table",
        "score",
        byte_table,
        Explain(
            "The bytes of each token (1 for a byte piece, 1 for a leading space after text, 0 for"
            " control tokens) add up to the UTF-8 length of decoded documents.",
            "Tables that counted a byte piece as the six characters of its name, or the space mark"
            " as three bytes.",
            "Build the table as the challenge's build_sentencepiece_luts does, with the tokenizer"
            " that made the shards.",
        ),
    ),
)
