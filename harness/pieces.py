"""The names of the parity pieces, known without loading what they compare."""

import fnmatch

from reference.recipe import FORMATS, ORDERS, InputError

NAMES = (  # in the order of harness/parity's rows
    *("philox", "times", "masks", "init"),
    *("loss", "rmsnorm", "rope", "attention", "block", "unet", "forward", "predictor", "gradients"),
    *("clip", "newton-schulz", "muon", "adam", "ema", "schedule"),
    *("fp8", *(f"quantize-{format}" for format in (*FORMATS, "steps")), "container", "bytes"),
    *("fisher", "allot", "moments", "compensate"),
    *("nelbo", "nelbo-grid", "causal", *(f"chain-{order}" for order in ORDERS)),
    *("evaluate", "score"),
    *("query", "next", "chain-queried", "chain-positions", "chain-trailing", "chain-sliding"),
    *("sample", "step", "trajectory"),
)


def select(names: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Return the pieces of these names (none: all); a name without a piece of its own stands for
    all that begin with it (chain, quantize).
    """
    chosen = {}
    for name in names or NAMES:
        matching = [name] if name in NAMES else fnmatch.filter(NAMES, f"{name}-*")
        if not matching:
            raise InputError(
                f"parity: expected pieces among {', '.join(NAMES)}; found {name!r}; name one of"
                " these, or none for all"
            )
        chosen |= dict.fromkeys(matching)
    return tuple(chosen)
