"""Text with gaps: "The ___ sat" is given text around places to fill in."""

import re

from reference.recipe import InputError

GAP = re.compile("(_{3,})")


def check_text(flag: str, text: str) -> None:
    """Raise InputError unless a text has bytes: an argument that is no UTF-8 has none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{flag}: expected UTF-8 text, found {text[error.start : error.end]!r} at character"
            f" {error.start}; leave it out"
        ) from None


def check(prompt: str, infill: str | None, gap: int | None, tokens: int | None) -> None:
    """Raise InputError for a prompt or a text with gaps that cannot be drawn from, whatever the
    model, and for options that do not go together.
    """
    if infill is None:
        if gap is not None:
            raise InputError(f"--gap {gap}: expected --infill, which reads it, found none; drop it")
        check_text("--prompt", prompt)
        return
    for flag, given in (("prompt", prompt != ""), ("tokens", tokens is not None)):
        if given:
            raise InputError(
                f"--{flag}: expected no --infill, which says what is given and how much is drawn,"
                " found both; drop one"
            )
    split(infill, gap)


def split(text: str, size: int | None = None) -> list[str | int]:
    """Return the given texts (none empty) and between them the tokens of each gap: `size`, or as
    many as it has underscores, three or more. InputError where there is no gap.
    """
    if size is not None and size < 1:
        raise InputError(f"--gap: expected at least 1, found {size}; raise it")
    check_text("--infill", text)
    parts = GAP.split(text)
    if len(parts) == 1:
        raise InputError(
            f"--infill: expected a gap, three underscores or more, found none in {text!r}; write"
            " ___ where text is to be filled in"
        )
    parts[1::2] = [size or len(underscores) for underscores in parts[1::2]]
    return [part for part in parts if part]
