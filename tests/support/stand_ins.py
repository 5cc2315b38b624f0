"""What tests put in the place of a progress bar and of a split of tokens."""

import numpy as np


class Bar:
    """A progress bar that keeps what it is told."""

    title = ""

    def __init__(self) -> None:
        self.said, self.updates, self.started = [], [], []

    def say(self, text: str) -> None:
        self.said.append(text)

    def update(self, done: float, total: float) -> None:
        self.updates.append((done, total))

    def start(self, title: str, done: int, total: int, unit: str) -> None:
        self.started.append((title, done, total, unit))


class Split:
    """The tokens of a split, from memory."""

    def __init__(self, ids) -> None:
        self.ids = np.asarray(ids, np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.ids[start:stop]
