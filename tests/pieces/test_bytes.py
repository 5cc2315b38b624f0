"""Bytes per token: both halves, against decoded text and against hand-made pieces."""

import hashlib
import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fast.bytes
import reference.bytes
from fast.bytes import load_tokenizer
from fast.data import Tokens
from harness.compression.compressors import baselines
from harness.corpus.documents import embedded_corpus
from harness.corpus.prepare import encode, encode_documents
from harness.corpus.shards import raw_text
from reference.recipe import InputError

KINDS = ("normal", "byte", "control", "unknown", "unused")
HALVES = (reference.bytes, fast.bytes)
TEXT = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]), st.sampled_from(" \n\t\u2581\u2585é😀<>s0x")
    ),
    max_size=60,
)


def documents_of(ids):
    """Return (start, stop) of every document in a stream: each opens with <s>, id 1."""
    starts = np.flatnonzero(ids == 1)
    return list(zip(starts, [*starts[1:], len(ids)]))


def count(ids, table):
    """Return the bytes of each token of one stream by the fast half."""
    return fast.bytes.token_bytes(ids, np.append(-1, ids[:-1]), table)


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_document_counts_its_decoded_utf8_length(layout, split):
    tokenizer = load_tokenizer(layout.tokenizer, expect_vocab=1024)
    tokens = Tokens(layout.train if split == "train" else layout.validation)
    ids = tokens.read(0, len(tokens))
    counts = count(ids, tokenizer.table)
    documents = documents_of(ids)
    assert documents[0][0] == 0 and len(documents) >= 8
    for start, stop in documents:
        decoded = tokenizer.processor.decode(ids[start:stop].tolist()).encode()
        assert counts[start:stop].sum() == len(decoded)
        assert raw_text(ids[start:stop], tokenizer) == decoded


@pytest.mark.parametrize("split", ["train", "validation"])
def test_halves_agree_on_real_streams(layout, split):
    tokenizer = load_tokenizer(layout.tokenizer)
    pieces = [tokenizer.processor.id_to_piece(token) for token in range(1024)]
    table = reference.bytes.byte_table(
        pieces, ["control"] * 3 + ["unknown"] + ["byte"] * 256 + ["normal"] * 764
    )
    for slow, quick in zip(table, tokenizer.table):
        assert slow.dtype == quick.dtype and np.array_equal(slow, quick)
    tokens = Tokens(getattr(layout, split))
    ids = tokens.read(0, len(tokens))
    previous = np.append(-1, ids[:-1])
    expected = reference.bytes.token_bytes(ids, previous, table)
    counted = fast.bytes.token_bytes(ids, previous, tokenizer.table)
    assert expected.dtype == counted.dtype == np.int64
    assert np.array_equal(expected, counted)


def test_uniform_predictor_identity(layout):
    tokenizer = load_tokenizer(layout.tokenizer)
    tokens = Tokens(layout.validation)
    ids = tokens.read(0, len(tokens))
    text = raw_text(ids, tokenizer)
    total = int(count(ids, tokenizer.table).sum())
    assert total == len(text)
    # Ten bits for every token, <s> included, over every byte of text.
    assert baselines(text, 1024, len(tokens))["uniform"] == pytest.approx(
        10 * len(tokens) / total, rel=1e-15
    )


def test_uniform_predictor_on_the_official_validation_set():
    # The counts that the challenge publishes (SPEC section 9), to its four decimals.
    assert round(62_021_845 * math.log2(1024) / 151_080_891, 4) == 4.1052


def test_embedded_documents_come_back_from_their_ids(embedded_tokenizer):
    corpus = embedded_corpus()
    for document in corpus.train + corpus.validation:
        ids = encode(document, embedded_tokenizer)
        assert embedded_tokenizer.processor.decode(ids) == document
        assert count(np.array([1, *ids]), embedded_tokenizer.table).sum() == len(document.encode())


@given(text=TEXT)
def test_any_text_is_lossless_and_counted_exactly(embedded_tokenizer, text):
    ids = encode_documents([text], embedded_tokenizer).astype(np.int64)
    assert embedded_tokenizer.processor.decode(ids.tolist()) == text
    assert count(ids, embedded_tokenizer.table).sum() == len(text.encode())
    assert raw_text(ids, embedded_tokenizer) == text.encode()


