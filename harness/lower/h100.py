"""An H100 that is not there: what torch and Triton ask a device while they compile, answered.

It holds for torch 2.11 with Triton 3.6 and reaches into private parts of both. Expect to mend it
at every release: a question that nobody answered shows as an error of CUDA's initialisation.
"""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from unittest import mock

import torch
from torch._dynamo.device_interface import CudaInterface

NAME = "NVIDIA H100 80GB HBM3"
CAPABILITY = (9, 0)
ARCHITECTURE = "sm_90a"  # what ptxas is told
PROPERTIES = SimpleNamespace(  # of the SXM5 board, as torch.cuda names them; NVIDIA's data sheet
    name=NAME,
    major=9,
    minor=0,
    multi_processor_count=132,
    warp_size=32,
    regs_per_multiprocessor=64 * 1024,
    max_threads_per_block=1024,
    max_threads_per_multi_processor=2048,
    shared_memory_per_block=48 * 1024,
    shared_memory_per_block_optin=227 * 1024,
    shared_memory_per_multiprocessor=228 * 1024,
    L2_cache_size=50 * 2**20,
    total_memory=85 * 10**9,
)


def _answers() -> dict:
    """Return {function of torch.cuda: what it answers}."""
    free = 80 * 2**30
    constants = {
        "is_available": True,
        "is_initialized": True,
        "is_bf16_supported": True,
        "device_count": 1,
        "current_device": 0,
        "_exchange_device": 0,
        "_maybe_exchange_device": 0,
        "memory_allocated": 0,
        "mem_get_info": (free, free),
        "get_device_name": NAME,
        "get_device_capability": CAPABILITY,
        "get_device_properties": PROPERTIES,
        "_lazy_init": None,
        "set_device": None,
        "synchronize": None,
        "set_rng_state": None,
    }
    answers = {name: lambda *_, _value=value, **__: _value for name, value in constants.items()}
    answers["get_rng_state"] = lambda *_: torch.zeros(16, dtype=torch.uint8)
    return answers


def _forget() -> None:
    """Drop what torch remembers of the devices that it found earlier."""
    for module in (torch.utils._triton, torch._inductor.utils):
        for function in vars(module).values():
            if hasattr(function, "cache_clear"):
                function.cache_clear()


@contextlib.contextmanager
def pretended() -> Iterator[torch.device]:
    """Within it, torch compiles for an H100 as cuda:0, which is what it yields. Nothing can run."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    target = GPUTarget("cuda", 10 * CAPABILITY[0] + CAPABILITY[1], 32)
    replaced = mock.patch.object
    with contextlib.ExitStack() as stack:
        for name, answer in _answers().items():
            stack.enter_context(replaced(torch.cuda, name, answer))
            seen = name.lstrip("_")  # the interface has the public names
            if hasattr(CudaInterface, seen):
                stack.enter_context(replaced(CudaInterface, seen, staticmethod(answer)))
        stack.enter_context(replaced(CudaInterface, "get_raw_stream", staticmethod(lambda *_: 0)))
        for function, answer in {
            "torch._subclasses.fake_tensor.init_gpu_context": None,
            "torch.accelerator.current_device_index": 0,
            "torch._inductor.runtime.triton_helpers.set_driver_to_gpu": None,
        }.items():
            stack.enter_context(mock.patch(function, lambda *_, _value=answer: _value))
        torch._C._ensureCUDADeviceGuardSet()
        asked = {"get_current_target": lambda: target, "get_current_device": lambda: 0}
        stack.enter_context(replaced(driver, "_active", SimpleNamespace(**asked)))
        _forget()
        stack.callback(_forget)
        yield torch.device("cuda", 0)
