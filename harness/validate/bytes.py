"""Checks of the bytes: what the files weigh, what JSON and logs say they weigh, the compressor that
the weight rests on.
"""

import ast
import re
from collections.abc import Iterable

from fast.artifact import LIMIT
from harness.validate.code import Source, aliases
from harness.validate.finding import CannotTell, Check, Explain, Finding, failed, judged, passed
from harness.validate.folder import MAX_README
from harness.validate.opened import model
from harness.validate.submission import Submission, number

COMPRESSORS = {
    **{
        name: name
        for name in (
            "zstandard",
            "zstd",
            "pyzstd",
            "brotli",
            "brotlicffi",
            "lz4",
            "blosc",
            "blosc2",
            "constriction",
        )
    },
    "snappy": "python-snappy",
    **dict.fromkeys(("lzma", "zlib", "bz2", "gzip", "compression"), ""),
}
MODEL_FIELDS = (
    "bytes_model",
    "bytes_model_compressed",
    "bytes_model_int8_zlib",
    "bytes_model_int6_zstd",
)
HELPERS = tuple(
    ".cpp .cc .c .cu .cuh .h .hpp .rs .so .sh .js .wasm .ptx .cubin .pyx .pyd".split()
)  # code in other languages


def code_files(submission: Submission) -> dict[str, int]:
    """Return the files that count as code: all .py of a folder of ours, elsewhere what the script
    is made of.
    """
    code = submission.code
    if code.entry is None:
        raise CannotTell("there is no Python script to weigh")
    if (
        submission.ours
    ):  # whatever the script names and is neither the artifact nor there to be read by people
        beside = {
            name: size for name, size in brought(submission).items() if name not in code.texts
        }
        return {name: submission.files[name] for name in code.texts} | beside
    return {
        name: size
        for name, size in code.reached.items()
        if name in code.texts or name.endswith(HELPERS)
    }


def brought(submission: Submission) -> dict[str, int]:
    """Return the files that the script names, less the artifact, the tokenizer, and what is there
    to be read by people.
    """
    try:
        own = submission.artifact
    except CannotTell:
        own = ""
    logs = {log.name for log in submission.logs}
    return {
        name: size
        for name, size in submission.code.reached.items()
        if name not in (own, *logs) and not PAPERS.search(name.lower())
    }


def stated(submission: Submission, *names: str) -> int | None:
    """Return the first of these JSON fields that is a whole number."""
    try:
        for name in names:
            value = number(submission.claims.get(name))
            if value is not None and value == int(value):
                return int(value)
    except CannotTell:
        pass
    return None


def log_sizes(submission: Submission, kind: str) -> list[int]:
    """Return the sizes of a kind in the logs that are of the submission (of all logs where no seed
    is known).
    """
    logs = submission.seed_logs.values() or submission.logs
    return [
        size
        for log in logs
        for name, label, size in log.sizes
        if name == kind and (kind != "serialized model" or label)
    ]


def _over(submission: Submission) -> list[str]:
    """Return every stated total that is over the limit."""
    over = [
        f"{name} {value:,}"
        for name in ("bytes_total", "artifact_bytes", "artifact_size_bytes", "artifact_bytes_max")
        if (value := stated(submission, name)) is not None and value > LIMIT
    ]
    for seed, fields in submission.seed_claims.items() if submission.seeds_claimed else ():
        over += [
            f"seed {seed} {fields[name]:,}"
            for name in ("artifact_bytes", "bytes_total")
            if (number(fields.get(name)) or 0) > LIMIT
        ]
    for log in submission.seed_logs.values() or submission.logs[:1]:
        totals = [size for name, _, size in log.sizes if name == "total submission size"]
        over += [f"{log.name} {totals[-1]:,}"] if totals and totals[-1] > LIMIT else []
    return over


