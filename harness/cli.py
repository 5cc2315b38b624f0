"""The maskgolf command: one dataclass per sub-command; exit 0 on success, 1 when a check fails, 2 on bad input."""

import json
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from harness import ranks
from harness.cli_bench import Bench
from harness.cli_data import Data
from harness.cli_submission import Import, Pack, Validate
from harness.flags import Flat, Json, check_device
from harness.score import Estimate
from harness.sources import Source
from reference.recipe import PRESETS, InputError, Recipe

Fields = tyro.conf.FlagConversionOff[Recipe]  # a boolean field takes its value: --model.causal true


@dataclass(frozen=True)
class Train:
    """Train a model, ship the artifact and score it from the file.

    Example: maskgolf train --preset demo --out runs/mine --model.d 160 --training.iterations 300
    """

    recipe: Annotated[Fields, Flat]
    source: Annotated[Source, Flat] = field(default_factory=Source)
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Run directory (default runs/PRESET)."""
    resume: bool = False
    """Go on from the checkpoint in --out."""
    overwrite: bool = False
    """Replace the run in --out."""
    dry_run: bool = False
    """Print parameters, FLOPs per token and the artifact estimate; train nothing."""
    device: str = "cpu"
    """cpu or cuda."""
    compiled: bool = True
    """torch.compile the step and the scoring."""
    preflight: bool = True
    """Check parity with the specification on the device before the first step."""
    json: Json = None
    """Write the summary to PATH, - for stdout."""

    def run(self):
        """Return the summary, or the plan of a dry run."""
        from harness import report, runs

        if self.dry_run:
            plan = runs.plan(self.recipe)
            return plan, lambda: report.plan(plan)
        out = self.out or Path("runs") / self.recipe.preset
        device = check_device(self.device)
        preflight = ("compiled" if self.compiled else "eager") if self.preflight else None
        summary = runs.run(self.recipe, self.source, out, self.resume, self.overwrite, device, self.compiled, preflight)
        return summary, lambda: report.summary(summary, out)


@dataclass(frozen=True)
class Demo:
    """Train the demo preset, ship it and compare its bits per byte with zlib, bz2 and lzma on the same text.

    Example: maskgolf demo --data ../shared/fineweb
    """

    recipe: Annotated[Fields, Flat]
    source: Annotated[Source, Flat] = field(default_factory=Source)
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/demo")
    """Run directory; a run that is there is replaced."""
    device: str = "cpu"
    """cpu or cuda."""
    compiled: bool = True
    """torch.compile the step and the scoring."""
    preflight: bool = True
    """Check parity with the specification on the device before the first step."""
    json: Json = None
    """Write the summary to PATH, - for stdout."""

    def run(self):
        """Return the summary."""
        from harness import report, runs

        summary = runs.run(
            self.recipe, self.source, self.out, overwrite=True, device=check_device(self.device), compiled=self.compiled,
            preflight="eager" if self.preflight else None, scoring=runs.SCORING, sequences=runs.DEMO_WINDOWS,
        )  # fmt: skip
        return summary, lambda: report.summary(summary, self.out)


@dataclass(frozen=True)
class Eval:
    """Score runs or artifact files in bits per byte, from the file, with error bars. Ctrl-C prints what is known so far.

    Example: maskgolf eval runs/demo --estimator chain --order confidence --json -
    """

    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN")]]
    """Run directories or .mgolf files."""
    estimate: Annotated[Estimate, Flat] = field(default_factory=Estimate)
    source: Annotated[Source, Flat] = field(default_factory=Source)
    device: str = "cpu"
    """cpu or cuda."""
    compiled: bool = True
    """torch.compile the forward pass."""
    partial: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Keep every window's numbers in FILE and go on from what is there: the score covers all its windows."""
    merge: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE")] = ()
    """Print the score of several --partial files of disjoint ranges (no RUN)."""
    compare: bool = False
    """Score two runs token by token on the same windows: the paired difference, and both by position in the window."""
    against: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN")] = ()
    """Other seeds or another recipe: Welch's t-test of RUN... against these."""
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """With --compare: draw bits per byte by position (needs the plot extra)."""
    json: Json = None
    """Write the score to PATH, - for stdout; several runs: their scores, mean, standard deviation and test."""

    def run(self):
        """Return one score, or scores with mean and standard deviation for several runs, or a comparison."""
        from harness import report, score

        if self.merge:
            return score.merged(self.merge, self.runs, self.partial), lambda: report.scores([score.merged(self.merge)])
        device = check_device(self.device)
        if self.compare or self.plot:
            from harness import compare

            result = compare.runs(self.runs, self.source, self.estimate, device, self.compiled, self.compare, self.plot)
            return result, lambda: report.comparison(result)
        scores = score.every((*self.runs, *self.against), self.source, self.estimate, device, self.compiled, self.partial)
        if len(scores) == 1:
            return scores[0], lambda: report.scores(scores)
        from harness import significance

        result = significance.sets(scores, len(self.runs))
        return result, lambda: report.sets(result)


