"""What can be told of ATen graphs by reading them: operations, bytes, and what goes wrong.

No CUDA build is needed: every node of a graph knows the shape and the type of its value.
"""

import math

import torch
from torch.fx import GraphModule, Node

VIEWS = (  # read and write nothing: their value is the argument's memory
    "view",
    "_unsafe_view",
    "reshape",
    "permute",
    "transpose",
    "t",
    "expand",
    "unsqueeze",
    "squeeze",
    "slice",
    "select",
    "split",
    "split_with_sizes",
    "unbind",
    "alias",
    "detach",
    "as_strided",
    "diagonal",
    "getitem",
)
WIDE = 2**31  # the first integer that an int32 does not hold
INDEXING = (
    *VIEWS,
    "add",
    "sub",
    "mul",
    "neg",
    "clone",
    "convert_element_type",
    "_to_copy",
    "clamp",
    "cat",
    "stack",
)
SERIAL = {  # ATen operation: what CUDA does in it under deterministic algorithms, or without them
    "index_put": "sums the rows of one index one after another",
    "_unsafe_index_put": "sums the rows of one index one after another",
    "_unsafe_masked_index_put_accumulate": "sums the rows of one index one after another",
    "index_add": "becomes an index_put that accumulates",
    "index_reduce": "has no deterministic form",
    "put": "becomes an index_put where it accumulates",
    "scatter_add": "becomes an index_put that accumulates",
    "scatter_reduce": "has no deterministic form",
    "embedding_dense_backward": "has no deterministic form",
    "_embedding_bag_dense_backward": "has no deterministic form",
    "histc": "has no deterministic form",
    "bincount": "has no deterministic form where weights are given",
}


def name_of(node: Node) -> str:
    """Return the operation of a call without its namespace and overload."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.rpartition("::")[2]
    return getattr(target, "__name__", str(target))


def calls(module: GraphModule) -> list[Node]:
    """Return the nodes of a graph that compute something, in order."""
    return [node for node in module.graph.nodes if node.op == "call_function"]


def tensors(value) -> list[torch.Tensor]:
    """Return the tensors of a node's value: none, one or several."""
    values = value if isinstance(value, tuple | list) else [value]
    return [one for one in values if isinstance(one, torch.Tensor)]


def size_of(value) -> int:
    """Return the bytes of a tensor's elements, each element once however often it is expanded."""
    total = 0
    for tensor in tensors(value):
        sides = (n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
        total += math.prod(sides) * tensor.element_size() if tensor.numel() else 0
    return total


def bytes_of(node: Node) -> int:
    """Return the bytes that one operation reads and writes when nothing is fused; 0 for a view."""
    if name_of(node) in VIEWS:
        return 0
    read = sum(size_of(argument.meta.get("val")) for argument in node.all_input_nodes)
    return read + size_of(node.meta.get("val"))


def product(node: Node) -> tuple[int, int, int, int] | None:
    """Return (batch, M, K, N) of a matrix product, None of anything else."""
    name, arguments = name_of(node), node.args
    if name in ("mm", "bmm"):
        left, right = arguments[0], arguments[1]
    elif name in ("addmm", "baddbmm"):
        left, right = arguments[1], arguments[2]
    else:
        return None
    *batch, rows, inner = left.meta["val"].shape
    return math.prod(batch), int(rows), int(inner), int(right.meta["val"].shape[-1])


def attention_flops(node: Node, factor: float = 2.5) -> float:
    """Return the FLOPs of an attention operation, 0 of another; backward is `factor` forwards.

    Forward is two products of 2 L L' h per head. A causal mask counts in full, as it does in the
    rates that others report, unless they say otherwise.
    """
    name = name_of(node)
    if "scaled_dot_product" not in name:
        return 0.0
    shapes = [argument.meta["val"].shape for argument in node.all_input_nodes]
    backward = "backward" in name
    query, key = shapes[1:3] if backward else shapes[:2]
    batch, heads, length, width = (int(n) for n in query)
    return 4.0 * batch * heads * length * int(key[2]) * width * (factor if backward else 1.0)


def flops_of(node: Node) -> float:
    """Return the FLOPs of a matrix product or an attention, 0 of anything else."""
    sides = product(node)
    return 2.0 * math.prod(sides) if sides else attention_flops(node)


def saved_bytes(module: GraphModule) -> int:
    """Return the bytes that a forward graph keeps for its backward: its outputs behind the first.

    Inputs that are kept, such as weights, are there anyway and do not count.
    """
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    kept = {
        node for node in output.args[0][1:] if isinstance(node, Node) and node.op != "placeholder"
    }
    return sum(size_of(node.meta.get("val")) for node in kept)


def _argument(node: Node, index: int, name: str, default):
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def repeats(node: Node) -> bool:
    """Return whether an operation of SERIAL may meet one index twice and has to add."""
    name = name_of(node).rstrip("_")
    if name in ("index_put", "_unsafe_index_put", "put"):
        return bool(_argument(node, 3, "accumulate", False))
    if name == "scatter_add":  # one index per row meets no other in it
        index = _argument(node, 2, "index", None).meta["val"]
        return index.dim() == 0 or int(index.shape[_argument(node, 1, "dim", 0)]) > 1
    return True


def _constant(node: Node) -> int:
    """Return the largest magnitude among a call's integer arguments."""
    numbers = (
        value for value in node.args if isinstance(value, int) and not isinstance(value, bool)
    )
    return max((abs(value) for value in numbers), default=0)


def wide_indices(module: GraphModule) -> list[str]:
    """Return the sums and products, one line each, in which an index outgrows int32.

    Inductor computes what follows from an arange alone as index arithmetic of 32 bits, and Triton
    refuses constants that do not fit it. Bitwise operations end such a chain.
    """
    factor: dict[Node, int] = {}  # of nodes that follow from an arange: what it was multiplied by
    outgrown = []
    for node in calls(module):
        name = name_of(node)
        if name in ("iota", "arange"):
            factor[node] = 1
        origins = [factor[argument] for argument in node.all_input_nodes if argument in factor]
        value = next(iter(tensors(node.meta.get("val"))), None)
        whole = value is not None and not value.dtype.is_floating_point
        alone = len(origins) == len(node.all_input_nodes)
        if not origins or name not in INDEXING or not whole or not alone:
            continue
        constant = _constant(node) if name in ("mul", "add", "sub") else 0
        factor[node] = max(origins) * max(constant, 1) if name == "mul" else max(origins)
        reached = factor[node] if name == "mul" else constant
        if reached >= WIDE:
            outgrown.append(f"{node.name}: an index {name} {reached} does not fit int32")
            factor[node] = 1  # said once
    return outgrown
