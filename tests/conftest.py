"""Test session settings. One thread per process: float sums repeat, and tests do not fight over the cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported, here and in every process that a test starts

import hypothesis

hypothesis.settings.register_profile(
    "maskgolf", deadline=None, derandomize=os.environ.get("CI") == "true", print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)  # fmt: skip
hypothesis.settings.load_profile("maskgolf")
