"""One optimizer step of the whole recipe, from a batch of ids to new weights, optimizer states and
shadow. No hidden state.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from reference import adam, ema, gradient, muon, quantize, schedule, transformer
from reference.objective import objective_of

MATRICES = ("q", "k", "v", "o", "up", "down")


class State(NamedTuple):
    """Everything a run carries from step to step; each field but the last two maps a parameter's
    name to a float64 array.
    """

    params: dict
    buffers: dict  # Muon momentum, matrices inside blocks only
    first: dict  # Adam moments, everything else
    second: dict
    shadow: dict  # EMA of params
    step: int  # steps done
    exponents: dict = {}  # {name: StepExponents} of the matrices that train_step rounds


def is_matrix(name):
    """Return whether Muon trains this parameter: the 2-D matrices inside blocks."""
    return name.split(".")[-1] in MATRICES


def initial_state(recipe):
    """Return the state before the first step."""
    params = transformer.initialize(recipe.model, recipe.seed)
    zeros = {name: np.zeros(value.shape) for name, value in params.items()}
    buffers = {name: value for name, value in zeros.items() if is_matrix(name)}
    moments = {name: value for name, value in zeros.items() if not is_matrix(name)}
    return State(params, buffers, moments, moments, params, 0)


def batch_loss(params, windows, step, rows, recipe):
    """Return the loss of windows (ids_BL, previous_B) in nats per token; rows are their global row
    indices.
    """
    network = partial(transformer.forward, params, model=recipe.model)
    return objective_of(recipe.model).loss(network, *windows, step, rows, recipe)


def apply_gradients(state, grads, multiplier, averaging, recipe):
    """Return (state, norm) after clip, Muon, Adam and EMA; averaging False keeps the shadow at the
    live weights.
    """
    optimizer = recipe.optimizer
    grads, norm = adam.clip(grads, optimizer.clip)
    mu = schedule.muon_momentum(state.step, optimizer)
    params, buffers, first, second, shadow = {}, {}, {}, {}, {}
    for name, weight in state.params.items():
        if is_matrix(name):
            lr = multiplier * optimizer.muon_lr
            params[name], buffers[name] = muon.muon_step(
                weight, grads[name], state.buffers[name], lr, mu, optimizer
            )
        else:
            lr = multiplier * (
                optimizer.embedding_lr if name == "embedding" else optimizer.vector_lr
            )
            params[name], first[name], second[name] = adam.adam_step(
                weight,
                grads[name],
                state.first[name],
                state.second[name],
                state.step + 1,
                lr,
                optimizer,
            )
        shadow[name] = ema.ema_update(
            state.shadow[name], params[name], recipe.ema.decay if averaging else 0.0
        )
    return State(params, buffers, first, second, shadow, state.step + 1, state.exponents), norm


def train_step(state, windows, multiplier, averaging, recipe):
    """Return (state, loss, gradient norm) after one step on the windows (ids_BL, previous_B) of the
    global batch.

    Gradients are taken at the matrices of state.exponents as the format uniform stores them, and
    change the values before rounding (straight-through estimator: Bengio et al. 2013,
    arXiv:1308.3432).
    """
    rows = np.arange(len(windows[0]))

    def loss(params):
        return batch_loss(params, windows, state.step, rows, recipe)

    stored = quantize.rounded(state.params, state.exponents)
    value, grads = loss(stored), gradient.gradient(loss, stored)
    state, norm = apply_gradients(state, grads, multiplier, averaging, recipe)
    return state, value, norm


def train(batch, recipe, *, choose=None):
    """Return (state, losses) of a whole step-bound run; batch(step, rows) returns the windows
    (ids_BL, previous_B) of some global rows. choose(shadow, batch, recipe) returns the exponents of
    the last quantization.aware_steps steps: allot.choose_steps.
    """
    state, losses, multiplier, averaging = initial_state(recipe), [], 1.0, False
    rows = np.arange(recipe.training.tokens_per_step // recipe.model.length)
    for step in range(recipe.training.iterations):
        remaining = schedule.remaining_steps(step, 0.0, 0.0, recipe.training)
        multiplier = schedule.lr_multiplier(remaining, multiplier, recipe.training)
        if not state.exponents and remaining <= recipe.quantization.aware_steps:
            state = state._replace(exponents=choose(state.shadow, batch, recipe))
        state, loss, _ = train_step(state, batch(step, rows), multiplier, averaging, recipe)
        averaging = averaging or ema.ema_starts(state.step, remaining - 1, recipe.ema.start)
        losses.append(loss)
    return state, losses
