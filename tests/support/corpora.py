"""Real corpora for tests: the embedded one, built once per session, and the FineWeb sample where
this machine has it.
"""

from pathlib import Path

import pytest

from fast.bytes import load_tokenizer
from fast.data import Layout, Tokens, find_layout, write_shard
from harness.corpus import prepare

FINEWEB = Path(__file__).resolve().parents[2] / "shared" / "fineweb"


@pytest.fixture(scope="session")
def embedded_cache(tmp_path_factory) -> Path:
    """Return a cache directory in which the embedded corpus is built."""
    cache = tmp_path_factory.mktemp("cache")
    prepare.embedded(cache)
    return cache


@pytest.fixture(scope="session")
def embedded_layout(embedded_cache) -> Layout:
    """Return the built embedded corpus."""
    return find_layout(prepare.embedded(embedded_cache))


@pytest.fixture(scope="session")
def embedded_tokenizer(embedded_layout):
    """Return the tokenizer trained on the embedded corpus."""
    return load_tokenizer(embedded_layout.tokenizer, expect_vocab=1024)


@pytest.fixture(
    scope="session", params=["embedded", "fineweb"] if FINEWEB.is_dir() else ["embedded"]
)
def layout(request, embedded_layout) -> Layout:
    """Return each real corpus this machine has, in turn."""
    return embedded_layout if request.param == "embedded" else find_layout(FINEWEB)


@pytest.fixture
def stream(tmp_path):
    """Return a function that writes lists of ids as training shards and opens them as one
    stream.
    """

    def make(*shards) -> Tokens:
        for index, ids in enumerate(shards):
            write_shard(tmp_path / f"made_train_{index:06d}.bin", ids)
        return Tokens(find_layout(tmp_path).train)

    return make
