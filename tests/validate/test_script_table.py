"""The script's own byte table: called in the sandbox with what its script defines, judged by its
counts; training does not run.
"""

import itertools
import sys
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast.bytes import token_bytes
from fast.data import Tokens
from harness import validate
from harness.validate import byte_table, caller
from harness.validate.caller import definitions
from harness.validate.checks import score
from harness.validate.submission import Options, Submission
from harness.validate.verdict import CannotTell
from tests.validate.submissions.run_defects import LUTS

CHECK = tuple(check for check in validate.CHECKS if check.name == "script's byte table")
SCRIPT = "import numpy as np\n" + LUTS + "\n_count_bytes\n"


# Its definitions


def test_a_function_comes_with_what_it_needs():
    """Training does not run, and what cannot be imported is no obstacle."""
    code = (
        "import os, no_such_package, math as m\nfrom nowhere import (thing as other)\nBASE ="
        " 2\nTWICE = BASE * 2\nclass Kept:\n    value = TWICE\ndef g(x: other.Type) ->"
        " no_such_package.T:\n    return m.floor(x) + Kept.value\nraise SystemExit('trains')\nexit(1)\ndef"
        " f(x):\n    return g(x) + len(os.sep)\nif __name__ == '__main__':\n    f = None\n"
    )
    assert definitions(code, "taken")["f"](1.5) == 6


def test_the_last_definition_counts_as_in_the_script():
    code = "def f():\n    return 1\ndef g():\n    return f\ndef f():\n    return 2\n"
    assert definitions(code, "taken")["f"]() == 2
    code = (
        "def f():\n    return 1\nold = f\ndef wrap(g):\n    return lambda: g() + 1\nf = wrap(f)\n"
    )
    assert definitions(code, "taken")["f"]() == 2


def test_changes_of_what_it_needs_come_along():
    code = (
        "TABLE = {}\nOTHER = []\nTABLE['a'] = 1\nTABLE.update(b=2)\nOTHER.append(undefined)\ndef"
        " f():\n    global COUNT\n    COUNT = 1\n    return TABLE\nTABLE['a'] += 4\n"
    )
    assert definitions(code, "taken")["f"]() == {"a": 5, "b": 2}


def test_definitions_that_depend_on_what_is_installed_come_along():
    code = (
        "try:\n    import no_such_package as package\nexcept ImportError:\n    package = None\ndef"
        " f():\n    return package\n"
    )
    assert definitions(code, "taken")["f"]() is None


def test_dataclasses_come_along():
    code = (
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Table:\n    size:"
        " int\ndef f():\n    return Table(3).size\n"
    )
    assert definitions(code, "taken")["f"]() == 3


def test_imports_of_everything_stand_for_what_is_missing():
    code = "from math import *\nfrom re import sub\ndef f():\n    return floor(2.5)\n"
    assert definitions(code, "taken")["f"]() == 2


# Counted


@given(st.lists(st.integers(0, 1023), min_size=1, max_size=50))
def test_tables_count_as_our_function_does(embedded_tokenizer, ids):
    length_V, space_V, control_V = embedded_tokenizer.table
    found = byte_table.Tables(length_V.astype(np.float64), space_V, control_V)
    previous = np.array([-1, *ids[:-1]])
    assert np.array_equal(
        found.count(np.array(ids), previous), token_bytes(ids, previous, embedded_tokenizer.table)
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[1",
        b"[[1],[2]]",
        b"7",
        b'{"a":1}',
        b"[[1],[[2]],[3]]",
        b"[[1],[2],[0]]",
        b"[[NaN],[1],[0]]",
        b"[[1e999],[1],[0]]",
    ],
)
def test_other_things_than_three_tables_are_not_judged(data):
    with pytest.raises(CannotTell):
        byte_table.read(data, 1, "f")
    with pytest.raises(CannotTell, match="three of 2"):
        byte_table.read(b"[[1],[1],[0]]", 2, "f")