def bytes_by_hand(ids, previous, pieces, kinds):
    """Spell every token out as the text it adds, and measure that."""
    total = []
    for token, before in zip(ids, previous):
        text = ""
        if kinds[token] == "byte":
            text = "?"
        elif kinds[token] == "normal":
            text = pieces[token].replace("\u2581", " ")
            if text.startswith(" ") and (
                before < 0 or kinds[before] in ("control", "unknown", "unused")
            ):
                text = text[1:]
        total.append(len(text.encode()))
    return total


@st.composite
def vocabularies(draw):
    # No plain space: SentencePiece writes every space of a piece as U+2581.
    piece = st.text(st.sampled_from("\u2581abé\u00df\u4e2d😀\n"), min_size=1, max_size=5)
    pieces = draw(st.lists(piece, min_size=1, max_size=12))
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=len(pieces), max_size=len(pieces)))
    tokens = st.integers(0, len(pieces) - 1)
    ids = draw(st.lists(tokens, max_size=20))
    previous = draw(
        st.lists(st.integers(-1, len(pieces) - 1), min_size=len(ids), max_size=len(ids))
    )
    return pieces, kinds, ids, previous


@given(vocabularies())
def test_random_vocabularies_match_the_spelled_text(case):
    pieces, kinds, ids, previous = case
    expected = bytes_by_hand(ids, previous, pieces, kinds)
    for half in HALVES:
        assert half.token_bytes(ids, previous, half.byte_table(pieces, kinds)).tolist() == expected


@pytest.mark.parametrize("half", HALVES)
def test_each_rule_once(half):
    pieces = ["<s>", "<unk>", "<0x20>", "\u2581the", "\u2581", "\u2581\u2581x", "é", "old"]
    kinds = ["control", "unknown", "byte", "normal", "normal", "normal", "normal", "unused"]
    table = half.byte_table(pieces, kinds)
    assert table.length_V.tolist() == [0, 0, 1, 3, 0, 2, 2, 0]
    assert table.space_V.tolist() == [False, False, False, True, True, True, False, False]
    assert table.control_V.tolist() == [True, True, False, False, False, False, False, True]
    grid = np.array([[3, 3, 3, 3, 3], [4, 5, 6, 0, 2]])
    before = np.array([[-1, 0, 1, 7, 2], [6, 6, 6, 6, 0]])
    assert half.token_bytes(grid, before, table).tolist() == [[3, 3, 3, 3, 4], [1, 3, 2, 0, 1]]
    assert half.token_bytes([], [], table).shape == (0,)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize(
    "ids, previous", [([2], [0]), ([-1], [0]), ([0], [2]), ([0], [-2]), ([0, 1], [0])]
)
def test_foreign_ids_are_input_errors(half, ids, previous):
    table = half.byte_table(["<s>", "a"], ["control", "normal"])
    with pytest.raises(InputError, match="expected"):
        half.token_bytes(ids, previous, table)


@pytest.mark.parametrize("half", HALVES)
def test_bad_tables_are_input_errors(half):
    with pytest.raises(InputError, match="found 'word'"):
        half.byte_table(["a"], ["word"])
    with pytest.raises(InputError, match="found 1 pieces and 2 kinds"):
        half.byte_table(["a"], ["normal", "normal"])


def test_tokenizer_knows_its_file(embedded_layout, embedded_tokenizer):
    assert embedded_tokenizer.vocab == 1024
    assert embedded_tokenizer.path == embedded_layout.tokenizer
    assert (
        embedded_tokenizer.sha256
        == hashlib.sha256(embedded_layout.tokenizer.read_bytes()).hexdigest()
    )
    with pytest.raises(FrozenInstanceError):
        embedded_tokenizer.vocab = 512


def test_tokenizer_errors_name_the_file(embedded_layout, tmp_path):
    model = embedded_layout.tokenizer.read_bytes()
    with pytest.raises(
        InputError,
        match=f"{embedded_layout.tokenizer.name}.*expected 512 .*found 1024.*--model.vocab 1024",
    ):
        load_tokenizer(embedded_layout.tokenizer, expect_vocab=512)
    with pytest.raises(InputError, match="name one with --tokenizer"):
        load_tokenizer(None)
    path = tmp_path / "broken.model"
    with pytest.raises(InputError, match="broken.model.*No such file"):
        load_tokenizer(path)
    with pytest.raises(InputError, match="Is a directory"):
        load_tokenizer(tmp_path)
    for data in (b"", b"not a model", bytes(100), model[:-3], model[: len(model) // 2]):
        path.write_bytes(data)
        with pytest.raises(
            InputError, match=f"broken.model.*found {len(data)} bytes of something else"
        ):
            load_tokenizer(path)
