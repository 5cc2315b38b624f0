"""HTML of escaped text: a tag is made of other tags, and of strings that are shown as they are."""

from collections.abc import Iterable
from html import escape


class Html(str):
    """Text that is HTML already; every other string is escaped."""


EMPTY = ("img", "meta")  # tags that hold nothing


def join(parts: Iterable, between: str = "") -> Html:
    """Return parts behind one another; what is no Html is escaped, None is left out."""
    kept = (part for part in parts if part is not None)
    return Html(between.join(x if isinstance(x, Html) else escape(str(x)) for x in kept))


def tag(name: str, /, *inside, **attributes) -> Html:
    """Return an element; an attribute's `_` is a hyphen but for a last one, None leaves it out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    end = "" if name in EMPTY else f"{join(inside)}</{name}>"
    return Html(f"<{name}{written}>{end}")


def table(
    columns: Iterable[str],
    rows: Iterable[Iterable],
    caption: str | None = None,
    kind: str | None = None,
) -> Html:
    """Return a table in a box of its own that scrolls; numbers are strings as they are shown. The
    first column names its row. kind: a class of the style sheet.
    """
    head = tag("tr", *(tag("th", column, scope="col") for column in columns))
    body = []
    for first, *others in rows:
        cells = (tag("td", "–" if cell is None else cell) for cell in others)
        body.append(tag("tr", tag("th", first, scope="row"), *cells))
    said = tag("caption", caption) if caption else None
    whole = tag("table", said, tag("thead", head), tag("tbody", *body), class_=kind)
    return tag("div", whole, class_="scroll", tabindex="0")


def details(summary: str, *inside, opened: bool = False) -> Html:
    """Return a part that opens on a click, without a script."""
    attributes = {"open": ""} if opened else {}
    return tag("details", tag("summary", summary), *inside, **attributes)
