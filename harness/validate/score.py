"""Checks of the score: measured again from the artifact, counted over the right tokens and bytes,
in the right unit.
"""

import math
import re
from typing import NamedTuple

from harness.validate import rescore
from harness.validate.finding import CannotTell, Check, Explain, Finding, failed, judged, passed
from harness.validate.opened import MOST_TOKENS, once, text, together
from harness.validate.submission import Submission, number

OFFICIAL_TOKENS, OFFICIAL_BYTES, OFFICIAL_PIECES = (
    62_021_845,
    151_080_891,
    1024,
)  # fineweb10B_sp1024's validation set
MOST_WINDOW = 1 << 14  # tokens that an evaluation may drop at the end of the text
ABOUT = 4  # a count this many times off is about another text, not a wrong count
WIDEST = 0.1  # bits per byte: an error bar beyond it decides nothing
SCORED = re.compile(r"\btokens\s*[:=]\s*(\d[\d,]*)\s+bytes\s*[:=]\s*(\d[\d,]*)")
ESTIMATOR = re.compile(r"\bestimator\s*[:=]\s*(\S+)")
STDERR = re.compile(r"\bstderr_masks\s*[:=]\s*([0-9.eE+-]+)")
STATED = (
    re.compile(r"\bval_tokens\s*[:=]\s*(\d[\d,]*)"),
    re.compile(r"^val_loader\b.*\btokens\s*[:=]\s*(\d[\d,]*)"),
    re.compile(r"^val tokens\s*[:=]\s*(\d[\d,]*)"),
)


class Claim(NamedTuple):
    """What a submission says of the artifact in the folder."""

    bpb: float
    stderr: float | None
    estimator: str


class Counts(NamedTuple):
    """Tokens and bytes as a log states them: where, how many the data have, how many were
    scored.
    """

    where: str
    stated: int | None
    tokens: int | None
    bytes: int | None


class Pair(NamedTuple):
    """A loss in nats per token and the bits per byte it was turned into, as printed."""

    where: str
    loss: float
    bpb: float
    loose: float  # relative error that rounding leaves in their quotient


def claimed(submission: Submission, seed: int) -> Claim:
    """Return the claim about the artifact: its seed's in seed_results, else the only one."""
    fields = submission.seed_claims.get(str(seed))
    if fields is None and len(submission.seed_claims) > 1:
        raise CannotTell(
            f"the artifact is of seed {seed}, the JSON has results of"
            f" {', '.join(submission.seed_claims)}"
        )
    bpb = number((fields or {}).get("val_bpb"))
    bpb = submission.claim("val_bpb", "mean_val_bpb") if bpb is None else bpb
    log = next((log for log in submission.logs if log.seed == str(seed)), None) or (
        submission.logs[0] if len(submission.logs) == 1 else None
    )
    lines = log.body if log else []
    named = submission.claims.get("val_bpb_estimator")
    stderr = next(
        (float(found[1]) for line in reversed(lines) if (found := STDERR.search(line))), None
    )
    logged = next((found[1] for line in reversed(lines) if (found := ESTIMATOR.search(line))), "")
    return Claim(bpb, stderr, named if isinstance(named, str) else logged)


@once
def remeasured(submission: Submission) -> tuple[Claim, rescore.Measured]:
    """Return the claim and the artifact's score on the given data, by the estimator that the claim
    names.
    """
    from fast.objective import objective_of

    opened, given = together(submission)
    claim = claimed(submission, opened.recipe.seed)
    recipe = opened.recipe
    effort = rescore.effort_of(
        claim.estimator, objective_of(recipe.model).is_causal, recipe.diffusion.epsilon
    )
    if effort is None:
        raise CannotTell(
            f"the claim names the estimator {claim.estimator!r}, which is none of ours"
        )
    return claim, rescore.measure(opened, given, effort, submission.options.time_limit / 4)


def rescored(submission: Submission) -> Finding:
    """The claimed score is what the artifact gives when it is read back and scored here."""
    opened, given = together(submission)
    if opened.tokenizer_sha256 and opened.tokenizer_sha256 != given.tokenizer.sha256:
        names = (
            f"{opened.tokenizer_sha256[:12]}..., the one given is {given.tokenizer.sha256[:12]}..."
        )
        return failed(f"the artifact was trained with the tokenizer of SHA-256 {names}")
    stated = number(submission.claims.get("artifact_seed"))
    if stated is not None and stated != opened.recipe.seed:
        return failed(
            f"the JSON says that the artifact is of seed {stated:.0f}, the artifact says seed"
            f" {opened.recipe.seed}"
        )
    claim, found = remeasured(submission)
    limit, apart = rescore.allowed(found, claim.bpb, claim.stderr), abs(found.score.bpb - claim.bpb)
    scope = f"{found.windows:,} of {found.of:,} windows, {found.score.tokens:,} tokens"
    evidence = (
        f"claimed {claim.bpb:.8g}, scored {found.score.bpb:.6f} by {found.score.estimator} on"
        f" {scope}: {apart:.6f} apart, {limit:.6f} allowed"
    )
    if apart <= limit and limit > WIDEST:
        raise CannotTell(f"{evidence}; that is too wide to decide anything")
    if apart > limit and not submission.ours and not claim.estimator:
        raise CannotTell(f"{evidence}; the claim does not name its estimator")
    return judged([evidence] if not apart <= limit else [], evidence)