def test_a_table_is_not_right_where_the_text_does_not_show_it(embedded_layout, embedded_tokenizer):
    """Tokens that no document holds: as many bytes, but no pass."""
    length_V, space_V, control_V = embedded_tokenizer.table
    ids = np.asarray(Tokens(embedded_layout.validation).read(0, 2000), np.int64)
    absent = np.setdiff1d(np.arange(len(length_V)), ids)[-1]
    wrong_V = length_V.astype(np.float64)
    wrong_V[absent] += 3
    found = byte_table.Tables(wrong_V, space_V, control_V)
    compared = byte_table.miscounted(ids, embedded_tokenizer, found.count)
    assert (
        compared
        == byte_table.miscounted(
            ids, embedded_tokenizer, partial(token_bytes, table=embedded_tokenizer.table)
        )
        and not compared.wrong
    )
    assert "bytes of 1 tokens" in byte_table.differing(found, embedded_tokenizer)[0]


# Called


@pytest.fixture
def asked(tmp_path, embedded_layout):
    """Return a function that gives the row of the check for a folder of these files."""

    def ask(files: dict[str, str] | str, run: bool = True, time_limit: float = 600.0) -> dict:
        for name, text in ({"train_gpt.py": files} if isinstance(files, str) else files).items():
            (tmp_path / name).write_text(text)
        data = embedded_layout.validation[0].parents[2]
        [row] = validate.validate(tmp_path, data, embedded_layout.tokenizer, run, time_limit, CHECK)
        assert "the check itself failed" not in row["evidence"], row
        return row

    return ask


def test_training_does_not_run_where_the_table_is_called(asked, tmp_path):
    marker = tmp_path / "trained"
    row = asked(SCRIPT + f"open({str(marker)!r}, 'w')\nraise SystemExit(3)\n")
    assert row["verdict"] == "pass" and not marker.exists(), row


def test_tensors_and_a_helper_file(asked):
    luts = SCRIPT.replace(
        "(sp, vocab_size):", "(sp, vocab_size: int, device: torch.device):"
    ).replace(
        "return length, space, boundary",
        "return tuple(torch.tensor(each, device=device) for each in (length, space, boundary))",
    )
    row = asked(
        {
            "tables.py": f"import torch\nimport size\n{luts}",
            "size.py": "",
            "train_gpt.py": "from tables import build_sentencepiece_luts as build\n",
        }
    )
    assert row["verdict"] == "pass" and "in tables.py" in row["evidence"], row


