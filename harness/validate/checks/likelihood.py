"""Checks of the likelihood: is what the script sums a code length of the whole text? Read from the
syntax tree of what scores, and from the loss of the untrained model.
"""

import ast
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from harness.validate import charged, hiding, learning
from harness.validate.checks.log import plain_number, setting, variables
from harness.validate.hiding import Evaluation
from harness.validate.marks import Least, Ratio, Spread
from harness.validate.source import Source
from harness.validate.spans import Span
from harness.validate.submission import Submission
from harness.validate.training_log import Log
from harness.validate.verdict import CannotTell, Finding, by_doubt, check, judged, passed

SCORER = re.compile(r"eval|score|valid|likelihood", re.IGNORECASE)  # names of scripts
# of (0, 1]: what an honest integral may leave out, at the cost of 2 % of log V at the most
LEFT_OUT = 0.02
EVEN = 0.02  # relative: of the distances between rates that are called even
FEWEST = 8  # rates of a sum that is no bound: below them nobody knows its error
NEAR = 0.1  # relative: an untrained model is this near to log V, in records within 0.003
FIRST = 1  # the last step whose training loss is of the untrained model
TOKENIZER = re.compile(r"(?:sp|_)(\d{3,6})(?:_bpe|_unigram|_|/|\b)")
MOST = 4  # places named
IMPROPER = {  # what is said of probabilities, and the cost that charges them
    Ratio: "counts at one index of a hash table over those at another are a probability that {}"
    " charges",
    Least: "of each token the least of several costs, one of them of {}, is summed",
    Spread: "the cost of a token over the number of its bytes is mixed as if it were that of a"
    " byte, and {} charges the mixture",
}


class Judged(NamedTuple):
    """What is wrong with an evaluation, what is open, or what is right: one of them is not ""."""

    fault: str = ""
    reason: str = ""
    good: str = ""


def scorers(submission: Submission) -> list[Source]:
    """Return the sources that may make the score: what runs, and scripts named after scoring."""
    running = submission.code.required
    others = [
        source
        for source in submission.code.sources.values()
        if source not in running and SCORER.search(source.file)
    ]
    return [source for source in [*running, *others] if source.tree]


@lru_cache(maxsize=16)
def evaluations(source: Source) -> list[Evaluation]:
    """Return the evaluations of a source, less those that others are made of or made up from."""
    rows = hiding.evaluations(source.tree)
    nodes = {id(row): {draw.node for draw in row.draws} for row in rows}

    def stands_for(other: Evaluation, row: Evaluation) -> bool:
        mine, theirs = nodes[id(row)], nodes[id(other)]
        if other is row or other.rates is None or not mine & theirs:
            return False
        # a caller that gives the rates; or the function itself, for its caller
        gives = row.rates is None and mine <= theirs
        return gives or (theirs <= mine and len(other.frames) < len(row.frames))

    return [row for row in rows if not any(stands_for(other, row) for other in rows)]


def covered(evaluation: Evaluation, rates: Span) -> tuple[float, float]:
    """Return the part of (0, 1] that an evaluation's rates stand for, as (from, to)."""
    low, high, points = rates
    if points is None or evaluation.is_trapezoid:
        return low, high
    count = len(points)
    weights = evaluation.weights(count)
    if weights is not None:
        return (0.0, 1.0) if abs(weights - 1) <= LEFT_OUT else (low, low + weights)
    ordered = sorted(points)
    step = (high - low) / (count - 1)
    uneven = max(abs(b - a - step) for a, b in zip(ordered, ordered[1:], strict=False))
    if uneven > EVEN * step:
        return low, high
    # midpoints of cells, or their upper ends
    upper = high if high >= 1 - LEFT_OUT else high + step / 2
    return low - (step if upper == high else step / 2), upper


