"""What `maskgolf watch` shows: how far a run is, from the files that training writes; loads no
torch.
"""

import json
import re
import signal
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from harness import paths
from harness.records import run_directory
from reference.recipe import InputError

EVERY = 1.0  # seconds between looks
RECENT = 10  # records that the time left is told by
WIDTH, HEIGHT = 60, 6  # characters of the curve
EIGHTHS = " ▁▂▃▄▅▆▇█"
STOPPED = re.compile(r"(step:\d+/\d+ )?stopped")  # the last line of train.log
ENDS = ("finished", "stopped")


@dataclass(frozen=True)
class State:
    """A run in progress. state: waiting (no step yet), training, scoring, finished, stopped; what
    is not known yet is None. Seconds are of the training clock.
    """

    run: str
    state: str
    step: int
    steps: int  # with those that are left
    loss: float | None = None  # nats per token, as the rest of the last record
    grad_norm: float | None = None
    lr_multiplier: float | None = None
    tokens_per_second: float | None = None
    seconds: float | None = None
    seconds_left: float | None = None
    val_bpb: float | None = None  # of the last validation
    bpb: float | None = None  # the best score of a finished run
    message: str | None = None  # why it stopped
    losses: list[tuple[int, float]] = field(default_factory=list)  # by step

    def plain(self) -> dict:
        """Return the JSON object."""
        return asdict(self)


