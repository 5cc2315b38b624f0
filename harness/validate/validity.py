"""Checks of validity: is the score a code length? Each conditional sums to 1 and depends on nothing
but what was revealed before.
"""

from harness.validate.finding import CannotTell, Check, Explain, Finding, judged
from harness.validate.opened import MOST_TOKENS, Model, model, once, text
from harness.validate.submission import Submission

WINDOWS = 4  # that the probes look at
PROBED = 12  # tokens of each: a chain takes a pass per token
ORDERS = ("left-to-right", "random", "confidence", "entropy", "margin", "block")
SOURCES = (
    ".py",
    ".json",
    ".txt",
    ".toml",
    ".yaml",
    ".yml",
    ".cfg",
    ".csv",
    ".model",
    ".vocab",
    ".npy",
    ".npz",
    ".sh",
)


def sample(submission: Submission, opened: Model, length: int):
    """Return windows ids_NL: of the validation text where it was given and fits the model, else
    random tokens.
    """
    import numpy as np

    shape, vocab = opened.recipe.model, opened.recipe.model.vocab
    length = min(length, shape.length)
    try:
        ids = text(submission).ids(WINDOWS * length)
    except CannotTell:
        ids = np.zeros(0, np.int64)
    if len(ids) < WINDOWS * length or ids.max() >= vocab:
        ids = np.random.default_rng(0).integers(0, vocab, WINDOWS * length)
    return ids.astype(np.int64).reshape(WINDOWS, length)


def normalised(submission: Submission) -> Finding:
    """Probabilities sum to 1 in the contexts that a score asks for."""
    import torch

    from fast.objective import objective_of
    from harness.validate import probes

    opened = model(submission)
    shape = opened.recipe.model
    ids_NL = sample(submission, opened, shape.length)
    contexts_BL, asked_BL = probes.masked_contexts(ids_NL, shape.vocab)
    if not objective_of(shape).mask_token:
        contexts_BL, asked_BL = torch.from_numpy(ids_NL), torch.ones(ids_NL.shape, dtype=torch.bool)
    found = probes.mass(opened.log_probs, contexts_BL, asked_BL)
    return unsummed(found)


def unsummed(found) -> Finding:
    """Judge a probes.Mass."""
    evidence = (
        f"|log of the sum| at most {found.error:.1e} over {found.distributions:,} distributions,"
        f" rounding allows {found.limit:.1e}"
    )
    return judged([] if found.error <= found.limit else [evidence], evidence)


def scorers(opened: Model) -> dict:
    """Return the scorers of a model by the name of their order."""
    from fast.objective import objective_of
    from harness.validate import probes

    if objective_of(opened.recipe.model).exact == "causal":
        return {"left-to-right": probes.causal_scorer(opened.log_probs)}
    return {
        order: probes.chain_scorer(opened.log_probs, opened.recipe.model.vocab, order)
        for order in ORDERS
    }


def _others(ids_NL, vocab: int):
    """Return windows that differ from ids_NL at every position."""
    import numpy as np

    return (ids_NL + np.random.default_rng(1).integers(1, vocab, ids_NL.shape)) % vocab


