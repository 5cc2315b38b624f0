"""Folders as other people write them: shapes seen in public submissions, rebuilt small, and the
verdict that each must get.
"""

import json

import pytest

from harness.validate import CHECKS, answer, training_log
from harness.validate.checks import score
from harness.validate.submission import Options, Submission
from harness.validate.verdict import CannotTell, Finding


def ask(folder, name: str, files: dict[str, str | dict]) -> Finding:
    """Return one check's finding about a folder of these files."""
    folder = folder / "2026-03-20_Mine"
    folder.mkdir(exist_ok=True)
    for path, content in files.items():
        (folder / path).write_text(content if isinstance(content, str) else json.dumps(content))
    return answer(next(check for check in CHECKS if check.name == name), Submission(folder))


def test_a_log_of_steps_beside_one_of_scores_alone(tmp_path):
    logs = {
        "train_seed1.log": "final_int8_zlib_roundtrip val_loss:2.0649 val_bpb:1.2230\n",
        "train_seed2.log": (
            "step:10/20 train_loss:3.1000 train_time:100ms\nstep:20/20 train_loss:3.0000"
            " train_time:200ms\n"
        ),
    }
    files = {**logs, "submission.json": {"val_bpb": 1.223, "train_steps": 20}}
    assert ask(tmp_path, "parameters and steps", files) == Finding("pass", "last steps 20 of 20")
    told = "steps, seconds and parameters as the logs print them"
    assert ask(tmp_path, "JSON counts", files) == Finding("pass", told)


def test_a_readme_of_a_score_below_a_third_is_read(tmp_path):
    """Caches of n-grams reach 0.1 bits per byte; such a README shows its score like any other."""
    files = {
        "README.md": "**val_bpb: 0.0990**\n| 42 | 0.0990 |\n| 7 | 0.0991 |",
        "submission.json": {"val_bpb": 0.099, "seed_results": {"42": {"val_bpb": 0.099}}},
    }
    assert ask(tmp_path, "README scores", files).verdict == "pass"
    assert (
        ask(tmp_path, "README scores", {**files, "submission.json": {"val_bpb": 0.0812}}).verdict
        == "fail"
    )


def test_a_copy_for_readers_is_no_code_of_the_run(tmp_path):
    """A script that unpacks helper.py of its own beside itself does not reach for a folder that it
    never names; one that names it does.
    """
    folder = tmp_path / "2026-03-20_Mine" / "readable" / "kernels"
    folder.mkdir(parents=True)
    for place in (folder / "fast.cu", folder.parent / "helper.py"):
        place.write_text("# for readers\n")
    ask(
        tmp_path,
        "one record",
        {"train_gpt.py": "open('helper.py', 'w').write('x = 1')\nprint('kernels/fast.cu')\n"},
    )
    assert set(Submission(tmp_path / "2026-03-20_Mine").code.reached) == {"train_gpt.py"}
    ask(
        tmp_path,
        "one record",
        {"train_gpt.py": "import os\nload(os.path.join('readable', 'kernels', 'fast.cu'))\n"},
    )
    assert set(Submission(tmp_path / "2026-03-20_Mine").code.reached) == {
        "train_gpt.py",
        "readable/kernels/fast.cu",
    }


def test_lines_of_a_logging_library_are_read(tmp_path):
    lines = (
        "step:10/20 train_loss:3.1 train_time:100ms\nfinal_int8_zlib_roundtrip val_loss:2.0649"
        " val_bpb:1.2230"
    )
    for stamp in (
        "[2026-03-23 04:02:49] INFO: ",
        "2026-03-23T04:02:49.123Z ",
        "2026-03-23 04:02:49,123 - INFO - ",
    ):
        log = training_log.parse(
            "train.log", "\n".join(stamp + line for line in lines.splitlines())
        )
        assert log.last_step == 10 and log.finals[-1].val_bpb == 1.223


def test_what_a_run_measures_is_no_part_of_its_configuration(tmp_path):
    def log(seed: int, seconds: float, rate: float) -> str:
        printed = (
            f"seed:{seed} matrix_lr:{rate} elapsed:{seconds}s compile: {seconds}s degradation:"
            f" +{seconds / 1e4}"
        )
        return (
            f"{printed}\nstep:10/10 train_loss:3.1 train_time:100ms\nfinal_roundtrip val_loss:2.06"
            " val_bpb:1.22\n"
        )

    claims = {
        "submission.json": {
            "val_bpb": 1.22,
            "seed_results": {"1": {"val_bpb": 1.22}, "2": {"val_bpb": 1.22}},
        }
    }
    alike = {"train_seed1.log": log(1, 11.83, 0.02), "train_seed2.log": log(2, 11.78, 0.02)}
    assert ask(tmp_path, "one configuration", claims | alike).verdict == "pass"
    assert (
        ask(
            tmp_path, "one configuration", claims | alike | {"train_seed2.log": log(2, 11.78, 0.03)}
        ).verdict
        == "fail"
    )


