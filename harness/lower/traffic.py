"""How many bytes a generated kernel moves between the GPU's memory and its cores.

Inductor's own count takes every buffer that a fused kernel reads as read in full. A kernel that
reads the heads of q in a product that holds q, k and v reads half of it. One that reads a row and
the same row rolled by half reads it once: the second read meets the cache. It holds for torch 2.11.
"""

import itertools
from collections import defaultdict

import numpy as np
import sympy
from torch._inductor.dependencies import MemoryDep
from torch._inductor.virtualized import V

WHOLE_AXIS = 128  # axes up to this size are followed in full, longer ones at both ends
FUNCTIONS = {  # of Inductor's index expressions
    "ModularIndexing": lambda x, divisor, modulus: (x // divisor) % modulus,
    "FloorDiv": lambda x, divisor: x // divisor,
}


def footprint(dep: MemoryDep) -> frozenset[int] | None:
    """Return the elements that an access touches on a sample of its axes; None where values decide.

    Two accesses of equal footprint are taken for accesses of the same elements.
    """
    named = {call: type(call).__name__ for call in dep.index.atoms(sympy.Function)}
    bare = dep.index.replace(lambda part: named.get(part) == "Identity", lambda part: part.args[0])
    unknown = set(named.values()) - {*FUNCTIONS, "Identity"}
    if bare.free_symbols - set(dep.var_names) or unknown:
        return None
    if not dep.var_names:
        return frozenset([int(bare)])
    sizes = [int(size) for size in dep.size]
    axes = [range(n) if n <= WHOLE_AXIS else (0, 1, n - 2, n - 1) for n in sizes]
    samples = np.array(list(itertools.product(*axes)), np.int64)
    if not len(samples):
        return frozenset()
    index = sympy.lambdify(list(dep.var_names), bare, modules=[FUNCTIONS, "numpy"])
    return frozenset(np.broadcast_to(index(*samples.T), len(samples)).tolist())


def touched(deps: list, elements: int) -> int:
    """Return how many of a buffer's elements some accesses touch; all of them where none can
    tell.
    """
    counted = {}
    for dep in deps:
        sample = footprint(dep) if isinstance(dep, MemoryDep) else None
        if sample is None:
            return elements
        counted[sample] = max(counted.get(sample, 0), int(dep.get_numel()))
    return min(elements, sum(counted.values()))


def bytes_of(node) -> int:
    """Return the bytes of a scheduled node: Inductor's count, less what is read twice or not at
    all.
    """
    accesses, count = defaultdict(list), node.get_read_write_buffers_sizes()
    whole = node.get_read_write_buffer_accesses(include_reads=True, include_writes=True)
    for dep in (*node.read_writes.reads, *node.read_writes.writes):
        accesses[dep.name].append(dep)
    for name, counted in whole.items():
        buffer = V.graph.get_buffer(name)
        layout = None if buffer is None else buffer.maybe_get_layout()
        if counted and hasattr(layout, "dtype"):  # what is written in place has none of its own
            size = layout.dtype.itemsize
            count -= max(0, counted - size * touched(accesses[name], counted // size))
    return count
