"""Bugs in the estimators and the evaluation orders."""

import math

import numpy as np
import torch

from tests.bugs import Bug
from tests.bugs.edits import (
    always,
    argument,
    call,
    giving,
    left,
    name,
    operator,
    receiver,
    right,
    whole,
)
from tests.bugs.randomness import by_position


class Peeking:
    """An order that knows the tokens it is to rank."""

    def begin(self, adaptive_pass, ask, order, step, waiting, vocab, ids, *given):
        """Keep the ids of a batch."""
        self.ids = ids
        return adaptive_pass(ask, order, step, waiting, vocab, ids, *given)

    def predict(self, rows, current, asked):
        """Keep the ids of the rows that are asked for."""
        self.asked = self.ids.gather(1, asked)
        return rows(current, asked)

    def rank(self, positions, order, log_probs, *given):
        """Rank by the probability of the token that is there."""
        known = log_probs.gather(-1, self.asked[..., None]).expand_as(log_probs)
        return positions(order, known, *given)


class Late:
    """A model that sees what it was given the pass before, unless all is masked yet."""

    def predict(self, rows, current, asked):
        """Predict from the input before this one."""
        seen = current if (current == current.max()).all() else self.seen
        self.seen = current.clone()
        return rows(seen, asked)


def end_alone(sliding, cost, ids_NL, context_NC, stride):
    """Costs of rows, of those that begin the text the last ones alone."""
    nats_NL, late_N = sliding(cost, ids_NL, context_NC, stride), context_NC[:, -1] >= 0
    return np.where(late_N[:, None] | (np.arange(ids_NL.shape[1]) >= stride), nats_NL, 0.0)


def bytes_of_context(bytes_of, windows, table, first_token):
    """Bytes of text of windows and of what stands before them."""
    sizes_NL = bytes_of(windows, table, first_token)
    if len(windows) == 3:
        sizes_NL[:, 0] += table.length_V[windows.context_NC.clip(0)].sum(axis=1)
    return sizes_NL


