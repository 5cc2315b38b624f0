"""Checks of the bytes: what the files weigh, what JSON and logs say they weigh, the compressor that
the weight rests on.
"""

import ast
import math
import operator
import re
from collections.abc import Iterable, Iterator

from fast.artifact import LIMIT
from fast.codec import available
from fast.objective import objective_of
from harness.validate.model import model
from harness.validate.numbers import agree, mean
from harness.validate.requirements import requirements
from harness.validate.source import NO_SCRIPT, Source, aliases
from harness.validate.submission import NO_LOG, Submission, numbers
from harness.validate.training_log import Log
from harness.validate.verdict import CannotTell, Finding, check, failed, judged, passed, require

COMPRESSORS = {  # module -> package, "" of Python's own
    **dict.fromkeys(("lzma", "zlib", "bz2", "gzip", "compression"), ""),
    **{
        name: name
        for name in "zstandard zstd pyzstd brotli brotlicffi lz4 blosc blosc2 constriction".split()
    },
    "snappy": "python-snappy",
}
MODEL_FIELDS = (
    "bytes_model",
    "bytes_model_compressed",
    "bytes_model_int8_zlib",
    "bytes_model_int6_zstd",
)
# Code in other languages
HELPERS = tuple(".cpp .cc .c .cu .cuh .h .hpp .rs .so .sh .js .wasm .ptx .cubin .pyx .pyd".split())
PAPERS = re.compile(
    r"\.(md|rst|log|model|vocab|png|svg|pdf)$|(^|/)(submission[^/]*\.json|requirements[^/]*\.txt|licen[cs]e[^/]*)$"
)
LIMITING = re.compile(
    r"limit|cap\b|_cap|budget|max_?(bytes|size|artifact|submission)|size_max|artifact",
    re.IGNORECASE,
)
MEBIBYTES = 16 << 20
OPERATORS = {  # and the most that may stand on the right
    ast.Mult: (operator.mul, MEBIBYTES),
    ast.LShift: (operator.lshift, 24),
    ast.Pow: (operator.pow, 24),
}
TOTAL, MODEL = "total submission size", "serialized model"  # in logs
LEAST_TRAINED = 1.5  # bytes per parameter of a model as it was trained: 16 or 32 bits
OVER = re.compile(r"over[-_ ]?(cap|limit|size|budget|16)", re.IGNORECASE)
TOTALS = ("bytes_total", "artifact_bytes", "artifact_size_bytes", "artifact_bytes_max")  # in JSON
ABSENCE = ("ImportError", "ModuleNotFoundError", "Exception")


def files_read(submission: Submission) -> dict[str, int]:
    """Return the files that the script names, less the artifact, the tokenizer, and what is there
    to be read by people.
    """
    left_out = [log.name for log in submission.logs]
    left_out += [submission.artifact] if submission.artifacts else []
    return {
        name: size
        for name, size in submission.code.reached.items()
        if name not in left_out and not PAPERS.search(name.lower())
    }


def code_files(submission: Submission) -> dict[str, int]:
    """Return the files that count as code: of a folder of ours all .py and whatever else the script
    brings, elsewhere what the script is made of.
    """
    code = submission.code
    if code.entry is None:
        raise CannotTell(NO_SCRIPT)
    if submission.ours:
        return {name: submission.files[name] for name in code.texts} | files_read(submission)
    return {
        name: size
        for name, size in code.reached.items()
        if name in code.texts or name.endswith(HELPERS)
    }


def whole(submission: Submission, *names: str) -> int | None:
    """Return the first of these JSON fields that is a whole number."""
    values = [submission.stated(name) for name in names]
    return next((int(value) for value in values if value is not None and value == int(value)), None)


def log_sizes(submission: Submission, *kinds: str) -> list[int]:
    """Return the sizes of some kinds in the submission's logs."""
    return [size for kind in kinds for log in submission.own_logs for size in log.sizes_of(kind)]


def _over(submission: Submission) -> list[str]:
    """Return every stated total that is over the limit."""
    rows = {f"seed {seed} ": row for seed, row in submission.seed_claims.items()}
    rows[""] = submission.claims
    sizes = {f"{of}{name}": n for name in TOTALS for of, n in numbers(rows, name).items()}
    totals = {log.name: packed_totals(submission, log) for log in weighed(submission)}
    sizes |= {name: some[-1] for name, some in totals.items() if some}
    return [f"{name} {size:,.0f}" for name, size in sizes.items() if size > LIMIT]


