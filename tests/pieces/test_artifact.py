"""The artifact of a run: written whole or not at all, read back in a fresh process, weighed to the
byte, and its recipe rebuilt.
"""

import errno
import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, fields, is_dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reference.container
from fast import artifact, container, quantize, transformer
from harness.packaging import bundle, size
from reference.recipe import BEST, DEMO, GOLF, PRESETS, TINY, InputError, Quantization

EXTRA = {"tokenizer_sha256": "0" * 64, "source": {"kind": "embedded"}}


def make_params(recipe=TINY, seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=draw) * 0.1
        for name, shape in transformer.shapes(recipe.model).items()
    }


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "artifact.mgolf"
    artifact.write(path, make_params(), TINY, EXTRA)
    return path


def test_what_is_read_is_what_the_formats_kept(written):
    header, params = artifact.read(written)
    assert (
        header["tokenizer_sha256"] == EXTRA["tokenizer_sha256"]
        and artifact.recipe_of(header) == TINY
    )
    for name, values in make_params().items():
        format = quantize.choose_format(name, tuple(values.shape), TINY.quantization)
        kept = quantize.from_bytes(quantize.to_bytes(values, format), tuple(values.shape), format)
        assert params[name].dtype == torch.float32 and torch.equal(params[name], kept)
    reference_header, reference_params = reference.container.unpack(artifact_under(written, "zlib"))
    assert set(reference_params) == set(params)
    assert all(np.array_equal(reference_params[name], params[name].numpy()) for name in params)
    assert reference_header["recipe"] == header["recipe"]


def test_the_budget_of_best_and_its_code_are_within_the_limit():
    assert sum(size.code_bytes(BEST).values()) + BEST.quantization.budget <= artifact.LIMIT
    assert sum(map(math.prod, transformer.shapes(BEST.model).values())) >= 24_700_000


def artifact_under(path, codec: str) -> bytes:
    """The same weights under a codec that the reference has."""
    header, params = artifact.read(path)
    own = {key: value for key, value in header.items() if key not in container.OWN_FIELDS}
    return container.pack(
        params, {row["name"]: row["format"] for row in header["tensors"]}, own, codec
    )


def test_the_tiny_preset_stores_its_matrices_in_fp8(written):
    formats = {row["name"]: row["format"] for row in artifact.read(written)[0]["tensors"]}
    assert (
        formats["embedding"] == "e4m3"
        and formats["blocks.0.up"] == "e4m3"
        and formats["blocks.0.mix"] == formats["skip"] == "float16"
    )


def test_the_same_weights_give_the_same_file(tmp_path, written):
    again = tmp_path / "again.mgolf"
    assert (
        artifact.write(again, dict(reversed(make_params().items())), TINY, EXTRA)
        == again.stat().st_size
    )
    assert again.read_bytes() == written.read_bytes()
    stored_again = tmp_path / "stored.mgolf"
    artifact.write(stored_again, artifact.read(written)[1], TINY, EXTRA)
    # Quantising what was quantised changes nothing
    assert stored_again.read_bytes() == written.read_bytes()


def test_a_fresh_process_reads_it(written):
    program = f"from fast import artifact; print(sorted(artifact.read({str(written)!r})[1])[0])"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=bundle.ROOT
    )
    assert result.stdout.strip() == "blocks.0.attn_scale", result.stderr


def test_weights_that_cannot_be_stored_name_the_tensor_and_leave_no_file(tmp_path):
    params = make_params()
    params["blocks.1.up"][3, 2] = float("nan")
    with pytest.raises(
        InputError, match=r"blocks\.1\.up: expected finite numbers, found nan at index \(3, 2\)"
    ):
        artifact.write(tmp_path / "a.mgolf", params, TINY)
    params = make_params()
    params["skip"][0, 0] = 70_000.0
    with pytest.raises(InputError, match="skip: expected magnitudes up to 65504.0"):
        artifact.write(tmp_path / "a.mgolf", params, TINY)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_clear_error_and_keeps_the_old_file(written, monkeypatch):
    before = written.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="artifact.mgolf.*No space left on device"):
        artifact.write(written, make_params(seed=1), TINY)
    assert written.read_bytes() == before and list(written.parent.iterdir()) == [written]


