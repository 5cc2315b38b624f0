"""Which form of a matrix product is taken where Inductor would time several on the device.

That happens under settings such as max_autotune_gemm alone. The rule is fixed and stated here; on
a GPU the fastest form wins. It holds for torch 2.11: expect to mend it at every release.
"""

import contextlib
import math
from collections.abc import Iterator

from torch._inductor import select_algorithm

# M, N, K and warps of one program: widths of 576 and 1,152 are whole tiles,
TILE = (128, 64, 64, 8)
# and what follows the product fits the registers beside it; with 128 columns it spills
PROGRAMS = 132  # fewer tiles leave multiprocessors without work, where a library splits K


def closeness(tile: tuple[int, ...]) -> float:
    """Return how far a tile is from TILE: the sum of the factors of two between their entries."""
    return sum(abs(math.log2(side / wanted)) for side, wanted in zip(tile, TILE, strict=True))


def choose(forms: list[tuple[tuple[int, ...] | None, int]]) -> int:
    """Return the index of the form that is taken: forms are (tile, None of a library, programs).

    The template with the tile nearest to TILE, the first of equals. The library where it is on
    offer and that template would run fewer than PROGRAMS.
    """
    libraries = [i for i, (tile, _) in enumerate(forms) if tile is None]
    templates = [i for i, (tile, _) in enumerate(forms) if tile is not None]
    if not templates:
        return libraries[0]
    best = min(templates, key=lambda i: closeness(forms[i][0]))
    return libraries[0] if libraries and forms[best][1] < PROGRAMS else best


def form(choice) -> tuple[tuple[int, ...] | None, int]:
    """Return (tile, programs) of one of Inductor's choices."""
    if not isinstance(choice, select_algorithm.TritonTemplateCaller):
        return None, 0
    info = choice.info_dict()
    tile = tuple(int(n) for n in str(info["tile_shape"]).strip("()[]").split(","))
    M, K, N = (tile[0], tile[1], tile[2])
    *batch, rows, columns = (int(n) for n in choice.layout.size)
    programs = math.prod(batch) * -(-rows // M) * -(-columns // N)
    return (M, N, K, int(info["num_warps"])), programs


def only(choices: list) -> list:
    """Return the one choice that is taken, as a list: what Inductor does not have to time."""
    return [choices[choose([form(choice) for choice in choices])]] if choices else choices


@contextlib.contextmanager
def chosen() -> Iterator[None]:
    """Within it, Inductor has one choice per product and times none."""
    select_algorithm.add_preprocessing_fn(only)
    try:
        yield
    finally:
        select_algorithm.clear_preprocessing_fns(clear_defaults=False)
