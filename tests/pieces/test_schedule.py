"""The schedule: twins bit for bit, and whole runs on a clock that the test turns: any budget ends
at (near) zero, none ends early.
"""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import fast.errors
import fast.schedule
import fast.train
import reference.schedule
from reference.recipe import GOLF, TINY, InputError, check

FEW = reference.schedule.FEW
seconds = st.floats(1e-3, 1e3)


class Metronome:
    """Stands for stepper and clock: each step takes the next duration; remembers every
    multiplier.
    """

    def __init__(self, durations, origin=0.0):
        self.durations, self.now, self.multipliers, self.longest = iter(durations), origin, [], 0.0

    def __call__(self, state, batch, multiplier, averaging):
        duration = next(self.durations)
        self.now, self.longest = self.now + duration, max(self.longest, duration)
        self.multipliers.append(multiplier)
        state.step += 1
        return torch.tensor([1.0, 1.0, 1.0])

    def prepare(self, batch, step):
        """There is nothing to read."""


def budget(iterations, cap, warmdown):
    """Return a recipe with this budget."""
    return replace(
        TINY,
        training=replace(
            TINY.training, iterations=iterations, max_wallclock_seconds=cap, warmdown=warmdown
        ),
    )


def blank_state():
    """Return a state with next to no tensors."""
    return fast.train.State({"embedding": torch.zeros(1)}, {}, {}, {}, {})


def simulate(durations, recipe, callbacks=(), state=None, origin=0.0):
    """Return (state, metronome) of a whole run."""
    metronome = Metronome(durations, origin)
    state, _ = fast.train.train(
        None, recipe, state or blank_state(), metronome, callbacks, lambda: metronome.now
    )
    return state, metronome


# twins


@given(st.lists(seconds, max_size=120))
def test_step_seconds_is_bitwise_equal_and_inside_the_durations(durations):
    expected = reference.schedule.step_seconds(durations)
    assert fast.schedule.step_seconds(durations) == expected
    recent = durations[-100:]
    if len(recent) >= FEW:
        assert expected == np.median(recent)
    else:
        assert expected == min(recent, default=0.0)


@pytest.mark.parametrize("half", [reference.schedule, fast.schedule])
def test_the_median_is_that_of_exactly_the_last_hundred(half):
    """One duration fewer or more would break the tie of 50 against 50."""
    assert half.step_seconds([9.0] * 7 + [1.0] * 50 + [3.0] * 50) == 2.0


@pytest.mark.parametrize("half", [reference.schedule, fast.schedule])
@pytest.mark.parametrize(
    ("step", "elapsed", "left"),
    [
        (FEW - 1, 0.0, 101 - FEW),
        (FEW - 1, 6.0, 101 - FEW),
        (FEW - 1, 6.01, 1),
        (FEW, 0.0, 5),
        (FEW, 6.0, 2),
        (FEW, 6.01, 1),
        (FEW, 99.0, 1),
    ],
)
def test_few_steps_let_the_clock_say_only_whether_this_one_is_the_last(half, step, elapsed, left):
    """Steps of 2 s under a cap of 10 s, 100 iterations."""
    assert (
        half.remaining_steps(
            step, elapsed, 2.0, replace(GOLF.training, iterations=100, max_wallclock_seconds=10.0)
        )
        == left
    )


@given(
    st.integers(0, 99),
    st.floats(0, 2e3),
    st.one_of(st.just(0.0), seconds),
    st.integers(1, 100),
    st.one_of(st.just(0.0), seconds),
)
def test_remaining_steps_are_bitwise_equal(step, elapsed, each, iterations, cap):
    training = replace(GOLF.training, iterations=iterations, max_wallclock_seconds=cap)
    expected = reference.schedule.remaining_steps(step, elapsed, each, training)
    assert fast.schedule.remaining_steps(step, elapsed, each, training) == expected
    assert type(expected) is int and 1 <= expected <= max(1, iterations - step)
    if cap and each and step >= FEW:
        assert expected == max(1, min(iterations - step, math.floor((cap - elapsed) / each)))
    if not cap:
        assert expected == max(1, iterations - step)


