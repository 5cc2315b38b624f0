"""Checks that execute the submission, with --run only: it scores and trains alone, without network,
and training never sees validation text.
"""

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.validate import rescore
from harness.validate.finding import CannotTell, Check, Explain, Finding, failed, judged, passed
from harness.validate.opened import Model, Text, model, once, text, together
from harness.validate.portable import sources
from harness.validate.submission import Submission

if TYPE_CHECKING:
    from harness.validate.sandbox import Box, Ran

STEPS = 2  # of training
MOST_WINDOWS = 256  # scored by the submission's own code
WRITTEN = "final_model.mgolf"
TRAIN_LOSS = re.compile(r"^step:(\d+)/\d+ .*?\btrain_loss:(\S+)", re.MULTILINE)
SCORE = re.compile(
    r"\bval_loss:(\S+) val_bpb:(\S+)(?: stderr_masks:(\S+))?.*?\btokens:(\d+) bytes:(\d+)"
)
TRAINING = re.compile(r"train|calib", re.IGNORECASE)
VALIDATION = re.compile(r"(^|[^a-z])val(id(ation)?)?([^a-z]|$)", re.IGNORECASE)
SHARDS = re.compile(r"\*.*\.bin|\.bin$")


class Printed(NamedTuple):
    """A score as the submission prints it."""

    bpb: float
    stderr: float | None
    tokens: int
    bytes: int


class Trial(NamedTuple):
    """One execution: what happened, the score it printed, and after training the losses of its
    steps and the artifact it wrote.
    """

    ran: "Ran"
    printed: Printed | None
    losses: tuple[str, ...] = ()
    artifact: bytes | None = None


def ready(submission: Submission) -> None:
    """Raise CannotTell unless the submission may be executed and can be on this machine."""
    import torch

    if not submission.options.run:
        raise CannotTell("nothing is executed without --run")
    if submission.code.entry is None:
        raise CannotTell("there is no Python in the folder")
    if (
        not submission.ours
        and not torch.cuda.is_available()
        and any("cuda" in source.text for source in sources(submission))
    ):
        raise CannotTell(f"{submission.code.entry} needs a CUDA device, this machine has none")


def view(
    box: "Box", given: Text, windows: int, length: int, train_tokens: int, scrambled: bool = False
) -> dict[str, str]:
    """Write short shards and the tokenizer into the box, the validation tokens in another order if
    scrambled; return the variables.
    """
    import numpy as np

    from fast.data import write_shard

    place = box.root / "data"
    validation = np.asarray(given.ids(windows * length), np.int64)
    if scrambled:
        validation = np.random.default_rng(0).permutation(validation)
    train = given.ids(train_tokens, "train") if given.train else validation
    write_shard(place / "fineweb_train_000000.bin", train)
    write_shard(place / "fineweb_val_000000.bin", validation)
    tokenizer = place / "tokenizer.model"
    tokenizer.write_bytes(Path(given.tokenizer.path).read_bytes())
    return {
        "DATA_PATH": str(place),
        "TOKENIZER_PATH": str(tokenizer),
        "RUN_ID": "validate",
        "DATA_DIR": str(place),
    }


def printed(out: str) -> Printed | None:
    """Return the last score line with its counts."""
    found = list(SCORE.finditer(out))
    if not found:
        return None
    try:
        _, bpb, stderr, tokens, total = found[-1].groups()
        return Printed(float(bpb), float(stderr) if stderr else None, int(tokens), int(total))
    except ValueError:
        return None


