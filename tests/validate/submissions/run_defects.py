"""Defects that show when the submission is scored, probed or executed, each caught by the check
named and by no unrelated one.
"""

import base64
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from fast import container
from fast.data import Tokens, find_layout
from harness.validate.checks import validity
from harness.validate.execution import Trial
from tests.validate.submissions.edits import (
    Defect,
    append_code,
    claims,
    edit_code,
    in_logs,
    replace,
    state,
)

MODEL = "final_model.mgolf"
HEADER_ONLY = ("codec", "header_sha256", "payload_bytes", "raw_bytes", "sha256", "tensors")


def remodel(folder: Path, data: bytes) -> None:
    """Replace the artifact, and its size wherever it is stated."""
    (folder / MODEL).write_bytes(data)
    content = claims(folder)
    seed, before = str(content["artifact_seed"]), content["bytes_model"]
    more = len(data) - before
    results = content["seed_results"]
    results[seed] |= {"bytes_model": len(data), "bytes_total": results[seed]["bytes_total"] + more}
    state(
        folder,
        bytes_model=len(data),
        bytes_total=content["bytes_total"] + more,
        seed_results=results,
    )
    log = folder / f"train_seed{seed}.log"
    replace(log, r"^(Serialized model \S+: )\d+", rf"\g<1>{len(data)}")
    replace(log, r"^(Total submission size \S+: )\d+", rf"\g<1>{content['bytes_total'] + more}")


def repack(folder: Path, change: Callable[[dict, dict], None]) -> None:
    """Write the artifact anew after change(header fields, tensors)."""
    header, tensors = container.unpack((folder / MODEL).read_bytes())
    own = {name: value for name, value in header.items() if name not in HEADER_ONLY}
    change(own, tensors)
    formats = {row["name"]: row["format"] for row in header["tensors"]}
    remodel(folder, container.pack(tensors, formats, own, header["codec"]))


def altered(folder: Path) -> None:
    """Weights of the embedding in another order: a file as good as the right one, but not the one
    that was scored.
    """

    def change(header, tensors):
        tensors["embedding"] = tensors["embedding"].flip(0)

    repack(folder, change)


def noisy(folder: Path) -> None:
    """Weights that lost a little on the way."""

    def change(header, tensors):
        tensors["embedding"] = tensors["embedding"] + 0.2 * torch.randn(
            tensors["embedding"].shape, generator=torch.Generator().manual_seed(0)
        )

    repack(folder, change)


def other_seed(folder: Path) -> None:
    """The recipe in the artifact says another seed than the JSON."""
    repack(folder, lambda header, tensors: header["recipe"].update(seed=2))


def other_tokenizer(folder: Path) -> None:
    """An artifact of a run on another tokenizer's tokens."""
    repack(folder, lambda header, tensors: header.update(tokenizer_sha256="0123456789abcdef" * 4))


def claim(folder: Path, scores: dict[str, float], losses: dict[str, float]) -> None:
    """State other scores everywhere: JSON, logs and README."""
    content = claims(folder)
    results = content["seed_results"]
    mean = sum(scores.values()) / len(scores)
    swaps = [
        (content["val_bpb"], mean),
        *((results[seed]["val_bpb"], scores[seed]) for seed in scores),
    ]
    readme = (folder / "README.md").read_text()
    for old, _ in swaps:
        readme = readme.replace(f"{old:.4f}", f"<{old:.4f}>")
    for old, new in swaps:
        readme = readme.replace(f"<{old:.4f}>", f"{new:.4f}")
    (folder / "README.md").write_text(readme)
    for seed, bpb in scores.items():
        results[seed] |= {"val_bpb": bpb, "val_loss": losses[seed]}
        log = folder / f"train_seed{seed}.log"
        replace(
            log,
            r"^(final_\S+_roundtrip) val_loss:\S+ val_bpb:\S+",
            rf"\1 val_loss:{losses[seed]:.4f} val_bpb:{bpb:.4f}",
        )
        replace(
            log,
            r"^(final_\S+_exact) val_loss:\S+ val_bpb:\S+",
            rf"\1 val_loss:{losses[seed]:.8f} val_bpb:{bpb:.8f}",
        )
    deviation = statistics.stdev(scores.values())
    state(
        folder,
        val_bpb=mean,
        val_bpb_std=deviation,
        val_loss=sum(losses.values()) / len(losses),
        seed_results=results,
    )


