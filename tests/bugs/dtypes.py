"""Bugs that compute in another dtype than the recipe says: less exact, or more exact, which no bound
from above can see.
"""

import torch

from tests.bugs import Bug
from tests.bugs.edits import call, whole

EXACT = "tests/pieces/test_rounding.py::"


def float32_for_bfloat16(lookup, module, dtype: str):
    """A dtype by its name, but for one."""
    return torch.float32 if dtype == "bfloat16" else lookup(module, dtype)


def rounded_once(newton_schulz, matrix, *given):
    """An iteration in float32 whose result is rounded."""
    return newton_schulz(matrix.to(torch.promote_types(matrix.dtype, torch.float32)), *given).to(
        matrix.dtype
    )


BUGS = [
    Bug(
        "step-in-float32",
        "fast.train.Stepper.__init__",
        call("getattr", by=float32_for_bfloat16),
        "half as fast, and better than what was promised",
        (EXACT + "test_a_step_rounds_to_its_compute_dtype",),
    ),
    Bug(
        "newton-schulz-in-float32",
        "fast.train._updated",
        call("getattr", by=float32_for_bfloat16),
        "the iteration of another recipe",
        (EXACT + "test_muon_iterates_in_its_own_dtype",),
    ),
    Bug(
        "newton-schulz-rounded-once",
        "fast.muon.newton_schulz",
        whole(by=rounded_once),
        "bfloat16 goes in and comes out",
        (EXACT + "test_an_iteration_rounds_at_every_product",),
    ),
    Bug(
        "scored-in-float32",
        "fast.evaluate.predictor",
        call("getattr", by=float32_for_bfloat16),
        "scores that a submission does not reach",
        ("predictor", EXACT + "test_a_score_is_that_of_the_compute_dtype"),
    ),
    Bug(
        "average-in-bfloat16",
        "fast.ema.ema_update",
        whole(by=lambda update, shadow, weight, decay: update(shadow, weight.bfloat16(), decay)),
        "the weights are read in the dtype of the activations",
        (EXACT + "test_the_average_rounds_to_float32_at_every_operation",),
    ),
    Bug(
        "average-in-float64",
        "fast.ema.ema_update",
        whole(
            by=lambda update, shadow, weight, decay: update(shadow.double(), weight, decay).to(
                shadow.dtype
            )
        ),
        "other last bits than every other rank and machine has",
        (EXACT + "test_the_average_rounds_to_float32_at_every_operation",),
    ),
    Bug(
        "adam-in-float64",
        "fast.adam.adam_step",
        whole(
            by=lambda step, weight, grad, first, second, *given: tuple(
                value.to(weight.dtype)
                for value in step(*(x.double() for x in (weight, grad, first, second)), *given)
            )
        ),
        "the same",
        (EXACT + "test_the_moments_round_to_float32_at_every_operation",),
    ),
    Bug(
        "loss-in-the-compute-dtype",
        "fast.transformer.forward",
        call("_accurate", by=lambda accurate, dtype: dtype),
        "logits of bfloat16 have three digits",
        ("forward",),
    ),
    Bug(
        "rope-table-in-bfloat16",
        "fast.transformer.table_for",
        call("_accurate", by=lambda accurate, dtype: dtype),
        "positions beyond 256 share their angles",
        (EXACT + "test_positions_are_told_apart_whatever_the_dtype",),
    ),
]
