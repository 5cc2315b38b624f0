"""Folders as other people write them: shapes seen in public submissions, rebuilt small, and the verdict that each must get."""

import json

from harness.validate import CHECKS, answer
from harness.validate.finding import Finding
from harness.validate.submission import Submission


def ask(folder, name: str, files: dict[str, str | dict]) -> Finding:
    """Return one check's finding about a folder of these files."""
    folder = folder / "2026-03-20_Mine"
    folder.mkdir(exist_ok=True)
    for path, content in files.items():
        (folder / path).write_text(content if isinstance(content, str) else json.dumps(content))
    return answer(next(check for check in CHECKS if check.name == name), Submission(folder))


def test_a_log_of_steps_beside_one_of_scores_alone(tmp_path):
    logs = {
        "train_seed1.log": "final_int8_zlib_roundtrip val_loss:2.0649 val_bpb:1.2230\n",
        "train_seed2.log": "step:10/20 train_loss:3.1000 train_time:100ms\nstep:20/20 train_loss:3.0000 train_time:200ms\n",
    }
    found = ask(tmp_path, "parameters and steps", {**logs, "submission.json": {"val_bpb": 1.223, "train_steps": 20}})
    assert found == Finding("pass", "last steps 20 of 20")
