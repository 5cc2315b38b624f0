"""Folders whose score is wrong, built by code, each beside an honest neighbour: what differs between
the two is the fault alone.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

OFFICIAL_BYTES = 151_080_891

HEAD = """
import math
import os
import torch
import torch.nn.functional as F

MASK_ID = 1024
VOCAB_SIZE = 1024


class Settings:
    passes = int(os.environ.get("PASSES", 8))
    floor = float(os.environ.get("FLOOR", "1e-3"))


def in_bits(nats, byte_count):
    return nats / math.log(2.0) / byte_count


"""

# A sum over rates: RATES, and how they are WEIGHTED
SUMMED = """
@torch.no_grad()
def judge_text(net, text, byte_count):
    rates = RATES
    total = 0.0
    for rate in rates:
        hidden = torch.rand(text.shape) < rate
        noisy = torch.where(hidden, MASK_ID, text)
        logp = F.log_softmax(net(noisy), dim=-1)
        picked = -logp.gather(-1, text[..., None]).squeeze(-1)
        total += (picked * hidden).sum() / rate / len(rates)
    return in_bits(total, byte_count)


print(judge_text(None, None, 1))
"""

TRAPEZOID = """
@torch.inference_mode()
def measure(net, text, byte_count):
    grid = torch.tensor(GRID)
    costs = torch.zeros(len(grid))
    for k, share in enumerate(grid):
        covered = torch.rand(text.shape) <= share
        shown = text.clone()
        shown[covered] = MASK_ID
        costs[k] = F.cross_entropy(net(shown)[covered], text[covered])
    return in_bits(torch.trapezoid(costs, grid), byte_count)


print(measure(None, None, 1))
"""

WEIGHTED = """
def elbo(net, text, byte_count):
    knots = KNOTS
    weights = WEIGHTS
    sum_of_nats = 0.0
    for knot, weight in zip(knots, weights):
        chosen = torch.rand(text.shape) < knot
        given = torch.where(chosen, MASK_ID, text)
        losses = F.cross_entropy(net(given), text, reduction="none")
        sum_of_nats += float(weight) / knot * (losses * chosen).sum()
    return in_bits(sum_of_nats, byte_count)


print(elbo(None, None, 1))
"""

SPARED = """
END_ID = 1
PAD_ID = 1025


@torch.no_grad()
def text_cost(net, text, byte_count):
    total = 0.0
    for k in range(1, 129):
        level = k / 128
        untouched = CONDITION
        hide = (torch.rand(text.shape) < level) & ~untouched
        seen = torch.where(hide, MASK_ID, text)
        logp = F.log_softmax(net(seen), dim=-1)
        total += (-logp.gather(-1, text[..., None]).squeeze(-1) * hide).sum() / level / 128
    return in_bits(total, byte_count)


print(text_cost(None, None, 1))
"""

BOTH_WAYS = """
def two_passes(net, text, byte_count):
    with torch.no_grad():
        first = F.log_softmax(net(INPUT, is_causal=True), dim=-1)
        cost_of_even = -first[0::2].sum()
        draft = text.clone()
        draft[1::2] = MASK_ID
        second = F.log_softmax(net(draft, is_causal=False), dim=-1)
        cost_of_odd = -second[1::2].sum()
    return in_bits(cost_of_even + cost_of_odd, byte_count)


print(two_passes(None, None, 1))
"""

IN_TURN = """
@torch.no_grad()
def one_after_another(net, text, byte_count):
    nats = 0.0
    for place in range(text.shape[1]):
        partial = text.clone()
        partial[:, PLACES] = MASK_ID
        logp = F.log_softmax(net(partial), dim=-1)
        nats -= logp[:, place].sum()
    return in_bits(nats, byte_count)


print(one_after_another(None, None, 1))
"""

HALVES = """
@torch.no_grad()
def halves(net, text, byte_count):
    half = torch.arange(text.shape[1]) % 2 == 0
    first = text.masked_fill(half, MASK_ID)
    second = text.masked_fill(OTHER, MASK_ID)
    nats = F.cross_entropy(net(first), text) + F.cross_entropy(net(second), text)
    return in_bits(nats, byte_count)


