"""Checks of the score: measured again from the artifact, counted over the right tokens and bytes,
in the right unit, and over the seeds that it is said to be of.
"""

import ast
import hashlib
import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from fast.bytes import token_bytes
from fast.evaluate import default_effort
from fast.objective import objective_of
from harness.validate import byte_table, execution, learning, rescore
from harness.validate.byte_table import WORST
from harness.validate.checks.log import plain_number, setting, shipped, variables
from harness.validate.model import MOST_TOKENS, Text, model_and_text, once, text
from harness.validate.numbers import agree, agree_mean, deviations, mean, tolerance
from harness.validate.rates import constants, two_objectives
from harness.validate.source import Source, words
from harness.validate.submission import NO_LOG, Submission, number
from harness.validate.training_log import NUMBER, Final, Log, printed
from harness.validate.verdict import CannotTell, Finding, check, failed, judged, passed, require

# fineweb10B_sp1024's validation set
OFFICIAL_TOKENS, OFFICIAL_BYTES, OFFICIAL_PIECES = 62_021_845, 151_080_891, 1024
MOST_WINDOW = 1 << 14  # tokens that an evaluation may drop at the end of the text
OFFICIAL_NAME = re.compile(r"fineweb_1024_bpe\.model|fineweb10B_sp1024\b")  # its tokenizer
ABOUT = 4  # a count this many times off is about another text, not a wrong count
# relative, of the bytes of the official text by another tokenizer: records that cut off the last
# window of 32,768 of their 40 million tokens lose 8e-4; none has counted 3e-5 too many
MOST_CUT, MOST_ADDED = 1e-3, 3e-4
SAME_RATE = 0.01  # relative: bytes per token of two texts from one source by one tokenizer
WIDEST = 0.1  # bits per byte: an error bar beyond it decides nothing
SCORED = re.compile(r"\btokens\s*[:=]\s*(\d[\d,]*)\s+bytes\s*[:=]\s*(\d[\d,]*)")
ESTIMATOR = re.compile(r"\bestimator\s*[:=]\s*(\S+)")
STDERR = re.compile(rf"\bstderr_masks\s*[:=]\s*({NUMBER})")
# Tokens of the validation data, in the order of trust; of a batch, a chunk or a limit they are not
_OF_VALIDATION = r"(?<![a-z])(?:val|valid|validation|eval|evaluation)(?![a-z]).*?"
_NO_PART = r"(?<!batch_)(?<!batch )(?<!chunk_)(?<!chunk )(?<!max_)(?<!per_)(?<![a-z])"
STATED = (
    re.compile(r"(?:\bval_tokens|^val_loader\b.*\btokens|^val tokens)\s*[:=]\s*(\d[\d,]*)"),
    re.compile(
        rf"{_OF_VALIDATION}{_NO_PART}n?_?tokens?\s*(?:[:=]|is|are)\s*(\d[\d,]*)", re.IGNORECASE
    ),
    re.compile(rf"{_OF_VALIDATION}(?<![\d.])(\d[\d,]*)\s+(?:\w+\s+)?tokens\b", re.IGNORECASE),
)
SLID = re.compile(r"(?<![a-z])windows\s*[:=]\s*(\d[\d,]*)\b.*\bstride\s*[:=]\s*(\d+)")
# A limit of what is scored, as a setting, and in words
LIMIT_OF_TEXT = re.compile(
    r"^(?=.*(max|limit|subset|first))(?=.*(?<![a-z])(val|eval|validation)(?![a-z])).*"
    r"(seqs|sequences|windows|tokens|docs|samples|batches)$"
)
PART = re.compile(
    r"(?<![\d.])(\d[\d,]*)\s*(?:/|of|out of)\s*(\d[\d,]*)\s*(?:validation |val )?"
    r"(?:seqs|sequences|windows|tokens|docs|documents)\b",
    re.IGNORECASE,
)
ON_THE_WAY = re.compile(r"%|\bstep|train|running", re.IGNORECASE)  # no final score
LEAST_TOKENS = OFFICIAL_BYTES // 8  # of the official text; no tokenizer has 8 bytes a token
MOST_BUILDERS = 4  # of byte tables, called
# relative: people compute a deviation from rounded scores, and three of them say little about it
ROUGH = 0.1
STEP_DIGITS = 4  # after the point of a step's score
LEAST_CURVE = 5  # training losses that two runs do not have in common by chance
PLAIN = re.compile(r"[-+.\w]+")
WORDS = re.compile(r"[a-z]+")
NOT_RECIPE = re.compile(
    r"seed|run_?id|path$|(^|_)dirs?$|files?$|^log$|_log$|time|^date$|^host|^port$|^pid$|uuid|gpu|device|memory|^reserved$|^effective$"
    r"|mib$|^(local_)?rank$|^steps?$|_step$(?<!per_step)|step_avg|loss$|bpb|url|commit|size$(?<!batch_size)(?<!vocab_size)|bytes$|version"
    r"|elapsed|duration|degradation|(^|_)name$|^experiment|^(run|tag|label|title|id|notes?)$|^artifacts?$|log_every|print_every"
)
# The seed within a value that says it
SEEDED = "(seed[-_]?|(?<![a-z0-9])s){}(?![0-9])[-_]?"
# A value that a run measures: a time, memory
MEASURED = re.compile(r"[-+]?[\d.]+(ms|s|sec|min|m|h|MB|MiB|GB|GiB|%)")