@given(st.integers(1, 10**6), st.floats(0, 1), st.integers(0, 10**5))
def test_lr_multiplier_is_bitwise_equal(remaining, previous, warmdown):
    training = replace(GOLF.training, warmdown=warmdown)
    expected = reference.schedule.lr_multiplier(remaining, previous, training)
    assert fast.schedule.lr_multiplier(remaining, previous, training) == expected
    assert expected <= previous
    assert expected == (previous if warmdown == 0 else min(previous, 1.0, remaining / warmdown))


@given(st.integers(0, 2000), st.integers(0, 600))
@example(0, 0)
def test_muon_momentum_is_bitwise_equal_and_linear(step, warmup):
    optimizer = replace(GOLF.optimizer, momentum_warmup=warmup)
    expected = reference.schedule.muon_momentum(step, optimizer)
    assert fast.schedule.muon_momentum(step, optimizer) == expected
    assert expected == pytest.approx(
        0.85 + 0.1 * (min(1, step / warmup) if warmup else 1), rel=1e-14
    )
    if step >= warmup:
        assert expected == 0.95


def test_momentum_of_golf():
    values = [reference.schedule.muon_momentum(step, GOLF.optimizer) for step in range(700)]
    assert (
        values[0] == 0.85
        and values[250] == pytest.approx(0.9)
        and values[499] < 0.95
        and set(values[500:]) == {0.95}
    )
    assert values == sorted(values)


# whole runs


@given(
    st.lists(st.one_of(seconds, st.floats(0.9, 1.1)), min_size=1, max_size=60),
    st.integers(1, 80),
    st.one_of(st.just(0.0), st.floats(0.01, 1e4)),
    st.integers(1, 50),
)
@example([1.0], 1, 0.0, 1)
@example([50.0, 1.0], 80, 60.0, 10)
@example([1.0], 80, 79.9999, 50)
def test_any_budget_ends_at_one_over_warmdown(durations, iterations, cap, warmdown):
    state, run = simulate(itertools.cycle(durations), budget(iterations, cap, warmdown))
    assert run.multipliers[-1] <= 1 / warmdown
    assert all(
        0 < later <= earlier <= 1 for earlier, later in itertools.pairwise([1.0, *run.multipliers])
    )
    assert state.finished and state.step == len(run.multipliers) <= iterations
    if cap:  # the step that crosses the cap, and the last one that is owed
        assert state.elapsed <= cap + 2 * run.longest * (1 + 1e-9)
    if state.step < iterations:  # ended by the clock: no two more steps would have fitted
        assert state.elapsed >= cap - 2 * run.longest * (1 + 1e-9)


@given(st.integers(1, 200), st.integers(1, 300))
def test_step_bound_runs_follow_the_formula(iterations, warmdown):
    state, run = simulate(itertools.repeat(1.0), budget(iterations, 0.0, warmdown))
    assert run.multipliers == [
        min(1.0, (iterations - step) / warmdown) for step in range(iterations)
    ]
    assert state.step == iterations


