"""Checks of the folder itself: its files, its name, its JSON, what its README promises."""

import re
from datetime import date
from pathlib import PurePosixPath

from harness.validate.finding import CannotTell, Check, Explain, Finding, failed, judged
from harness.validate.numbers import agree, numbers_in
from harness.validate.submission import Submission, number

README = r"readme(\.(md|rst|txt))?"
TRACKS = {
    "10min_16mb": "10min_16mb",
    "track_10min_16mb": "10min_16mb",
    "non_record_16mb": "non_record_16mb",
    "track_non_record_16mb": "non_record_16mb",
    "non-record-16mb": "non_record_16mb",
    "non-record-unlimited-compute-16mb": "non_record_16mb",
    "non_record_unlimited_compute_16mb": "non_record_16mb",
}
PLACEHOLDER = re.compile(
    r"\b(todo|tbd|fixme|xxx+|lorem ipsum|changeme|placeholder)\b|your[ _-]?(full["
    r" _-]?)?(name|github|handle|id|username)|<[a-z _-]{2,30}>"
    r"|^(name|author|github_id|yyyy-mm-dd)$",
    re.IGNORECASE,
)
MAX_README = 1 << 20  # characters that are looked at
DAYS = 31  # a folder may be named days before or after the run that its JSON dates


def track_of(submission: Submission) -> str:
    """Return 10min_16mb or non_record_16mb, from the JSON or the folder around the submission."""
    try:
        claimed = submission.claims.get("track")
    except CannotTell:
        claimed = None
    around = submission.root.resolve().parent.name
    for spelling in (claimed, around):
        if isinstance(spelling, str) and spelling in TRACKS:
            return TRACKS[spelling]
    raise CannotTell("no track: the JSON names none, and the folder is in no track_* folder")


def files(submission: Submission) -> Finding:
    """README, submission.json, the training script and a log are there and not empty."""
    missing = [] if submission.find(README) else ["README.md"]
    if not submission.json_found:
        missing.append("submission.json")
    entry = submission.code.entry
    if entry is None:
        missing.append("train_gpt.py")
    if not submission.logs:
        missing.append("a training log with steps or scores (train_seedN.log)")
    empty = [
        f"{name} is empty"
        for name in (entry, *submission.find(README))
        if name and not submission.files[name]
    ]
    faults = ([f"missing: {', '.join(missing)}"] if missing else []) + empty
    return judged(
        faults,
        f"{len(submission.files)} files, {sum(submission.files.values()):,} bytes; script {entry},"
        f" logs: {len(submission.logs)}",
    )


def plain_files(submission: Submission) -> Finding:
    """Nothing but readable files and folders: no links, no devices, nothing beyond the limits."""
    read = len(submission.code.texts) + len(submission.logs)  # reading them adds to what is strange
    return judged(
        submission.strange[:5],
        f"{read} sources and logs read, {len(submission.files)} regular files in"
        f" {len(submission.folders) + 1} folders, no links",
    )


def _day(text: str) -> date | None:
    found = re.match(r"(\d{4})-(\d{2})-(\d{2})(?=$|[T_ ])", text)
    try:
        return date(*map(int, found.groups())) if found else None
    except ValueError:
        return None


def name_and_date(submission: Submission) -> Finding:
    """YYYY-MM-DD_Name without spaces, and the JSON's date is about that day."""
    name, faults = submission.name, []
    named = _day(name)
    if named is None or not re.fullmatch(r"\d{4}-\d{2}-\d{2}_\S+", name):
        faults.append(f"the folder is called {name!r}, expected YYYY-MM-DD_Name without spaces")
    try:
        claimed = submission.claims.get("date")
    except CannotTell:
        claimed = None
    if claimed is None:
        return judged(faults, f"{name}; the JSON has no date to compare")
    dated = _day(claimed) if isinstance(claimed, str) else None
    if dated is None:
        faults.append(f"date {claimed!r} is not YYYY-MM-DD")
    elif named and abs((named - dated).days) > DAYS:
        faults.append(f"the folder says {named}, the JSON {dated}")
    return judged(faults, f"{name}, JSON date {claimed}")


