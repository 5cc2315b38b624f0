"""What checks read, each reader alone and to the last detail: hidden text, files, requirements,
imports, rates, and the rows of a validation.
"""

import ast
import base64
import gzip
import io
import pickle
import zipfile
import zlib
from types import SimpleNamespace

import numpy as np
import pytest

from harness import validate
from harness.validate import (
    archives,
    hidden,
    model,
    modules,
    numbers,
    rates,
    requirements,
    scan,
    verdict,
)
from harness.validate.archives import Bomb
from harness.validate.checks import folder as folder_checks
from harness.validate.checks import runs, score, validity
from harness.validate.submission import Options, Submission
from harness.validate.verdict import CannotTell, Check, Finding
from reference.recipe import InputError
from tests.support.checks import registered
from tests.support.stand_ins import Bar


def made(home, files: dict[str, str | bytes]) -> Submission:
    """Return a submission of these files."""
    for path, content in files.items():
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    return Submission(home, Options())


# Hidden text: anchors


def noise(count: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(count)


def test_keys_are_those_of_the_blocks_at_every_offset():
    layer = noise(61)
    keys = hidden._keys(layer)
    assert len(keys) == 61 - 16 + 1
    for offset, key in enumerate(keys.tolist()):
        assert hidden._keys(layer[offset : offset + 16]).tolist() == [key]
    assert len({*keys.tolist()}) == len(keys)
    assert len(hidden._keys(layer[:15])) == len(hidden._keys(b"")) == 0


def test_a_block_counts_that_holds_six_different_bytes():
    """In any order, wherever the text is cut."""
    five, six = bytes([0, 1, 2, 3, 4] * 3 + [0]), bytes([0, 1, 2, 3, 4, 5] * 2 + [0] * 4)
    assert len(hidden.Anchors(five).keys) == 0
    assert len(hidden.Anchors(six).keys) == len(hidden.Anchors(six[::-1]).keys) == 1
    assert hidden.Anchors(five * 3 + six + five).longest(six) == hidden.Run(1, 0, 48)
    assert len(hidden.Anchors(six + noise(15)).keys) == 1
    assert hidden.Anchors(noise(64)).longest(noise(64)) == hidden.Run(4, 0, 0)


def test_a_stretch_ends_where_its_blocks_are_no_anchors():
    """At a monotonous block, at the text's end, at the layer's."""
    text = noise(32) + b"-" * 16 + noise(48, 1)
    anchors = hidden.Anchors(text)
    assert anchors.longest(text) == hidden.Run(3, 48, 48)
    assert anchors.longest(text[:48]) == hidden.Run(2, 0, 0)
    assert anchors.longest(text[16:80]) == hidden.Run(2, 32, 48)
    assert anchors.longest(b"xyz" + text[48:] + text[48:64]) == hidden.Run(3, 3, 48)
    assert anchors.longest(text[:31] + b"?") == hidden.Run(1, 0, 0)
    assert anchors.longest(text[1:]) == hidden.Run(3, 47, 48)


def test_the_first_of_equal_stretches_is_told():
    text = noise(64)
    assert hidden.Anchors(text).longest(text[32:] + b"xy" + text[:32]) == hidden.Run(2, 0, 32)


@pytest.mark.parametrize("at", [0, 3])
def test_a_longer_stretch_begins_inside_a_shorter_one(at):
    """The second half of the text repeats the first from its ninth byte on and goes on longer."""
    first, more = noise(64), noise(200, 1)
    text = first + first[8:] + more
    layer = noise(at, 2) + first + more
    reply = hidden.Anchors(text).longest(layer)
    assert reply == hidden.Run((56 + 200) // 16, at + 8, 64)


def test_no_more_blocks_are_followed_than_the_most(monkeypatch):
    text = noise(160)
    layer = text[:16] + b"\0" + text[32:48] + b"\0" + text[64:]
    anchors = hidden.Anchors(text)
    monkeypatch.setattr(hidden, "MOST_HITS", 2)
    assert anchors.longest(layer) == hidden.Run(1, 0, 0)
    monkeypatch.setattr(hidden, "MOST_HITS", 3)
    assert anchors.longest(layer) == hidden.Run(6, 34, 64)


def test_what_other_text_holds_at_any_offset_is_left_out():
    text = noise(160)
    anchors = hidden.Anchors(text, b"abc" + text[48:96])
    assert len(anchors.keys) == 7 and anchors.longest(text) == hidden.Run(4, 96, 96)
    assert len(hidden.Anchors(text, text).keys) == 0
    assert len(hidden.Anchors(text + text, b"?" + text[:16]).keys) == 18  # both of them
    assert len(hidden.Anchors(text, b"a").keys) == 10


# Hidden text: layers


def inside(name: str, data: bytes) -> list[tuple[str, bytes]]:
    return list(hidden.layers(name, data))


def test_layers_of_64_bytes_are_looked_at():
    assert inside("a.bin", b"\1" * 64) == [("a.bin", b"\1" * 64)]
    assert inside("a.bin", b"\1" * 63) == []


def test_strings_of_a_program_worth_decoding():
    """Forty-eight characters, whole or in pieces; integers that are token ids, sixteen or more."""
    texts = ["a" * 48, "b" * 47, b"c" * 48]
    code = f"x = {texts[0]!r}\ny = {texts[1]!r}\nz = {texts[2]!r}\n"
    assert hidden.literals(code.encode()) == [("line 1", b"a" * 48), ("line 3", b"c" * 48)]
    pieces = b"x = ['" + b"a" * 24 + b"', b'" + b"b" * 24 + b"']\n"
    assert hidden.literals(pieces) == [("line 1", b"a" * 24 + b"b" * 24)]
    assert hidden.literals(pieces.replace(b"a" * 24, b"a" * 23)) == []
    assert hidden.literals(b"x = ['%s', 7]" % (b"a" * 24)) == []
    assert hidden.literals("x = '\udc80'".encode("utf-8", "surrogatepass")) == []
    lone = b"x = '\\udc80" + b"a" * 45 + b"'"  # one character of three bytes
    assert hidden.literals(lone) == [("line 1", b"\xed\xb2\x80" + b"a" * 45)]


@pytest.mark.parametrize("brackets", ["[]", "()", "{}"])
def test_integers_of_a_program_that_may_be_token_ids(brackets):
    def listed(*items):
        source = f"x = {brackets[0]}{', '.join(map(str, items))}{brackets[1]}\n"
        return [value for _, value in hidden.literals(source.encode())]

    ids = [0, 65_535, *range(2, 16)]
    assert listed(*ids) == [np.array(ids, "<u2").tobytes()]
    assert listed(*ids[:-1]) == []  # fifteen
    for odd in (65_536, 70_000, -1, 1.5, True, "None", "name"):
        assert listed(*ids, odd) == []


def test_the_longest_literals_come_first():
    code = "x = '{}'\ny = {}\nz = '{}'\n".format("a" * 48, list(range(40)), "c" * 64)
    assert [where for where, _ in hidden.literals(code.encode())] == ["line 2", "line 3", "line 1"]


def test_a_string_is_read_in_every_coding_that_fits():
    secret = noise(60)
    for encode in (base64.b64encode, base64.b85encode, base64.a85encode, bytes.hex):
        text = encode(secret)
        text = text.encode() if isinstance(text, str) else text
        assert secret in list(hidden._decoded(text[:20] + b"\n \t" + text[20:]))
    assert base64.b64decode(b"YWJj!") not in list(hidden._decoded(b"YWJj!"))  # nothing is skipped
    assert list(hidden._decoded(b"\xff\xfe")) == []


def test_base64_is_decoded_in_files_and_programs_are_parsed():
    secret = noise(96)
    text = base64.b64encode(secret)
    for name, data, where in (
        ("a.json", b'{"a": "%s"}' % text, "a.json, decoded"),
        ("a.py", b"import os\nx = '%s'\n" % text, "a.py, line 2, decoded"),
        ("a.py", b"x = %r\n" % (b"import os; x = '%s'" % text), "a.py, line 1, line 1, decoded"),
    ):
        assert (where, secret) in inside(name, data), name
    assert len(inside("a.json", b"'%s'" % text[:63])) <= 1  # too short for base64
    assert secret not in [layer for _, layer in inside("a.json", b"x = %r" % secret)]


def test_decoding_goes_four_layers_deep():
    secret, depth = noise(96), []
    data = secret
    for _ in range(5):
        data = base64.b64encode(data)
        depth.append(secret in [layer for _, layer in inside("a.txt", data)])
    assert depth == [True, True, True, True, False]


def test_a_large_layer_is_not_read_as_text(monkeypatch):
    text = base64.b64encode(noise(96))
    monkeypatch.setattr(hidden, "MOST_TEXT", len(text) + 1)
    assert len(inside("a.txt", text)) == 2
    monkeypatch.setattr(hidden, "MOST_TEXT", len(text))
    assert len(inside("a.txt", text)) == 1


def test_layers_have_an_end_in_number_and_in_bytes(monkeypatch):
    code = b"".join(b"x = %r\n" % (b"%02d" % number * 40) for number in range(6))
    whole = inside("a.py", code)
    assert len(whole) > 6
    monkeypatch.setattr(hidden, "MOST_LAYERS", 4)
    assert inside("a.py", code) == whole[:4]
    monkeypatch.setattr(hidden, "MOST_LAYERS", 4096)
    monkeypatch.setattr(hidden, "MOST_BYTES", len(code) + 2 * 80)
    assert inside("a.py", code) == whole[:3]
    monkeypatch.setattr(hidden, "MOST_BYTES", len(code) - 1)
    assert inside("a.py", code) == []


def test_a_bomb_ends_its_file_alone(monkeypatch):
    def contents(name, data, unread):
        yield name, data
        raise Bomb("planted")

    monkeypatch.setattr(hidden, "contents", contents)
    assert inside("a.bin", noise(80)) == [("a.bin", noise(80))]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 16, 17, 24])
