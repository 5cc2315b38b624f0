"""Documents: read from UTF-8 files or from Python's own reference text, and split into training and
validation.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from harness import paths
from reference.recipe import InputError

TEXT = ("a readable file", "check --text")  # for paths.unreadable
HOLDOUT = 10  # every tenth document is validation


class Corpus(NamedTuple):
    """Documents of both splits, and the name of their shards."""

    name: str
    train: list[str]
    validation: list[str]


def embedded_corpus() -> Corpus:
    """Return the reference text that ships with Python: sorted topics, every tenth one held out."""
    from pydoc_data.topics import topics

    return split_documents("embedded", [topics[name] for name in sorted(topics)])


def split_documents(name: str, documents: Sequence[str], holdout: int = HOLDOUT) -> Corpus:
    """Hold out every holdout-th document, beginning with the first; with fewer documents, the last
    holdout-th part of every one. A training document equal to a held-out one is dropped.
    """
    if holdout < 2:
        raise InputError(
            f"text {name}: expected a holdout of at least 2 (one part in 2), found {holdout}; use"
            f" {HOLDOUT}"
        )
    documents = [document for document in documents if document]
    if len(documents) >= holdout:
        validation = documents[::holdout]
        train = [document for index, document in enumerate(documents) if index % holdout]
    else:
        parts = [cut(document, holdout) for document in documents]
        train, validation = [head for head, _ in parts if head], [tail for _, tail in parts if tail]
    held_out = set(validation)
    train = [document for document in train if document not in held_out]
    if not train or not validation:
        size = f"{len(documents)} documents with {sum(map(len, documents))} characters"
        raise InputError(
            f"text {name}: expected text for a training and a validation split, found {size}; add"
            " text"
        )
    return Corpus(name, train, validation)


def cut(document: str, holdout: int) -> tuple[str, str]:
    """Cut where the last holdout-th part begins, or at the end of a paragraph or line close by."""
    target = len(document) - len(document) // holdout
    for border in (r"\n\s*\n", r"\n"):
        cuts = [
            match.end() for match in re.finditer(border, document) if match.end() < len(document)
        ]
        nearest = min(cuts, key=lambda cut: abs(cut - target), default=0)
        # A border far from the target would leave one split with hardly any text.
        if nearest and abs(nearest - target) <= len(document) // (2 * holdout):
            return document[:nearest], document[nearest:]
    return document[:target], document[target:]


def read_documents(files: Sequence[str | Path]) -> list[str]:
    """Return the documents of UTF-8 files: one per text file, one per line of a .jsonl file
    ({"text": ...}).
    """
    documents = []
    for path in map(Path, files):
        try:
            data = path.read_bytes()
        except OSError as error:
            raise paths.unreadable(path, error, *TEXT) from None
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"text {path}: expected UTF-8, found byte 0x{data[error.start]:02x} at offset"
                f" {error.start} of {len(data)}; convert the file to UTF-8"
            ) from None
        if not text.strip():
            raise InputError(
                f"text {path}: expected text, found an empty file ({len(data)} bytes); leave it out"
                " or fill it"
            )
        documents += _json_lines(path, text) if path.suffix == ".jsonl" else [text]
    if not documents:
        raise InputError("text: expected at least one document, found none; pass --text FILE...")
    return documents


def _json_lines(path: Path, text: str) -> list[str]:
    documents = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)["text"]
            document.encode("utf-8")  # JSON can spell lone surrogates, which are not text
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(
                f'text {path}, line {number}: expected {{"text": "..."}}, found {line[:60]!r};'
                " fix or remove the line"
            ) from None
        documents.append(document)
    return documents
