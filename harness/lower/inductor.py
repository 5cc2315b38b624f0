"""ATen graphs lowered by Inductor for an H100 that is not there: its schedule and its code.

It holds for torch 2.11 and reaches into private parts of Inductor. Expect to mend it at every
release: GraphLowering._compile_to_module, TritonScheduling.define_kernel, the scheduler's nodes.
Passes that time kernels on the device, such as the padding of matrix products, do not take part.
"""

import math
from dataclasses import dataclass
from unittest import mock

import torch
from torch._inductor import compile_fx, config, scheduler
from torch._inductor.codegen.triton import TritonScheduling
from torch._inductor.exc import InductorError
from torch._inductor.graph import GraphLowering
from torch._inductor.utils import BoxedBool
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from fast import train
from harness.lower import counts, gemm, h100, parts, traffic
from harness.lower.trace import Graph

SETTINGS = {"compile_threads": 1, "fx_graph_cache": False, "triton.cudagraphs": False}


class Written(Exception):
    """Inductor has written its code; nothing is loaded."""


@dataclass(frozen=True)
class Launch:
    """One kernel or library call of a graph, in the order in which it runs."""

    phase: str
    kind: str  # generated, template, matmul, attention or fallback
    part: str  # of a generated kernel: whose work it does; else the kind
    name: str  # of the kernel or the operator
    bytes: int  # read and written
    flops: float = 0.0
    shape: str = ""  # batch, M, K, N of a product
    inner: int = 0  # K of a product
    dtype: str = ""  # of a product's or an attention's inputs
    # Of a fallback that accumulates: how many it adds, one after another where they repeat.
    rows: int = 0


@dataclass(frozen=True)
class Lowered:
    """One graph as Inductor would run it."""

    phase: str
    launches: list[Launch]
    code: str  # of the Python wrapper, the Triton kernels in it


def _origins(node) -> set:
    """Return the ATen nodes that a scheduled node computes."""
    buffers = (part.node for part in node.get_nodes())
    return {origin for buffer in buffers if buffer is not None for origin in buffer.origins}


def _dtype(fx) -> str:
    """Return the type of an operation's inputs."""
    values = _values(fx)
    return str(values[-1].dtype).removeprefix("torch.") if values else ""


def _copied(inner, sides) -> int:
    """Return the bytes that a library's product copies first: of a matrix that it adds to.

    torch copies the addend to the output and lets cuBLAS accumulate there, unless it is a vector
    of biases, which cuBLAS adds itself: a read and a write more.
    """
    batch, rows, _, columns = sides
    addend = inner.inputs[0] if len(inner.inputs) > 2 else None
    if addend is None or math.prod(int(n) for n in addend.get_size()) < batch * rows * columns:
        return 0
    if any(stride == 0 for stride in addend.get_stride()):
        return 0
    return 2 * batch * rows * columns * addend.get_dtype().itemsize


def _product(phase: str, kind: str, name: str, moved: int, fx) -> Launch:
    sides = counts.product(fx)
    shape = " ".join(str(n) for n in sides)
    return Launch(
        phase, kind, kind, name, moved, 2.0 * math.prod(sides), shape, sides[2], _dtype(fx)
    )


def _library(node, phase: str) -> Launch:
    """Return the launch of a library call."""
    inner, moved = node.node, node.get_read_write_buffers_sizes()
    names = (getattr(inner, field, None) for field in ("python_kernel_name", "op_overload"))
    name = str(next(filter(None, names), type(inner).__name__))
    fx = next(filter(counts.flops_of, inner.origins), inner.get_origin_node())
    if fx is not None and counts.product(fx):
        return _product(phase, "matmul", name, moved + _copied(inner, counts.product(fx)), fx)
    if fx is not None and counts.attention_flops(fx):
        flops = counts.attention_flops(fx)
        return Launch(phase, "attention", "attention", name, moved, flops, dtype=_dtype(fx))
    rows = max(map(_rows, inner.origins), default=0)
    return Launch(phase, "fallback", "fallback", name, moved, rows=rows)