def test_ids_may_be_stored_in_words_of_any_width(count):
    layer = bytes(range(1, count + 1))
    spelt = list(hidden.spellings(layer))
    assert spelt[0] == layer
    expected = []
    for data in (layer, layer[1:])[: max(min(2, count - 1), 0)]:
        little = np.frombuffer(data[: len(data) // 2 * 2], "<u2")
        big = little.byteswap()
        expected += [little[start::2].tobytes() for start in range(2)]
        expected += [little[start::4].tobytes() for start in range(4)]
        expected += [big.tobytes()]
        expected += [big[start::2].tobytes() for start in range(2)]
        expected += [big[start::4].tobytes() for start in range(4)]
    assert spelt[1:] == expected


# Hidden text: the check


def test_files_that_a_score_is_made_from_are_searched(tmp_path):
    text = b"- + / * ? " * 8  # in no coding
    names = [
        "train_gpt.py", "a.JSON", "b.txt", "requirements.txt", "sub/Requirements.TXT", "c.md",
        "d.toml", "e.npy", "f.sh", "g.vocab", "train_seed1.log", "h.csv", "i.png", "final_model.pt",
    ]  # fmt: skip
    log = b"step:1/2 train_loss:3.0 train_time:1ms\n" * 4
    kept = {name: log if name.endswith(".log") else text for name in names} | {"j.txt": log}
    reply = [where for where, _ in validity.searched(made(tmp_path, kept))]
    assert reply[0] == "final_model.pt" and len(set(reply)) == len(reply)
    assert set(reply) == {
        "train_gpt.py", "a.JSON", "b.txt", "d.toml", "e.npy", "f.sh", "g.vocab", "h.csv",
        "final_model.pt",
    }  # fmt: skip


def test_a_file_that_cannot_be_read_is_left_out(tmp_path):
    submission = made(tmp_path, {"a.py": b"? " * 40, "b.json": b"* " * 40})
    (tmp_path / "a.py").unlink()
    assert [where for where, _ in validity.searched(submission)] == ["b.json"]


class Pieces:
    """A tokenizer of six pieces."""

    vocab = 6
    names = ["<s>", "<0x0A>", "\u2581ab", "c", "<0xFF>", "é"]
    table = SimpleNamespace(control_V=np.array([True, False, False, False, False, False]))

    def __init__(self):
        self.processor = self

    def id_to_piece(self, token):
        return self.names[token]

    def is_byte(self, token):
        return token in (1, 4)


def test_ids_are_read_piece_by_piece(monkeypatch):
    ids, text = np.array([2, 0, 1, 3, 4, 5, 2]), b" ab\n\nc\xff" + "é ab".encode()
    assert validity.readable(ids, Pieces()) == text
    assert validity.readable(ids[:0], Pieces()) == b""
    monkeypatch.setattr(validity, "MOST_READABLE", 3)
    assert validity.readable(ids, Pieces()) == text


@pytest.fixture
def texted(monkeypatch):
    """Return a function that gives validation and training ids and the layers of a submission; the
    readable text of ids is their low bytes, a line for each other 256.
    """

    def plant(validation, train, *layers):
        asked = []

        def ids(count, split="validation"):
            asked.append(count)
            return np.asarray({"validation": validation, "train": train}[split], np.int64)

        given = SimpleNamespace(ids=ids, tokenizer=None)
        monkeypatch.setattr(validity, "text", lambda submission: given)
        monkeypatch.setattr(validity, "readable", lambda ids, _: ids.astype(np.uint8).tobytes())
        monkeypatch.setattr(validity, "searched", lambda submission: iter(layers))
        reply = registered(validity.hidden_text)(None)
        assert asked == [validity.MOST_TOKENS] * 2
        return reply

    return plant


def test_64_bytes_of_validation_text_are_hidden_text(texted):
    text = np.random.default_rng(0).integers(32, 127, 320)
    data = text.astype(np.uint8).tobytes()
    fine = texted(text, [], ("a", data[:63]), ("b", b"\0" + data[160 : 160 + 48]))
    assert fine.verdict == "pass" and "longest stretch 48 bytes" in fine.evidence
    assert fine.evidence.startswith("112 bytes against 60 blocks of 320 validation tokens")
    assert "(4e-16 blocks expected by chance)" in fine.evidence
    reply = texted(text, [], ("a", b"xy" + data[16:80]))
    told = "a: 64 bytes of validation text from byte 2 on"
    assert reply == Finding("fail", told)
    assert texted(text, text[:160], ("a", data[:160])).verdict == "pass"


def test_32_validation_tokens_are_hidden_ids(texted):
    ids = np.random.default_rng(0).integers(0, 1 << 16, 320)
    data = ids.astype("<u2").tobytes()
    assert texted(ids, [], ("a", data[:62])).verdict == "pass"
    told = "a: 64 bytes of validation token ids from byte 1 on"
    assert texted(ids, [], ("a", b"x" + data[32:96])) == Finding("fail", told)
    assert texted(ids, ids[:160], ("a", data[:320])).verdict == "pass"
    assert texted(ids, [], ("a", data[::-1])).verdict == "pass"
    big = ids.astype(">u2").tobytes()
    assert texted(ids, [], ("a", big[:64])).verdict == "fail"


def test_text_of_letters_alone_is_not_read_as_ids(texted, monkeypatch):
    """Words of 16 bits hold a zero or a high byte somewhere."""
    asked = []
    monkeypatch.setattr(hidden, "spellings", lambda layer: asked.append(layer) or iter(()))
    text = np.arange(320)
    for layer in (b"letters" * 20, b"letters\0" * 20, b"letters\xe9" * 20):
        texted(text, [], ("a", layer))
    assert asked == [b"letters\0" * 20, b"letters\xe9" * 20]


def test_no_more_than_five_places_are_told(texted):
    text = np.random.default_rng(0).integers(32, 127, 320)
    layers = [(letter, text.astype(np.uint8).tobytes()[:80]) for letter in "abcdef"]
    reply = texted(text, [], *layers)
    assert reply.evidence.split("; ") == [
        f"{letter}: 80 bytes of validation text from byte 0 on" for letter in "abcde"
    ]


def test_training_data_by_name():
    """What is assigned to a name of training, and only there."""
    loader = "load_tokens({})"
    for code, taken in (
        ("train_files = glob('fineweb_val_*.bin')", ["fineweb_val_*.bin"]),
        ("train_files: list = glob('fineweb_val_*.bin')", ["fineweb_val_*.bin"]),
        ("train_files: list", []),
        ("train_files += glob('fineweb_val_*.bin')", []),
        ("a = train_b = 'valid_000.bin'", ["valid_000.bin"]),
        ("files = glob('fineweb_val_*.bin')", []),
        ("train_val_files = glob('fineweb_val_*.bin')", []),
        ("train_files = glob('train_val_split_*.bin')", ["train_val_split_*.bin"]),
        ("train_files = glob('fineweb_train_*.bin')", []),
        ("train_files = 'valley.txt'", []),
        ("train_files = 'interval.bin'", ["interval.bin"]),
        (f"train = {loader.format('val_files')}", ["val_files"]),
        (f"train = {loader.format('files')}", []),
        (f"train = {loader.format('train_and_val_files')}", []),
        ("train = load_tokens()", []),
        ("train = count(val_files)", []),
        ("CALIB = DATA_STREAM(x.validation)", ["x.validation"]),
    ):
        places = list(validity.mixed_up(ast.parse("\n" + code)))
        assert [place.partition(" = ... ")[2] for place, _ in places] == [
            f"{text} (line 2)" for text in taken
        ], code
    [(place, _)] = validity.mixed_up(ast.parse("a = train_b = 'valid_000.bin'"))
    assert place.startswith("a = ... ")


def test_training_shards_of_validation_are_told_before_anything_runs(monkeypatch, tmp_path):
    monkeypatch.setattr(validity.execution, "trained", lambda _: pytest.fail("executed"))
    code = "".join(f"train{number} = 'val_{number}.bin'\n" for number in range(6))
    (tmp_path / "train_gpt.py").write_text(code)
    reply = registered(validity.training_data)(Submission(tmp_path, Options(run=True)))
    assert reply.verdict == "fail"
    places = reply.evidence.removeprefix("training takes validation shards by name: ").split("; ")
    assert places == [
        f"train_gpt.py: train{number} = ... val_{number}.bin (line {number + 1})"
        for number in range(5)
    ]


# One pass over the files


def scanned(name: str, data: bytes, weights: bool = False) -> scan.Scan:
    result = scan.Scan()
    result.file(name, data, weights)
    return result


def test_a_scan_begins_with_nothing():
    result = scan.Scan()
    assert (result.files, result.size, result.opcodes) == (0, 0, 0)
    lists = [value for value in vars(result).values() if isinstance(value, list)]
    assert len(lists) == 8 and not any(lists) and len({id(value) for value in lists}) == 8
    assert not any(
        one is other for one, other in zip(vars(scan.Scan()).values(), lists, strict=False)
    )


def test_files_and_bytes_are_counted():
    result = scan.Scan()
    for name, data in (("a.txt", b"abc"), ("b.txt", b""), ("c.txt", b"de")):
        result.file(name, data, False)
    assert (result.files, result.size) == (3, 5)
    assert result == scan.Scan(files=3, size=5)


FORMATS = [
    (b"text", False, False),
    (b"text", True, True),
    (b"a\0b", False, True),
    (b"a\0b", True, True),
    (b"", True, False),
    (b"MASKGOLF\0", True, False),
    (b"\x93NUMPY\1\0\4\0abcd", True, False),
    (b"\x89PNG\0", False, False),
    (b"\x89PNG\0", True, True),
    (b"a" * (1 << 16) + b"\0", False, False),
    (b"a" * ((1 << 16) - 1) + b"\0", False, True),
    (b"\n\x0e\n\x05<unk>\0", False, False),
    (b"?\x0e\n\x05<unk>\0", False, True),
    (b"\n" + b"x" * 63 + b"<unk>\0", False, True),
    ((20240520).to_bytes(4, "little") + b"\0", False, False),
    ((9).to_bytes(8, "little") + b"{}", True, False),
    ((10).to_bytes(8, "little") + b"{}", True, True),
    ((9).to_bytes(8, "little") + b"[]", True, True),
    ((2).to_bytes(8, "little") + b"{", True, True),
]  # data, whether it is an artifact, whether it is told


@pytest.mark.parametrize(("data", "weights", "unread"), FORMATS, ids=range(len(FORMATS)))
def test_a_format_that_is_not_known_is_told(data, weights, unread):
    reply = scanned("a.dat", data, weights).unread
    assert reply == (["a.dat is in a format that is not known here"] if unread else [])


def test_what_is_known_by_another_finding_is_no_unknown_format():
    data = pickle.dumps({"a": 1}, 2) + b"\0"
    assert scanned("a.pkl", data, True).pickles == ["a.pkl"]
    assert not any("not known" in text for text in scanned("a.pkl", data, True).unread)


def test_machine_code_is_known_by_its_magic_or_its_name():
    for magic, kind in scan.MACHINE_CODE.items():
        data = magic + b"\0" * 80 + (b"PE\0\0" if magic == b"MZ" else b"")
        assert scanned("a.dat", data).machine_code == [f"a.dat ({kind}, {len(data)} bytes)"]
        assert scanned("a.dat", b"x" + data).machine_code == []
    assert scanned("A.SO", b"text").machine_code == ["A.SO (by its name, 4 bytes)"]
    assert scanned("a.dat", b"MZ" + b" " * 80).machine_code == []
    assert scanned("a.dat", b"MZ" + b"PE\0\0".rjust(61)).machine_code == []  # 63 bytes
    assert scanned("a.dat", b"MZ" + b"PE\0\0".rjust(62)).machine_code != []
    far = b"MZ" + b" " * 4091 + b"PE\0\0"
    assert (
        scanned("a.dat", far).machine_code == [] != scanned("a.dat", far[:2] + far[3:]).machine_code
    )
    assert scanned("a.dat", b"\x7fELF" + bytes(9996)).machine_code == [
        "a.dat (an ELF binary, 10,000 bytes)"
    ]


def test_a_secret_is_told_with_its_line_and_kind():
    def told(text):
        return scanned("a.txt", text.encode()).secrets

    hub = "hf_" + "aB" * 17
    assert told(f"one\ntwo {hub}\n") == ["a.txt:2: looks like a huggingface key"]
    assert told(hub) == ["a.txt:1: looks like a huggingface key"]
    assert told(f"x{hub}") == told(f"{hub}x") == told(hub[:-1]) == []
    assert told("-----BEGIN RSA " + "PRIVATE KEY-----") == ["a.txt:1: looks like a key"]
    assert told("AKIA" + "A1" * 8) == ["a.txt:1: looks like a aws key"]


def members(*names: str) -> scan.Scan:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "text")
    return scanned("a.zip", buffer.getvalue())


def test_members_that_would_land_outside_are_told():
    assert members("b.txt", "c/d..e.txt").escapes == []
    assert len(members("../b.txt").escapes) == 1
    assert len(members("c/../b.txt", "b.txt", "/etc/x").escapes) == 2
    assert members("b.txt").packed == ["a.zip"]
    assert scanned("a/../b.txt", b"text").escapes == []  # of the folder itself
    assert scanned("a.txt", b"text").packed == scanned("a[unpacked]", b"text").packed == []


def test_what_is_packed_is_told_by_its_name():
    stream = zlib.compress(b"text" * 30)
    assert scanned("a.bin", stream).packed == ["a.bin"]
    assert scanned("a.bin", gzip.compress(stream)).packed == ["a.bin", "a.bin[unpacked]"]
    assert scanned("a.bin", b"PK").packed == ["a.bin"]


def array(header: bytes, rest: bytes = b"", version: int = 1) -> bytes:
    size = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + rest


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_array_of_objects_is_a_pickle(version):
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(300) + b"\n"
    evil = b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93."
    safe = pickle.dumps([1], 2)
    assert scanned("a.npy", array(header, safe, version)).dangers == [
        "a.npy: an array of Python objects"
    ]
    reply = scanned("a.npy", array(header, evil, version))
    assert len(reply.dangers) == 1 and "os.system" in reply.dangers[0]
    assert reply.pickles == ["a.npy"]
    assert scanned("a.npy", array(header, b"", version)).dangers == [
        "a.npy: an array of Python objects"
    ]
    plain = header.replace(b"|O", b"<f4")
    assert scanned("a.npy", array(plain, b"'|O'" + evil, version)).pickles == []
    assert scanned("a.npy", b"x" + array(header, safe, version)).pickles == []


def test_objects_at_the_end_of_a_header_are_seen():
    header = b"{'shape': (1,), 'descr': '|O'"
    assert scanned("a.npy", array(header)).pickles == ["a.npy"]
    assert scanned("a.npy", array(header[:-4], b"'|O'")).pickles == []


def test_pickles_are_counted_and_those_that_break_off_are_unread():
    whole = pickle.dumps({"a": 1}, 2)
    reply = scanned("a.pkl", whole + whole)
    assert reply.pickles == ["a.pkl"] and reply.opcodes > 6 and reply.unread == []
    assert reply.opcodes == 2 * scanned("a.pkl", whole).opcodes
    broken = scanned("a.pkl", whole[:-1])
    assert broken.pickles == ["a.pkl"] and len(broken.unread) == 1
    assert broken.unread[0].startswith("a.pkl: the opcodes cannot be listed to their end (")


def test_a_scan_ends_before_too_many_bytes(monkeypatch):
    """What is too large for the total is named with all that follows; what cannot be read is named
    alone.
    """
    monkeypatch.setattr(scan, "MAX_TOTAL", 10)

    def read(name):
        if name == "b":
            raise CannotTell("b is gone")
        return b"x" * files[name]

    files = {"a": 6, "b": 3, "c": 4, "d": 1, "e": 1}
    reply = scan.scan(SimpleNamespace(files=files, read=read, artifacts=["c"]))
    assert (reply.files, reply.size) == (2, 10)
    assert reply.unread == [
        "b is gone",
        "c is in a format that is not known here",
        "d and what follows: more than 10 bytes in all",
    ]


def test_a_file_holds_at_most_ten_thousand_parts():
    """Itself among them."""

    def parts(count):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for number in range(count):
                archive.writestr(str(number), b"")
        return list(archives.contents("a.zip", buffer.getvalue(), []))

    assert len(parts(10_000)) == 10_001
    with pytest.raises(Bomb, match="10,001 members, more than 10,000"):
        parts(10_001)


# Requirements


def asked(tmp_path, text: str, **files: str) -> requirements.Requirements:
    return requirements.requirements(made(tmp_path, {"requirements.txt": text, **files}))


def test_requirements_are_read_as_pip_reads_them(tmp_path):
    reply = asked(
        tmp_path,
        "# first # second\nNumPy==1.26  # exact # twice\nlz4 >= 4\n\nfoo.bar===1\nbaz==2.*\n"
        "url @ https://example.org/a#egg=b\nhash==1 \\\n    --hash=sha256:ab\ntqdm#nothing\n",
    )
    assert reply.pins == {
        "numpy": "==1.26",
        "lz4": " >= 4",
        "foo-bar": "===1",
        "baz": "==2.*",
        "url": " @ https://example.org/a#egg=b",
        "hash": "==1",
        "tqdm": "#nothing",
    }
    assert reply.loose == ["lz4 >= 4", "baz==2.*", "tqdm#nothing"]
    assert reply.elsewhere == [] and reply.comments == " first # second  exact # twice"


@pytest.mark.parametrize(
    ("line", "elsewhere"),
    [
        ("-r other.txt", True),
        ("-r there.txt", False),
        ("--constraint=there.txt", False),
        ("-c other.txt # why", True),
        ("--requirement other.txt", True),
        ("-e .", True),
        ("./wheel.whl", True),
        ("/opt/wheel.whl", True),
        ("~/wheel.whl", True),
        ("C:\\wheel.whl", True),
        ("a @ file:///opt/a", True),
        ("--find-links /opt", True),
        ("--find-links https://example.org", False),
        ("a==1", False),
        ("-example", False),
    ],
)
def test_what_is_not_in_the_folder_is_told(line, elsewhere, tmp_path):
    reply = asked(tmp_path, f"{line}\n", **{"there.txt": "x"})
    assert reply.elsewhere == ([line] if elsewhere else [])


def test_a_long_line_is_cut(tmp_path):
    assert asked(tmp_path, "-r " + "a" * 200).elsewhere == ["-r " + "a" * 97]


def test_all_lists_are_read_and_none_is_none(tmp_path):
    assert requirements.requirements(made(tmp_path, {"sub/needs.txt": "a==1"})) is None
    files = {"requirements.txt": "a==1", "sub/Requirements-gpu.TXT": "b==2\nnot valid!\n==3"}
    reply = requirements.requirements(made(tmp_path, files))
    assert reply.pins == {"a": "==1", "b": "==2", "not": " valid!"}
    assert reply.loose == ["not valid!"] and reply.comments == ""


def test_instructions_are_in_readmes_and_scripts(tmp_path):
    files = {"README.MD": "Pip_Install", "run.sh": "Flash.Attn", "a.txt": "other", "b/c.md": "More"}
    files["MODEL_CARD.md"] = "other"
    reply = requirements.instructions(made(tmp_path, files))
    assert "other" not in reply and all(
        word in reply for word in ("pip-install", "flash-attn", "more")
    )


# Imports


def imports_of(code: str) -> list[tuple[str, int, bool]]:
    return list(modules.imported(ast.parse(code)))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import a.b, c as d", [("a", 1, False), ("c", 1, False)]),
        ("from a.b import c", [("a", 1, False)]),
        ("from . import a\nfrom .b import c", []),
        ("__import__('a.b')\nimportlib.import_module('c', 1)", [("a", 1, False), ("c", 2, False)]),
        ("__import__(a)\nother('b')\nimport_module('.c')", []),
        ("def f():\n    import a", [("a", 2, False)]),
        (
            "try:\n    import a\nexcept ImportError:\n    import b",
            [("a", 2, True), ("b", 4, False)],
        ),
        ("try:\n    import a\nexcept ModuleNotFoundError:\n    pass", [("a", 2, True)]),
        ("try:\n    import a\nexcept (KeyError, ImportError):\n    pass", [("a", 2, True)]),
        ("try:\n    import a\nexcept Exception as e:\n    pass", [("a", 2, True)]),
        ("try:\n    import a\nexcept:\n    pass", [("a", 2, True)]),
        ("try:\n    import a\nexcept KeyError:\n    pass", [("a", 2, False)]),
        ("try:\n    import a\nfinally:\n    pass", [("a", 2, False)]),
        (
            "try:\n    import a\nexcept KeyError:\n    pass\nexcept ImportError:\n    pass",
            [("a", 2, True)],
        ),
        ("try:\n    def f():\n        import a\nexcept ImportError:\n    pass", [("a", 3, True)]),
        ("try:\n    x\nexcept ImportError:\n    pass\nelse:\n    import a", [("a", 6, False)]),
    ],
)
def test_every_import_is_found_with_its_line(code, expected):
    assert imports_of(code) == expected