def one_record(submission: Submission) -> Finding:
    """One JSON and one script: no second submission inside this one."""
    jsons = [
        path
        for path in submission.files
        if re.fullmatch(r"submission.*\.json", PurePosixPath(path).name, re.IGNORECASE)
    ]
    nested = [
        path
        for path in submission.files
        if "/" in path and PurePosixPath(path).name == "train_gpt.py"
    ]
    dated = [folder for folder in submission.folders if _day(PurePosixPath(folder).name)]
    faults = [f"{len(jsons)} JSONs: {', '.join(jsons[:4])}"] if len(jsons) > 1 else []
    faults += [f"another script {path}" for path in nested[:3]] + [
        f"another record {folder}/" for folder in dated[:3]
    ]
    if not jsons and not faults:
        raise CannotTell("there is no submission.json to count")
    return judged(faults, f"one JSON, {', '.join(jsons)}")


def json_well_formed(submission: Submission) -> Finding:
    """The JSON parses, is an object, has each name once and no NaN."""
    name = submission.json_name
    try:
        faults = submission.json_faults
    except CannotTell as reason:
        return failed(str(reason))
    return judged(faults[:5], f"{name}: {len(submission.claims)} fields")


TEXTS = (
    "author",
    "github_id",
    "name",
    "date",
    "blurb",
    "track",
    "hardware",
    "pytorch_version",
    "technique_summary",
    "val_bpb_estimator",
)
NUMBERS = (
    "val_bpb",
    "val_loss",
    "val_bpb_std",
    "bytes_total",
    "bytes_code",
    "bytes_model",
    "train_steps",
    "wallclock_seconds",
)
WHOLE = ("bytes_total", "bytes_code", "bytes_model", "train_steps")
NULLABLE = ("val_bpb_std",)  # of one seed there is none


def json_fields(submission: Submission) -> Finding:
    """author, github_id, name and val_bpb are there; what is there has its type; nothing is null,
    empty or a placeholder.
    """
    claims = submission.claims
    missing = [
        name
        for name in ("author", "github_id", "name", "val_bpb")
        if name not in claims and not (name == "name" and "run_name" in claims)
    ]
    faults = [f"missing: {', '.join(missing)}"] if missing else []
    for name in TEXTS:
        if name in claims and not (isinstance(claims[name], str) and claims[name].strip()):
            faults.append(f"{name} is {claims[name]!r}, expected text")
        elif name in claims and PLACEHOLDER.search(claims[name]):
            faults.append(f"{name} is a placeholder: {claims[name][:60]!r}")
    for name in NUMBERS:
        if name not in claims or (claims[name] is None and name in NULLABLE):
            continue
        value = number(claims[name])
        if value is None or (name in WHOLE and (value != int(value) or value <= 0)):
            faults.append(
                f"{name} is {claims[name]!r}, expected a {'whole ' if name in WHOLE else ''}number"
            )
        elif name in ("val_bpb", "val_loss") and not 0 < value < 20:
            faults.append(f"{name} is {value:g}, expected between 0 and 20")
    for name in ("seeds", "seed_results"):
        if name in claims and (
            not isinstance(claims[name], list | dict | int) or isinstance(claims[name], bool)
        ):
            faults.append(f"{name} is {claims[name]!r:.60}, expected one entry a seed")
    faults += [
        f"seed {seed}: val_bpb is {fields['val_bpb']!r}"
        for seed, fields in submission.seed_claims.items()
        if "val_bpb" in fields and number(fields["val_bpb"]) is None
    ]
    return judged(
        faults,
        f"{claims.get('name') or claims.get('run_name')!r} by {claims.get('github_id')!r}, val_bpb"
        f" {claims.get('val_bpb')}",
    )


def track(submission: Submission) -> Finding:
    """The track is one of the challenge's, and that of the folder around the submission."""
    claimed, around = submission.claims.get("track"), submission.root.resolve().parent.name
    if claimed is None:
        return judged([], f"the JSON names none; the folder is in {around}, {track_of(submission)}")
    if not isinstance(claimed, str) or claimed not in TRACKS:
        return failed(f"track {claimed!r}: expected one of {', '.join(TRACKS)}")
    if around in TRACKS and TRACKS[around] != TRACKS[claimed]:
        return failed(f"the JSON says {claimed}, the folder is in {around}")
    return judged([], f"track {claimed}")


def _scores(text: str, claim: float) -> list[float]:
    """Return the numbers in a text that could be scores where `claim` is one."""
    return [
        found for found in numbers_in(text) if min(0.3, claim / 2) < found < max(9.0, 2 * claim)
    ]


def _rows(text: str, claim: float) -> dict[str, list[float]]:
    """Return what could be scores in the table rows that begin with a seed, by seed."""
    rows: dict[str, list[float]] = {}
    for line in text.splitlines():
        cells = (
            [cell.strip(" *`_") for cell in line.split("|")[1:]]
            if line.lstrip().startswith("|")
            else []
        )
        seed = re.fullmatch(r"(?:seed )?(\d+)", cells[0], re.IGNORECASE) if cells else None
        if seed:
            rows.setdefault(seed[1], []).extend(_scores(" ".join(cells[1:]), claim))
    return rows


