"""The maskgolf bench sub-command."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from harness import devices, paths
from harness.bench import results
from harness.commands.flags import Json, given
from harness.display.progress import bar
from reference.recipe import PRESETS, InputError

DEMO = Path("runs/demo")  # what `maskgolf demo` leaves
LEAST = {"repetitions": 8, "windows": 2, "pairs": 1, "budget": 1, "fisher": 0}
TIMED = ("pairs", "device", "compiled")
READ = {  # by each piece, of the fields of Bench
    "likelihood": ("paths", "repetitions", "windows", *TIMED),
    "formats": ("paths", "sequences", "fisher", "plot", "device"),
    "step": ("preset", "tokens", "against", "only", *TIMED),
    "muon": TIMED,
    "device": ("smoke", "parts", "budget", "separate", *TIMED),
    "compare": ("paths",),
}


@dataclass(frozen=True)
class Bench:
    """Measure how much better one way is than another.

    Example: maskgolf bench likelihood runs/demo --json -

    Example: maskgolf bench formats runs/demo --plot formats.png

    Example: maskgolf bench step --preset demo --json -

    Example: maskgolf bench device --device cuda --json h100.json

    Example: maskgolf bench compare before.json after.json
    """

    # likelihood; formats: bytes of an artifact and what rounding costs; step: the training step
    # against a plain and a public one; muon: against torch.optim.Muon; device: everything at the
    # golf preset; compare: two result files side by side.
    piece: tyro.conf.Positional[
        Annotated[
            Literal["likelihood", "formats", "step", "muon", "device", "compare"],
            tyro.conf.arg(metavar="PIECE"),
        ]
    ]
    # likelihood: run directory of a trained masked-diffusion model (default: runs/demo). formats:
    # of any model. compare: two files that --json or make bench wrote.
    paths: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="PATH")]] = ()
    # likelihood: estimates of the default design of the masks; the others get a quarter.
    repetitions: int = 200
    # likelihood: windows of the validation split that each estimate covers.
    windows: int = 8
    # formats: windows of the validation split that are scored (default: all).
    sequences: int | None = None
    # formats: windows of training text whose squared gradients set steps (0: none do).
    fisher: int = 512
    # formats: draw bytes against damage to an image (needs the plot extra).
    plot: Path | None = None
    # step: whose step; against public with golf's objective and inputs, which public scripts have.
    preset: Literal["demo", "best", "golf", "tiny"] = "demo"
    # step: tokens per step (0: the preset's).
    tokens: int = 0
    # step: the baseline. plain is eager; public is compiled as public scripts compile it.
    against: Literal["plain", "public", "both"] = "both"
    # step: only these of step, forward-backward, update, newton-schulz, average (both against
    # plain) and evaluation (against public).
    only: Annotated[
        tuple[
            Literal["step", "forward-backward", "update", "newton-schulz", "average", "evaluation"],
            ...,
        ],
        tyro.conf.arg(metavar="ROW"),
    ] = ()
    # device: the same code at toy size, to know that it works.
    smoke: bool = False
    # device: only these of step, update, attention, muon, likelihood and levers; what may fail and
    # parity come first all the same.
    parts: Annotated[
        tuple[Literal["step", "update", "attention", "muon", "likelihood", "levers"], ...],
        tyro.conf.arg(metavar="PART"),
    ] = ()
    # device: seconds in all, parity included; what is left out says so.
    budget: float = 520.0
    # device: each part in a process of its own, so that one that hangs or dies takes no other with
    # it (auto: on a GPU).
    separate: Literal["auto", "yes", "no"] = "auto"
    # Paired timings.
    pairs: int = 7
    # cpu or cuda.
    device: str = "cpu"
    # torch.compile what the production path compiles.
    compiled: bool = True
    # Write the rows to PATH, - for stdout.
    json: Json = None

    def run(self):
        """Return the rows."""
        self._check_read()
        self._check()
        from harness.bench import compare, device, formats, gate, likelihood, muon, step
        from harness.display import report

        if self.piece == "compare":
            both = compare.files(self.paths)
            return both, lambda: report.bench_pair(both)
        name = devices.check_device(self.device)
        if self.piece == "device":
            separate = {"auto": None, "yes": True, "no": False}[self.separate]
            settings = (name, self.smoke, self.compiled, self.pairs, self.parts, self.budget)
            with bar("bench device", "rows") as progress:
                on_row = partial(self._on_row, progress)
                rows = device.device(*settings, on_row, progress.say, separate)
            return rows, lambda: report.bench(rows), not device.failed(rows)
        gate.require(gate.BEHIND[self.piece], name, self.compiled)
        timing = self.pairs, name, self.compiled
        if self.piece == "likelihood":
            [run] = self._runs()
            rows = likelihood.likelihood(run, self.repetitions, self.windows, *timing)
        elif self.piece == "formats":
            [run] = self._runs()
            rows = formats.formats(run, self.sequences, self.fisher, name)
            if self.plot:
                formats.plot(rows, self.plot)
            return rows, lambda: report.formats(rows)
        elif self.piece == "step":
            recipe = step.with_tokens(PRESETS[self.preset], self.tokens)
            against = step.BASELINES if self.against == "both" else (self.against,)
            rows = step.step(recipe, *timing, against, self.only)
        else:
            rows = muon.muon(*timing)
        return rows, lambda: report.bench(rows)

    def _check(self) -> None:
        """Raise InputError for what is wrong before anything is loaded or measured."""
        if self.piece == "compare":
            for path in self.paths:
                results.read(path)
            return
        for name, smallest in LEAST.items():
            if getattr(self, name) < smallest:
                raise InputError(
                    f"--{name}: expected at least {smallest}, found {getattr(self, name)}; raise it"
                )
        if self.piece in ("likelihood", "formats"):
            runs = self._runs()
            if len(runs) != 1:
                raise InputError(
                    f"bench {self.piece}: expected a trained run to measure on, "
                    f"found {len(runs)}; name one, or make {DEMO} by make demo"
                )
            paths.run_or_artifact(runs[0])

    def _check_read(self) -> None:
        """Raise InputError for an argument that is given and that the piece does not read."""
        for name, words in given(self).items():
            readers = [f"bench {piece}" for piece, names in READ.items() if name in names]
            if readers and f"bench {self.piece}" not in readers:
                flag = "PATH" if name == "paths" else words.split()[0]
                raise InputError(
                    f"{flag}: expected {' or '.join(readers)}, which reads it, found bench"
                    f" {self.piece}; drop it"
                )

    def _runs(self) -> tuple[Path, ...]:
        return self.paths or tuple(path for path in (DEMO,) if path.exists())

    def _on_row(self, progress, rows: list[dict]) -> None:
        """Show the last row, and write all of them: a run that is cut off leaves what it knew."""
        from fast.checkpoint import write_atomic

        last = rows[-1]
        known = last["ratio"] if last["ratio"] is not None else last["candidate"]
        progress.say(f"{last['name']}: {last['note'] or format(known, '.3g')}")
        if self.json not in (None, "-"):
            write_atomic(Path(self.json), (json.dumps(rows, indent=2) + "\n").encode())