def weighed(submission: Submission) -> list[Log]:
    """Return the logs whose totals are the submission's: of its seeds, else the first that shows
    the score, else the first. One that is named as over the limit is none, unless it shows a score.
    """
    score = submission.stated("val_bpb", "mean_val_bpb")
    scores = {score, *submission.seed_scores.values()} - {None}
    shown = [
        log
        for log in submission.own_logs
        if any(agree(final.val_bpb, score) for final in log.finals for score in scores)
    ]
    logs = [log for log in submission.own_logs if log in shown or not OVER.search(log.name)]
    return logs if submission.seed_logs else (shown or logs)[:1]


def packed_totals(submission: Submission, log: Log) -> list[int]:
    """Return the totals that a log prints, less those of the model as it was trained, which its
    bytes per parameter give away. Where nobody states another size, that is what ships.
    """
    totals, models = ([row for row in log.sizes if row[0] == kind] for kind in (TOTAL, MODEL))
    least = LEAST_TRAINED * (log.parameters or math.inf)
    trained = [size for _, label, size in models if not label and size >= least]
    codes = [0, *log.sizes_of("code size")]
    raw = {size + code for size in trained for code in codes}
    packed = [size for _, label, size in totals if label or size not in raw]
    labelled = any(label for _, label, _ in models)
    stated = whole(submission, *TOTALS, *MODEL_FIELDS) is not None
    return packed if packed or labelled or stated else [size for *_, size in totals]


@check(
    "size limit",
    "rules",
    caught="Submissions of 16.6 million bytes, seeds of which one is over, and helper modules"
    " beside train_gpt.py that nobody had counted.",
    fix="Choose a smaller quantization.format or model; move what does not run out of the code.",
)
def size_limit(submission: Submission) -> Finding:
    """Code and compressed model together, weighed as they lie in the folder, are at most 16,000,000
    bytes. Code is every .py of a folder that maskgolf pack wrote; elsewhere the training script and
    every local file that it imports, execs or names.
    """
    over = _over(submission)
    if over:
        return failed(f"the limit is {LIMIT:,} bytes, stated are: {', '.join(over)}")
    files = code_files(submission)
    if not submission.artifacts:
        return _stated_size(submission, sum(files.values()))
    files[submission.artifact] = submission.files[submission.artifact]
    beside = {name: size for name, size in files_read(submission).items() if name not in files}
    total = sum(files.values())
    sums = f"{_shown(files)}: {total:,} of {LIMIT:,} bytes"
    if total <= LIMIT < total + sum(beside.values()):
        raise CannotTell(f"{sums}; the script also names {_shown(beside)}, over the limit with it")
    return failed(f"{sums}, {total - LIMIT:,} over") if total > LIMIT else passed(sums)


def _shown(sizes: dict[str, int | None]) -> str:
    return ", ".join(f"{name} {size:,}" for name, size in sizes.items() if size is not None)


def _stated_size(submission: Submission, code: int) -> Finding:
    """Judge the size where the artifact is missing: over the limit is a fail, under it nobody can
    tell.
    """
    packed = [
        size
        for log in submission.own_logs
        for kind, label, size in log.sizes
        if kind == MODEL and label
    ]
    model = whole(submission, *MODEL_FIELDS) or max(packed, default=0)
    over = code + model - LIMIT
    sums = f"code {code:,} + model as stated {model:,} = {code + model:,} of {LIMIT:,} bytes"
    if over <= 0:
        raise CannotTell(f"{sums}; the artifact is not in the folder")
    if 2 * min(log_sizes(submission, "code size"), default=code) < code:
        raise CannotTell(f"{sums}; the logs count the code compressed, here it lies as text")
    return failed(f"{sums}, {over:,} over")


def _constant(node: ast.AST) -> int | None:
    """Return the value of a small constant integer expression, None for anything else."""
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        operation, most = OPERATORS[type(node.op)]
        left, right = _constant(node.left), _constant(node.right)
        small = None not in (left, right) and 0 <= left <= MEBIBYTES and 0 <= right <= most
        return operation(left, right) if small else None
    value = getattr(node, "value", None)
    return value if isinstance(value, int) else None


