"""Checks of the folder itself: its files, its name, its JSON, what its README promises."""

import re
from datetime import date
from pathlib import PurePosixPath

from harness.validate.numbers import agree, numbers_in
from harness.validate.submission import README, TRACKS, Submission, number
from harness.validate.verdict import CannotTell, Finding, check, failed, judged, passed

PLACEHOLDER = re.compile(
    r"\b(todo|tbd|fixme|xxx+|lorem ipsum|changeme|placeholder)\b|your[ _-]?(full["
    r" _-]?)?(name|github|handle|id|username)|<[a-z _-]{2,30}>"
    r"|^(name|author|github_id|yyyy-mm-dd)$",
    re.IGNORECASE,
)
DAYS = 31  # a folder may be named days before or after the run that its JSON dates
TEXTS = (
    "author github_id name date blurb track hardware pytorch_version technique_summary"
    " val_bpb_estimator"
).split()
WHOLE = "bytes_total bytes_code bytes_model train_steps".split()
SCORES = ("val_bpb", "val_loss")
NULLABLE = ("val_bpb_std",)  # of one seed there is none
NUMBERS = (*SCORES, *NULLABLE, *WHOLE, "wallclock_seconds")


def _unread_json(submission: Submission) -> list[str]:
    """Return why the JSON cannot be read, [] where it can be."""
    try:
        _ = submission.json
    except CannotTell as reason:
        return [str(reason)]
    return []


@check(
    "required files",
    "score",
    caught="Submissions whose script was committed as an empty file, that came without a log, or as"
    " a log alone.",
    fix="Add the missing file; maskgolf pack writes all of them.",
)
def files(submission: Submission) -> Finding:
    """The folder holds what a score is proven by: a submission.json that reads, train_gpt.py and at
    least one training log, none of them empty.
    """
    script = submission.code.entry
    wanted = {
        "submission.json": submission.jsons,
        "train_gpt.py": script is not None,
        "a training log with steps or scores (train_seedN.log)": submission.logs,
    }
    faults = [f"missing: {name}" for name, there in wanted.items() if not there]
    faults += [f"{script} is empty"] if submission.files.get(script) == 0 else []
    faults += _unread_json(submission) if submission.jsons else []
    return judged(
        faults,
        f"{len(submission.files)} files, {sum(submission.files.values()):,} bytes; script"
        f" {script}, logs: {len(submission.logs)}",
    )


@check(
    "plain files",
    "rules",
    caught="Links to the author's own disk, which are dead for everybody else, and whole virtual"
    " environments committed by accident.",
    fix="Replace links by the files they point to; remove what does not belong to the submission.",
)
def plain_files(submission: Submission) -> Finding:
    """Every entry is a regular file or a folder that can be read, at most 12 folders deep and 5,000
    files.
    """
    read = len(submission.code.texts) + len(submission.logs)  # reading them adds to what is strange
    return judged(
        submission.strange[:5],
        f"{read} sources and logs read, {len(submission.files)} regular files in"
        f" {len(submission.folders) + 1} folders, no links",
    )


def _day(text: object) -> date | None:
    match = re.match(r"(\d{4})-(\d{2})-(\d{2})(?=$|[T_ ])", text) if isinstance(text, str) else None
    try:
        return date(*map(int, match.groups())) if match else None
    except ValueError:
        return None


@check(
    "folder name and date",
    "paperwork",
    caught="Names with spaces, which break the reproduce command; dates of last year, copied from"
    " another submission.",
    fix="Rename the folder, or correct date in submission.json.",
)
def name_and_date(submission: Submission) -> Finding:
    """The folder is called YYYY-MM-DD_Name, a day that exists, without spaces, and the JSON's date
    is within a month of it.
    """
    name, faults = submission.name, []
    named, claimed = _day(name), submission.claims.get("date")
    dated = _day(claimed)
    if named is None or not re.fullmatch(r"\d{4}-\d{2}-\d{2}_\S+", name):
        faults.append(f"the folder is called {name!r}, expected YYYY-MM-DD_Name without spaces")
    if claimed is not None and dated is None:
        faults.append(f"date {claimed!r} is not YYYY-MM-DD")
    elif dated and named and abs((named - dated).days) > DAYS:
        faults.append(f"the folder says {named}, the JSON {dated}")
    said = "the JSON has no date to compare" if claimed is None else f"JSON date {claimed}"
    return judged(faults, f"{name}; {said}")


@check(
    "one record",
    "paperwork",
    caught="Pull requests that carried two submissions, or an older one that had been copied"
    " along.",
    fix="Keep one submission per folder.",
)
def one_record(submission: Submission) -> Finding:
    """One submission.json, no further train_gpt.py in subfolders, no dated folder inside the dated
    folder.
    """
    names = {path: PurePosixPath(path).name for path in submission.files}
    jsons = [p for p in names if re.fullmatch(r"submission.*\.json", names[p], re.IGNORECASE)]
    scripts = [path for path in names if "/" in path and names[path] == "train_gpt.py"]
    records = [path for path in submission.folders if _day(PurePosixPath(path).name)]
    faults = [f"{len(jsons)} JSONs: {', '.join(jsons[:4])}"] if len(jsons) > 1 else []
    faults += [f"another script or record {path}" for path in (*scripts[:3], *records[:3])]
    unseen = [] if jsons else ["there is no submission.json"]
    return judged(faults, f"one JSON, {', '.join(jsons)}", unseen)


