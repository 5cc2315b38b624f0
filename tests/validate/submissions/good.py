"""The good folder: two packed seeds of a tiny model, and copies of it to spoil."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def good(packed, tmp_path) -> Path:
    """Return a copy of the packed folder, to spoil."""
    (tmp_path / "records").mkdir()
    return Path(shutil.copytree(packed, tmp_path / "records" / packed.name))
