"""Two artifacts side by side, several seeds, and the test between sets of them."""

import json
import math
import shutil

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from fast import likelihood
from fast.data import write_shard
from harness import cli
from harness.evaluation import paired, stats
from harness.evaluation.paired import TokenCosts
from reference.recipe import InputError
from tests.support.commands import TINY, refused


@given(st.integers(1, 5000))
def test_buckets_cover_every_position_once(length):
    """1, 2, 3-4, 5-8, ...: each position in exactly one span, the last span ends at the window's
    end.
    """
    spans = paired.buckets(length)
    assert [p for first, last in spans for p in range(first, last + 1)] == list(
        range(1, length + 1)
    )
    assert all(last == length or last & (last - 1) == 0 for _, last in spans)


def tokens(seed: int, run: str, shift: float = 0.0) -> TokenCosts:
    """Return made-up costs of 50 windows of 8 tokens and a last one of 3: common noise by window,
    so that pairing pays.
    """
    rng = np.random.default_rng(7)
    common = rng.normal(3, 1, (51, 1))
    noise = np.random.default_rng(seed)
    bits = [
        common[:50] + noise.normal(0, 0.1, (50, 8)) + shift,
        common[50:] + noise.normal(0, 0.1, (1, 3)) + shift,
    ]
    sizes = [rng.integers(0, 5, (50, 8)), rng.integers(1, 5, (1, 3))]
    return TokenCosts(run, "made up", bits, sizes, "sha")


def test_whole_and_positions_add_up():
    """Bits and bytes of the spans sum to those of the whole; the difference is the difference of
    the scores.
    """
    a, b = tokens(1, "a", 0.2), tokens(2, "b")
    result = paired.difference(a, b)
    whole = result["whole"]
    bits = sum(part.sum() for part in a.bits)
    assert whole["a"] == pytest.approx(bits / result["bytes"], rel=1e-12)
    assert whole["difference"] == pytest.approx(whole["a"] - whole["b"], rel=1e-9)
    size = [
        sum(int(part[:, entry["first"] - 1 : entry["last"]].sum()) for part in a.bytes)
        for entry in result["positions"]
    ]
    assert sum(size) == result["bytes"]
    assert sum(
        n * entry["a"] for n, entry in zip(size, result["positions"], strict=True)
    ) == pytest.approx(bits, rel=1e-12)
    # The noise that both share cancels in pairs: independent errors would add up to several times
    # as much.
    assert whole["difference_stderr"] < math.hypot(whole["a_stderr"], whole["b_stderr"]) / 3


def test_paired_error_covers_the_truth():
    """Over 300 repetitions of a known shift, the difference lies within two errors as often as a
    normal variable: 95.4 %, 4 sigma slack.
    """
    hits = 0
    for seed in range(300):
        a, b = tokens(2 * seed + 1000, "a", 0.2), tokens(2 * seed + 1001, "b")
        whole = paired.difference(a, b)["whole"]
        truth = 0.2 * sum(part.size for part in a.bits) / sum(part.sum() for part in a.bytes)
        hits += abs(whole["difference"] - truth) < 2 * whole["difference_stderr"]
    # A ratio's residuals leave the common noise of bytes out of account, so the error may only be
    # too large here.
    assert hits / 300 > 0.954 - 4 * math.sqrt(0.954 * 0.046 / 300)


def test_artifacts_that_do_not_pair_are_refused():
    """Another tokenizer or window length cannot be compared token by token."""
    with pytest.raises(InputError, match="--compare"):
        paired.difference(tokens(1, "a"), tokens(1, "b")._replace(tokenizer="other"))
    shorter = tokens(1, "b")
    with pytest.raises(InputError, match="--compare"):
        paired.difference(tokens(1, "a"), shorter._replace(bits=[shorter.bits[0]]))
    with pytest.raises(InputError, match="one text"):
        paired.difference(tokens(1, "a"), tokens(1, "b")._replace(text="other"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--step", "0"], "step"),
        (["--batch-rows", "0"], "batch-rows"),
        (["--order", "block", "--block", "0"], "block"),
        (["--positions", "4"], "--positions"),
        (["--trailing", "0"], "--trailing"),
        (["--estimator", "nelbo-grid"], "nelbo-grid"),
        (["--plot", "p.xyz"], ".xyz"),
        (["--plot", "nowhere/p.png"], "no folder"),
    ],
)
def test_comparison_that_cannot_be_is_one_message_before_anything_is_scored(
    options, said, run_directory, capsys
):
    """What does not go with --compare is refused rather than left out of account."""
    assert said in refused(
        capsys, "eval", run_directory, run_directory, "--compare", "--no-compiled", *options
    )