def size_limit(submission: Submission) -> Finding:
    """Code and model are at most 16,000,000 bytes, from the files; without the artifact what JSON
    and logs say can only be over.
    """
    over = _over(submission)
    if over:
        return failed(f"the limit is {LIMIT:,} bytes, stated are: {', '.join(over)}")
    files = code_files(submission)
    code = sum(files.values())
    weight = f"code {code:,} ({', '.join(f'{name} {size:,}' for name, size in files.items())})"
    try:
        artifact = submission.artifact
    except CannotTell:
        return _stated_size(submission, code, weight)
    total = code + submission.files[artifact]
    found = f"{weight} + {artifact} {submission.files[artifact]:,} = {total:,} of {LIMIT:,} bytes"
    beside = {name: size for name, size in brought(submission).items() if name not in files}
    if total <= LIMIT < total + sum(beside.values()):
        raise CannotTell(
            f"{found}; the script also names"
            f" {', '.join(f'{name} {size:,}' for name, size in beside.items())}, over the limit if"
            " it needs them"
        )
    return failed(f"{found}: {total - LIMIT:,} over") if total > LIMIT else passed(found)


def _stated_size(submission: Submission, code: int, weight: str) -> Finding:
    """Judge the size where the artifact is missing: over the limit is a fail, under it nobody can
    tell.
    """
    said = stated(submission, *MODEL_FIELDS) or max(
        log_sizes(submission, "serialized model"), default=None
    )
    if said is None:
        raise CannotTell(f"the artifact is not in the folder and nothing says its size; {weight}")
    total = f"{weight} + model {said:,} as stated = {code + said:,} of {LIMIT:,} bytes"
    if code + said > LIMIT and 2 * min(log_sizes(submission, "code size"), default=code) >= code:
        return failed(f"{total}: {code + said - LIMIT:,} over")
    compressed = (
        "; the logs count the code compressed, here it lies as text" if code + said > LIMIT else ""
    )
    raise CannotTell(f"{total}; the artifact is not in the folder{compressed}")


def opens(submission: Submission) -> Finding:
    """The artifact reads back: every byte of it, as a model."""
    from fast.codec import available
    from fast.objective import objective_of

    name = submission.artifact
    codec = submission.header.get("codec")
    if isinstance(codec, str) and codec in ("entropy", "lz4") and codec not in available():
        raise CannotTell(f"{name} is packed with {codec}, which this Python has no reader for")
    try:
        recipe = model(submission).recipe
    except CannotTell as reason:
        if submission.ours:
            return failed(str(reason))
        raise
    kind = objective_of(recipe.model).name
    return passed(
        f"{name}: {submission.files[name]:,} bytes, {kind}, {recipe.model.layers} layers of width"
        f" {recipe.model.d}"
    )


def json_bytes(submission: Submission) -> Finding:
    """bytes_code, bytes_model and bytes_total are those of the files, and add up."""
    total, code = stated(submission, "bytes_total"), stated(submission, "bytes_code", "code_bytes")
    model = stated(submission, *MODEL_FIELDS)
    if (total, code, model) == (None, None, None):
        raise CannotTell(f"{submission.json_name} states no bytes")
    faults = []
    if None not in (total, code, model) and total != code + model:
        faults.append(
            f"bytes_total {total:,} is not bytes_code {code:,} + bytes_model {model:,} ="
            f" {code + model:,}"
        )
    found = []
    if code is not None:
        files = code_files(submission)
        sizes = {sum(files.values())} | (
            set() if submission.ours else {submission.files[name] for name in submission.code.texts}
        )
        found.append(f"code {sum(files.values()):,}")
        if code not in sizes:
            faults.append(
                f"bytes_code {code:,}, the files have {sum(files.values()):,} ({', '.join(files)})"
            )
    try:
        size = submission.files[submission.artifact]
        found.append(f"{submission.artifact} {size:,}")
        if model is not None and model != size:
            faults.append(f"bytes_model {model:,}, {submission.artifact} has {size:,}")
        if model is None and None not in (total, code) and total - code != size:
            faults.append(
                f"bytes_total - bytes_code {total - code:,}, {submission.artifact} has {size:,}"
            )
    except CannotTell:
        if code is None:
            said = f"bytes_model {model:,}" if total is None else f"bytes_total {total:,}"
            raise CannotTell(
                f"{said}; the artifact is not in the folder and bytes_code is not stated"
            ) from None
    shown = ", ".join(
        f"{name} {value:,}"
        for name, value in (("total", total), ("code", code), ("model", model))
        if value is not None
    )
    return judged(faults, f"stated {shown}; files: {', '.join(found)}")