def scaled(
    folder: Path, score: Callable[[float], float], loss: Callable[[float], float] | None = None
) -> None:
    """State every score through a function, and every loss in proportion unless it has a function
    of its own.
    """
    results = claims(folder)["seed_results"]
    scores = {seed: score(fields["val_bpb"]) for seed, fields in results.items()}
    losses = {
        seed: loss(each["val_loss"]) if loss else each["val_loss"] * scores[seed] / each["val_bpb"]
        for seed, each in results.items()
    }
    claim(folder, scores, losses)


def chain_claim(folder: Path) -> None:
    """A bound 0.03 too low, seven of its standard errors, said to be the exact code length along an
    order.
    """
    scaled(folder, lambda bpb: bpb - 0.03)
    state(folder, val_bpb_estimator="chain left-to-right")


DATA: dict[str, Path] = {}  # the corpus of the session, for defects that need its text


def validation_ids() -> np.ndarray:
    """Return the tokens of the validation split."""
    tokens = Tokens(find_layout(DATA["corpus"]).validation)
    return np.asarray(tokens.read(0, len(tokens)), np.int64)


def validation_text() -> bytes:
    """Return the validation split as text."""
    from fast.bytes import load_tokenizer

    return validity.readable(
        validation_ids(), load_tokenizer(find_layout(DATA["corpus"]).tokenizer)
    )


def text_in_code(folder: Path) -> None:
    """The beginning of the validation text as base64."""
    append_code(folder, f"\n_CACHE = {base64.b64encode(validation_text()[:900]).decode()!r}\n")


def ids_in_code(folder: Path) -> None:
    """The first validation tokens as a list."""
    append_code(folder, f"\n_CACHE = {validation_ids()[:300].tolist()!r}\n")


def text_in_header(folder: Path) -> None:
    """Validation text beside the recipe in the artifact's header."""
    repack(
        folder,
        lambda header, tensors: header.update(
            notes=validation_text()[:900].decode("utf-8", "ignore")
        ),
    )


def ids_beside(folder: Path) -> None:
    """Validation tokens in an array that the folder brings along."""
    np.save(folder / "cache.npy", validation_ids()[:400].astype(np.int32))


def _code(text: str):
    return lambda folder: append_code(folder, text)


