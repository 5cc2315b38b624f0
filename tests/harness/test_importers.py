"""maskgolf import: the challenge's files give the scores of the network they were saved from, and
nothing in a file is ever run.
"""

import hashlib
import io
import json
import pickle
import random
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fast import artifact, transformer
from harness import cli
from harness.importers import archive, convert, naming, torch_file
from harness.importers.assume import Assume
from reference.recipe import GOLF, InputError
from tests.support import published

SHAPES = {  # vocabulary, layers, width, heads, key/value heads, MLP multiple, causal
    "diffusion": (64, 4, 32, 4, 2, 2, False),
    "causal, odd layers": (32, 3, 24, 2, 1, 3, True),
    "one layer": (16, 1, 16, 2, 2, 1, False),
}
LENGTH = Assume(length=20)


def network(kind: str = "diffusion", seed: int = 0) -> published.Published:
    return published.Published(*SHAPES[kind], seed=seed)


def written(folder, data: bytes, name: str = "final_model.ptz"):
    (folder / name).write_bytes(data)
    return folder / name


def load(path, assume: Assume = Assume()):
    """Return (recipe, tensors) of a weight file."""
    recipe, params, *_ = convert.load(archive.read(path), str(path), assume)
    return recipe, params


def refused(folder, data: bytes, assume: Assume = LENGTH) -> str:
    """Return the message about a file that must be refused; it names the file."""
    path = written(folder, data)
    with pytest.raises(InputError) as caught:
        load(path, assume)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


FILES = {  # what a file holds, and the numbers it stands for
    **{
        name: lambda state, name=name: published.mode(state, name)
        for name in ("int8", "fp8", "fp8_e5m2", "fp8_cascade", "int4", "e2m1")
    },
    "fp8 with a scale per row": lambda state: published.mode(state, "fp8", "row"),
    "fp8 with a scale per tensor": lambda state: published.mode(state, "fp8", "tensor"),
    "official int8": published.official,
    "state_dict": lambda state: (state, state),
    "state_dict in bfloat16": lambda state: (
        {n: v.bfloat16() for n, v in state.items()},
        {n: v.bfloat16().float() for n, v in state.items()},
    ),
}


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("file", FILES)
def test_an_imported_file_scores_as_the_network_it_was_saved_from(tmp_path, file, kind):
    """Weights to the bit, and logits in float64 to the rounding of sums in another order; the
    artifact keeps every bit.
    """
    original = network(kind)
    value, meant = FILES[file](original.state_dict())
    path = written(
        tmp_path,
        published.saved(value, "lzma" if "fp8" in file else "zlib" if "int" in file else "none"),
    )
    recipe, params = load(path, LENGTH)
    vocab, layers, width, heads, shared, multiple, causal = SHAPES[kind]
    model = recipe.model
    assert (
        model.vocab,
        model.layers,
        model.d,
        model.heads,
        model.kv_heads,
        model.mlp,
        model.causal,
    ) == SHAPES[kind] and model.length == 20
    assert {naming.their_name(name): values.tolist() for name, values in params.items()} == {
        n: v.tolist() for n, v in meant.items()
    }

    original.load_state_dict(meant)
    cast = file.startswith(("int", "fp8", "e2m1", "official")) or "bfloat16" in file
    assert model.rope_frequencies == ("bfloat16" if cast else "exact")
    original.round_frequencies(cast)
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, vocab + (not causal), (3, 20)))
    with torch.no_grad():
        expected = original.double()(ids)
    found = transformer.forward(
        {name: values.double() for name, values in params.items()}, ids, model
    )
    assert expected.std() > 1  # logits that say something
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)

    convert.convert(path, tmp_path / "artifact.mgolf", LENGTH)
    header, kept = artifact.read(tmp_path / "artifact.mgolf")
    assert artifact.recipe_of(header) == recipe and all(
        torch.equal(kept[name], values) for name, values in params.items()
    )