def _listed(sizes: Iterable[int]) -> str:
    return ", ".join(f"{size:,}" for size in sorted(sizes)[-6:])


def log_bytes(submission: Submission) -> Finding:
    """The sizes that the logs print are those of the files and of the JSON."""
    codes, totals = (
        log_sizes(submission, "code size"),
        log_sizes(submission, "total submission size") + log_sizes(submission, "artifact_bytes"),
    )
    if not codes and not totals:
        raise CannotTell("no log prints a size in bytes")
    faults, files = [], code_files(submission)
    logs = submission.seed_logs.values() or submission.logs
    plain = {
        size
        for log in logs
        for name, label, size in log.sizes
        if name == "code size" and not re.search(r"(?<!un)compressed", label)
    }
    strange = sorted(
        plain - {sum(files.values()), *(submission.files[name] for name in submission.code.texts)}
    )
    if strange:
        faults.append(
            f"the logs print code of {_listed(strange)} bytes, {submission.code.entry} has"
            f" {files.get(submission.code.entry, 0):,}"
        )
    total = stated(submission, "bytes_total", "artifact_bytes_max")
    if total is not None and totals:
        finals = sorted(set(totals))
        allowed = {*finals, *(round(sum(group) / len(group)) for group in _groups(submission))}
        if not any(abs(total - size) <= 1 for size in allowed):
            nearest = min(finals, key=lambda size: abs(size - total))
            faults.append(
                f"the JSON's bytes_total {total:,} is in no log; the nearest is {nearest:,}"
            )
    for seed, fields in submission.seed_claims.items() if submission.seeds_claimed else ():
        log, total = submission.seed_logs.get(seed), number(fields.get("bytes_total"))
        own = (
            [size for name, _, size in log.sizes if name == "total submission size"] if log else []
        )
        if total is not None and own and all(abs(total - size) > 1 for size in own):
            faults.append(f"seed {seed}: bytes_total {total:,.0f}, {log.name} prints {own[-1]:,}")
    return judged(
        faults,
        f"code {_listed(set(codes))}; totals {_listed(set(totals))}",
    )


def _groups(submission: Submission) -> list[list[int]]:
    """Return the last total of every log, for means over seeds."""
    last = [
        [size for name, _, size in log.sizes if name == "total submission size"][-1:]
        for log in submission.logs
    ]
    flat = [size for sizes in last for size in sizes]
    return [flat] if flat else []


def _compressors(names: dict[str, str]) -> dict[str, str]:
    """Return the compressors among imported names: local name -> module."""
    modules = {local: module.partition(".")[0] for local, module in names.items()}
    return {local: module for local, module in modules.items() if module in COMPRESSORS}


def _used(source: Source, names: dict[str, str], outside: ast.AST | None = None) -> set[str]:
    """Return which of these imported modules code uses outside a node."""
    inside = {id(part) for part in ast.walk(outside)} if outside else set()
    return {
        names[part.id]
        for part in source.nodes
        if isinstance(part, ast.Name) and part.id in names and id(part) not in inside
    }


def _handlers(node: ast.Try) -> list[ast.ExceptHandler]:
    def catches(handler: ast.ExceptHandler) -> bool:
        words = ast.unparse(handler.type) if handler.type else "Exception"
        return any(word in words for word in ("ImportError", "ModuleNotFoundError", "Exception"))

    return [handler for handler in node.handlers if catches(handler)]


def fallbacks(source: Source) -> list[str]:
    """Return where a missing compressor is replaced by another one without an error."""
    found = []
    for node in source.nodes:
        if not isinstance(node, ast.Try):
            continue
        tried = _compressors(aliases(ast.walk(ast.Module(node.body, []))))
        silent = [
            handler
            for handler in _handlers(node)
            if not any(isinstance(part, ast.Raise) for part in ast.walk(handler))
        ]
        if tried and silent and _used(source, tried, node):
            found.append(
                f"{source.label}:{node.lineno}: without {next(iter(tried.values()))} it goes on"
                f" ({ast.unparse(silent[0].body[0])[:60]})"
            )
    return found