def test_where_a_package_comes_from_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(modules, "installed", lambda: {"odd": ["plain-name"]})

    def told(code, **files):
        home = tmp_path / str(len(list(tmp_path.iterdir())))
        names = {name.replace("__", "."): text for name, text in files.items()}
        try:
            return registered(runs.imports)(made(home, {"train_gpt.py": code, **names}))
        except CannotTell as reason:
            return str(reason)

    assert told("import os, numpy\n") == Finding("pass", "beyond the standard library: numpy")
    assert told("import os\n") == Finding("pass", "beyond the standard library: nothing")
    wanted = {"requirements__txt": "# pip install third_one\nPlain_Name==1\nPyYAML==6\n"}
    assert told("import yaml, odd\nimport numpy\n", **wanted) == Finding(
        "pass", "beyond the standard library: numpy, odd, yaml"
    )
    assert told("import first\nimport odd, second\nimport first\n") == Finding(
        "fail",
        "not in requirements.txt: first (train_gpt.py:1), odd (train_gpt.py:2), second"
        " (train_gpt.py:2), first (train_gpt.py:3)",
    )
    by_hand = "installed by hand, as README or a comment says, not by requirements.txt: "
    readme = {"README__md": "Install flash-attn, then third-one."}
    assert told("import flash_attn\nimport third_one\n", **readme) == by_hand + (
        "flash_attn (train_gpt.py:1), third_one (train_gpt.py:2)"
    )
    assert told("import third_one\n", **wanted) == by_hand + "third_one (train_gpt.py:1)"
    assert told("import third\n", README__md="thirdly").verdict == "fail"
    optional = "try:\n    import brotli, zstd\nexcept ImportError:\n    pass\n"
    expected = "; used where installed: brotli (train_gpt.py:2), zstd (train_gpt.py:2)"
    reply = told(optional)
    assert reply == Finding("pass", f"beyond the standard library: brotli, zstd{expected}")
    assert told(optional + "import missing\n") == Finding(
        "fail", "not in requirements.txt: missing (train_gpt.py:5)"
    )
    assert told(
        "import helper, sub, fine\n", helper__py="", **{"sub/a.py": "", "b/fine.py": ""}
    ) == (Finding("pass", "beyond the standard library: nothing"))
    assert told("def f(:\n").startswith("train_gpt.py does not parse: ")