@dataclass(frozen=True)
class Parity:
    """Compare the fast half with the specification, piece by piece; exit 1 and print the input that breaks it where they differ.

    Example: maskgolf parity attention quantize --device cuda --compiled --json -
    """

    pieces: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="PIECE")]] = ()
    """Pieces, or the first word of several (chain, quantize); none means all."""
    device: str = "cpu"
    """cpu or cuda."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Compute dtype of the numbers (default: float32 and bfloat16, those of the presets)."""
    compiled: bool = False
    """Also run what the training step compiles through torch.compile."""
    json: Json = None
    """Write the rows to PATH, - for stdout."""

    def run(self):
        """Return the rows, and whether all of them passed."""
        from harness import parity, report
        from harness.progress import bar

        parity.select(self.pieces)
        device = check_device(self.device)
        dtypes = (self.dtype,) if self.dtype else parity.PRODUCTION
        with bar("parity", "pieces") as progress:

            def show(done: int, total: int, new: list) -> None:
                progress.update(done, total, new[0].piece)

            rows = parity.parity(self.pieces, device, dtypes, self.compiled, show)
        result = [row.plain() for row in rows]
        return result, lambda: report.parity(result), all(row.passed for row in rows)


@dataclass(frozen=True)
class Compress:
    """Write a file with the model and a range coder along an evaluation order; decompress restores it byte for byte.

    Example: maskgolf compress notes.txt --run runs/demo --order confidence
    """

    file: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FILE")]]
    """Any file; what is not text is stored beside the model's code."""
    run_: Annotated[Path, tyro.conf.arg(name="run", metavar="RUN")]
    """Run directory or .mgolf file."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.mgz", aliases=["-o"])] = None
    """Where to write (default FILE.mgz, if there is none yet)."""
    order: Literal["left-to-right", "confidence"] = "left-to-right"
    """Evaluation order; confidence takes a little longer."""
    tokenizer: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """SentencePiece model (default: that of the run's data)."""
    verify: bool = False
    """Decompress before writing, and write only if that gives the file back; takes twice as long."""
    device: str = "cpu"
    """cpu or cuda."""
    json: Json = None
    """Write sizes and bits to PATH, - for stdout."""

    def run(self):
        """Return sizes and bits."""
        from harness import compress, report

        device = check_device(self.device)
        result = compress.compress(self.file, self.run_, self.out, self.order, self.tokenizer, device, self.verify)
        return result, lambda: report.compression(result)


@dataclass(frozen=True)
class Decompress:
    """Restore a file that maskgolf compress wrote, with the same run on the same machine.

    Example: maskgolf decompress notes.txt.mgz --run runs/demo --out restored.txt
    """

    file: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FILE.mgz")]]
    """What maskgolf compress wrote."""
    run_: Annotated[Path, tyro.conf.arg(name="run", metavar="RUN")]
    """The run directory or .mgolf file it was compressed with."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE", aliases=["-o"])] = None
    """Where to write (default: the name without .mgz, if there is none yet)."""
    tokenizer: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """SentencePiece model (default: that of the run's data)."""
    device: str = "cpu"
    """cpu or cuda: the one it was compressed on."""
    json: Json = None
    """Write the sizes to PATH, - for stdout."""

    def run(self):
        """Return the sizes."""
        from harness import compress, report

        result = compress.decompress(self.file, self.run_, self.out, self.tokenizer, check_device(self.device))
        return result, lambda: report.compression(result)


@dataclass(frozen=True)
class Sample:
    """Draw text from a model along an evaluation order.

    Example: maskgolf sample runs/demo --prompt "The class statement" --count 2 --order confidence --temperature 0.8
    """

    run_: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(name="run", metavar="RUN")]]
    """Run directory or .mgolf file."""
    prompt: str = ""
    """Text that every sample begins with."""
    count: int = 1  # samples
    order: Literal["left-to-right", "right-to-left", "random", "confidence", "entropy", "margin", "block"] = "left-to-right"
    """Which hidden position is drawn next; left-to-right and the other fixed orders draw from the model's distribution."""
    step: int = 1  # positions drawn per pass
    block: int = 32  # order block: tokens per block
    temperature: float = 1.0  # 0 takes the most probable token
    seed: int = 0  # of the draws
    tokenizer: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """SentencePiece model (default: that of the run's data)."""
    device: str = "cpu"
    """cpu or cuda."""
    json: Json = None
    """Write the samples to PATH, - for stdout."""

    def run(self):
        """Return the samples."""
        from harness import report, samples

        settings = (self.prompt, self.count, self.order, self.step, self.block, self.temperature, self.seed)
        drawn = samples.sample(self.run_, self.tokenizer, *settings, check_device(self.device))
        return drawn, lambda: report.samples(drawn)


