"""Python whose f-strings only 3.12 reads, on every interpreter."""

import ast
import dataclasses
import inspect
import re
import time
import traceback
from asyncio import base_events

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.display import report
from harness.validate import fstrings
from harness.validate.source import parse

NEWER = [  # what 3.12 reads, and the same written the older way
    ("f'{a['b']}'", "f'{a[\"b\"]}'"),
    ("f'{f'{1}'}'", "f'{f\"{1}\"}'"),
    ("f'{a:{'b'}}'", "f'{a:{\"b\"}}'"),
    ("f'{a['b']!r:>{w['c']}}'", 'f\'{a["b"]!r:>{w["c"]}}\''),
    ("f'{'\\n'.join(a)}'", "x = '\\n'.join(a)"),
    ("print(f'{\n x}')", "print(f'{x}')"),
    ("f'{a #}'\n}'", "f'{a}'"),
    ("f'''{'''a'''}'''", "f'{\"a\"}'"),
    ("'a' f'{b['c']}' 'd'", "'a' f'{b[\"c\"]}' 'd'"),
    ("f'{{{a['b']}}}'", "f'{{{a[\"b\"]}}}'"),
    ("rf'\\{a['b']}\\n'", "rf'\\{a[\"b\"]}\\n'"),
    ("f'\\N{DASH}{a['b']}' if 0 else f'\\N{BULLET}'", None),
    ("f'{a != b['c']}'", "f'{a != b[\"c\"]}'"),
    ("f'{(lambda x: x['y'])(1):d}'", "f'{(lambda x: x[\"y\"])(1):d}'"),
    ("f'{a['b']:%H:%M}'", "f'{a[\"b\"]:%H:%M}'"),
    ("f'{a['{']}{b['}']}'", 'f\'{a["{"]}{b["}"]}\''),
    ("f'{a[f'{b['c']}']}'", None),
    ("# it's f'{\nf'{a['b']}'", "f'{a[\"b\"]}'"),
    ("s = 'it\\'s'; f'{a['b']}'", 's = "it\'s"; f\'{a["b"]}\''),
]


@pytest.mark.parametrize(("newer", "older"), NEWER)
def test_newer_fstrings_are_read_as_the_same_written_the_older_way(newer, older):
    if "join" in newer:  # a backslash in braces has no older way
        joined = fstrings.parse(newer).body[0].value.values[0].value
        assert ast.dump(joined) == ast.dump(ast.parse(older).body[0].value)
    elif "DASH" in newer:
        with pytest.raises(SyntaxError):  # \N{DASH} is no name of a character
            fstrings.parse(newer)
        assert fstrings.parse(newer.replace("DASH", "EN DASH"))
    elif older is None:
        inner = fstrings.parse(newer).body[0].value.values[0].value.slice.values[0].value
        assert ast.unparse(inner) == "b['c']"
    else:
        assert ast.dump(fstrings.parse(newer)) == ast.dump(ast.parse(older))


def test_the_text_of_a_debugged_expression_is_all_that_is_lost():
    values = fstrings.parse("f'{a['b']=}'").body[0].value.values
    assert ast.unparse(values[-1].value) == "a['b']"


def test_lines_keep_their_numbers():
    text = "a = f'{\n b\n}'\nc = 1\nd = f'{e['f']}'\n"
    assert [node.lineno for node in fstrings.parse(text).body] == [1, 4, 5]
    subscript = fstrings.parse(text).body[2].value.values[0].value
    assert subscript.lineno == 5


@pytest.mark.parametrize("module", [dataclasses, base_events, traceback, report])
def test_a_scan_that_takes_every_expression_gives_the_tree_of_the_interpreter(monkeypatch, module):
    text = re.sub(r"=(?=(![rsa])?})", "", inspect.getsource(module))  # no {x=}
    monkeypatch.setattr(fstrings, "TAKEN", re.compile(""))
    scan, tree = fstrings.Scan(text), ast.parse(text)
    assert len(scan.taken) > 5
    told = scan.tree("exec", 1)
    assert ast.dump(told) == ast.dump(tree)
    lines, expected = (
        [node.lineno for node in ast.walk(one) if isinstance(node, ast.stmt)]
        for one in (told, tree)
    )
    assert lines == expected


@pytest.mark.parametrize(
    "text",
    [
        "f'{a['b'}'",
        "f'{a['b']",
        "f'{",
        "f'",
        "x = f'{a['b']}' +",
        "f'{a['b']!z}'",
        "f'{a['b']:",
        "'",
    ],
)
def test_what_is_no_python_stays_an_error(text):
    with pytest.raises(SyntaxError):
        fstrings.parse(text)
    source = parse("train_gpt.py", text.encode())
    assert source.tree is None and source.error


def test_bytes_that_are_no_utf_8_stay_an_error():
    assert parse("train_gpt.py", b"x = '\xff' + f'{1}'\n").error
    assert ast.dump(fstrings.parse(b"f'{a['b']}'")) == ast.dump(fstrings.parse("f'{a['b']}'"))


def test_nesting_without_end_is_an_error_and_no_crash():
    for text in ("f'{" * 20_000, "f'{'" * 20_000, "f'{a['b']}'\n" + "(" * 200_000):
        source = parse("train_gpt.py", text.encode())
        assert source.tree is None and source.error


def test_many_fstrings_are_read_in_one_pass():
    """A source may be megabytes long: each line is looked at once."""
    text = "x = f'{a['b']}'\n" * 20_000
    begun = time.process_time()
    tree = fstrings.parse(text)
    assert [node.lineno for node in tree.body[:3]] == [1, 2, 3]
    assert tree.body[-1].value.values[0].value.lineno == 20_000
    assert time.process_time() - begun < 30


def test_a_text_of_too_many_is_not_read(monkeypatch):
    monkeypatch.setattr(fstrings, "MOST", 2)
    assert fstrings.Scan("f'{a['b']}{a['c']}'").taken
    with pytest.raises(SyntaxError, match="more than 2 expressions"):
        fstrings.Scan("f'{a['b']}{a['c']}{a['d']}'")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from([*"fr'\"{}\\:!=r#a\n[]() ", "'''", "f'", "{a", "{{", "}}"]), max_size=24
    )
)
def test_any_text_is_read_as_the_interpreter_does_or_refused(pieces):
    text = "".join(pieces)
    source = parse("train_gpt.py", text.encode())
    try:
        expected = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    assert ast.dump(source.tree) == ast.dump(expected)