def test_files_that_are_no_artifact_are_named(tmp_path, written, monkeypatch):
    with pytest.raises(InputError, match="absent.mgolf: expected a readable artifact"):
        artifact.read(tmp_path / "absent.mgolf")
    with pytest.raises(InputError, match="expected a readable artifact"):
        artifact.read(tmp_path)
    with pytest.raises(
        InputError, match="/dev/zero: expected an artifact of at most .* found no file"
    ):
        artifact.read("/dev/zero")
    (tmp_path / "foreign").write_bytes(b"PK\3\4 a zip")
    with pytest.raises(InputError, match="foreign: expected a MaskGolf artifact"):
        artifact.read(tmp_path / "foreign")
    damaged = bytearray(written.read_bytes())
    damaged[-1] ^= 1
    written.write_bytes(damaged)
    with pytest.raises(InputError, match="artifact.mgolf: payload: expected the SHA-256"):
        artifact.read(written)
    monkeypatch.setattr(container, "MAX_RAW", 10)
    monkeypatch.setattr(container, "MAX_HEADER", 10)
    with pytest.raises(InputError, match="expected an artifact of at most 36 bytes"):
        artifact.read(written)


# Sizes


def test_the_code_that_ships_is_the_one_script():
    assert size.code_bytes(TINY, "lzma") == {
        "train_gpt.py": len(bundle.build(TINY, "lzma").encode())
    }


def test_the_report_adds_up_to_the_byte(written):
    header, _ = artifact.read(written)
    size, code = written.stat().st_size, {"fast/a.py": 10, "fast/b.py": 30}
    rows = artifact.size_report(header, size, code)
    assert (
        sum(row["stored"] for row in rows) == size + 40 == artifact.check_size(header, size, code)
    )
    tensors = [row for row in rows if row["kind"] == "tensor"]
    assert len(tensors) == len(make_params()) and rows[: len(tensors)] == tensors
    assert [row["bytes"] for row in tensors] == sorted(
        (row["bytes"] for row in tensors), reverse=True
    )
    assert [row["part"] for row in rows[-2:]] == ["fast/b.py", "fast/a.py"]
    header_row = rows[len(tensors)]
    assert header_row["part"] == "header" and header_row["stored"] == size - header["payload_bytes"]


def test_over_the_limit_says_by_how_much_and_which_tensors_weigh_most(written):
    header, _ = artifact.read(written)
    size = written.stat().st_size
    assert artifact.check_size(header, size, {"x": 5}, limit=size + 5) == size + 5
    with pytest.raises(
        InputError,
        match=r"1 over; heaviest tensors: blocks\.0\.down 125 \(e4m3\), blocks\.0\.o 125 \(float",
    ) as caught:
        artifact.check_size(header, size, {"x": 6}, limit=size + 5)
    assert f"{size + 6:,}" in str(caught.value) and f"{size + 5:,}" in str(caught.value)
    assert artifact.LIMIT == 16_000_000


INT4 = replace(TINY, quantization=Quantization("int4-group", "float32", 10))


@pytest.mark.parametrize("recipe", [TINY, DEMO, INT4], ids=["tiny", "demo", "int4"])
def test_the_estimate_is_an_upper_bound_that_is_reached_without_compression(recipe):
    shapes = transformer.shapes(recipe.model)
    params = make_params(recipe)
    formats = artifact.formats_of(shapes, recipe)
    plain = container.pack(params, formats, {**EXTRA, "recipe": asdict(recipe)}, "none")
    bound = size.bound(recipe, shapes, EXTRA)
    assert len(plain) <= bound <= len(plain) + len("entropy") - len("none")
    assert len(container.pack(params, formats, {**EXTRA, "recipe": asdict(recipe)})) <= bound