def few_windows(submission: Submission, opened: Model, given: Text) -> int:
    """Return how many windows the submission's code can score in an eighth of the time, as fast as
    ours does.
    """
    from fast.evaluate import default_effort

    length = min(opened.recipe.model.length, len(given.validation))
    passes = default_effort(opened.recipe).passes(length)
    affordable = submission.options.time_limit / 8 / (passes * rescore.pass_seconds(opened, length))
    return max(2, min(int(affordable), MOST_WINDOWS, len(given.validation) // length))


@once
def scored(submission: Submission) -> tuple[Trial, int]:
    """Return what `train_gpt.py --score ARTIFACT` did, and over how many windows."""
    from harness.validate.sandbox import Box

    ready(submission)
    if not submission.ours:
        raise CannotTell("maskgolf pack did not write it: how it scores its artifact is not known")
    opened, given = together(submission)
    windows, length = few_windows(submission, opened, given), opened.recipe.model.length
    with Box(submission) as box:
        variables = view(
            box, given, windows, length, STEPS * opened.recipe.training.tokens_per_step + 1
        )
        ran = box.run(
            [submission.code.entry, "--score", submission.artifact],
            submission.options.time_limit / 3,
            variables,
        )
    return Trial(ran, printed(ran.out)), windows


def training(submission: Submission, scrambled: bool) -> Trial:
    """Return what a few steps of training did; scrambled: with the validation tokens in another
    order.
    """
    from harness.validate.sandbox import Box

    given = text(submission)
    length, tokens, vocab = 1024, 1 << 20, given.tokenizer.vocab
    if submission.ours:
        opened = model(submission)
        length, tokens, vocab = (
            opened.recipe.model.length,
            opened.recipe.training.tokens_per_step,
            opened.recipe.model.vocab,
        )
        rows = tokens // length
        needed = 3 * STEPS * rows * rescore.pass_seconds(opened, length)
        if needed > submission.options.time_limit / 4:
            raise CannotTell(
                f"{STEPS} training steps would take about {needed / 60:.0f} minutes on this"
                " machine; raise --time-limit"
            )
    with Box(submission) as box:
        (box.folder / WRITTEN).unlink(missing_ok=True)
        windows = max(2, min(64, len(given.validation) // length))
        variables = view(box, given, windows, length, STEPS * tokens + 1, scrambled)
        own = {
            "ITERATIONS": str(STEPS),
            "MAX_WALLCLOCK_SECONDS": "0",
            "SEED": "1337",
            "VOCAB_SIZE": str(vocab),
        }
        ran = box.run([submission.code.entry], submission.options.time_limit / 3, variables | own)
        made = box.folder / WRITTEN
        artifact = made.read_bytes() if made.is_file() and not made.is_symlink() else None
    return Trial(ran, printed(ran.out), tuple(TRAIN_LOSS.findall(ran.out)), artifact)


@once
def trained(submission: Submission) -> Trial:
    """Return a few steps of training on the given data."""
    ready(submission)
    return training(submission, False)


@once
def trained_blind(submission: Submission) -> Trial:
    """Return the same steps with other validation text."""
    trained(submission)
    return training(submission, True)


def last_line(output: str) -> str:
    """Return the last line that says something."""
    return next(
        (line.strip() for line in reversed(output.splitlines()) if line.strip()), "no output"
    )


def ended(submission: Submission, ran: "Ran") -> None:
    """Raise CannotTell where a program ended for a reason that is this machine's or that nobody can
    judge; nothing otherwise.
    """
    missing = re.search(r"ModuleNotFoundError: No module named '([\w.]+)'", ran.err)
    if missing and missing[1].partition(".")[0] not in ("harness", "fast", "reference"):
        raise CannotTell(f"the package {missing[1]} is not installed here")
    if not submission.ours and ran.code != 0:
        ending = (
            "did not end in time"
            if ran.code is None
            else f"ended with exit code {ran.code}: {last_line(ran.err)}"
        )
        raise CannotTell(f"{submission.code.entry} {ending}")


def problem(ran: "Ran") -> str | None:
    """Return how a program failed."""
    if ran.code is None:
        return f"stopped after {ran.seconds:.0f} s, still running"
    return f"exit code {ran.code}: {last_line(ran.err)}" if ran.code else None


def fence(ran: "Ran") -> str:
    """Say what held the program."""
    return "held by the kernel" if ran.kernel else "held by the interpreter alone"


def runs_alone(submission: Submission) -> Finding:
    """The script scores its artifact in a clean copy, by itself."""
    trial, windows = scored(submission)
    ended(submission, trial.ran)
    fault = problem(trial.ran) or (
        None
        if trial.printed
        else f"no line with val_loss, val_bpb, tokens and bytes: {last_line(trial.ran.out)}"
    )
    if fault:
        return failed(f"{submission.code.entry} --score: {fault}")
    return passed(
        f"scored {windows} windows in {trial.ran.seconds:.1f} s in a clean copy, {fence(trial.ran)}"
    )


def trains(submission: Submission) -> Finding:
    """A few steps of training run, end with an artifact and its score."""
    trial = trained(submission)
    ended(submission, trial.ran)
    fault = problem(trial.ran)
    if not fault and submission.ours:
        fault = None if trial.artifact else f"it wrote no {WRITTEN}"
        fault = fault or (None if trial.printed else "it printed no score of the artifact")
    if fault:
        return failed(f"{STEPS} steps of {submission.code.entry}: {fault}")
    losses = ", ".join(loss for _, loss in trial.losses) or "not printed"
    return passed(
        f"{STEPS} steps in {trial.ran.seconds:.1f} s, training losses {losses}, {fence(trial.ran)}"
    )


def executions(submission: Submission) -> "list[Ran]":
    """Return all executions that took place; CannotTell where none did."""
    found, reasons = [], []
    for execution in (
        lambda: scored(submission)[0],
        lambda: trained(submission),
        lambda: trained_blind(submission),
    ):
        try:
            found.append(execution().ran)
        except CannotTell as reason:
            reasons.append(str(reason))
    if not found:
        raise CannotTell(reasons[0])
    if not any(ran.noted("ready") for ran in found):
        raise CannotTell("the guard did not load in the program")
    return found


def no_network(submission: Submission) -> Finding:
    """No execution reached for the network."""
    found = executions(submission)
    tried = list(dict.fromkeys(note for ran in found for note in ran.noted("network")))
    return _complete(
        submission,
        found,
        [f"it reached for the network: {', '.join(tried[:5])}"] if tried else [],
        "no connection was tried",
    )


def no_writes_outside(submission: Submission) -> Finding:
    """No execution wrote outside its folder."""
    found = executions(submission)
    tried = list(dict.fromkeys(note for ran in found for note in ran.noted("write")))
    tried += [
        last_line(ran.err)
        for ran in found
        if ran.kernel and not tried and "Read-only file system" in ran.err
    ]
    return _complete(
        submission,
        found,
        [f"it wrote outside its folder: {', '.join(tried[:5])}"] if tried else [],
        "nothing was written outside the folder",
    )


def _complete(
    submission: Submission, found: "list[Ran]", faults: list[str], evidence: str
) -> Finding:
    """Judge; executions that failed or did not end say nothing good."""
    if not faults and any(ran.code != 0 for ran in found):
        raise CannotTell(f"{evidence} in what was executed, but it did not run to its end")
    kernel = (
        "network and files shut off by the kernel"
        if all(ran.kernel for ran in found)
        else "watched by the interpreter alone"
    )
    return judged(faults, f"{evidence} in {len(found)} executions, {kernel}")


def mixed_up(tree: ast.AST) -> list[str]:
    """Return where training data are taken from validation shards, or from all shards, by the names
    that a program uses.
    """
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [ast.unparse(target) for target in targets]
        if not any(TRAINING.search(name) for name in names) or any(
            VALIDATION.search(name) for name in names
        ):
            continue
        strings = [
            each.value
            for each in ast.walk(node.value)
            if isinstance(each, ast.Constant) and isinstance(each.value, str)
        ]
        shards = [
            each
            for each in strings
            if SHARDS.search(each)
            and (VALIDATION.search(each.replace("_", " ")) or not TRAINING.search(each))
        ]
        if isinstance(node.value, ast.Call) and re.search(
            r"loader|load_data|load_tokens|stream", ast.unparse(node.value.func), re.IGNORECASE
        ):
            first = [ast.unparse(argument) for argument in node.value.args[:1]]
            shards += [
                each
                for each in first
                if VALIDATION.search(each.replace("_", " ")) and not TRAINING.search(each)
            ]
        found += [f"{names[0]} = ... {each} (line {node.lineno})" for each in shards]
    return found


def training_data(submission: Submission) -> Finding:
    """Training does not change when the validation text does, and takes no shards of its."""
    faults = [
        f"{source.label}: {each}"
        for source in sources(submission)
        if source.tree is not None
        for each in mixed_up(source.tree)
    ]
    if faults:
        return failed(f"training takes validation shards by name: {'; '.join(faults[:5])}")
    one, other = trained(submission), trained_blind(submission)
    for trial in (one, other):
        ended(submission, trial.ran)
        if problem(trial.ran):
            raise CannotTell(f"training did not run to its end: {problem(trial.ran)}")
    if one.artifact is None or not one.losses:
        raise CannotTell("training printed no losses or wrote no artifact that could be compared")
    opened = len(one.ran.noted("read"))
    if (one.losses, one.artifact) == (other.losses, other.artifact):
        return passed(
            f"{STEPS} steps with other validation text: the same {len(one.losses)} losses and the"
            f" same artifact; {opened} data files opened"
        )
    again = training(submission, False)
    if (one.losses, one.artifact) != (again.losses, again.artifact):
        raise CannotTell(
            "training does not repeat on this machine, so that nothing can be compared"
        )
    what = "other training losses" if one.losses != other.losses else "another artifact"
    return failed(f"other validation text gives {what} after {STEPS} steps")


def scores_itself(submission: Submission) -> Finding:
    """The submission's own code scores its artifact as ours does, over the same tokens and
    bytes.
    """
    import numpy as np

    from fast.evaluate import default_effort

    trial, windows = scored(submission)
    if trial.printed is None or trial.ran.code:
        raise CannotTell("its own code printed no score")
    opened, given = together(submission)
    recipe = opened.recipe
    part = given._replace(validation=_First(given.validation, windows * recipe.model.length))
    found, own = rescore.measure(opened, part, default_effort(recipe), np.inf), trial.printed
    limit = rescore.allowed(found, own.bpb, own.stderr)
    faults = []
    if (own.tokens, own.bytes) != (found.score.tokens, found.score.bytes):
        faults.append(
            f"it counts {own.tokens:,} tokens and {own.bytes:,} bytes where there are"
            f" {found.score.tokens:,} and {found.score.bytes:,}"
        )
    if not abs(own.bpb - found.score.bpb) <= limit:
        faults.append(f"it scores {own.bpb:.6f} where {found.score.bpb:.6f} ± {limit:.6f} is right")
    return judged(
        faults,
        f"{own.bpb:.6f} by its code, {found.score.bpb:.6f} by ours, on {own.tokens:,} tokens and"
        f" {own.bytes:,} bytes",
    )


class _First:
    """The first tokens of a stream."""

    def __init__(self, tokens, count: int):
        self.tokens, self.count, self.paths = tokens, min(count, len(tokens)), tokens.paths

    def __len__(self) -> int:
        return self.count

    def read(self, start: int, stop: int, vocab: int | None = None):
        """Return tokens start..stop."""
        return self.tokens.read(start, min(stop, self.count), vocab)


CHECKS = (
    Check(
        "runs alone",
        "runs",
        runs_alone,
        Explain(
            "With --run: train_gpt.py scores the artifact in a temporary copy of the folder, in a"
            " fresh process with none of your variables, in time.",
            "Scripts that read a file of the author's machine, needed a folder beside them, or"
            " hung.",
            "Run it in an empty container: everything it needs is in the folder, DATA_PATH and"
            " TOKENIZER_PATH.",
        ),
    ),
    Check(
        "trains",
        "runs",
        trains,
        Explain(
            "With --run: two steps of training run to their end, write the artifact and print its"
            " score.",
            "Scripts that were cut down for size after the run and never started again.",
            "Start the packed script with ITERATIONS=2 before you submit.",
        ),
    ),
    Check(
        "no network",
        "runs",
        no_network,
        Explain(
            "With --run: no execution opens a connection. Where the system allows, the kernel gives"
            " it no network at all.",
            "Scripts that fetch data, kernels or weights while they run or score.",
            "Put what is needed into the folder, or have it fetched before the run.",
        ),
    ),
    Check(
        "no writes outside",
        "runs",
        no_writes_outside,
        Explain(
            "With --run: no execution changes a file outside its own folder. Where the system"
            " allows, the kernel makes all else read-only. This is a check, not a jail: run code"
            " that you do not trust at all in a machine of its own.",
            "Scripts that write to the home folder or to absolute paths of the author's machine.",
            "Write below the current folder or to TMPDIR.",
        ),
    ),
    Check(
        "scores itself",
        "score",
        scores_itself,
        Explain(
            "With --run: the submission's own code, on a part of the validation text, gives the"
            " score, tokens and bytes that ours gives.",
            "Evaluators that drop text, count bytes twice or divide by something else.",
            "Ship the evaluator that maskgolf pack writes, unchanged.",
        ),
    ),
    Check(
        "training data",
        "validity",
        training_data,
        Explain(
            "No training shards are taken by a validation name. With --run: a few steps of training"
            " are repeated with other validation text; losses and artifact must be the same to the"
            " last bit.",
            "Globs that matched all shards, and calibration of quantisation on validation text.",
            "Open validation shards for validation only.",
        ),
    ),
)
