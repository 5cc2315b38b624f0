"""To add a check of maskgolf validate: one decorated function in the file of its group."""

import json

from tests.support.scratch import Copy

CHECK = '''

@check(
    "thanks",
    "paperwork",
    caught="Submissions whose authors had help and did not say so.",
    fix="Name those who helped.",
)
def thanks(submission: Submission) -> Finding:
    """The README thanks somebody."""
    faults = [] if "thank" in submission.readme.lower() else ["nobody is thanked"]
    return judged(faults, "somebody is thanked")
'''


def test_a_check_is_one_decorated_function(tmp_path):
    copy = Copy(tmp_path / "copy")
    copy.append("harness/validate/checks/folder.py", CHECK)
    folder = tmp_path / "2026-11-23_Mine"
    folder.mkdir()
    (folder / "README.md").write_text("# Mine\n\nThanks to nobody in particular.\n")
    out = tmp_path / "rows.json"
    ran = copy.run("-m", "harness", "validate", folder, "--all", "--json", out)
    assert ran.returncode == 1 and "thanks" in ran.stdout, ran.stderr  # other checks fail
    rows = {row["check"]: row for row in json.loads(out.read_text())}
    assert rows["thanks"] == {
        "check": "thanks",
        "group": "folder",
        "severity": "paperwork",
        "verdict": "pass",
        "evidence": "somebody is thanked",
    }
    (folder / "README.md").write_text("# Mine\n")
    copy.run("-m", "harness", "validate", folder, "--json", out)
    rows = {row["check"]: row for row in json.loads(out.read_text())}
    assert (rows["thanks"]["verdict"], rows["thanks"]["evidence"]) == ("fail", "nobody is thanked")
    ran = copy.run("-m", "harness", "validate", "--explain", "thanks")
    assert ran.returncode == 0, ran.stderr
    for text in ("The README thanks somebody.", "did not say so", "Name those who helped."):
        assert text in ran.stdout
