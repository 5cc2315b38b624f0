"""maskgolf pack: what the folder holds is what the runs were; runs that do not belong together, or
cannot stand, are refused.
"""

import contextlib
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from fast import artifact, container
from fast.checkpoint import write_atomic
from fast.data import write_shard
from harness import cli
from harness.corpus.sources import Source
from harness.evaluation import scoring
from harness.packaging import model_card, size
from harness.packaging.claim import Claim
from harness.packaging.pack import _check_budgets as check_budgets
from harness.packaging.pack import pack
from reference.recipe import TINY, InputError
from tests.support.commands import refused
from tests.support.packs import WHO, train

FIELDS = {
    "author": str,
    "github_id": str,
    "name": str,
    "blurb": str,
    "date": str,
    "track": str,
    "val_bpb": float,
    "val_bpb_std": float,
    "val_bpb_estimator": str,
    "val_loss": float,
    "bytes_total": int,
    "bytes_code": int,
    "bytes_model": int,
    "seeds": list,
    "seed_results": dict,
    "hardware": str,
    "pytorch_version": str,
    "train_steps": int,
    "wallclock_seconds": float,
    "technique_summary": str,
}


def described(folder: Path) -> dict:
    """Return submission.json."""
    return json.loads((folder / "submission.json").read_text())


def summary_of(run: Path) -> dict:
    """Return summary.json."""
    return json.loads((run / "summary.json").read_text())


@pytest.fixture
def copy(seeds, tmp_path) -> Path:
    """Return a copy of the first run, to spoil."""
    return Path(shutil.copytree(seeds[0], tmp_path / "copy"))


def change(path: Path, **fields) -> None:
    """Set fields of a JSON file; None takes a field out."""
    content = json.loads(path.read_text())
    for name, value in fields.items():
        content.pop(name) if value is None else content.update({name: value})
    path.write_text(json.dumps(content))


def refusal(runs, out, **changed) -> str:
    """Return the message that pack refuses with; nothing may be left in `out`."""
    with pytest.raises(InputError) as error:
        pack(tuple(runs), out, Claim(**WHO | changed))
    assert not out.exists() or not any(out.iterdir())
    return str(error.value)


def test_folder_holds_the_submission(packed):
    assert packed.name == "2026-11-23_Tiny_masked_diffusion"
    names = {
        "README.md",
        "MODEL_CARD.md",
        "submission.json",
        "train_gpt.py",
        "requirements.txt",
        "train_seed1.log",
        "train_seed2.log",
        "final_model.mgolf",
    }
    assert {path.name for path in packed.iterdir()} == names
    assert [path.name for path in packed.parent.iterdir()] == [packed.name]


def test_json_has_every_field_and_its_type(packed):
    content = described(packed)
    assert {name: type(content.get(name)) for name in FIELDS} == FIELDS
    text = (packed / "submission.json").read_text()
    assert text == json.dumps(content, indent=2) + "\n"


def test_scores_are_those_of_the_artifact_files(packed, seeds):
    """Mean and sample deviation of two seeds, each read anew from its artifact over the whole
    split.
    """
    content = described(packed)
    fresh = [scoring.score(run, Source(), scoring.Estimate(), compiled=False) for run in seeds]
    bpbs = [each["bpb"] for each in fresh]
    assert content["val_bpb"] == sum(bpbs) / 2 and content["val_bpb_std"] == pytest.approx(
        abs(bpbs[0] - bpbs[1]) / math.sqrt(2), rel=1e-12
    )
    assert content["val_loss"] == pytest.approx(
        sum(each["nats_per_token"] for each in fresh) / 2, rel=1e-12
    )
    assert (
        content["val_bpb_estimator"] == "nelbo"
        and content["validation_tokens"] == fresh[0]["tokens"]
    )
    for seed, each in zip("12", fresh, strict=True):
        assert content["seed_results"][seed]["val_bpb"] == each["bpb"]
        assert content["seed_results"][seed]["stderr_masks"] == each["stderr_masks"]