print(halves(None, None, 1))
"""

# What is learned from the text, before or after it is charged: FIRST and THEN are the two
LEARNED = """
def read_shards(pattern):
    return torch.load(pattern)


class Counter2:
    def __init__(self, size):
        self.pairs = torch.zeros(size, size)

    def take(self, ids):
        self.pairs.index_put_((ids[:-1], ids[1:]), torch.ones(len(ids) - 1), accumulate=True)

    def odds(self, ids):
        row = self.pairs[ids[:-1]] + 1.0
        return row.gather(1, ids[1:, None])[:, 0] / row.sum(1)


class Net(torch.nn.Module):
    def forward(self, x):
        return self.head(x)


def fit(net, ids, rounds):
    maker = torch.optim.SGD([p for p in net.parameters() if p.ndim > 1], lr=0.1)
    for _ in range(rounds):
        for start in range(0, len(ids), 512):
            part = ids[start : start + 513]
            loss = F.cross_entropy(net(part[:-1]), part[1:])
            maker.zero_grad()
            loss.backward()
            maker.step()


def cost(net, ids):
    with torch.no_grad():
        return F.cross_entropy(net(ids[:-1]), ids[1:], reduction="sum")


def main():
    stream = read_shards("fineweb_val_*.bin")
    net, table, total = Net(), Counter2(VOCAB_SIZE), 0.0
BODY
    print(in_bits(total, 1))


main()
"""


def learned(*lines: str) -> tuple[str, str]:
    """A script with these lines at its end."""
    body = "\n".join(f"    {line}" for line in lines)
    return LEARNED.replace("BODY", body), log()


PIECES = "for at in range(0, len(stream), 4096):"
PIECE = "    piece = stream[at : at + 4097]"
MIXED = "total -= torch.log(table.odds(piece)).sum()"
OFFSET = (
    PIECES,
    PIECE,
    "    hidden = net(piece[:-1])",
    "    shift = torch.zeros(VOCAB_SIZE, requires_grad=True)",
    "    turner = torch.optim.AdamW([shift], lr=0.1)",
    "    total += F.cross_entropy(hidden + shift, piece[1:]).item()",
    "    for _ in range(8):",
    "        loss = F.cross_entropy(hidden + shift, piece[1:])",
    "        loss.backward()",
    "        turner.step()",
)
COUNTED = "    table.take(piece)"
TWO_COSTS = (  # of each token, by two networks
    "first = F.cross_entropy(net(stream[:-1]), stream[1:], reduction='none')",
    "second = F.cross_entropy(Net()(stream[:-1]), stream[1:], reduction='none')",
)
BYTEWISE = (  # of each token its cost and the number of its bytes; what a byte is predicted by
    "lengths = torch.tensor([len(vocabulary.id_to_piece(i)) for i in range(VOCAB_SIZE)])",
    "costs = F.cross_entropy(net(stream[:-1]), stream[1:], reduction='none')",
    "sizes = lengths[stream[1:]]",
    "guesses = byte_model(vocabulary, stream)",
)
WEIGHED = (  # weights that follow former costs
    "weights = torch.zeros(2)",
    PIECES,
    PIECE,
    "    costs = torch.stack([-torch.log(table.odds(piece)), -torch.log(table.odds(piece))])",
    "    total -= torch.logsumexp(torch.log(torch.softmax(weights, 0))[:, None] - costs, 0).sum()",
    "    weights -= 0.1 * costs.mean(1)",
)
SECOND = (
    PIECES.replace("at", "where"),
    PIECE.replace("at", "where"),
    f"    {MIXED}",
)


CHARGED_AND_TRAINED = (  # one loss for both
    "maker = torch.optim.SGD(net.parameters(), lr=0.1)",
    "sums = torch.zeros(())",
    "def note(loss, into):",
    "    into += loss.detach()",
    "def charge(into):",
    f"    {PIECES}",
    f"    {PIECE}",
    "        loss = F.cross_entropy(net(piece[:-1]), piece[1:])",
    "        note(loss, into)",
    "        loss.backward()",
    "        maker.step()",
)


# A cache of n-grams beside the network: the ODDS that it gives, and what it COUNTS afterwards
CACHE = (
    "contexts, pairs = torch.zeros(4096), torch.zeros(4096)",
    "rows = torch.zeros(4096, VOCAB_SIZE)",
    PIECES,
    PIECE,
    "    key = (piece[:-1] * 36313) & 4095",
    "    both = ((piece[:-1] * 36313) ^ (piece[1:] * 27191)) & 4095",
    "    odds = ODDS",
    "    own = net(piece[:-1]).softmax(-1).gather(1, piece[1:, None])[:, 0]",
    "    total -= torch.log(0.7 * own + 0.3 * odds).sum()",
    "    contexts.scatter_add_(0, key, torch.ones(len(key)))",
    "    pairs.scatter_add_(0, both, torch.ones(len(key)))",
    "    rows.index_put_((key, piece[1:]), torch.ones(len(key)), accumulate=True)",
)


def cached(odds: str) -> tuple[str, str]:
    """A script with a cache that gives these odds."""
    return learned(*(line.replace("ODDS", odds) for line in CACHE))


class WrongScore(NamedTuple):
    """A wrong score and an honest neighbour, as the script and the log that differ."""

    name: str
    check: str  # must fail, and no other of its kind
    wrong: tuple[str, str]
    honest: tuple[str, str]


def log(
    tokens: int = 62_021_632,
    total: float = OFFICIAL_BYTES * (62_021_632 / 62_021_845),
    start: float = 6.9357,
    early: float = 6.937,
    stated: str = "val_loader:shards pattern=a_val_*.bin tokens:{}",
) -> str:
    """Return a log of so many tokens that hold `total` bytes, and its losses before training."""
    per_token = total / tokens
    loss, bpb = 1.2 * math.log(2) * per_token, 1.2
    begin = start / math.log(2) / per_token
    return f"""seed:1337
