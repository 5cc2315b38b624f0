"""Bugs in the training step: what it is given, how micro-batches add up, which optimizer gets what."""

from fast import ema
from tests.bugs import Bug
from tests.bugs.edits import always, call, constant, left, name, operator, right, whole, without


def shadow_of_the_weights_before(
    updated, tensors, grads, multiplier, momentum, count, decay, recipe
):
    """An update that averages the weights it was given."""
    new, norm = updated(tensors, grads, multiplier, momentum, count, decay, recipe)
    shadow = {
        key: ema.ema_update(value, tensors["params"][key], decay)
        for key, value in tensors["shadow"].items()
    }
    return {**new, "shadow": shadow}, norm


def step_and_first_row(inputs, self, batch, step, rows):
    """A micro-batch whose step counts the rows before it."""
    ids, number, *rest = inputs(self, batch, step, rows)
    return ids, number + rows[0], *rest


BUGS = [
    Bug(
        "adam-step-from-zero",
        "fast.train.controls",
        operator("+", by=max),
        "step counted before or after it is done",
        ("step",),
    ),
    Bug(
        "embedding-at-the-vector-rate",
        "fast.train._updated",
        name("embedding_lr", to="vector_lr"),
        "two groups merged in one",
        ("step",),
    ),
    Bug(
        "multiplier-forgotten-for-muon",
        "fast.train._updated",
        operator("*", by=right, nth=1),
        "the schedule reached one optimizer of two",
        ("step",),
    ),
    Bug(
        "shadow-seeded-from-initialisation",
        "fast.train.controls",
        constant(0.0, 1.0),
        "a shadow that is cloned at construction averages a short run with its initial weights",
        ("step",),
    ),
    Bug(
        "gradients-at-the-weights-before-rounding",
        "fast.train.Stepper.__call__",
        call("stored", by=lambda stored: stored.__self__.params),
        "quantisation-aware training that is not aware of anything",
        (
            "tests/pieces/test_train.py"
            "::test_train_step_and_stepper_and_reference_take_the_same_step",
        ),
    ),
    Bug(
        "one-step-too-few-at-rounded-weights",
        "fast.train.train",
        operator("<=", by=lambda remaining, steps: remaining < steps),
        "the first of the last steps",
        ("tests/pieces/test_train.py::test_aware_steps_are_those_of_the_reference",),
    ),
    Bug(
        "steps-of-the-live-weights",
        "fast.train.train",
        call(
            "choose",
            by=lambda choose, shadow, *rest: choose({n: v + v for n, v in shadow.items()}, *rest),
        ),
        "the average is what will be stored",
        ("tests/pieces/test_train.py::test_aware_steps_are_those_of_the_reference",),
    ),
    Bug(
        "rounding-forgotten-at-resumption",
        "fast.train.State.progress",
        whole(by=lambda progress, state: progress(state) | {"exponents": None}),
        "a checkpoint without the steps that were chosen chooses others",
        ("tests/pieces/test_train.py::test_an_aware_run_resumes_bit_for_bit",),
    ),
    Bug(
        "averaging-from-the-start",
        "fast.train.Stepper.__call__",
        whole(
            by=lambda step, self, state, batch, multiplier, averaging: step(
                self, state, batch, multiplier, True
            )
        ),
        "the start fraction is read and never used",
        ("trajectory",),
    ),
    Bug(
        "ema-applied-twice",
        "fast.train._updated",
        call(
            "ema_update",
            by=lambda update, shadow, weight, decay: update(
                update(shadow, weight, decay), weight, decay
            ),
        ),
        "a hook and the loop both average",
        ("step",),
    ),
    Bug(
        "shadow-of-the-weights-before",
        "fast.train._updated",
        whole(by=shadow_of_the_weights_before),
        "averaging before the optimizer's step instead of after",
        ("step",),
    ),
    Bug(
        "micro-batch-mean",
        "fast.train.Stepper.__init__",
        operator("*", by=left),
        "gradients of micro-batches are summed without their share",
        ("step",),
    ),
    Bug(
        "last-micro-batch-alone",
        "fast.train.Stepper._sums",
        call("_foreach_add", by=lambda add, left, right: right),
        "zero_grad inside the accumulation loop",
        ("step",),
    ),
    Bug(
        "every-micro-batch-draws-alike",
        "fast.train.Stepper._inputs",
        call("_sent", by=lambda sent, rows: sent(rows % sent.__self__.micro_rows), nth=3),
        "rows counted inside the micro-batch: its masks repeat",
        ("step",),
    ),
    Bug(
        "step-counted-per-micro-batch",
        "fast.train.Stepper._inputs",
        whole(by=step_and_first_row),
        "a counter advanced in the wrong loop",
        ("step",),
    ),
    Bug(
        "step-of-one-branch",
        "fast.distributed.branches",
        whole(by=lambda branches, *given: branches(*given)[:1] * 2),
        "one half taken twice: the times are nearly the same grid",
        ("step",),
    ),
    Bug(
        "targets-not-shifted",
        "fast.objective.Autoregression.loss",
        call("tokens_before", by=lambda before, ids, previous: ids),
        "the causal baseline copies its input",
        ("gradients",),
    ),
    Bug(
        "slots-counted-on-the-host",
        "fast.masking.masked_positions",
        call("arange", by=without("device")),
        "right on a CPU; elsewhere counts and mask are on two devices",
        ("tests/pieces/test_device.py::test_a_run_trains_and_ships_there",),
    ),
    Bug(
        "slots-never-counted",
        "fast.objective.MaskedDiffusion.capacity",
        operator("<=", by=always(True)),
        "slots that all but surely suffice are taken to suffice: the loss is NaN where they do not",
        ("tests/pieces/test_train.py::test_the_head_sees_masked_positions_while_they_have_room",),
    ),
    Bug(
        "validation-on-the-clock",
        "fast.callbacks.Validate.__call__",
        whole(by=lambda validate, *given: validate(*given) and None),
        "a run that validates more often is a shorter run",
        ("tests/pieces/test_callbacks.py::test_only_the_score_is_off_the_clock",),
    ),
    Bug(
        "stopped-without-a-checkpoint",
        "fast.callbacks.StopOnRequest.__call__",
        call("leave", by=always(None)),
        "the run raises before the callback that saves has its turn",
        (
            "tests/pieces/test_callbacks.py"
            "::test_a_stop_saves_first_and_the_last_step_is_never_stopped",
        ),
    ),
    Bug(
        "causal-rows-look-ahead",
        "fast.objective.DualObjective.loss",
        constant(True, False),
        "the next token is in plain sight",
        ("gradients", "step"),
    ),
    Bug(
        "two-objectives-weigh-the-same",
        "fast.objective.DualObjective.loss",
        operator("*", by=right, nth=1),
        "the mean of two means, whatever their rows",
        ("gradients",),
    ),
    Bug(
        "times-numbered-by-all-rows",
        "fast.objective.DualObjective.noise",
        operator("-", by=left, nth=1),
        "the grid of times has holes where the causal rows stand",
        ("gradients",),
    ),
    Bug(
        "times-uneven-over-the-masked-rows",
        "fast.objective.DualObjective.noise",
        call(
            "noise", by=lambda noise, recipe, step, rows, device, count: noise(recipe, step, rows)
        ),
        "low-discrepancy times of a number of rows that is no power of two",
        ("gradients",),
    ),
    Bug(
        "slots-for-the-causal-rows-as-well",
        "fast.objective.DualObjective.capacity",
        operator("[]", by=left, nth=-1),
        "rows and their noise differ in number",
        ("tests/pieces/test_objective.py::test_slots_hold_the_masked_positions_of_masked_rows",),
    ),
    Bug(
        "causal-share-drifts-the-other-way",
        "fast.schedule.causal_share",
        operator("-", by=lambda place, one: one - place, nth=2),
        "causal rows first where masks were asked for",
        ("schedule", "trajectory"),
    ),
    Bug(
        "causal-share-stands-still",
        "fast.objective.DualObjective.noise",
        call("causal_share", by=lambda causal_share, step, recipe: recipe.model.causal_share),
        "a schedule that is computed and not read",
        ("trajectory",),
    ),
    Bug(
        "causal-share-of-the-first-step",
        "fast.objective.DualObjective.noise",
        call("causal_share", by=lambda causal_share, step, recipe: causal_share(0, recipe)),
        "the step is not passed on",
        ("trajectory",),
    ),
    Bug(
        "causal-share-beyond-the-last-stage",
        "fast.schedule.causal_share",
        call("min", by=lambda least, stage, last: stage),
        "a run that goes on after its iterations has a share above 1",
        (
            "tests/pieces/test_schedule.py::test_the_causal_share_moves_in_equal_stages_about_its_mean",
        ),
    ),
    Bug(
        "warm-up-of-the-first-stage-alone",
        "fast.train.Stepper._shapes",
        call("causal_stages", by=lambda causal_stages, recipe: [0]),
        "the compiler runs in the middle of the training clock",
        ("tests/pieces/test_train.py::test_warm_up_meets_every_shape_of_inputs_once",),
    ),
    Bug(
        "warm-up-of-the-first-micro-batch-alone",
        "fast.train.Stepper._shapes",
        call("_micro_batches", by=lambda micro_batches: micro_batches()[:1]),
        "micro-batches of another number of causal rows compile later",
        ("tests/pieces/test_train.py::test_warm_up_meets_every_shape_of_inputs_once",),
    ),
]