def test_fp8_stays_one_byte_a_weight(tmp_path):
    path = written(
        tmp_path, published.saved(published.mode(network().state_dict(), "fp8")[0], "zlib")
    )
    imported = convert.convert(path, tmp_path / "artifact.mgolf", LENGTH)
    matrices = sum(values.numel() for values in published.parts(network().state_dict())[0].values())
    assert imported["formats"]["e4m3"] == matrices and set(imported["formats"]) == {
        "e4m3",
        "float16",
    }


def test_large_models_are_packed_by_the_quick_codec(tmp_path, monkeypatch):
    path = written(tmp_path, published.saved(network().state_dict()))
    convert.convert(path, tmp_path / "best.mgolf", LENGTH)
    monkeypatch.setattr(convert, "MOST_SEARCHED", 1 << 10)
    convert.convert(path, tmp_path / "quick.mgolf", LENGTH)
    (best, weights), (quick, same) = (
        artifact.read(tmp_path / name) for name in ("best.mgolf", "quick.mgolf")
    )
    assert best["codec"] != quick["codec"] == "entropy" and all(
        torch.equal(same[name], values) for name, values in weights.items()
    )


def test_the_file_tells_the_frequencies_or_a_flag_does(tmp_path):
    """A buffer in the file, a quantised layout, an embedding in bfloat16; without those, exact."""
    state = network().state_dict()
    exact = transformer.inverse_frequencies(8, 10000.0).float()
    rounded = exact.bfloat16()
    buffer = "blocks.1.attn.rotary.inv_freq"
    embedding = {"tok_emb.weight": state["tok_emb.weight"].bfloat16()}
    modal = published.mode(state, "int8")[0]
    cases = [
        (state, "exact", "assumed"),
        (state | {buffer: exact}, "exact", buffer),
        (state | {buffer: rounded}, "bfloat16", buffer),
        (state | {buffer: rounded.float()}, "bfloat16", buffer),
        (state | embedding, "bfloat16", "tok_emb.weight"),
        (state | embedding | {f"module.{buffer}": exact}, "exact", buffer),
        (modal, "bfloat16", "layout"),
        (published.official(state)[0], "bfloat16", "layout"),
    ]
    for value, expected, told in cases:
        path, out = written(tmp_path, published.saved(value)), tmp_path / "out.mgolf"
        found = convert.convert(path, out, LENGTH)
        assert found["model"]["rope_frequencies"] == expected, told
        assert told in found["rope_frequencies_told_by"]
        assert artifact.recipe_of(artifact.read(out)[0]).model.rope_frequencies == expected
        for wanted in ("exact", "bfloat16"):
            assume = replace(LENGTH, rope_frequencies=wanted)
            assert load(path, assume)[0].model.rope_frequencies == wanted
    largest = (transformer.inverse_frequencies(8, 10000.0) - rounded.double()).abs().max()
    assert found["rope_angle_difference"] == pytest.approx(19 * float(largest))
    for wrong in (exact[:3], exact * 1.01, exact.long()):
        message = refused(tmp_path, published.saved(state | {buffer: wrong}))
        assert "expected the 4 inverse frequencies of RoPE base 10000" in message
    assert convert.angle_difference(GOLF.model) == pytest.approx(1.87, abs=0.01)


