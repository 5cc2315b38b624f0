"""Models small enough to enumerate: a random conditional distribution for every visible context, in
both halves; and the uniform one.
"""

import itertools
import math

import numpy as np
import torch


class TableModel:
    """Independent random distributions at all L positions for each of (V + 1)**L contexts, so that
    no structure hides a bug.

    Unmasked positions hold nan: an estimator that reads one fails. `calls` counts windows, `shapes`
    holds the shapes of batches.
    """

    def __init__(self, vocab: int, length: int, seed: int = 0, scale: float = 1.5):
        self.vocab, self.length = vocab, length
        contexts = np.array(list(itertools.product(range(vocab + 1), repeat=length)))
        logits = scale * np.random.default_rng(seed).standard_normal((len(contexts), length, vocab))
        table = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        table[contexts < vocab] = np.nan
        self.table, self.tensor = table, torch.from_numpy(table)
        self.strides = (vocab + 1) ** np.arange(length - 1, -1, -1)
        self.calls, self.shapes = 0, set()

    def numpy(self, ids_BL: np.ndarray) -> np.ndarray:
        """log_probs for the reference."""
        self.calls += len(ids_BL)
        return self.table[ids_BL @ self.strides]

    def torch(self, ids_BL: torch.Tensor) -> torch.Tensor:
        """log_probs for the fast half."""
        self.calls += len(ids_BL)
        self.shapes.add(tuple(ids_BL.shape))
        return self.tensor[(ids_BL * torch.from_numpy(self.strides)).sum(dim=1)]

    def sequences(self) -> np.ndarray:
        """All vocab**length sequences."""
        return np.array(list(itertools.product(range(self.vocab), repeat=self.length)))

    def windows(self, count: int, seed: int = 1) -> np.ndarray:
        """Random sequences."""
        return np.random.default_rng(seed).integers(0, self.vocab, (count, self.length))


def uniform_model(vocab: int):
    """Every token costs log V: log_probs for the fast half."""
    return lambda ids_BL: torch.full((*ids_BL.shape, vocab), -math.log(vocab), dtype=torch.float64)
