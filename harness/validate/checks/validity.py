"""Checks of validity: is the score a code length, and of text that the model had not seen?"""

import ast
import math
import re
from collections.abc import Iterator
from contextlib import suppress

import numpy as np

from fast import container
from fast.bytes import Tokenizer
from harness.validate import execution, hidden
from harness.validate.branches import Branches
from harness.validate.charged import unshown
from harness.validate.checks.likelihood import walked
from harness.validate.checks.log import variables
from harness.validate.model import MOST_TOKENS, model, text
from harness.validate.source import Source, strings
from harness.validate.submission import Submission
from harness.validate.verdict import (
    CannotTell,
    Finding,
    all_of,
    by_doubt,
    check,
    failed,
    judged,
    passed,
    require,
)

TRAINING = re.compile(r"train|calib", re.IGNORECASE)
VALIDATION = re.compile(r"(^|[^a-z])val(id(ation)?)?([^a-z]|$)", re.IGNORECASE)
SHARDS = re.compile(r"\*.*\.bin|\.bin$")
TRAINED = re.compile(r"train\w*\*.*\.bin")
TRAIN_FILES = re.compile(r"train\w*_(files?|data|glob|pattern|shards?)")  # a variable
SAID = re.compile(  # by a README
    r"\bval(?:idation)?[- ]only[- ]train|\b(?:trained on|pointed at) (?:the )?"
    r"val(?:idation)? (?:shard|split|set|data)s?\b",
    re.IGNORECASE,
)
DENIED = re.compile(r"\b(no|not|never|nothing|none|nor|without)\b|n't\b", re.IGNORECASE)
LOADER = re.compile(r"loader|load_data|load_tokens|stream", re.IGNORECASE)
SOURCES = tuple(".py .json .txt .toml .yaml .yml .cfg .csv .model .vocab .npy .npz .sh".split())
ROUNDING = 1e-5  # relative: of sums in float32 that are printed with eight digits
LUCK = 30.0  # nats: a code saves more on noise with a probability of e^-30
WIDEST = 0.1  # of log V: an error bar beyond it decides nothing
MOST_READABLE = 1 << 22  # tokens turned into bytes at once


def spaced(name: str) -> str:
    """Return a name with spaces between its words."""
    return name.replace("_", " ")