# Bytes per token


@pytest.mark.parametrize(
    ("code", "number"),
    [
        ("2.41", 2.41),
        ("-2.41", None),  # a factor of its own follows the sign
        ("0.41", 0.41),
        ("1.2", None),
        ("1.21", 1.21),
        ("15.9", 15.9),
        ("16.0", None),
        ("0.0626", 0.0626),
        ("0.0625", None),
        ("0.82", 0.82),
        ("0.84", None),
        ("0", None),
        ("0.6931", None),
        ("0.70", 0.70),
        ("1.4427", None),
        ("1.45", 1.45),
        ("2.0", None),
        ("2.009", None),
        ("2.011", 2.011),
        ("8", None),
        ("0.5", None),
        ("0.125", None),
        ("'2.41'", 2.41),
        ("'x'", None),
        ("None", None),
        ("True", None),
        ("name", None),
        ("os.environ.get('A', '2.41')", 2.41),
        ("os.getenv('A', 2.41)", 2.41),
        ("other('A', 2.41)", None),
        ("os.environ.get('A')", None),
        ("os.environ.get(2.41, 'x')", None),
        ("getenv('A', 2.41, 3.5)", None),
        ("9" * 400, None),
    ],
)
def test_a_number_that_may_stand_for_bytes_per_token(code, number):
    assert rates.suspicious(ast.parse(code, mode="eval").body) == number


