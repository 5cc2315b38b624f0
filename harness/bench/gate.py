"""No timing without parity: what a measurement depends on is compared with the specification first, and a red row ends the command."""

from collections.abc import Callable, Sequence

from harness import parity
from harness.failures import CheckFailed
from harness.parity.suite import Row

COMPILED = ("masks", "step")  # pieces that also run through torch.compile where asked for: the draws and one whole training step
NETWORK = ("masks", "loss", "forward")
OPTIMIZER = ("clip", "newton-schulz", "muon", "adam", "ema")
BEHIND = {  # what each benchmark's numbers rest on; bench device rests on every piece
    "likelihood": ("predictor", "nelbo", "nelbo-grid", "chain"),
    "muon": ("newton-schulz", "muon"),
    "step": (*NETWORK, "gradients", *OPTIMIZER, "step", "predictor"),
}


def require(
    pieces: Sequence[str] = (), device: str = "cpu", compiled: bool = False, dtypes: Sequence[str] = parity.PRODUCTION,
    on_piece: Callable | None = None,
) -> list[Row]:  # fmt: skip
    """Return the rows of the named pieces (none: all but the 50-step trajectory); CheckFailed names the first red one.

    compiled: the pieces of COMPILED among them run through torch.compile as well. on_piece(done, total, rows) is called after each.
    """
    names = [piece.name for piece in parity.select(pieces)] if pieces else [name for name in parity.PIECES if name not in parity.LONG]
    rows = []
    for done, name in enumerate(names, 1):
        new = parity.parity([name], device, dtypes, compiled and name in COMPILED)
        rows += new
        if on_piece:
            on_piece(done, len(names), new)
        red = [row for row in new if not row.passed]
        if red:
            row = red[0]
            error = f"error {row.error:.3g}" if row.error is not None else "not finite, or an exception"
            how = f"--device {device}{' --compiled' if compiled else ''}"
            raise CheckFailed(
                f"bench: nothing is timed while parity is red on {device}: {row.piece} ({row.level}, {row.dtype}: {error}, "
                f"limit {row.limit:.3g}); see maskgolf parity {row.piece} {how}"
            )
    return rows