def test_the_output_says_which_frequencies_were_taken(tmp_path, capsys):
    path = written(tmp_path, published.saved(network().state_dict()))
    words = ["import", str(path), "-o", str(tmp_path / "out.mgolf"), "--length", "20"]
    for flags, said in (([], "exact (assumed"), (["--rope-frequencies", "bfloat16"], "bfloat16 (")):
        assert cli.main([*words, *flags]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert said in shown and "radians" in shown and "--rope-frequencies" in shown


def test_safetensors_give_the_same_numbers(tmp_path):
    state = network().state_dict()
    half = {name: values.bfloat16() for name, values in state.items()}
    for tensors, metadata in ((state, None), (half, {"format": "pt"})):
        _, params = load(
            written(tmp_path, published.safetensors(tensors, metadata), "model.safetensors"), LENGTH
        )
        found = {naming.their_name(name): value.tolist() for name, value in params.items()}
        assert found == {name: value.float().tolist() for name, value in tensors.items()}


def test_prefixes_parameters_and_views_are_read(tmp_path):
    """What compiled and distributed modules save, tensors that share memory, transposed ones, and
    pickles of newer protocols.
    """
    state = network().state_dict()
    expected = {
        name: values.tolist()
        for name, values in load(written(tmp_path, published.saved(state)), LENGTH)[1].items()
    }
    transposed = {
        name: values.T.contiguous().T if values.dim() == 2 else values
        for name, values in state.items()
    }
    block = torch.cat([values.flatten() for values in state.values()])
    ends = np.cumsum([values.numel() for values in state.values()])
    shared = {
        name: block[end - values.numel() : end].view(values.shape)
        for (name, values), end in zip(state.items(), ends, strict=True)
    }
    newer = io.BytesIO()
    torch.save(state, newer, pickle_protocol=5)
    prefixed = {f"module._orig_mod.{name}": values for name, values in state.items()}
    for value in (prefixed, dict(network().named_parameters()), transposed, shared):
        _, params = load(written(tmp_path, published.saved(value)), LENGTH)
        assert {name: values.tolist() for name, values in params.items()} == expected
    _, params = load(written(tmp_path, newer.getvalue()), LENGTH)
    assert {name: values.tolist() for name, values in params.items()} == expected
    assert "twice" in refused(tmp_path, published.saved(state | prefixed))


def test_names_without_a_partner_are_listed_on_both_sides(tmp_path):
    state = network().state_dict()
    extra = {
        "lm_head.weight": torch.zeros(64, 32),
        "bigram.table": torch.zeros(4),
        "blocks.0.attn.gate": torch.zeros(4),
    }
    message = refused(tmp_path, published.saved(state | extra))
    assert all(name in message for name in extra) and "not in the file" not in message
    del state["blocks.2.attn.q_gain"], state["skip_weights"]
    message = refused(tmp_path, published.saved(state))
    assert (
        "blocks.2.attn.q_gain" in message
        and "skip_weights" in message
        and "without a place" not in message
    )
    message = refused(tmp_path, published.saved({"wte.weight": torch.zeros(4, 4)}))
    assert "wte.weight" in message and "tok_emb.weight" in message


def test_a_tied_head_saved_beside_its_embedding_is_the_embedding(tmp_path):
    """A state_dict of a model with a tied head has it under both names; a head of its own has no
    place in the network.
    """
    state = network().state_dict()
    embedding = state["tok_emb.weight"]
    expected = load(written(tmp_path, published.saved(state)), LENGTH)[1]
    _, params = load(
        written(tmp_path, published.saved(state | {"lm_head.weight": embedding})), LENGTH
    )
    assert params.keys() == expected.keys() and all(
        torch.equal(params[name], expected[name]) for name in expected
    )
    assert "lm_head.weight" in refused(
        tmp_path, published.saved(state | {"lm_head.weight": embedding + 1})
    )


def changed(**tensors) -> bytes:
    names = {name.replace("__", "."): values for name, values in tensors.items()}
    return published.saved(network().state_dict() | names)


def test_shapes_of_other_networks_are_refused(tmp_path):
    """Repeated blocks (no skips), heads that do not divide, an MLP 2.5 times the width, one block
    unlike the others, an odd embedding.
    """
    cases = {
        "skip_weights (0, 32) instead of (2, 32)": {"skip_weights": torch.zeros(0, 32)},
        "5 heads to divide width 32": {"blocks__0__attn__q_gain": torch.ones(5)},
        "found 16 rows in c_k and 80": {"blocks__0__mlp__fc__weight": torch.zeros(80, 32)},
        "blocks.3.mlp.fc.weight (96, 32) instead of (64, 32)": {
            "blocks__3__mlp__fc__weight": torch.zeros(96, 32)
        },
        "blocks.0.attn.c_q.weight (32, 32) instead of (64, 64)": {
            "tok_emb__weight": torch.zeros(65, 64),
            "blocks__0__attn__q_gain": torch.ones(8),
        },
        "expected 2 axes, found the shape (65,)": {"tok_emb__weight": torch.zeros(65)},
        "blocks.1.attn_scale: expected finite weights": {
            "blocks__1__attn_scale": torch.full((32,), torch.nan)
        },
        "mlp_scale: expected finite weights, found torch.int64": {
            "blocks__1__mlp_scale": torch.ones(32, dtype=torch.int64)
        },
    }
    for message, tensors in cases.items():
        assert message in refused(tmp_path, changed(**tensors)), message


def test_the_rows_of_the_embedding_tell_the_kind_of_model_or_a_flag_does(tmp_path):
    def kind(rows: int, **assume):
        return load(
            written(tmp_path, changed(tok_emb__weight=torch.randn(rows, 32))),
            replace(LENGTH, **assume),
        )[0].model

    for rows, vocab, causal in (
        (64, 64, True),
        (65, 64, False),
        (1024, 1024, True),
        (1025, 1024, False),
    ):
        assert (kind(rows).vocab, kind(rows).causal) == (vocab, causal)
    assert (kind(64, causal=False).vocab, kind(65, causal=True).vocab) == (63, 65)
    assert kind(400, vocab=400).causal and not kind(401, vocab=400).causal
    with pytest.raises(InputError, match="say --vocab 400 .causal. or --vocab 399"):
        kind(400)
    for rows, vocab in ((64, 50), (65, 63)):
        with pytest.raises(InputError, match="padded"):
            kind(rows, vocab=vocab)


class Harmful:
    """Unpickled, it would create a file."""

    def __init__(self, path, function=open):
        self.path, self.function = path, function

    def __reduce__(self):
        return self.function, (str(self.path), "w")


@pytest.mark.parametrize("codec", ["none", "zlib", "lzma"])
def test_a_pickle_that_runs_code_is_named_and_not_run(tmp_path, codec):
    mark = tmp_path / "mark"
    state = network().state_dict()
    quantised = {"__quant_mode__": "fp8", "entries": {}, "passthrough": Harmful(mark)}
    for value in (Harmful(mark), state | {"tok_emb.weight": Harmful(mark)}, quantised):
        message = refused(tmp_path, published.saved(value, codec))
        assert (
            f"found GLOBAL {open.__module__}.open;" in message
            and "nothing in it was run" in message
        )
    assert not mark.exists()


def test_a_bare_pickle_is_named_too(tmp_path):
    mark = tmp_path / "mark"
    for protocol in (2, 4):
        assert f"found GLOBAL {open.__module__}.open;" in refused(
            tmp_path, pickle.dumps(Harmful(mark), protocol)
        )
    assert "GLOBAL posix.system" in refused(
        tmp_path, b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R."
    )
    assert "the opcode INST" in refused(
        tmp_path, b"\x80\x02(X\x04\x00\x00\x00trueiposix\nsystem\n."
    )
    assert "the opcode NEWOBJ" in refused(tmp_path, b"\x80\x02ctorch\nfloat32\n)\x81.")
    assert "found a bare pickle" in refused(tmp_path, pickle.dumps({"a": 1}))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["state_dict", "fp8", "official int8", "safetensors"])
