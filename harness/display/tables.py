"""Tables that fit the terminal: no number and no word is cut."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

Cells = Sequence[str | Text]
LEAST_ROOM = 20  # columns for values beside their names


def _span(cells: Iterable[str | Text]) -> tuple[int, int]:
    """Return the width of the longest word of some cells, and of their longest line."""
    texts = [str(cell) for cell in cells]
    lines = (line for text in texts for line in text.split("\n"))
    words = (word for text in texts for word in text.split())
    return max(map(cell_len, words), default=0), max(map(cell_len, lines), default=0)


def widths_of(columns: Iterable[Iterable[str | Text]], room: int) -> list[int] | None:
    """Return widths for columns that break no word and take at most room together, None where
    there are none. What is left over goes to the column that lacks most.
    """
    spans = [_span(cells) for cells in columns]
    widths = [low for low, _ in spans]
    left = room - sum(widths)
    while left > 0:
        lacks = [high - width for width, (_, high) in zip(widths, spans, strict=True)]
        if not any(lack > 0 for lack in lacks):
            break
        widths[lacks.index(max(lacks))] += 1
        left -= 1
    return widths if left >= 0 else None


def _table(title: str, names: Cells, rows: list[Cells | None], widths: list[int], **style) -> Table:
    table = Table(title=Text(title, "bold"), title_justify="left", **style)
    for index, (name, width) in enumerate(zip(names, widths, strict=True)):
        side = "right" if index else "left"
        table.add_column(name, justify=side, width=width, overflow="fold")
    for row in rows:
        if row is None:
            table.add_section()
        else:
            table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def show(console: Console, title: str, names: Cells, rows: list[Cells | None]) -> None:
    """Print a table of cells that are shown as they are; all columns but the first go right. None
    in place of a row is a line. Where its columns do not fit beside each other it has no frame,
    and where that does not fit either its columns become rows.
    """
    filled = [row for row in rows if row is not None]
    columns = [[name, *(row[index] for row in filled)] for index, name in enumerate(names)]
    framed = console.width - 3 * len(names) - 1
    if widths := widths_of(columns, framed):
        console.print(_table(title, names, rows, widths))
    elif widths := widths_of(columns, console.width - len(names) + 1):
        bare = {"box": box.SIMPLE_HEAD, "show_edge": False, "padding": 0, "pad_edge": False}
        console.print(_table(title, names, rows, widths, **bare))
    else:
        _print_turned(console, title, names, filled or [[""] * len(names)])


def _print_turned(console: Console, title: str, names: Cells, rows: list[Cells]) -> None:
    """Print columns as rows, so many rows beside each other as fit."""
    shown = 0
    while shown < len(rows):
        count, widths = 0, None
        for more in range(1, len(rows) - shown + 1):
            columns = [names, *rows[shown : shown + more]]
            found = widths_of(columns, console.width - 3 * len(columns) - 1)
            if found is None:
                break
            count, widths = more, found
        if widths is None:  # a word is wider than the terminal: it is broken
            first = min(_span(names)[0], max(console.width - LEAST_ROOM, 1))
            count, widths = 1, [first, max(console.width - first - 7, 1)]
        turned = list(zip(names, *rows[shown : shown + count], strict=True))
        head = [""] * (count + 1)
        console.print(_table(title, head, turned, widths, show_header=False))
        title, shown = "", shown + count