def unparsed(nodes) -> list[str]:
    return [ast.unparse(node) for node in nodes]


def test_what_an_expression_multiplies_and_divides():
    def told(code, **known):
        values = {
            name: [ast.parse(text, mode="eval").body for text in texts]
            for name, texts in known.items()
        }
        return unparsed(rates.factors(ast.parse(code, mode="eval").body, values))

    assert told("a * b / c ** 2") == ["a", "b", "c", "2"]
    assert told("-(a + b) * 3 if x else y") == ["a + b", "3", "y"]
    assert told("a // b") == ["a // b"]
    assert told("math.log(2) * a.b", b=["c / 3", "4"]) == ["math.log(2)", "a.b", "c", "3", "4"]
    assert told("float(a / b)") == ["float(a / b)", "a", "b"]
    assert told("torch.tensor(a, b)") == ["torch.tensor(a, b)", "a"]
    assert told("(a / b).item()") == ["(a / b).item()", "a", "b"]
    assert told("x.abs()") == ["x.abs()"] and told("afloat(x)") == ["afloat(x)"]
    chain = {f"n{number}": [f"n{number + 1}"] for number in range(9)}
    assert told("n0", **chain) == [f"n{number}" for number in range(7)]  # six steps back


def test_what_names_are_assigned():
    code = (
        "a = b = 1\nc: int = 2\nd: int\ne += 3\n(f := 4)\ng, (h, i) = 5, (6, 7)\nj, k = two()\n"
        "x.l = 8\nm[0] = 9\n[n, o] = [10, 11]\np, q = 12,\na = 13\ndef inner():\n    r = 14\n"
        "s = lambda: (t := 15)\nif a:\n    u = 16\n"
    )
    reply = {name: unparsed(values) for name, values in rates.assignments(ast.parse(code)).items()}
    assert reply == {
        "a": ["1", "13"], "b": ["1"], "c": ["2"], "e": ["3"], "f": ["4"], "g": ["5"], "h": ["6"],
        "i": ["7"], "j": ["two()"], "k": ["two()"], "l": ["8"], "n": ["10"], "o": ["11"],
        "p": ["(12,)"], "q": ["(12,)"], "s": ["lambda: (t := 15)"], "u": ["16"],
    }  # fmt: skip


