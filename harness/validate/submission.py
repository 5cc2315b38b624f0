"""A submission folder, ours or anybody's: read leniently, within limits, never executed. Links are
not followed.
"""

import codecs
import json
import math
import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fast import container
from harness import paths
from harness.display.progress import Bar, silent
from harness.validate import scan, source, training_log
from harness.validate.numbers import agree
from harness.validate.verdict import CannotTell, require
from reference.recipe import InputError

NO_LOG = "there is no training log"
MAX_FILES = 5_000  # regular files looked at
MAX_DEPTH = 12  # folders below the submission
MAX_READ = 1 << 28  # bytes of an artifact: sixteen times the challenge's limit
MAX_TEXT = 1 << 26  # bytes of a log or a source file
MAX_JSON = 1 << 22  # bytes of submission.json
MAX_README = 1 << 20  # characters that are looked at
README = r"readme(\.(md|rst|txt))?"
MODELS = (
    ".mgolf .ptz .pt .pth .ckpt .bin .safetensors .npz .npy .pkl .pickle .joblib "
    ".zst .zstd .xz .lzma .br .gz .bz2 .z .zlib .lz4 .zip .7z .onnx .int8 .int6"
).split()
VAGUE = (".bin", ".gz", ".npy", ".npz", ".zip", ".7z", ".bz2")
LEAST = 1 << 16  # bytes of anything vague: no weights below
TRACKS = {
    "10min_16mb": "10min_16mb",
    "track_10min_16mb": "10min_16mb",
    **dict.fromkeys(
        (
            "non_record_16mb",
            "track_non_record_16mb",
            "non-record-16mb",
            "non-record-unlimited-compute-16mb",
            "non_record_unlimited_compute_16mb",
        ),
        "non_record_16mb",
    ),
}


@dataclass(frozen=True)
class Options:
    """What the person gave beside the folder."""

    data: Path | None = None
    tokenizer: Path | None = None
    run: bool = False
    time_limit: float = 600.0  # seconds, of everything that is executed
    progress: Bar = field(default_factory=silent, compare=False)  # shows what takes long


def number(value: object) -> float | None:
    """Return a finite JSON number as a float, None for anything else (booleans too)."""
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if numeric and abs(value) <= sys.float_info.max else None


def numbers(rows: dict[str, dict], *names: str) -> dict[str, float]:
    """Return the first of these fields that is a number, by row, where there is one."""
    values = {
        key: [value for name in names if (value := number(row.get(name))) is not None]
        for key, row in rows.items()
    }
    return {key: some[0] for key, some in values.items() if some}


