"""Bugs in the optimizers, the schedule and the average."""

import math
from dataclasses import replace

from tests.bugs import Bug
from tests.bugs.edits import (
    argument,
    call,
    first,
    giving,
    left,
    name,
    operator,
    pair,
    receiver,
    right,
    whole,
)


def decayed(steps, weights, grads, buffers, lr, *given):
    """Muon's steps with weight decay."""
    moved, after = steps(weights, grads, buffers, lr, *given)
    return [new - 0.01 * lr * old for new, old in zip(moved, weights, strict=True)], after


def turned_unless_square(schulz, matrix, *given):
    """Newton-Schulz whose result is transposed where it should not be, and not where it should."""
    result = schulz(matrix, *given)
    square = matrix.shape[-2] == matrix.shape[-1]
    return result if square else result.mT.reshape(matrix.shape)


BUGS = [
    Bug(
        "schulz-coefficient-0.1-percent",
        "fast.muon.newton_schulz",
        whole(
            by=lambda schulz, matrix, steps, abc, eps: schulz(
                matrix, steps, (abc[0], 1.001 * abc[1], abc[2]), eps
            )
        ),
        "a digit mistyped: invisible in bfloat16, where float64 sees it",
        ("newton-schulz", "muon"),
    ),
    Bug(
        "schulz-four-steps",
        "fast.muon.newton_schulz",
        call("range", by=argument(0, lambda steps: steps - 1)),
        "an iteration too few leaves the band by little",
        ("newton-schulz",),
    ),
    Bug(
        "schulz-epsilon-inside",
        "fast.muon.newton_schulz",
        operator("+", by=lambda norm, eps: (norm.square() + eps).sqrt()),
        "inside or outside the root: the same but for small gradients",
        ("newton-schulz",),
    ),
    Bug(
        "schulz-epsilon-missing",
        "fast.muon.newton_schulz",
        operator("+", by=left),
        "a gradient of zeros becomes nan and ends the run",
        ("newton-schulz",),
    ),
    Bug(
        "schulz-not-transposed",
        "fast.muon.newton_schulz",
        operator(">", by=lambda rows, columns: False),
        "the same in exact arithmetic, at several times the cost: only the shape of the product tells",
        ("tests/pieces/test_muon.py::test_products_are_taken_on_the_short_side",),
    ),
    Bug(
        "schulz-transposed-back-wrongly",
        "fast.muon.newton_schulz",
        whole(by=turned_unless_square),
        "tall and wide confused on the way out",
        ("newton-schulz", "muon"),
    ),
    Bug(
        "schulz-norm-of-the-stack",
        "fast.muon.newton_schulz",
        call("matrix_norm", by=lambda norm, x, **named: x.square().sum().sqrt()),
        "batched over layers, one norm for all of them",
        ("muon", "step"),
    ),
    Bug(
        "schulz-spectral-norm",
        "fast.muon.newton_schulz",
        call("matrix_norm", by=giving(ord=2)),
        "the tighter bound reads like an improvement",
        ("newton-schulz",),
    ),
    Bug(
        "nesterov-dropped",
        "fast.muon.muon_steps",
        (operator("+", by=right, nth=2), operator("*", by=right, nth=2)),
        "a flag with another default",
        ("muon", "step"),
    ),
    Bug(
        "nesterov-looks-too-far",
        "fast.muon.muon_steps",
        operator("*", by=lambda momentum, buffer: momentum**2 * buffer, nth=2),
        "the buffer has had its momentum already, or not yet",
        ("muon",),
    ),
    Bug(
        "momentum-averaged",
        "fast.muon.muon_steps",
        (
            operator("*", by=pair, nth=1),
            operator(
                "+",
                by=lambda decayed, grad: decayed[0] * decayed[1] + (1 - decayed[0]) * grad,
                nth=1,
            ),
        ),
        "lerp: torch.optim.Muon's buffer; Nesterov then weighs the gradient otherwise",
        ("muon",),
    ),
    Bug(
        "muon-scale-inverted",
        "fast.muon.muon_steps",
        operator("/", by=lambda rows, columns: columns / rows),
        "weights stored transposed",
        ("muon", "step"),
    ),
    Bug(
        "muon-scale-without-the-root",
        "fast.muon.muon_steps",
        call("sqrt", by=first),
        "the blog has the root, a fork has not",
        ("muon",),
    ),
    Bug(
        "muon-scale-of-the-other-school",
        "fast.muon.muon_steps",
        (call("sqrt", by=lambda sqrt, longest: 0.2 * sqrt(longest)), operator("/", by=max)),
        "Moonlight's scale, which torch.optim.Muon also offers",
        ("muon",),
    ),
    Bug(
        "muon-decays-weights",
        "fast.muon.muon_steps",
        whole(by=decayed),
        "0.01 and 0.1 are the usual defaults",
        ("muon", "step"),
    ),
    Bug(
        "adam-without-bias-correction",
        "fast.adam.adam_step",
        operator("/", by=left, nth=2),
        "RMSProp with momentum: fine after a thousand steps",
        ("adam", "step"),
    ),
    Bug(
        "adam-second-uncorrected",
        "fast.adam.adam_step",
        operator("/", by=left, nth=1),
        "half of the correction",
        ("adam",),
    ),
    Bug(
        "adam-epsilon-inside",
        "fast.adam.adam_step",
        operator("+", by=lambda root, eps: (root.square() + eps).sqrt(), nth=-1),
        "inside the root is 10,000 times larger",
        ("adam",),
    ),
    Bug(
        "adam-epsilon-before-correction",
        "fast.adam.adam_step",
        whole(
            by=lambda adam, weight, grad, first, second, step, lr, options: adam(
                weight,
                grad,
                first,
                second,
                step,
                lr,
                replace(options, adam_eps=options.adam_eps / (1 - options.adam_beta2**step) ** 0.5),
            )
        ),
        "the efficient order of section 2 of the paper",
        ("adam",),
    ),
    Bug(
        "adam-betas-swapped",
        "fast.adam.adam_step",
        (name("adam_beta1", to="adam_beta2"), name("adam_beta2", to="adam_beta1")),
        "a tuple in another order",
        ("adam", "step"),
    ),
    Bug(
        "clip-per-tensor",
        "fast.adam.clip",
        whole(
            by=lambda clip, grads, limit: (
                {name: clip({name: grad}, limit)[0][name] for name, grad in grads.items()},
                clip(grads, limit)[1],
            )
        ),
        "a loop over clip_grad_norm_ per parameter group",
        ("clip", "step"),
    ),
    Bug(
        "clip-scales-up",
        "fast.adam.clip",
        call("where", by=lambda where, over, scale, one: scale),
        "normalising every gradient: small ones are blown up",
        ("clip",),
    ),
    Bug(
        "clip-by-value",
        "fast.adam.clip",
        whole(
            by=lambda clip, grads, limit: (
                {name: grad.clamp(-limit, limit) for name, grad in grads.items()},
                clip(grads, limit)[1],
            )
        ),
        "clip_grad_value_ is the neighbour in the documentation",
        ("clip",),
    ),
    Bug(
        "clip-reports-the-clipped-norm",
        "fast.adam.clip",
        whole(
            by=lambda clip, grads, limit: (
                clip(grads, limit)[0],
                clip(grads, limit)[1].clamp(max=limit or math.inf),
            )
        ),
        "a log that says 1.0 for ever",
        ("clip",),
    ),
    Bug(
        "clip-norm-of-norms-squared",
        "fast.adam.clip",
        call("sqrt", by=receiver),
        "the squared norm is compared with the limit",
        ("clip",),
    ),
    Bug(
        "shadow-in-bfloat16",
        "fast.ema.ema_update",
        whole(
            by=lambda update, shadow, weight, decay: update(
                shadow.bfloat16(), weight.bfloat16(), decay
            ).to(shadow.dtype)
        ),
        "(1 - decay) w rounds away and the shadow freezes: +0.40 bits per byte in a public run",
        ("ema",),
    ),
    Bug(
        "shadow-in-the-live-dtype",
        "fast.ema.ema_update",
        whole(
            by=lambda update, shadow, weight, decay: update(shadow, weight, decay).to(weight.dtype)
        ),
        "the shadow follows a model cast to bfloat16",
        ("ema",),
    ),
    Bug(
        "ema-decay-inverted",
        "fast.ema.ema_update",
        whole(by=lambda update, shadow, weight, decay: update(shadow, weight, 1 - decay)),
        "lerp's argument is the other one",
        ("ema",),
    ),
    Bug(
        "ema-starts-late",
        "fast.ema.ema_starts",
        operator(">=", to=">"),
        "one step late, and never in a run without steps before the start",
        ("ema",),
    ),
    Bug(
        "ema-starts-by-what-is-left",
        "fast.ema.ema_starts",
        operator("+", by=right),
        "the fraction of the budget, not of the rest",
        ("ema",),
    ),
    Bug(
        "warmdown-never-fires",
        "fast.schedule.remaining_steps",
        call("min", by=first),
        "80,000 steps ran at full rate because the budget was anchored to the bound that did not bind",
        ("schedule",),
    ),
    Bug(
        "warmdown-by-the-clock-alone",
        "fast.schedule.remaining_steps",
        call(
            "min", by=lambda min, by_steps, by_clock: by_steps if by_clock == math.inf else by_clock
        ),
        "the clock cap lay beyond the last iteration",
        ("schedule",),
    ),
    Bug(
        "warmdown-ends-at-zero",
        "fast.schedule.lr_multiplier",
        operator("/", by=lambda remaining, warmdown: (remaining - 1) / warmdown),
        "the last step does nothing",
        ("schedule",),
    ),
    Bug(
        "rate-rises-again",
        "fast.schedule.lr_multiplier",
        call("min", by=lambda min, previous, *others: min(others)),
        "a faster step lengthens the estimate and the rate goes up in the warmdown",
        ("schedule",),
    ),
    Bug(
        "mean-step-time",
        "fast.schedule.step_seconds",
        call("median", to="mean"),
        "one stall of a data loader starts the warmdown",
        ("schedule",),
    ),
    Bug(
        "momentum-warm-up-off-by-one",
        "fast.schedule.muon_momentum",
        operator("/", by=lambda step, warmup: (step + 1) / warmup),
        "steps counted from 1",
        ("schedule", "trajectory"),
    ),
    Bug(
        "momentum-warm-up-backwards",
        "fast.schedule.muon_momentum",
        (name("momentum_start", to="momentum"), name("momentum", to="momentum_start", nth=2)),
        "lerp's ends",
        ("schedule",),
    ),
]
