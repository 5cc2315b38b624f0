"""A submission folder, ours or anybody's: read leniently, within limits, never executed. Links are
not followed.
"""

import json
import math
import os
import re
import stat
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness.validate import code, scan, trainlog
from harness.validate.finding import CannotTell
from harness.validate.numbers import agree
from reference.recipe import InputError

MAX_FILES = 5_000  # regular files looked at
MAX_DEPTH = 12  # folders below the submission
MAX_READ = 1 << 28  # bytes of an artifact: sixteen times the challenge's limit
MAX_TEXT = 1 << 26  # bytes of a log or a source file
MAX_JSON = 1 << 22  # bytes of submission.json
MAX_LOGS = 64  # log files parsed
ARTIFACTS = (
    ".mgolf .ptz .pt .pth .ckpt .bin .safetensors .npz .npy .pkl .pickle .joblib "
    ".zst .zstd .xz .lzma .br .gz .bz2 .z .zlib .lz4 .zip .tar .7z .onnx .int8 .int6"
).split()
VAGUE, LEAST = (
    (".bin", ".gz", ".npy", ".npz", ".zip", ".7z", ".bz2"),
    1 << 16,
)  # of anything: no weights below this many bytes
MODELS = tuple(suffix for suffix in ARTIFACTS if suffix != ".tar")


@dataclass(frozen=True)
class Options:
    """What the person gave beside the folder."""

    data: Path | None = None
    tokenizer: Path | None = None
    run: bool = False
    time_limit: float = 600.0  # seconds, of everything that is executed


