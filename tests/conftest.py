"""Test session settings. One thread per process: float sums repeat, and tests do not fight over the
cores.
"""

import os
import signal

# Read when torch is first imported, here and in every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts tests in the background has them ignore Ctrl-C, and with them every process
# that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis

from tests.support.commands import corpus, run_directory, scores_made_apart, scores_made_here
from tests.support.corpora import (
    embedded_cache,
    embedded_layout,
    embedded_tokenizer,
    layout,
    stream,
)
from tests.support.packs import packed, seeds
from tests.validate.submissions.good import good

hypothesis.settings.register_profile(
    "maskgolf",
    deadline=None,
    derandomize=os.environ.get("CI") == "true",
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("maskgolf")

# Files that take a minute or more, the longest first; without them, two workers end far apart.
LONGEST = (
    *("test_bugs.py", "test_executed.py", "test_folders.py", "test_device.py", "test_fields.py"),
    *("test_torchrun.py", "test_runs.py", "test_pack.py", "test_bench_device.py"),
)


def pytest_collection_modifyitems(items):
    """Order whole files: the longest, those with slow tests, then the others."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    names = {name: number for number, name in enumerate(LONGEST)}
    last = len(LONGEST)
    items.sort(key=lambda item: names.get(item.path.name, last + (item.path not in slow)))