def test_where_bits_per_byte_are_computed():
    code = (
        "scale = 3.5\ntokens_per_byte = 2\nbpb = a / b\nval_bpb = c\nother = d / e\n"
        "def bits_per_byte():\n    scale = 4.5\n    return f / g\n"
        "def told():\n    return h * i, j * per_byte_rate\n"
        "def nothing():\n    return\n"
        "async def my_bpb():\n    return l, m * n\n"
    )
    reply = [
        (name, ast.unparse(value), known and {key: unparsed(known[key]) for key in ("scale",)})
        for name, value, known in rates.rates(ast.parse(code))
    ]
    outer, inner = {"scale": ["3.5"]}, {"scale": ["4.5"]}
    assert reply == [
        ("tokens_per_byte", "2", None),
        ("bpb", "a / b", outer),
        ("return", "f / g", inner),
        ("return", "j * per_byte_rate", outer),
        ("return", "m * n", outer),
    ]


def test_rates_are_counted_by_what_they_rest_on():
    code = (
        "bytes_per_token = 2.41\nbpb = log(x) / n_bytes\nval_bpb = log(x) / n\nmy_bpb = y / n\n"
        "a_bpb = log(x) / 3.5 / 4.5\nb_bpb = z / total.bytes\nc_bpb = w / (tokens * 3.5)\n"
    )
    fixed, uncounted, counted = rates.constants(ast.parse(code))
    assert fixed == [
        "2.41 in bytes_per_token (line 1)",
        "3.5 in a_bpb (line 5)",
        "4.5 in a_bpb (line 5)",
        "3.5 in c_bpb (line 7)",
    ]
    assert uncounted == ["val_bpb (line 3)"] and counted == 2
    assert rates.constants(ast.parse("x = 1\n")) == ([], [], 0)