@check(
    "decimal megabytes",
    "rules",
    caught="Scripts that pruned until they fitted 16 MiB and were 4.8 % too heavy.",
    fix="Compare with 16_000_000.",
)
def decimal_limit(submission: Submission) -> Finding:
    """No limit in the code is 16 MiB, 16,777,216 bytes: the challenge's megabyte has 1,000,000
    bytes.
    """
    limits = [
        f"{source.label}:{node.lineno}: {ast.unparse(node)[:80]}"
        for source in submission.code.running
        for node in source.of(ast.Assign, ast.Compare)
        if MEBIBYTES in map(_constant, ast.iter_child_nodes(node))
        if LIMITING.search(ast.unparse(node))
    ]
    if not limits:
        submission.code.require_read()
    return judged(limits[:3], "no limit of 16 MiB (16,777,216 bytes)")


@check(
    "artifact opens",
    "score",
    caught="Artifacts cut off by a failed upload, or altered after they had been scored.",
    fix="Copy the file again from the run that was scored.",
)
def opens(submission: Submission) -> Finding:
    """The artifact reads back as a model: nothing is missing, added or changed. Of files from
    elsewhere that are in no layout known here, nobody can tell.
    """
    name, codec = submission.artifact, submission.header.get("codec")
    if codec in ("entropy", "lz4") and codec not in available():
        raise CannotTell(f"{name} is packed with {codec}, which this Python has no reader for")
    try:
        shape = model(submission).recipe.model
    except CannotTell as reason:
        if submission.ours:
            return failed(str(reason))
        raise
    kind = f"{objective_of(shape).name}, {shape.layers} layers of width {shape.d}"
    return passed(f"{name}: {submission.files[name]:,} bytes, {kind}")


@check(
    "JSON bytes",
    "paperwork",
    caught="Sizes of the script before the last edit, rounded sizes, sizes of another seed's"
    " artifact.",
    fix="Take the numbers from the files after the last edit; maskgolf pack does.",
)
def json_bytes(submission: Submission) -> Finding:
    """bytes_code is the weight of the script (or of all code), bytes_model that of the artifact,
    bytes_total their sum.
    """
    total, code = whole(submission, "bytes_total"), whole(submission, "bytes_code", "code_bytes")
    model = whole(submission, *MODEL_FIELDS)
    shown = _shown({"bytes_total": total, "bytes_code": code, "bytes_model": model})
    if not shown:
        raise CannotTell(f"{submission.json_name} states no bytes")
    rest = None if None in (total, code) else total - code
    stated_model = rest if model is None else model
    claims = [("bytes_total - bytes_code", rest, {stated_model})]
    if code is not None:
        files = code_files(submission)
        alone = () if submission.ours else submission.code.texts
        sizes = {sum(files.values()), *(submission.files[name] for name in alone)}
        claims.append((f"bytes_code ({', '.join(files)})", code, sizes))
    elif not submission.artifacts:
        raise CannotTell(f"{shown}; bytes_code is not stated; the artifact is not in the folder")
    if submission.artifacts:
        size = submission.files[submission.artifact]
        claims.append((submission.artifact, stated_model, {size}))
    faults = [
        f"{what}: stated {stated:,}, the files have {_listed(sizes)}"
        for what, stated, sizes in claims
        if stated is not None and stated not in sizes
    ]
    return judged(faults, f"stated {shown}, as the files have")


def _listed(sizes: Iterable[int]) -> str:
    return ", ".join(f"{size:,}" for size in sorted(set(sizes))[-6:])