def _values(fx) -> list[torch.Tensor]:
    """Return the values of a node's arguments."""
    arguments = (argument.meta.get("val") for argument in fx.all_input_nodes)
    return [tensor for value in arguments for tensor in counts.tensors(value)]


def _rows(fx) -> int:
    """Return how many indices an accumulating operation adds at, 0 of another one."""
    if counts.name_of(fx).rstrip("_") not in counts.SERIAL or not counts.repeats(fx):
        return 0
    return max((value.numel() for value in _values(fx) if value.dtype == torch.int64), default=1)


def _template(node, phase: str, name: str) -> Launch | None:
    """Return the launch of a Triton template with what is fused into it; None of another kernel.

    One with nothing fused counts as the library's: production times both and takes the faster.
    """
    inner = node.get_template_node() if node.is_template() else None
    if inner is None:
        return None
    product = next(fx for fx in inner.origins if counts.product(fx))
    # Inductor counts a read per output element, which is less than the factors where K is wide.
    moved = max(node.get_read_write_buffers_sizes(), counts.bytes_of(product))
    kind = "template" if len(node.get_nodes()) > 1 else "matmul"
    return _product(phase, kind, name, moved, product)


def launches(nodes: list, phase: str, kernels: dict[str, str]) -> list[Launch]:
    """Return what a schedule launches; kernels: {scheduled part: name of its Triton kernel}."""
    made = []
    for node in nodes:
        if node.is_extern():
            if type(node.node).__name__ != "MultiOutput":  # an entry of another call's result
                made.append(_library(node, phase))
            continue
        scheduled = (part.get_name() for part in node.get_nodes())
        name = " ".join(dict.fromkeys(kernels[part] for part in scheduled if part in kernels))
        if name:  # what has no kernel is memory alone
            made.append(_template(node, phase, name) or _generated(node, phase, name))
    return made


def _generated(node, phase: str, name: str) -> Launch:
    """Return the launch of a kernel that Inductor generates."""
    part = parts.part_of(_origins(node), phase)
    return Launch(phase, "generated", part, name, traffic.bytes_of(node))


def _on(module: torch.fx.GraphModule, device: torch.device) -> None:
    """Move the tensors that a graph makes to a device, in place."""
    for node in module.graph.nodes:
        if node.kwargs.get("device") is not None:
            node.kwargs = {**node.kwargs, "device": device}
    module.recompile()


def lower(graph: Graph, settings: dict) -> Lowered:
    """Return a graph, which is used up, as Inductor lowers it under production's options.

    settings: more of torch._inductor.config, which win over those.
    """
    code, schedule, kernels = [], [], {}
    define = TritonScheduling.define_kernel

    def defined(self, source, nodes, kernel):
        name = define(self, source, nodes, kernel)
        for node in nodes:
            if isinstance(node, scheduler.BaseSchedulerNode):
                kernels[node.get_name()] = name
        return name

    def written(lowering):
        code.append(lowering.codegen()[0].value)
        schedule.extend(launches(lowering.scheduler.nodes, graph.phase, kernels))
        raise Written

    replaced = mock.patch.object
    settings = {**SETTINGS, **graph.options, **settings}
    with h100.pretended() as device, train.deterministic(), config.patch(settings):
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, gemm.chosen():
            _on(graph.module, device)
            inputs = [
                torch.empty_strided(x.size(), x.stride(), dtype=x.dtype, device=device)
                for x in graph.inputs
            ]
            FakeTensorProp(graph.module, mode).propagate_dont_convert_inputs(*inputs)
            keywords = {**graph.keywords, "cudagraphs": BoxedBool(False)}
            with (
                replaced(GraphLowering, "_compile_to_module", written),
                replaced(TritonScheduling, "define_kernel", defined),
            ):
                try:
                    compile_fx.compile_fx_inner(graph.module, inputs, **keywords)
                except InductorError as error:
                    if not isinstance(error.inner_exception, Written):
                        raise
    return Lowered(graph.phase, schedule, code[0])
