"""Checks of safety: what would opening this folder do to the person who opens it? Pickles are
listed, never loaded.
"""

import ast

from harness.validate.submission import Submission
from harness.validate.verdict import CannotTell, Finding, check, judged, passed

EXECUTING = {  # what may execute the file that it loads: with which options it does
    "torch.load": lambda options: options.get("weights_only") is not True,
    "numpy.load": lambda options: options.get("allow_pickle") is True,
    **{
        f"{module}.{name}": lambda options: True
        for module in ("pickle", "cPickle", "dill", "joblib", "cloudpickle", "marshal")
        for name in ("load", "loads", "Unpickler")
    },
}


def _options(call: ast.Call) -> dict[str | None, object]:
    """Return the keyword arguments that a call gives as constants, None for the others."""
    return {word.arg: getattr(word.value, "value", None) for word in call.keywords}


@check(
    "pickles",
    "rules",
    caught="Checkpoints with the whole optimizer and training script pickled along, and one that"
    " would have run a shell command.",
    fix="Save a plain dict of tensors, or a container without pickle such as .mgolf or"
    " .safetensors.",
)
def pickles(submission: Submission) -> Finding:
    """Every pickle, also inside zip archives and compressed streams, is listed opcode by opcode
    without loading it. What names anything but tensors, arrays and plain containers fails, with
    opcode and name.
    """
    scan = submission.scanned
    listed = f"{len(scan.pickles)} pickles, {scan.opcodes:,} opcodes listed, only tensors named"
    evidence = f"{listed}, in {scan.files} files of {scan.size:,} bytes"
    return judged(scan.dangers[:5], evidence, scan.unread + scan.bombs)


@check(
    "archives",
    "rules",
    caught="Zip bombs; archives with members called ../../.bashrc.",
    fix="Ship the weights compressed once.",
)
def archives(submission: Submission) -> Finding:
    """Archives and compressed streams unpack to at most 512 MiB, a thousand times their size and
    four levels; no name leads outside.
    """
    scan = submission.scanned
    faults = scan.bombs[:3] + [f"{where} would be written outside" for where in scan.escapes[:3]]
    evidence = f"{len(scan.packed)} archives and compressed streams, all within limits"
    return judged(faults, evidence, scan.unread)


@check(
    "compiled code",
    "rules",
    caught="Helper libraries built on the author's machine, which nobody can read and whose bytes"
    " nobody had counted.",
    fix="Ship the source, and count it.",
)
def machine_code(submission: Submission) -> Finding:
    """No file is machine code or byte code."""
    scan = submission.scanned
    return judged(scan.machine_code[:4], f"no compiled code in {scan.files} files", scan.bombs)


@check(
    "secrets",
    "rules",
    caught="Logs that printed the environment with its tokens.",
    fix="Remove the line, and revoke the key: it is public once pushed.",
)
def secrets(submission: Submission) -> Finding:
    """No file holds what has the form of an access key (AWS, GitHub, Hugging Face, OpenAI, Google,
    Slack) or of a private key.
    """
    scan = submission.scanned
    evidence = f"none in {scan.files} files, {scan.size:,} bytes"
    return judged(scan.secrets[:4], evidence, scan.bombs)


@check(
    "loading weights",
    "rules",
    caught="Scripts that torch.load any file they are given with weights_only=False.",
    fix="Pass weights_only=True.",
)
def loads(submission: Submission) -> Finding:
    """torch.load is called with weights_only=True, pickle.load and its kin are not; or the files
    here show that nothing is executed, or there are none and the script writes what it loads.
    """
    calls = [
        f"{source.label}:{node.lineno}: {ast.unparse(node)[:60]}"
        for source in submission.code.running
        for node, name in source.calls
        if name in EXECUTING and EXECUTING[name](_options(node))
    ]
    if not calls:
        submission.code.require_read()
        return passed("no pickle is loaded, or with weights_only=True")
    scan, where = submission.scanned, "; ".join(calls[:3])
    written = any(
        name in ("torch.save", "pickle.dump")
        for s in submission.code.running
        for _, name in s.calls
    )
    if written and not (submission.artifacts or scan.pickles or scan.unread or scan.bombs):
        return passed(f"{where}: it wrote that file itself, no weights lie in the folder")
    if not scan.pickles or scan.dangers or scan.unread or scan.bombs:
        raise CannotTell(
            f"{where}: it executes what the file says, and no file here shows what that would be"
        )
    return passed(f"{where}; the pickles here, {', '.join(scan.pickles[:2])}, name only tensors")


@check(
    "readable code",
    "rules",
    caught="Scripts whose code came from somewhere else at run time.",
    fix="Compress with lzma and base85 literals, or ship the code as text.",
)
def hidden_code(submission: Submission) -> Finding:
    """Text that the script execs is in the folder, or in a compressed string that can be unpacked
    without running it. The bytes count as they lie in the file.
    """
    code = submission.code
    unread = [where for where in code.unread if where.startswith(tuple(code.reached))]
    if unread:
        raise CannotTell(f"executed without showing its text: {'; '.join(unread[:3])}")
    hidden = [source for source in code.running if source.label != source.file]
    if code.entry is None or any(s.tree is None and s not in hidden for s in code.running):
        code.require_read()
    shown = ", ".join(f"{source.label} of {len(source.text):,} characters" for source in hidden[:3])
    return passed(f"{len(code.running)} sources, packed in strings: {shown or 'none'}")