PEEKING = Peeking()
SLIDING = "tests/pieces/test_sliding.py"
BUGS = [
    Bug(
        "confidence-of-the-target",
        "fast.chain._adaptive_pass",
        (
            whole(by=PEEKING.begin),
            call("rows", by=PEEKING.predict),
            call("next_positions", by=PEEKING.rank),
        ),
        "peeking: the order then says which tokens are easy, for free",
        ("chain-confidence", "chain-block"),
    ),
    Bug(
        "least-confident-first",
        "fast.orders.next_positions",
        call("sort", by=giving(descending=False), nth=2),
        "argsort ascends",
        ("chain-confidence", "chain-entropy", "chain-margin", "chain-block"),
    ),
    Bug(
        "ties-to-the-highest-index",
        "fast.orders.next_positions",
        (
            call("scores", by=lambda scores, *given: scores(*given).flip(1)),
            name("indices", by=lambda indices: indices.shape[1] - 1 - indices, nth=2),
        ),
        "the other end of a stable sort",
        ("chain-confidence", "chain-entropy", "chain-margin", "chain-block"),
    ),
    Bug(
        "revealed-positions-chosen-again",
        "fast.orders.next_positions",
        call("masked_fill", by=receiver),
        "a mask forgotten: some tokens are charged twice and others never",
        ("chain-right-to-left", "chain-confidence"),
    ),
    Bug(
        "entropy-negated",
        "fast.orders._negative_entropy",
        call("entr", by=lambda entr, p: -entr(p)),
        "most uncertain first is active learning",
        ("chain-entropy",),
    ),
    Bug(
        "scores-not-rounded",
        "fast.orders.scores",
        call("round", by=receiver),
        "rounding then picks the first position: compiled and eager runs differed by 0.002 bits per byte",
        ("tests/pieces/test_orders.py::test_noise_of_rounding_breaks_no_ties",),
    ),
    Bug(
        "margin-of-logarithms",
        "fast.orders._margin",
        call("exp", by=receiver),
        "a ratio of probabilities instead of a gap",
        ("chain-margin",),
    ),
    Bug(
        "random-by-local-row",
        "fast.orders._random",
        call("words", by=argument(3, by_position)),
        "another batch size gives another order",
        ("chain-random",),
    ),
    Bug(
        "random-without-rows",
        "fast.orders._random",
        call("words", by=argument(3, lambda rows: rows * 0)),
        "one permutation for all windows: its luck does not average out",
        ("chain-random",),
    ),
    Bug(
        "right-to-left-is-not",
        "fast.orders._right_to_left",
        call("flip", by=receiver),
        "two flips",
        ("chain-right-to-left",),
    ),
    Bug(
        "blocks-of-one-more",
        "fast.orders._block_index",
        operator("//", by=lambda position, block: (position + 1) // block),
        "blocks counted from 1",
        ("chain-block",),
    ),
    Bug(
        "chain-reveals-before-it-charges",
        "fast.chain._fixed_pass",
        call("rows", by=Late().predict),
        "a stale input: the position revealed last is not seen",
        ("chain-left-to-right", "chain-random"),
    ),
    Bug(
        "chain-charges-the-argmax",
        "fast.chain._reveal",
        call("gather", by=lambda gather, *_: gather.__self__.amax(-1, keepdim=True), nth=2),
        "the sampler's confidence summed up is no likelihood",
        ("chain-left-to-right", "chain-confidence"),
    ),
    Bug(
        "chain-sums-in-single-precision",
        "fast.chain._reveal",
        call("to", by=lambda to, dtype: to(torch.float32).double() * (1 + 2.0**-22)),
        "long sums of float32 drift",
        ("chain-left-to-right",),
    ),
    Bug(
        "chain-skips-the-last-position",
        "fast.chain.chain",
        call("range", by=argument(1, lambda length: length - 1)),
        "off by one: one token in L is free",
        ("chain-left-to-right",),
    ),
    Bug(
        "rows-drawn-by-place-in-the-batch",
        "fast.likelihood.nelbo",
        operator("+", by=lambda first_row, indices: first_row + np.arange(len(indices)), nth=1),
        "a window's score then depends on the batch size",
        ("nelbo",),
    ),
    Bug(
        "first-row-forgotten",
        "fast.likelihood.nelbo_grid",
        operator("+", by=right, nth=2),
        "two parts of a stream share their masks",
        ("nelbo-grid",),
    ),
    Bug(
        "nelbo-over-length",
        "fast.likelihood.nelbo",
        (call("sum", to="mean", nth=1), operator("/", by=left, nth=2)),
        "divided by L instead of the number of hidden tokens",
        ("nelbo",),
    ),
    Bug(
        "nelbo-curve-not-given-back",
        "fast.likelihood.nelbo",
        operator("+", by=left, nth=2),
        "a control variate must be added again",
        ("nelbo",),
    ),
    Bug(
        "nelbo-unweighted",
        "fast.likelihood.nelbo",
        operator("/", by=lambda grid, shares: torch.full_like(shares, shares.shape[1]), nth=1),
        "proportional sizes without importance weights: biased to small masks",
        ("nelbo",),
    ),
    Bug(
        "nelbo-charges-the-visible",
        "fast.likelihood.nll",
        call("where", by=lambda where, mask, cost, none: cost),
        "pseudo-likelihood: every token given all the others",
        ("nelbo", "nelbo-grid"),
    ),
    Bug(
        "nelbo-shows-everything",
        "fast.likelihood.nll",
        call("masked_fill", by=receiver),
        "the corrupted ids were computed and not passed",
        ("nelbo", "nelbo-grid"),
    ),
    Bug(
        "masks-from-one-fewer",
        "fast.likelihood.fixed_mask",
        operator("<", to="<="),
        "one token more is hidden than charged for",
        ("nelbo",),
    ),
    Bug(
        "sizes-start-at-zero",
        "fast.sizes.draw_sizes",
        operator("+", by=right, nth=2),
        "searchsorted counts from 0",
        ("nelbo",),
    ),
    Bug(
        "pilot-learns-from-itself",
        "fast.likelihood.pilot",
        operator("!=", to="=="),
        "a control variate fitted on the windows it corrects is biased",
        ("nelbo",),
    ),
    Bug(
        "grid-forced-mask-always",
        "fast.likelihood.nelbo_grid",
        operator("<", by=always(True), nth=2),
        "position 0 is hidden at every time",
        ("nelbo-grid",),
    ),
    Bug(
        "grid-forced-mask-never",
        "fast.likelihood.nelbo_grid",
        operator("|=", by=left),
        "published numbers hold the forced mask at small t",
        ("nelbo-grid",),
    ),
    Bug(
        "grid-without-its-end",
        "fast.likelihood.nelbo_grid",
        operator("-", by=left, nth=2),
        "linspace with or without its end point",
        ("nelbo-grid",),
    ),
    Bug(
        "grid-factor-forgotten",
        "fast.likelihood.nelbo_grid",
        operator("-", by=left, nth=3),
        "one part in a thousand, upward",
        ("nelbo-grid",),
    ),
    Bug(
        "sums-in-single-precision",
        "fast.likelihood._target_nll",
        call("to", by=lambda to, dtype: to(torch.float32).double() * (1 + 2.0**-22)),
        "long sums of float32 drift",
        ("nelbo",),
    ),
    Bug(
        "causal-not-shifted",
        "fast.likelihood.causal_nll",
        call("tokens_before", by=lambda before, ids, previous: ids),
        "each token is predicted from itself",
        ("causal",),
    ),
    Bug(
        "causal-from-zero",
        "fast.likelihood.causal_nll",
        call("tokens_before", by=lambda before, ids, previous: before(ids, previous * 0)),
        "every window starts afresh",
        ("causal",),
    ),
    Bug(
        "sliding-context-one-short",
        "fast.likelihood.sliding",
        operator("+", by=lambda first, stride: first + stride + 1, nth=1),
        "off by one: still a code, of a little less context than is told",
        ("chain-sliding",),
    ),
    Bug(
        "sliding-first-window-charged-at-its-end-alone",
        "fast.likelihood.sliding",
        whole(by=end_alone),
        "the text's first tokens are free",
        ("chain-sliding", f"{SLIDING}::test_probabilities_of_all_texts_sum_to_one"),
    ),
    Bug(
        "sliding-tokens-charged-twice",
        "fast.likelihood.sliding",
        operator("-", by=lambda place, start_N: np.maximum(place - start_N - 1, 0), nth=2),
        "the last token of a window is charged by the next one, and its own cost is left out",
        ("chain-sliding", f"{SLIDING}::test_every_token_is_charged_once_at_the_end_of_its_window"),
    ),
    Bug(
        "sliding-previous-token-forgotten",
        "fast.likelihood.sliding",
        operator("-", by=left, nth=1),
        "the window's first token is shown twice, that before it never",
        ("chain-sliding", f"{SLIDING}::test_every_token_is_charged_once_at_the_end_of_its_window"),
    ),
    Bug(
        "sliding-into-what-is-no-text",
        "fast.likelihood.sliding",
        call("maximum", by=lambda maximum, start, missing_N: missing_N * 0 + start),
        "the first window holds what stands for no token",
        (f"{SLIDING}::test_every_token_is_charged_once_at_the_end_of_its_window",),
    ),
    Bug(
        "sliding-bytes-of-context-counted",
        "fast.evaluate.bytes_of",
        whole(by=bytes_of_context),
        "bits of the charged tokens over bytes of all that are seen: half the score",
        (f"{SLIDING}::test_rows_keep_their_bytes_and_numbers_in_any_range",),
    ),
    Bug(
        "stride-dropped",
        "fast.evaluate.token_nats",
        operator("is not", by=always(False), nth=1),
        "windows side by side, told as if they slid",
        ("chain-sliding", f"{SLIDING}::test_more_context_helps_a_model_that_copies"),
    ),
    Bug(
        "strided-passes-counted-as-one",
        "fast.evaluate._causal_passes",
        operator("or", to="and"),
        "speed and the choice to compile are those of one pass per window",
        (f"{SLIDING}::test_rows_keep_their_bytes_and_numbers_in_any_range",),
    ),
    Bug(
        "bits-from-the-mean-of-ratios",
        "fast.likelihood.summarize",
        whole(
            by=lambda summarize, estimator, order, nats, variance, tokens, bytes, *given: summarize(
                estimator, order, nats, variance, tokens, bytes, *given
            )._replace(bpb=float((nats / bytes).mean()) / math.log(2))
        ),
        "a mean over windows of bits per byte weighs short windows too much",
        ("score",),
    ),
    Bug(
        "nats-for-bits",
        "fast.likelihood.summarize",
        operator("/", by=left, nth=1),
        "natural logarithms printed as bits",
        ("score", "evaluate"),
    ),
    Bug(
        "error-of-the-population",
        "fast.likelihood.ratio",
        operator("-", by=left, nth=2),
        "n for n - 1",
        ("score",),
    ),
    Bug(
        "error-of-one-draw",
        "fast.likelihood.mask_variance",
        operator("**", by=left),
        "the spread of a draw instead of the mean's",
        ("score",),
    ),
    Bug(
        "ends-counted-twice",
        "fast.likelihood.mask_variance",
        operator("/", by=left, nth=1),
        "a pair's squared difference is twice its variance",
        ("score",),
    ),
    Bug(
        "windows-all-start-a-stream",
        "fast.evaluate.bytes_of",
        operator("==", by=always(True)),
        "every window loses the byte of its first space",
        ("evaluate",),
    ),
]
