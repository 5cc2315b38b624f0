"""Triton kernels of lowered graphs, compiled to PTX and on to machine code: registers and spills.

It holds for Triton 3.6 under torch 2.11, whose _precompile_config it borrows. Of a kernel with
several configurations the first is compiled; the choice among them is the GPU's.
"""

import contextlib
import importlib.util
import logging
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from harness.lower import h100

KERNEL = re.compile(r"async_compile\.triton\('(\w+)', '''(.*?)'''", re.DOTALL)


class Compiled(Exception):
    """Triton has compiled a kernel; nothing is loaded."""


@dataclass(frozen=True)
class Kernel:
    """One distinct Triton kernel, compiled."""

    phase: str  # the first that launches it
    name: str
    registers: int = 0  # per thread
    spilled: int = 0  # bytes per thread, stores
    error: str = ""  # why it does not compile, empty where it does


def sources(codes: dict[str, str]) -> list[tuple[str, str, str]]:
    """Return (phase, name, source) of the distinct kernels in {phase: code of its wrapper}."""
    distinct = {}
    for phase, code in codes.items():
        for name, source in KERNEL.findall(code):
            distinct.setdefault(source.replace(name, ""), (phase, name, source))
    return list(distinct.values())


def _module(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _assembly(path: Path) -> str:
    """Return the PTX of the kernel in a file, of its first configuration."""
    import triton

    compiled, kept = triton.compile, []

    def keep(*arguments, **keywords):
        kept.append(compiled(*arguments, **keywords).asm["ptx"])
        raise Compiled

    with h100.pretended(), mock.patch.object(triton, "compile", keep):
        values = vars(_module(path)).values()
        tuner = next(value for value in values if hasattr(value, "_precompile_config"))
        with contextlib.suppress(Compiled):
            tuner._precompile_config(tuner.configs[0])
    return kept[0]


def _usage(ptx: Path) -> tuple[int, int]:
    """Return (registers, bytes spilled) by ptxas, which comes with Triton."""
    import triton

    ptxas = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    command = [ptxas, "-v", f"-arch={h100.ARCHITECTURE}", ptx, "-o", os.devnull]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return read_usage(said)


def read_usage(said: str) -> tuple[int, int]:
    """Return (registers, bytes of spill stores) from what ptxas -v says."""
    registers = re.search(r"Used (\d+) registers", said)
    spilled = re.search(r"(\d+) bytes spill stores", said)
    return int(registers[1]), int(spilled[1])


def kernels(codes: dict[str, str], folder: Path) -> list[Kernel]:
    """Return the distinct kernels of {phase: code}, compiled; sources and PTX stay in folder."""
    folder.mkdir(parents=True, exist_ok=True)
    # A failed kernel is one line of the report.
    quiet = logging.getLogger("torch._inductor.runtime.triton_heuristics")
    with mock.patch.object(quiet, "disabled", True):
        return [
            _compiled(folder / f"k{number:03d}_{name[:100]}.py", phase, name, source)
            for number, (phase, name, source) in enumerate(sources(codes))
        ]


def _compiled(path: Path, phase: str, name: str, source: str) -> Kernel:
    """Return one kernel, compiled from a file that is written first."""
    path.write_text(source)
    ptx = path.with_suffix(".ptx")
    try:
        ptx.write_text(_assembly(path))
        return Kernel(phase, name, *_usage(ptx))
    except Exception as error:  # whatever the compiler raises: the next kernel is compiled too
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return Kernel(phase, name, error=lines[-1] if lines else type(error).__name__)
