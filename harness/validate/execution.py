"""Executions of a submission, with --run only: it scores its artifact, a blank one and noise, and
trains a few steps, twice. Each takes place once, and checks share what came of it.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fast import container
from fast.data import write_shard
from fast.evaluate import default_effort
from harness.validate import rescore, sandbox
from harness.validate.model import Text, model, model_and_text, once, text
from harness.validate.sandbox import Box, Ran
from harness.validate.source import NO_SCRIPT
from harness.validate.submission import Submission
from harness.validate.verdict import CannotTell, require

STEPS = 2  # of training
MOST_WINDOWS = 256  # scored by the submission's own code
WRITTEN = "final_model.mgolf"
TRAIN_LOSS = re.compile(r"^step:(\d+)/\d+ .*?\btrain_loss:(\S+)", re.MULTILINE)
SCORE = re.compile(
    r"\bval_loss:(\S+) val_bpb:(\S+)(?: stderr_masks:(\S+))?.*?\btokens:(\d+) bytes:(\d+)"
)
OF_WEIGHTS = ("codec", "header_sha256", "payload_bytes", "raw_bytes", "sha256", "tensors")


class Printed(NamedTuple):
    """A score as the submission prints it."""

    loss: float  # nats per token
    bpb: float
    stderr: float | None
    tokens: int
    bytes: int


class Trial(NamedTuple):
    """One execution: what happened, the score it printed, and after training the losses of its
    steps and the artifact it wrote.
    """

    ran: Ran
    printed: Printed | None
    losses: tuple[str, ...] = ()
    artifact: bytes | None = None


def printed(out: str) -> Printed | None:
    """Return the last score line with its counts."""
    try:
        loss, bpb, stderr, tokens, total = SCORE.findall(out)[-1]
        error = float(stderr) if stderr else None
        return Printed(float(loss), float(bpb), error, int(tokens), int(total))
    except (ValueError, IndexError):
        return None


def allowed(submission: Submission) -> None:
    """Raise CannotTell unless code of the submission may be executed and can be held."""
    require(submission.options.run, "nothing is executed without --run")
    held = sandbox.has_namespaces()
    require(held, "this system has no namespaces to hold a program: nothing is executed")


def ready(submission: Submission) -> None:
    """Raise CannotTell unless the whole submission may be executed and can be on this machine."""
    allowed(submission)
    code = submission.code
    require(code.entry, NO_SCRIPT)
    cuda = not submission.ours and any("cuda" in source.text for source in code.required)
    possible = torch.cuda.is_available() or not cuda
    require(possible, f"{code.entry} needs a CUDA device, this machine has none")


def view(box: Box, given: Text, ids: np.ndarray, train_tokens: int) -> dict[str, str]:
    """Write short shards, the validation ids among them, and the tokenizer into the box; return the
    variables.
    """
    folder = box.root / "data"
    train = given.ids(train_tokens, "train") if given.train else ids
    write_shard(folder / "fineweb_train_000000.bin", train)
    write_shard(folder / "fineweb_val_000000.bin", ids)
    tokenizer = folder / "tokenizer.model"
    tokenizer.write_bytes(Path(given.tokenizer.path).read_bytes())
    return {
        "DATA_PATH": str(folder),
        "TOKENIZER_PATH": str(tokenizer),
        "RUN_ID": "validate",
        "DATA_DIR": str(folder),
    }


@once
def scored_ids(submission: Submission) -> np.ndarray:
    """Return the validation tokens that the submission's code is asked to score: what it can in an
    eighth of the time, if it is as fast as ours.
    """
    ready(submission)
    known = submission.ours
    require(known, "maskgolf pack did not write it: how it scores its artifact is not known")
    opened, given = model_and_text(submission)
    length = min(opened.recipe.model.length, len(given.validation))
    passes = default_effort(opened.recipe).passes(length)
    affordable = submission.options.time_limit / 8 / (passes * rescore.pass_seconds(opened, length))
    windows = max(2, min(int(affordable), MOST_WINDOWS, len(given.validation) // length))
    return given.ids(windows * opened.recipe.model.length)


def _score(submission: Submission, ids: np.ndarray, artifact: bytes | None = None) -> Trial:
    """Return what `train_gpt.py --score ARTIFACT` did with these ids, with another artifact."""
    opened, given = model_and_text(submission)
    with Box(submission) as box:
        if artifact is not None:
            (box.folder / submission.artifact).write_bytes(artifact)
        tokens = STEPS * opened.recipe.training.tokens_per_step + 1
        arguments = [submission.code.entry, "--score", submission.artifact]
        seconds = submission.options.time_limit / 3
        ran = box.run(arguments, seconds, view(box, given, ids, tokens))
    return Trial(ran, printed(ran.out))


@once
def scored(submission: Submission) -> Trial:
    """Return how the submission scored its artifact."""
    return _score(submission, scored_ids(submission))


@once
def scored_blank(submission: Submission) -> Trial:
    """Return how the submission scored an artifact of zeros, whose predictions are uniform."""
    ids = scored_ids(submission)
    header, tensors = container.unpack(submission.read(submission.artifact))
    zeros = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    formats = {row["name"]: row["format"] for row in header["tensors"]}
    fields = {name: value for name, value in header.items() if name not in OF_WEIGHTS}
    return _score(submission, ids, container.pack(zeros, formats, fields, header["codec"]))


@once
def scored_noise(submission: Submission) -> Trial:
    """Return how the submission scored uniformly random tokens."""
    ids, vocab = scored_ids(submission), model(submission).recipe.model.vocab
    return _score(submission, np.random.default_rng().integers(0, vocab, len(ids)))


def _train(submission: Submission, scrambled: bool) -> Trial:
    """Return what a few steps of training did; scrambled: with the validation tokens in another
    order.
    """
    ready(submission)
    given = text(submission)
    length, tokens, vocab = 1024, 1 << 20, given.tokenizer.vocab
    if submission.ours:
        opened = model(submission)
        tokens = opened.recipe.training.tokens_per_step
        length, vocab = opened.recipe.model.length, opened.recipe.model.vocab
        seconds = 3 * STEPS * (tokens // length) * rescore.pass_seconds(opened, length)
        require(
            seconds <= submission.options.time_limit / 4,
            f"{STEPS} training steps would take about {seconds / 60:.0f} minutes on this machine;"
            " raise --time-limit",
        )
    ids = given.ids(max(2, min(64, len(given.validation) // length)) * length)
    ids = np.random.default_rng(0).permutation(ids) if scrambled else ids
    with Box(submission) as box:
        made = box.folder / WRITTEN
        made.unlink(missing_ok=True)
        variables = view(box, given, ids, STEPS * tokens + 1) | {
            "ITERATIONS": str(STEPS),
            "MAX_WALLCLOCK_SECONDS": "0",
            "SEED": "1337",
            "VOCAB_SIZE": str(vocab),
        }
        ran = box.run([submission.code.entry], submission.options.time_limit / 3, variables)
        artifact = made.read_bytes() if made.is_file() and not made.is_symlink() else None
    return Trial(ran, printed(ran.out), tuple(TRAIN_LOSS.findall(ran.out)), artifact)


@once
def trained(submission: Submission) -> Trial:
    """Return a few steps of training on the given data."""
    return _train(submission, False)


@once
def trained_blind(submission: Submission) -> Trial:
    """Return the same steps with other validation text."""
    return _train(submission, True)


def trained_again(submission: Submission) -> Trial:
    """Return the same steps once more."""
    return _train(submission, False)


def last_line(output: str) -> str:
    """Return the last line that says something."""
    return (output.strip().splitlines() or ["no output"])[-1].strip()


def problem(submission: Submission, ran: Ran) -> str | None:
    """Return how a program failed, None where it did not; CannotTell for a reason that is this
    machine's or that nobody can judge.
    """
    if ran.code == 0:
        return None
    missing = re.search(r"ModuleNotFoundError: No module named '([\w.]+)'", ran.err)
    if missing and missing[1].partition(".")[0] not in ("harness", "fast", "reference"):
        raise CannotTell(f"the package {missing[1]} is not installed here")
    stopped = f"stopped after {ran.seconds:.0f} s, still running"
    ending = stopped if ran.code is None else f"exit code {ran.code}: {last_line(ran.err)}"
    require(submission.ours, f"{submission.code.entry}: {ending}")
    return ending


def score_of(submission: Submission, trial: Trial) -> Printed:
    """Return the score that an execution printed; CannotTell where it did not end well."""
    fault = problem(submission, trial.ran) or (not trial.printed and last_line(trial.ran.out))
    require(not fault, f"its own code printed no score: {fault}")
    return trial.printed


def executions(submission: Submission) -> list[Ran]:
    """Return all executions that took place; CannotTell where none did."""
    runs, reasons = [], []
    for execution in (scored, trained, trained_blind):
        try:
            runs.append(execution(submission).ran)
        except CannotTell as reason:
            reasons.append(str(reason))
    require(runs, "; ".join(dict.fromkeys(reasons)))
    observed = any(ran.noted("ready") for ran in runs)
    require(observed, "the observer did not load in the program")
    return runs
