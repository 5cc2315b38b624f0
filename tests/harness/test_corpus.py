"""Text to shards: splits, tokenizer, cache, the shard listing, baselines, the download, and every
bad input.
"""

import bz2
import hashlib
import itertools
import json
import lzma
import sys
import types
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast.bytes import load_tokenizer, token_bytes
from fast.data import Tokens, find_layout, read_shard, write_shard
from harness import cli
from harness.compression.compressors import baselines
from harness.corpus import dataset, documents, prepare, shards
from harness.corpus.fineweb import REPOSITORY, fetch_fineweb
from harness.corpus.sources import Source
from reference.recipe import InputError
from tests.support.recorded import record

POEM = "".join(f"Line {n} of a poem\n  that goes on, \tand on\r\n\n" for n in range(60))


def test_embedded_split_holds_out_every_tenth_topic_and_leaks_none():
    from pydoc_data.topics import topics

    names, corpus = sorted(topics), documents.embedded_corpus()
    assert corpus.validation == [topics[name] for name in names[::10]]
    assert not set(corpus.train) & set(corpus.validation)
    assert set(corpus.train) | set(corpus.validation) == set(topics.values())


def test_embedded_layout_is_the_official_one(embedded_cache, embedded_layout):
    (home,) = embedded_cache.iterdir()
    files = sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
    assert files == [
        "datasets/embedded_sp1024/embedded_train_000000.bin",
        "datasets/embedded_sp1024/embedded_val_000000.bin",
        "manifest.json",
        "tokenizers/embedded_1024_bpe.model",
    ]
    assert embedded_layout == find_layout(home)


def test_embedded_tokens_decode_to_the_topics(embedded_layout, embedded_tokenizer):
    corpus = documents.embedded_corpus()
    for paths, expected in (
        (embedded_layout.train, corpus.train),
        (embedded_layout.validation, corpus.validation),
    ):
        tokens = Tokens(paths)
        ids = tokens.read(0, len(tokens))
        starts = np.flatnonzero(ids == 1)
        assert [
            embedded_tokenizer.processor.decode(part.tolist()) for part in np.split(ids, starts[1:])
        ] == expected


def test_tokenizer_has_the_official_special_pieces(embedded_tokenizer):
    processor = embedded_tokenizer.processor
    assert [processor.id_to_piece(token) for token in range(4)] == ["<pad>", "<s>", "</s>", "<unk>"]
    assert [processor.id_to_piece(token) for token in range(4, 260)] == [
        f"<0x{byte:02X}>" for byte in range(256)
    ]
    assert not any(processor.is_byte(token) for token in range(260, 1024))


def test_second_call_only_reads_the_cache(embedded_cache, embedded_layout, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in embedded_cache.rglob("*")}
    monkeypatch.setattr(prepare, "train_tokenizer", None)
    assert find_layout(prepare.embedded(embedded_cache)) == embedded_layout
    assert {path: path.stat().st_mtime_ns for path in embedded_cache.rglob("*")} == before


def test_training_a_tokenizer_repeats_exactly_and_says_nothing(capfd):
    models = [prepare.train_tokenizer([POEM], 300) for _ in range(2)]
    assert models[0] == models[1]
    assert capfd.readouterr() == ("", "")