def mixed_up(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield where training data are taken from validation shards, or from all shards, by the names
    that a program uses: what is said of it, and the part of the program.
    """
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [ast.unparse(target) for target in targets]
        if not any(map(TRAINING.search, names)) or any(map(VALIDATION.search, names)):
            continue
        taken = [
            (part.value, part)
            for part in ast.walk(node.value)
            if isinstance(part, ast.Constant)
            and isinstance(text := part.value, str)
            and SHARDS.search(text)
            and (VALIDATION.search(spaced(text)) or not TRAINING.search(text))
        ]
        match node.value:
            case ast.Call(func=function, args=[first, *_]) if LOADER.search(ast.unparse(function)):
                data = ast.unparse(first)
                if VALIDATION.search(spaced(data)) and not TRAINING.search(data):
                    taken.append((data, node.value))
        for shards, part in taken:
            yield f"{names[0]} = ... {shards} (line {node.lineno})", part


def mixed_up_in(submission: Submission, sources: list[Source]) -> list[tuple[str, str]]:
    """Return where these sources take training data from validation shards, each with the doubt
    about it, "" where there is none; without what is never executed.
    """
    found = [(s, *row) for s in sources for row in mixed_up(s.tree)]
    try:
        branches = walked(submission).branches if found else Branches()
    except CannotTell:  # then every line counts
        branches = Branches()
    told = []
    for source, said, part in found:
        switches = branches.of(source.tree, part)
        if switches is not None:
            told.append((f"{source.label}: {said}", unshown(switches)))
    return told


def admitted(readme: str) -> str:
    """Return the words by which a README says that training takes the validation text, "" where it
    does not, or says the contrary.
    """
    for said in SAID.finditer(readme):
        sentence = re.split(r"[.!?:;]\s|\n\s*\n|\n[-*#|]", readme[: said.start()])[-1]
        if not DENIED.search(sentence):
            return said[0]
    return ""


@check(
    "training data",
    "score",
    caught="Globs that matched all shards, and calibration of quantisation on validation text.",
    fix="Open validation shards for validation only.",
)
def training_data(submission: Submission) -> Finding:
    """No training shards are taken by a validation name. With --run: a few steps of training are
    repeated with other validation text; losses and artifact must be the same to the last bit.
    """
    parsed = [source for source in submission.code.required if source.tree]
    places = mixed_up_in(submission, parsed)
    for name, value in variables(submission).items():
        shards = spaced(value or "")
        if TRAIN_FILES.fullmatch(name) and SHARDS.search(shards) and VALIDATION.search(shards):
            places.append((f"{name.upper()}={value}", ""))
    faults, doubts = by_doubt(places)
    by_name = "training takes validation shards by name"
    if faults:
        return failed(f"{by_name}: {'; '.join(faults[:5])}")
    require(submission.options.run or not doubts, f"{by_name}: {'; '.join(doubts[:5])}")
    said = admitted(submission.readme)
    require(submission.options.run or not said, f"the README says {said!r}")
    named = any(TRAINED.search(text) for s in parsed for text in strings(s.tree))
    if named and not submission.options.run:
        submission.code.require_read()
        return passed("training shards are named, none by a validation name; --run compares losses")
    made = []
    for trained in (execution.trained, execution.trained_blind):
        trial = trained(submission)
        fault = execution.problem(submission, trial.ran)
        require(not fault, f"training did not run to its end: {fault}")
        made.append((trial.losses, trial.artifact))
    (losses, artifact), other = made
    compared = losses and artifact is not None
    require(compared, "training printed no losses or wrote no artifact that could be compared")
    if made[0] == other:
        return passed(
            f"{execution.STEPS} steps with other validation text: the same {len(losses)} losses and"
            " the same artifact"
        )
    again = execution.trained_again(submission)
    repeated = made[0] == (again.losses, again.artifact)
    require(repeated, "training does not repeat on this machine, so that nothing can be compared")
    what = "other training losses" if losses != other[0] else "another artifact"
    return failed(f"other validation text gives {what} after {execution.STEPS} steps")


def normalised(submission: Submission) -> Finding:
    """A blank artifact, its weights all zero, predicts nothing: every token costs log V."""
    trial = execution.scored_blank(submission)
    score = execution.score_of(submission, trial)
    uniform = math.log(model(submission).recipe.model.vocab)
    nats, tokens = score.loss, len(execution.scored_ids(submission))
    bpb = score.loss * score.tokens / math.log(2) / max(score.bytes, 1)
    faults = [
        not abs(nats - uniform) <= uniform * ROUNDING
        and f"a blank artifact costs {nats:.6f} nats per token, log V is {uniform:.6f}",
        score.tokens != tokens and f"{score.tokens:,} tokens were scored of {tokens:,}",
        not abs(score.bpb - bpb) <= 1e-4 * bpb
        and f"{score.bpb:.6f} bits per byte where its own counts give {bpb:.6f}",
    ]
    return judged(
        faults, f"a blank artifact costs log V = {uniform:.6f} nats for each of {tokens:,} tokens"
    )


def no_peeking(submission: Submission) -> Finding:
    """Nothing compresses uniformly random tokens: each costs log V at the least."""
    score = execution.score_of(submission, execution.scored_noise(submission))
    uniform = math.log(model(submission).recipe.model.vocab)
    spread = 4 * (score.stderr or 0.0) * math.log(2) * score.bytes / max(score.tokens, 1)
    narrow = spread <= WIDEST * uniform
    require(narrow, f"the error bar of its score is {spread:.2g} nats per token")
    least = uniform - LUCK / max(score.tokens, 1) - spread
    evidence = f"random tokens cost {score.loss:.4f} nats each, no code has less than {least:.4f}"
    return judged([not score.loss >= least and evidence], evidence)


@check(
    "code length",
    "score",
    caught="Mixtures with an n-gram cache that were not renormalised, windows that were dropped,"
    " scores that were printed instead of computed, attention without its causal mask, caches"
    " updated with a window before the window is scored, targets shifted the wrong way.",
    fix="Take one log-softmax over the whole vocabulary after everything is mixed, in float32;"
    " charge every token once, before anything that depends on it is computed.",
)
def code_length(submission: Submission) -> Finding:
    """With --run: the submission's code scores a blank artifact, which predicts nothing, and random
    tokens, which nothing compresses. Each token must cost the logarithm of the vocabulary: less
    would be probabilities that sum to more than 1, tokens that are not charged, or tokens that were
    known before they were scored.
    """
    return all_of(submission, normalised, no_peeking)


def readable(ids: np.ndarray, tokenizer: Tokenizer) -> bytes:
    """Return the bytes that token ids stand for, piece by piece: control tokens are line ends."""
    processor, pieces = tokenizer.processor, []
    for token in range(tokenizer.vocab):
        piece = processor.id_to_piece(token)
        if processor.is_byte(token):
            pieces.append(bytes([int(piece[3:5], 16)]))
        else:
            control = tokenizer.table.control_V[token]
            pieces.append(b"\n" if control else piece.replace("\u2581", " ").encode())
    parts = np.split(ids, range(MOST_READABLE, len(ids), MOST_READABLE))
    return b"".join(b"".join([pieces[token] for token in part.tolist()]) for part in parts)


@check(
    "hidden validation text",
    "score",
    caught="A compressed prefix of the validation set in the artifact, whose tokens then cost"
    " nothing.",
    fix="Leave validation data out of everything that ships.",
)
def hidden_text(submission: Submission) -> Finding:
    """No stretch of 64 bytes of validation text, or of 32 validation tokens, lies in the artifact,
    in what it unpacks to, or in the code, base64, base85, compressed strings and lists of integers
    included. Stretches that the training text holds too do not count.
    """
    given = text(submission)
    ids, known = given.ids(MOST_TOKENS), given.ids(MOST_TOKENS, "train")
    as_text = hidden.Anchors(readable(ids, given.tokenizer), readable(known, given.tokenizer))
    as_ids = hidden.Anchors(ids.astype("<u2").tobytes(), known.astype("<u2").tobytes())
    faults, longest, looked = [], 0, 0
    for where, layer in searched(submission):
        looked += len(layer)
        # ids of 16 bits hold zeros or high bytes
        parts = hidden.spellings(layer) if b"\0" in layer or not layer.isascii() else []
        runs = {"text": [as_text.longest(layer)], "token ids": map(as_ids.longest, parts)}
        for kind, stretches in runs.items():
            best = max(stretches, default=hidden.Run(0, 0, 0))
            longest = max(longest, best.anchors)
            if best.anchors >= hidden.LEAST_RUN:
                faults.append(
                    f"{where}: {hidden.BLOCK * best.anchors} bytes of validation {kind} from byte"
                    f" {best.at:,} on"
                )
    anchors = len(as_text.keys) + len(as_ids.keys)
    return judged(
        faults[:5],
        f"{looked:,} bytes against {anchors:,} blocks of {len(ids):,} validation tokens that no"
        f" training text holds: longest stretch {hidden.BLOCK * longest} bytes"
        f" ({anchors * looked / 2.0**64:.0e} blocks expected by chance)",
    )


def searched(submission: Submission) -> Iterator[tuple[str, bytes]]:
    """Yield (where, bytes) of the files that a score is made from, and all that can be unpacked
    from them: artifacts, code and data beside it; not the logs and the README.
    """
    logs = {log.name for log in submission.logs}
    names = [name for name in submission.files if name.lower().endswith(SOURCES)]
    names = [n for n in names if n not in logs and not n.lower().endswith("requirements.txt")]
    for name in dict.fromkeys([*submission.artifacts, *names]):
        try:
            data = submission.read(name)
        except CannotTell:
            continue
        yield from hidden.layers(name, data)
        if name.endswith(".mgolf"):
            with suppress(ValueError, KeyError, TypeError):
                header, payload = container.read_header(data)
                yield f"{name}, unpacked", container.decompress_payload(header, payload)
