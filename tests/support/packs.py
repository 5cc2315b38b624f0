"""Packed submissions of tiny runs, for tests: trained once per session, no compiler."""

from pathlib import Path

import pytest

from harness import cli
from harness.packaging.claim import Claim
from harness.packaging.pack import pack
from tests.support.commands import TINY_MODEL

WHO = {
    "name": "Tiny masked diffusion",
    "author": "A. Person",
    "github_id": "aperson",
    "date": "2026-11-23",
}


def train(corpus: Path, out: Path, *flags: str) -> Path:
    """Train a tiny model on a corpus of 400 pieces; return its run directory."""
    tiny = (*TINY_MODEL, "--training.iterations", "12")
    assert cli.main(["train", *tiny, "--data", str(corpus), "--out", str(out), *flags]) == 0
    return out


@pytest.fixture(scope="session")
def seeds(corpus, tmp_path_factory) -> tuple[Path, Path]:
    """Return the run directories of two seeds of one configuration."""
    home = tmp_path_factory.mktemp("seeds")
    return tuple(train(corpus, home / seed, "--seed", seed) for seed in ("1", "2"))


@pytest.fixture(scope="session")
def packed(seeds, tmp_path_factory) -> Path:
    """Return the packed folder of both seeds."""
    return Path(pack(seeds, tmp_path_factory.mktemp("records"), Claim(**WHO))["folder"])
