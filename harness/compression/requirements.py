"""What a compressed file depends on: the model's bytes, the tokenizer's, the arithmetic of this
machine. Each cut to a few bytes.
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


class Needs(NamedTuple):
    """Four bytes of the SHA-256 of two files, two packages as (major, minor, patch), four bytes of
    the SHA-256 of machine().
    """

    artifact: bytes
    tokenizer: bytes
    torch: bytes
    constriction: bytes
    machine: bytes


def _processor() -> str:
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor()


def machine(device: str, dtype: str) -> str:
    """Return what decides the last bit of a forward pass beside weights, shapes and threads."""
    parts = [
        platform.machine(),
        _processor(),
        torch.backends.cpu.get_cpu_capability(),
        f"torch {torch.__version__}",
    ]
    parts += [dtype, f"matmul precision {torch.get_float32_matmul_precision()}"]
    if device.startswith("cuda"):
        parts += [torch.cuda.get_device_name(device), f"CUDA {torch.version.cuda}"]
    return ", ".join([*parts, f"device {device.split(':')[0]}"])


def _numbers(text: str) -> bytes:
    numbers = [min(int(number), 255) for number in re.findall(r"\d+", text.split("+")[0])[:3]]
    return bytes([*numbers, 0, 0, 0][:3])


def needs(artifact: str, tokenizer: str, device: str, dtype: str) -> Needs:
    """Return what a stream made here and now depends on; artifact and tokenizer are hexadecimal
    SHA-256.
    """
    require("constriction", "range coder")
    described = hashlib.sha256(machine(device, dtype).encode()).digest()
    packages = _numbers(torch.__version__), _numbers(version("constriction"))
    return Needs(
        bytes.fromhex(artifact)[:4], bytes.fromhex(tokenizer)[:4], *packages, described[:4]
    )


def _dotted(numbers: bytes) -> str:
    return ".".join(map(str, numbers))


def check(expected: Needs, found: Needs, here: str, where: str) -> None:
    """Raise an InputError that names every difference; `here` describes this machine."""
    shown = {
        "artifact": (
            "the artifact of SHA-256 {}...",
            bytes.hex,
            "name the run it was compressed with",
        ),
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
            f"decompress where it was compressed; this is {here}",
        ),
    }
    differences = []
    for name, (words, show, advice) in shown.items():
        then, now = show(getattr(expected, name)), show(getattr(found, name))
        if then != now:
            differences.append(f"expected {words.format(then)}, found {now}: {advice}")
    if differences:
        raise InputError(f"{where}: {'; '.join(differences)}")
