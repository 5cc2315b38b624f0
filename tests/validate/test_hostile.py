"""Files made to harm who looks at them: they end in a verdict, soon and in little memory."""

import bz2
import io
import lzma
import os
import tarfile
import tracemalloc
import zipfile

import pytest

from harness import validate
from harness.validate import archives, learning
from harness.validate.source import parse
from harness.validate.submission import Submission
from harness.validate.verdict import CannotTell


def scanned(tmp_path, name: str, data: bytes) -> dict[str, str]:
    """Return the verdicts of the safety checks on a folder with one file."""
    (tmp_path / name).write_bytes(data)
    return {
        row["check"]: row["verdict"]
        for row in validate.validate(tmp_path)
        if row["group"] == "safety"
    }


def scanned_within(tmp_path, name: str, data: bytes) -> tuple[dict[str, str], int]:
    """Return the verdicts, and the most bytes of memory that they took."""
    tracemalloc.start()
    try:
        return scanned(tmp_path, name, data), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def tar_of(members: list[tuple[str, bytes]]) -> bytes:
    """Return an uncompressed tar archive."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


EVIL = b"cos\nsystem\n(S'true'\ntR."


def test_a_pickle_before_too_many_members_is_seen(tmp_path):
    members = [("evil.pkl", EVIL), *((f"{n}", b"") for n in range(archives.MAX_MEMBERS + 1))]
    verdicts = scanned(tmp_path, "weights.tar", tar_of(members))
    assert verdicts["pickles"] == verdicts["archives"] == "fail"


def test_what_lies_behind_a_bomb_cannot_be_told(tmp_path):
    members = [(f"{n}", b"") for n in range(archives.MAX_MEMBERS + 1)]
    verdicts = scanned(tmp_path, "weights.tar", tar_of([*members, ("evil.pkl", EVIL)]))
    assert verdicts["archives"] == "fail"
    for check in ("pickles", "secrets", "compiled code"):
        assert verdicts[check] == "cannot tell", check


def test_a_compressed_tar_is_not_unpacked_without_limit(tmp_path):
    """Its first header announces a long name; tarfile.is_tarfile would unpack all of it."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 256 << 20
    filters = [{"id": lzma.FILTER_LZMA1, "preset": 0, "dict_size": 1 << 22}]
    packer = lzma.LZMACompressor(format=lzma.FORMAT_ALONE, filters=filters)
    parts = [header.tobuf(tarfile.GNU_FORMAT), *[bytes(1 << 20)] * 256]
    data = b"".join([*map(packer.compress, parts), packer.flush()])
    verdicts, peak = scanned_within(tmp_path, "final_model.bin", data)
    # half of what it announces; about 41 MiB are needed, and other threads may hold some
    assert verdicts["archives"] == "fail" and peak < 128 << 20


def test_a_number_too_long_to_print_hides_no_call(tmp_path):
    number = (10**5000).to_bytes(2100, "little")
    data = b"\x80\x02\x8b" + len(number).to_bytes(4, "little") + number + b"0" + EVIL
    assert scanned(tmp_path, "model.pt", data)["pickles"] == "fail"


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_member_that_lies_about_its_size_is_not_unpacked(tmp_path, method):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("a", bytes(64 << 20))
    data = file.getvalue().replace((64 << 20).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    verdicts, peak = scanned_within(tmp_path, "model.zip", data)
    assert verdicts["archives"] == "cannot tell" and peak < 32 << 20


def test_many_small_streams_are_an_end(tmp_path):
    verdicts = scanned(tmp_path, "model.bz2", bz2.compress(b"") * 1_001)
    assert verdicts["archives"] == "cannot tell"


def test_a_file_that_became_a_pipe_is_not_read(tmp_path):
    (tmp_path / "train_gpt.py").write_text("pass\n")
    submission = Submission(tmp_path)
    (tmp_path / "train_gpt.py").unlink()
    os.mkfifo(tmp_path / "train_gpt.py")
    with pytest.raises(CannotTell, match="no longer a regular file"):
        submission.read("train_gpt.py")


@pytest.mark.parametrize(
    ("packed", "unpacked", "fine"),
    [
        (1, 1 << 25, True),  # a small result harms nobody
        (1, (1 << 25) + 1, False),
        (100_000, 100_000_000, True),
        (100_000, 100_000_001, False),
        (1 << 29, 1 << 29, True),
        (1 << 29, (1 << 29) + 1, False),
    ],
)
def test_a_bomb_is_much_from_little_or_too_much(packed, unpacked, fine):
    if fine:
        archives._limit("a", packed, unpacked)
    else:
        with pytest.raises(archives.Bomb, match=f"{packed:,} bytes unpack to {unpacked:,} or more"):
            archives._limit("a", packed, unpacked)


def test_of_a_tar_links_name_their_targets_and_folders_hold_nothing():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, kind, target in (
            ("d", tarfile.DIRTYPE, ""),
            ("s", tarfile.SYMTYPE, "/etc/passwd"),
            ("h", tarfile.LNKTYPE, "x.so"),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            archive.addfile(entry)
        entry = tarfile.TarInfo("file")
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"abc"))
    unread = []
    found = list(archives.contents("a.tar", file.getvalue(), unread))[1:]
    names = ["d", "/etc/passwd", "s", "x.so", "h"]
    assert found == [*((f"a.tar/{name}", b"") for name in names), ("a.tar/file", b"abc")]
    assert unread == []


def test_what_does_not_open_is_named():
    """A stream that nothing here unpacks, a damaged archive; plain bytes are neither."""
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a", b"text")
    for data, said in (
        (b"\x28\xb5\x2f\xfd123", ["a is a zstd stream"]),
        (zipped.getvalue()[:40], ["a does not open as an archive (BadZipFile)"]),
        (b"plain", []),
        (b"", []),
    ):
        unread = []
        assert list(archives.contents("a", data, unread)) == [("a", data)]
        assert [line[: len(text)] for line, text in zip(unread, said, strict=True)] == said


@pytest.mark.parametrize(
    "script",
    [
        's = "ab" * 400_000_000_000\n',
        's = "ab"\n' + "s = s + s\n" * 60,
        "t = (1, 2)\n" + "t = t + t\n" * 60,
        "n = 10\n" + "n = n * n\n" * 60,
        "def f(a):\n    return f(a) + f(a)\nf(1)\n",
    ],
    ids=["repeated", "joined", "tuple", "power", "recursion"],
)
def test_constants_of_a_script_take_no_memory(script):
    """They are worked out to follow switches, as far as they are small."""
    tracemalloc.start()
    try:
        learning.Walk([parse("train_gpt.py", script.encode())], {})
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()
