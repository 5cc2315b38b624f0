"""Checkpoints: the old one or the new one, never a part, and one clear message for what cannot be
read or written.
"""

import errno
import os
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch

from fast import checkpoint, config
from fast.train import State, initial_state, restore
from reference.recipe import TINY, InputError

LIMITED = """
import resource, sys
from fast.checkpoint import write_atomic
from reference.recipe import InputError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomic(sys.argv[1], bytes(5000))
except InputError as error:
    print(error)
"""


def names(folder) -> list[str]:
    """Return what lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def a_state() -> State:
    """Return a state in mid-run, of numbers that say where they are."""
    state = initial_state(TINY)
    for group, members in state.tensors().items():
        for index, value in enumerate(members.values()):
            value.data.normal_(generator=torch.Generator().manual_seed(hash((group, index)) % 1000))
    state.step, state.elapsed, state.multiplier, state.ema_started_step, state.durations = (
        7,
        1.25,
        0.1 + 0.2,
        5,
        [0.1, 1 / 3],
    )
    return state


def save(folder, state, recipe=TINY):
    """Save a state as a run does."""
    checkpoint.save(folder / "checkpoint", state.tensors(), state.progress(), recipe)


# atomic writing


def test_new_content_replaces_old_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    checkpoint.write_atomic(path, b"one")
    checkpoint.write_atomic(path, memoryview(b"two"))
    assert path.read_bytes() == b"two" and names(path.parent) == ["file"]


@pytest.mark.parametrize("call", ["replace", "fsync", "open"])
@pytest.mark.parametrize("existed", [False, True])
def test_a_failing_disk_keeps_the_old_content(tmp_path, monkeypatch, call, existed):
    path = tmp_path / "file"
    if existed:
        path.write_bytes(b"old")

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open" if call == "open" else f"os.{call}", full)
        with pytest.raises(
            InputError, match=r"file: cannot write 3 bytes: No space left on device; free space"
        ):
            checkpoint.write_atomic(path, b"new")
    assert names(tmp_path) == ["file"] * existed
    assert not existed or path.read_bytes() == b"old"


def test_an_interrupt_keeps_the_old_content_and_goes_on(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"old")

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write_atomic(tmp_path / "file", b"new")
    assert names(tmp_path) == ["file"] and (tmp_path / "file").read_bytes() == b"old"


def test_everything_is_on_disk_before_the_name_moves(tmp_path, monkeypatch):
    order, fsync, move = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (order.append("fsync"), fsync(number)))
    monkeypatch.setattr(os, "replace", lambda one, two: (order.append("replace"), move(one, two)))
    checkpoint.write_atomic(tmp_path / "file", b"new")
    assert order == ["fsync", "replace", "fsync"]


def test_a_file_size_limit_keeps_the_old_content(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    ran = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=True
    )
    assert (
        ran.stdout.startswith(f"{path}: cannot write 5,000 bytes: File too large")
        and not ran.stderr
    )
    assert names(tmp_path) == ["file"] and path.read_bytes() == b"old"


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(InputError, match="cannot write 3 bytes"):
        checkpoint.write_atomic(tmp_path / "file" / "inner", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"


# saving and loading


def test_round_trip_is_bit_for_bit(tmp_path):
    state = a_state()
    save(tmp_path, state)
    restored = restore(tmp_path, TINY)
    assert restored.progress() == state.progress()
    for group, members in state.tensors().items():
        assert list(restored.tensors()[group]) == list(members)
        for name, value in members.items():
            assert (
                torch.equal(restored.tensors()[group][name], value)
                and restored.tensors()[group][name].dtype == value.dtype
            )
    assert all(value.requires_grad and value.is_leaf for value in restored.params.values())
    assert not any(value.requires_grad for value in restored.shadow.values())
    assert names(tmp_path / "checkpoint") == [config.CHECKPOINT]


def test_no_checkpoint_is_none(tmp_path):
    assert restore(tmp_path, TINY) is None


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_truncated_checkpoint_is_one_message(tmp_path, keep):
    save(tmp_path, a_state())
    path = tmp_path / "checkpoint" / config.CHECKPOINT
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        InputError, match=r"latest.pt: not a readable checkpoint .*; delete the run directory"
    ) as caught:
        restore(tmp_path, TINY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [{"tensors": {}}, [1, 2], {"tensors": {}, "progress": {}}])
def test_a_foreign_file_is_one_message(tmp_path, content):
    (tmp_path / "checkpoint").mkdir()
    torch.save(content, tmp_path / "checkpoint" / config.CHECKPOINT)
    with pytest.raises(InputError, match="not a readable checkpoint"):
        restore(tmp_path, TINY)


class Payload:
    """An object whose unpickling would run code."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def test_a_checkpoint_cannot_run_code(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    torch.save({"tensors": Payload()}, tmp_path / "checkpoint" / config.CHECKPOINT)
    with pytest.raises(InputError, match="not a readable checkpoint"):
        restore(tmp_path, TINY)


def test_another_recipe_is_named_field_by_field(tmp_path):
    save(tmp_path, a_state())
    other = replace(
        TINY,
        seed=5,
        model=replace(TINY.model, d=16),
        optimizer=replace(TINY.optimizer, muon_coefficients=(1.0, 2.0, 3.0)),
    )
    with pytest.raises(InputError) as caught:
        restore(tmp_path, other)
    for words in (
        "made by another recipe",
        "model.d: 8, now 16",
        "seed: 1337, now 5",
        "optimizer.muon_coefficients: (3.4445",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize("name", ["checkpoint_every", "validate_every", "log_every"])
def test_what_only_says_how_often_may_change(tmp_path, name):
    save(tmp_path, a_state())
    assert restore(tmp_path, replace(TINY, training=replace(TINY.training, **{name: 77}))).step == 7


def test_differences_of_equal_recipes_are_none():
    assert config.differences(asdict(TINY), asdict(TINY)) == []
    assert config.differences({"a": {"b": 1}}, {"a": {"c": 2}}) == [
        "a.b: 1, now None",
        "a.c: None, now 2",
    ]


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path):
    """A pipe stays a pipe; a file, a folder and nothing are not special."""
    pipe, file, link = (tmp_path / name for name in ("pipe", "file", "link"))
    os.mkfifo(pipe)
    file.write_bytes(b"old")
    link.symlink_to(pipe)
    special = {path: checkpoint.is_special(path) for path in (pipe, link, file, tmp_path)}
    assert special == {pipe: True, link: True, file: False, tmp_path: False}
    assert not checkpoint.is_special(tmp_path / "nothing")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        checkpoint.write_atomic(pipe, b"through the pipe")
        assert os.read(reader, 100) == b"through the pipe" and pipe.is_fifo()
    finally:
        os.close(reader)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "pipe"]


def test_all_bytes_are_handed_over_before_the_disk_is_asked_to_keep_them(tmp_path, monkeypatch):
    """What a buffer of this process still holds is not kept by fsync."""
    sizes, plain = [], os.fsync

    def fsync(descriptor):
        sizes.append(os.fstat(descriptor).st_size)
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    checkpoint.write_atomic(tmp_path / "small", b"less than a buffer")
    assert sizes[0] == len(b"less than a buffer")