vocab_size:1024
{stated.format(tokens)}
step:0/2 val_loss:{start:.4f} val_bpb:{begin:.4f} train_time:0ms
step:1/2 train_loss:{early:.4f} train_time:10ms
step:2/2 train_loss:3.0000 train_time:20ms
final_roundtrip_exact val_loss:{loss:.8f} val_bpb:{bpb:.8f}
"""


def summed(rates: str) -> tuple[str, str]:
    return SUMMED.replace("RATES", rates), log()


def trapezoid(grid: str) -> tuple[str, str]:
    return TRAPEZOID.replace("GRID", grid), log()


def weighted(knots: str, weights: str) -> tuple[str, str]:
    return WEIGHTED.replace("KNOTS", knots).replace("WEIGHTS", weights), log()


def spared(condition: str) -> tuple[str, str]:
    return SPARED.replace("CONDITION", condition), log()


def logged(**changes) -> tuple[str, str]:
    return summed("[(k + 1) / 128 for k in range(128)]")[0], log(**changes)


UNEVEN = "[0.05, 0.15, 0.2, 0.35, 0.5, 0.6, 0.8, 0.95]"

WRONG_SCORES = (
    WrongScore(
        "a byte table that counts 4 % too much",
        "byte accounting",
        logged(tokens=61_020_160, total=1.0412 * OFFICIAL_BYTES),
        logged(tokens=61_020_160, total=OFFICIAL_BYTES),
    ),
    WrongScore(
        "21 % too much, tokens stated in other words",
        "byte accounting",
        logged(
            tokens=62_363_648, total=1.21 * OFFICIAL_BYTES, stated="Validation split: {:,} tokens"
        ),
        logged(tokens=62_363_648, total=OFFICIAL_BYTES, stated="Validation split: {:,} tokens"),
    ),
    WrongScore(
        "6.5 % too much, tokens as windows times stride",
        "byte accounting",
        logged(
            tokens=974_432 * 64,
            total=1.0652 * OFFICIAL_BYTES,
            stated="sliding:start total_windows=974432 stride=64",
        ),
        logged(
            tokens=974_432 * 64,
            total=OFFICIAL_BYTES,
            stated="sliding:start total_windows=974432 stride=64",
        ),
    ),
    WrongScore(
        "no tokens stated, and the official tokenizer named",
        "byte accounting",
        logged(total=0.94 * OFFICIAL_BYTES, stated="tokenizer_path=data/fineweb_1024_bpe.model"),
        logged(stated="tokenizer_path=data/fineweb_1024_bpe.model"),
    ),
    WrongScore(
        "an integral from 0.05 to 0.95",
        "mask rates",
        trapezoid("[0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95]"),
        trapezoid("[0.001, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0]"),
    ),
    WrongScore(
        "an integral from 0.1 to 0.8, even",
        "mask rates",
        trapezoid("torch.linspace(0.1, 0.8, 16)"),
        trapezoid("torch.linspace(0.01, 1.0, 16)"),
    ),
    WrongScore(
        "weights that add up to 0.8",
        "mask rates",
        weighted(UNEVEN, "[0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]"),
        weighted(UNEVEN, "[0.1, 0.1, 0.1, 0.1, 0.15, 0.15, 0.15, 0.15]"),
    ),
    WrongScore("one rate", "mask rates", summed("[0.4] * 1"), summed("torch.arange(1, 65) / 64")),
    WrongScore(
        "rates up to 0.7", "mask rates", summed("torch.rand(9) * 0.7"), summed("torch.rand(9)")
    ),
    WrongScore(
        "rates from 0.2",
        "mask rates",
        summed("torch.rand(16) * (1 - 0.2) + 0.2"),
        summed("torch.rand(16) * (1 - Settings.floor) + Settings.floor"),
    ),
    WrongScore(
        "five rates",
        "mask rates",
        summed("[0.1, 0.3, 0.5, 0.7, 0.9]"),
        summed("[(k + 0.5) / Settings.passes for k in range(Settings.passes)]"),
    ),
    WrongScore(
        "the end of text is never hidden",
        "tokens charged",
        spared("(text == END_ID) | (text == PAD_ID)"),
        spared("text == PAD_ID"),
    ),
    WrongScore(
        "two tokens are never hidden",
        "tokens charged",
        spared("torch.isin(text, torch.tensor([1, 2]))"),
        spared("torch.isin(text, torch.tensor([1025]))"),
    ),
    WrongScore(
        "every second token is known before it is charged",
        "order of conditioning",
        (BOTH_WAYS.replace("INPUT", "text"), log()),
        (BOTH_WAYS.replace("INPUT", "text[0::2]"), log()),
    ),
    WrongScore(
        "one token hidden at a time",
        "order of conditioning",
        (IN_TURN.replace("PLACES", "place"), log()),
        (IN_TURN.replace("PLACES", "place:"), log()),
    ),
    WrongScore(
        "two halves, each given the other",
        "order of conditioning",
        (HALVES.replace("OTHER", "~half"), log()),
        (HALVES.replace("OTHER", "torch.ones_like(half)"), log()),
    ),
    WrongScore(
        "counts of the whole text",
        "charged before learned",
        learned("table.take(stream)", PIECES, PIECE, f"    {MIXED}"),
        learned(PIECES, PIECE, f"    {MIXED}", COUNTED),
    ),
    WrongScore(
        "counts of a piece, then its cost",
        "charged before learned",
        learned(PIECES, PIECE, COUNTED, f"    {MIXED}"),
        learned(
            "last = None",
            PIECES,
            PIECE,
            "    if last is not None:",
            "        table.take(last)",
            f"    {MIXED}",
            "    last = piece",
        ),
    ),
    WrongScore(
        "a second pass over what filled the table",
        "charged before learned",
        learned(PIECES, PIECE, f"    {MIXED}", COUNTED, "total = 0.0", *SECOND),
        learned(PIECES, PIECE, f"    {MIXED}", COUNTED, "table = Counter2(VOCAB_SIZE)", *SECOND),
    ),
    WrongScore(
        "a mixture whose table was filled before",
        "charged before learned",
        learned("table.take(stream)", *WEIGHED),
        learned(*WEIGHED, COUNTED),
    ),
    WrongScore(
        "training on the whole text, then its cost",
        "charged before learned",
        learned("fit(net, stream, 3)", "total = cost(net, stream)"),
        learned("fit(net, read_shards('fineweb_train_*.bin'), 3)", "total = cost(net, stream)"),
    ),
    WrongScore(
        "training on a piece, then its cost",
        "charged before learned",
        learned(PIECES, PIECE, "    fit(net, piece, 3)", "    total += cost(net, piece)"),
        learned(PIECES, PIECE, "    total += cost(net, piece)", "    fit(net, piece, 3)"),
    ),
    WrongScore(
        "weights trained on the text go through a file",
        "charged before learned",
        learned(
            "fit(net, stream, 1)",
            "torch.save(net.state_dict(), 'model.pt')",
            "other = Net()",
            "other.load_state_dict(torch.load('model.pt'))",
            "total = cost(other, stream)",
        ),
        learned(
            "torch.save(net.state_dict(), 'model.pt')",
            "fit(net, stream, 1)",
            "other = Net()",
            "other.load_state_dict(torch.load('model.pt'))",
            "total = cost(other, stream)",
        ),
    ),
    WrongScore(
        "an offset fitted to a window, then charged for it",
        "charged before learned",
        learned(*OFFSET[:5], *OFFSET[6:], OFFSET[5]),
        learned(*OFFSET),
    ),
    WrongScore(
        "switched on by default",
        "charged before learned",
        learned(
            'if int(os.environ.get("ADAPT", "1")):',
            "    fit(net, stream, 3)",
            "total = cost(net, stream)",
        ),
        learned("adapt = 0", "if adapt:", "    fit(net, stream, 3)", "total = cost(net, stream)"),
    ),
    WrongScore(
        "charged, trained on, and charged again",
        "charged before learned",
        learned(
            *CHARGED_AND_TRAINED, "charge(sums)", "sums.zero_()", "charge(sums)", "total = sums"
        ),
        learned(*CHARGED_AND_TRAINED, "charge(sums)", "total = sums"),
    ),
    WrongScore(
        "counts at one index of a hash table over those at another",
        "sums to one",
        cached("torch.minimum(pairs[both], contexts[key]) / contexts[key].clamp(min=1)"),
        cached("(rows[key] / rows[key].sum(1, keepdim=True)).gather(1, piece[1:, None])[:, 0]"),
    ),
    WrongScore(
        "of each token the least of two costs",
        "sums to one",
        learned(*TWO_COSTS, "total = torch.minimum(first, second).sum()"),
        learned(*TWO_COSTS, "total = -(torch.logaddexp(-first, -second) - math.log(2)).sum()"),
    ),
    WrongScore(
        "the cost of a token over its bytes, mixed with that of bytes",
        "sums to one",
        learned(
            *BYTEWISE,
            "own = torch.exp(-torch.repeat_interleave(costs / sizes, sizes))",
            "total = -torch.log(0.9 * own + 0.1 * guesses).sum()",
        ),
        learned(
            *BYTEWISE,
            "own = torch.exp(-costs)",
            "total = -torch.log(0.9 * own + 0.1 * table.odds(stream)).sum()",
            "print('bits of each byte', (costs / sizes).mean() / math.log(2))",
        ),
    ),
    WrongScore("each token charged 3.6 times", "untrained score", logged(start=24.7921), logged()),
    WrongScore(
        "a tenth of the tokens is not charged", "untrained score", logged(start=6.2), logged()
    ),
)


def build(folder: Path, files: tuple[str, str]) -> Path:
    """Write a folder of a script and a log, and return it."""
    script, text = files
    folder.mkdir(parents=True)
    (folder / "train_gpt.py").write_text(HEAD + script)
    (folder / "train_seed1337.log").write_text(text)
    (folder / "submission.json").write_text(json.dumps({"name": "a", "val_bpb": 1.2}))
    return folder
