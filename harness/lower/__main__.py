"""The command behind make lower: what production runs, lowered for an H100 that is not there.

Exit 0 when everything lowers, 1 on a failure, 2 on bad input. It holds for torch 2.11.
"""

import argparse
import ast
import json
import os
import sys
import tempfile
from pathlib import Path

from reference.recipe import PRESETS

for _variable in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):  # read when torch is imported
    os.environ.setdefault(_variable, tempfile.mkdtemp(prefix="maskgolf-lower-"))

from harness.lower import attention, trace  # noqa: E402


def setting(text: str) -> tuple[str, object]:
    """Return (name, value) of NAME=VALUE; a value that is no Python literal is a string."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, found {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m harness.lower", description=__doc__.splitlines()[0]
    )
    made.add_argument("--preset", choices=PRESETS, default="golf")
    made.add_argument(
        "--attention", choices=attention.CHOICES, default="cudnn", help="kernel for half precision"
    )
    made.add_argument(
        "--phases",
        nargs="+",
        choices=trace.PHASES,
        default=trace.PHASES,
        help="training is forward, backward, update",
    )
    made.add_argument(
        "--set",
        nargs="+",
        action="extend",
        type=setting,
        default=[],
        metavar="NAME=VALUE",
        help="of torch._inductor.config",
    )
    made.add_argument("--json", metavar="PATH", help="write the rows, - for stdout")
    made.add_argument(
        "--out", type=Path, help="folder that keeps the code, the kernels and every launch"
    )
    made.add_argument("--no-ptx", action="store_true", help="leave the Triton kernels uncompiled")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = parser().parse_args(arguments)
    from harness.lower import run

    rows, said, failures = run.everything(
        PRESETS[options.preset],
        options.attention,
        options.phases,
        dict(options.set),
        options.out,
        not options.no_ptx,
    )
    talk = sys.stderr if options.json == "-" else sys.stdout
    print(said, file=talk)
    if options.json == "-":
        print(json.dumps(rows, indent=2))
    elif options.json:
        Path(options.json).write_text(json.dumps(rows, indent=2) + "\n")
    for line in failures:
        print(f"FAILED {line}", file=sys.stderr)
    print(f"{len(failures)} failures", file=talk)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
