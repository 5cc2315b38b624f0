"""Everything in turn: trace, lower, compile, judge, predict."""

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from harness.lower import counts, inductor, judge, ptx, result, roofline, trace
from harness.lower.trace import first_line
from reference.recipe import Recipe


def machine() -> str:
    """Return the machine that the numbers are predicted for, and what lowered the code."""
    import triton

    return f"H100 SXM (predicted), torch {torch.__version__}, triton {triton.__version__}"


def lowered(traced: trace.Trace, settings: dict) -> tuple[list[inductor.Lowered], list[str]]:
    """Return what Inductor makes of a trace, and the failures."""
    failures, done = judge.of_trace(traced), []
    for graph in traced.graphs:
        try:
            done.append(inductor.lower(graph, settings))
        except Exception as error:  # whatever Inductor raises: the other phases are lowered too
            failures.append(f"{graph.phase}: is not lowered: {first_line(error)}")
    return done, failures + judge.of_launches(launch for one in done for launch in one.launches)


def everything(
    recipe: Recipe, kernel: str, phases, settings: dict, out: Path | None, compiled: bool
) -> tuple[list[dict], str, list[str]]:
    """Return (rows, text, failures) of a recipe; out keeps the code; compiled: to registers."""
    launches, codes, saved, failures, notes = [], {}, {}, [], []
    for traced in trace.traces(recipe, kernel, phases):
        print(f"lowering {traced.name}", file=sys.stderr)
        forward = (graph for graph in traced.graphs if graph.phase == "forward")
        saved |= {graph.phase: counts.saved_bytes(graph.module) for graph in forward}
        done, wrong = lowered(traced, settings)
        failures += wrong
        launches += [launch for one in done for launch in one.launches]
        codes |= {one.phase: one.code for one in done}
    folder = out or Path(tempfile.mkdtemp(prefix="maskgolf-lower-"))
    folder.mkdir(parents=True, exist_ok=True)
    for phase, code in codes.items():
        (folder / f"{phase.replace(' ', '_')}.py").write_text(code)
    (folder / "launches.json").write_text(json.dumps(list(map(asdict, launches)), indent=1))
    if compiled:
        print("compiling the Triton kernels", file=sys.stderr)
        kernels = ptx.kernels(codes, folder / "kernels")
        failures += judge.of_kernels(kernels)
        most = max(kernels, key=lambda kernel: kernel.registers, default=None)
        notes.append(f"{len(kernels)} distinct Triton kernels compiled for {ptx.h100.ARCHITECTURE}")
        notes += [f"most registers: {most.registers}, {most.phase}: {most.name}"] if most else []
    assumed = roofline.Assumptions()
    sums = roofline.table(launches, recipe, assumed)
    changed = ", ".join(f"{name}={value}" for name, value in settings.items())
    stated = f"{kernel} attention, {changed or 'Inductor as it comes'}"
    rows = result.rows(recipe.preset, sums, assumed, machine(), stated)
    said = "\n".join([result.text(sums, saved, assumed), "", *notes])
    return rows, said, failures