@dataclass(frozen=True)
class Report:
    """Show finished runs side by side, from their summaries.

    Example: maskgolf report runs/a runs/b --plot curves.png
    """

    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN")]]
    """Run directories."""
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also draw the training curves (needs the plot extra)."""
    json: Json = None
    """Write the list of summaries to PATH, - for stdout."""

    def run(self):
        """Return the summaries."""
        from harness import overview, report

        found = overview.summaries(self.runs)
        if self.plot:
            overview.plot(self.runs, self.plot)
        return found, lambda: report.overview(found)


SPELLINGS = tyro.constructors.ConstructorRegistry()


@SPELLINGS.primitive_rule
def _boolean(info):
    """Read a boolean field: true, false, or nothing for true."""
    if info.type is not bool:
        return None

    def read(words: list[str]) -> bool:
        word = (words or ["true"])[0].lower()
        if word not in ("true", "false"):
            raise ValueError(f"expected true or false, found {word}")
        return word == "true"

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=(0, 1), metavar="[{true,false}]", instance_from_str=read, is_instance=lambda value: isinstance(value, bool),
        str_from_instance=lambda value: [str(value).lower()],
    )  # fmt: skip


def _command(preset: str):
    sub = tyro.conf.subcommand
    recipe = PRESETS[preset]
    return Annotated[
        Annotated[Demo, sub("demo", default=Demo(recipe))]
        | Annotated[Train, sub("train", default=Train(recipe))]
        | Annotated[Eval, sub("eval")]
        | Annotated[Parity, sub("parity")]
        | Annotated[Bench, sub("bench")]
        | Annotated[Sample, sub("sample")]
        | Annotated[Report, sub("report")]
        | Annotated[Compress, sub("compress")]
        | Annotated[Decompress, sub("decompress")]
        | Annotated[Pack, sub("pack")]
        | Annotated[Validate, sub("validate")]
        | Annotated[Import, sub("import")]
        | Annotated[Data, sub("data")],
        tyro.conf.OmitSubcommandPrefixes,
    ]


def _preset(arguments: list[str]) -> str:
    """Return the preset that the arguments name, which sets the defaults of every other field."""
    default = "demo"
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == "--preset":
            default = value if equals else (arguments[i + 1] if i + 1 < len(arguments) else "")
    if default not in PRESETS:
        raise InputError(f"--preset {default!r}: expected one of {', '.join(PRESETS)}; choose one of these")
    return default


def _emit(result, show, path: str | None) -> None:
    """Show the table, or write JSON where asked: to stdout alone (-), or to a file beside the table."""
    from fast.checkpoint import write_atomic

    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    if path == "-":
        sys.stdout.write(text)
        return
    try:
        show()  # first: what took long to compute must not be lost to a path that cannot be written, nor to a closed pipe
    finally:
        if path:
            write_atomic(Path(path), text.encode())


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; bad input is one message on stderr."""
    from harness.failures import Stopped, code_and_message

    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with SPELLINGS, ranks.one_voice():
            command = tyro.cli(_command(_preset(arguments)), prog="maskgolf", args=arguments)
        try:
            result, show, *passed = command.run()
        except Stopped as stopped:
            _emit(stopped.result, stopped.show, command.json)
            raise
        if ranks.rank() == 0:
            _emit(result, show, command.json)
        return 0 if all(passed) else 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (Exception, KeyboardInterrupt) as error:
        code, message = code_and_message(error)
        if message is None:
            raise
        if ranks.silent(error):
            ranks.give_way(error)
        else:
            print(f"maskgolf: {f'rank {ranks.rank()}: ' if ranks.rank() else ''}{message}", file=sys.stderr)
        return code