class Counts(NamedTuple):
    """Tokens and bytes as a log or the JSON states them: where, how many tokens the data have, how
    many tokens and bytes were scored.
    """

    where: str
    stated: int | None
    tokens: int | None
    bytes: int | None

    @property
    def about(self) -> int:
        """Tokens of the text that this is about."""
        return self.stated if self.tokens is None else self.tokens


class Pair(NamedTuple):
    """A loss in nats per token and the bits per byte it was turned into, as printed."""

    where: str
    loss: float
    bpb: float
    bytes_per_token: float  # that their quotient implies
    loose: float  # relative error that rounding leaves in it
    log: str = ""  # that prints them, "" for the JSON


@check(
    "scores itself",
    "score",
    caught="Evaluators that drop text, count bytes twice or divide by something else.",
    fix="Ship the evaluator that maskgolf pack writes, unchanged.",
)
def scores_itself(submission: Submission) -> Finding:
    """With --run: the submission's own code, on a part of the validation text, gives the score,
    tokens and bytes that ours gives.
    """
    theirs = execution.score_of(submission, execution.scored(submission))
    opened, given = model_and_text(submission)
    recipe = opened.recipe
    windows = -(-len(execution.scored_ids(submission)) // recipe.model.length)
    progress = submission.options.progress
    measured = rescore.measure(opened, given, default_effort(recipe), math.inf, windows, progress)
    ours, limit = measured.score, rescore.allowed(measured, theirs.bpb, theirs.stderr)
    same_counts = (theirs.tokens, theirs.bytes) == (ours.tokens, ours.bytes)
    return judged(
        [
            not same_counts
            and f"it counts {theirs.tokens:,} tokens and {theirs.bytes:,} bytes where there are"
            f" {ours.tokens:,} and {ours.bytes:,}",
            not abs(theirs.bpb - ours.bpb) <= limit
            and f"it scores {theirs.bpb:.6f} where {ours.bpb:.6f} ± {limit:.6f} is right",
        ],
        f"{theirs.bpb:.6f} by its code, {ours.bpb:.6f} by ours, on {theirs.tokens:,} tokens and"
        f" {theirs.bytes:,} bytes",
    )


def _first(pattern: re.Pattern, lines: Iterable[str]) -> re.Match | None:
    """Return the match of a pattern in the first line that has one."""
    return next((match for line in lines if (match := pattern.search(line))), None)


def claimed(submission: Submission, seed: int) -> tuple[float, float | None, str]:
    """Return bits per byte, their standard error over masks and the estimator that a submission
    claims of the artifact in the folder: its seed's in seed_results, else the only ones.
    """
    seeds = submission.seed_claims
    known = str(seed) in seeds or len(seeds) < 2
    require(known, f"the artifact is of seed {seed}, the JSON has results of {', '.join(seeds)}")
    bpb = submission.seed_scores.get(str(seed))
    bpb = submission.claim("val_bpb", "mean_val_bpb") if bpb is None else bpb
    logs = [log for log in submission.logs if log.seed == str(seed) or len(submission.logs) == 1]
    lines = logs[0].body[::-1] if logs else []
    stderr, logged = _first(STDERR, lines), _first(ESTIMATOR, lines)
    error, estimator = stderr and printed(STDERR, stderr[0]), logged[1] if logged else ""
    stated = submission.claims.get("val_bpb_estimator")
    return bpb, error, stated if isinstance(stated, str) else estimator


@check(
    "rescored",
    "score",
    caught="Scores of live weights instead of the quantised file, of another seed's artifact, of"
    " another estimator than the one named.",
    fix="Score the file that ships: maskgolf eval FILE --data DIR, and claim what it prints.",
)
def rescored(submission: Submission) -> Finding:
    """The artifact is read back and scored here by the estimator that the claim names; the claim
    lies within the error bar: two standard errors over masks where the whole split was scored, four
    over sequences where time allowed a part, and the claim's rounding.
    """
    opened, given = model_and_text(submission)
    recipe, ours, theirs = opened.recipe, opened.tokenizer_sha256, given.tokenizer.sha256
    if ours and ours != theirs:
        return failed(
            f"the artifact was trained with the tokenizer of SHA-256 {ours[:12]}..., the one given"
            f" is {theirs[:12]}..."
        )
    stated = submission.stated("artifact_seed")
    if stated not in (None, recipe.seed):
        return failed(
            f"the JSON says that the artifact is of seed {stated:.0f}, the artifact says seed"
            f" {recipe.seed}"
        )
    bpb, stderr, estimator = claimed(submission, recipe.seed)
    estimators = objective_of(recipe.model).estimators
    effort = rescore.effort_of(estimator, estimators, recipe.diffusion.epsilon)
    require(effort, f"the claim names the estimator {estimator!r}, which is none of ours")
    options = submission.options
    measured = rescore.measure(
        opened, given, effort, options.time_limit / 4, progress=options.progress
    )
    score, limit = measured.score, rescore.allowed(measured, bpb, stderr)
    apart = abs(score.bpb - bpb)
    evidence = (
        f"claimed {bpb:.8g}, scored {score.bpb:.6f} by {score.estimator} on"
        f" {measured.windows:,} of {measured.of:,} windows, {score.tokens:,} tokens: {apart:.6f}"
        f" apart, {limit:.6f} allowed"
    )
    if apart <= limit:
        require(limit <= WIDEST, f"{evidence}; that is too wide to decide anything")
        return passed(evidence)
    named = submission.ours or estimator
    require(named, f"{evidence}; the claim does not name its estimator")
    return failed(evidence)


def _stated_tokens(log: Log) -> int | None:
    """Return the tokens of the validation data as a log states them, or the windows of a sliding
    evaluation times its stride.
    """
    for pattern in STATED:
        if match := _first(pattern, log.body):
            return int(match[1].replace(",", ""))
    slid = _first(SLID, log.body)
    return int(slid[1].replace(",", "")) * int(slid[2]) if slid else None


def counts(submission: Submission) -> list[Counts]:
    """Return what the JSON and each log state."""
    claims = [submission.stated(f"validation_{what}") for what in ("tokens", "bytes")]
    rows = [Counts("the JSON", None, *(None if size is None else int(size) for size in claims))]
    for log in submission.logs:
        scored = _first(SCORED, log.body[::-1])
        texts = scored.groups() if scored else (None, None)
        sizes = [size and int(size.replace(",", "")) for size in texts]
        rows.append(Counts(log.name, _stated_tokens(log), *sizes))
    return [row for row in rows if row.about is not None]


@once
def sizes(submission: Submission) -> tuple[int, int, int]:
    """Return (tokens, bytes, pieces) of the validation text that was given."""
    given, total, before = text(submission), 0, np.array([-1])
    count, pieces = len(given.validation), given.tokenizer.vocab
    most = f"{count:,} tokens, more than the {MOST_TOKENS:,} that are counted"
    require(count <= MOST_TOKENS, f"the validation text has {most}")
    for start in range(0, count, 1 << 22):
        ids = given.validation.read(start, min(start + (1 << 22), count)).astype(np.int64)
        largest = f"id {ids.max()}, the tokenizer given has {pieces} pieces"
        require(ids.max() < pieces, f"the validation text holds {largest}")
        previous = np.concatenate([before, ids[:-1]])
        total += int(token_bytes(ids, previous, given.tokenizer.table).sum())
        before = ids[-1:]
    return count, total, pieces


def same_text(tokens: int, whole_text: int) -> bool:
    """Return whether a count is that of a whole text, less what an evaluation drops: its first
    token, and the last window.
    """
    return tokens == whole_text or 0 < whole_text - tokens <= min(MOST_WINDOW, whole_text // 100)


def _all_scored(tokens: int, whole_text: int) -> bool:
    """Return whether so many tokens were scored of a text: windows of two ranks may overlap."""
    return same_text(tokens, whole_text) or 0 < tokens - whole_text <= MOST_ADDED * whole_text


def _tokens_of(name: str, count: float, submission: Submission, log: Log) -> float | None:
    """Return how many tokens a limit of so many sequences, windows or tokens stands for."""
    if name.endswith("tokens"):
        return count
    length = setting(submission, log, "eval_seq_len", "train_seq_len", "seq_len")
    return count * length if length and not name.endswith("batches") else None


def parts(submission: Submission) -> tuple[list[str], list[str]]:
    """Return where a log, a variable of the environment or its default limits what is scored to a
    part of the text, and where a limit may do so.
    """
    faults, unsure = [], []
    logs, known = submission.own_logs, variables(submission)
    limits = {name: (value, "as the folder says") for name, value in known.items()}
    for source in submission.code.running:
        for call, name in source.calls:
            given = [part.value for part in call.args if isinstance(part, ast.Constant)]
            if name in ("os.environ.get", "os.getenv") and len(given) == 2:
                where = f"by default, {source.label}:{call.lineno}"
                limits.setdefault(str(given[0]).lower(), (given[1], where))
        unsure += [f"{source.label}:{line}" for line in _cut(source)]
    for name, (value, where) in limits.items():
        if not LIMIT_OF_TEXT.search(name):
            continue
        if value is None:
            unsure.append(f"nothing shows {name.upper()}")
        count = plain_number(value) or 0.0
        if count <= 0:
            continue
        tokens = _tokens_of(name, count, submission, logs[0] if logs else Log(""))
        if tokens is None:
            unsure.append(f"the script scores at most {count:,.0f} ({name}, {where})")
        elif tokens < LEAST_TOKENS:
            faults.append(f"at most {tokens:,.0f} tokens are scored ({name} {count:,.0f}, {where})")
    for log in logs:
        for line in log.body:
            some = PART.search(line)
            if some and not ON_THE_WAY.search(line):
                few, all_ = (int(part.replace(",", "")) for part in some.groups())
                if few < all_ - max(1, all_ * MOST_CUT):
                    faults.append(f"{log.name}: {line.strip()[:80]}")
    return faults, unsure


def _cut(source: Source) -> Iterator[str]:
    """Yield the lines where a script takes the beginning of the validation text."""
    for node in source.of(ast.Subscript, ast.Call):
        match node:
            case ast.Subscript(slice=ast.Slice(lower=None, upper=ast.Constant(value=int(most)))):
                taken, some = most > 1, node.value
            case ast.Call(func=ast.Name(id="min"), args=[first, second]):
                number = [part.value for part in (first, second) if isinstance(part, ast.Constant)]
                taken, some = bool(number) and number[0] != 1, node
            case _:
                continue
        sized = not isinstance(node, ast.Call) or words(node) & {"numel", "len", "shape", "size"}
        if taken and sized and any(map(learning.TEXT.search, words(some))):
            yield f"{node.lineno}: {ast.unparse(node)[:60]} may be what is scored"


@check(
    "tokens and bytes",
    "score",
    caught="Scores over the first few hundred windows, over windows counted twice, or over bytes of"
    " another tokenizer.",
    fix="Score the whole split once and print tokens and bytes beside the score.",
)
def tokens_and_bytes(submission: Submission) -> Finding:
    """The numbers of tokens and bytes that the log says were scored are those of the validation
    shards, and no limit in the log or in the script leaves a part of them out.
    """
    rows = counts(submission)
    few, unsure = parts(submission)
    if few:
        return failed("; ".join(few[:WORST]))
    scored = any(row.tokens is not None for row in rows)
    unsure = [] if scored else unsure[:WORST]
    require(rows or not unsure, "; ".join(unsure))
    require(rows, "neither JSON nor log says how many tokens were scored")
    faults = [
        f"{row.where}: the data have {row.stated:,} tokens, {row.tokens:,} were scored"
        for row in rows
        if None not in (row.stated, row.tokens) and not _all_scored(row.tokens, row.stated)
    ]
    if faults:
        return failed("; ".join(faults))
    texts = {"the official set has": (OFFICIAL_TOKENS, OFFICIAL_BYTES)}
    if not all(same_text(row.about, OFFICIAL_TOKENS) for row in rows):
        texts = {"the data given have": sizes(submission)[:2], **texts}
    whose, (whole_text, total) = next(iter(texts.items()))
    for row in rows:
        same = [size for size in texts.values() if same_text(row.about, size[0])]
        if not same:
            fault = f"{row.where}: {row.about:,} tokens, {whose} {whole_text:,}"
            fewer, more = sorted((row.about, whole_text))
            require(more <= ABOUT * fewer, f"{fault}; they are about different texts")
            faults.append(fault)
        elif row.about == same[0][0] and row.bytes not in (None, same[0][1]):
            faults.append(
                f"{row.where}: {row.bytes:,} bytes for {row.about:,} tokens that hold"
                f" {same[0][1]:,}"
            )
    first = rows[0]
    said = f"{first.about:,} tokens{'' if first.bytes is None else f' and {first.bytes:,} bytes'}"
    return judged(
        faults,
        f"{said} in {len(rows)} places; {whose} {whole_text:,} tokens and {total:,} bytes",
        unsure,
    )


def _last_validation(log: Log) -> list[Final]:
    """Return the last step's score, for a log that prints none after its steps."""
    scored = [point for point in log.points if None not in (point.val_loss, point.val_bpb)]
    return [
        Final(f"step {point.step}", point.val_loss, point.val_bpb, STEP_DIGITS, None)
        for point in scored[-1:]
    ]


def pairs(submission: Submission) -> Iterator[Pair]:
    """Yield the final losses that stand beside their bits per byte, in the JSON and the logs."""
    rows = {"the JSON": submission.claims}
    rows |= {f"seed {seed}": row for seed, row in submission.seed_claims.items()}
    stated = [
        (where, number(row.get("val_loss")), number(row.get("val_bpb")), None, "")
        for where, row in rows.items()
    ]
    stated += [
        (f"{log.name} {final.label}", final.val_loss, final.val_bpb, final.digits, log.name)
        for log in submission.logs
        for final in log.finals or _last_validation(log)
    ]
    for where, loss, bpb, places, log in stated:
        unit = 0.0 if places is None else 0.5 * 10.0**-places
        if loss is not None and bpb is not None and 0 < loss < 100 and 0 < bpb < 100:
            unit_of_loss = max(rescore.rounding(loss), unit)
            loose = unit_of_loss / loss + (unit or rescore.rounding(bpb)) / bpb
            yield Pair(where, loss, bpb, loss / math.log(2) / bpb, loose, log)


def _given(submission: Submission) -> tuple[int, int, int] | None:
    """Return tokens, bytes and pieces of the data given, None where there are none."""
    try:
        return sizes(submission)
    except CannotTell:
        return None


def _by_text(pair: Pair, tokens: int, total: int, pieces: int, whose: str) -> Finding:
    """Compare a pair with the bytes per token of a text that is known."""
    expected, slack = total / tokens, 2e-4 + min(0.01, MOST_WINDOW / 8 / tokens)
    uniform = (
        f"{total:,} bytes / {tokens:,} tokens = {expected:.5f} ({whose}), a uniform predictor"
        f" scores {math.log2(pieces) / expected:.4f}"
    )
    if abs(pair.bytes_per_token / expected - 1) > pair.loose + slack:
        return failed(
            f"{pair.where}: {pair.loss:.6g} nats and {pair.bpb:.6g} bits per byte imply"
            f" {pair.bytes_per_token:.5f} bytes per token; {uniform}"
        )
    return passed(
        f"{pair.loss:.6g} nats and {pair.bpb:.6g} bits per byte imply {pair.bytes_per_token:.5f}"
        f" bytes per token; {uniform}, here {math.log2(pieces) / pair.bytes_per_token:.4f}"
    )


def _by_total(pair: Pair, tokens: int, named: bool, here: str) -> Finding:
    """Compare the bytes that this many tokens make with the official text, which another tokenizer
    may have read. named: the official tokenizer is named.
    """
    total, text = tokens * pair.bytes_per_token, OFFICIAL_BYTES / OFFICIAL_TOKENS
    more = total / OFFICIAL_BYTES - 1
    if -MOST_CUT - pair.loose <= more <= MOST_ADDED + pair.loose:
        return passed(
            f"{tokens:,} tokens hold {total:,.0f} bytes by {pair.where}, the official text has"
            f" {OFFICIAL_BYTES:,}"
        )
    sums = (
        f"{pair.where}: {tokens:,} tokens of {pair.bytes_per_token:.5f} bytes are"
        f" {total / 1e6:.1f} MB of text where the official split has {OFFICIAL_BYTES / 1e6:.1f}"
        f" ({100 * more:+.2g} %)"
    )
    alike = named and abs(pair.bytes_per_token / text - 1) < SAME_RATE
    require(not alike, f"{sums}, at its bytes per token: another validation text")
    near = 1 / ABOUT <= 1 + more <= ABOUT
    require(near, f"the claim is about {tokens:,} tokens, {here}")
    return failed(sums)


def _accounted(submission: Submission, pair: Pair, about: int | None, named: bool) -> Finding:
    """Return whether a loss and its bits per byte are over as many bytes as the text has."""
    official = (OFFICIAL_TOKENS, OFFICIAL_BYTES, OFFICIAL_PIECES, "the official set")
    if about is not None and same_text(about, OFFICIAL_TOKENS):
        return _by_text(pair, *official)
    if about is None and named:
        return _by_text(pair, *official[:3], "the official set, whose tokenizer the log names")
    given = _given(submission)
    here = f"the data given have {given[0]:,}" if given else "the official set has 62,021,845"
    tokens = round(OFFICIAL_BYTES / pair.bytes_per_token)
    require(
        about is not None,
        f"no log says over how many tokens, {here}; {pair.bytes_per_token:.5f} bytes per token"
        f" would make the official text {tokens:,}",
    )
    if given and same_text(about, given[0]):
        return _by_text(pair, *given, "the data given")
    return _by_total(pair, about, named, here)


def two_sums(submission: Submission) -> str | None:
    """Return where the code that runs makes its loss and its bits per byte of different sums, so
    that their quotient says nothing; None where any of it makes both of the same.
    """
    parsed = [source for source in submission.code.running if source.tree]
    made = {source.label: two_objectives(source.tree) for source in parsed}
    places = [f"{label}:{line}" for label, (lines, _) in made.items() for line in lines]
    same = any(same for _, same in made.values())
    return None if same or not places else f"{places[0]}: each is made of sums of its own"


@check(
    "byte accounting",
    "score",
    caught="Constants of bytes per token, losses over part of the text beside bytes of another,"
    " and byte tables of a tokenizer of the author's own: 157.3 MB and 182.8 MB of text where the"
    " split has 151.1 MB, scores 4 % and 21 % too good.",
    fix="Sum nats and bytes over the same tokens, and divide once at the end; compare the sum of"
    " bytes with the length of the decoded text.",
)
def byte_accounting(submission: Submission) -> Finding:
    """val_loss / log 2 / val_bpb is the number of bytes per token; it must be the text's. Times the
    tokens that the log states it is the length of the text, by any tokenizer 151,080,891 bytes.
    A uniform predictor over 1024 tokens then scores 4.1052 bits per byte.
    """
    rows = [pair for pair in pairs(submission) if pair.loose < 2e-3]
    require(rows, "no final loss in nats per token stands beside its bits per byte")
    known = {row.where: row.about for row in counts(submission)}
    first = next(iter(known.values()), None)
    named = {log.name for log in submission.logs if _first(OFFICIAL_NAME, log.body)}
    counted = [pair for pair in rows if pair.log in known]
    said, open_ = {"pass": [], "fail": []}, []
    for pair in rows:
        about, log = known.get(pair.log), pair.log
        # the JSON, or a log that states no tokens, is of the log whose tokens are as long
        if about is None and counted:
            nearest = min(counted, key=lambda row: abs(row.bytes_per_token - pair.bytes_per_token))
            apart = abs(nearest.bytes_per_token / pair.bytes_per_token - 1)
            if not log or (log not in named and apart < SAME_RATE):
                about, log = known[nearest.log], nearest.log
        elif not log:
            about = known.get("the JSON", first)
        try:
            finding = _accounted(submission, pair, about, log in named)
            said[finding.verdict].append(finding.evidence)
        except CannotTell as reason:
            open_.append(str(reason))
    apart = two_sums(submission) if said["fail"] else None
    require(not apart, f"the loss is of another objective than the score, {apart}")
    if said["fail"]:
        return failed("; ".join(said["fail"][:3]))
    require(not open_, "; ".join(dict.fromkeys(open_[:3])))
    return passed(f"{len(rows)} pairs, such as: {said['pass'][-1]}")


@check(
    "bytes per token",
    "score",
    caught="A masked-diffusion submission that divided by 4.3 bytes per token where the data have"
    " 2.44: 1.1465 for what is about 2.02.",
    fix="Divide the total of bits by the total of UTF-8 bytes of the scored tokens.",
)
def bytes_per_token(submission: Submission) -> Finding:
    """Where the code computes bits per byte, no constant stands in for bytes per token: bytes are
    counted from the tokens scored.
    """
    sources = submission.code.required
    unread = [f"{source.label}: {source.error}" for source in sources if source.tree is None]
    unread += submission.code.unread
    rates = [(source.label, constants(source.tree)) for source in sources if source.tree]
    faults = [f"{label}: {place}" for label, (fixed, _, _) in rates for place in fixed]
    uncounted = [f"{label}: {place}" for label, (_, plain, _) in rates for place in plain]
    counted = sum(count for _, (_, _, count) in rates)
    if faults:
        return failed(f"a constant where bytes should be counted: {', '.join(faults[:WORST])}")
    require(not unread, f"not all code could be read: {', '.join(unread[:WORST])}")
    require(
        not uncounted,
        "bits per token under the name of bits per byte, right for a byte-level model only:"
        f" {', '.join(uncounted[:WORST])}",
    )
    require(counted, "no expression was found that computes bits per byte")
    return passed(f"bits per byte are computed from counted bytes in {counted} places")


def fitting(submission: Submission) -> Text:
    """Return the text given; CannotTell where the submission's vocabulary is another than its
    tokenizer's.
    """
    given, logs = text(submission), submission.logs or (Log(""),)
    named = {setting(submission, log, "vocab_size") for log in logs} - {None}
    require(
        not named or given.tokenizer.vocab in named,
        f"the submission's vocabulary is {', '.join(f'{size:,.0f}' for size in sorted(named))},"
        f" the tokenizer given has {given.tokenizer.vocab:,} pieces",
    )
    return given


@check(
    "script's byte table",
    "score",
    caught="A table that counted the space mark in the bytes of a piece and again as a leading"
    " space, 17 % too many bytes; one that looked for another character than the space mark, which"
    " then counted as three bytes, 33 % too many.",
    fix="Build the table as the challenge's own script does: 1 for a byte piece, 0 for control"
    " tokens, no space after a boundary.",
)
def script_table(submission: Submission) -> Finding:
    """With --run, --data and --tokenizer: the script's own build_sentencepiece_luts is called
    alone, in the sandbox, and the bytes that its tables give (bytes[token] + (space[token] and
    not boundary[previous])) add up to the UTF-8 length of decoded documents.
    """
    execution.allowed(submission)
    given, sources = fitting(submission), submission.code.required
    builders = byte_table.builders(sources)
    unread = "".join(f"; not all code could be read: {why}" for why in submission.code.unseen[:1])
    require(builders, f"no {byte_table.LUTS[0]} is called in the code that runs{unread}")
    ways = len(builders)
    require(ways <= MOST_BUILDERS, f"the code that runs builds byte tables in {ways} ways")
    said, reasons = {"pass": [], "fail": []}, []
    for builder in builders:
        try:
            tables = byte_table.call(submission, builder, given)
            finding = byte_table.judge(str(builder), tables, given)
            said[finding.verdict].append(finding.evidence)
        except CannotTell as reason:
            reasons.append(str(reason))
    if said["fail"]:
        return failed("; ".join(said["fail"]))
    require(not reasons, "; ".join(reasons))
    submission.code.require_read()
    good, others = "; ".join(said["pass"]), byte_table.other_ways(sources, builders)
    names = ", ".join(others[:WORST])
    require(not others, f"{good}; but {names} may make the tables that count")
    return passed(good)


@check(
    "mean over seeds",
    "score",
    caught="The best seed given as the mean, a bad seed left out, and deviations of another table.",
    fix="Recompute from seed_results, as maskgolf pack does.",
)
def mean_and_deviation(submission: Submission) -> Finding:
    """val_bpb is the mean of seed_results, val_bpb_std their standard deviation (over n - 1 or n),
    and seeds names them. In a folder of ours every log that has a score is of one of them.
    """
    values = list(submission.seed_scores.values())
    require(values, "the JSON has no scores by seed")
    claim, std = submission.claim("val_bpb", "mean_val_bpb"), submission.stated("val_bpb_std")
    center, (sample, population) = mean(values), deviations(values)
    listed, seeds = submission.claims.get("seeds"), submission.seed_claims
    scored = {log.seed for log in submission.logs if log.seed and shipped(log)}
    left_out = ", ".join(sorted(scored - set(seeds)))
    faults = [
        not agree_mean(claim, values)
        and f"val_bpb {claim:.8g}, the mean over {len(values)} seeds is {center:.8g}",
        std is not None
        and len(values) > 1
        and min(abs(std - sample), abs(std - population)) > max(tolerance(std), ROUGH * sample)
        and f"val_bpb_std {std:.6g}, recomputed {sample:.6g} (n - 1) or {population:.6g} (n)",
        isinstance(listed, list)
        and sorted(map(str, listed)) != sorted(seeds)
        and f"seeds {', '.join(map(str, listed))}, results of {', '.join(seeds)}",
        submission.ours  # elsewhere a log may be of another experiment
        and left_out
        and f"the logs have scores of seed {left_out} too, which the mean leaves out",
    ]
    spread = f", deviation {sample:.6g}" if len(values) > 1 else ""
    stated = f"{claim:.8g}" + (f" and {std:.6g}" if std is not None else "")
    return judged(faults, f"{len(values)} seeds: mean {center:.8g}{spread}; stated {stated}")


def _wrong_logs(submission: Submission) -> list[str]:
    """Return where a log has two scores of one name, or the training losses of another log."""
    faults, curves = [], {}
    for log in submission.seed_logs.values():
        named: dict[str, float] = {}
        # elsewhere one name may stand for scores on the way
        for final in shipped(log) if submission.ours else ():
            first = named.setdefault(re.sub(r"_exact\b", "", final.label), final.val_bpb)
            if not agree(first, final.val_bpb):
                faults.append(
                    f"{log.name} prints two scores as {final.label}, {first:.8g} and"
                    f" {final.val_bpb:.8g}"
                )
        steps = [point for point in log.points if point.train_loss is not None]
        curve = tuple((point.step, point.train_loss) for point in steps)
        twin = curves.setdefault(curve, log)
        if twin is not log and len(curve) >= LEAST_CURVE:
            faults.append(
                f"{log.name} has the {len(curve)} training losses of {twin.name}: two seeds never"
                " do"
            )
    return faults


@check(
    "seeds in logs",
    "score",
    caught="Tables with two seeds exchanged, and seeds that were never run: one run's log under"
    " another seed.",
    fix="Submit train_seedN.log of every seed in seed_results.",
)
def seeds_in_logs(submission: Submission) -> Finding:
    """Each seed's val_bpb and val_loss are final scores in the log of that seed, and no two logs
    have the same training losses.
    """
    scores, logs = submission.seed_scores, submission.seed_logs
    require(scores, "the JSON has no scores by seed")
    require(submission.logs, NO_LOG)
    require(logs, "no log says which seed it is of")
    finals = {seed: shipped(log) for seed, log in logs.items()}
    missing, faults = [seed for seed in scores if not finals.get(seed)], []
    for seed, row in submission.seed_claims.items():
        for name in ("val_bpb", "val_loss"):
            claim = number(row.get(name))
            values = [value for final in finals.get(seed, ()) if (value := getattr(final, name))]
            if claim is not None and values and not any(agree(value, claim) for value in values):
                nearest = min(values, key=lambda value: abs(value - claim))
                faults.append(
                    f"seed {seed}: the JSON's {name} is {claim:.8g}, {logs[seed].name} has"
                    f" {nearest:.8g}"
                )
    faults += _wrong_logs(submission)
    agreeing = f"{len(scores) - len(missing)} of {len(scores)} seeds agree with their logs"
    unlogged = f"no log of seed {', '.join(missing)} has a final score; {agreeing}"
    require(faults or not missing, unlogged)
    return judged(faults, agreeing)


def recipe(log: Log) -> dict[str, str]:
    """Return the settings that a log prints, without what differs between runs of one recipe."""
    own = re.compile(SEEDED.format(log.seed), re.IGNORECASE)
    return {
        name: own.sub("", value)
        for name, value in log.settings.items()
        if name not in log.varying
        and value != log.seed
        and not NOT_RECIPE.search(name)
        and PLAIN.fullmatch(value)
        and not MEASURED.fullmatch(value)
    }


def unclaimed(submission: Submission) -> set[str]:
    """Return the words by which the logs call scores that they print after the claimed ones: their
    settings are of no claim. None where a log does not show its seed's score.
    """
    before, after = set(), set()
    for seed, log in submission.seed_logs.items():
        claim, finals = submission.seed_scores.get(seed), [*log.finals]
        shown = [claim is not None and agree(final.val_bpb, claim) for final in finals]
        if not any(shown):
            return set()
        last = len(shown) - shown[::-1].index(True)
        before |= {word for final in finals[:last] for word in WORDS.findall(final.label.lower())}
        after |= {word for final in finals[last:] for word in WORDS.findall(final.label.lower())}
    return after - before


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


@check(
    "one configuration",
    "score",
    caught="Three seeds of which one ran with another learning rate or an older script: their mean"
    " is of no recipe.",
    fix="Repeat the odd seed with the configuration of the others.",
)
def one_configuration(submission: Submission) -> Finding:
    """The logs of all seeds print the same settings, the same code (where they print it) and the
    same number of steps. Settings of an evaluation after the claimed score do not count.
    """
    logs = submission.seed_logs
    require(submission.logs, NO_LOG)
    require(logs, "no log says which seed it is of")
    if len(logs) == 1:
        return passed(f"one seed, {next(iter(logs))}")
    recipes = {seed: recipe(log) for seed, log in logs.items()}
    common = sorted(set.intersection(*map(set, recipes.values())))
    codes = {
        seed: _digest([line.rstrip() for line in log.code])
        for seed, log in logs.items()
        if log.code
    }
    later = unclaimed(submission)
    common = [name for name in common if name.partition("_")[0] not in later]
    printed = {name: {seed: held[name] for seed, held in recipes.items()} for name in common}
    printed["code printed"] = codes
    printed["steps"] = {seed: log.total_steps for seed, log in logs.items() if log.total_steps}
    faults = [
        f"{name}: {', '.join(f'{value} (seed {seed})' for seed, value in [*values.items()][:4])}"
        for name, values in printed.items()
        if len(set(values.values())) > 1
    ]
    require(
        submission.seed_claims or not faults,
        f"the JSON does not say which logs are its seeds; they differ: {'; '.join(faults[:3])}",
    )
    require(common or codes or faults, "the logs print neither settings nor code")
    first = next(iter(recipes.values()))
    settings = _digest([f"{name}={first[name]}" for name in common])
    same_code = f", code {next(iter(codes.values()))}" if codes else ""
    return judged(
        faults[:5],
        f"seeds {', '.join(logs)}: {len(common)} settings alike (SHA-256 {settings}...){same_code}",
    )