def test_bytes_are_known_by_name():
    for code, expected in (
        ("n_bytes", True), ("a.Bytes", True), ("bytes_of(x)", True), ("a.bytes.sum", False),
        ("x + n_bytes", True), ("tokens", False),
    ):  # fmt: skip
        assert rates.mentions_bytes(ast.parse(code, mode="eval").body) is expected, code


def test_a_mean_may_be_off_by_exactly_what_rounding_allows():
    """A unit of eight digits and half a unit of four."""
    limit = 1.01 * 10.0**-8 + 0.5 * 10.0**-4
    assert numbers.agree_mean(limit, [0.0]) and numbers.agree_mean(-limit, [0.0])
    assert not numbers.agree_mean(float(np.nextafter(limit, 1.0)), [0.0])


def test_the_official_text_is_read_whole():
    assert model.MOST_TOKENS >= score.OFFICIAL_TOKENS


# README rows


def test_rows_of_a_table_begin_with_a_seed():
    text = (
        "| seed | val_bpb |\n|---|---|\n| 42 | 1.2301 | 1.2303 |\n  | **Seed 7** | `1.24` | 99.0 |\n"
        "| 42 | 1.25 |\n42 | 1.26 |\ntext | 8 | 1.27 |\n| seed 9x | 1.28 |\n"
    )
    assert folder_checks._rows(text, 1.23) == {"42": [1.2301, 1.2303, 1.25], "7": [1.24]}


