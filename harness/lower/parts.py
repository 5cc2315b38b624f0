"""Whose work a generated kernel does, told from the lines of fast/ behind its operations."""

import re
from collections import Counter
from collections.abc import Iterable

from torch.fx import Node

from harness.lower import counts

UPDATE = "update"
CHOICE = "choice and draw"
OTHER = "norms and residuals"
# Choose, and call the network: what they do themselves is a choice.
CALLERS = ("orders", "sample", "chain")
RULES = (  # (part, pattern of "file:function: code", one line per frame); the first match wins
    (UPDATE, r"^(muon|adam|ema):|:_updated?_?:"),
    ("masks and random draws", r"^philox:|^masking:(mask|corrupt|masked_positions):"),
    ("RoPE and heads", r":\w*(rope|rotat|head|atten|project|split|shared)\w*:"),
    ("relu² and MLP", r":\w*(mlp|relu)\w*:|relu"),
    ("loss and head", r"^masking:|softcap|logits"),
    ("embedding", r"embedd"),
)
FRAME = re.compile(r'File "[^"]*?/?fast/(\w+)\.py", line \d+, in (\w+)\n\s*(.*)')


def part_of_trace(trace: str) -> str:
    """Return the part that one operation belongs to, by the stack trace that Dynamo keeps of it."""
    frames = FRAME.findall(trace)
    if frames and frames[-1][0] in CALLERS:
        return CHOICE
    called = [frame for frame in frames if frame[0] not in CALLERS]
    lines = "\n".join(f"{file}:{function}: {code}" for file, function, code in called)
    matching = (part for part, pattern in RULES if re.search(pattern, lines, re.MULTILINE))
    return next(matching, OTHER)


def part_of(origins: Iterable[Node], phase: str) -> str:
    """Return the part whose operations write most of what the origins of a kernel write.

    A kernel is fused from several parts' operations; views and library calls write nothing in it.
    """
    if phase == UPDATE:
        return UPDATE
    written = Counter()
    for node in origins:
        if node.op != "call_function" or counts.name_of(node) in counts.VIEWS:
            continue
        if not counts.flops_of(node):
            trace = node.meta.get("stack_trace") or ""
            written[part_of_trace(trace)] += counts.size_of(node.meta.get("val")) + 1
    return written.most_common(1)[0][0] if written else OTHER
