"""A small terminal: what is to be seen after the sequences that rich writes."""

import re

SEQUENCE = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]")


class Screen:
    """Lines of characters and a cursor; lines above the top are kept."""

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self.lines, self.row, self.column = [""], 0, 0

    def feed(self, written: str) -> None:
        """Do what is written; ValueError for a sequence that is not known."""
        for part in re.split(f"({SEQUENCE.pattern}|[\r\n])", written):
            if part == "\r":
                self.column = 0
            elif part == "\n":
                self._down()
            elif part.startswith("\x1b"):
                self._move(part[2:-1], part[-1])
            else:
                for character in part:
                    self._put(character)

    def text(self) -> str:
        """Return all lines, without spaces at their ends."""
        return "\n".join(line.rstrip() for line in self.lines)

    def _put(self, character: str) -> None:
        if self.column == self.width:
            self._down()
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
        self.column += 1

    def _down(self) -> None:
        self.row, self.column = self.row + 1, 0
        if self.row == len(self.lines):
            self.lines.append("")

    def _move(self, numbers: str, what: str) -> None:
        if what == "A":
            top = max(0, len(self.lines) - self.height)  # what scrolled away is out of reach
            self.row = max(top, self.row - int(numbers or 1))
        elif what == "K" and numbers == "2":
            self.lines[self.row] = ""
        elif what not in "mhl":
            raise ValueError(f"unknown sequence {numbers}{what}")