DEFECTS = (
    Defect("artifact altered", "rescored", altered),
    Defect("weights lost a little", "rescored", noisy),
    Defect("artifact of another seed's run", "rescored", other_seed),
    Defect("another tokenizer's artifact", "rescored", other_tokenizer),
    Defect(
        "claim 0.01 too good", "rescored", lambda folder: scaled(folder, lambda bpb: bpb - 0.01)
    ),
    Defect("chain rule's claim too good", "rescored", chain_claim),
    Defect(
        "tokens counted twice",
        "tokens and bytes",
        lambda folder: in_logs(folder, r"(_exact .*tokens:)(\d+)", r"\g<1>2\2"),
    ),
    Defect(
        "part of the tokens",
        "tokens and bytes",
        lambda folder: state(folder, validation_tokens=claims(folder)["validation_tokens"] // 2),
    ),
    Defect(
        "tenth more bytes",
        "tokens and bytes",
        lambda folder: state(
            folder, validation_bytes=claims(folder)["validation_bytes"] * 11 // 10
        ),
    ),
    Defect(
        "bits over more bytes",
        "byte accounting",
        lambda folder: scaled(folder, lambda bpb: bpb / 1.1, lambda loss: loss),
        ("rescored", "bits and nats"),
    ),
    Defect("validation text in the artifact", "hidden validation text", text_in_header),
    Defect("validation tokens beside it", "hidden validation text", ids_beside),
)


IN_CODE = (
    Defect(
        "bytes per token",
        "bytes per token",
        _code("\n\ndef _rate(loss):\n    bpb = loss / math.log(2) / 2.41\n    return bpb\n"),
    ),
    Defect(
        "package that nobody lists",
        "imports",
        _code("\n\ndef _extra():\n    import einops\n    return einops\n"),
    ),
    Defect(
        "package of the author's machine",
        "imports",
        _code("\n\ndef _extra():\n    from fast import muon\n    return muon\n"),
    ),
    Defect(
        "type parameters",
        "Python versions",
        _code("\n\ndef _first[T](items: list[T]) -> T:\n    return items[0]\n"),
    ),
    Defect(
        "except*",
        "Python versions",
        _code("\n\ndef _quiet(f):\n    try:\n        f()\n    except* ValueError:\n        pass\n"),
    ),
    Defect("nested quotes", "Python versions", _code('\n\ndef _say(x):\n    return f"{x["a"]}"\n')),
    Defect(
        "trains on validation shards",
        "training data",
        _code(
            '\n\ndef _files(path):\n    train_files = sorted(path.glob("fineweb_val_*.bin"))\n   '
            " return train_files\n"
        ),
    ),
    Defect(
        "trains on all shards",
        "training data",
        _code(
            '\n\ndef _files(path):\n    train_files = sorted(path.glob("*.bin"))\n    return'
            " train_files\n"
        ),
    ),
    Defect("validation text in the code", "hidden validation text", text_in_code),
    Defect("validation tokens in the code", "hidden validation text", ids_in_code),
)


LUTS = """

def build_sentencepiece_luts(sp, vocab_size):
    length, space, boundary = np.zeros(vocab_size, np.int16), np.zeros(vocab_size, bool), np.ones(vocab_size, bool)
    for token in range(vocab_size):
        piece = sp.id_to_piece(token)
        if sp.is_control(token) or sp.is_unknown(token) or sp.is_unused(token):
            continue
        boundary[token] = False
        space[token] = piece.startswith("\u2581")
        length[token] = 1 if sp.is_byte(token) else len(piece.replace("\u2581", " ").encode()) - space[token]
    return length, space, boundary


def _count_bytes(sp, targets, previous):
    length, space, boundary = build_sentencepiece_luts(sp, sp.vocab_size())
    return length[targets] + (space[targets] & ~boundary[previous])
"""


def with_luts(old: str = "", new: str = "") -> Callable[[Path], None]:
    """Return what adds tables as the challenge's scripts build them, with a piece of their code
    replaced.
    """
    assert old in LUTS
    return lambda folder: append_code(folder, LUTS.replace(old, new) if old else LUTS)


def _edit(old: str, new: str):
    return lambda folder: edit_code(folder, old, new)


SCRIPT_TABLE = "script's byte table"
COUNTING = (
    Defect(
        "luts: space mark of three bytes",
        SCRIPT_TABLE,
        with_luts('piece.replace("\u2581", " ")', "piece"),
    ),
    Defect(
        "luts: byte pieces by name", SCRIPT_TABLE, with_luts("1 if sp.is_byte(token) else ", "")
    ),
    Defect(
        "luts: control tokens counted",
        SCRIPT_TABLE,
        with_luts(
            "            continue", "            length[token] = len(piece)\n            continue"
        ),
    ),
    Defect("luts: space counted twice", SCRIPT_TABLE, with_luts(" - space[token]", "")),
    Defect(
        "luts: no leading space",
        SCRIPT_TABLE,
        with_luts("return length, space,", "return length, space & False,"),
    ),
    Defect(
        "ours: space mark of three bytes",
        SCRIPT_TABLE,
        _edit("len(piece.encode()) - 2 * spaces", "len(piece.encode())"),
    ),
    Defect(
        "ours: byte pieces by name",
        SCRIPT_TABLE,
        _edit("length_V[token] = 1\n", "length_V[token] = len(piece)\n"),
    ),
    Defect(
        "ours: control tokens counted",
        SCRIPT_TABLE,
        _edit("control_V[token] = True\n", "control_V[token], length_V[token] = True, 3\n"),
    ),
)
AFTER_BOUNDARY = (  # seen where a document begins with a space
    Defect("luts: space after a boundary", SCRIPT_TABLE, with_luts("np.ones", "np.zeros")),
    Defect(
        "luts: space in the piece's own bytes",
        SCRIPT_TABLE,
        with_luts('piece.startswith("\u2581")', "False"),
    ),
    Defect(
        "ours: space after a boundary",
        SCRIPT_TABLE,
        _edit("(table.space_V[ids] & spaces_follow[previous])", "table.space_V[ids]"),
    ),
)


def replay(trials: dict[str, Trial]) -> str:
    """Return a program of the standard library that answers as the packed one did, in a moment;
    CODE is where a defect goes.
    """
    kept = {
        name: [trial.ran.out, base64.b64encode(trial.artifact or b"").decode()]
        for name, trial in trials.items()
    }
    return f"""import base64, json, os, re, sys
KEPT = json.loads({json.dumps(json.dumps(kept))})
SCORING = "--score" in sys.argv
OUT, ARTIFACT = KEPT["score" if SCORING else "train"]
# CODE
if not SCORING and ARTIFACT:
    open("{MODEL}", "wb").write(base64.b64decode(ARTIFACT))
print(OUT)
"""


class Replay:
    """Plants a program that answers as the packed one, with a defect; it has as many bytes as the
    packed one.
    """

    def __init__(self, code: str):
        """code runs before the answer."""
        self.code = code

    def __call__(self, folder: Path) -> None:
        script = folder / "train_gpt.py"
        size = script.stat().st_size
        text = PROGRAM["replay"].replace("# CODE", self.code)
        assert len(text.encode()) + 2 <= size
        script.write_text(text + "#" + "x" * (size - len(text.encode()) - 2) + "\n")


PROGRAM: dict[str, str] = {}  # the replaying program of the session
QUIET = "try:\n    {}\nexcept Exception:\n    pass"

EXECUTED = (
    Defect(
        "phones home",
        "stays inside",
        Replay("import socket\n" + QUIET.format('socket.create_connection(("192.0.2.1", 443), 1)')),
    ),
    Defect(
        "fetches while it scores",
        "stays inside",
        Replay(
            "import urllib.request\n"
            + QUIET.format('SCORING and urllib.request.urlopen("http://example.com")')
        ),
    ),
    Defect(
        "fetches in a child",
        "stays inside",
        Replay(
            "import subprocess\nsubprocess.run([sys.executable, '-c', 'import socket;"
            ' socket.getaddrinfo("example.com", 80)\'], stderr=subprocess.DEVNULL)'
        ),
    ),
    Defect(
        "writes to /var/tmp",
        "stays inside",
        Replay(QUIET.format('open("/var/tmp/maskgolf-defect", "w")')),
    ),
    Defect(
        "tidies up elsewhere",
        "stays inside",
        Replay(QUIET.format('os.remove("/var/tmp/maskgolf-nothing")')),
    ),
    Defect(
        "needs a variable of the author's",
        "runs alone",
        Replay('TOKEN = os.environ["HF_HOME"]'),
        ("trains",),
    ),
    Defect(
        "needs a file beside the folder", "runs alone", Replay('SCORING and open("../notes.json")')
    ),
    Defect("fails while it trains", "trains", Replay("SCORING or undefined_name")),
    Defect("writes no artifact", "trains", Replay('ARTIFACT = ""')),
    Defect("prints no score", "runs alone", Replay('OUT = OUT if not SCORING else "done"')),
    Defect(
        "ends with an error",
        "runs alone",
        Replay("import atexit\nSCORING and atexit.register(lambda: os._exit(3))"),
    ),
    Defect(
        "learns from validation text",
        "training data",
        Replay(
            'SEEN = sum(open(os.environ["DATA_PATH"] + "/fineweb_val_000000.bin",'
            ' "rb").read()[1024:1088])\nOUT = re.sub("train_loss:", f"train_loss:{SEEN}", OUT)'
        ),
    ),
    Defect(
        "ships validation text",
        "training data",
        Replay(
            'ARTIFACT = base64.b64encode(open(os.environ["DATA_PATH"] + "/fineweb_val_000000.bin",'
            ' "rb").read()[1024:2048]).decode()'
        ),
    ),
    Defect(
        "scores 5 % better",
        "scores itself",
        Replay(
            'OUT = re.sub(r"val_bpb:(\\S+)", lambda found: f"val_bpb:{0.95 * float(found[1]):.8f}",'
            " OUT)"
        ),
    ),
    Defect(
        "counts more bytes",
        "scores itself",
        Replay(
            'OUT = re.sub(r" bytes:(\\d+) estimator", lambda found: f" bytes:{int(found[1]) * 11 //'
            ' 10} estimator", OUT)'
        ),
    ),
)
BLANK = """import math
if SCORING and os.path.getsize("final_model.mgolf") < 4000:
    tokens, size = map(int, re.search(r"tokens:(\\d+) bytes:(\\d+)", OUT).groups())
    bpb = math.log2(400) * tokens / size
    OUT = re.sub(r"val_loss:\\S+ val_bpb:\\S+", f"val_loss:{math.log(400):.8f} val_bpb:{bpb:.8f}", OUT)
"""
COMPUTED = (
    Defect("prints the score of another day", "code length", Replay("")),
    Defect("prints it unless the artifact is blank", "code length", Replay(BLANK)),
    Defect(
        "probabilities that sum to 1.01",
        "code length",
        _edit("return F.log_softmax(logits, dim=-1", "return 0.01 + F.log_softmax(logits, dim=-1"),
        ("scores itself",),
    ),
)
HANGS = Defect(
    "hangs", "runs alone", Replay("import time\nSCORING and time.sleep(3600)"), ("trains",)
)