def test_the_golf_estimate():
    """19,190,656 weights: matrices in one byte each, the rest in two."""
    shapes = transformer.shapes(GOLF.model)
    formats = artifact.formats_of(shapes, GOLF)
    small = sum(int(np.prod(shape)) for name, shape in shapes.items() if formats[name] == "float16")
    assert 0 < size.bound(GOLF, shapes) - (19_190_656 + small) < 20_000


# The recipe in the header


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_survive_json(preset):
    recipe = PRESETS[preset]
    assert artifact.recipe_from_dict(json.loads(json.dumps(asdict(recipe)))) == recipe
    assert isinstance(
        artifact.recipe_from_dict(
            json.loads(json.dumps(asdict(recipe)))
        ).optimizer.muon_coefficients,
        tuple,
    )


def places(kind, prefix=()) -> list[tuple[str, ...]]:
    """Every field of the recipe, sections too."""
    found = []
    for field in fields(kind):
        value = getattr(kind, field.name)
        found += [
            (*prefix, field.name),
            *(places(value, (*prefix, field.name)) if is_dataclass(value) else []),
        ]
    return found


def changed(place: tuple[str, ...], edit) -> dict:
    values = json.loads(json.dumps(asdict(TINY)))
    section = values
    for name in place[:-1]:
        section = section[name]
    edit(section, place[-1])
    return values


@pytest.mark.parametrize("place", places(TINY), ids=".".join)
def test_every_field_is_needed_and_has_its_type(place):
    with pytest.raises(InputError, match=f"misses {place[-1]}"):
        artifact.recipe_from_dict(changed(place, lambda section, name: section.pop(name)))
    for wrong in (None, {"a": 1}, [[]], [1.0, 2.0]):
        with pytest.raises(InputError, match="recipe"):
            artifact.recipe_from_dict(
                changed(place, lambda section, name, wrong=wrong: section.update({name: wrong}))
            )
    value = (
        getattr(TINY, place[0]) if len(place) == 1 else getattr(getattr(TINY, place[0]), place[1])
    )
    if not is_dataclass(value):
        for other in (True, 3, "x", float("inf")):
            if (
                type(other) is not type(value)
                and not (type(value) is float and type(other) is int)
                or other == float("inf")
            ):
                with pytest.raises(InputError, match=rf"recipe\.{'.'.join(place)}: expected"):
                    artifact.recipe_from_dict(
                        changed(
                            place, lambda section, name, other=other: section.update({name: other})
                        )
                    )


def test_unknown_fields_and_impossible_recipes_are_refused():
    with pytest.raises(
        InputError,
        match=r"recipe\.model: expected the fields of Model, but it has the unknown width",
    ):
        artifact.recipe_from_dict(
            changed(("model", "d"), lambda section, name: section.update(width=3))
        )
    with pytest.raises(InputError, match="divisible"):
        artifact.recipe_from_dict(
            changed(("model", "heads"), lambda section, name: section.update(heads=3))
        )
    for nothing in (None, [], 3, "x", {}):
        with pytest.raises(InputError, match="a.mgolf: recipe: expected"):
            artifact.recipe_of({"recipe": nothing}, "a.mgolf")
    with pytest.raises(InputError, match="artifact: recipe: expected"):
        artifact.recipe_of({})


def test_whole_numbers_are_floats_where_floats_are_meant():
    recipe = artifact.recipe_from_dict(
        changed(("optimizer", "muon_lr"), lambda section, name: section.update({name: 1}))
    )
    assert recipe.optimizer.muon_lr == 1.0 and isinstance(recipe.optimizer.muon_lr, float)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
json_values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=4)


@settings(max_examples=100)
@given(place=st.sampled_from(places(TINY)), value=json_values)
def test_any_value_in_any_field_is_read_or_refused(place, value):
    try:
        artifact.recipe_from_dict(
            changed(place, lambda section, name: section.update({name: value}))
        )
    except InputError as error:
        assert "\n" not in str(error)