def test_damaged_files_are_refused_and_nothing_else_happens(tmp_path, name):
    """Every cut and every flipped byte gives weights or one InputError; a cut always an
    InputError.
    """
    state = published.Published(16, 1, 8, 2, 1, 1, False).state_dict()
    data = (
        published.safetensors(state)
        if name == "safetensors"
        else published.saved(FILES[name](state)[0])
    )
    draw = random.Random(0)
    for end in draw.sample(range(len(data)), 60):
        assert refused(tmp_path, data[:end])
    for _ in range(400):
        spoilt = bytearray(data)
        for place in draw.choices(range(len(data)), k=draw.choice((1, 1, 3))):
            spoilt[place] = draw.randrange(256)
        try:
            load(written(tmp_path, bytes(spoilt)), LENGTH)
        except InputError:
            pass


def repacked(data: bytes, change=lambda name, content: content, method=zipfile.ZIP_STORED) -> bytes:
    """Return a zip with its files changed."""
    memory = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as source,
        zipfile.ZipFile(memory, "w", method) as target,
    ):
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))
    return memory.getvalue()


def test_bombs_are_refused_before_they_unfold(tmp_path, monkeypatch):
    state = network().state_dict()
    monkeypatch.setattr(archive, "MAX_BYTES", 1 << 20)
    big = {"tok_emb.weight": torch.zeros(1 << 19)}
    for codec in ("zlib", "lzma"):
        assert f"expected at most 1,048,576 bytes after {codec}" in refused(
            tmp_path, published.saved(big, codec)
        )
    assert "expected at most 1,048,576 bytes of weights" in refused(tmp_path, published.saved(big))
    assert "packed files" in refused(
        tmp_path, repacked(published.saved(state), method=zipfile.ZIP_DEFLATED)
    )


