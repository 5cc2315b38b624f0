"""The commands as a person meets them: outputs, exit codes, one clear message for bad input,
nothing half-written.
"""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from fast.data import write_shard
from harness import cli, commands
from harness.corpus import shards
from reference.recipe import DTYPES, FORMATS, PRESETS, ROPE_FREQUENCIES
from tests.support.commands import TINY, refused, start

EVAL_FIELDS = {
    "estimator",
    "order",
    "bpb",
    "stderr_masks",
    "stderr_sequences",
    "nats_per_token",
    "tokens",
    "bytes",
    "forwards",
    "seconds",
}
SUMMARY_FIELDS = {
    "preset",
    "parameters",
    "steps",
    "seconds",
    "tokens_per_second",
    "final_lr_multiplier",
    "ema_started_step",
    "artifact_bytes",
    "code_bytes",
    "codec",
    "scores",
    "baselines",
}


def test_run_directory_holds_what_the_specification_lists(run_directory):
    """recipe.json, train.log, metrics.jsonl, checkpoint/, artifact.mgolf, summary.json, and no
    litter.
    """
    names = {path.name for path in run_directory.iterdir()}
    assert names == {
        "recipe.json",
        "train.log",
        "metrics.jsonl",
        "checkpoint",
        "artifact.mgolf",
        "summary.json",
    }
    assert [path.name for path in (run_directory / "checkpoint").iterdir()] == ["latest.pt"]


def test_summary_has_its_frozen_shape(run_directory):
    """SPEC section 13; more fields may be added, none may go."""
    summary = json.loads((run_directory / "summary.json").read_text())
    assert set(summary) >= SUMMARY_FIELDS
    assert set(summary["baselines"]) == {"zlib", "bz2", "lzma", "uniform"}
    assert all(set(score) >= EVAL_FIELDS for score in summary["scores"])
    assert summary["steps"] == 20 and summary["final_lr_multiplier"] == pytest.approx(
        1 / 20, abs=1e-15
    )
    assert summary["ema_started_step"] == 2
    assert summary["artifact_bytes"] == (run_directory / "artifact.mgolf").stat().st_size