ACTS = {
    "writes": ("open('/var/tmp/maskgolf-defect', 'w')", "open /var/tmp/maskgolf-defect"),
    "connects": ("__import__('socket').create_connection(('192.0.2.1', 443), 1)", "192.0.2.1"),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("hidden", [False, True])
def test_a_function_that_reaches_out_is_refused(asked, act, hidden):
    """Also where it swallows the refusal and gives the right tables."""
    code, noted = ACTS[act]
    lines = (
        f"    try:\n        {code}\n    except OSError:\n        pass\n"
        if hidden
        else f"    {code}\n"
    )
    row = asked(SCRIPT.replace("(sp, vocab_size):\n", f"(sp, vocab_size):\n{lines}"))
    assert (
        row["verdict"] == "cannot tell"
        and "was refused" in row["evidence"]
        and noted in row["evidence"]
    ), row


UNTOLD = {
    "no function": ("import numpy\n", "no build_sentencepiece_luts is called"),
    "not called": (
        SCRIPT.replace("build_sentencepiece_luts(sp, sp.vocab_size())", "None"),
        "no build_sentencepiece_luts is called",
    ),
    "other arguments": (
        SCRIPT.replace("(sp, vocab_size):", "(path, vocab_size, lower):"),
        "not a signature that is known",
    ),
    "keywords": (
        SCRIPT.replace("(sp, vocab_size):", "(sp, vocab_size, *, meta):"),
        "not a signature that is known",
    ),
    "in a class": (
        "class A:\n    def build_luts(self, sp):\n        pass\nA().build_luts(0)\n",
        "not at the top level",
    ),
    "added otherwise": (
        SCRIPT.replace("& ~boundary[previous]", "* (1 - boundary[previous])"),
        "nothing adds a leading space",
    ),
    "another way too": (
        SCRIPT + "def load_meta_luts(path):\n    pass\nload_meta_luts(0)\n",
        "load_meta_luts may make the tables",
    ),
    "unread code": (SCRIPT + "exec(input())\n", "executed unread"),
    "other vocabulary": (
        SCRIPT + "vocab_size = int(os.environ.get('VOCAB_SIZE', 8192))\n",
        "vocabulary is 8,192",
    ),
    "crashes": (
        SCRIPT.replace("    return length,", "    raise KeyError('table')\n    return length,"),
        "KeyError: 'table'",
    ),
    "needs what is not there": (
        SCRIPT.replace("    return length,", "    return missing,"),
        "name 'missing' is not defined",
    ),
    "nested too deeply": (
        SCRIPT + f"DEEP = {'-' * 50_000}1\n",  # deeper than the parser, at any recursion limit
        "not all code could be read",
    ),
    "returns one table": (
        SCRIPT.replace("    return length, space, boundary", "    return [length]"),
        "shapes (1024,)",
    ),
    "returns nothing": (
        SCRIPT.replace("    return length, space, boundary", "    return None"),
        "TypeError",
    ),
    "exits": (
        SCRIPT.replace("    return length, space, boundary", "    raise SystemExit(0)"),
        "left no tables",
    ),
    "does not parse": ("def (:\n", "not all code could be read"),
}


@pytest.mark.parametrize("case", UNTOLD)
def test_what_cannot_be_judged_is_said(asked, case):
    code, reason = UNTOLD[case]
    row = asked(code)
    assert row["verdict"] == "cannot tell" and reason in row["evidence"], row


def test_a_function_that_hangs_is_stopped(asked):
    row = asked(
        SCRIPT.replace("    return length,", "    while True:\n        pass\n    return length,"),
        time_limit=6.0,
    )
    assert row["verdict"] == "cannot tell" and "did not end in 2 s" in row["evidence"], row


def test_a_fail_says_which_tokens_and_by_how_much(asked):
    row = asked(SCRIPT.replace("1 if sp.is_byte(token) else ", ""))
    assert (
        row["verdict"] == "fail"
        and "bytes of 256 tokens ('<0x00>' 6 not 1" in row["evidence"]
        and "%" in row["evidence"]
    ), row


def test_nothing_is_called_without_run_or_data(asked, tmp_path):
    assert asked(SCRIPT, run=False)["evidence"] == "nothing is executed without --run"
    with pytest.raises(CannotTell, match="--data"):
        score.script_table(Submission(tmp_path, Options(run=True)))


# The caller's parts, without the sandbox


def two_tables(sp, vocab_size):
    return ["tables", sp.vocab_size(), vocab_size]


def on_a_device(tok, v, dev=None):
    return ["tables", tok.vocab_size(), v, dev.type]


def other_names(path, vocab):
    return []


def one_too_many(sp, vocab_size, device, more):
    return []


def by_keyword(sp, *, vocab_size):
    return []


def any_number(sp, *vocab_size):
    return []


def test_a_builder_is_given_what_its_parameters_are_called(embedded_tokenizer):
    path = str(embedded_tokenizer.path)
    assert caller.from_luts(two_tables, path) == ["tables", 1024, 1024]
    assert caller.from_luts(on_a_device, path) == ["tables", 1024, 1024, "cpu"]
    for function in (other_names, one_too_many, by_keyword, any_number):
        with pytest.raises(SystemExit, match=f"{function.__name__}.* is not a signature"):
            caller.from_luts(function, path)


class Table(NamedTuple):
    """Of a text token, one with a leading space, a control token and one more of text."""

    length_V: np.ndarray = np.array([2, 3, 0, 1])
    space_V: np.ndarray = np.array([False, True, False, False])
    control_V: np.ndarray = np.array([False, False, True, False])


@pytest.mark.parametrize("order", itertools.permutations(range(4)))
def test_tables_are_those_that_counts_imply(order):
    """Wherever the control token and the one with a space stand."""
    table = Table(*(column[list(order)] for column in Table()))
    space = {"load_tokenizer": lambda path: Opened(table), "token_bytes": token_bytes}
    for found, expected in zip(caller.from_counts(space, "path"), table, strict=True):
        assert np.array_equal(found, expected)


class Opened(NamedTuple):
    """A tokenizer as a script opens it."""

    table: Table


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("build_sentencepiece_luts", LUTS),
        ("build_luts", LUTS.replace("build_sentencepiece_luts", "build_luts")),
        ("token_bytes", "from fast.bytes import load_tokenizer, token_bytes\n"),
    ],
)
def test_the_caller_writes_the_tables_of_a_script(
    name, code, embedded_tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr("sys.path", ["before"] + sys.path)
    (tmp_path / "helper_of_a_script.py").write_text("import numpy as np\n")
    (tmp_path / "train.py").write_text(f"from helper_of_a_script import np\n{code}", "utf-8")
    out = tmp_path / "out.json"
    caller.main(tmp_path / "train.py", name, str(embedded_tokenizer.path), str(tmp_path), out)
    assert sys.path[:2] == [str(tmp_path), "before"]
    found = byte_table.read(out.read_bytes(), 1024, name)
    assert byte_table.differing(found, embedded_tokenizer) == []


def test_what_changes_no_list_or_dictionary_is_not_run():
    """Calls on anything else are training; so is what only the started program does."""
    code = (
        "import math\nNUMBERS = [1]\nNAMES = {1}\nTABLE = {}\nTEXT = 'a'\n"
        "def run(x):\n    NUMBERS.append(x)\n    return x\n"
        "run(2)\nTEXT.join(map(run, '3'))\nmath.floor(run(4))\nNAMES.add(5)\nTABLE.update(a=6)\n"
        "if TABLE:\n    NUMBERS.append(7)\nif __name__ == 'taken':\n    NUMBERS.append(8)\n"
        "LATE: int = 9\nLATE += 1\nimport no_such_package, json\n"
    )
    space = definitions(code, "taken")
    assert (space["NUMBERS"], space["NAMES"], space["TABLE"]) == ([1, 7], {1, 5}, {"a": 6})
    assert space["LATE"] == 10 and "json" in space and space["__file__"] == "taken.py"


# The documents of a text


class Pieces:
    """A tokenizer of byte pieces (0, 1), a control token (2) and text (from 3)."""

    vocab, processor = 6, SimpleNamespace(is_byte=lambda token: token < 2)
    table = SimpleNamespace(control_V=np.arange(6) == 2)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([3, 4, 2, 5], [(0, 2), (3, 4)]),
        ([0, 1, 3, 2, 0, 5, 1], [(2, 3), (4, 6)]),  # cut off at both ends of the text alone
        ([3, 0, 2, 1, 5], [(0, 2), (3, 5)]),
        ([0, 1, 0], []),
        ([2, 2, 3, 2], [(2, 3)]),
        ([2, 0, 3], [(1, 3)]),
        ([3, 1, 1], [(0, 1)]),
    ],
)
def test_documents_are_what_lies_between_control_tokens(ids, expected):
    assert list(byte_table.documents(np.array(ids), Pieces)) == expected


@pytest.mark.parametrize("cut", range(1, 4))
def test_a_text_that_is_cut_off_in_mid_character_is_counted_right(embedded_tokenizer, cut):
    """At either end, wherever in the four bytes of the character."""
    ids = np.array(embedded_tokenizer.processor.encode("\U0001f701 and words \U0001f701"))
    edge = np.flatnonzero([embedded_tokenizer.processor.is_byte(token) for token in ids.tolist()])
    assert len(edge) == 8
    right = partial(token_bytes, table=embedded_tokenizer.table)
    for part in (ids[edge[cut] :], ids[: edge[-cut]]):
        compared = byte_table.miscounted(part, embedded_tokenizer, right)
        assert compared.wrong == [] and compared.documents == 1 and compared.decoded > 9