def _open(path: str, flags: int) -> int:
    """Open a file that may have been replaced by a link or a pipe since it was listed."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


class Submission:
    """One folder. Accessors return values or raise CannotTell with the reason; whatever is read is
    kept.
    """

    def __init__(self, root: Path | str, options: Options | None = None):
        """List the folder; InputError where there is none."""
        self.root, self.options = Path(root), options or Options()
        names = paths.submission_names(self.root)
        self.name = self.root.resolve().name
        self.parent = self.root.resolve().parent.name
        self.files: dict[str, int] = {}  # regular files: path below the folder -> bytes
        self.folders: list[str] = []
        self.strange: list[str] = []  # links, devices, what is unreadable, too deep or too much
        self.complete = True  # all files are listed
        self._kept: dict[str, bytes] = {}
        for name in names:
            self._list(name)

    def _list(self, name: str) -> None:
        """List a file, a folder with all that it holds, or what is strange about a name."""
        path = self.root / name
        try:
            if len(self.files) >= MAX_FILES:
                if self.complete:
                    self.strange.append(f"{name}: not looked at, more than {MAX_FILES:,} files")
                self.complete = False
            elif path.is_symlink():
                self.strange.append(f"{name}: a link to {os.readlink(path)}")
            elif path.is_file():
                self.files[name] = path.stat().st_size
            elif not path.is_dir():
                self.strange.append(f"{name}: neither a file nor a folder")
            elif name.count("/") >= MAX_DEPTH:
                self.strange.append(f"{name}: not looked at, more than {MAX_DEPTH} folders deep")
            else:
                self.folders.append(name)
                for below in sorted(os.listdir(path)):
                    self._list(f"{name}/{below}")
        except OSError as error:
            self.strange.append(f"{name}: not readable ({error.strerror})")

    def find(self, pattern: str) -> list[str]:
        """Return the top-level files whose whole name matches a regular expression, case
        ignored.
        """
        top = [name for name in self.files if "/" not in name]
        return [name for name in top if re.fullmatch(pattern, name, re.IGNORECASE)]

    def read(self, name: str, most: int = MAX_READ) -> bytes:
        """Return the bytes of a listed regular file."""
        require(name in self.files, f"{name} is not in the folder")
        size = self.files[name]
        require(size <= most, f"{name} has {size:,} bytes, more than the {most:,} that are read")
        if name in self._kept:
            return self._kept[name]
        try:
            with open(self.root / name, "rb", opener=_open) as file:
                now = os.fstat(file.fileno())
                require(stat.S_ISREG(now.st_mode), f"{name} is no longer a regular file")
                data = file.read(min(now.st_size, most) + 1)
        except OSError as error:
            raise CannotTell(f"{name} cannot be read ({error.strerror})") from error
        require(len(data) <= most, f"{name} has more than the {most:,} bytes that are read")
        if len(data) <= MAX_JSON and sum(map(len, self._kept.values())) <= MAX_TEXT:
            self._kept[name] = data
        return data

    def text(self, name: str) -> str:
        """Return a file as text, in UTF-16 where it begins so (PowerShell's > writes it); bytes
        that are not UTF-8 become U+FFFD.
        """
        data = self.read(name, MAX_TEXT)
        wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        return data.decode("utf-16" if wide else "utf-8-sig", "replace")

    @cached_property
    def readme(self) -> str:
        """The beginning of the README, "" where there is none."""
        names = self.find(README)
        return self.text(names[0])[:MAX_README] if names else ""

    @cached_property
    def jsons(self) -> list[str]:
        """Top-level files that can be the submission's JSON, the likeliest first."""
        names = self.find(r"submission.*\.json")
        return sorted(names, key=lambda name: (name != "submission.json", name))

    @property
    def json_name(self) -> str:
        """Name of the submission's JSON."""
        require(self.jsons, "there is no submission.json")
        return self.jsons[0]

    @cached_property
    def json(self) -> tuple[dict, list[str]]:
        """The JSON object, and what is wrong with it as JSON: constants such as NaN, names that
        occur twice, a byte order mark.
        """
        faults: list[str] = []

        def constant(word: str) -> float:
            faults.append(f"{word} is not JSON")
            return float(word)

        def pairs(members: list[tuple]) -> dict:
            names = Counter(name for name, _ in members)
            faults.extend(f"{name!r} occurs twice" for name, count in names.items() if count > 1)
            return dict(members)

        try:
            data = self.read(self.json_name, MAX_JSON)
            text = data.decode("utf-8-sig")
            if data.startswith(codecs.BOM_UTF8):
                faults.append("begins with a byte order mark, which Python's json refuses")
            value = json.loads(text, parse_constant=constant, object_pairs_hook=pairs)
        except RecursionError as error:
            raise CannotTell(f"{self.json_name} is nested too deeply") from error
        except ValueError as error:
            raise CannotTell(f"{self.json_name} is not JSON ({error})") from error
        kind = type(value).__name__
        require(isinstance(value, dict), f"{self.json_name} holds a {kind}, not an object")
        return value, faults

    @cached_property
    def claims(self) -> dict:
        """The JSON object of the submission, {} where there is none that reads."""
        try:
            return self.json[0]
        except CannotTell:
            return {}

    def stated(self, *names: str) -> float | None:
        """Return the first of these fields of the JSON that is a finite number."""
        return numbers({"": self.claims}, *names).get("")

    def claim(self, *names: str) -> float:
        """Return the first of these fields that is a finite number; CannotTell where none is."""
        value = numbers({"": self.json[0]}, *names).get("")
        require(value is not None, f"{self.json_name} has no number {' or '.join(names)}")
        return value

    @cached_property
    def seed_claims(self) -> dict[str, dict]:
        """Fields of each seed in the JSON, by the seed as text; {} where it names none."""
        values = [self.claims.get(name) for name in ("seed_results", "seeds", "results")]
        rows = next((value for value in values if isinstance(value, dict)), {})
        seeds = {re.sub(r"^seed[_ ]?", "", seed): row for seed, row in rows.items()}
        return {
            seed: row if isinstance(row, dict) else {"val_bpb": row}
            for seed, row in seeds.items()
            if seed.isdigit()
        }

    @cached_property
    def seed_scores(self) -> dict[str, float]:
        """val_bpb of each seed in the JSON."""
        return numbers(self.seed_claims, "val_bpb")

    @cached_property
    def seed_logs(self) -> dict[str, training_log.Log]:
        """The log of each seed that the JSON names, of every seed where it names none: of several
        the one that the seed's row names, else the one that shows the seed's or the only score
        best, the first of equals.
        """
        only = None if self.seed_claims else self.stated("val_bpb", "mean_val_bpb")

        def rank(log: training_log.Log) -> tuple[bool, float]:
            row = self.seed_claims.get(log.seed, {})
            named = any(isinstance(value, str) and log.name in value for value in row.values())
            score = self.seed_scores.get(log.seed, only)
            finals = [] if score is None else [final.val_bpb for final in log.finals]
            away = [abs(value - score) for value in finals if agree(value, score)]
            return not named, min(away, default=math.inf)

        candidates: dict[str, list[training_log.Log]] = {}
        for log in self.logs:
            if log.seed and log.seed in (self.seed_claims or {log.seed}):
                candidates.setdefault(log.seed, []).append(log)
        return {seed: min(logs, key=rank) for seed, logs in candidates.items()}

    @cached_property
    def own_logs(self) -> list[training_log.Log]:
        """The logs of the submission's seeds, or all logs where no seed is known."""
        return list(self.seed_logs.values()) or list(self.logs)

    @cached_property
    def required_logs(self) -> list[training_log.Log]:
        """The submission's logs; CannotTell where there are none."""
        require(self.own_logs, NO_LOG)
        return self.own_logs

    @cached_property
    def track(self) -> str:
        """10min_16mb or non_record_16mb, from the JSON or the folder around the submission."""
        names = [str(name) for name in (self.claims.get("track"), self.parent)]
        tracks = [TRACKS[name] for name in names if name in TRACKS]
        require(tracks, "no track: the JSON names none, and the folder is in no track_* folder")
        return tracks[0]

    @cached_property
    def ours(self) -> bool:
        """Whether maskgolf pack wrote the folder: it holds one of our containers."""
        return any(name.endswith(".mgolf") for name in self.files)

    @cached_property
    def header(self) -> dict:
        """The header of our container, {} where there is none that reads."""
        try:
            header, _ = container.read_header(self.read(self.artifact))
            container.check_table(header["tensors"], header["raw_bytes"])
            return header
        except (CannotTell, InputError):
            return {}

    @cached_property
    def recipe(self) -> dict[str, dict]:
        """The recipe in our container's header by its parts, {} where there is none."""
        parts = self.header.get("recipe")
        parts = parts if isinstance(parts, dict) else {}
        return {name: part for name, part in parts.items() if isinstance(part, dict)}

    @cached_property
    def container_elements(self) -> int:
        """Parameters in our container, 0 where there is none that reads."""
        return sum(math.prod(row["shape"]) for row in self.header.get("tensors", []))

    @cached_property
    def artifacts(self) -> dict[str, int]:
        """Files that may hold weights, largest first: path -> bytes."""
        kinds = {name: Path(name).suffix.lower() for name in self.files}
        names = [
            name
            for name, kind in kinds.items()
            if kind in MODELS
            and not Path(name).stem.endswith(".py")
            and (kind not in VAGUE or self.files[name] >= LEAST)
        ]
        return {name: self.files[name] for name in sorted(names, key=lambda n: (-self.files[n], n))}

    @cached_property
    def artifact(self) -> str:
        """The file that is the submission's model."""
        require(self.artifacts, "the artifact is not in the folder")
        ours = [name for name in self.artifacts if name.endswith(".mgolf")]
        return [*ours, *self.artifacts][0]

    @cached_property
    def code(self) -> source.Code:
        """Its Python, read statically: what is hidden in compressed strings too."""
        names = [name for name in self.files if name.endswith(".py")]
        sources = self._each(names, lambda name: self.read(name, MAX_TEXT), MAX_TEXT)
        return source.Code(dict(sources), self.files)

    def _each(self, names: list[str], read: Callable, most: int) -> Iterator[tuple[str, Any]]:
        """Yield (name, what `read` returns of it) for the files that are read and have at most
        `most` bytes together; note the others.
        """
        total = 0
        for name in names:
            total += self.files[name]
            try:
                require(total <= most, f"{name}: not read, more than {most:,} bytes of its kind")
                yield name, read(name)
            except CannotTell as reason:
                self.strange.append(str(reason))

    @cached_property
    def logs(self) -> tuple[training_log.Log, ...]:
        """Its training logs, parsed: .log and .txt files that hold step lines or final scores."""
        names = [
            name
            for name in self.files
            if name.lower().endswith((".log", ".txt")) and "requirements" not in name.lower()
        ]
        texts = self._each(names, self.text, 2 * MAX_TEXT)
        logs = [training_log.parse(name, text) for name, text in texts]
        return tuple(log for log in logs if log.points or log.finals)

    @cached_property
    def scanned(self) -> scan.Scan:
        """What one pass over all files found for safety."""
        return scan.scan(self)
