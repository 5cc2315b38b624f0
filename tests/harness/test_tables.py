"""Tables at every width: nothing is cut, nothing is wider than the terminal."""

import io
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from harness.display import tables

NAMES = ("run", "estimator", "bits/byte", "± sequences", "artifact + code")
ROWS = [
    ("runs/demo", "NELBO (mean over all orders)", "2.6568", "0.0495", "737,583"),
    None,
    ("runs/other", "chain rule, left-to-right", "2.0452", Text("0.0585", "bold"), "737,583"),
]


def shown(width: int, names=NAMES, rows=ROWS, title="Scores") -> list[str]:
    """The lines of a table on a terminal of so many columns."""
    out = io.StringIO()
    tables.show(Console(file=out, width=width, emoji=False), title, names, rows)
    return out.getvalue().splitlines()


def words(lines: list[str]) -> list[str]:
    """What a table says, without its frame."""
    return sorted(re.findall(r"[^\s│┃┏┓┗┛┡┩╇┳┴└┘┌┐├┤┼─━┬]+", "\n".join(lines)))


def spoken(rows) -> list[str]:
    return sorted(
        word for row in rows if row is not None for cell in row for word in str(cell).split()
    )


def test_a_wide_terminal_has_a_line_a_row():
    lines = shown(140)
    assert len(lines) == 8 and lines[0].strip() == "Scores" and lines[1].startswith("┏")
    assert lines[4].startswith("│ runs/demo ") and lines[5].startswith("├")


def test_a_narrower_one_breaks_lines_between_words_first():
    lines = shown(73)
    assert lines[1].startswith("┏") and "left-to-right" in "\n".join(lines)
    assert words(lines) == sorted(["Scores", *spoken([NAMES, *ROWS])])


def test_then_it_has_no_frame():
    lines = shown(62)
    assert not any(set(line) & set("┃│┏") for line in lines)
    assert words(lines) == sorted(["Scores", *spoken([NAMES, *ROWS])])


def test_then_columns_become_rows_beside_each_other():
    lines = shown(50)
    assert re.fullmatch(r"│ run +│ +runs/demo │ +runs/other │", lines[2])
    assert words(lines) == sorted(["Scores", *spoken([NAMES, *ROWS])])
    below = shown(36)  # one after the other
    assert [line.split()[3] for line in below if line.startswith("│ run ")] == [
        "runs/demo",
        "runs/other",
    ]


@pytest.mark.parametrize("width", range(36, 160))
def test_no_word_is_cut_at_any_width(width):
    lines = shown(width)
    assert max(map(cell_len, lines)) <= width
    assert set(spoken([NAMES, *ROWS])) <= set(words(lines))


@given(
    st.integers(12, 200),
    st.integers(1, 6).flatmap(
        lambda n: st.tuples(
            *2 * [st.lists(st.text("ab 1,.-", max_size=30), min_size=n, max_size=n)]
        )
    ),
)
def test_any_cells_fit_any_terminal(width, rows):
    """Where a word is wider than the terminal it goes on in the next line."""
    names = [f"n{i}" for i in range(len(rows[0]))]
    lines = shown(width, names, list(rows), title="t")
    assert max(map(cell_len, lines)) <= width
    told, every = (Counter("".join(some)) for some in (words(lines), spoken([names, *rows])))
    assert not every - told
    assert "…" not in told


def test_a_table_without_rows_shows_its_names():
    assert words(shown(80, rows=[])) == sorted(["Scores", *spoken([NAMES])])
