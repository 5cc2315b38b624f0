"""The challenge's own data from the Hugging Face hub: shards and tokenizer, in the official
layout.
"""

import json
import os
import shutil
from pathlib import Path

from fast.bytes import load_tokenizer
from fast.data import read_shard
from reference.recipe import InputError

# the dataset repository that openai/parameter-golf downloads from
REPOSITORY = "willdepueoai/parameter-golf"
ROOT = "datasets"  # of the export inside that repository: manifest.json, datasets/, tokenizers/


def fetch_fineweb(out_dir: str | Path, train_shards: int = 1, vocab: int = 1024) -> Path:
    """Download the first train_shards training shards, all validation shards and the tokenizer;
    return out_dir.

    Existing well-formed files are kept, so that an interrupted download resumes.
    """
    out_dir = Path(out_dir)
    if train_shards < 0:
        raise InputError(
            f"fineweb: expected a number of training shards of at least 0, found {train_shards}; "
            "the validation split always comes"
        )
    if out_dir.exists() and not out_dir.is_dir():
        raise InputError(f"output {out_dir}: expected a directory, found a file; choose another")
    name = f"fineweb10B_sp{vocab}"
    manifest = _read_manifest(_fetch("manifest.json", out_dir))
    entry = next((entry for entry in manifest["datasets"] if entry["name"] == name), None)
    if entry is None:
        raise InputError(
            "fineweb: expected a vocabulary in"
            f" {[entry['name'] for entry in manifest['datasets']]}, found {name}; set --model.vocab"
        )
    available = entry["stats"]["files_train"]
    if train_shards > available:
        raise InputError(
            f"fineweb {name}: expected at most {available} training shards, found {train_shards};"
            " ask for fewer"
        )
    load_tokenizer(_fetch(f"tokenizers/fineweb_{vocab}_bpe.model", out_dir), expect_vocab=vocab)
    for split, count in (("val", entry["stats"]["files_val"]), ("train", train_shards)):
        for index in range(count):
            _fetch(f"datasets/{name}/fineweb_{split}_{index:06d}.bin", out_dir)
    shutil.rmtree(out_dir / ".download", ignore_errors=True)
    return out_dir


def _read_manifest(path: Path) -> dict:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for entry in manifest["datasets"]:
            entry["name"], entry["stats"]["files_train"], entry["stats"]["files_val"]
        return manifest
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"fineweb {path}: expected the export's manifest, found something else; remove it and"
            " fetch again"
        ) from None


def _fetch(relative: str, out_dir: Path) -> Path:
    """Return the local file; a download is written to out_dir/.download and moved when it is
    complete.
    """
    target = out_dir / relative
    if target.exists() and (target.suffix != ".bin" or _is_shard(target)):
        return target
    try:
        import huggingface_hub
    except ImportError:
        raise InputError(
            "fineweb: expected the package huggingface_hub, found none; pip install"
            " 'maskgolf[fineweb]'"
        ) from None
    staging = out_dir / ".download"
    try:
        downloaded = Path(
            huggingface_hub.hf_hub_download(
                REPOSITORY, f"{ROOT}/{relative}", repo_type="dataset", local_dir=staging
            )
        )
        if target.suffix == ".bin":
            read_shard(downloaded)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(downloaded, target)
    except InputError:
        raise
    # the hub client raises what its HTTP library raises, which differs between its versions
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(
            f"fineweb {REPOSITORY}/{ROOT}/{relative}: expected to download it to {target},"
            f" found: {reason}; "
            "check the network and run again"
        ) from None
    return target


def _is_shard(path: Path) -> bool:
    try:
        read_shard(path)
    except InputError:
        return False
    return True