def readme_scores(submission: Submission) -> Finding:
    """The README shows the JSON's score, and each seed's row of its table shows that seed's
    score.
    """
    names = submission.find(README)
    if not names:
        raise CannotTell("there is no README")
    text = submission.text(names[0])[:MAX_README]
    claim = submission.claim("val_bpb", "mean_val_bpb")
    scores = _scores(text, claim)
    if not scores:
        raise CannotTell("the README shows no number that could be a score")
    faults, agreeing = [], 0
    if not any(agree(found, claim) for found in scores):
        nearest = min(scores, key=lambda found: abs(found - claim))
        faults.append(
            f"the JSON says {claim:.6g}, the README nowhere; the nearest is {nearest:.6g}"
        )
    for seed, shown in _rows(text, claim).items():
        wanted = number(submission.seed_claims.get(seed, {}).get("val_bpb"))
        if wanted is None or not any(abs(found - wanted) < 0.02 for found in shown):
            continue
        if any(agree(found, wanted) for found in shown):
            agreeing += 1
        else:
            faults.append(
                f"seed {seed}: the JSON says {wanted:.6g}, the README's rows"
                f" {', '.join(f'{found:.6g}' for found in shown[:4])}"
            )
    return judged(
        faults[:4], f"val_bpb {claim:.6g} is in the README; seeds whose rows agree: {agreeing}"
    )


CHECKS = (
    Check(
        "required files",
        "folder",
        files,
        Explain(
            "The folder holds README.md, submission.json, train_gpt.py and at least one training"
            " log, none of them empty.",
            "Submissions whose script was committed as an empty file, that came without a log, or"
            " as a log alone.",
            "Add the missing file; maskgolf pack writes all of them.",
        ),
    ),
    Check(
        "plain files",
        "folder",
        plain_files,
        Explain(
            "Every entry is a regular file or a folder that can be read, at most 12 folders deep"
            " and 5,000 files.",
            "Links to the author's own disk, which are dead for everybody else, and whole virtual"
            " environments committed by accident.",
            "Replace links by the files they point to; remove what does not belong to the"
            " submission.",
        ),
    ),
    Check(
        "folder name and date",
        "folder",
        name_and_date,
        Explain(
            "The folder is called YYYY-MM-DD_Name, a day that exists, without spaces, and the"
            " JSON's date is within a month of it.",
            "Names with spaces, which break the reproduce command; dates of last year, copied from"
            " another submission.",
            "Rename the folder, or correct date in submission.json.",
        ),
    ),
    Check(
        "one record",
        "folder",
        one_record,
        Explain(
            "One submission.json, no further train_gpt.py in subfolders, no dated folder inside the"
            " dated folder.",
            "Pull requests that carried two submissions, or an older one that had been copied"
            " along.",
            "Keep one submission per folder.",
        ),
    ),
    Check(
        "JSON well formed",
        "folder",
        json_well_formed,
        Explain(
            "submission.json is one JSON object in which every name occurs once and no number is"
            " NaN or Infinity.",
            "Trailing commas and comments, NaN written by a script that lost its score, and a"
            " second val_bpb that wins over the first.",
            "Write the file with json.dump(..., allow_nan=False).",
        ),
    ),
    Check(
        "JSON fields",
        "folder",
        json_fields,
        Explain(
            "author, github_id, name and val_bpb are given; text is text, numbers are finite"
            " numbers, bytes are whole; nothing is null, empty, or still the template's.",
            "Empty authors, scores left null, val_bpb filed under val_loss, 'your name' sent as it"
            " was.",
            "Fill in the fields; a field that does not apply is left out rather than null.",
        ),
    ),
    Check(
        "track",
        "folder",
        track,
        Explain(
            "The track is spelled as the challenge spells it, and is that of the track_* folder"
            " around the submission.",
            "Non-record runs in the record track's folder, and spellings that no script groups with"
            " the others.",
            "Use 10min_16mb or non_record_16mb.",
        ),
    ),
    Check(
        "README scores",
        "folder",
        readme_scores,
        Explain(
            "The JSON's val_bpb is in the README, rounded or not, and the README's row of each seed"
            " shows that seed's val_bpb.",
            "READMEs of an earlier run beside the JSON of a later one.",
            "Write the results table from submission.json, as maskgolf pack does.",
        ),
    ),
)