def test_runs_on_texts_of_their_own_are_refused(run_directory, corpus, tmp_path, capsys):
    """Neither a pair nor a mean nor a test holds between two texts of one tokenizer; --data names
    one for all.
    """
    twin, other = tmp_path / "twin", tmp_path / "other"
    shutil.copytree(run_directory, twin)
    shutil.copytree(corpus, other)
    shard = next(other.rglob("*_val_*.bin"))
    write_shard(shard, np.fromfile(shard, "<u2")[512:][::-1])
    described = json.loads((twin / "recipe.json").read_text())
    (twin / "recipe.json").write_text(
        json.dumps(described | {"source": described["source"] | {"data": str(other)}})
    )
    common = ["--no-compiled", "--sequences", "6"]
    for options in ([twin, "--compare"], [twin], ["--against", twin]):
        assert "one text" in refused(capsys, "eval", run_directory, *options, *common)
    assert cli.main(["eval", str(run_directory), str(twin), "--data", str(corpus), *common]) == 0


def test_batches_without_windows_are_one_message(run_directory, capsys):
    """--batch-rows 0 is refused before the pilot runs."""
    assert "--batch-rows" in refused(
        capsys, "eval", run_directory, "--batch-rows", "0", "--no-compiled"
    )


def test_command_compares_diffusion_with_autoregression(run_directory, corpus, tmp_path, capsys):
    """Both whole scores are those that eval prints alone; the plot is an image."""
    causal = tmp_path / "causal"
    assert (
        cli.main(
            ["train", *TINY, "--model.causal", "true", "--data", str(corpus), "--out", str(causal)]
        )
        == 0
    )
    common = ["--no-compiled", "--sequences", "12", "--json"]
    capsys.readouterr()
    assert (
        cli.main(
            [
                "eval",
                str(run_directory),
                str(causal),
                "--compare",
                "--plot",
                str(tmp_path / "p.png"),
                *common,
                "-",
            ]
        )
        == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert cli.main(["eval", str(run_directory), "--estimator", "chain", *common, "-"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert cli.main(["eval", str(causal), *common, "-"]) == 0
    other = json.loads(capsys.readouterr().out)
    for name, score in (("a", alone), ("b", other)):
        # The compute dtype is float32
        assert result["whole"][name] == pytest.approx(score["bpb"], rel=1e-6)
        assert result["whole"][f"{name}_stderr"] == pytest.approx(
            score["stderr_sequences"], rel=1e-4
        )
    assert [entry["last"] for entry in result["positions"]] == [1, 2, 4, 8]
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert (
        cli.main(
            [
                "eval",
                str(run_directory),
                str(causal),
                "--compare",
                *common,
                str(tmp_path / "c.json"),
            ]
        )
        == 0
    )
    assert "a - b" in capsys.readouterr().out
    assert "two runs" in refused(capsys, "eval", run_directory, "--compare", "--no-compiled")
    assert "--compare" in refused(
        capsys, "eval", run_directory, "--plot", tmp_path / "q.png", "--no-compiled"
    )


def test_command_prints_mean_deviation_and_test(run_directory, capsys):
    """Equal runs do not vary: deviation 0, no verdict; the JSON keeps both sets."""
    runs, common = [str(run_directory)] * 2, ["--no-compiled", "--sequences", "6"]
    assert cli.main(["eval", *runs, "--against", *runs, *common, "--json", "-"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["n"] == result["against"]["n"] == 2 and result["std"] == 0
    assert result["welch"]["difference"] == 0 and result["welch"]["p"] is None
    assert cli.main(["eval", *runs, "--against", *runs, *common]) == 0
    assert "too few" in capsys.readouterr().out


def test_welch_matches_published_values():
    """The first example of the encyclopedia article on the test: t = -2.46, 25.0 degrees of
    freedom, p = 0.021.
    """
    a = [27.5, 21.0, 19.0, 23.6, 17.0, 17.9, 16.9, 20.1, 21.9, 22.6, 23.1, 19.6, 19.0, 21.7, 21.4]
    b = [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0, 24.8, 20.2, 21.9, 22.1, 22.9, 20.5, 24.4]
    found = stats.welch(a, b)
    assert found["t"] == pytest.approx(-2.46, abs=0.005) and found[
        "degrees_of_freedom"
    ] == pytest.approx(25.0, abs=0.05)
    assert found["p"] == pytest.approx(0.021, abs=0.0005)


@given(st.floats(0.1, 6), st.floats(1.5, 60))
def test_p_value_is_the_tail_of_students_density(t, freedom):
    """The incomplete beta function against a sum over Student's density, to the error of the
    sum.
    """
    from mpmath import betainc

    p = float(betainc(freedom / 2, 0.5, 0, freedom / (freedom + t * t), regularized=True))
    x = (np.arange(400_000) + 0.5) * t / 400_000
    log_constant = (
        math.lgamma((freedom + 1) / 2)
        - math.lgamma(freedom / 2)
        - 0.5 * math.log(freedom * math.pi)
    )
    inside = (
        2 * np.exp(log_constant - (freedom + 1) / 2 * np.log1p(x * x / freedom)).sum() * t / 400_000
    )
    assert p == pytest.approx(1 - inside, abs=1e-9)


def test_one_run_has_no_deviation():
    """A standard deviation of one value, or a test with one, is null rather than zero."""
    assert stats.spread([2.0]) == {"n": 1, "mean": 2.0, "std": None}
    assert stats.welch([2.0], [1.0, 1.5])["p"] is None


ONE, OTHER = [2.31, 2.42, 2.35, 2.28, 2.51], [2.19, 3.02, 2.6]  # unlike in size, spread and mean


def scored(*bits: float) -> list[dict]:
    return [{"run": f"run {i}", "bpb": value} for i, value in enumerate(bits)]


@pytest.mark.parametrize(("one", "other"), [(ONE, OTHER), (OTHER, ONE), (ONE[:2], OTHER)])
def test_sets_are_tested_as_scipy_tests_them(one, other):
    """The first set minus the second, in sign, t, degrees of freedom and p; each mean and deviation
    with its own scores.
    """
    result = stats.sets(scored(*one, *other), len(one))
    expected = scipy.stats.ttest_ind(one, other, equal_var=False)
    test = result["welch"]
    assert test["difference"] == pytest.approx(np.mean(one) - np.mean(other), rel=1e-12)
    assert math.copysign(1, test["t"]) == math.copysign(1, np.mean(one) - np.mean(other))
    assert test["stderr"] == pytest.approx(test["difference"] / expected.statistic, rel=1e-9)
    found = test["t"], test["degrees_of_freedom"], test["p"]
    assert found == pytest.approx((expected.statistic, expected.df, expected.pvalue), rel=1e-9)
    for kept, values in ((result, one), (result["against"], other)):
        assert [score["bpb"] for score in kept["scores"]] == values
        assert kept["n"] == len(values)
        assert kept["mean"] == pytest.approx(np.mean(values), rel=1e-12)
        assert kept["std"] == pytest.approx(np.std(values, ddof=1), rel=1e-12)


@given(
    st.lists(st.floats(1, 4), min_size=2, max_size=6),
    st.lists(st.floats(1, 4), min_size=2, max_size=6),
)
def test_welch_is_scipys_for_any_two_sets(one, other):
    test = stats.welch(one, other)
    if test["p"] is None:  # neither varies
        assert len({*one}) == len({*other}) == 1
        return
    if min(np.ptp(one), np.ptp(other)) < 1e-3:  # scipy's variances lose their digits
        return
    expected = scipy.stats.ttest_ind(one, other, equal_var=False)
    found = test["t"], test["degrees_of_freedom"], test["p"]
    exact = expected.statistic, expected.df, expected.pvalue
    assert found == pytest.approx(exact, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("first", [1, 3])
def test_a_set_of_one_run_has_a_difference_and_no_test(first):
    """Whichever set it is: the difference keeps its sign, what one run cannot say is null."""
    result = stats.sets(scored(2.0, 2.5, 3.0, 1.0), first)
    means = np.mean([2.0, 2.5, 3.0, 1.0][:first]), np.mean([2.0, 2.5, 3.0, 1.0][first:])
    assert result["welch"]["difference"] == pytest.approx(means[0] - means[1], rel=1e-12)
    assert [result["welch"][name] for name in ("stderr", "t", "degrees_of_freedom", "p")] == (
        [None] * 4
    )
    deviations = {1: (None, np.std([2.5, 3.0, 1.0], ddof=1)), 3: (0.5, None)}[first]
    assert (result["std"], result["against"]["std"]) == pytest.approx(deviations)
    alone = stats.sets(scored(2.0, 3.0), 2)
    assert alone["against"] is alone["welch"] is None and alone["mean"] == 2.5


def test_a_comparison_errs_as_a_score_does():
    """The ratio of bits to bytes and its error over windows: in a comparison as in a summary, where
    nats, bits, bytes and tokens differ a lot.
    """
    a, b = tokens(1, "a", 0.7), tokens(2, "b")
    whole = paired.difference(a, b)["whole"]
    for name, costs in (("a", a), ("b", b)):
        bits_N = np.concatenate([part.sum(axis=1) for part in costs.bits])
        bytes_N = np.concatenate([part.sum(axis=1) for part in costs.bytes])
        tokens_N = np.concatenate([np.full(*part.shape) for part in costs.bits])
        nats_N = bits_N * math.log(2)
        numbers = nats_N, np.square(nats_N), tokens_N, bytes_N, 7, 9.0
        score = likelihood.summarize("chain", "random", *numbers)
        found = whole[name], whole[f"{name}_stderr"]
        assert found == pytest.approx((score.bpb, score.stderr_sequences), rel=1e-12)
        assert score.stderr_masks > 2 * score.stderr_sequences
    assert paired.ratio(np.array([4.0]), np.array([2])) == (2.0, None)
    assert paired.ratio(np.array([4.0, 1.0]), np.array([0, 0])) == (None, None)


def test_what_does_not_pair_is_told_apart():
    """The message names what differs, and nothing else."""
    a = tokens(1, "a")._replace(tokenizer="1" * 64, text="2" * 64)
    other = {"tokenizer": "3" * 64, "text": "4" * 64, "bits": [a.bits[0]]}
    said = {"tokenizer": "11111111 and 33333333", "text": "22222222 and 44444444"}
    said["bits"] = "windows 50 of 8, 1 of 3 and 50 of 8"
    for name, value in other.items():
        with pytest.raises(InputError) as error:
            paired.difference(a, a._replace(**{name: value}))
        assert [words in str(error.value) for words in said.values()] == [
            key == name for key in said
        ]
