"""Several ranks under torchrun: the same bits at any number of ranks, and one decision for all."""

import numpy as np
import pytest
import torch

from fast import artifact, masking
from fast.distributed import World
from fast.train import GROUPS
from tests.support import ranked
from tests.support.commands import torchrun
from tests.support.compare import ALGORITHM, relative_error

pytestmark = pytest.mark.slow  # six processes train under torchrun
SIZES = (1, 2, 4)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory) -> dict[int, list[dict]]:
    """Return {size: results of each rank} of every scenario in tests/support/ranked.py: this
    process alone, others under torchrun.
    """
    folders = {size: tmp_path_factory.mktemp(f"world{size}") for size in SIZES[1:]}
    running = {
        size: torchrun(size, "tests.support.ranked", folder) for size, folder in folders.items()
    }
    results = {1: [ranked.results(World())]}
    for size, process in running.items():
        errors = process.communicate(timeout=280)[1]
        assert process.returncode == 0, errors
        results[size] = [
            torch.load(folders[size] / f"{rank}.pt", weights_only=True) for rank in range(size)
        ]
    return results


def assert_same_bits(run, expected):
    """Losses and every tensor of two runs are equal to the last bit."""
    assert run[0] == expected[0]
    for group in GROUPS:
        assert list(run[1][group]) == list(expected[1][group])
        for name, value in expected[1][group].items():
            assert torch.equal(run[1][group][name], value), f"{group}.{name}"


def assert_same_up_to_order(run, expected):
    """Losses and every tensor of two float64 runs agree as two halves of the project do."""
    assert relative_error(np.array(run[0]), np.array(expected[0])) <= ALGORITHM
    for group in GROUPS:
        floor = max(float(value.abs().max()) for value in expected[1][group].values())
        for name, value in expected[1][group].items():
            assert relative_error(run[1][group][name], value, 1e-6 * floor) <= ALGORITHM, (
                f"{group}.{name}"
            )


# the same run at any size


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scenario", ["float32", "bfloat16", "pairs", "aware"])
def test_losses_and_weights_are_the_same_bits_at_any_size(worlds, size, scenario):
    """With micro-batches of one size, powers of two: one row at 1, 2 and 4 ranks, two rows with 4,
    2 and 1 of them on each.
    """
    for results in worlds[size]:
        assert_same_bits(results[scenario], worlds[1][0][scenario])
    losses = worlds[1][0][scenario][0]
    assert len(set(losses)) == 6
    if scenario == "aware":
        plain = worlds[1][0]["float32"][0]
        assert [loss == other for loss, other in zip(losses, plain, strict=True)] == [True] * 2 + [
            False
        ] * 4


@pytest.mark.parametrize("size", SIZES)
def test_an_error_in_what_rank_0_chooses_is_one_on_all(worlds, size):
    found = [results["unchosen"] for results in worlds[size]]
    assert found[0] == "InputError: no steps"
    assert all(text.startswith("PeerFailed: ") for text in found[1:])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scenario", ["float32", "exact"])
def test_the_artifact_is_the_same_bytes(worlds, size, scenario, tmp_path):
    """In production dtype, and in float64 where micro-batches of 1 and of 8 rows differ in the last
    bits, which no format keeps.
    """
    runs = {"one": worlds[1][0][scenario], "other": worlds[size][-1][scenario]}
    if scenario == "exact":
        runs = {"one": runs["one"][8], "other": runs["other"][1]}
    for name, (_, tensors) in runs.items():
        artifact.write(tmp_path / name, tensors["shadow"], ranked.SHORT)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


@pytest.mark.parametrize("size", SIZES)
def test_micro_batches_of_any_size_are_one_run_up_to_summation_order(worlds, size):
    """1, 4 or 8 rows at a time, in float64; all on one rank, or as many as a rank has."""
    expected = worlds[1][0]["exact"][8]
    for results in worlds[size]:
        for rows in (1, 4, 8):
            assert_same_up_to_order(results["exact"][rows], expected)


@pytest.mark.parametrize("size", SIZES)
def test_a_number_of_micro_batches_that_is_no_power_of_two(worlds, size):
    """12 rows: the tree is cut elsewhere, the sum is the same but for its order, and all ranks hold
    the same bits.
    """
    for results in worlds[size]:
        assert_same_up_to_order(results["odd"], worlds[1][0]["odd"])
        assert_same_bits(results["odd"], worlds[size][0]["odd"])


