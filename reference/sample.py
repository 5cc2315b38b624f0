"""Draw text from a model: hidden positions are revealed along an evaluation order, each token by
the Gumbel-max trick (Gumbel 1954).
"""

from typing import NamedTuple

import numpy as np

from reference import orders, philox
from reference.recipe import Stream


class Drawn(NamedTuple):
    """Windows (B, L), and how their tokens came: log-probability in nats given what was revealed
    before the pass, and place among the draws of the window (0, 1, ...). Given and hidden ones have
    0 and -1.
    """

    ids_BL: np.ndarray
    log_p_BL: np.ndarray
    rank_BL: np.ndarray


def gumbel(seed, row, position, vocab):
    """Return g_V = -log(-log u), with one Philox draw u in (0, 1) per token id (Gumbel 1954)."""
    words_V = philox.words(seed, Stream.SAMPLING, position, [row], vocab)[0]
    return -np.log(-np.log(philox.uniforms(words_V) + 2.0**-25))


def draw(log_probs_V, seed, row, position, temperature):
    """Return one token id from p ** (1 / temperature), normalised; temperature 0 takes the most
    probable, ties to the lowest id.

    argmax(log p / temperature + g).
    """
    if temperature == 0:
        return int(np.argmax(log_probs_V))
    return int(np.argmax(log_probs_V / temperature + gumbel(seed, row, position, len(log_probs_V))))


def fill(log_probs, ids_BL, vocab, order, seed, step, block, temperature, first_row=0, stop=None):
    """Return Drawn: every hidden position (id vocab) before `stop` (default: the end) drawn given
    what is revealed, `step` positions per pass.

    Along any order with step 1 this draws from the model's exact chain rule. Row b draws as row
    first_row + b.
    """
    orders.check_order(order)
    drawn = Drawn(np.array(ids_BL), np.zeros(np.shape(ids_BL)), np.full(np.shape(ids_BL), -1))
    count, length = drawn.ids_BL.shape
    priority_BL = orders.priorities(order, seed, first_row + np.arange(count), length, block)
    before_stop_L = np.arange(length) < (length if stop is None else stop)
    for b, (ids_L, log_p_L, rank_L) in enumerate(zip(*drawn, strict=True)):
        while ((ids_L == vocab) & before_stop_L).any():
            log_probs_LV = log_probs(ids_L[None])[0]
            waiting_L = (ids_L == vocab) & before_stop_L
            for i in orders.next_positions(order, log_probs_LV, waiting_L, priority_BL[b], step):
                ids_L[i] = draw(log_probs_LV[i], seed, first_row + b, i, temperature)
                log_p_L[i] = log_probs_LV[i, ids_L[i]]
                rank_L[i] = rank_L.max() + 1
    return drawn