@given(st.integers(1, 800), st.integers(2, 150), st.integers(1, 100))
@example(400, 100, 100)
@example(401, 100, 50)
@example(399, 100, 50)
def test_clock_bound_and_nearly_tied_runs_are_known_to_the_step(eighths, iterations, warmdown):
    """Steps of 1/4 s and a cap in eighths of a second are exact in binary: the count, and the rate
    from the fifth step on, are formulas.
    """
    state, run = simulate(itertools.repeat(0.25), budget(iterations, eighths / 8, warmdown))
    count = min(iterations, max(2, eighths // 2))
    assert state.step == count
    for step, multiplier in enumerate(run.multipliers):
        if step >= FEW or step == count - 1 or count == iterations:
            assert multiplier == min(1.0, (count - step) / warmdown)
    if count >= 2 and eighths >= 4:
        assert state.elapsed <= eighths / 8


@pytest.mark.parametrize("slow", [[50.0], [50.0, 20.0], [5.0, 40.0, 1.0]])
def test_a_slow_start_does_not_set_off_the_warmdown(slow):
    cap, warmdown = 1000.0, 300
    state, run = simulate(
        itertools.chain(slow, itertools.repeat(1.0)), budget(80_000, cap, warmdown)
    )
    for step, multiplier in enumerate(run.multipliers[:-1]):
        assert abs(multiplier - min(1.0, (state.step - step) / warmdown)) <= 1 / warmdown


@pytest.mark.parametrize("seed", range(5))
def test_jitter_moves_the_warmdown_by_little(seed):
    """Durations lognormal with 10 %: the median of 100 is known to 1.3 %, so three standard errors
    of the length of the run are 4 %.
    """
    rng = np.random.default_rng(seed)
    state, run = simulate(
        iter(np.exp(0.1 * rng.standard_normal(5000))), budget(80_000, 1000.0, 300)
    )
    full = sum(multiplier == 1.0 for multiplier in run.multipliers)
    assert abs(full - (state.step - 300)) <= 0.04 * state.step
    assert abs(state.elapsed - 1000) < 3


def test_a_stall_costs_its_own_time_only():
    durations = [1.0] * 400 + [100.0] + [1.0] * 5000
    state, run = simulate(iter(durations), budget(80_000, 1000.0, 300))
    assert state.step == 901 and run.multipliers[402] == 1.0
    assert run.multipliers[-1] == 1 / 300 and run.multipliers[-150] == 150 / 300


def test_a_cap_beyond_the_last_iteration_still_warms_down():
    """The known failure: the cap lies beyond the last iteration and the rate never falls."""
    _, run = simulate(itertools.repeat(0.05), budget(1000, 5940.0, 200))
    assert run.multipliers == [min(1.0, (1000 - step) / 200) for step in range(1000)]


def test_without_warmdown_the_rate_is_constant():
    _, run = simulate(itertools.repeat(1.0), budget(10, 5.0, 0))
    assert run.multipliers == [1.0] * 5


def drawn_durations(draw, count: int) -> list[float]:
    """Return the seconds of `count` steps in 1/1024 s, which add up exactly: noise around a second,
    with a start, an end or a drift.
    """
    noise = draw(st.lists(st.integers(800, 1300), min_size=1, max_size=40))
    steps = [noise[index % len(noise)] for index in range(count)]
    slow = draw(st.integers(1, 60))
    match draw(
        st.sampled_from(
            ["noise", "slow start", "slow end", "slower and slower", "faster and faster", "stalls"]
        )
    ):
        case "slow start":
            steps = [step * slow if index < 3 else step for index, step in enumerate(steps)]
        case "slow end":
            first = draw(st.integers(1, count))
            steps = [step * slow if index >= first else step for index, step in enumerate(steps)]
        case "slower and slower":
            steps = [step + step * slow * index // 200 for index, step in enumerate(steps)]
        case "faster and faster":
            steps = [
                step * (1 + slow * (count - index) // count) for index, step in enumerate(steps)
            ]
        case "stalls":
            steps = [step * slow if index % 17 == 5 else step for index, step in enumerate(steps)]
    return [step / 1024 for step in steps]


@st.composite
def budgets(draw):
    """Return (durations, recipe): bound by steps, by the clock, or by both within a few steps."""
    iterations, warmdown = draw(st.integers(1, 150)), draw(st.integers(1, 120))
    durations = drawn_durations(draw, 600)
    whole = sum(durations[:iterations])
    cap = draw(
        st.sampled_from(
            [
                0.0,
                2 * whole,
                whole / 2,
                whole / 16,
                whole - 2,
                whole - 1,
                whole,
                whole + 1,
                whole + 2,
            ]
        )
    )
    return durations, budget(iterations, max(0.0, cap), warmdown)


@given(budgets())
def test_rates_fall_to_the_end_and_the_clock_is_overrun_by_two_steps_less_two_usual_ones(drawn):
    """The step before the last found room for two: elapsed <= cap - 2 s, s what a step was expected
    to take. So the end lies at most at cap - 2 s + both; and where the clock ended the run the last
    step found no room for two.
    """
    durations, recipe = drawn
    cap, warmdown = recipe.training.max_wallclock_seconds, recipe.training.warmdown
    state, run = simulate(durations, recipe)
    count = state.step
    assert all(
        0 < later <= earlier <= 1 for earlier, later in itertools.pairwise([1.0, *run.multipliers])
    )
    assert (
        run.multipliers[-1] <= 1 / warmdown
        and state.finished
        and count <= recipe.training.iterations
    )
    assert state.elapsed == sum(durations[:count])
    expected = [
        fast.schedule.step_seconds(durations[max(0, step - 100) : step]) for step in range(count)
    ]
    if cap and count > 1:
        assert (
            state.elapsed <= cap + sum(durations[count - 2 : count]) - 2 * expected[-2] + 1e-9 * cap
        )
    if count < recipe.training.iterations:
        assert sum(durations[: count - 1]) > cap - 2 * expected[-1] - 1e-9 * cap


@given(budgets(), st.floats(0, 1))
def test_a_run_that_is_killed_and_resumed_keeps_its_budget(drawn, place):
    """Resumed from any checkpoint, on a clock that begins anywhere: the same rates as if left
    alone.
    """
    durations, recipe = drawn
    whole, left_alone = simulate(durations, recipe)
    kept = 1 + int(place * (whole.step - 1))
    state, first = blank_state(), Metronome(durations)
    with pytest.raises(fast.errors.Interrupted):
        fast.train.train(None, recipe, state, first, [Callback(stop_after=kept)], lambda: first.now)
    resumed, second = (
        fast.train.State(**state.tensors(), **state.progress()),
        Metronome(durations[kept:], origin=2.0**20),
    )
    fast.train.train(None, recipe, resumed, second, (), lambda: second.now)
    assert first.multipliers + second.multipliers == left_alone.multipliers
    assert (resumed.elapsed, resumed.ema_started_step) == (whole.elapsed, whole.ema_started_step)


class Callback:
    """Validate for some seconds after every fifth step; stop once after a step."""

    def __init__(self, clock_of=None, off_clock=0.0, stop_after=None):
        self.clock_of, self.off_clock, self.stop_after = clock_of, off_clock, stop_after

    def __call__(self, state, report):
        """Return the seconds that do not count as training."""
        if state.step == self.stop_after:
            raise fast.errors.Interrupted("asked")
        if self.off_clock and state.step % 5 == 0:
            self.clock_of().now += self.off_clock
            return self.off_clock
        return 0.0


def test_validation_is_off_the_training_clock():
    recipe = budget(80_000, 50.0, 20)
    _, plain = simulate(itertools.repeat(0.5), recipe)
    metronome = Metronome(itertools.repeat(0.5))
    state, _ = fast.train.train(
        None,
        recipe,
        blank_state(),
        metronome,
        [Callback(lambda: metronome, 8.0)],
        lambda: metronome.now,
    )
    assert metronome.multipliers == plain.multipliers and state.elapsed == 50.0


@given(st.integers(1, 99))
def test_resuming_goes_on_with_the_same_budget(stop_after):
    recipe = budget(80_000, 50.0, 20)
    _, whole = simulate(itertools.repeat(0.5), recipe)
    state = blank_state()
    first, second = Metronome(itertools.repeat(0.5)), Metronome(itertools.repeat(0.5), origin=1e6)
    with pytest.raises(fast.errors.Interrupted):
        fast.train.train(
            None, recipe, state, first, [Callback(stop_after=stop_after)], lambda: first.now
        )
    resumed = fast.train.State(**state.tensors(), **state.progress())
    fast.train.train(None, recipe, resumed, second, (), lambda: second.now)
    assert first.multipliers + second.multipliers == whole.multipliers


@pytest.mark.parametrize(("iterations", "cap"), [(400, 0.0), (400, 1e9), (80_000, 400.0)])
def test_averaging_starts_at_a_tenth_of_the_budget_that_binds(iterations, cap):
    recipe = replace(budget(iterations, cap, 100), ema=replace(TINY.ema, start=0.1))
    state, _ = simulate(itertools.repeat(1.0), recipe)
    assert state.step == 400 and state.ema_started_step == 40


def test_a_finished_run_takes_no_more_steps():
    state, _ = simulate(itertools.repeat(1.0), budget(3, 0.0, 2))
    again, run = simulate(itertools.repeat(1.0), budget(3, 0.0, 2), state=state)
    assert run.multipliers == [] and again.step == 3


@given(
    st.integers(2, 300),  # a run of one step that begins without causal rows has none
    st.sampled_from([(0.5, 0.5), (0.5, -0.25), (0.75, 0.1), (0.3, 0.0), (0.01, -0.01)]),
)
def test_the_causal_share_moves_in_equal_stages_about_its_mean(iterations, shares):
    share, drift = shares
    training = replace(GOLF.training, iterations=iterations, causal_drift=drift)
    recipe = check(replace(GOLF, model=replace(GOLF.model, causal_share=share), training=training))
    values = [reference.schedule.causal_share(step, recipe) for step in range(iterations)]
    assert values == [fast.schedule.causal_share(step, recipe) for step in range(iterations)]
    assert values == sorted(values, reverse=drift < 0)
    assert values[0] == share - drift
    assert fast.schedule.causal_share(iterations + 5, recipe) == share + drift
    if iterations % 4 == 0:
        assert np.mean(values) == pytest.approx(share)
        assert values[:: iterations // 4] == pytest.approx(
            [share - drift, share - drift / 3, share + drift / 3, share + drift]
        )
    begins = [step for step, value in enumerate(values) if step == 0 or value != values[step - 1]]
    assert [step for step in fast.schedule.causal_stages(recipe) if step < iterations] == begins


@pytest.mark.parametrize(
    ("share", "drift"), [(0.0, 0.1), (0.25, 0.3), (0.25, -0.3), (0.75, 0.5), (0.5, math.nan)]
)
def test_a_causal_share_beyond_its_range_is_refused(share, drift):
    recipe = replace(
        GOLF,
        model=replace(GOLF.model, causal_share=share),
        training=replace(GOLF.training, causal_drift=drift),
    )
    with pytest.raises(InputError, match="training.causal_drift must keep"):
        check(recipe)


@pytest.mark.parametrize(
    ("share", "drift", "iterations", "fine"),
    [
        (0.25, 0.0, 8, True),
        (0.24, 0.0, 8, False),
        (0.125, 0.125, 8, True),  # in the last stage
        (0.125, -0.125, 8, True),  # in the first
        (0.12, 0.12, 8, False),
        (0.5, 0.5, 1, False),  # the run has the first stage alone
        (0.5, -0.5, 1, True),
    ],
)
def test_a_causal_share_makes_a_row_causal(share, drift, iterations, fine):
    """Else the network would be scored by an attention that it never trained."""
    recipe = replace(
        TINY,
        model=replace(TINY.model, causal_share=share),
        training=replace(TINY.training, causal_drift=drift, iterations=iterations),
    )
    rows = np.arange(recipe.training.tokens_per_step // recipe.model.length)
    assert len(rows) == 4
    objective = fast.objective.objective_of(recipe.model)
    causal = sum(objective.noise(recipe, step, rows)[3].numel() for step in range(iterations))
    assert (causal > 0) == fine
    if fine:
        check(recipe)
    else:
        with pytest.raises(InputError, match="model.causal_share must make a row of a step causal"):
            check(recipe)