def number(value: object) -> float | None:
    """Return a finite JSON number as a float, None for anything else (booleans too)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


class Submission:
    """One folder. Accessors return values or raise CannotTell with the reason; whatever is read is
    kept.
    """

    def __init__(self, root: Path | str, options: Options | None = None):
        """List the folder; InputError where there is none."""
        self.root, self.options = Path(root), options or Options()
        if not self.root.is_dir():
            kind = "a file" if self.root.exists() else "nothing"
            raise InputError(
                f"{self.root}: expected a submission folder, found {kind}; name the folder that"
                " holds submission.json"
            )
        self.name = self.root.resolve().name
        self.files: dict[str, int] = {}  # regular files: path below the folder -> bytes
        self.folders: list[str] = []
        self.strange: list[str] = []  # links, devices, unreadable or too deep places
        self._kept: dict[str, bytes] = {}
        self._list("", 0)

    def _list(self, below: str, depth: int) -> None:
        try:
            entries = sorted(os.scandir(self.root / below), key=lambda entry: entry.name)
        except OSError as error:
            self.strange.append(f"{below or '.'}: not readable ({error.strerror})")
            return
        for entry in entries:
            path = f"{below}{entry.name}"
            if len(self.files) >= MAX_FILES:
                self.strange.append(f"{path}: not looked at, more than {MAX_FILES:,} files")
                return
            try:
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISLNK(mode):
                    self.strange.append(f"{path}: a link to {os.readlink(self.root / path)}")
                elif stat.S_ISREG(mode):
                    self.files[path] = entry.stat(follow_symlinks=False).st_size
                elif not stat.S_ISDIR(mode):
                    self.strange.append(f"{path}: neither a file nor a folder")
                elif depth >= MAX_DEPTH:
                    self.strange.append(
                        f"{path}: not looked at, more than {MAX_DEPTH} folders deep"
                    )
                else:
                    self.folders.append(path)
                    self._list(f"{path}/", depth + 1)
            except OSError as error:
                self.strange.append(f"{path}: not readable ({error.strerror})")

    def path(self, name: str) -> Path:
        """Return where a listed file is."""
        return self.root / name

    def find(self, pattern: str) -> list[str]:
        """Return the top-level files whose whole name matches a regular expression, case
        ignored.
        """
        return [
            name
            for name in self.files
            if "/" not in name and re.fullmatch(pattern, name, re.IGNORECASE)
        ]

    def read(self, name: str, most: int = MAX_READ) -> bytes:
        """Return the bytes of a listed regular file."""
        if name not in self.files:
            raise CannotTell(f"{name} is not in the folder")
        if self.files[name] > most:
            raise CannotTell(
                f"{name} has {self.files[name]:,} bytes, more than the {most:,} that are read"
            )
        if name in self._kept:
            return self._kept[name]
        try:
            descriptor = os.open(
                self.path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            )
            with open(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise CannotTell(f"{name} is no longer a regular file")
                data = file.read(most + 1)
        except (OSError, ValueError) as error:
            raise CannotTell(
                f"{name} cannot be read ({getattr(error, 'strerror', None) or error})"
            ) from error
        if len(data) > most:
            raise CannotTell(f"{name} has more than the {most:,} bytes that are read")
        if len(data) <= MAX_JSON and sum(map(len, self._kept.values())) <= MAX_TEXT:
            self._kept[name] = data
        return data

    def text(self, name: str) -> str:
        """Return a file as text, in UTF-16 where it begins so (PowerShell's > writes it); bytes
        that are not UTF-8 become U+FFFD.
        """
        data = self.read(name, MAX_TEXT)
        return data.decode(
            "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "replace"
        )

    @cached_property
    def json_found(self) -> list[str]:
        """Top-level files that can be the submission's JSON, the likeliest first."""
        return sorted(
            self.find(r"submission.*\.json"), key=lambda name: (name != "submission.json", name)
        )

    @property
    def json_name(self) -> str:
        """Name of the submission's JSON."""
        if not self.json_found:
            raise CannotTell("there is no submission.json")
        return self.json_found[0]

    @cached_property
    def _parsed(self) -> tuple[dict, list[str]]:
        """The JSON object, and what is wrong with it as JSON: constants such as NaN, names that
        occur twice.
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
            value = json.loads(
                self.read(self.json_name, MAX_JSON).decode("utf-8"),
                parse_constant=constant,
                object_pairs_hook=pairs,
            )
        except RecursionError as error:
            raise CannotTell(f"{self.json_name} is nested too deeply") from error
        except ValueError as error:
            raise CannotTell(f"{self.json_name} is not JSON ({error})") from error
        if not isinstance(value, dict):
            raise CannotTell(f"{self.json_name} holds a {type(value).__name__}, not an object")
        return value, faults

    @property
    def claims(self) -> dict:
        """The JSON object of the submission."""
        return self._parsed[0]

    @property
    def json_faults(self) -> list[str]:
        """What is wrong with the JSON as JSON."""
        return self._parsed[1]

    def claim(self, *names: str) -> float:
        """Return the first of these fields that is a finite number."""
        for name in names:
            found = number(self.claims.get(name))
            if found is not None:
                return found
        raise CannotTell(f"{self.json_name} has no number {' or '.join(names)}")

    @cached_property
    def seed_claims(self) -> dict[str, dict]:
        """Fields of each seed in the JSON, by the seed as text."""
        for name in ("seed_results", "seeds", "results"):
            value = self.claims.get(name)
            if isinstance(value, dict):
                members = {
                    re.sub(r"^seed[_ ]?", "", str(seed)): fields for seed, fields in value.items()
                }
                return {
                    seed: fields if isinstance(fields, dict) else {"val_bpb": fields}
                    for seed, fields in members.items()
                    if seed.isdigit()
                }
        return {}

    @cached_property
    def seed_logs(self) -> "dict[str, trainlog.Log]":
        """The log of each seed that the JSON names, of every seed where it names none: of several
        the one that shows the seed's score.
        """
        claims = self.seed_claims if self.seeds_claimed else {}
        found: dict[str, trainlog.Log] = {}
        for log in self.logs:
            claim = number(claims.get(log.seed or "", {}).get("val_bpb"))
            shown = claim is not None and any(agree(final.val_bpb, claim) for final in log.finals)
            if log.seed and (log.seed not in found or shown) and (not claims or log.seed in claims):
                found[log.seed] = log
        return found

    @cached_property
    def seeds_claimed(self) -> bool:
        """Whether the JSON says which seeds it rests on."""
        try:
            return bool(self.seed_claims)
        except CannotTell:
            return False

    @cached_property
    def ours(self) -> bool:
        """Whether maskgolf pack wrote the folder: it holds one of our containers."""
        return any(name.endswith(".mgolf") for name in self.files)

    @cached_property
    def header(self) -> dict:
        """The header of our container, {} where there is none that reads."""
        from fast import container

        if not self.ours:
            return {}
        try:
            header, _ = container.read_header(self.read(self.artifact))
            container.check_table(header["tensors"], header["raw_bytes"])
        except (CannotTell, InputError):
            return {}
        return header

    @cached_property
    def recipe(self) -> dict:
        """The recipe in our container's header, {} where there is none."""
        found = self.header.get("recipe")
        return (
            {
                name: value if isinstance(value, dict) else {"": value}
                for name, value in found.items()
            }
            if isinstance(found, dict)
            else {}
        )

    @cached_property
    def container_elements(self) -> int:
        """Parameters in our container, 0 where there is none that reads."""
        return sum(math.prod(row["shape"]) for row in self.header.get("tensors", []))

    @cached_property
    def artifacts(self) -> dict[str, int]:
        """Files that may hold weights, largest first: path -> bytes."""
        kinds = {name: Path(name).suffix.lower() for name in self.files}
        models = [
            name
            for name, kind in kinds.items()
            if kind in MODELS and not Path(name).stem.endswith(".py")
        ]
        found = {
            name: self.files[name]
            for name in models
            if kinds[name] not in VAGUE or self.files[name] >= LEAST
        }
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    @cached_property
    def artifact(self) -> str:
        """The file that is the submission's model."""
        ours = [name for name in self.artifacts if name.endswith(".mgolf")]
        found = ours or list(self.artifacts)
        if not found:
            raise CannotTell("the artifact is not in the folder")
        return found[0]

    @cached_property
    def code(self) -> "code.Code":
        """Its Python, read statically: what is hidden in compressed strings too."""
        sources, total = {}, 0
        for name, size in self.files.items():
            total += size if name.endswith(".py") else 0
            if name.endswith(".py") and total > MAX_TEXT:
                self.strange.append(f"{name}: not read, more than {MAX_TEXT:,} bytes of Python")
            elif name.endswith(".py"):
                try:
                    sources[name] = self.read(name, MAX_TEXT)
                except CannotTell as error:
                    self.strange.append(str(error))
        return code.Code(sources, self.files)

    @cached_property
    def logs(self) -> "tuple[trainlog.Log, ...]":
        """Its training logs, parsed: .log and .txt files that hold step lines or final scores."""
        found, total = [], 0
        for name, size in self.files.items():
            if Path(name).suffix.lower() not in (".log", ".txt") or "requirements" in name.lower():
                continue
            total += size
            if len(found) >= MAX_LOGS or total > 2 * MAX_TEXT:
                self.strange.append(
                    f"{name}: not read, more than {MAX_LOGS} logs or {2 * MAX_TEXT:,} bytes of them"
                )
                break
            try:
                log = trainlog.parse(name, self.text(name))
            except CannotTell as reason:
                self.strange.append(str(reason))
                continue
            if log.points or log.finals:
                found.append(log)
        return tuple(found)

    @cached_property
    def scanned(self) -> "scan.Scan":
        """What one pass over all files found for safety."""
        return scan.scan(self)
