"""A second device without the hardware: tensors that say they are on it, keep their values on the
CPU, and refuse to meet what is not.

It goes by the name of "meta", the one device that every build of torch knows and nothing here uses.
"""

import contextlib

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "meta"
CPU = torch.device("cpu")
aten = torch.ops.aten
CROSSING = (aten.copy_.default, aten._to_copy.default)
INDEXING = (
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
)


class Away(torch.Tensor):
    """A tensor on the second device; `inner` holds its values."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor):
        """Return a tensor of the same shape and layout, without values of its own."""
        layout = {
            "strides": inner.stride(),
            "storage_offset": inner.storage_offset(),
            "dtype": inner.dtype,
        }
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, **layout, device=NAME)

    def __init__(self, inner: torch.Tensor):
        """Keep the values."""
        self.inner = inner

    def __repr__(self):
        """Show the values and where they are."""
        return f"Away({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        """Run an operation on one device."""
        return run(operation, args, kwargs or {})


def tensors_of(value) -> list[torch.Tensor]:
    """Return the tensors among arguments, in nested lists, tuples and dicts too. torch's own trees
    take most of the time of an operation here.
    """
    tensors, waiting = [], [value]
    for member in waiting:
        if isinstance(member, torch.Tensor):
            tensors.append(member)
        elif type(member) is dict:
            waiting.extend(member.values())
        elif isinstance(member, list | tuple):
            waiting.extend(member)
    return tensors


def mapped(function, value):
    """Return nested lists, tuples and dicts with every leaf replaced by function(leaf)."""
    kind = type(value)
    if kind is tuple or kind is list:
        return kind([mapped(function, member) for member in value])
    if kind is dict:
        return {name: mapped(function, member) for name, member in value.items()}
    return function(value)


def inner(value):
    """Return the values of a tensor that is away, the CPU for any device, all else as it is."""
    if type(value) is Away:
        return value.inner
    return CPU if type(value) is torch.device else value


def meets(operation, args) -> bool:
    """Return whether an operation takes tensors of both devices, as on CUDA: a copy, or an index on
    the CPU into a tensor that is away.
    """
    if operation in CROSSING:
        return True
    values = [value for value in tensors_of(args[2:]) if value.dim()]
    return (
        operation in INDEXING
        and isinstance(args[0], Away)
        and all(isinstance(value, Away) for value in values)
    )


def run(operation, args, kwargs):
    """Run an operation where its tensors are; a RuntimeError where they are in two places, but for
    numbers (no dimensions).
    """
    if operation is aten._fused_sdp_choice.default:
        return 0  # no fused attention, which each device has its own of
    tensors = tensors_of((args, kwargs))
    away = [tensor for tensor in tensors if isinstance(tensor, Away)]
    here = [tensor for tensor in tensors if not isinstance(tensor, Away) and tensor.dim()]
    if away and here and not meets(operation, args):
        shapes = [[tuple(tensor.shape) for tensor in group] for group in (away, here)]
        raise RuntimeError(
            f"{operation}: tensors on two devices, {shapes[0]} away and {shapes[1]} on the CPU"
        )
    device = kwargs.get("device")
    there = bool(away) if device is None else device.type == NAME
    if operation is aten.copy_.default:
        there = isinstance(args[0], Away)
    found = operation(*mapped(inner, args), **mapped(inner, kwargs))
    # What is changed in place is handed back as it came
    given = {id(inner(tensor)): tensor for tensor in tensors}

    def placed(value):
        return (
            given[id(value)]
            if id(value) in given
            else Away(value)
            if there and isinstance(value, torch.Tensor)
            else value
        )

    return mapped(placed, found)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return run(operation, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What torch decides before any operation is asked for."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.Tensor.tolist and isinstance(args[0], Away):
            return args[0].inner.tolist()
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return function(*args, **kwargs).to(device)
        return function(*args, **kwargs)


@contextlib.contextmanager
def second_device():
    """Make torch believe in a second device; yields its name."""
    with _Functions(), _Operations():
        yield NAME
