"""Reads the arguments, runs one of harness/commands, shows or writes what that returns."""

import difflib
import json
import os
import platform
import signal
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Union

import tyro

from harness import commands, interrupts, ranks
from harness.commands import flags
from harness.errors import Stopped, code_and_message
from reference.recipe import PRESETS, InputError

DESCRIPTION = "maskgolf --version prints the versions of maskgolf, Python and torch."
NEXT = """\
MaskGolf trains small language models by masked diffusion, scores them in bits
per byte, and checks other people's scores. What to type next:

  maskgolf demo                      train and score a small model: minutes
  maskgolf sample runs/demo          let it write
  maskgolf report runs/demo          how good it is, and what it takes
  maskgolf parity                    do both halves of the code agree?
  maskgolf validate FOLDER           what is wrong with a submission folder?
  maskgolf --help                    all commands; COMMAND --help explains one

Flags by the tab key, in bash:
  eval "$(maskgolf --tyro-print-completion bash)"
"""
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
        nargs=(0, 1),
        metavar="[{true,false}]",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, bool),
        str_from_instance=lambda value: [str(value).lower()],
    )


def _command(chosen: str, preset: str):
    """Return the type of all commands: the arguments of the chosen one, the names of the others.
    Shell completion (--tyro-print-completion) knows the arguments of all.
    """
    complete = chosen.startswith("--tyro-")
    choices = []
    for name in commands.NAMES:
        kind, default = commands.listed(name), {}
        if complete or name == chosen:
            kind = commands.load(name)
            if "recipe" in kind.__dataclass_fields__:
                default = {"default": kind(PRESETS[preset])}
        choices.append(Annotated[kind, tyro.conf.subcommand(name, **default)])
    return Annotated[Union[tuple(choices)], tyro.conf.OmitSubcommandPrefixes]  # noqa: UP007


def _preset(arguments: list[str]) -> str:
    """Return the preset that the arguments name, which sets the defaults of every other field."""
    default = "demo"
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == "--preset":
            default = value if equals else (arguments[i + 1] if i + 1 < len(arguments) else "")
    if default not in PRESETS:
        raise InputError(
            f"--preset {default!r}: expected one of {', '.join(PRESETS)}; choose one of these"
        )
    return default


def _check_command(word: str) -> None:
    """Refuse what is neither a command nor an option, and name the command that is most like it."""
    if word.startswith("-") or word in commands.NAMES:
        return
    near = difflib.get_close_matches(word, commands.NAMES, 1)
    advice = f"did you mean maskgolf {near[0]}?" if near else "maskgolf --help explains each"
    raise InputError(f"{word!r}: expected one of {', '.join(commands.NAMES)}; {advice}")


def _emit(result, show, path: str | None) -> None:
    """Show the table, or write JSON where asked: to stdout alone (-), or to a file beside the
    table.
    """
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    if path == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        # first: what took long to compute must not be lost to a path that cannot be written, nor to
        # a closed pipe
        show()
        sys.stdout.flush()
    finally:
        if path:
            from fast.checkpoint import write_atomic  # here: it loads torch

            write_atomic(Path(path), text.encode())


def _installed(name: str) -> str:
    """Return a package's version without importing it."""
    try:
        return f"{name} {metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return f"{name}, not installed"


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; bad input is one message on stderr."""
    if arguments == ["--version"]:
        print(_installed("maskgolf"))
        print(f"Python {platform.python_version()}, {_installed('torch')}")
        return 0
    if not arguments:
        print(NEXT, end="")
        return 0
    try:
        _check_command(arguments[0])
        with SPELLINGS, ranks.only_rank_0_prints():
            kind = _command(arguments[0], _preset(arguments))
            command = tyro.cli(kind, prog="maskgolf", args=arguments, description=DESCRIPTION)
        flags.check(command)
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
        if message is None and interrupts.came:  # a library made another error of it
            code, message = code_and_message(KeyboardInterrupt())
        if message is None:
            raise
        if ranks.is_printed_by_another(error):
            ranks.wait_for_printing_rank(error)
        else:
            print(
                f"maskgolf: {f'rank {ranks.rank()}: ' if ranks.rank() else ''}{message}",
                file=sys.stderr,
            )
        return code
