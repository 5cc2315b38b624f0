"""What the training loop calls between tested pieces: the batches of a recipe, its validation, its
clock and the durations it keeps.
"""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import fast.data
import fast.evaluate
import fast.train
import reference.philox
from fast.bytes import byte_table
from fast.distributed import World
from fast.errors import Interrupted
from reference.recipe import TINY, InputError, Score, Stream
from tests.pieces.test_schedule import Metronome, blank_state, budget, simulate
from tests.support.recorded import record

SHARDS = [3, 1, 4, 1, 5, 9, 2], [6, 5, 3], [5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6]  # 5 windows of 4
IDS = [token for shard in SHARDS for token in shard]


def order(seed: int, epoch: int) -> list[int]:
    """Return the windows of an epoch in their order."""
    words = reference.philox.words(seed, Stream.DATA, epoch, [0], 5)[0].tolist()
    return sorted(range(5), key=lambda window: (words[window], window))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("rows", [3, 7])
def test_batches_of_a_recipe_over_several_epochs_and_shards(rows, shuffle, stream):
    """Fewer rows than windows, and more; five epochs and a remainder; windows across the borders of
    three shards of unlike length; micro-batches smaller than the batch.
    """
    recipe = replace(
        TINY,
        seed=9,
        model=replace(TINY.model, length=4, vocab=10),
        training=replace(
            TINY.training, tokens_per_step=4 * rows, micro_batch_tokens=4, shuffle=shuffle
        ),
    )
    batch = fast.data.batches(stream(*SHARDS), recipe)
    taken = itertools.chain.from_iterable(
        order(9, epoch) if shuffle else range(5) for epoch in itertools.count()
    )
    padded = [-1, *IDS]
    for step in range(-(-27 // rows)):
        wanted = [4 * next(taken) for _ in range(rows)]
        found = batch(step, np.arange(rows))
        assert found.ids_NL.tolist() == [padded[at + 1 : at + 5] for at in wanted]
        assert found.previous_N.tolist() == [padded[at] for at in wanted]
        last = batch(step, np.array([rows - 1]))
        assert last.ids_NL.tolist() == found.ids_NL[-1:].tolist()


def test_batches_of_a_recipe_hold_its_vocabulary(stream):
    recipe = replace(
        TINY,
        model=replace(TINY.model, length=4, vocab=9),
        training=replace(TINY.training, tokens_per_step=20, micro_batch_tokens=4),
    )
    with pytest.raises(InputError, match="made_train_000002.bin: expected token ids below 9"):
        fast.data.batches(stream(*SHARDS), recipe)(0, np.arange(5))


def test_all_micro_batches_of_a_rank_are_prepared():
    """Rank 1 of 3, whose 6 rows are three micro-batches: prepared once, in order, and not read
    again when they are used.
    """
    recipe = replace(
        TINY, training=replace(TINY.training, tokens_per_step=18 * 8, micro_batch_tokens=16)
    )
    stepper = fast.train.Stepper(recipe, compiled=False, world=World(1, 3))
    read = []

    def batch(step, rows):
        read.append((step, *rows.tolist()))
        return fast.data.windows_of(np.zeros((len(rows), 9), np.int64))

    stepper.prepare(batch, 4)
    assert read == [(4, 6, 7), (4, 8, 9), (4, 10, 11)]
    params = fast.train.initial_state(recipe).params
    stepper._sums(params, batch, 4, stepper.rows)
    assert len(read) == 3


def test_validation_scores_the_average_of_its_own_windows(monkeypatch, stream):
    """The first 64 windows of 70 and a tail, the recipe's masks and estimator, the average: each is
    another than what a state or a run also holds.
    """
    ids = np.random.default_rng(0).integers(0, 12, 70 * 8 + 3)
    recipe = replace(TINY, seed=77, diffusion=replace(TINY.diffusion, epsilon=0.02))
    table = byte_table(["ab"] * 12, ["normal"] * 12)
    score = Score("nelbo", None, 2.0, 0.1, 0.2, 1.25, 10, 5, 3, 0.5)
    predicted = record(monkeypatch, "fast.evaluate.predictor", "a model")
    scored = record(monkeypatch, "fast.evaluate.evaluate", score)
    validate = fast.evaluate.validator(recipe, stream(ids.tolist()), table, "cuda:3")
    state = SimpleNamespace(shadow="the average", params="the live weights")
    assert validate(state) is score
    [made] = predicted
    assert (made["params"], made["recipe"], made["device"]) == ("the average", recipe, "cuda:3")
    [found] = scored
    [windows] = found["windows"]
    assert windows.ids_NL.tolist() == ids[: 64 * 8].reshape(64, 8).tolist()
    assert (found["log_probs"], found["table"], found["device"]) == ("a model", table, "cuda:3")
    assert (found["estimator"], found["order"]) == ("nelbo", None)
    assert found["effort"]["seed"] == 77


def test_seconds_of_all_callbacks_are_off_the_clock():
    """Two of three callbacks tell what they took; the time of the third counts as training."""
    metronome = Metronome(itertools.repeat(1.0))

    def lasting(seconds, told):
        def callback(state, report):
            metronome.now += seconds
            return told

        return callback

    callbacks = [lasting(0.25, None), lasting(2.0, 2.0), lasting(5.0, 5.0)]
    state, _ = fast.train.train(
        None, budget(4, 0.0, 2), blank_state(), metronome, callbacks, lambda: metronome.now
    )
    assert state.elapsed == 4 * 1.0 + 3 * 0.25
    assert state.durations == [1.0, 1.25, 1.25, 1.25]


def test_durations_are_those_of_the_last_hundred_steps():
    """130 steps, each of another length."""
    seconds = [1 + step / 64 for step in range(130)]
    state, _ = simulate(seconds, budget(130, 0.0, 10))
    assert state.durations == seconds[30:] and state.elapsed == sum(seconds)


def test_a_resumed_run_has_the_time_that_is_left():
    """Stopped after 7 of 10 steps of 3 s, gone on with on a clock that is elsewhere."""
    recipe = budget(1000, 30.0, 4)
    whole, alone = simulate(itertools.repeat(3.0), recipe)
    state = blank_state()
    first = Metronome(itertools.repeat(3.0), origin=5.0)

    def stop(state, report):
        if state.step == 7:
            raise Interrupted("asked")

    with pytest.raises(Interrupted):
        fast.train.train(None, recipe, state, first, [stop], lambda: first.now)
    assert (state.step, state.elapsed) == (7, 21.0)
    resumed = fast.train.State(**state.tensors(), **state.progress())
    state, second = simulate(itertools.repeat(3.0), recipe, state=resumed, origin=2.0**20)
    assert first.multipliers + second.multipliers == alone.multipliers
    assert (state.step, state.elapsed) == (whole.step, whole.elapsed) == (10, 30.0)