def test_a_small_archive_beside_the_code_is_not_the_model(tmp_path):
    """The table of a tokenizer is an .npz too."""
    (tmp_path / "2026-03-20_Mine").mkdir()
    (tmp_path / "2026-03-20_Mine" / "tokenizer.meta.npz").write_bytes(bytes(1_770))
    claims = {
        "submission.json": {"val_bpb": 1.2, "bytes_total": 15_900_000, "bytes_code": 13},
        "train_gpt.py": "import torch\n",
    }
    assert "tokenizer" not in ask(tmp_path, "JSON bytes", claims).evidence
    (tmp_path / "2026-03-20_Mine" / "final_model.npz").write_bytes(bytes(1 << 16))
    assert "final_model.npz" in ask(tmp_path, "JSON bytes", claims).evidence


CLOCKED = """
max_wallclock_seconds = float(os.environ.get("MAX_WALLCLOCK_SECONDS", 0.0))
warmdown_iters = 5000
def rate(step, elapsed_ms):
    return min(1.0, (1000 * max_wallclock_seconds - elapsed_ms) / (warmdown_iters * elapsed_ms / step))
"""


def test_a_run_by_the_clock_that_does_not_print_its_cap_may_have_ended(tmp_path):
    """It went on to its final score by itself, so its clock ran out; cut off, or with a cap of 0 in
    the log, it never came down.
    """
    steps = (
        "step:10/20000 train_loss:3.1 train_time:100ms\nstep:900/20000 train_loss:3.0"
        " train_time:9000ms\n"
    )
    final = "final_roundtrip val_loss:2.06 val_bpb:1.22\n"
    for log, verdict in (
        (steps + final, "cannot tell"),
        (steps, "fail"),
        ("max_wallclock_seconds:0.0\n" + steps + final, "fail"),
    ):
        found = ask(tmp_path, "warmdown", {"train_gpt.py": CLOCKED, "train.log": log})
        assert found.verdict == verdict, (log, found)


def test_files_of_a_few_bytes_are_looked_through(tmp_path):
    """Empty scripts, and archives of one byte, where a search reads words."""
    from harness.validate.hidden import spellings

    for size in range(6):
        data = bytes(range(size))
        assert list(spellings(data))[0] == data
        assert all(len(spelt) <= size for spelt in spellings(data))


def test_compressed_code_is_not_the_model(tmp_path):
    claims = {
        "submission.json": {"val_bpb": 1.2, "bytes_total": 15_900_000, "bytes_code": 13},
        "train_gpt.py": "import torch\n",
    }
    assert (
        "lzma"
        not in ask(tmp_path, "JSON bytes", {**claims, "train_gpt.py.lzma": "x" * 100}).evidence
    )
    assert (
        "model.lzma"
        in ask(tmp_path, "JSON bytes", {**claims, "final_model.lzma": "x" * 100}).evidence
    )


def test_the_limit_may_stand_for_a_time_just_below_it(tmp_path):
    def log(seconds: float) -> dict:
        return {"train.log": f"step:10/20 train_loss:3.1 train_time:{1000 * seconds:.0f}ms\n"}

    claim = {"submission.json": {"val_bpb": 1.2, "track": "10min_16mb", "wallclock_seconds": 600}}
    for seconds, verdict in ((590.1, "pass"), (599.9, "pass"), (300.0, "fail"), (720.0, "fail")):
        assert ask(tmp_path, "JSON counts", claim | log(seconds)).verdict == verdict, seconds
        in_time = "fail" if seconds > 700 else "pass"
        assert ask(tmp_path, "training time", claim | log(seconds)).verdict == in_time, seconds


def test_a_tokenizer_of_another_size_says_nothing_about_the_byte_table(tmp_path, embedded_layout):
    """The table is compared by the tokenizer given; a submission of another vocabulary has another
    one.
    """
    folder = tmp_path / "2026-03-20_Mine"
    folder.mkdir()
    options = Options(
        data=embedded_layout.validation[0].parents[2], tokenizer=embedded_layout.tokenizer
    )
    for size, fits in ((8192, False), (1024, True)):
        (folder / "train_gpt.py").write_text(
            f'vocab_size = int(os.environ.get("VOCAB_SIZE", {size}))\n'
        )
        submission = Submission(folder, options)
        if fits:
            assert score.fitting(submission).tokenizer.vocab == 1024
        else:
            with pytest.raises(CannotTell, match="vocabulary is 8,192"):
                score.fitting(submission)