# Submissions


def test_what_a_submission_is_read_with_unless_asked(tmp_path):
    assert Options() == Options(None, None, False, 600.0)
    assert Submission(tmp_path).options == Options()


def test_a_folder_is_called_what_it_is_called_wherever_one_stands(tmp_path, monkeypatch):
    home = tmp_path / "track_10min_16mb" / "2026-03-20_Mine"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    for path in (home, ".", "../2026-03-20_Mine"):
        reply = Submission(path)
        assert (reply.name, reply.parent) == ("2026-03-20_Mine", "track_10min_16mb")
        assert reply.complete and reply.strange == [] and reply.files == {}


def test_logs_are_called_logs_or_texts(tmp_path):
    """And hold steps or scores; a list of requirements is none."""
    step = "step:1/2 train_loss:3.0 train_time:1ms\n"
    names = ("a.LOG", "b.txt", "README.md", "c.json", "train.py", "Requirements.txt")
    submission = made(tmp_path, dict.fromkeys(names, step) | {"d.txt": "words\n"})
    assert sorted(log.name for log in submission.logs) == ["a.LOG", "b.txt"]


# Rows of a validation


def asking(name: str, run, group: str = "folder", severity: str = "score") -> Check:
    return Check(name, group, severity, run, "what", "caught", "fix")


def test_rows_come_in_the_order_of_the_checks_and_progress_says_which(tmp_path):
    def refuse(submission):
        raise CannotTell("no\ttext")

    checks = (
        asking("b", lambda submission: verdict.failed("x\ny")),
        asking("a", refuse, "log", "paperwork"),
        asking("c", lambda s: verdict.passed(f"{s.root.name} {s.options.progress is shown}")),
    )
    shown = Bar()
    rows = validate.validate(tmp_path, checks=checks, progress=shown)
    assert shown.started == [
        (f"validate: {name}", done, 3, "checks") for done, name in enumerate("bac")
    ]
    values = [
        ("b", "folder", "score", "fail", "x y"),
        ("a", "log", "paperwork", "cannot tell", "no text"),
        ("c", "folder", "score", "pass", f"{tmp_path.name} True"),
    ]
    fields = ("check", "group", "severity", "verdict", "evidence")
    assert rows == [dict(zip(fields, row, strict=True)) for row in values]
    assert validate.validate(tmp_path, checks=()) == []


def test_options_reach_the_checks(tmp_path):
    asked = []
    check = asking("a", lambda submission: asked.append(submission.options) or verdict.passed(""))
    validate.validate(tmp_path, tmp_path, tmp_path / "t", True, 7.0, (check,))
    assert asked == [Options(tmp_path, tmp_path / "t", True, 7.0)]


@pytest.mark.parametrize("error", [ValueError, RecursionError, MemoryError])
def test_what_a_check_raises_is_its_own_failure(error, tmp_path):
    def broken(submission):
        raise error("planted")

    told = f"the check itself failed: {error.__name__}: planted"
    assert validate.answer(asking("a", broken), None) == Finding("cannot tell", told)

    def stopped(submission):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        validate.answer(asking("a", stopped), None)


def test_each_check_is_explained_by_its_name():
    for check in validate.CHECKS:
        assert validate.explain(check.name) == {
            "check": check.name,
            "group": check.group,
            "severity": check.severity,
            "what": check.what,
            "caught": check.caught,
            "fix": check.fix,
        }
        assert check.what and check.caught and check.fix


def test_an_unknown_check_is_answered_with_those_like_it_or_else_with_all():
    told = {}
    for name in ("size", "pickle", "qqqq"):
        with pytest.raises(InputError) as caught:
            validate.explain(name)
        start, told[name] = str(caught.value).rsplit("; ", 1)
        assert start == (
            f"--explain {name!r}: expected a check of maskgolf validate, found none of that name"
        )
    assert told == {
        "size": "did you mean 'size limit'?",
        "pickle": "did you mean 'pickles'?",
        "qqqq": f"it has {', '.join(check.name for check in validate.CHECKS)}",
    }


NAMES = {  # of all checks, in the order of their rows
    "folder": (
        "required files, plain files, folder name and date, one record, JSON well formed, JSON"
        " fields, track, README scores"
    ),
    "bytes": (
        "size limit, decimal megabytes, artifact opens, JSON bytes, log bytes, compressor,"
        " requirements pinned"
    ),
    "runs": "Python versions, imports, runs alone, trains, stays inside",
    "score": (
        "scores itself, rescored, tokens and bytes, byte accounting, bytes per token, script's"
        " byte table, mean over seeds, seeds in logs, one configuration"
    ),
    "likelihood": (
        "mask rates, tokens charged, order of conditioning, charged before learned, sums to one,"
        " untrained score"
    ),
    "validity": "training data, code length, hidden validation text",
    "log": (
        "no traceback, finite losses, roundtrip score, training time, parameters and steps, JSON"
        " counts, warmdown, weight average, score in log, bits and nats"
    ),
    "safety": "pickles, archives, compiled code, secrets, loading weights, readable code",
}


def test_all_checks_are_asked_in_the_order_of_their_rows():
    assert validate.GROUPS == tuple(NAMES)
    named = [(group, name) for group, names in NAMES.items() for name in names.split(", ")]
    assert [(check.group, check.name) for check in validate.CHECKS] == named


def test_evidence_is_printable_text():
    assert validate.printable("a\x1bb\nc\u00e9\udc80") == "a b cé\\udc80"
    assert len(validate.printable("é" * 1001)) == 1000