def test_log_keeps_the_challenge_lines(run_directory):
    """step:S/N train_loss:... train_time:...ms step_avg:...ms and val_loss, val_bpb at the end."""
    lines = (run_directory / "train.log").read_text().splitlines()
    assert any(
        line.startswith("step:1/20 train_loss:") and "train_time:" in line and "step_avg:" in line
        for line in lines
    )
    assert any(line.startswith("step:20/20 val_loss:") and "val_bpb:" in line for line in lines)
    steps = [
        json.loads(line)["step"]
        for line in (run_directory / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == [*range(1, 21), 20]  # every step's loss, then the validation of the last


@pytest.mark.parametrize(
    "options",
    [["nelbo"], ["nelbo-grid", "--points", "8"]]
    + [["chain", "--order", order] for order in ("left-to-right", "confidence", "block", "random")],
    ids=" ".join,
)
def test_eval_prints_one_json_object(run_directory, options, capsys):
    """Every estimator from the file alone; the uniform predictor's score bounds what an untrained
    model can lose by much.
    """
    assert (
        cli.main(
            [
                "eval",
                str(run_directory),
                "--no-compiled",
                "--sequences",
                "6",
                "--json",
                "-",
                "--estimator",
                *options,
            ]
        )
        == 0
    )
    score = json.loads(capsys.readouterr().out)
    assert set(score) >= EVAL_FIELDS and score["estimator"] == options[0]
    assert score["tokens"] == 48 and score["bytes"] > 0
    # Few grid points carry a large bias by design; the others are code lengths of a model that is a
    # little trained.
    assert 0 < score["nats_per_token"] < (np.inf if options[0] == "nelbo-grid" else 2 * np.log(400))


def test_eval_is_the_same_for_a_file_and_for_several_runs(run_directory, corpus, capsys):
    """A run directory and its artifact score alike; several runs print their scores together."""
    common = ["--no-compiled", "--sequences", "6", "--json", "-"]
    assert cli.main(["eval", str(run_directory), str(run_directory), *common]) == 0
    pair = json.loads(capsys.readouterr().out)["scores"]
    assert (
        cli.main(["eval", str(run_directory / "artifact.mgolf"), "--data", str(corpus), *common])
        == 0
    )
    alone = json.loads(capsys.readouterr().out)
    assert [score["bpb"] for score in pair] == [alone["bpb"]] * 2


def test_scores_come_from_the_file_not_from_live_weights(run_directory, tmp_path, corpus):
    """Another artifact under the same run gets another score, though checkpoint and log are
    unchanged.
    """
    from fast import artifact, transformer
    from harness.corpus.sources import Source
    from harness.evaluation import scoring

    twin = tmp_path / "twin"
    shutil.copytree(run_directory, twin)
    header, params = artifact.read(twin / "artifact.mgolf")
    recipe = artifact.recipe_of(header)
    before = scoring.score(twin, Source(), scoring.Estimate(sequences=4), compiled=False)
    untrained = transformer.initialize(recipe.model, 99)
    artifact.write(
        twin / "artifact.mgolf", untrained, recipe, {"tokenizer_sha256": header["tokenizer_sha256"]}
    )
    after = scoring.score(twin, Source(), scoring.Estimate(sequences=4), compiled=False)
    assert after["bpb"] != before["bpb"] and after["artifact_sha256"] != before["artifact_sha256"]


def test_artifact_holds_the_shadow(run_directory):
    """What ships is the quantised EMA: it differs from the live weights and equals the shadow up to
    its format.
    """
    import torch

    from fast import artifact, quantize, transformer

    tensors = torch.load(run_directory / "checkpoint" / "latest.pt", weights_only=True)["tensors"]
    header, params = artifact.read(run_directory / "artifact.mgolf")
    formats = {row["name"]: row["format"] for row in header["tensors"]}
    shadow, live = transformer.unstack(tensors["shadow"]), transformer.unstack(tensors["params"])
    for name, value in params.items():
        data = quantize.to_bytes(shadow[name], formats[name])
        assert torch.equal(value, quantize.from_bytes(data, shadow[name].shape, formats[name]))
    assert any(not torch.equal(shadow[name], live[name]) for name in params)


def test_dry_run_reports_the_golf_recipe(capsys):
    """19,190,656 parameters, FLOPs per token and the size estimate, without touching any data."""
    assert cli.main(["train", "--preset", "golf", "--dry-run", "--json", "-"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["parameters"] == 19_190_656
    matrices, head, attention = 18_579_456, 1024 * 576, 2 * 8 * 1024 * 576
    assert plan["flops_per_token"] == 6 * (matrices + head + attention)
    assert 12e6 < plan["artifact_bytes_estimate"] < plan["artifact_bytes_bound"]


def test_help_has_an_example_for_every_command(capsys):
    """--help of each command shows how it is used."""
    alone = (
        "demo",
        "train",
        "eval",
        "parity",
        "sample",
        "report",
        "watch",
        "validate",
        "compress",
        "decompress",
        "data",
    )
    for command in [
        *([name] for name in alone),
        ["data", "build"],
        ["data", "list"],
        ["data", "fineweb"],
    ]:
        with pytest.raises(SystemExit) as stop:
            cli.main([*command, "--help"])
        assert stop.value.code == 0 and "Example: maskgolf " + command[0] in " ".join(
            capsys.readouterr().out.split()
        )


def test_data_list_counts_the_sample(corpus, capsys):
    """What build printed, list prints too; a single shard works as well."""
    assert cli.main(["data", "list", str(corpus), "--json", "-"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert [shard["split"] for shard in described["shards"]] == ["train", "val"]
    assert cli.main(["data", "list", described["shards"][0]["file"], "--json", "-"]) == 0
    assert (
        json.loads(capsys.readouterr().out)["shards"][0]["tokens"]
        == described["shards"][0]["tokens"]
    )


BAD_RECIPES = {
    "heads": (["--model.d", "10", "--model.heads", "4"], "model.d must be divisible"),
    "groups": (
        ["--model.heads", "4", "--model.kv_heads", "3"],
        "model.heads must be divisible by model.kv_heads",
    ),
    "odd width": (
        ["--model.d", "12", "--model.heads", "4", "--model.kv_heads", "4"],
        "must be even",
    ),
    "length": (["--model.length", "7"], "multiple of model.length"),
    "format": (["--quantization.format", "e9m9"], "e9m9"),
    "preset": (["--preset", "huge"], "expected one of golf, best, demo, tiny"),
    "device": (["--device", "tpu"], "--device tpu"),
}


@pytest.mark.parametrize("case", BAD_RECIPES, ids=str)
def test_impossible_recipe_is_one_error_before_anything_starts(case, corpus, tmp_path, capsys):
    """Exit 2, the rule and what was found; no run directory appears."""
    options, said = BAD_RECIPES[case]
    assert said in refused(
        capsys, "train", *TINY, "--data", corpus, "--out", tmp_path / "run", *options
    )
    assert not (tmp_path / "run").exists()


def test_unknown_flag_is_exit_2():
    """The parser's own errors use the same code."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--model.dx", "3"])
    assert stop.value.code == 2


def damage(corpus: Path, tmp_path: Path, change) -> Path:
    """Return a copy of the corpus whose training shard went through change(bytes) -> bytes."""
    copy = tmp_path / "damaged"
    shutil.copytree(corpus, copy)
    shard = next(copy.glob("datasets/*/*_train_*.bin"))
    shard.write_bytes(change(shard.read_bytes()))
    return copy


BAD_SHARDS = {
    "truncated": (lambda data: data[:-2], "bytes"),
    "wrong magic": (lambda data: b"\x00" * 4 + data[4:], "20240520"),
    "no header": (lambda data: data[:100], "header"),
    "id beyond the vocabulary": (
        lambda data: data[:1024] + b"\xff\xff" * ((len(data) - 1024) // 2),
        "65535",
    ),
}


@pytest.mark.parametrize("case", BAD_SHARDS, ids=str)
def test_bad_shard_names_the_file(case, corpus, tmp_path, capsys):
    """Truncated, mislabelled or foreign shards stop a run with the file's name."""
    change, said = BAD_SHARDS[case]
    message = refused(
        capsys,
        "train",
        *TINY,
        "--data",
        damage(corpus, tmp_path, change),
        "--out",
        tmp_path / "run",
    )
    assert said in message and "_train_000000.bin" in message


def test_bad_sources_are_refused(corpus, tmp_path, capsys):
    """Missing folder, missing shard, tokenizer of another size, empty text, a split shorter than
    one window.
    """
    out = ["--out", tmp_path / "run"]
    assert "nowhere" in refused(capsys, "train", *TINY, "--data", tmp_path / "nowhere", *out)
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(capsys, "train", *TINY, "--data", tmp_path / "empty", *out)
    assert "401" in refused(capsys, "train", *TINY, "--model.vocab", "401", "--data", corpus, *out)
    (tmp_path / "empty.txt").write_text("")
    assert "empty.txt" in refused(capsys, "train", *TINY, "--text", tmp_path / "empty.txt", *out)
    long = [
        "--model.length",
        "65536",
        "--training.tokens_per_step",
        "65536",
        "--training.micro_batch_tokens",
        "65536",
    ]
    assert "window" in refused(capsys, "train", *TINY, *long, "--data", corpus, *out)
    short = tmp_path / "short"
    shutil.copytree(corpus, short)
    write_shard(next(short.glob("datasets/*/*_val_*.bin")), [1, 5, 6])
    assert "validation split" in refused(capsys, "train", *TINY, "--data", short, *out)
    assert "drop one" in refused(
        capsys, "train", *TINY, "--data", corpus, "--text", tmp_path / "empty.txt", *out
    )
    assert not (tmp_path / "run").exists()


def test_bad_artifacts_are_refused(run_directory, corpus, tmp_path, capsys):
    """Missing, foreign, truncated, flipped, or scored with another tokenizer: one message each."""
    data = (run_directory / "artifact.mgolf").read_bytes()
    cases = {
        "foreign": b"PK\x03\x04" + b"\0" * 100,
        "truncated": data[:-7],
        "flipped": data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
        "empty": b"",
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        assert name in refused(capsys, "eval", tmp_path / name, "--data", corpus, "--no-compiled")
    assert "nothing" in refused(capsys, "eval", tmp_path / "nowhere", "--no-compiled")
    (tmp_path / "unfinished").mkdir()
    assert "finished run" in refused(capsys, "eval", tmp_path / "unfinished", "--no-compiled")
    (tmp_path / "a.txt").write_text((Path(np.__file__).parent / "__init__.py").read_text())
    assert (
        cli.main(
            [
                "data",
                "build",
                str(tmp_path / "a.txt"),
                "--out",
                str(tmp_path / "other"),
                "--vocab",
                "400",
            ]
        )
        == 0
    )
    capsys.readouterr()
    assert "tokenizer" in refused(
        capsys, "eval", run_directory, "--data", tmp_path / "other", "--no-compiled"
    )
    assert "order" in refused(capsys, "eval", run_directory, "--order", "random", "--no-compiled")


def test_json_goes_to_a_file_whole_or_not_at_all(corpus, tmp_path, capsys):
    """--json PATH writes the file beside the table; a path that cannot be written is one
    message.
    """
    assert cli.main(["data", "list", str(corpus), "--json", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["shards"]
    assert "tokens" in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    assert "out.json" in refused(
        capsys, "data", "list", corpus, "--json", tmp_path / "file" / "out.json"
    )


def test_json_leaves_pipes_and_links_what_they_are(corpus, tmp_path):
    """--json /dev/null must not put a file in the device's place; a link's target is written, the
    link stays.
    """
    pipe, link, target = tmp_path / "pipe", tmp_path / "link", tmp_path / "target"
    os.mkfifo(pipe)
    link.symlink_to(target)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    for path in (pipe, link):
        assert cli.main(["data", "list", str(corpus), "--json", str(path)]) == 0
    assert pipe.is_fifo() and link.is_symlink() and json.loads(target.read_text())["shards"]
    assert json.loads(os.read(reader, 2**16)) == json.loads(target.read_text())
    os.close(reader)


def test_result_is_shown_where_its_json_cannot_be_written(corpus, tmp_path, capsys, monkeypatch):
    """What took long to compute is not lost to a path that has become a folder meanwhile."""
    path, describe = tmp_path / "out.json", shards.describe

    def slow(*arguments):
        path.mkdir()
        return describe(*arguments)

    monkeypatch.setattr(shards, "describe", slow)
    assert cli.main(["data", "list", str(corpus), "--json", str(path)]) == 2
    captured = capsys.readouterr()
    assert "tokens" in captured.out and "Is a directory" in captured.err


def test_paths_and_devices_that_cannot_be_are_one_message(capsys):
    """A name longer than the system takes, and devices of torch that compute nothing."""
    assert "too long" in refused(capsys, "eval", "a" * 300)
    assert "expected cpu or cuda" in refused(capsys, "parity", "masks", "--device", "meta")


def test_closed_pipe_is_quiet(corpus):
    """maskgolf ... | head must not end in a traceback."""
    process = start(
        "data", "list", corpus, "--json", "-", env=os.environ | {"PYTHONUNBUFFERED": "1"}
    )
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.wait(60)


@pytest.mark.parametrize(
    ("words", "causal"),
    [
        (["--model.causal"], True),
        (["--model.causal", "true"], True),
        (["--model.causal", "false"], False),
    ],
)
def test_boolean_fields_take_a_value(words, causal, capsys):
    """--model.causal true and --model.causal mean the same; the causal model has no mask row."""
    assert cli.main(["train", "--preset", "golf", "--dry-run", "--json", "-", *words]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 19_190_656 - 576 * causal


def test_sample_prints_text_that_begins_with_the_prompt(run_directory, capsys):
    """The same seed draws the same text; another seed another; a prompt as long as the window is
    refused.
    """
    arguments = ["sample", str(run_directory), "--prompt", "The", "--count", "2", "--json", "-"]
    assert cli.main(arguments) == 0
    first = json.loads(capsys.readouterr().out)
    assert cli.main(arguments) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert cli.main([*arguments, "--seed", "1"]) == 0
    assert json.loads(capsys.readouterr().out) != first
    assert len(first) == 2 and all(sample["text"].startswith("The") for sample in first)
    assert "--prompt" in refused(capsys, "sample", run_directory, "--prompt", "word " * 50)
    assert "--count" in refused(capsys, "sample", run_directory, "--count", "0")


def test_report_shows_finished_runs_side_by_side(run_directory, tmp_path, capsys):
    """The JSON is the list of summaries; an unfinished run is refused."""
    assert cli.main(["report", str(run_directory), str(run_directory), "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [set(summary) >= SUMMARY_FIELDS for summary in found] == [True, True]
    assert cli.main(["report", str(run_directory)]) == 0
    assert f"{found[0]['parameters']:,}" in capsys.readouterr().out
    assert "unfinished" in refused(capsys, "report", tmp_path / "unfinished")


def test_report_plots_training_curves(run_directory, tmp_path, capsys):
    """The plot is an image of some size; a suffix that is no image kind is one message."""
    assert cli.main(["report", str(run_directory), "--plot", str(tmp_path / "curves.png")]) == 0
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "--plot" in refused(
        capsys, "report", run_directory, "--plot", tmp_path / "curves.nonsense"
    )


def test_without_arguments_the_next_command_is_named(capsys):
    """Commands that there are, in lines that fit a terminal."""
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    named = set(re.findall(r"^  maskgolf ([a-z]+)", text, re.MULTILINE))
    assert "demo" in named and named <= set(commands.NAMES)
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("word", "advice"),
    [("tarin", "did you mean maskgolf train?"), ("qqq", "maskgolf --help explains each")],
)
def test_a_command_that_there_is_not_names_the_nearest(word, advice, capsys):
    assert cli.main([word, "runs/demo"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"maskgolf: '{word}': expected one of demo, train,")
    assert told.endswith(f"; {advice}\n")


def test_a_run_that_there_is_not_is_named_with_what_makes_one(capsys):
    assert cli.main(["sample", "runs/demo2"]) == 2
    assert "runs/demo2: expected a run directory" in (told := capsys.readouterr().err)
    assert told.endswith("(maskgolf demo makes runs/demo)\n")


def test_shell_completion_knows_the_flags_of_every_command(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--tyro-print-completion", "bash"])
    script = capsys.readouterr().out
    assert not end.value.code
    for flag in ("--training.iterations", "--partial", "--explain", "--temperature", "--causal"):
        assert flag in script, flag


NAMED = {  # fields of the recipe that take one of some names
    "preset": tuple(PRESETS),
    "model.rope_frequencies": ROPE_FREQUENCIES,
    "training.compute_dtype": DTYPES,
    "optimizer.muon_dtype": DTYPES,
    "quantization.format": FORMATS,
}


@pytest.mark.parametrize("name", NAMED)
def test_help_of_train_names_what_a_field_takes(name, capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    told = words.partition(f"--{name.replace('_', '-')} STR")[2].partition("(default:")[0]
    assert all(re.search(rf"(?<![\w-]){value}(?![\w-])", told) for value in NAMED[name])
