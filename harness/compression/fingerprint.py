"""What a compressed file depends on: the model's bytes, the tokenizer's, the arithmetic of this
machine; each cut to a few bytes.
"""

import hashlib
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch

from fast.codec import require
from reference.recipe import InputError


class Fingerprint(NamedTuple):
    """Four bytes of the SHA-256 of two files, two packages as (major, minor, patch), four bytes of
    the SHA-256 of describe_machine().
    """

    artifact: bytes
    tokenizer: bytes
    torch: bytes
    constriction: bytes
    machine: bytes


def _dotted(numbers: bytes) -> str:
    return ".".join(map(str, numbers))


# Field: (what it identifies, how its bytes are shown, what to do where it differs).
MESSAGES = {
    "artifact": ("the artifact of SHA-256 {}...", bytes.hex, "name the run it was compressed with"),
    "tokenizer": (
        "the tokenizer of SHA-256 {}...",
        bytes.hex,
        "pass --tokenizer of the run it was compressed with",
    ),
    "torch": ("torch {}", _dotted, "install that version"),
    "constriction": ("constriction {}", _dotted, "install that version"),
    "machine": (
        "the machine and device {}",
        bytes.hex,
        "decompress where it was compressed; this is {}",
    ),
}


def _processor() -> str:
    try:
        match = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        match = None
    return match[1] if match else platform.processor()


def describe_machine(device: str, dtype: str) -> str:
    """Return what decides the last bit of a forward pass beside weights, shapes and threads."""
    parts = [
        platform.machine(),
        _processor(),
        torch.backends.cpu.get_cpu_capability(),
        f"torch {torch.__version__}",
        dtype,
        f"matmul precision {torch.get_float32_matmul_precision()}",
    ]
    if device.startswith("cuda"):
        parts += [torch.cuda.get_device_name(device), f"CUDA {torch.version.cuda}"]
    return ", ".join([*parts, f"device {device.split(':')[0]}"])


def _version_bytes(text: str) -> bytes:
    numbers = [min(int(number), 255) for number in re.findall(r"\d+", text.split("+")[0])[:3]]
    return bytes([*numbers, 0, 0, 0][:3])


def fingerprint_of(artifact: str, tokenizer: str, machine: str) -> Fingerprint:
    """Return the fingerprint of a stream that this process writes; artifact and tokenizer are
    hexadecimal SHA-256, machine is describe_machine().
    """
    require("constriction", "range coder")
    return Fingerprint(
        bytes.fromhex(artifact)[:4],
        bytes.fromhex(tokenizer)[:4],
        _version_bytes(torch.__version__),
        _version_bytes(version("constriction")),
        hashlib.sha256(machine.encode()).digest()[:4],
    )


def check(expected: Fingerprint, found: Fingerprint, machine: str, where: str) -> None:
    """Raise an InputError that names every difference; `machine` describes this one."""
    differences = [
        f"expected {what.format(show(then))}, found {show(now)}: {advice.format(machine)}"
        for then, now, (what, show, advice) in zip(expected, found, MESSAGES.values(), strict=True)
        if then != now
    ]
    if differences:
        raise InputError(f"{where}: {'; '.join(differences)}")