def records(run: Path) -> list[dict]:
    """Return the whole lines of metrics.jsonl: the last one may be half written."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
    except OSError:
        return []
    known = []
    for line in lines:
        try:
            known.append(json.loads(line))
        except ValueError:
            break
    return known


def _summary(run: Path) -> dict | None:
    try:
        return json.loads((run / "summary.json").read_text())
    except (OSError, ValueError):
        return None


def _last_line(run: Path) -> str:
    try:
        return (run / "train.log").read_text().rstrip("\n").rpartition("\n")[2]
    except OSError:
        return ""


def _seconds_left(trained: list[dict]) -> float | None:
    """Return the time that the remaining steps take at the pace of the last records."""
    last, earlier = trained[-1], trained[-RECENT:][0]
    steps = last["step"] - earlier["step"]
    if steps <= 0:
        steps, earlier = last["step"], {"elapsed": 0.0}
    return last["remaining"] * (last["elapsed"] - earlier["elapsed"]) / steps


def read(run: Path) -> State:
    """Return how far a run is; InputError where its recipe.json is none."""
    iterations = run_directory.begun(run)["recipe"]["training"]["iterations"]
    known, summary = records(run), _summary(run)
    trained = [record for record in known if "train_loss" in record]
    validated = [record for record in known if "val_bpb" in record]
    if not trained:
        return State(str(run), "waiting", 0, iterations)
    last, message = trained[-1], _last_line(run)
    state = "training" if last["remaining"] else "scoring"
    scores = [score["bpb"] for score in (summary or {}).get("scores", ()) if score.get("bpb")]
    if summary:
        state, message = "finished", None
    elif STOPPED.match(message):
        state = "stopped"
    else:
        message = None
    return State(
        str(run),
        state,
        last["step"],
        last["step"] + last["remaining"],
        last["train_loss"],
        last["grad_norm"],
        last["lr_multiplier"],
        last["tokens_per_second"],
        last["elapsed"],
        _seconds_left(trained),
        validated[-1]["val_bpb"] if validated else None,
        min(scores, default=None),
        message,
        [(record["step"], record["train_loss"]) for record in trained],
    )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def curve(losses: list[tuple[int, float]], width: int = WIDTH, height: int = HEIGHT) -> list[str]:
    """Return the lines of an area under the loss, evenly spaced over steps, its largest and
    smallest value beside it; nothing for a single point.
    """
    if len(losses) < 2:
        return []
    first, last = losses[0][0], losses[-1][0]
    columns, index = [], 0
    for column in range(width):
        step = first + (last - first) * column / (width - 1)
        while index < len(losses) - 2 and losses[index + 1][0] <= step:
            index += 1
        (before, one), (after, other) = losses[index : index + 2]
        columns.append(one + (other - one) * (step - before) / (after - before))
    low, high = min(columns), max(columns)
    scale = (8 * height - 1) / (high - low) if high > low else 0.0
    filled = [1 + round((value - low) * scale) for value in columns]
    rows = []
    for row in reversed(range(height)):
        label = {height - 1: f"{high:.3f}", 0: f"{low:.3f}"}.get(row, "")
        area = "".join(EIGHTHS[min(max(eighths - 8 * row, 0), 8)] for eighths in filled)
        rows.append(f"{label:>8} {area}")
    return rows


def line(state: State) -> str:
    """Return a state in one line, for a pipe."""
    words = [f"step {state.step:,}/{state.steps:,}"]
    if state.loss is not None:
        words += [f"loss {state.loss:.4f}", f"norm {state.grad_norm:.3g}"]
        words += [f"rate {state.lr_multiplier:.3g}", f"{state.tokens_per_second:,.0f} tokens/s"]
    if state.val_bpb is not None:
        words.append(f"validation {state.val_bpb:.4f} bits/byte")
    if state.state == "training":
        words.append(f"{_clock(state.seconds_left)} left")
    else:
        words.append(state.state)
    if state.bpb is not None:
        words.append(f"{state.bpb:.4f} bits/byte")
    return ", ".join(words)


def screen(state: State) -> Group:
    """Return a state for a terminal: a bar, the curve, the numbers."""
    parts = [Text.assemble((state.run, "bold"), f"  {state.state}")]
    bar = ProgressBar(total=state.steps, completed=state.step, width=WIDTH - 20)
    parts.append(Columns([bar, Text(f"step {state.step:,} of {state.steps:,}")]))
    area = curve(state.losses)
    if area:
        parts.append(Text("loss, nats per token, by step", "dim"))
        parts.append(Text("\n".join(area), "cyan", no_wrap=True))
    numbers = {}
    if state.loss is not None:
        numbers |= {"loss": f"{state.loss:.4f}", "gradient norm": f"{state.grad_norm:.3g}"}
        numbers |= {"rate": f"{state.lr_multiplier:.3g}"}
        numbers |= {"tokens/s": f"{state.tokens_per_second:,.0f}"}
        numbers |= {"trained": _clock(state.seconds)}
    if state.state == "training":
        numbers["left"] = _clock(state.seconds_left)
    for name, value in (("validation", state.val_bpb), ("score", state.bpb)):
        if value is not None:
            numbers[name] = f"{value:.4f} bits/byte"
    words = [Text.assemble((f"{name} ", "dim"), value) for name, value in numbers.items()]
    parts.append(Columns(words, padding=(0, 3)))
    if state.message:
        parts.append(Text(state.message))
    return Group(*parts)


def show(state: State) -> None:
    """Print a state."""
    Console(emoji=False, highlight=False).print(screen(state))


def check(run: Path) -> None:
    """Raise InputError unless a run began there."""
    paths.check_run_directory(run)
    if not (run / "recipe.json").exists():
        raise InputError(
            f"{run}: expected a run that has begun, found no recipe.json; start one with maskgolf"
            f" train --out {run}"
        )
    run_directory.begun(run)


@contextmanager
def _interruptible():
    """Have Ctrl-C raise KeyboardInterrupt within the block, so that the terminal is left as it was;
    where it is ignored it stays so.
    """
    before = signal.getsignal(signal.SIGINT)
    if before != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def follow(run: Path, quiet: bool = False, sleep: Callable[[float], None] = time.sleep) -> State:
    """Return the last state of a run that ends, showing it until then: on a terminal in place, in a
    pipe a line for each new record. quiet: shows nothing.
    """
    console = Console(quiet=quiet, emoji=False, highlight=False)
    with _interruptible():
        return _follow(run, console, sleep)


def _follow(run: Path, console: Console, sleep: Callable[[float], None]) -> State:
    state = read(run)
    if console.is_terminal:
        with Live(screen(state), console=console, auto_refresh=False) as live:
            while state.state not in ENDS:
                sleep(EVERY)
                state = read(run)
                live.update(screen(state), refresh=True)
        return state
    shown = None
    while True:
        said = line(state)
        if said != shown:
            console.print(said, markup=False, soft_wrap=True)
            shown = said
        if state.state in ENDS:
            return state
        sleep(EVERY)
        state = read(run)