def test_pickles_that_would_take_for_ever_are_read_at_once(tmp_path):
    """Nested pairs whose hash or text takes 2**60 steps, 100,000 brackets, a memo index of 2**31, a
    tensor wrapped 100,000 times.
    """
    pairs = b"K\x00" + b"".join(
        b"r" + (i).to_bytes(4, "little") + b"j" + i.to_bytes(4, "little") + b"\x86"
        for i in range(60)
    )
    assert "unhashable" in refused(tmp_path, b"\x80\x02}" + pairs + b"K\x00s.")
    assert "a bare pickle" in refused(tmp_path, b"\x80\x02" + pairs + b".")
    assert "a bare pickle" in refused(tmp_path, b"\x80\x02" + b"(" * 100_000 + b"t" * 99_999 + b".")
    assert "a bare pickle" in refused(tmp_path, b"\x80\x02Nr\xff\xff\xff\x7f.")
    wrapped = (
        b"}X\x01\x00\x00\x00a"
        + b"ctorch._utils\n_rebuild_parameter\n" * 50_000
        + b"N"
        + b"\x85R" * 50_000
        + b"s."
    )
    for value in (
        b"\x80\x02" + wrapped,
        b"\x80\x02}X\x0e\x00\x00\x00__quant_mode__" + pairs + b"s.",
    ):
        zipped = repacked(
            published.saved({}),
            lambda name, content, value=value: value if name.endswith("data.pkl") else content,
        )
        refused(tmp_path, zipped)


class Wide:
    """A tensor of 20,000 axes, whose number of elements would take an hour to work out."""

    sizes = ((1 << 2000) - 1,) * 20_000

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (
            torch.zeros(4)._typed_storage(),
            0,
            self.sizes,
            self.sizes,
            False,
            {},
        )


def test_shapes_that_no_tensor_has_are_refused_at_once(tmp_path):
    assert "that no tensor has" in refused(tmp_path, published.saved({"tok_emb.weight": Wide()}))
    assert "shape of 2,080 elements" in refused(tmp_path, spoilt("fp8", shape=Wide.sizes))


