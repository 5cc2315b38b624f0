"""Checks of safety: what would opening this folder do to the person who opens it? Pickles are
listed, never loaded.
"""

from harness.validate.finding import CannotTell, Check, Explain, Finding, failed, judged, passed
from harness.validate.submission import Submission

LOADERS = (
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "cPickle.load",
    "dill.load",
    "dill.loads",
    "joblib.load",
    "cloudpickle.load",
    "marshal.loads",
)


def pickles(submission: Submission) -> Finding:
    """No pickle, wherever it is packed, names anything but tensors and what holds them."""
    found = submission.scanned
    if found.dangers:
        return failed("; ".join(found.dangers[:5]))
    if found.unread:
        raise CannotTell("; ".join(found.unread[:3]))
    listed = (
        f"{len(found.pickles)} pickles, {found.opcodes:,} opcodes listed, only tensors named"
        if found.pickles
        else "no pickle"
    )
    return passed(f"{listed} in {found.files} files, {found.size:,} bytes")


def archives(submission: Submission) -> Finding:
    """No archive or compressed stream unpacks to more than weights can be, or to places outside."""
    found = submission.scanned
    faults = found.bombs[:3] + [f"{where} would be written outside" for where in found.escapes[:3]]
    if not faults and found.unread:
        raise CannotTell("; ".join(found.unread[:3]))
    return judged(
        faults,
        (
            f"{len(found.packed)} archives and compressed streams, all within limits"
            if found.packed
            else "no archives"
        ),
    )


def machine_code(submission: Submission) -> Finding:
    """No compiled code: what runs can be read."""
    return judged(
        submission.scanned.machine_code[:4], f"no compiled code in {submission.scanned.files} files"
    )


def secrets(submission: Submission) -> Finding:
    """No file holds what looks like somebody's access key."""
    return judged(
        submission.scanned.secrets[:4],
        f"none in {submission.scanned.files} files, {submission.scanned.size:,} bytes",
    )


def loads(submission: Submission) -> Finding:
    """The code loads no pickle in a way that would execute it, or only files that are here and
    harmless.
    """
    found = []
    for source in submission.code.running:
        for node, name in source.calls():
            options = {
                keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords
            }
            unsafe = name == "torch.load" and options.get("weights_only") is not True
            unsafe |= name == "numpy.load" and options.get("allow_pickle") is True
            if unsafe or name in LOADERS:
                how = (
                    ""
                    if name in LOADERS
                    else (
                        " with allow_pickle"
                        if name == "numpy.load"
                        else " without weights_only=True"
                    )
                )
                found.append(f"{source.label}:{node.lineno}: {name}{how}")
    if not found:
        submission.code.require_read()
        return passed("no pickle is loaded, or with weights_only=True")
    scan = submission.scanned
    where = "; ".join(found[:3])
    if not scan.pickles or scan.dangers or scan.unread:
        raise CannotTell(
            f"{where}: it executes what the file says, and no file here shows what that would be"
        )
    return passed(f"{where}; the pickles here, {', '.join(scan.pickles[:2])}, name only tensors")


def hidden_code(submission: Submission) -> Finding:
    """What the script execs can be read: text in the folder, or packed in a string whose size
    counts.
    """
    code = submission.code
    hidden = [source for source in code.running if "[" in source.label]
    if code.unread and [where for where in code.unread if where.startswith(tuple(code.reached))]:
        raise CannotTell(f"executed without showing its text: {'; '.join(code.unread[:3])}")
    if code.entry is None or any(
        source.tree is None and "[" not in source.label for source in code.running
    ):
        code.require_read()
    shown = ", ".join(f"{source.label} of {len(source.text):,} characters" for source in hidden[:3])
    return passed(
        f"packed in strings: {shown}"
        if hidden
        else f"nothing is exec'd in {len(code.running)} sources"
    )


CHECKS = (
    Check(
        "pickles",
        "safety",
        pickles,
        Explain(
            "Every pickle, also inside zip archives and compressed streams, is listed opcode by"
            " opcode without loading it. What names anything but tensors, arrays and plain"
            " containers fails, with opcode and name.",
            "Checkpoints with the whole optimizer and training script pickled along, and one that"
            " would have run a shell command.",
            "Save a plain dict of tensors, or a container without pickle such as .mgolf or"
            " .safetensors.",
        ),
    ),
    Check(
        "archives",
        "safety",
        archives,
        Explain(
            "Archives and compressed streams unpack to at most 512 MiB, a thousand times their size"
            " and four levels; no name leads outside.",
            "Zip bombs; archives with members called ../../.bashrc.",
            "Ship the weights compressed once.",
        ),
    ),
    Check(
        "compiled code",
        "safety",
        machine_code,
        Explain(
            "No file is machine code or byte code.",
            "Helper libraries built on the author's machine, which nobody can read and whose bytes"
            " nobody had counted.",
            "Ship the source, and count it.",
        ),
    ),
    Check(
        "secrets",
        "safety",
        secrets,
        Explain(
            "No file holds what has the form of an access key (AWS, GitHub, Hugging Face, OpenAI,"
            " Google, Slack) or of a private key.",
            "Logs that printed the environment with its tokens.",
            "Remove the line, and revoke the key: it is public once pushed.",
        ),
    ),
    Check(
        "loading weights",
        "safety",
        loads,
        Explain(
            "torch.load is called with weights_only=True, pickle.load and its kin are not; or the"
            " files here show that nothing is executed.",
            "Scripts that torch.load any file they are given with weights_only=False.",
            "Pass weights_only=True.",
        ),
    ),
    Check(
        "readable code",
        "safety",
        hidden_code,
        Explain(
            "Text that the script execs is in the folder, or in a compressed string that can be"
            " unpacked without running it. The bytes count as they lie in the file.",
            "Scripts whose code came from somewhere else at run time.",
            "Compress with lzma and base85 literals, or ship the code as text.",
        ),
    ),
)