def judge_rates(source: Source, evaluation: Evaluation) -> Judged:
    """Return whether the rates at which an evaluation hides tokens make an integral over (0, 1]."""
    rates = evaluation.rates
    where = f"{source.label}:{evaluation.draws[0].node.lineno}: {evaluation.name}"
    if rates is None:
        node = evaluation.unfollowed
        text = ast.unparse(node)[:60]
        return Judged(reason=f"{source.label}:{node.lineno}: the rate of {text} is not followed")
    if rates.value is not None:
        one = f"{where} hides tokens at one rate, {rates.value:g}: a pseudo-likelihood"
        return Judged(good=where) if rates.value >= 1 else Judged(fault=one)
    low, high = covered(evaluation, rates)
    count = len(rates.points) if rates.points else 0
    many = f"at {count} rates from" if count else "at rates from"
    said = f"{where} hides tokens {many} {rates.low:.4g} to {rates.high:.4g}"
    if low > LEFT_OUT or high < 1 - LEFT_OUT:
        part = f"they stand for {max(low, 0):.3g} to {min(high, 1):.3g} of (0, 1]"
        return Judged(fault=f"{said}; {part}")
    if 0 < count < FEWEST and rates.high < 1 - LEFT_OUT:
        return Judged(fault=f"{said}: a sum over so few is no bound, {FEWEST} are the least")
    return Judged(good=said)


@check(
    "mask rates",
    "score",
    caught="Integrals from 0.05 to 0.95 by eight literals, averages at the one rate 0.5, which is a"
    " pseudo-likelihood, and means over five rates.",
    fix="Draw the rate from (0, 1], or sum over a grid that ends at 1, with weights that add up to"
    " 1; maskgolf's estimator does the first.",
)
def mask_rates(submission: Submission) -> Finding:
    """Where the script scores text behind random masks, the rates at which it hides tokens stand
    for all of (0, 1]: more than one, none left out at either end, and enough of them to be a bound.
    """
    rows = [
        judge_rates(source, evaluation)
        for source in scorers(submission)
        for evaluation in evaluations(source)
    ]
    faults = [row.fault for row in rows if row.fault]
    reasons = list(dict.fromkeys(row.reason for row in rows if row.reason))
    good = [row.good for row in rows if row.good]
    if faults and good:
        reasons = [f"{faults[0]}; but {good[0]}: nothing says which of them is the score"]
        faults = []
    if not rows:
        submission.code.require_read()
        return passed("no mask is drawn at a rate where text is scored")
    return judged(faults[:MOST], "; ".join(good[:MOST]), reasons)


def ignored(source: Source) -> list[hiding.Special]:
    """Return the tokens that a loss of an evaluation leaves out by ignore_index."""
    return [
        special
        for scope, call in hiding.losses(source.tree)
        for key in call.keywords
        if key.arg == "ignore_index"
        and (special := hiding.special(call, key.value, scope)).ids is not None
        and special.ids.low >= 0
    ]


@check(
    "tokens charged",
    "score",
    caught="A model that never hid the end-of-text token and charged hidden tokens only: the ends"
    " of 50,000 documents cost nothing.",
    fix="Hide every token of the text at the drawn rate; spare nothing but padding, which is no"
    " text.",
)
def tokens_charged(submission: Submission) -> Finding:
    """Where the script scores text, no token of the vocabulary is spared: masks hide any token but
    padding, and the loss ignores none.
    """
    faults, reasons, places = [], [], 0
    for source in scorers(submission):
        rows = evaluations(source)
        places += len(rows)
        specials = [special for row in rows for special in hiding.spared(row)]
        for special in dict.fromkeys([*specials, *ignored(source)]):
            ids = "" if special.ids is None else f" (id {special.ids.low:g})"
            said = f"{source.label}:{special.line}: {special.text}{ids}"
            verdict = hiding.is_text(special)
            if verdict:
                faults.append(f"{said} is never hidden nor charged")
            elif verdict is None:
                reasons.append(f"{said}: nothing says whether the text holds such tokens")
    if not faults and not reasons:
        submission.code.require_read()
    faults = list(dict.fromkeys(faults))
    return judged(faults[:MOST], f"{places} masked evaluations spare no token of the text", reasons)