def test_declared_sizes_must_be_those_of_the_file(tmp_path):
    """A storage that claims more than its file, a view that reaches outside, more elements than
    memory; a safetensors table likewise.
    """
    tensor = torch.arange(6.0)
    data = published.saved({"tok_emb.weight": tensor})
    for old, new in (
        (b"K\x06tq", b"K\x07tq"),
        (b"K\x06\x85", b"K\x07\x85"),
        (b"K\x00K\x06", b"K\x01K\x06"),
    ):
        spoilt = repacked(
            data, lambda name, content, old=old, new=new: content.replace(old, new, 1)
        )
        assert spoilt != repacked(data) and "tok_emb.weight" in refused(tmp_path, spoilt)
    for row in (
        {"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [6], "data_offsets": [4, 28]},
        {"dtype": "F99", "shape": [6], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [-6], "data_offsets": [0, -24]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [6]},
        [],
    ):
        head = json.dumps({"a": row}).encode()
        assert "expected a whole safetensors file" in refused(
            tmp_path, len(head).to_bytes(8, "little") + head + bytes(24)
        )
    twice = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    assert "occurs twice" in refused(tmp_path, len(twice).to_bytes(8, "little") + twice + b"\0")
    assert "header too large" in refused(tmp_path, (1 << 39).to_bytes(8, "little") + b"{}")


def spoilt(name: str, **changes) -> bytes:
    """Return a file of a mode with fields of its first entry changed."""
    value = published.mode(network().state_dict(), name)[0]
    entry = value["entries"]["tok_emb.weight"]
    entry |= changes
    for field in [field for field, new in changes.items() if new is None]:
        del entry[field]
    return published.saved(value)


def test_layouts_that_are_not_as_published_are_refused(tmp_path):
    state = network().state_dict()
    value, _ = published.official(state)
    twice = value["quantized"] | {"skip_weights": torch.zeros(2)}
    fewer = {name: scale for name, scale in value["scales"].items() if "tok" not in name}
    cases = {
        "found 'int3'": published.saved(
            {"__quant_mode__": "int3", "entries": {}, "passthrough": {}}
        ),
        "normalise before their projections": published.saved(
            {"__quant_mode__": "ternary", "entries": {}, "passthrough": {}}
        ),
        "found 'other'": published.saved({"__quant_format__": "other"}),
        "expected a mapping entries": published.saved({"__quant_mode__": "fp8", "passthrough": {}}),
        "fmt e4m3 or e5m2 or e4m3->e5m2, found 'e3m4'": spoilt("fp8", fmt="e3m4"),
        "shape of 2,080 elements": spoilt("fp8", shape=[65, 33]),
        "expected the field data": spoilt("fp8", data=None),
        "data of torch.float8_e5m2": spoilt("fp8_e5m2", data=torch.zeros(65, 32)),
        "scheme per_row or per_tensor, found 'per_column'": spoilt("int8", scheme="per_column"),
        "scale of shape (65,)": spoilt("int8", scale=torch.ones(64)),
        "scale of shape ()": spoilt("int8", scheme="per_tensor", scale=torch.ones(65)),
        "q of torch.int8": spoilt("int8", q=torch.zeros(65, 32)),
        "codes in groups of 32": spoilt("int4", scales=torch.ones(3)),
        "group_size in 1": spoilt("int4", group_size=0),
        "pad in 0 ... 31": spoilt("int4", pad=-1),
        "some quantised and plain: skip_weights": published.saved(value | {"quantized": twice}),
        "found some without: tok_emb.weight": published.saved(value | {"scales": fewer}),
        "expected a tensor, found int": published.saved(state | {"skip_weights": 3}),
        "expected a state_dict or a quantised layout, found list": published.saved([1, 2]),
    }
    for message, data in cases.items():
        assert message in refused(tmp_path, data), message


def test_what_is_no_weight_file_is_refused(tmp_path, monkeypatch):
    for data in (
        b"",
        b"x",
        b"PK\x03\x04",
        bytes(100),
        b"\x78\x9c",
        b"\xfd7zXZ\x00",
        b"text\n" * 10,
    ):
        refused(tmp_path, data)
    other = io.BytesIO()
    zipfile.ZipFile(other, "w").close()
    assert "one data.pkl" in refused(tmp_path, b"PK\x03\x04" + other.getvalue())
    big = repacked(
        published.saved({}), lambda name, content: b"big" if name.endswith("byteorder") else content
    )
    assert "little-endian" in refused(tmp_path, big)
    for module in ("compression", "zstandard"):
        monkeypatch.setitem(sys.modules, module, None)
    assert "zstd, found none" in refused(tmp_path, b"\x28\xb5\x2f\xfd" + bytes(20))
    with pytest.raises(InputError, match="expected a readable file"):
        load(tmp_path / "absent")
    assert torch_file.show([[]]) == "list"


def test_the_command_writes_an_artifact_that_eval_scores_as_the_original(tmp_path, corpus, capsys):
    """A causal model's one exact pass, in float32: the sum over a few hundred tokens of the
    original's own cross-entropy.
    """
    from fast import data

    original = published.Published(400, 2, 16, 2, 1, 2, causal=True)
    path, out = (
        written(tmp_path, published.saved(original.state_dict())),
        tmp_path / "artifact.mgolf",
    )
    command = [
        "import",
        str(path),
        "-o",
        str(out),
        "--length",
        "32",
        "--causal",
        "true",
        "--compute-dtype",
        "float32",
    ]
    assert cli.main([*command, "--json", str(tmp_path / "found.json")]) == 0
    assert "causal" in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found) == {
        "file",
        "out",
        "layout",
        "parameters",
        "model",
        "compute_dtype",
        "rope_frequencies_told_by",
        "rope_angle_difference",
        "formats",
        "bytes_in",
        "bytes_out",
    }
    assert found["bytes_out"] == out.stat().st_size and found["parameters"] == sum(
        value.numel() for value in original.parameters()
    )

    model = tmp_path / "score.json"
    arguments = [
        "--data",
        str(corpus),
        "--tokenizer",
        str(next(corpus.rglob("*.model"))),
        "--sequences",
        "8",
        "--json",
        str(model),
    ]
    assert cli.main(["eval", str(out), *arguments, "--no-compiled"]) == 0
    score = json.loads(model.read_text())
    windows = data.evaluation_windows(
        data.Tokens(data.find_layout(corpus).validation), 32, 400, 0, 8
    )[0]
    before = torch.from_numpy(
        np.concatenate(
            [np.asarray(windows.previous_N)[:, None], windows.ids_NL[:, :-1]], axis=1
        ).astype(np.int64)
    )
    with torch.no_grad():
        logits = original.double()(before.clamp(min=0))
    nats = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.from_numpy(windows.ids_NL.astype(np.int64)).flatten()
    )
    # float32 against float64
    assert score["estimator"] == "causal" and score["nats_per_token"] == pytest.approx(
        float(nats), rel=1e-5
    )