def test_bytes_are_those_of_the_files_as_written(packed, seeds):
    content = described(packed)
    assert content["bytes_code"] == sum(path.stat().st_size for path in packed.glob("*.py"))
    assert (
        content["bytes_model"]
        == (packed / "final_model.mgolf").stat().st_size
        == (seeds[0] / "artifact.mgolf").stat().st_size
    )
    assert (
        content["bytes_total"] == content["bytes_code"] + content["bytes_model"] <= artifact.LIMIT
    )
    assert (
        content["seed_results"]["2"]["bytes_total"]
        == content["bytes_code"] + (seeds[1] / "artifact.mgolf").stat().st_size
    )


def test_logs_hold_training_and_what_came_of_it(packed, seeds):
    """The run's own lines unchanged, and parameters, average, last multiplier, clock, sizes and the
    score of the file to eight places.
    """
    content = described(packed)
    for seed, run in zip("12", seeds, strict=True):
        text, summary = (packed / f"train_seed{seed}.log").read_text(), summary_of(run)
        assert (run / "train.log").read_text() in text
        assert f"model_params:{summary['parameters']} " in text and f"\nseed:{seed}\n" in text
        assert re.search(
            rf"^ema started_step:{summary['ema_started_step']} .*dtype:float32 from_start:\d",
            text,
            re.M,
        )
        assert f"final_lr_multiplier:{summary['final_lr_multiplier']:.8f}\n" in text
        assert f"steps:{summary['steps']} train_time:{1000 * summary['seconds']:.0f}ms" in text
        assert f"Code size: {content['bytes_code']} bytes\n" in text
        result = content["seed_results"][seed]
        codec = artifact.read(run / "artifact.mgolf")[0]["codec"]
        assert f"Total submission size e4m3+{codec}: {result['bytes_total']} bytes\n" in text
        assert (
            f"final_e4m3_{codec}_roundtrip_exact val_loss:{result['val_loss']:.8f}"
            f" val_bpb:{result['val_bpb']:.8f} stderr_masks:" in text
        )


def test_readme_says_what_was_scored_and_how_to_repeat_it(packed):
    text, content = (packed / "README.md").read_text(), described(packed)
    for seed, result in content["seed_results"].items():
        assert f"| {seed} | {result['val_bpb']:.4f} | {result['stderr_masks']:.4f} |" in text
    assert (
        f"Mean val_bpb **{content['val_bpb']:.4f}**" in text
        and "torchrun" in text
        and "--score final_model.mgolf" in text
    )
    # The tiny corpus is not FineWeb, and the reader is told
    assert "not the challenge's full one" in text


def test_the_model_card_gives_hubs_and_people_the_same_score(packed):
    """Of the model that ships, and of all seeds in the metadata."""
    text, content = (packed / "MODEL_CARD.md").read_text(), described(packed)
    _, metadata, body = text.split("---\n", 2)
    known = yaml.safe_load(metadata)
    [entry] = known["model-index"]
    [metric] = entry["results"][0]["metrics"]
    assert entry["name"] == content["name"] and metric["value"] == content["val_bpb"]
    shipped = content["seed_results"][str(content["artifact_seed"])]
    assert f"{shipped['val_bpb']:.4f} ± {shipped['stderr_sequences']:.4f}" in body
    assert f"{content['parameters']:,} parameters in {content['bytes_model']:,} bytes" in body
    assert content["tokenizer_sha256"] in body
    tokens = TINY.training.tokens_per_step * content["train_steps"]
    assert f"{tokens:,} tokens in {content['train_steps']} steps" in body


def test_the_example_of_the_model_card_runs(packed, corpus, tmp_path, monkeypatch, capsys):
    [tokenizer] = corpus.rglob("*.model")
    shutil.copy(tokenizer, tmp_path / "TOKENIZER.model")
    shutil.copy(packed / "final_model.mgolf", tmp_path)
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", (packed / "MODEL_CARD.md").read_text(), re.DOTALL)
    exec(compile(code, "MODEL_CARD.md", "exec"), {})
    assert capsys.readouterr().out.startswith("The ")