def look_ahead(named: dict, ids_NL, vocab: int) -> dict:
    """Return {order: probes.Foresight} of scorers by the name of their order."""
    from harness.validate import probes

    length = ids_NL.shape[1]
    cuts = tuple(sorted({1, length // 4, length // 2, length - 1} - {0}))
    return {
        order: probes.foresight(scorer, ids_NL, _others(ids_NL, vocab), cuts)
        for order, scorer in named.items()
    }


@once
def _looked(submission: Submission) -> dict:
    opened = model(submission)
    return look_ahead(
        scorers(opened), sample(submission, opened, PROBED), opened.recipe.model.vocab
    )


def unchanged_charges(found: dict) -> Finding:
    """Judge the distributions that look_ahead compared, and whether the charges are read from
    them.
    """
    from harness.validate import probes

    said = "replacing what is still hidden changes a log-probability by"
    faults = [
        f"{order}: {said} {each.nats:.3g}"
        for order, each in found.items()
        if not each.nats <= probes.NATS_LIMIT
    ]
    faults += [
        f"{order}: a charge is {each.misread:.3g} nats off the distribution it is read from"
        for order, each in found.items()
        if not each.misread <= probes.NATS_LIMIT
    ]
    worst, compared = (
        max(each.nats for each in found.values()),
        sum(each.compared for each in found.values()),
    )
    return judged(
        faults,
        f"hidden tokens replaced: {compared:,} distributions along {', '.join(found)} changed by at"
        f" most {worst:.1e}",
    )


def no_peeking(submission: Submission) -> Finding:
    """Charges do not change with what is still hidden."""
    return unchanged_charges(_looked(submission))


def unchanged_order(found: dict) -> Finding:
    """Judge the places that look_ahead compared."""
    said = "replacing what is still hidden moves"
    faults = [
        f"{order}: {said} {each.moved} positions in the order"
        for order, each in found.items()
        if each.moved
    ]
    return judged(faults, f"hidden tokens replaced: no position moved along {', '.join(found)}")


def blind_order(submission: Submission) -> Finding:
    """The order does not change with what is still hidden."""
    return unchanged_order(_looked(submission))


def charged_once(found: dict) -> Finding:
    """Judge whether each scorer charged every position of a window exactly once."""
    faults = [
        f"{order}: {each.not_once} windows charge a position twice or never"
        for order, each in found.items()
        if each.not_once
    ]
    return judged(faults, f"each position charged once along {', '.join(found)}")


def each_once(submission: Submission) -> Finding:
    """Every token of the validation text is scored once: windows cover it, and a window charges
    each position once.
    """
    import numpy as np

    from fast import data
    from harness.validate import probes

    opened, found = model(submission), charged_once(_looked(submission))
    try:
        given = text(submission)
    except CannotTell:
        return found
    if found.verdict != "pass":
        return found
    groups = data.evaluation_windows(given.validation, opened.recipe.model.length, None)
    tokens = len(given.validation)
    wrong = probes.uncovered(groups, np.asarray(given.validation.read(0, tokens)))
    faults = (
        [f"{wrong:,} of {tokens:,} validation tokens are missed, repeated or altered"]
        if wrong
        else []
    )
    return judged(faults, f"{found.evidence}; windows cover all {tokens:,} validation tokens once")


def readable(ids, tokenizer) -> bytes:
    """Return the bytes that token ids stand for, piece by piece: control tokens are line ends."""
    import numpy as np

    pieces = []
    for token in range(tokenizer.vocab):
        processor = tokenizer.processor
        piece = processor.id_to_piece(token)
        plain = piece.replace("\u2581", " ").encode()
        pieces.append(
            bytes([int(piece[3:5], 16)])
            if processor.is_byte(token)
            else b"\n"
            if tokenizer.table.control_V[token]
            else plain
        )
    flat = np.frombuffer(b"".join(pieces), np.uint8)
    lengths = np.array([len(piece) for piece in pieces])
    starts = np.cumsum(lengths) - lengths
    parts = []
    for first in range(0, len(ids), 1 << 22):
        some = ids[first : first + (1 << 22)]
        before = np.cumsum(lengths[some]) - lengths[some]
        parts.append(
            flat[
                np.repeat(starts[some] - before, lengths[some]) + np.arange(lengths[some].sum())
            ].tobytes()
        )
    return b"".join(parts)


def hidden_text(submission: Submission) -> Finding:
    """Neither the artifact nor the code holds long stretches of the validation text."""
    import numpy as np

    from harness.validate import hidden

    given = text(submission)
    ids = np.asarray(given.ids(MOST_TOKENS), np.int64)
    known = (
        np.asarray(given.ids(MOST_TOKENS, "train"), np.int64)
        if given.train
        else np.zeros(0, np.int64)
    )
    kinds = {
        "text": hidden.Anchors(readable(ids, given.tokenizer), readable(known, given.tokenizer)),
        "token ids": hidden.Anchors(ids.astype("<u2").tobytes(), known.astype("<u2").tobytes()),
    }
    faults, longest, looked = [], 0, 0
    for name in searched(submission):
        for where, layer in opened_layers(submission, name):
            looked += len(layer)
            plain = (
                layer.isascii() and b"\0" not in layer
            )  # ids of 16 bits hold zeros or high bytes
            spelled = () if plain else hidden.spellings(layer)
            runs = {
                "text": [kinds["text"].longest(layer)],
                "token ids": [kinds["token ids"].longest(each) for each in spelled],
            }
            for kind, found in runs.items():
                best = max(found, default=hidden.Run(0, 0, 0))
                longest = max(longest, best.anchors)
                if best.anchors >= hidden.LEAST_RUN:
                    faults.append(
                        f"{where}: {hidden.BLOCK * best.anchors} bytes of validation {kind} from"
                        f" byte {best.at:,} on"
                    )
    anchors = sum(len(kind.keys) for kind in kinds.values())
    share = (
        f"{looked:,} bytes against {anchors:,} blocks of {len(ids):,} validation tokens that no"
        " training text holds"
    )
    chance = anchors * looked / 2.0**64
    return judged(
        faults[:5],
        f"{share}: longest stretch {hidden.BLOCK * longest} bytes ({chance:.0e} blocks expected by"
        " chance)",
    )


def searched(submission: Submission) -> list[str]:
    """Return the files that a score is made from: artifacts, code and data beside it; not the log
    and the README.
    """
    logs = {log.name for log in submission.logs}
    named = [
        name for name in submission.files if name.lower().endswith(SOURCES) and name not in logs
    ]
    return [
        name
        for name in dict.fromkeys([*submission.artifacts, *named])
        if not name.lower().endswith(("requirements.txt", ".md"))
    ]


def opened_layers(submission: Submission, name: str):
    """Yield (where, bytes) of a file: as it is, and all that can be unpacked from it."""
    from fast import codec, container
    from harness.validate import hidden

    try:
        data = submission.read(name)
    except CannotTell:
        return
    yield from hidden.layers(name, data)
    if name.endswith(".mgolf"):
        try:
            header, payload = container.read_header(data)
            container.check_table(header["tensors"], header["raw_bytes"])
            ends = container.boundaries(header["tensors"])
            yield (
                f"{name}, unpacked",
                codec.decompress(payload, header["raw_bytes"], ends, header["codec"]),
            )
        except (ValueError, KeyError, TypeError):
            return


CHECKS = (
    Check(
        "normalised",
        "validity",
        normalised,
        Explain(
            "The artifact, reloaded, gives probabilities that sum to 1 over the vocabulary, with"
            " one token hidden, all hidden and some hidden.",
            "Mixtures with an n-gram cache that were not renormalised, and scores of the true token"
            " alone that were divided by a hand-made sum.",
            "Take one log-softmax over the whole vocabulary after everything is mixed, in float32.",
        ),
    ),
    Check(
        "no peeking",
        "validity",
        no_peeking,
        Explain(
            "Tokens that are not yet revealed are replaced by others; the distributions up to there"
            " must stay the same: along every evaluation order for masked diffusion, for all"
            " earlier positions and the next one of an autoregressive model.",
            "Attention without its causal mask, caches updated with a window before the window is"
            " scored, targets shifted the wrong way.",
            "Score a token before anything that depends on it is computed.",
        ),
    ),
    Check(
        "order without targets",
        "validity",
        blind_order,
        Explain(
            "Tokens that are not yet revealed are replaced by others; the order in which positions"
            " are revealed must stay the same.",
            "Confidence taken from the probability of the true token, and the best of several"
            " orders chosen per sequence.",
            "Choose the next position from the model's distributions over what is revealed.",
        ),
    ),
    Check(
        "each token once",
        "validity",
        each_once,
        Explain(
            "A window charges each of its positions exactly once, and windows cover the validation"
            " split without gap or overlap.",
            "Sliding windows that dropped the last tokens, and evaluations of the first few hundred"
            " sequences only.",
            "Score every window, the short last one too, and count what was scored.",
        ),
    ),
    Check(
        "hidden validation text",
        "validity",
        hidden_text,
        Explain(
            "No stretch of 64 bytes of validation text, or of 32 validation tokens, lies in the"
            " artifact, in what it unpacks to, or in the code, base64, base85, compressed strings"
            " and lists of integers included. Stretches that the training text holds too do not"
            " count.",
            "A compressed prefix of the validation set in the artifact, whose tokens then cost"
            " nothing.",
            "Leave validation data out of everything that ships.",
        ),
    ),
)