@check(
    "JSON well formed",
    "paperwork",
    caught="Trailing commas and comments, NaN written by a script that lost its score, and a second"
    " val_bpb that wins over the first.",
    fix="Write the file with json.dump(..., allow_nan=False).",
)
def json_well_formed(submission: Submission) -> Finding:
    """submission.json is one JSON object without a byte order mark, in which every name occurs
    once and no number is NaN or Infinity.
    """
    name = submission.json_name
    try:
        claims, faults = submission.json
    except CannotTell as reason:
        return failed(str(reason))
    return judged(faults[:5], f"{name}: {len(claims)} fields")


def _field_fault(name: str, value: object) -> str | None:
    """Return what is wrong with a field, None where nothing is."""
    if name in TEXTS:
        if not isinstance(value, str) or not value.strip():
            return f"{name} is {value!r}, expected text"
        return f"{name} is a placeholder: {value[:60]!r}" if PLACEHOLDER.search(value) else None
    if name in NUMBERS and not (value is None and name in NULLABLE):
        stated, whole = number(value), name in WHOLE
        if stated is None or (whole and (stated != int(stated) or stated <= 0)):
            return f"{name} is {value!r}, expected a {'whole ' if whole else ''}number"
        if name in SCORES and not 0 < stated < 20:
            return f"{name} is {stated:g}, expected between 0 and 20"
    several = isinstance(value, list | dict | int) and not isinstance(value, bool)
    if name in ("seeds", "seed_results") and not several:
        return f"{name} is {value!r:.60}, expected one entry a seed"
    return None


@check(
    "JSON fields",
    "paperwork",
    caught="Empty authors, scores left null, val_bpb filed under val_loss, 'your name' sent as it"
    " was.",
    fix="Fill in the fields; a field that does not apply is left out rather than null.",
)
def json_fields(submission: Submission) -> Finding:
    """author, github_id, name and val_bpb are given; text is text, numbers are finite numbers,
    bytes are whole; nothing is null, empty, or still the template's.
    """
    claims, _ = submission.json
    given = {"name" if name == "run_name" else name for name in claims}
    required = ("author", "github_id", "name", "val_bpb")
    faults = [f"missing: {name}" for name in required if name not in given]
    faults += [fault for name, value in claims.items() if (fault := _field_fault(name, value))]
    faults += [
        f"seed {seed}: val_bpb is {row['val_bpb']!r}"
        for seed, row in submission.seed_claims.items()
        if "val_bpb" in row and seed not in submission.seed_scores
    ]
    return judged(
        faults,
        f"{claims.get('name') or claims.get('run_name')!r} by {claims.get('github_id')!r}, val_bpb"
        f" {claims.get('val_bpb')}",
    )


@check(
    "track",
    "paperwork",
    caught="Non-record runs in the record track's folder, and spellings that no script groups with"
    " the others.",
    fix="Use 10min_16mb or non_record_16mb.",
)
def track(submission: Submission) -> Finding:
    """The track is spelled as the challenge spells it, and is that of the track_* folder around the
    submission.
    """
    claimed, around = submission.json[0].get("track"), submission.parent
    if claimed is None:
        return passed(f"the JSON names none; the folder is in {around}, {submission.track}")
    if not isinstance(claimed, str) or claimed not in TRACKS:
        return failed(f"track {claimed!r}: expected one of {', '.join(TRACKS)}")
    if TRACKS.get(around, TRACKS[claimed]) != TRACKS[claimed]:
        return failed(f"the JSON says {claimed}, the folder is in {around}")
    return passed(f"track {claimed}")


def _scores(text: str, claim: float) -> list[float]:
    """Return the numbers in a text that could be scores where `claim` is one."""
    low, high = min(0.3, claim / 2), max(9.0, 2 * claim)
    return [value for value in numbers_in(text) if low < value < high]


def _rows(text: str, claim: float) -> dict[str, list[float]]:
    """Return what could be scores in the table rows that begin with a seed, by seed."""
    rows: dict[str, list[float]] = {}
    for line in text.splitlines():
        cells = [cell.strip(" *`_") for cell in line.split("|")[1:]]
        seed = re.fullmatch(r"(?:seed )?(\d+)", cells[0], re.IGNORECASE) if cells else None
        if seed and line.lstrip().startswith("|"):
            rows.setdefault(seed[1], []).extend(_scores(" ".join(cells[1:]), claim))
    return rows


@check(
    "README scores",
    "paperwork",
    caught="READMEs of an earlier run beside the JSON of a later one, and none at all.",
    fix="Write README.md with its results table from submission.json, as maskgolf pack does.",
)
def readme_scores(submission: Submission) -> Finding:
    """There is a README that is not empty. The JSON's val_bpb is in it, rounded or not, and its row
    of each seed shows that seed's val_bpb.
    """
    if not submission.readme.strip():
        return failed("README.md is empty" if submission.find(README) else "missing: README.md")
    text, claim = submission.readme, submission.claim("val_bpb", "mean_val_bpb")
    scores = _scores(text, claim)
    if not scores:
        raise CannotTell("no README shows a number that could be a score")
    faults = []
    if not any(agree(value, claim) for value in scores):
        nearest = min(scores, key=lambda value: abs(value - claim))
        faults.append(
            f"the JSON says {claim:.6g}, the README nowhere; the nearest is {nearest:.6g}"
        )
    rows = [
        (seed, shown, score)
        for seed, shown in _rows(text, claim).items()
        if (score := submission.seed_scores.get(seed)) is not None
        and any(abs(value - score) < 0.02 for value in shown)
    ]
    faults += [
        f"seed {seed}: the JSON says {score:.6g}, the README's rows {shown[:4]}"
        for seed, shown, score in rows
        if not any(agree(value, score) for value in shown)
    ]
    return judged(
        faults[:4], f"val_bpb {claim:.6g} is in the README; seeds whose rows agree: {len(rows)}"
    )