def whole(text_: str) -> int:
    """Return a printed whole number."""
    return int(text_.replace(",", ""))


def counts(submission: Submission) -> list[Counts]:
    """Return what the JSON and each log state."""
    found = []
    try:
        stated = [
            number(submission.claims.get(f"validation_{what}")) for what in ("tokens", "bytes")
        ]
        if stated[0] is not None:
            found.append(
                Counts(
                    submission.json_name,
                    None,
                    *(None if each is None else int(each) for each in stated),
                )
            )
    except CannotTell:
        pass
    for log in submission.logs:
        scored = next(
            (match for line in reversed(log.body) if (match := SCORED.search(line))), None
        )
        stated = next(
            (match for line in log.body for pattern in STATED if (match := pattern.search(line))),
            None,
        )
        if scored or stated:
            numbers = (whole(scored[1]), whole(scored[2])) if scored else (None, None)
            found.append(Counts(log.name, whole(stated[1]) if stated else None, *numbers))
    return found


@once
def sizes(submission: Submission) -> tuple[int, int, int]:
    """Return (tokens, bytes, pieces) of the validation text that was given."""
    import numpy as np

    from fast.bytes import token_bytes

    given, tokens, total, before = text(submission), 0, 0, np.array([-1])
    if len(given.validation) > MOST_TOKENS:
        raise CannotTell(
            f"the validation text has {len(given.validation):,} tokens, more than the"
            f" {MOST_TOKENS:,} that are counted"
        )
    while tokens < len(given.validation):
        ids = np.asarray(
            given.validation.read(tokens, min(tokens + (1 << 22), len(given.validation))), np.int64
        )
        if ids.max() >= given.tokenizer.vocab:
            raise CannotTell(
                f"the validation text holds id {ids.max()}, the tokenizer given has"
                f" {given.tokenizer.vocab} pieces"
            )
        total += int(
            token_bytes(ids, np.concatenate([before, ids[:-1]]), given.tokenizer.table).sum()
        )
        tokens, before = tokens + len(ids), ids[-1:]
    return tokens, total, given.tokenizer.vocab


