"""Draw text from a model: hidden positions are revealed along an evaluation order, each token by
the Gumbel-max trick (Gumbel 1954).
"""

import numpy as np

from reference import orders, philox
from reference.recipe import Stream


def draw(log_probs_V, seed, row, position, temperature):
    """Return one token id from p ** (1 / temperature), normalised; temperature 0 takes the most
    probable, ties to the lowest id.

    argmax(log p / temperature + g), g = -log(-log u), with one Philox draw u in (0, 1) per token
    id.
    """
    if temperature == 0:
        return int(np.argmax(log_probs_V))
    u_V = (
        philox.uniforms(philox.words(seed, Stream.SAMPLING, position, [row], len(log_probs_V))[0])
        + 2.0**-25
    )
    return int(np.argmax(log_probs_V / temperature - np.log(-np.log(u_V))))


def fill(log_probs, ids_BL, vocab, order, seed, step, block, temperature, first_row=0):
    """Return ids_BL with every hidden position (id vocab) drawn given what is revealed, `step`
    positions per pass.

    Along any order with step 1 this draws from the model's exact chain rule. Row b draws as row
    first_row + b.
    """
    orders.check_order(order)
    ids_BL = np.array(ids_BL)
    priority_BL = orders.priorities(
        order, seed, first_row + np.arange(len(ids_BL)), ids_BL.shape[1], block
    )
    for b, ids_L in enumerate(ids_BL):
        while (ids_L == vocab).any():
            log_probs_LV = log_probs(ids_L[None])[0]
            for i in orders.next_positions(
                order, log_probs_LV, ids_L == vocab, priority_BL[b], step
            ):
                ids_L[i] = draw(log_probs_LV[i], seed, first_row + b, i, temperature)
    return ids_BL