@check(
    "log bytes",
    "paperwork",
    caught="Folders whose script is not the one that wrote the log: it had been edited, minified or"
    " tidied since.",
    fix="Submit the script that ran, and its logs.",
)
def log_bytes(submission: Submission) -> Finding:
    """The code size that the logs print is that of the script in the folder, and the JSON's
    bytes_total is a total that a log prints.
    """
    require(submission.logs, NO_LOG)
    codes = log_sizes(submission, "code size")
    artifacts, own_logs = log_sizes(submission, "artifact_bytes"), submission.own_logs
    printed = {log.name: packed_totals(submission, log) for log in own_logs}
    totals = [size for some in printed.values() for size in some] + artifacts
    if not codes and not totals:
        raise CannotTell("no log prints a size in bytes")
    faults, files = [], code_files(submission)
    known = {sum(files.values())} | {submission.files[name] for name in submission.code.texts}
    strange = {
        size
        for log in submission.own_logs
        for kind, label, size in log.sizes
        if kind == "code size" and not re.search(r"(?<!un)compressed", label)
    } - known
    if strange:
        faults.append(f"the logs print code of {_listed(strange)} bytes, here are {_shown(files)}")
    total = whole(submission, "bytes_total", "artifact_bytes_max")
    lasts = [some[-1] for some in printed.values() if some]
    claims = [("the JSON", total, totals + [round(mean(lasts))] if lasts else totals)]
    for seed, size in numbers(submission.seed_claims, "bytes_total").items():
        log = submission.seed_logs.get(seed)
        claims.append((f"seed {seed}", size, printed[log.name] if log else []))
    faults += [
        f"{whose}: bytes_total {size:,.0f}, the log prints {_listed(sizes)}"
        for whose, size, sizes in claims
        if size is not None and sizes and all(abs(size - one) > 1 for one in sizes)
    ]
    return judged(faults, f"code {_listed(codes)}; totals {_listed(totals)}")


def _used(source: Source, names: dict[str, str], outside: ast.AST | None = None) -> set[str]:
    """Return which compressors among imported names code uses outside a node."""
    inside = set(ast.walk(outside)) if outside else set()
    used = {part.id for part in source.of(ast.Name) if part not in inside}
    return {names[name].partition(".")[0] for name in used & names.keys()} & COMPRESSORS.keys()


def fallbacks(source: Source) -> Iterator[str]:
    """Yield where a missing compressor is replaced by another one without an error."""
    for node in source.of(ast.Try):
        tried = aliases(ast.walk(ast.Module(node.body, [])))
        tried = _used(source, tried, node) if tried else ()
        for handler in node.handlers if tried else ():
            caught = ast.unparse(handler.type) if handler.type else "Exception"
            silent = not any(isinstance(part, ast.Raise) for part in ast.walk(handler))
            if silent and any(word in caught for word in ABSENCE):
                instead = ast.unparse(handler.body[0])[:60]
                where = f"{source.label}:{node.lineno}"
                yield f"{where}: without {min(tried)} it goes on ({instead})"


@check(
    "compressor",
    "paperwork",
    caught="try: import zstandard, except ImportError: zlib. On a machine without zstandard the"
    " artifact was over the limit, or unreadable.",
    fix="List the compressor in requirements.txt and import it without try.",
)
def compressor(submission: Submission) -> Finding:
    """The compressor is part of Python or listed in requirements.txt, and where it is missing the
    script stops rather than going on with a weaker one.
    """
    running, wanted = submission.code.running, requirements(submission)
    used = sorted({module for source in running for module in _used(source, source.names)})
    lack = "is not part of Python and not in requirements.txt"
    listed = ("", *wanted.pins) if wanted else ("",)
    missing = [module for module in used if COMPRESSORS[module] not in listed]
    installed = re.findall(r"pip3? install (.*)", submission.readme)
    by_hand = [m for m in missing if re.search(rf"\b{COMPRESSORS[m]}\b", " ".join(installed))]
    faults = [fault for source in running for fault in fallbacks(source)]
    faults += [f"{module} {lack}" for module in missing if module not in by_hand]
    if not faults:
        submission.code.require_read()
        if by_hand:
            names = ", ".join(by_hand)
            raise CannotTell(f"{names} {lack}, only the README installs it, without a version")
        if not used:
            raise CannotTell("the script uses no compressor that is known here")
    return judged(faults, f"compressors: {', '.join(used)}; no silent replacement")


@check(
    "requirements pinned",
    "paperwork",
    caught="Runs that nobody could repeat after a new release of a compressor or of torch, and"
    " wheels of the author's own disk.",
    fix="Write name==version, as pip freeze does.",
)
def pinned(submission: Submission) -> Finding:
    """Every line of requirements.txt names one version (name==version), none a path, -e or another
    list that is not in the folder.
    """
    wanted = requirements(submission)
    if not wanted or not (wanted.pins or wanted.elsewhere):
        raise CannotTell("there is no requirements.txt that names a package")
    faults = [f"{line}: on the author's disk or in no file here" for line in wanted.elsewhere]
    faults += [f"{line}: not one version" for line in wanted.loose]
    return judged(faults[:12], ", ".join(f"{name}{pin}" for name, pin in wanted.pins.items()))
