"""Do both decoders stand what strangers write? Coverage-guided fuzzing (atheris, the fuzz extra) of
the artifact file: `make fuzz`, ten minutes.

An input is a kind and bytes. Sums that guard a file are made to fit, so that what lies behind them
is reached. Whatever the bytes are, the fast half raises InputError or gives tensors, and the
reference does the same: it may refuse what the fast half reads only where it lacks the codec.
"""

import argparse
import functools
import json
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fast", "reference"]):
    import fast.codec
    import fast.container
    import reference.codec
    import reference.container

import numpy as np

from reference.recipe import InputError
from tests.support.containers import READABLE, build_artifact

GOLDEN = Path(__file__).parents[1] / "pieces" / "golden"
CODECS = tuple(fast.codec.CODECS)
MAX_RAW = 1 << 18  # bytes of weights: little time for an input, and the checks are the same
SECONDS = 20  # for one input, at most
MEGABYTES = 4096
KINDS = ("file", "payload", "header", "codec")


def made(function, *given):
    """Return what a decoder makes, None where it refuses; nothing else may happen."""
    with suppress(InputError):
        return function(*given)
    return None


def check_file(data: bytes) -> None:
    """Read a file by both halves and compare."""
    quick, slow = (made(half.unpack, data) for half in (fast.container, reference.container))
    if quick is None:
        assert slow is None, "the reference reads what the fast half refuses"
        return
    if quick[0]["codec"] not in READABLE:
        return
    assert slow is not None, "the reference refuses what the fast half reads"
    assert quick[0] == slow[0] and list(quick[1]) == list(slow[1])
    for name, values in quick[1].items():
        assert values.numpy().tobytes() == slow[1][name].tobytes(), name


def with_header(data: bytes, header: dict, payload: bytes) -> None:
    """Read a golden file with fields of its header as the input says, in JSON."""
    try:
        fields = json.loads(data)
        whole = build_artifact(header | fields, payload) if isinstance(fields, dict) else b""
    except (ValueError, RecursionError):
        return
    check_file(whole)


def check_codec(data: bytes) -> None:
    """Decode bytes by a codec, as tensors of sizes that the input begins with."""
    if len(data) < 5:
        return
    sizes, width, body = list(data[1:4]), data[4] % 5, data[5:]
    ends = np.cumsum(sizes).tolist()
    # A tensor of integers has an int16 for each row, each column and each value
    columns = [0, width, 0] if width and not (sizes[1] - 2 * width) % (2 * width + 2) else None
    if columns and sizes[1] < 2 * width:
        columns = None
    codec = CODECS[data[0] % len(CODECS)]
    given = body, ends[-1], ends, codec, columns
    quick = made(fast.codec.decompress, *given)
    assert quick is None or len(quick) == ends[-1]
    if codec in READABLE:
        assert made(reference.codec.decompress, *given) == quick


@functools.cache
def golden(codec: str) -> tuple[dict, bytes]:
    """Return header and payload of a golden file."""
    return fast.container.read_header((GOLDEN / f"{codec}.mgolf").read_bytes())


def one_input(data: bytes) -> None:
    """Read one input."""
    if len(data) < 2:
        return
    kind, codec, rest = KINDS[data[0] % len(KINDS)], CODECS[data[1] % len(CODECS)], data[2:]
    header, payload = golden(codec)
    if kind == "file":
        check_file(rest)
    elif kind == "payload":
        check_file(build_artifact(header, rest))
    elif kind == "header":
        with_header(rest, header, payload)
    else:
        check_codec(rest)


def write_seeds(folder: Path) -> None:
    """Write inputs to begin with: golden files, their payloads and headers."""
    for number, codec in enumerate(CODECS):
        data, (header, payload) = (GOLDEN / f"{codec}.mgolf").read_bytes(), golden(codec)
        table = json.dumps({"tensors": header["tensors"][:2], "raw_bytes": 99}).encode()
        for kind, rest in enumerate((data, payload, table, bytes([number, 9, 40, 3, 2]) + payload)):
            (folder / f"{codec}-{kind}").write_bytes(bytes([kind, number]) + rest)


def main() -> None:
    """Fuzz for some time; an input that breaks a rule is kept in the folder and ends it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"), help="of what breaks a rule")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for half in (fast.container, reference.container):
        half.MAX_RAW = MAX_RAW
    corpus = Path(tempfile.mkdtemp(prefix="fuzz."))
    try:
        write_seeds(corpus)
        limits = f"-timeout={SECONDS}", f"-rss_limit_mb={MEGABYTES}", "-max_len=8192"
        budget = f"-max_total_time={options.seconds}", f"-artifact_prefix={options.out}/"
        atheris.Setup(
            [sys.argv[0], str(corpus), *limits, *budget, "-print_final_stats=1"], one_input
        )
        atheris.Fuzz()
    finally:
        shutil.rmtree(corpus, ignore_errors=True)


if __name__ == "__main__":
    main()