def test_an_import_says_which_file_it_read(tmp_path):
    """The SHA-256 and the size of the file as it lies there, packed; what was written beside it."""
    path, out = (
        written(tmp_path, published.saved(network().state_dict(), "zlib"), "named.ptz"),
        tmp_path / "artifact.mgolf",
    )
    found = convert.convert(path, out, LENGTH)
    data = path.read_bytes()
    origin = artifact.read(out)[0]["imported"]
    assert origin["sha256"] == hashlib.sha256(data).hexdigest() and origin["file"] == "named.ptz"
    assert origin["layout"] == found["layout"] == "state_dict, zlib"
    assert (found["bytes_in"], found["bytes_out"]) == (len(data), out.stat().st_size)
    assert (found["file"], found["out"]) == (str(path), str(out))
    assert found["bytes_in"] != found["bytes_out"]


def test_the_file_that_is_read_is_not_the_one_that_is_written(tmp_path):
    path = written(tmp_path, published.saved(network().state_dict()))
    before = path.read_bytes()
    with pytest.raises(InputError, match="another file than the one that is read"):
        convert.convert(path, tmp_path / "." / path.name, LENGTH)
    assert path.read_bytes() == before


def test_a_file_without_an_end_is_read_to_the_limit(monkeypatch):
    """A device says that it has no bytes and gives as many as are asked for."""
    monkeypatch.setattr(archive, "MAX_BYTES", 1 << 16)
    with pytest.raises(InputError, match="expected at most 65,536 bytes of weights, found more"):
        archive.read(Path("/dev/zero"))


def test_the_command_refuses_with_one_message(tmp_path, capsys):
    path = written(tmp_path, published.saved({"a": torch.zeros(1)}))
    assert cli.main(["import", str(path), "-o", str(tmp_path / "out.mgolf")]) == 2
    message = capsys.readouterr().err
    assert (
        message.startswith("maskgolf: ")
        and "without a place in the network: a;" in message
        and not (tmp_path / "out.mgolf").exists()
    )