def test_metadata_of_any_name_is_read_back(packed):
    """Quotes, colons, hashes and line breaks in a title."""
    recipe = artifact.recipe_of(artifact.read(packed / "final_model.mgolf")[0])
    for name in ("a: b # c", 'she said "no"', "- {x}", "two\nlines", "Ærø \U0001f3c6"):
        text = model_card.text(described(packed) | {"name": name}, recipe, 10)
        metadata = yaml.safe_load(text.split("---\n", 2)[1])
        assert metadata["model-index"][0]["name"] == name


def test_requirements_pin_one_version_each(packed):
    lines = (packed / "requirements.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[a-z0-9]+==\d[\w.]*", line) for line in lines)
    assert {line.partition("==")[0] for line in lines} == {
        "torch",
        "numpy",
        "sentencepiece",
        "lz4",
        "constriction",
    }


def test_a_part_of_the_split_is_scored_again(copy, tmp_path):
    """The demo scores 256 windows; the claim is of all of them."""
    whole = summary_of(copy)["scores"][0]
    change(copy / "summary.json", scores=[whole | {"tokens": 256, "bpb": 1.0}])
    content = pack((copy,), tmp_path / "out", Claim(**WHO))
    assert content["val_bpb"] == whole["bpb"] and content["validation_tokens"] == whole["tokens"]
    assert content["val_bpb_std"] is None and content["seeds"] == [1]


def test_command_writes_the_folder_and_its_json(seeds, tmp_path):
    arguments = [
        "pack",
        str(seeds[0]),
        "--name",
        "One / two: three",
        "--author",
        "A",
        "--github-id",
        "a-b",
        "--out",
        str(tmp_path / "out"),
    ]
    assert cli.main([*arguments, "--json", str(tmp_path / "j")]) == 0
    content = json.loads((tmp_path / "j").read_text())
    folder = Path(content.pop("folder"))
    assert (
        re.fullmatch(r"\d{4}-\d\d-\d\d_One_two_three", folder.name) and described(folder) == content
    )


def test_an_existing_folder_is_kept(capsys, packed, seeds):
    before = {path: path.read_bytes() for path in packed.iterdir()}
    flags = [word for name, value in WHO.items() for word in (f"--{name.replace('_', '-')}", value)]
    assert "expected nothing, found a folder" in refused(
        capsys, "pack", seeds[0], *flags, "--out", packed.parent
    )
    assert {path: path.read_bytes() for path in packed.iterdir()} == before


def test_runs_of_two_configurations_are_refused(seeds, corpus, tmp_path):
    other = train(
        corpus,
        tmp_path / "other",
        "--seed",
        "3",
        "--ema.decay",
        "0.8",
        "--optimizer.muon_lr",
        "0.01",
    )
    message = refusal([seeds[0], other], tmp_path / "out")
    assert "ema.decay: 0.9, now 0.8" in message and "optimizer.muon_lr: 0.02, now 0.01" in message
    assert "seed" not in message.partition("found another")[2]


def test_data_that_moved_is_named_and_must_be_the_same(seeds, copy, corpus, tmp_path):
    """The run's own folder is gone: --data says where it is now; data of another size is another
    configuration.
    """
    moved, whole = Path(shutil.copytree(corpus, tmp_path / "moved")), summary_of(copy)["scores"][0]
    source = json.loads((copy / "recipe.json").read_text())["source"]
    change(copy / "recipe.json", source=source | {"data": str(tmp_path / "gone")})
    change(copy / "summary.json", scores=[])
    assert f"data {tmp_path / 'gone'}: expected a directory of shards" in refusal(
        [copy], tmp_path / "out"
    )
    content = pack((copy,), tmp_path / "out", Claim(**WHO), source=Source(moved))
    assert content["val_bpb"] == whole["bpb"]
    change(copy / "recipe.json", source=source | {"data": str(moved)})
    [shard] = moved.glob("datasets/*/*_train_*.bin")
    write_shard(shard, [1] * 100)
    message = refusal([seeds[1], copy], tmp_path / "other")
    assert "training and validation tokens: (" in message and "now (100, " in message