def same_text(tokens: int, whole_text: int) -> bool:
    """Return whether a count is that of a whole text, less what an evaluation drops: its first
    token, and the last window.
    """
    return tokens == whole_text or 0 < whole_text - tokens <= min(MOST_WINDOW, whole_text // 100)


def tokens_and_bytes(submission: Submission) -> Finding:
    """The log's numbers of scored tokens and bytes are those of the data."""
    found = counts(submission)
    if not found:
        raise CannotTell("neither JSON nor log says how many tokens were scored")
    faults = [
        f"{each.where}: the data have {each.stated:,} tokens, {each.tokens:,} were scored"
        for each in found
        if each.stated is not None
        and each.tokens is not None
        and not same_text(each.tokens, each.stated)
    ]
    if faults:
        return failed("; ".join(faults))
    official = (OFFICIAL_TOKENS, OFFICIAL_BYTES)
    counted = [(each, each.stated if each.tokens is None else each.tokens) for each in found]
    texts = {official: "the official set has"}
    if not all(same_text(tokens, OFFICIAL_TOKENS) for _, tokens in counted):
        given = sizes(submission)[:2]
        texts = {given: "the data given have", **texts}
    for each, tokens in counted:
        about = next((text_ for text_ in texts if same_text(tokens, text_[0])), None)
        if about is None:
            if max(tokens, given[0]) > ABOUT * min(tokens, given[0]):
                raise CannotTell(
                    f"{each.where} is about {tokens:,} tokens, the data given have {given[0]:,}"
                )
            faults.append(f"{each.where}: {tokens:,} tokens, the data given have {given[0]:,}")
        elif tokens == about[0] and each.bytes not in (None, about[1]):
            faults.append(
                f"{each.where}: {each.bytes:,} bytes for {tokens:,} tokens that hold {about[1]:,}"
            )
    (first, tokens), (whose, (whole_text, total)) = (
        counted[0],
        next((said, text_) for text_, said in texts.items()),
    )
    said = f"{tokens:,} tokens{'' if first.bytes is None else f' and {first.bytes:,} bytes'}"
    return judged(
        faults, f"{said} in {len(found)} places; {whose} {whole_text:,} tokens and {total:,} bytes"
    )


def pairs(submission: Submission) -> list[Pair]:
    """Return the final losses that stand beside their bits per byte, in the JSON and the logs."""

    def pair(
        where: str, loss: float | None, bpb: float | None, digits: float | None = None
    ) -> list[Pair]:
        if loss is None or bpb is None or not (0 < loss < 100 and 0 < bpb < 100):
            return []
        own = rescore.rounding(bpb) if digits is None else digits
        return [
            Pair(
                where,
                loss,
                bpb,
                max(rescore.rounding(loss), own if digits else 0.0) / loss + own / bpb,
            )
        ]

    found = []
    try:
        for name, fields in {
            submission.json_name: submission.claims,
            **{f"seed {seed}": each for seed, each in submission.seed_claims.items()},
        }.items():
            found += pair(name, number(fields.get("val_loss")), number(fields.get("val_bpb")))
    except CannotTell:
        pass
    for log in submission.logs:
        for final in log.finals:
            found += pair(
                f"{log.name} {final.label}",
                final.val_loss,
                final.val_bpb,
                0.5 * 10.0**-final.digits,
            )
    return found


def byte_accounting(submission: Submission) -> Finding:
    """Loss and bits per byte imply as many bytes per token as the text has: a uniform predictor
    would get the known score.
    """
    found = [each for each in pairs(submission) if each.loose < 2e-3]
    if not found:
        raise CannotTell("no final loss in nats per token stands beside its bits per byte")
    about = next(
        (each.tokens if each.tokens is not None else each.stated for each in counts(submission)),
        None,
    )
    implied_bytes = [about * each.loss / math.log(2) / each.bpb for each in found] if about else []
    if (
        about
        and not same_text(about, OFFICIAL_TOKENS)
        and all(abs(each / OFFICIAL_BYTES - 1) < 3e-4 for each in implied_bytes)
    ):
        return passed(
            f"{about:,} tokens hold {implied_bytes[-1]:,.0f} bytes by {found[-1].where}, the"
            f" official text has {OFFICIAL_BYTES:,}"
        )
    tokens, total, pieces, whose = _known(submission, about)
    expected, faults = total / tokens, []
    for each in found:
        implied = each.loss / math.log(2) / each.bpb
        if abs(implied / expected - 1) > each.loose + 2e-4 + min(0.01, MOST_WINDOW / 8 / tokens):
            faults.append(
                f"{each.where}: {each.loss:.6g} nats and {each.bpb:.6g} bits per byte imply"
                f" {implied:.5f} bytes per token"
            )
    uniform = (
        f"{total:,} bytes / {tokens:,} tokens = {expected:.5f} ({whose}), a uniform predictor"
        f" scores {math.log2(pieces) / expected:.4f}"
    )
    if faults:
        return failed(f"{'; '.join(faults[:3])}; {uniform}")
    last = found[-1]
    implied = last.loss / math.log(2) / last.bpb
    return passed(
        f"{len(found)} pairs such as {last.loss:.6g}, {last.bpb:.6g} imply {implied:.5f} bytes per"
        f" token; {uniform}, here {math.log2(pieces) / implied:.4f}"
    )


def _known(submission: Submission, about: int | None) -> tuple[int, int, int, str]:
    """Return tokens, bytes and pieces of the text that a claim is about, and which text that is."""
    if about is not None and same_text(about, OFFICIAL_TOKENS):
        return OFFICIAL_TOKENS, OFFICIAL_BYTES, OFFICIAL_PIECES, "the official set"
    tokens, total, pieces = sizes(submission)
    if about is None or not same_text(about, tokens):
        said = (
            "no log says over how many tokens"
            if about is None
            else f"the claim is about {about:,} tokens"
        )
        raise CannotTell(f"{said}, the data given have {tokens:,}")
    return tokens, total, pieces, "the data given"


CHECKS = (
    Check(
        "rescored",
        "score",
        rescored,
        Explain(
            "The artifact is read back and scored here by the estimator that the claim names; the"
            " claim lies within the error bar: two standard errors over masks where the whole split"
            " was scored, four over sequences where time allowed a part, and the claim's rounding.",
            "Scores of live weights instead of the quantised file, of another seed's artifact, of"
            " another estimator than the one named.",
            "Score the file that ships: maskgolf eval FILE --data DIR, and claim what it prints.",
        ),
    ),
    Check(
        "tokens and bytes",
        "score",
        tokens_and_bytes,
        Explain(
            "The numbers of tokens and bytes that the log says were scored are those of the"
            " validation shards.",
            "Scores over the first few hundred windows, over windows counted twice, or over bytes"
            " of another tokenizer.",
            "Score the whole split once and print tokens and bytes beside the score.",
        ),
    ),
    Check(
        "byte accounting",
        "score",
        byte_accounting,
        Explain(
            "val_loss / log 2 / val_bpb is the number of bytes per token; it must be the text's. On"
            " the official set a uniform predictor over 1024 tokens then scores 4.1052 bits per"
            " byte.",
            "Constants of bytes per token, byte tables that count too much, and losses over part of"
            " the text beside bytes of another part.",
            "Sum nats and bytes over the same tokens, and divide once at the end.",
        ),
    ),
)