@pytest.mark.parametrize("size", SIZES)
def test_masks_are_the_same_bits_and_every_row_is_drawn_once(worlds, size):
    drawn = [batch for results in worlds[size] for batch in results["masks"]]
    seen = {
        (step, row): mask_L
        for step, rows, mask_BL in drawn
        for row, mask_L in zip(rows, mask_BL, strict=True)
    }
    assert sum(len(rows) for _, rows, _ in drawn) == len(seen) == 6 * 8
    for step in range(6):
        thresholds_B, _ = masking.noise(ranked.SHORT, step, np.arange(8))
        mask_BL = masking.mask(
            ranked.SHORT.seed, step, torch.arange(8), ranked.SHORT.model.length, thresholds_B
        )
        assert all(torch.equal(seen[step, row], mask_BL[row]) for row in range(8))


@pytest.mark.parametrize("size", SIZES)
def test_a_rank_takes_an_aligned_slice_whose_times_are_an_even_grid(worlds, size):
    for rank, results in enumerate(worlds[size]):
        rows = sorted({row for _, rows, _ in results["masks"] for row in rows})
        assert rows == list(range(8 // size * rank, 8 // size * (rank + 1)))
        steps = np.diff(np.sort(masking.times(ranked.SHORT.seed, 0, rows, 0.0)))
        assert np.allclose(steps, size / 8, rtol=0, atol=2**-50)


def test_one_process_uses_no_process_group(worlds):
    assert {size: results[0]["alone"] for size, results in worlds.items()} == {
        1: True,
        2: False,
        4: False,
    }


@pytest.mark.parametrize("size", SIZES[1:])
def test_leave_closes_every_connection(worlds, size):
    """A thread that still serves one while the interpreter ends aborts the process, after a run in
    which nothing went wrong.
    """
    for joined, left in (result["connections"] for result in worlds[size]):
        assert joined and not left


# one decision


@pytest.mark.parametrize("size", SIZES)
def test_a_gradient_that_one_rank_sees_is_named_by_all(worlds, size):
    """The last row's gradient alone is not finite: all ranks withhold the same update and say the
    same.
    """
    expected = ("step 3: gradient of up is not finite; weights are as before it", 2, True)
    assert [results["spoiled"] for results in worlds[size]] == [expected] * size


@pytest.mark.parametrize("size", SIZES)
def test_the_budget_is_that_of_the_clock_of_rank_0(worlds, size):
    """Other ranks' clocks go faster or slower: 10 s are 20 steps of half a second for all of
    them.
    """
    assert [results["clocked"] for results in worlds[size]] == [(20, 1 / 10)] * size


@pytest.mark.parametrize("size", SIZES)
def test_a_signal_to_one_rank_stops_all_at_one_step(worlds, size):
    """A process alone stops after the step in which it is asked; several agree before the next one
    and stop after it.
    """
    step = ranked.STOPPING + (size > 1)
    assert [results["stopped"] for results in worlds[size]] == [f"SIGTERM at step {step}"] * size


@pytest.mark.parametrize("size", SIZES)
def test_an_error_of_one_rank_is_raised_by_all_and_printed_by_one(worlds, size):
    errors = [results["failed"] for results in worlds[size]]
    assert errors == [f"PeerFailed: rank {size - 1} has failed"] * (size - 1) + [
        "InputError: a fault of this rank"
    ]


def test_steps_that_cannot_be_shared_evenly_are_refused(worlds):
    """5 rows for 2 or 4 ranks; 6 rows on each of 2 ranks in micro-batches of 4."""
    assert worlds[1][0]["uneven"] == ["", ""]
    for size in (2, 4):
        assert worlds[size][0]["uneven"][0].startswith(
            f"5 rows per step: expected a multiple of the {size} ranks"
        )
    assert worlds[2][1]["uneven"][1].startswith(
        "6 rows on each of 2 ranks: expected a multiple of the 4 rows of a micro-batch"
    )


@pytest.mark.parametrize("size", SIZES)
def test_all_ranks_take_what_rank_0_decided(worlds, size):
    """Whatever the others hold, and --resume auto, which they have not looked into."""
    found = [results["taken from rank 0"] for results in worlds[size]]
    assert found == [[True, False, True]] * size