def test_a_seed_counts_once(seeds, tmp_path):
    assert "expected a seed of its own, found 1 again" in refusal(
        [seeds[0], seeds[1], seeds[0]], tmp_path / "out"
    )


@pytest.mark.parametrize(
    "name", ["summary.json", "artifact.mgolf", "recipe.json", "train.log", "checkpoint/latest.pt"]
)
def test_unfinished_runs_are_refused(copy, tmp_path, name):
    (copy / name).unlink()
    message = refusal([copy], tmp_path / "out")
    assert str(copy) in message and (Path(name).parts[0].partition("/")[0] in message)


def test_what_is_no_run_is_refused(tmp_path):
    assert "found nothing" in refusal([tmp_path / "absent"], tmp_path / "out")
    assert "at least one run directory" in refusal([], tmp_path / "out")


def test_an_artifact_of_another_run_is_refused(copy, seeds, tmp_path):
    shutil.copy(seeds[1] / "artifact.mgolf", copy / "artifact.mgolf")
    assert "seed: 1, now 2" in refusal([copy], tmp_path / "out")


def test_a_summary_of_another_release_is_refused(copy, tmp_path):
    change(copy / "summary.json", hardware=None)
    assert "expected the field hardware, found none" in refusal([copy], tmp_path / "out")


def test_over_the_limit_is_refused(copy, tmp_path):
    """A container just below the limit, so that the code is what goes over it."""
    header, params = artifact.read(copy / "artifact.mgolf")
    own = {key: value for key, value in header.items() if key not in container.OWN_FIELDS}
    words = (artifact.LIMIT - (copy / "artifact.mgolf").stat().st_size) // 4 - 10_000
    formats = {row["name"]: row["format"] for row in header["tensors"]} | {"padding": "float32"}
    write_atomic(
        copy / "artifact.mgolf",
        container.pack(params | {"padding": torch.ones(words)}, formats, own, "none"),
    )
    assert (copy / "artifact.mgolf").stat().st_size < artifact.LIMIT
    message = refusal([copy], tmp_path / "out")
    assert "expected at most 16,000,000 bytes" in message and "heaviest tensors: padding" in message


def test_too_long_for_the_track_is_refused(copy, tmp_path):
    change(copy / "summary.json", seconds=600.5)
    assert "expected at most 600 s of training on track 10min_16mb, found 600.5" in refusal(
        [copy], tmp_path / "out", track="10min_16mb"
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": " "}, "--name: expected your own"),
        ({"author": "Your Name"}, "--author: expected your own"),
        ({"github_id": "@me"}, "--github-id: expected a GitHub user name"),
        ({"github_id": "https://github.com/me"}, "--github-id: expected a GitHub user name"),
        ({"date": "23.11.2026"}, "--date: expected YYYY-MM-DD"),
        ({"track": "10_min"}, "--track '10_min': expected one of non_record_16mb, 10min_16mb"),
        ({"author": "A\udcff"}, "--author: expected a line of text"),
        ({"name": "one\ntwo"}, "--name: expected a line of text"),
        ({"blurb": " "}, "--blurb: expected your own"),
        ({"technique": "TBD"}, "--technique: expected your own"),
        ({"name": "日本"}, "--name: expected letters or digits"),
    ],
)
def test_what_a_person_states_is_checked(seeds, tmp_path, changed, said):
    assert said in refusal(seeds, tmp_path / "out", **changed)


