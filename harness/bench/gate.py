"""No timing without parity: what a measurement depends on is compared with the specification first,
and a red row ends the command.
"""

from collections.abc import Callable, Sequence

import torch

from harness import parity
from harness.errors import CheckFailed
from harness.parity.suite import Row

NETWORK = ("masks", "loss", "forward")
OPTIMIZER = ("clip", "newton-schulz", "muon", "adam", "ema")
BEHIND = {  # what each benchmark's numbers rest on; bench device rests on every piece
    "likelihood": ("predictor", "nelbo", "nelbo-grid", "chain"),
    "formats": (
        *("quantize", "container", "fisher", "allot", "moments", "compensate"),
        *("predictor", "causal", "nelbo"),
    ),
    "muon": ("newton-schulz", "muon"),
    "step": (*NETWORK, "gradients", *OPTIMIZER, "step", "predictor"),
}


def require(
    pieces: Sequence[str] = (),
    device: str = "cpu",
    compiled: bool = False,
    dtypes: Sequence[str] = parity.PRODUCTION,
    on_piece: Callable | None = None,
) -> list[Row]:
    """Return the rows of the named pieces (none: all but the 50-step trajectory); CheckFailed names
    the first red one.

    compiled: those of parity.COMPILED run through torch.compile as well. on_piece(done,
    total, rows) is called after each.
    """
    names, rows = names_of(pieces), []
    for done, name in enumerate(names, 1):
        new = examined(name, device, compiled, dtypes)
        rows += new
        if on_piece:
            on_piece(done, len(names), new)
        red = described(new, device, compiled)
        if red:
            raise CheckFailed(f"bench: nothing is timed while parity is red on {device}: {red}")
    return rows


def hold(
    command: str, side: str, what: str, tensors: dict, plainly: dict, exact: dict, times: float
) -> None:
    """Raise CheckFailed unless the tensors of a side lie near the float64 ones: at most so many
    times as far as the plain ones do.
    """

    def distance(side: dict) -> torch.Tensor:
        apart = (side[name].detach().double() - exact[name].detach() for name in exact)
        return sum(difference.square().sum() for difference in apart) ** 0.5

    error, limit = distance(tensors), distance(plainly)
    if not error <= times * limit:
        raise CheckFailed(
            f"bench {command}: nothing is timed while the two sides differ: {what} of {side} lie"
            f" {error:.3g} from float64, the plain step's {limit:.3g}, expected at most {times}"
            f" times that; see maskgolf parity {command}"
        )


def names_of(pieces: Sequence[str] = ()) -> list[str]:
    """Return the full names of pieces; none means all but the 50-step trajectory."""
    if pieces:
        return [piece.name for piece in parity.select(pieces)]
    return [name for name in parity.PIECES if name not in parity.LONG]


def examined(name: str, device: str, compiled: bool, dtypes: Sequence[str]) -> list[Row]:
    """Return the rows of one piece, compiled as well where it is among parity.COMPILED."""
    return parity.parity([name], device, dtypes, compiled and name in parity.COMPILED)


def described(rows: list[Row], device: str, compiled: bool) -> str | None:
    """Return the first red row in words and the command that shows it; None where all are green."""
    red = next((row for row in rows if not row.passed), None)
    if red is None:
        return None
    how = f"--device {device}{' --compiled' if compiled else ''}"
    return f"{red.words()}; see maskgolf parity {red.piece} {how}"