@check(
    "order of conditioning",
    "score",
    caught="Every second token charged left to right, the tokens between them given both sides:"
    " each is known before the other is paid for. Also tokens hidden one at a time.",
    fix="Charge a token given tokens that were charged before it, in one order: hide all that come"
    " later.",
)
def conditioning(submission: Submission) -> Finding:
    """No sum of costs charges a token given others that are charged given it: one token hidden at
    a time, a mask and its opposite, a pass left to right over all tokens plus one that sees both
    sides.
    """
    faults = [
        f"{source.label}:{circle.line}: {circle.how}"
        for source in scorers(submission)
        for circle in hiding.circles(source.tree)
    ]
    if not faults:
        submission.code.require_read()
    return judged(faults[:MOST], "no sum of costs that depend on one another was found")


@lru_cache(maxsize=2)
def _walk(sources: tuple[Source, ...], settings: frozenset) -> learning.Walk:
    return learning.Walk(list(sources), dict(settings))


def walked(submission: Submission) -> learning.Walk:
    """Return the walk through what runs; CannotTell where it cannot be read or followed."""
    submission.code.require_read()
    try:
        return _walk(tuple(submission.code.running), frozenset(variables(submission).items()))
    except RecursionError as error:
        raise CannotTell(f"the script could not be followed to its end: {error}") from error


def judged_as_far(said: list[tuple[str, str]], good: str, unseen: Sequence[str] = ()) -> Finding:
    """Return the verdict of what is said to be wrong, each with the doubt about it ("": none)."""
    faults, doubts = by_doubt(said)
    return judged(faults[:MOST], good, [*doubts, *unseen])


def unread(walk: learning.Walk) -> list[str]:
    """Return the compiled libraries that are called: what they do with text cannot be read."""
    return [
        f"{where}: {name} is of a compiled library, whose code is not read"
        for where, name in walk.outside.values()
    ]


@check(
    "charged before learned",
    "score",
    caught="n-gram tables counted over the whole validation text and then used to score it, second"
    " passes over chunks that had filled the cache, weights trained on the text for some epochs"
    " before it was scored, offsets fitted to a window and then charged for the same window.",
    fix="Score a piece of the text first, learn from it afterwards, and never score it again.",
)
def charged_first(submission: Submission) -> Finding:
    """The script charges for every piece of the validation text before it learns from it, by steps
    of an optimizer or by counts in a table. The order of execution is read from the syntax tree.
    """
    walk = walked(submission)
    ordered = sorted(charged.early(walk.costs), key=lambda row: (not row.doubt, row), reverse=True)
    rows = {row.where: row for row in reversed(ordered)}  # of a place, what is certain
    said = [
        (f"{where}: {row.what} on validation text that {row.charged} charges afterwards", row.doubt)
        for where, row in rows.items()
    ]
    none = "no cost of validation text was found: look at what the score is made of"
    places = len({event.where for some in walk.learned.values() for event in some})
    good = f"{len(walk.costs)} costs; {places} places learn from validation text, after its charge"
    return judged_as_far(said, good, unread(walk) if walk.costs else [none])


@check(
    "sums to one",
    "score",
    caught="n-gram caches in hash tables, 0.09 to 0.96 bits per byte: the count of a context and a"
    " token over the count of the context, where so many keys share a slot that most tokens of the"
    " vocabulary get a high probability at once; the least of the costs that several passes give a"
    " token; the cost of a token, shared out evenly among its bytes, mixed with a model of bytes.",
    fix="Compute the probability of every token of the vocabulary and divide by their sum after all"
    " is mixed; or count in a dictionary, where each key has counts of its own. Mix passes with"
    " weights that sum to one and do not depend on the token.",
)
def normalised(submission: Submission) -> Finding:
    """No probability that is charged is a count from a hash table over a count at another index, of
    this table or another: keys that share a slot share counts, so that the probabilities of all
    tokens do not sum to one. No cost of a token is divided by the number of its bytes and mixed
    with costs of bytes. No token is charged the least of several costs: for whichever token
    comes, the largest of its probabilities, which sum to more than one.
    """
    walk = walked(submission)
    said = [
        (f"{row.where}: {words.format(row.charged)}", row.doubt)
        for kind, words in IMPROPER.items()
        for row in charged.improper(walk.costs, kind)
    ]
    good = f"{len(walk.costs)} costs; none is of such a quotient or root, nor the least of several"
    return judged_as_far(said, good, unread(walk))