def test_a_full_disk_leaves_nothing(seeds, tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert "cannot write the folder (No space left on device)" in refusal(seeds, tmp_path / "out")


def test_bytes_of_the_code_are_those_of_its_text_in_utf_8():
    assert check_budgets([], "print('\N{GREEK SMALL LETTER PI}')", "10min_16mb") == 11


def test_the_tokenizer_of_the_model_is_named(packed):
    header, _ = container.read_header((packed / "final_model.mgolf").read_bytes())
    assert described(packed)["tokenizer_sha256"] == header["tokenizer_sha256"]
    assert re.fullmatch("[0-9a-f]{64}", header["tokenizer_sha256"])


# weights stored anew within a budget


@contextlib.contextmanager
def little_text():
    """Steps follow from the gradients of 1,024 tokens: windows of the tiny model are so short that
    65,536 tokens are thousands of backward passes.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(size, "FISHER_TOKENS", 2**10)
        yield


def test_steps_follow_from_the_gradients_of_65_536_tokens(seeds):
    recipe = artifact.recipe_of(artifact.read(seeds[0] / "artifact.mgolf")[0])
    quantization = size.within(recipe, artifact.LIMIT).quantization
    assert quantization.fisher == 2**16 // recipe.model.length


@pytest.fixture(scope="module")
def within(seeds, tmp_path_factory) -> tuple[dict, Path]:
    """What pack says, and the folder, of runs stored anew in 8,000 bytes and the code."""
    out = tmp_path_factory.mktemp("within")
    code = sum(
        size.code_bytes(artifact.recipe_of(artifact.read(seeds[0] / "artifact.mgolf")[0])).values()
    )
    budget = code + 8000
    with little_text():
        described_ = pack(seeds, out, Claim(**WHO), budget=budget)
    return described_ | {"budget": budget}, Path(described_["folder"])


def test_code_and_artifact_fit_the_budget(within):
    content, folder = within
    taken = sum((folder / name).stat().st_size for name in ("train_gpt.py", "final_model.mgolf"))
    assert content["bytes_total"] == taken
    assert content["budget"] - 200 <= taken <= content["budget"]


def test_scores_are_those_of_the_weights_that_were_stored_anew(within, seeds, tmp_path):
    content, folder = within
    header, _ = artifact.read(folder / "final_model.mgolf")
    assert {row["format"] for row in header["tensors"]} == {"uniform", "float16"}
    (tmp_path / "run").mkdir()
    for name in ("recipe.json", "summary.json"):
        shutil.copy(seeds[0] / name, tmp_path / "run")
    shutil.copy(folder / "final_model.mgolf", tmp_path / "run" / "artifact.mgolf")
    fresh = scoring.score(tmp_path / "run", Source(), scoring.Estimate(), compiled=False)
    known = content["seed_results"]["1"]
    assert known["val_bpb"] == pytest.approx(fresh["bpb"], rel=1e-6)
    assert known["val_bpb"] != summary_of(seeds[0])["scores"][0]["bpb"]


def test_the_program_stores_weights_in_the_same_way(within):
    """Its recipe names the budget, less its own bytes."""
    content, folder = within
    recipe = artifact.recipe_of(artifact.read(folder / "final_model.mgolf")[0])
    code = (folder / "train_gpt.py").stat().st_size
    assert 0 <= content["budget"] - code - recipe.quantization.budget <= 8
    text = (folder / "train_gpt.py").read_text()
    for name in ("format='uniform'", f"budget={recipe.quantization.budget}"):
        assert name in text
    assert recipe.quantization.fisher == 2**10 // recipe.model.length


def test_a_budget_that_nothing_fits_is_refused(seeds, tmp_path):
    recipe = artifact.recipe_of(artifact.read(seeds[0] / "artifact.mgolf")[0])
    code = sum(size.code_bytes(size.within(recipe, 16_000_000)).values())
    for budget, message in (
        (10_000, r"--budget: expected more bytes than the code alone takes"),
        (code + 1000, r"leaves [\d,]+ bytes beside the code; quantization.budget: expected"),
    ):
        with little_text(), pytest.raises(InputError, match=message):
            pack(seeds, tmp_path / "out", Claim(**WHO), budget=budget)
        assert not (tmp_path / "out").exists()