def requirements(submission: Submission) -> dict[str, str] | None:
    """Return {package: version specifier} of requirements.txt, None where there is none."""
    names = submission.find(r"requirements.*\.txt")
    if not names:
        return None
    found = {}
    for line in submission.text(names[0]).splitlines():
        line = re.split(r"\s--|\\$", line.partition("#")[0].split(";")[0])[0].strip()
        match = re.match(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*(.*)$", line)
        if match and not line.startswith("-"):
            found[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2].strip()
    return found


def elsewhere(submission: Submission) -> list[str]:
    """Return the lines of requirements.txt that ask for what lies on the author's disk, or in a
    list that is not here.
    """
    names, found = submission.find(r"requirements.*\.txt"), []
    for line in submission.text(names[0]).splitlines() if names else ():
        other = re.match(r"\s*(?:-r|-c|--requirement|--constraint)[\s=]*([^\s#]+)", line)
        if LOCAL.search(line.partition(" #")[0]) or (other and other[1] not in submission.files):
            found.append(line.strip()[:100])
    return found


def compressor(submission: Submission) -> Finding:
    """What the script compresses with is Python's own or in requirements.txt, and its absence is an
    error.
    """
    running = submission.code.running
    faults = [fault for source in running for fault in fallbacks(source)]
    used = sorted(
        {module for source in running for module in _used(source, _compressors(source.names))}
    )
    listed, told = requirements(submission), []
    for module in used:
        package = COMPRESSORS[module]
        if not package or package in (listed or {}):
            continue
        where = (
            "there is no requirements.txt" if listed is None else "it is not in requirements.txt"
        )
        (told if _named_in_readme(submission, package) else faults).append(
            f"{module} is not part of Python and {where}"
        )
    if not faults:
        submission.code.require_read()
    if not faults and (told or not used):
        raise CannotTell(
            "; ".join(told) + ", only the README installs it, without a version"
            if told
            else "the script uses no compressor that is known here"
        )
    return judged(faults, f"compressors: {', '.join(used)}; no silent replacement")


def _named_in_readme(submission: Submission, package: str) -> bool:
    names = submission.find(r"readme(\.\w+)?")
    return bool(names) and bool(
        re.search(
            rf"pip3? install[^\n]*\b{re.escape(package)}\b", submission.text(names[0])[:MAX_README]
        )
    )


def pinned(submission: Submission) -> Finding:
    """Every requirement names one version."""
    listed = requirements(submission)
    if listed is None:
        raise CannotTell("there is no requirements.txt")
    away = elsewhere(submission)
    if away:
        return failed(f"on the author's machine, or not in the folder: {'; '.join(away[:5])}")
    if not listed:
        raise CannotTell("requirements.txt names no package")
    loose = [
        f"{name}{' ' if wanted else ''}{wanted}"
        for name, wanted in listed.items()
        if not re.match(r"(===?\s*v?\d[^*\s]*$|@\s*\S+)", wanted)
    ]
    faults = [f"without one version: {', '.join(loose[:12])}"] if loose else []
    return judged(faults, ", ".join(f"{name}{wanted}" for name, wanted in listed.items()))


LOCAL = re.compile(
    r"^\s*(-e|--editable)\b|^\s*(\.{1,2}|~)?/|\bfile:|@\s*(\.{1,2}|~)?/|^\s*--find-links[\s=]*(\.|/|~)|^\s*[A-Za-z]:\\"
)
PAPERS = re.compile(
    r"\.(md|rst|log|model|vocab|png|svg|pdf)$|(^|/)(submission[^/]*\.json|requirements[^/]*\.txt|licen[cs]e[^/]*)$"
)
LIMITING = re.compile(
    r"limit|cap\b|_cap|budget|max_?(bytes|size|artifact|submission)|size_max|artifact",
    re.IGNORECASE,
)
MEBIBYTES = 16 << 20
OPERATORS = {
    ast.Mult: lambda a, b: a * b,
    ast.LShift: lambda a, b: a << b,
    ast.Pow: lambda a, b: a**b,
}


def constant(node: ast.AST) -> int | None:
    """Return the value of a small constant integer expression, None for anything else."""
    if isinstance(node, ast.Constant):
        return node.value if type(node.value) is int else None
    if not (isinstance(node, ast.BinOp) and type(node.op) in OPERATORS):
        return None
    left, right = constant(node.left), constant(node.right)
    if (
        left is None
        or right is None
        or not (
            0 <= left <= MEBIBYTES
            and 0 <= right <= (MEBIBYTES if isinstance(node.op, ast.Mult) else 24)
        )
    ):
        return None
    return OPERATORS[type(node.op)](left, right)


def decimal_limit(submission: Submission) -> Finding:
    """The code holds its size to 16,000,000 bytes, not to 16 MiB."""
    running, found = submission.code.running, []
    for source in running:
        for node in source.nodes:
            values = (
                [node.value]
                if isinstance(node, ast.Assign)
                else [node.left, *node.comparators]
                if isinstance(node, ast.Compare)
                else []
            )
            if MEBIBYTES in map(constant, values) and LIMITING.search(ast.unparse(node)):
                found.append(f"{source.label}:{node.lineno}: {ast.unparse(node)[:80]}")
    if not found:
        submission.code.require_read()
    return judged(found[:3], f"no limit of 16 MiB (16,777,216 bytes) in {len(running)} sources")


CHECKS = (
    Check(
        "size limit",
        "bytes",
        size_limit,
        Explain(
            "Code and compressed model together, weighed as they lie in the folder, are at most"
            " 16,000,000 bytes. Code is every .py of a folder that maskgolf pack wrote; elsewhere"
            " the training script and every local file that it imports, execs or names.",
            "Submissions of 16.6 million bytes, seeds of which one is over, and helper modules"
            " beside train_gpt.py that nobody had counted.",
            "Choose a smaller quantization.format or model; move what does not run out of the"
            " code.",
        ),
    ),
    Check(
        "decimal megabytes",
        "bytes",
        decimal_limit,
        Explain(
            "No limit in the code is 16 MiB, 16,777,216 bytes: the challenge's megabyte has"
            " 1,000,000 bytes.",
            "Scripts that pruned until they fitted 16 MiB and were 4.8 % too heavy.",
            "Compare with 16_000_000.",
        ),
    ),
    Check(
        "artifact opens",
        "bytes",
        opens,
        Explain(
            "The artifact reads back as a model: nothing is missing, added or changed. Of files"
            " from elsewhere that are in no layout known here, nobody can tell.",
            "Artifacts cut off by a failed upload, or altered after they had been scored.",
            "Copy the file again from the run that was scored.",
        ),
    ),
    Check(
        "JSON bytes",
        "bytes",
        json_bytes,
        Explain(
            "bytes_code is the weight of the script (or of all code), bytes_model that of the"
            " artifact, bytes_total their sum.",
            "Sizes of the script before the last edit, rounded sizes, sizes of another seed's"
            " artifact.",
            "Take the numbers from the files after the last edit; maskgolf pack does.",
        ),
    ),
    Check(
        "log bytes",
        "bytes",
        log_bytes,
        Explain(
            "The code size that the logs print is that of the script in the folder, and the JSON's"
            " bytes_total is a total that a log prints.",
            "Folders whose script is not the one that wrote the log: it had been edited, minified"
            " or tidied since.",
            "Submit the script that ran, and its logs.",
        ),
    ),
    Check(
        "compressor",
        "bytes",
        compressor,
        Explain(
            "The compressor is part of Python or listed in requirements.txt, and where it is"
            " missing the script stops rather than going on with a weaker one.",
            "try: import zstandard, except ImportError: zlib. On a machine without zstandard the"
            " artifact was over the limit, or unreadable.",
            "List the compressor in requirements.txt and import it without try.",
        ),
    ),
    Check(
        "requirements pinned",
        "bytes",
        pinned,
        Explain(
            "Every line of requirements.txt names one version (name==version), none a path, -e or"
            " another list that is not in the folder.",
            "Runs that nobody could repeat after a new release of a compressor or of torch, and"
            " wheels of the author's own disk.",
            "Write name==version, as pip freeze does.",
        ),
    ),
)