def vocabulary(submission: Submission, log: Log) -> tuple[float | None, bool]:
    """Return the tokens of a log's vocabulary, and whether the log itself says so: its setting, the
    name of its tokenizer, else the code's default.
    """
    printed = plain_number(log.settings.get("vocab_size"))
    if printed:
        return printed, True
    named = TOKENIZER.search(log.settings.get("tokenizer_path", ""))
    if named:
        return float(named[1]), True
    return setting(submission, log, "vocab_size", "vocab"), False


class Start(NamedTuple):
    """What a log says of the untrained model: where it is first scored and at how many nats per
    token, its first training loss (None: not printed).
    """

    step: int | None  # None: only at the end
    loss: float
    early: float | None


def start(log: Log) -> Start | None:
    """Return the first score of a log, None where it prints no loss in nats."""
    scored = [(point.step, point.val_loss) for point in log.points if point.val_loss is not None]
    scored += [(None, final.val_loss) for final in log.finals if final.val_loss is not None]
    losses = [
        point.train_loss
        for point in log.points
        if point.step <= FIRST and point.train_loss is not None
    ]
    early = losses[0] if losses and math.isfinite(losses[0]) and losses[0] > 0 else None
    finite = [row for row in scored if math.isfinite(row[1]) and row[1] > 0]
    return Start(*finite[0], early) if finite else None


def untrained(submission: Submission, log: Log) -> Judged:
    """Return whether the first score of a log is one that an untrained model, or a trained one, can
    have.
    """
    first, (size, logged) = start(log), vocabulary(submission, log)
    if first is None:
        return Judged(reason=f"{log.name} prints no score in nats per token")
    if not size or size < 2 or (first.early is None and not logged):
        return Judged(reason=f"{log.name} does not say over how many tokens its model predicts")
    uniform = math.log(size)
    at = "at the end" if first.step is None else f"at step {first.step:,}"
    said = (
        f"{log.name}: {first.loss:.4f} nats per token {at}, a uniform predictor over {size:,.0f}"
        f" tokens has {uniform:.4f}"
    )
    also = "" if first.early is None else f", and the training loss begins at {first.early:.4f}"
    above = first.loss > (1 + NEAR) * uniform
    if first.step != 0:
        worse = f"{said}: worse than a guess, after training"
        return Judged(reason=worse) if above else Judged(good=said)
    alike = first.early is not None and abs(first.loss / first.early - 1) <= NEAR
    if above and not alike:
        return Judged(f"{said}{also}: tokens are charged {first.loss / uniform:.2f} times")
    is_uniform = first.early is not None and abs(first.early / uniform - 1) <= NEAR
    if is_uniform and first.loss < (1 - NEAR) * uniform:
        return Judged(f"{said}{also}: some tokens are not charged, or known before")
    return Judged(good=said)


@check(
    "untrained score",
    "score",
    caught="A mean of losses over the mask rate, each of all tokens and not of the hidden ones:"
    " 24.8 nats per token before the first step, 14.68 bits per byte where 4.11 is a guess.",
    fix="Score a model of zeros: every token must cost the logarithm of the vocabulary, once.",
)
def untrained_score(submission: Submission) -> Finding:
    """The loss that a log prints at step 0 is that of a uniform predictor, log V nats per token, or
    the training loss of the same model: more counts tokens twice, less leaves some out. A first
    score after training is no worse than a guess.
    """
    rows = [untrained(submission, log) for log in submission.required_logs]
    faults = [row.fault for row in rows if row.fault]
    reasons = [row.reason for row in rows if row.reason]
    good = [row.good for row in rows if row.good]
    return judged(faults[:MOST], "; ".join(good[:MOST]), [] if good else reasons)