def test_the_block_character_does_not_hide_a_document(tmp_path):
    # SentencePiece drops a training sentence that holds U+2585; only that document quacks.
    model = prepare.train_tokenizer(["\u2585" + "quack " * 500, POEM], 300)
    (tmp_path / "a.model").write_bytes(model)
    assert "\u2581quack" in [
        load_tokenizer(tmp_path / "a.model").processor.id_to_piece(token) for token in range(300)
    ]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return an empty cache directory that from_text uses by default."""
    monkeypatch.setenv("MASKGOLF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_cache_directory_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("MASKGOLF_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert prepare.default_cache() == tmp_path / ".cache" / "maskgolf"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert str(prepare.default_cache()) == "/xdg/maskgolf"
    monkeypatch.setenv("MASKGOLF_CACHE", "/mine")
    assert str(prepare.default_cache()) == "/mine"


def test_cache_is_keyed_by_text_vocabulary_and_tokenizer(tmp_path, cache):
    (tmp_path / "a.txt").write_text(POEM)
    (tmp_path / "b.txt").write_text(POEM + "The end.\n")
    first = prepare.from_text([tmp_path / "a.txt"], vocab=300)
    model = find_layout(first).tokenizer
    assert prepare.from_text([tmp_path / "a.txt"], vocab=300) == first
    others = [
        prepare.from_text([tmp_path / "b.txt"], vocab=300),
        prepare.from_text([tmp_path / "a.txt"], vocab=301),
        prepare.from_text([tmp_path / "a.txt"], vocab=300, tokenizer=model),
        prepare.from_text([tmp_path / "a.txt"], vocab=300, holdout=5),
    ]
    assert {first, *others} == set(cache.iterdir()) and len({first, *others}) == 5
    # Copied, not retrained: another path, the same bytes.
    assert find_layout(others[2]).tokenizer.read_bytes() == model.read_bytes()


def test_concurrent_builders_share_one_result(tmp_path, cache):
    (tmp_path / "a.txt").write_text(POEM)
    with ThreadPoolExecutor(4) as pool:
        folders = list(
            pool.map(lambda _: prepare.from_text([tmp_path / "a.txt"], vocab=300), range(4))
        )
    assert list(cache.iterdir()) == [folders[0]] and set(folders) == {folders[0]}


def test_a_corpus_keeps_its_splits_apart(tmp_path, monkeypatch):
    """Two held-out documents of five: each split's shard holds its own, to the byte; the tokenizer
    has read the training split alone, and the manifest counts both.
    """
    words = ["alpha", "beta", "gamma", "delta", "omega"]
    texts = [f" {word} {n}\n" * (9 + n) for n, word in enumerate(words)]
    text = documents.Corpus("text", texts[2:], texts[:2])
    read = record(monkeypatch, "harness.corpus.prepare.train_tokenizer", prepare.train_tokenizer)
    folder = prepare.build(text, tmp_path / "out", 300)
    layout = find_layout(folder)
    tokenizer = load_tokenizer(layout.tokenizer)
    for paths, expected in ((layout.train, texts[2:]), (layout.validation, texts[:2])):
        ids = read_shard(*paths).astype(np.int64)
        assert np.flatnonzero(ids == 1).size == len(expected)
        assert shards.raw_text(ids, tokenizer) == "".join(expected).encode()
    assert read == [dict(documents=texts[2:], vocab=300)]
    assert layout.tokenizer.read_bytes() == prepare.train_tokenizer(texts[2:], 300)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["train_documents"], manifest["validation_documents"]) == (3, 2)
    assert manifest["tokenizer_sha256"] == tokenizer.sha256


def test_a_corpus_is_built_anew_for_other_text(tmp_path):
    """What is cached is known by both splits, and a folder of other text is not taken for it."""
    texts = [f"document {n}\n" * (9 + n) for n in range(5)]
    one = documents.Corpus("text", texts[2:], texts[:2])
    other = documents.Corpus("text", texts[2:], [texts[0], texts[1].upper()])
    folders = [prepare.build(text, None, 290, cache_dir=tmp_path) for text in (one, other)]
    assert folders[0] != folders[1]
    assert prepare.build(one, folders[0], 290) == folders[0]
    with pytest.raises(InputError, match="expected a new or empty directory, found other files"):
        prepare.build(other, folders[0], 290)


def test_both_splits_are_opened(tmp_path, monkeypatch):
    """Training and validation shards of unlike length, the tokenizer beside them."""
    texts = [f"document {n}\n" * (9 + n) for n in range(5)]
    folder = prepare.build(documents.Corpus("text", texts[2:], texts[:2]), tmp_path / "out", 290)
    layout = find_layout(folder)
    asked = record(monkeypatch, "harness.corpus.dataset.layout_of", dataset.layout_of)
    found = dataset.open_dataset(Source(folder), 290, 8)
    assert asked == [dict(source=Source(folder), vocab=290)]
    assert found.train.paths == layout.train and found.validation.paths == layout.validation
    assert found.tokenizer.path == layout.tokenizer


def test_a_builder_that_lost_the_race_takes_the_winner(tmp_path, monkeypatch):
    text = documents.split_documents("text", [POEM])
    write = prepare._write

    def lose(*arguments):
        monkeypatch.setattr(prepare, "_write", write)
        prepare.build(text, tmp_path / "out", 300)
        write(*arguments)

    monkeypatch.setattr(prepare, "_write", lose)
    assert prepare.build(text, tmp_path / "out", 300) == tmp_path / "out"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_interrupted_build_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "encode_documents", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare.build(documents.split_documents("text", [POEM]), tmp_path / "out", 300)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare, "write_shard", full)
    with pytest.raises(
        InputError, match="out: expected to write shards there, found: No space left on device"
    ):
        prepare.build(documents.split_documents("text", [POEM]), tmp_path / "out", 300)
    assert list(tmp_path.iterdir()) == []


def test_existing_outputs_are_not_replaced(tmp_path):
    text = documents.split_documents("text", [POEM])
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="file: expected a new or empty directory, found a file"):
        prepare.build(text, tmp_path / "file", 300)
    with pytest.raises(InputError, match="file.*found: "):
        prepare.build(text, tmp_path / "file" / "below", 300)
    with pytest.raises(
        InputError, match="full: expected a new or empty directory, found other files"
    ):
        prepare.build(text, tmp_path / "full", 300)
    assert (tmp_path / "file").read_text() == (tmp_path / "full" / "mine").read_text() == "mine"
    assert find_layout(prepare.build(text, tmp_path / "empty", 300)).train


@given(st.integers(2, 10), st.data())
def test_many_documents_are_held_out_one_in_holdout(holdout, data):
    texts = data.draw(st.lists(st.text(max_size=3), min_size=holdout, max_size=25))
    nonempty = [text for text in texts if text]
    expected = set(nonempty) - set(nonempty[::holdout])
    if len(nonempty) >= holdout and expected:
        corpus = documents.split_documents("text", texts, holdout)
        assert corpus.validation == nonempty[::holdout] and set(corpus.train) == expected
    elif len(nonempty) >= holdout:
        with pytest.raises(InputError, match="a training and a validation split"):
            documents.split_documents("text", texts, holdout)


@given(st.integers(2, 10), st.data())
def test_few_documents_are_each_cut_once(holdout, data):
    part = st.text(st.sampled_from("ab \n"), min_size=holdout, max_size=80)
    # The opening number keeps every head apart from every tail.
    texts = [
        f"{index}{text}"
        for index, text in enumerate(data.draw(st.lists(part, min_size=1, max_size=holdout - 1)))
    ]
    corpus = documents.split_documents("text", texts, holdout)
    assert [
        head + tail for head, tail in zip(corpus.train, corpus.validation, strict=True)
    ] == texts
    assert all(
        0 < len(tail) < len(text) for tail, text in zip(corpus.validation, texts, strict=True)
    )


def test_one_document_is_cut_after_a_paragraph_near_its_last_tenth():
    corpus = documents.split_documents("text", [POEM])
    assert corpus.train[0] + corpus.validation[0] == POEM
    assert (
        corpus.train[0].endswith("\r\n\n") and 0.08 < len(corpus.validation[0]) / len(POEM) < 0.12
    )
    lines = "".join(f"line {n}\n" for n in range(100))
    assert documents.split_documents("text", [lines]).validation[0].startswith("line 9")
    assert documents.split_documents("text", ["ab" * 100]).validation == ["ab" * 10]


def test_json_lines_are_documents(tmp_path):
    path = tmp_path / "docs.jsonl"
    texts = ["one\ntwo", "\u2028 three", "é"]
    path.write_text(
        "\n\n".join(json.dumps({"text": text, "id": 3}, ensure_ascii=False) for text in texts)
        + "\n",
        encoding="utf-8",
    )
    (tmp_path / "more.txt").write_bytes(b"four\r\n")
    assert documents.read_documents([path, tmp_path / "more.txt"]) == [*texts, "four\r\n"]


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("a.txt", b"", r"a.txt: expected text, found an empty file \(0 bytes\)"),
        ("a.txt", b" \n\t\n", r"a.txt: expected text, found an empty file \(4 bytes\)"),
        ("a.jsonl", b"\n", "a.jsonl: expected text, found an empty file"),
        ("a.txt", b"abc\xffdef", "a.txt: expected UTF-8, found byte 0xff at offset 3 of 7"),
        ("a.txt", "caf\u00e9".encode("latin-1"), "byte 0xe9 at offset 3 of 4"),
        ("a.txt", "text".encode("utf-16"), "expected UTF-8"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": 3}\n',
            "a.jsonl, line 2: expected .*found '{\"text\": 3}'",
        ),
        ("a.jsonl", b'{"txt": "a"}', "a.jsonl, line 1"),
        ("a.jsonl", b'["a"]', "a.jsonl, line 1"),
        ("a.jsonl", b'{"text": "a"', "a.jsonl, line 1"),
        ("a.jsonl", b'{"text": "\\ud800"}', "a.jsonl, line 1"),
    ],
)
def test_bad_text_files_are_named(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        prepare.from_text([tmp_path / name], tmp_path / "cache", 300)
    assert not (tmp_path / "cache").exists()


def test_missing_text_files_are_named(tmp_path):
    with pytest.raises(
        InputError, match="gone.txt: expected a readable file, found none .No such file"
    ):
        documents.read_documents([tmp_path / "gone.txt"])
    with pytest.raises(InputError, match="Is a directory"):
        documents.read_documents([tmp_path])
    with pytest.raises(InputError, match="at least one document"):
        documents.read_documents([])


def test_text_too_short_for_two_splits():
    for texts in ([], ["a"], [""] * 30, ["same"] * 30):
        with pytest.raises(InputError, match="a training and a validation split"):
            documents.split_documents("text", texts)
    with pytest.raises(InputError, match="holdout of at least 2"):
        documents.split_documents("text", ["a"] * 30, 1)


def test_text_too_small_for_the_vocabulary_says_what_would_do(tmp_path):
    (tmp_path / "a.txt").write_text(POEM)
    for vocab, fix in ((1024, r"--model.vocab (\d+)"), (262, r"--model.vocab (\d+) or more")):
        with pytest.raises(
            InputError,
            match=rf"expected to learn {vocab} pieces from 1 documents with \d+ characters.*{fix}",
        ) as error:
            prepare.from_text([tmp_path / "a.txt"], tmp_path / "cache", vocab)
        advice = int(str(error.value).split("--model.vocab ")[1].split()[0])
        assert prepare.from_text([tmp_path / "a.txt"], tmp_path / f"{vocab}", advice).exists()
    with pytest.raises(InputError, match="SentencePiece says"):
        prepare.from_text([tmp_path / "a.txt"], tmp_path / "cache", -1)


def test_a_given_tokenizer_must_have_the_vocabulary(tmp_path, embedded_layout):
    (tmp_path / "a.txt").write_text(POEM)
    with pytest.raises(InputError, match="expected 300 pieces .*found 1024"):
        prepare.from_text([tmp_path / "a.txt"], tmp_path / "cache", 300, embedded_layout.tokenizer)
    with pytest.raises(InputError, match="gone.model"):
        prepare.from_text([tmp_path / "a.txt"], tmp_path / "cache", 300, tmp_path / "gone.model")
    assert not (tmp_path / "cache").exists()


def test_build_report_describes_every_shard(tmp_path, embedded_layout, capsys):
    (tmp_path / "a.txt").write_text(POEM)
    arguments = [str(tmp_path / "a.txt"), "--out", str(tmp_path / "out"), "--json", "-"]
    assert (
        cli.main(["data", "build", *arguments, "--tokenizer", str(embedded_layout.tokenizer)]) == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert report == shards.describe(tmp_path / "out")
    train, val = report["shards"]
    assert (train["split"], val["split"]) == ("train", "val")
    assert train["bytes"] + val["bytes"] == len(POEM.encode())
    assert train["documents"] == val["documents"] == 1 and train["unknown"] == val["unknown"] == 0
    assert train["text"] == POEM[:80]
    assert (
        train["tokens"] == len(read_shard(train["file"]))
        and train["max_id"] == read_shard(train["file"]).max()
    )
    single = shards.describe(val["file"])
    assert single["tokenizer"] == report["tokenizer"] and single["shards"] == [
        {**val, "split": None}
    ]


def test_description_counts_real_shards_in_chunks(layout, monkeypatch):
    path = layout.validation[0]
    whole = shards.describe(path)
    monkeypatch.setattr(shards, "CHUNK", 999)
    assert shards.describe(path) == whole
    ids, table = read_shard(path).astype(np.int64), load_tokenizer(layout.tokenizer).table
    assert whole["shards"][0]["bytes"] == token_bytes(ids, np.append(-1, ids[:-1]), table).sum()


def test_description_carries_the_previous_token_across_shards(
    tmp_path, embedded_layout, embedded_tokenizer
):
    space = next(token for token in range(1024) if embedded_tokenizer.table.space_V[token])
    write_shard(tmp_path / "x_val_000000.bin", [1, 900])
    write_shard(tmp_path / "x_val_000001.bin", [space])
    (both,) = [shards.describe(tmp_path, embedded_layout.tokenizer)["shards"]]
    assert both[1]["bytes"] == embedded_tokenizer.table.length_V[space] + 1
    alone = shards.describe(tmp_path / "x_val_000001.bin", embedded_layout.tokenizer)["shards"][0]
    assert alone["bytes"] == embedded_tokenizer.table.length_V[space]


def test_description_without_a_tokenizer_and_with_a_foreign_one(tmp_path, embedded_layout):
    path = tmp_path / "x_val_000000.bin"
    write_shard(path, [1, 5, 1, 2000])
    for described in (tmp_path, path):
        (shard,) = shards.describe(described)["shards"]
        assert (
            shard["tokens"],
            shard["documents"],
            shard["max_id"],
            shard["bytes"],
            shard["text"],
        ) == (4, 2, 2000, None, None)
    with pytest.raises(
        InputError, match="x_val_000000.bin: expected token ids below 1024, found 2000 at token 3"
    ):
        shards.describe(path, embedded_layout.tokenizer)
    with pytest.raises(InputError, match="gone.bin"):
        shards.describe(tmp_path / "gone.bin")


@given(ids=st.lists(st.integers(0, 1023), max_size=30), previous=st.integers(-1, 1023))
def test_raw_text_has_the_counted_length_for_any_ids(embedded_tokenizer, ids, previous):
    before = [previous, *ids][: len(ids)]
    text = shards.raw_text(ids, embedded_tokenizer, previous)
    assert len(text) == token_bytes(ids, before, embedded_tokenizer.table).sum()
    # Cutting anywhere changes nothing as long as the true previous token is passed on.
    middle = len(ids) // 2
    head = shards.raw_text(ids[:middle], embedded_tokenizer, previous)
    tail = shards.raw_text(ids[middle:], embedded_tokenizer, [previous, *ids][middle])
    assert head + tail == text


def test_baselines_are_decompressible_sizes_over_the_text():
    text = POEM.encode()
    bits = baselines(text, 1024, 600)
    assert list(bits) == ["zlib", "bz2", "lzma", "uniform"]
    sizes = [
        len(zlib.compress(text, 9)),
        len(bz2.compress(text, 9)),
        len(lzma.compress(text, preset=9)),
    ]
    assert list(bits.values()) == [8 * size / len(text) for size in sizes] + [6000 / len(text)]
    with pytest.raises(InputError, match="0 bytes"):
        baselines(b"", 1024, 1)


@pytest.fixture
def hub(tmp_path, monkeypatch, embedded_layout):
    """Install a stand-in for huggingface_hub that serves a small export, and return the list of
    what was asked for.
    """
    asked, files = [], {}
    entry = {"name": "fineweb10B_sp1024", "stats": {"files_train": 2, "files_val": 1}}
    files["manifest.json"] = json.dumps({"datasets": [entry]}).encode()
    files["tokenizers/fineweb_1024_bpe.model"] = embedded_layout.tokenizer.read_bytes()
    for shard in ("train_000000", "train_000001", "val_000000"):
        write_shard(tmp_path / "source.bin", [1, int(shard[-1])])
        files[f"datasets/fineweb10B_sp1024/fineweb_{shard}.bin"] = (
            tmp_path / "source.bin"
        ).read_bytes()

    def hf_hub_download(repo_id, filename, *, repo_type, local_dir):
        assert (repo_id, repo_type) == (REPOSITORY, "dataset") and filename.startswith("datasets/")
        asked.append(filename.removeprefix("datasets/"))
        if asked[-1] not in files:
            raise FileNotFoundError("An error happened\nwith details")
        target = local_dir / filename
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(files[asked[-1]])
        return str(target)

    monkeypatch.setitem(
        sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=hf_hub_download)
    )
    return types.SimpleNamespace(asked=asked, files=files)


def test_fineweb_lands_in_the_official_layout_and_resumes(tmp_path, hub):
    out = fetch_fineweb(tmp_path / "data", 1)
    layout = find_layout(out)
    assert [path.name for path in layout.train] == ["fineweb_train_000000.bin"]
    assert [path.name for path in layout.validation] == ["fineweb_val_000000.bin"]
    assert layout.tokenizer == out / "tokenizers" / "fineweb_1024_bpe.model"
    assert sorted(path.name for path in out.iterdir()) == [
        "datasets",
        "manifest.json",
        "tokenizers",
    ]
    hub.asked.clear()
    layout.train[0].write_bytes(b"cut short")
    fetch_fineweb(out, 2)
    assert hub.asked == [
        f"datasets/fineweb10B_sp1024/fineweb_train_{index:06d}.bin" for index in (0, 1)
    ]
    assert Tokens(find_layout(out).train).read(0, 4).tolist() == [1, 0, 1, 1]


def test_fineweb_bad_input(tmp_path, hub, monkeypatch):
    with pytest.raises(InputError, match="at most 2 training shards, found 3"):
        fetch_fineweb(tmp_path / "data", 3)
    with pytest.raises(InputError, match="found fineweb10B_sp77"):
        fetch_fineweb(tmp_path / "data", 1, vocab=77)
    with pytest.raises(InputError, match="at least 0, found -1"):
        fetch_fineweb(tmp_path / "data", -1)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="found a file"):
        fetch_fineweb(tmp_path / "file")
    del hub.files["datasets/fineweb10B_sp1024/fineweb_val_000000.bin"]
    with pytest.raises(
        InputError, match="fineweb_val_000000.bin.*found: An error happened; check the network"
    ):
        fetch_fineweb(tmp_path / "data")
    hub.files["datasets/fineweb10B_sp1024/fineweb_val_000000.bin"] = b"<html>"
    with pytest.raises(
        InputError,
        match="fineweb_val_000000.bin: expected a header of 1024 bytes, found a file of 6 bytes",
    ):
        fetch_fineweb(tmp_path / "data")
    hub.files["manifest.json"] = b"{}"
    with pytest.raises(InputError, match="expected the export's manifest"):
        fetch_fineweb(tmp_path / "other")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match="pip install 'maskgolf.fineweb.'"):
        fetch_fineweb(tmp_path / "third")


def tokens_of(folder, *parts) -> Tokens:
    """Return a split cut into shards."""
    folder.mkdir()
    paths = [folder / f"{number}.bin" for number in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        write_shard(path, part)
    return Tokens(paths)


@pytest.mark.parametrize("place", range(37))
def test_any_token_of_a_split_tells_it_apart(tmp_path, monkeypatch, place):
    """Up to BLOCKS blocks: not the first tokens alone."""
    monkeypatch.setattr(dataset, "BLOCK", 4)
    monkeypatch.setattr(dataset, "BLOCKS", 10)
    ids = np.arange(300, 337)
    other = ids.copy()
    other[place] += 256  # its upper byte alone
    one = dataset.sha256_of(tokens_of(tmp_path / "one", ids))
    assert one != dataset.sha256_of(tokens_of(tmp_path / "other", other))
    assert one == dataset.sha256_of(tokens_of(tmp_path / "cut", ids[:5], ids[5:30], ids[30:]))
    assert one == hashlib.sha256(ids.astype("<u2").tobytes()).hexdigest()


def test_a_long_split_is_told_apart_by_blocks_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "BLOCK", 4)
    monkeypatch.setattr(dataset, "BLOCKS", 5)
    ids, seen = np.arange(1, 38), []
    expected = dataset.sha256_of(tokens_of(tmp_path / "ids", ids))
    for place in range(37):
        changed = np.where(np.arange(37) == place, 0, ids)
        if dataset.sha256_of(tokens_of(tmp_path / str(place), changed)) != expected:
            seen.append(place // 4)
    assert sorted({*seen}) == [0, 2, 4, 7, 9] and len(seen) == 4 * 4 + 1


def test_identity_keeps_the_splits_and_the_tokenizer_apart(tmp_path):
    """Swapped splits, and one split or the tokenizer alone exchanged, are other data."""
    splits = [tokens_of(tmp_path / str(number), range(1, 9 + number)) for number in range(3)]
    tokenizers = [types.SimpleNamespace(sha256=text) for text in "ab"]
    identities = [
        dataset.Dataset(train, validation, tokenizer).identity()
        for train, validation in itertools.permutations(splits, 2)
        for tokenizer in tokenizers
    ]
    names = {"tokenizer_sha256"}
    names |= {f"{a}_{b}" for a in ("training", "validation") for b in ("tokens", "sha256")}
    assert all(set(identity) == names for identity in identities)
    assert len({json.dumps(identity) for identity in identities}) == 12
    assert identities[0]["training_tokens"] == 8 and identities[0]["validation_tokens"] == 9


def test_data_and_text_exclude_each_other(tmp_path):
    with pytest.raises(InputError, match="--data and --text: expected one of them"):
        Source(data=tmp_path, text=(tmp_path / "file",)).check()
    Source(data=tmp_path, tokenizer=tmp_path / "file").check()
    Source(text=(tmp_path / "file",)).check()
