"""Parity: bitwise. A recipe read back from JSON, since the shipped code scores an artifact by the
recipe in its header; and how two recipes differ.
"""

from dataclasses import fields, is_dataclass
from math import isfinite
from typing import get_args, get_origin, get_type_hints

from reference.recipe import InputError, Recipe, check

CHECKPOINT = "latest.pt"  # the file in a run's folder of that name
# May change between sessions of one run
RESUMABLE = {"training.checkpoint_every", "training.validate_every", "training.log_every"}


def read_value(value: object, kind: type, where: str) -> object:
    """One field as the type that the recipe declares; JSON's lists become tuples and whole numbers
    become floats, nothing else changes.
    """
    if is_dataclass(kind):
        return read_fields(value, kind, where)
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if not isinstance(value, list | tuple) or len(value) != len(kinds):
            raise InputError(
                f"{where}: expected a list of {len(kinds)} values, found {value!r:.200}"
            )
        return tuple(
            read_value(item, each, f"{where}[{i}]")
            for i, (item, each) in enumerate(zip(value, kinds, strict=True))
        )
    right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if (
        kind is float
        and isinstance(value, int)
        and not isinstance(value, bool)
        and abs(value) < 2**53
    ):
        value, right = float(value), True
    if not right or (kind is float and not isfinite(value)):
        raise InputError(f"{where}: expected {kind.__name__}, found {value!r:.200}")
    return value


def read_fields(values: object, kind: type, where: str) -> object:
    """A dataclass from a dictionary with exactly its fields."""
    if not isinstance(values, dict):
        raise InputError(f"{where}: expected an object with fields, found {values!r:.200}")
    names = [field.name for field in fields(kind)]
    missing, unknown = (
        [name for name in names if name not in values],
        [name for name in values if name not in names],
    )
    if missing or unknown:
        parts = [
            f"{word} {', '.join(map(str, some))}"
            for word, some in (("misses", missing), ("has the unknown", unknown))
            if some
        ]
        raise InputError(
            f"{where}: expected the fields of {kind.__name__}, but it {' and '.join(parts):.400};"
            " another release wrote it"
        )
    hints = get_type_hints(kind)
    return kind(
        **{name: read_value(values[name], hints[name], f"{where}.{name}") for name in names}
    )


def recipe_from_dict(values: dict) -> Recipe:
    """The recipe that dataclasses.asdict turned into `values`, checked; InputError on a field that
    is unknown, missing or mistyped.
    """
    return check(read_fields(values, Recipe, "recipe"))


def flatten(recipe: dict, prefix: str = "") -> dict:
    """Every field of a recipe as a dict by its name with dots."""
    fields = {}
    for name, value in recipe.items():
        if isinstance(value, dict):
            fields |= flatten(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = value
    return fields


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def differences(one: dict, other: dict) -> list[str]:
    """Return "field: a, now b" for every recipe field in which two recipes differ, as dicts or as
    read from JSON.
    """
    a, b = flatten(one), flatten(other)
    return [
        f"{name}: {a.get(name)}, now {b.get(name)}"
        for name in sorted(a | b)
        if _plain(a.get(name)) != _plain(b.get(name))
    ]


def changes(one: dict, other: dict) -> list[str]:
    """Return the differences of two recipes that no two sessions of one run may have."""
    return [line for line in differences(one, other) if line.split(":")[0] not in RESUMABLE]
