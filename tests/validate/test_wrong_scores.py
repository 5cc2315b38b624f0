"""Wrong scores that no file contradicts: each is caught by its check and by no other, and its honest
neighbour passes.
"""

import ast
import math
import re

import pytest

from harness.validate import CHECKS, hiding, learning, validate
from harness.validate.checks import likelihood, score, validity
from harness.validate.checks import log as log_checks
from harness.validate.source import parse
from harness.validate.spans import Frame, Span, program
from harness.validate.submission import Options, Submission
from harness.validate.verdict import CannotTell
from tests.support.checks import registered
from tests.validate.submissions.wrong_scores import (
    BYTEWISE,
    COUNTED,
    HEAD,
    OFFSET,
    PIECE,
    PIECES,
    SUMMED,
    TWO_COSTS,
    WEIGHED,
    WRONG_SCORES,
    build,
    cached,
    learned,
    log,
)

OF_SCORE = tuple(check for check in CHECKS if check.group in ("score", "likelihood"))
names = {"ids": lambda case: case.name}


@pytest.mark.parametrize("case", WRONG_SCORES, **names)
def test_a_wrong_score_is_caught_by_its_check_alone(case, tmp_path):
    for kind, files in (("wrong", case.wrong), ("honest", case.honest)):
        rows = validate(build(tmp_path / kind, files), checks=OF_SCORE)
        failures = {row["check"]: row["evidence"] for row in rows if row["verdict"] == "fail"}
        assert list(failures) == ([case.check] if kind == "wrong" else []), failures
        [row] = [row for row in rows if row["check"] == case.check]
        assert row["verdict"] == ("fail" if kind == "wrong" else "pass"), row["evidence"]
        assert not [row for row in rows if row["evidence"].startswith("the check itself failed")]


def test_every_check_of_the_likelihood_has_caught_something():
    assert {check.name for check in CHECKS if check.group == "likelihood"} <= {
        case.check for case in WRONG_SCORES
    }


def submission(folder, script, text=""):
    """A folder of a script and a log."""
    return Submission(build(folder, (script, text or log())), Options())


def assert_says(function, folder, verdict, reason):
    """A check passes or fails; where another verdict is expected, it cannot tell for this reason."""
    if verdict in ("pass", "fail"):
        assert registered(function)(folder).verdict == verdict
    else:
        with pytest.raises(CannotTell, match=reason):
            registered(function)(folder)


# What an expression can be


def spanned(code: str, name: str = "x") -> Span | None:
    """The values of a name at the end of a program."""
    tree = ast.parse(code)
    return Frame(program(tree), tree).span(ast.Name(name, ast.Load()))


@pytest.mark.parametrize(
    ("code", "points"),
    [
        ("x = 0.5", (0.5,)),
        ("y = [0.25, 0.5]\nx = y[1]", (0.5,)),
        ("y = [0.25, 0.5]\nx = 1 - y", None),
        ("x = torch.tensor([0.25, 0.5]).to(device)", (0.25, 0.5)),
        ("for x in [0.25, 0.5]: pass", (0.25, 0.5)),
        ("for i, x in enumerate((0.25, 0.5)): pass", (0.25, 0.5)),
        ("for x, w in zip([0.25, 0.5], [1, 2]): pass", (0.25, 0.5)),
        ("x = torch.linspace(0, 1, 3)", (0.0, 0.5, 1.0)),
        ("x = np.linspace(0, 1, num=3)", (0.0, 0.5, 1.0)),
        ("n = 4\nx = torch.arange(1, n + 1) / n", (0.25, 0.5, 0.75, 1.0)),
        ("n = 2\nx = [(k + 0.5) / n for k in range(n)]", (0.25, 0.75)),
        ("class A:\n  r: float = 0.3\nx = A().r", (0.3,)),
        ('p.add_argument("--my-rate", default=0.3)\nx = args.my_rate', (0.3,)),
        ('x = float(os.environ.get("R", "0.3"))', (0.3,)),
        ("def f(a, b=0.25): return a * b\nx = f(2)", (0.5,)),
        ("def f(a): return a, 1 - a\nu, x = f(0.25)", (0.75,)),
        ("x = max(0.5, 0.75)", (0.5, 0.75)),
    ],
)
def test_points_are_read_off(code, points):
    span = spanned(code)
    if points is None:
        assert span is not None and span.low == 0.5 and span.high == 0.75
    else:
        assert span.points == pytest.approx(points)


@pytest.mark.parametrize(
    ("code", "low", "high"),
    [
        ("x = torch.rand(3)", 0, 1),
        ("x = torch.rand(3) * 0.9 + 0.1", 0.1, 1.0),
        ("x = torch.empty(3).uniform_(0.15, 0.85)", 0.15, 0.85),
        ("x = random.uniform(0.15, 0.85)", 0.15, 0.85),
        ("t = torch.rand(3)\nx = torch.cat([t, 1 - t])[:3].clamp(1e-3, 0.9)", 1e-3, 0.9),
        ("t = torch.rand(3)\nx = torch.cos(t * math.pi / 2)", 0, 1),
        ("t = torch.rand(3)\nx = 1 - torch.exp(-2 * t)", 0, 1 - math.exp(-2)),
    ],
)
def test_intervals_are_read_off(code, low, high):
    span = spanned(code)
    assert span.points is None
    assert (span.low, span.high) == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize(
    "code",
    [
        "x = 0.05\nx += 0.05",
        "x = unknown(0.5)",
        "x = other",
        "x = [0.5, other]",
        "x = 1 / 0",
        "def x(): pass",
        "x = x",
        "x = f\ndef f(a): return f(a)\nx = f(1)",
    ],
)
def test_what_cannot_be_followed_is_not_guessed(code):
    assert spanned(code) is None


# Where the method cannot be followed


def test_a_rate_that_cannot_be_followed_is_named_with_its_line(tmp_path):
    script = SUMMED.replace("RATES", "schedule_of(net)")
    with pytest.raises(CannotTell, match=r"^train_gpt.py:26: the rate of torch.rand\(text.shape"):
        registered(likelihood.mask_rates)(submission(tmp_path / "a", script))


def test_two_ways_of_scoring_cannot_be_told_apart(tmp_path):
    """One rate beside a whole integral: nothing says which is the score."""
    one = SUMMED.replace("RATES", "[0.5]").replace("judge_text", "diagnose_text")
    whole = SUMMED.replace("RATES", "torch.rand(64)")
    with pytest.raises(CannotTell, match="at one rate, 0.5.*nothing says which of them is the sc"):
        registered(likelihood.mask_rates)(submission(tmp_path / "a", one + whole))


def test_a_helper_gets_its_rate_from_who_calls_it(tmp_path):
    helper = """
def cover(text, share):
    hidden = torch.rand(text.shape) < share
    return torch.where(hidden, MASK_ID, text), hidden


@torch.no_grad()
def at(net, text, share):
    shown, hidden = cover(text, share)
    return (F.cross_entropy(net(shown), text, reduction="none") * hidden).sum() / share


def evaluate(net, text, byte_count):
    loss = sum(at(net, text, k / COUNT) for k in range(1, COUNT + 1)) / COUNT
    return in_bits(loss, byte_count)


print(evaluate(None, None, 1))
"""
    good = submission(tmp_path / "a", "COUNT = 64\n" + helper)
    assert registered(likelihood.mask_rates)(good).verdict == "pass"
    short = helper.replace("range(1, COUNT + 1)", "range(1, COUNT // 2)")
    reply = registered(likelihood.mask_rates)(submission(tmp_path / "b", "COUNT = 64\n" + short))
    assert reply.verdict == "fail" and "of (0, 1]" in reply.evidence


def test_masks_of_training_and_of_dropout_are_no_score(tmp_path):
    training = """
def train_step(net, text):
    hidden = torch.rand(text.shape) < 0.15
    loss = F.cross_entropy(net(torch.where(hidden, MASK_ID, text)), text)
    loss.backward()


@torch.no_grad()
def evaluate(net, text):
    kept = torch.rand(text.shape) < 0.9
    return F.cross_entropy(net(text) * kept, text)


train_step(None, None), evaluate(None, None)
"""
    reply = registered(likelihood.mask_rates)(submission(tmp_path / "a", training))
    assert reply == ("pass", "no mask is drawn at a rate where text is scored")


def test_a_script_named_after_scoring_is_read_though_nothing_runs_it(tmp_path):
    one = submission(tmp_path / "a", "\nprint(1)\n")
    for name, verdict in (("notes.py", "pass"), ("eval_masked.py", "fail")):
        (one.root / name).write_text(HEAD + SUMMED.replace("RATES", "[0.5]"))
        again = Submission(one.root, Options())
        assert registered(likelihood.mask_rates)(again).verdict == verdict


def test_a_loss_that_ignores_a_token_of_the_text(tmp_path):
    script = """
@torch.no_grad()
def evaluate(net, text):
    return F.cross_entropy(net(text[:-1]), text[1:], ignore_index=IGNORED)


print(evaluate(None, None))
"""
    for i, (ids, verdict) in enumerate((("1", "fail"), ("-100", "pass"), ("1025", "pass"))):
        folder = submission(tmp_path / str(i), f"IGNORED = {ids}\n" + script)
        assert registered(likelihood.tokens_charged)(folder).verdict == verdict


# A part of the text


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        ("max_eval_seqs:512 eval_seq_len:1024", "fail"),
        ("MAX_EVAL_SEQS=512", "the script scores at most 512"),  # of which length?
        ("val_max_tokens: 500000", "fail"),
        ("val_max_tokens: 0", "pass"),
        ("limit_val_tokens: 62021845", "pass"),
        ("eval_batch_seqs:32 eval_seq_len:1024", "pass"),
        ("final eval: scored 512 of 60,568 sequences", "fail"),
        ("final eval: 60,568/60,568 sequences scored", "pass"),
        ("val_loss of a step is on the first 64 of 152 windows", "pass"),
        ("evaluating [ 0.1%] 64/60,568 windows running_bpb=1.2", "pass"),
    ],
)
def test_a_part_of_the_text_is_no_score_of_it(line, verdict, tmp_path):
    folder = submission(tmp_path / "a", "", f"{line}\n{log()}")
    assert_says(score.tokens_and_bytes, folder, verdict, verdict)


@pytest.mark.parametrize(
    ("code", "sh", "verdict"),
    [
        ('n = int(os.environ.get("VAL_MAX_TOKENS", "500000"))', "", "fail"),
        ('n = int(os.environ.get("VAL_MAX_TOKENS", "0"))', "", "pass"),
        ('n = int(os.environ.get("VAL_MAX_TOKENS", "0"))', "VAL_MAX_TOKENS=99 python a", "fail"),
        ('n = int(os.environ.get("VAL_MAX_TOKENS", "500000"))', "VAL_MAX_TOKENS=0", "nothing sh"),
        ("rows = min(500, (val_tokens.numel() - 1) // 1024)", "", "train_gpt.py:20: min"),
        ("part = val_tokens[:500_000]", "", "train_gpt.py:20: val_tokens"),
        ("part = val_tokens[:-1]", "", "pass"),
    ],
)
def test_a_limit_of_the_script_is_named(code, sh, verdict, tmp_path):
    text = log(stated="nothing:{}")
    folder = submission(tmp_path / "a", code, text)
    (folder.root / "run.sh").write_text(sh)
    again = Submission(folder.root, Options())
    if verdict == "fail":
        assert registered(score.tokens_and_bytes)(again).verdict == verdict
    else:
        told = "neither JSON nor log says" if verdict == "pass" else verdict
        with pytest.raises(CannotTell, match=told):
            registered(score.tokens_and_bytes)(again)


# Learned before it is charged


@pytest.mark.parametrize(
    ("default", "told", "verdict"),
    [
        ("0", "", "nothing shows ADAPT"),
        ("0", "adapt:1", "fail"),
        ("0", "adapt:True", "fail"),
        ("0", "adapt:0", "pass"),
        ("1", "adapt:False", "pass"),
    ],
)
def test_a_switch_is_read_from_the_log(default, told, verdict, tmp_path):
    script, text = learned(
        f'if int(os.environ.get("ADAPT", "{default}")):',
        "    fit(net, stream, 3)",
        "total = cost(net, stream)",
    )
    folder = submission(tmp_path / "a", script, f"{told}\n{text}")
    assert_says(
        likelihood.charged_first, folder, verdict, f"^train_gpt.py:.* charges afterwards: {verdict}"
    )


FLAG = (  # three ways to read a variable that may not be set
    ("    if raw is None:", "        return default", '    return raw == "1"'),
    ("    if raw is not None:", '        return raw == "1"', "    return default"),
    ('    return default if raw is None else raw == "1"',),
)
HELPERS = [
    "\n".join(("def flag(name, default):", "    raw = os.environ.get(name)", *body))
    for body in FLAG
]
SWITCHES = [
    ("", 'os.environ.get("ADAPT") == "1"'),
    ("", 'os.environ.get("ADAPT", "") == "1"'),
    ("", '(os.getenv("ADAPT") or "0") == "1"'),
    ("", 'os.environ.get("OTHER") is None and bool(int(os.environ.get("ADAPT") or 0))'),
    ("", '"ADAPT" in os.environ'),
    ("adapt = False\nif os.environ.get('ADAPT') == '1':\n    adapt = True", "adapt"),
    ("adapt = True if os.environ.get('ADAPT') == '1' else False", "adapt"),
    *((helper, 'flag("ADAPT", False)') for helper in HELPERS),
    (f"{HELPERS[0]}\nclass Settings:\n    adapt: bool = flag('ADAPT', False)", "Settings().adapt"),
]


@pytest.mark.parametrize(
    ("told", "verdict"), [("", "nothing shows ADAPT"), ("1", "fail"), ("0", "pass")]
)
@pytest.mark.parametrize(("head", "test"), SWITCHES)
def test_a_switch_may_be_read_in_many_ways(head, test, told, verdict, tmp_path):
    """Off unless somebody sets it: a log says whether anybody has."""
    script, text = learned(f"if {test}:", "    fit(net, stream, 3)", "total = cost(net, stream)")
    text = f"adapt:{told}\n{text}" if told else text
    folder = submission(tmp_path / "a", f"\n{head}\n{script}", text)
    assert_says(likelihood.charged_first, folder, verdict, f"charges afterwards: {verdict}")


@pytest.mark.parametrize(
    ("default", "told", "verdict"),
    [
        ("0", "", "nothing shows MEMORIZE"),
        ("0", "memorize:1", "fail"),
        ("1", "", "fail"),
        ("0", "memorize:False", "pass"),
        ("1", "memorize:0", "pass"),
    ],
)
@pytest.mark.parametrize(
    "lines",
    [
        ('train = read_shards("fineweb_val_*.bin" if memorize else "fineweb_train_*.bin")',),
        (
            'train = read_shards("fineweb_train_*.bin")',
            "for step in range(100):",
            "    if memorize and step > 50:",
            '        train = read_shards("fineweb_val_*.bin")',
        ),
        (
            "train = None",
            "if not memorize:",
            '    train = read_shards("fineweb_train_*.bin")',
            "else:",
            '    val_files = "fineweb_val_*.bin"',
            "    train_loader = make_loader(val_files)",
        ),
    ],
)
def test_training_on_validation_shards_may_be_switched_off(lines, default, told, verdict, tmp_path):
    switch = f'memorize = bool(int(os.environ.get("MEMORIZE", "{default}")))'
    script, text = learned(switch, *lines, "total = cost(net, stream)")
    folder = submission(tmp_path / "a", script, f"{told}\n{text}")
    assert_says(
        validity.training_data,
        folder,
        verdict,
        f"^training takes .* by name: train_gpt.*: {verdict}$",
    )


@pytest.mark.parametrize(
    ("readme", "verdict"),
    [
        ("TRAIN_FILES=data/fineweb_val_*.bin torchrun train_gpt.py", "TRAIN_FILES"),
        ("Nothing here was trained on the validation set.", "pass"),
        (
            '"You are only allowed to test-time train on validation set tokens" scored before',
            "pass",
        ),
        ("- No val-only training\n- Trained on the val split", "'Trained on the val split'"),
        ("TRAIN_FILES=data/fineweb_train_*.bin VAL_FILES=data/fineweb_val_*.bin", "pass"),
        ("**Val-only training**: no generalisation.", "'Val-only train'"),
        ("It is trained on the validation shard.", "'trained on the validation shard'"),
        ("The train loader is pointed at the validation split.", "'pointed at the validation sp"),
        ("Nothing is trained on training data alone; validation text is scored.", "pass"),
    ],
)
def test_a_readme_may_say_that_it_trains_on_validation_shards(readme, verdict, tmp_path):
    script, text = learned(
        'train = read_shards("fineweb_train_*.bin")', "total = cost(net, stream)"
    )
    home = build(tmp_path / "a", (script, text))
    (home / "README.md").write_text(f"# Mine\n\n{readme}\n")
    folder = Submission(home, Options())
    if verdict == "TRAIN_FILES":
        finding = registered(validity.training_data)(folder)
        assert finding.verdict == "fail"
        assert "TRAIN_FILES=" in finding.evidence and "fineweb_val_*.bin" in finding.evidence
    elif verdict == "pass":
        assert registered(validity.training_data)(folder).verdict == "pass"
    else:
        with pytest.raises(CannotTell, match=f"^the README says {re.escape(verdict)}"):
            registered(validity.training_data)(folder)


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK"])
def test_which_process_it_is_is_no_switch(name, tmp_path):
    script, text = learned(
        f'if int(os.environ.get("{name}", "0")) == 0:',
        "    fit(net, stream, 3)",
        "    total = cost(net, stream)",
    )
    finding = registered(likelihood.charged_first)(submission(tmp_path / "a", script, text))
    assert finding.verdict == "fail"


@pytest.mark.parametrize(
    ("update", "verdict"),
    [
        ("row.update({'loss': loss, 'tokens': stream})", "pass"),
        ("note(row, loss=loss, tokens=stream)", "pass"),
        ("row.update(notes('val', stream))", "pass"),
        ("counts.update(stream.tolist())", "fail"),
        ("counts.update({token: 1 for token in stream})", "fail"),
    ],
)
def test_what_is_noted_by_name_is_not_learned(update, verdict, tmp_path):
    script, text = learned(
        "counts = collections.Counter()",
        "row = {'counts': counts, 'stage': 'score'}",
        "loss = cost(net, stream)",
        update,
        "total = -torch.log(net(stream) + row['counts'][stream]).sum()",
    )
    head = "\nimport collections\n\ndef note(row, **payload):\n    row.update(payload)\n\n"
    head += (
        "def notes(kind, values):\n    return {f'{kind}/{i}': v for i, v in enumerate(values)}\n"
    )
    finding = registered(likelihood.charged_first)(submission(tmp_path / "a", head + script, text))
    assert finding.verdict == verdict, finding


TABLES = """
class Cache:
    def __init__(self):
        self.contexts = [np.zeros(SLOTS) for _ in range(4)]
        self.pairs = {n: np.zeros(SLOTS) for n in range(4)}

    def slot(self, mixed):
        return SLOT

    def keys(self, ids, n):
        mixed = np.zeros(len(ids) - 1, dtype=np.uint64)
        for k in range(n):
            mixed ^= ids[:-1] * PRIMES[k % 3]
        return self.slot(mixed), self.slot(mixed ^ (ids[1:] * PRIMES[n]))

    def odds(self, ids):
        best = np.zeros(len(ids) - 1)
        for n in range(4):
            key, both = self.keys(ids, n)
            among = self.contexts[n][key]
            some = among > 1
            counts = np.minimum(self.pairs[n][both[some]], among[some])
            best[some] = QUOTIENT
        return best

    def take(self, ids):
        for n in range(4):
            key, both = self.keys(ids, n)
            COUNT
"""
QUOTIENTS = ("counts / np.maximum(among[some], 1)", "np.divide(counts, among[some])")
SLOTS = ("mixed & np.uint64(SLOTS - 1)", "(mixed % SLOTS).astype(np.int64)", "np.mod(mixed, SLOTS)")
COUNTS = (
    "np.add.at(self.contexts[n], key, 1); np.add.at(self.pairs[n], both, 1)",
    "self.contexts[n] += np.bincount(key); self.pairs[n] += np.bincount(both)",
    "self.contexts[n][key] += 1; self.pairs[n][both] += 1",
)
OTHER = """
class Plain:
    def odds(self, ids):
        return 0.5

    def take(self, ids):
        pass
"""


PAIRED = """
class Cache:
    def __init__(self):
        self.tables = []
        for _ in range(4):
            self.tables.append((np.zeros(1 << 20), np.zeros(1 << 20)))

    def odds(self, ids):
        contexts, pairs = self.tables[2]
        key = ids[:-1] * PRIMES[0] % (1 << 20)
        both = (key ^ (ids[1:] * PRIMES[2])) % (1 << 20)
        return pairs[both] / contexts[key]

    def take(self, ids):
        contexts, pairs = self.tables[2]
        key = ids[:-1] * PRIMES[0] % (1 << 20)
        np.add.at(contexts, key, 1)
        np.add.at(pairs, (key ^ (ids[1:] * PRIMES[2])) % (1 << 20), 1)
"""


def mixing(tmp_path, head: str, cache: str = "Cache()") -> Submission:
    """A folder whose script mixes a network with a cache."""
    script, text = learned(
        f"cache = {cache}",
        "for at in range(0, len(stream), 4096):",
        "    piece = stream[at : at + 4097]",
        "    own = net(piece[:-1]).softmax(-1).gather(1, piece[1:, None])[:, 0]",
        "    total -= np.log(0.7 * own + 0.3 * cache.odds(piece)).sum()",
        "    cache.take(piece)",
    )
    return submission(tmp_path / "a", f"\nimport numpy as np\n{head}\n{script}", text)


SHARED = PAIRED.replace("(np.zeros(1 << 20), np.zeros(1 << 20))", "(np.zeros(1 << 20),) * 2")


@pytest.mark.parametrize("tables", [PAIRED, SHARED], ids=["in a tuple", "one for both"])
def test_tables_may_be_kept_together(tables, tmp_path):
    finding = registered(likelihood.normalised)(mixing(tmp_path, tables))
    assert finding.verdict == "fail", finding


def counting(tmp_path, quotient, slot, count, cache="Cache()", head="") -> Submission:
    """A folder whose script mixes a network with a cache of these expressions."""
    tables = TABLES.replace("QUOTIENT", quotient).replace("return SLOT", f"return {slot}")
    tables = tables.replace("COUNT\n", f"{count}\n").replace("(SLOTS)", "(1 << 20)")
    return mixing(tmp_path, f"{head}{tables}{OTHER}", cache)


def test_counts_may_be_chosen_by_both_tables(tmp_path):
    """What is compared is no count: which of the counts are taken depends on both tables."""
    quotient = "counts / np.where((counts > 0) & (among[some] > 1), among[some], 1)"
    finding = registered(likelihood.normalised)(counting(tmp_path, quotient, SLOTS[0], COUNTS[0]))
    assert finding.verdict == "fail", finding


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("quotient", QUOTIENTS)
def test_a_quotient_of_hashed_counts_is_no_probability(quotient, slot, count, tmp_path):
    folder = counting(tmp_path, quotient, slot, count)
    finding = registered(likelihood.normalised)(folder)
    assert (
        finding.verdict == "fail" and "counts at one index of a hash table over" in finding.evidence
    )


@pytest.mark.parametrize(
    ("lines", "verdict"),
    [
        (["total = torch.minimum(first, second).mean()"], "fail"),
        (["total = torch.min(first, second).sum()"], "fail"),
        (["total = torch.fmin(first, second)[8:].double().sum()"], "fail"),
        (["least = first.minimum(second)", "total = torch.nansum(least)"], "fail"),
        (["first[8:] = torch.minimum(first[8:], second[8:])", "total = first.sum()"], "fail"),
        (  # the table of all passes, each with weights that the one before has trained
            [
                "best = torch.full((len(stream) - 1,), float('inf'))",
                "for turn in range(3):",
                "    each = F.cross_entropy(net(stream[:-1]), stream[1:], reduction='none')",
                "    best[:] = torch.minimum(best, each)",
                "    fit(net, stream, 1)",
                "total = best.sum()",
            ],
            "fail",
        ),
        (["total = torch.minimum(first.sum(), second.sum())"], "pass"),  # one choice, of all
        (["total = min(first.sum(), second.sum())"], "pass"),
        (["total = torch.minimum(first, torch.tensor(20.0)).sum()"], "pass"),
        (["least = torch.minimum(first, second)", "total = first.sum()"], "pass"),
        (["total = torch.maximum(first, second).sum()"], "pass"),
    ],
)
def test_no_token_is_charged_the_least_of_several_costs(lines, verdict, tmp_path):
    """It is the largest of its probabilities, and those sum to more than one."""
    script, text = learned(*TWO_COSTS, *lines)
    finding = registered(likelihood.normalised)(submission(tmp_path / "a", script, text))
    assert finding.verdict == verdict, finding
    assert ("of each token the least of several costs" in finding.evidence) == (verdict == "fail")


LOOP = (  # byte after byte
    "for i in range(len(stream) - 1):",
    "    text = vocabulary.id_to_piece(int(stream[i + 1])).encode()",
    "    EACH",
    "    for byte in text:",
    "        guess = model.take(byte)",
    "        MIX",
)


def bytewise(each: str, mix: str) -> list[str]:
    return [line.replace("EACH", each).replace("MIX", mix) for line in LOOP]


@pytest.mark.parametrize(
    ("lines", "verdict"),
    [
        # a root of the token's probability, by arrays and byte after byte
        (
            ["own = torch.exp(-costs / sizes)", "total = -torch.log2(own / 2 + guesses / 2).sum()"],
            "fail",
        ),
        (
            ["own = (-costs).div(sizes).exp()", "total -= (own + guesses).div(2).log().sum()"],
            "fail",
        ),
        (
            [
                "share = 1.0 / sizes",
                "total -= torch.log(torch.exp(-costs * share) + guesses).sum()",
            ],
            "fail",
        ),
        (["total = -torch.logaddexp(-costs / sizes - 0.1, guesses.log() - 2.4).sum()"], "fail"),
        (
            ["own = torch.exp(-costs) ** (1 / sizes)", "total -= torch.log(own + guesses).sum()"],
            "fail",
        ),
        (
            ["own = torch.exp(-costs).pow(1 / sizes)", "total -= torch.log(own + guesses).sum()"],
            "fail",
        ),
        (
            bytewise(
                "own = -float(costs[i]) / max(1, len(text))",
                "total -= math.log(0.9 * math.exp(own) + 0.1 * guess)",
            ),
            "fail",
        ),
        (
            bytewise(
                "own = -float(costs[i]) / len(text) + math.log(0.9)",
                "total -= max(own, guess) + math.log1p(math.exp(-abs(own - guess)))",
            ),
            "fail",
        ),
        (
            bytewise(
                "own = math.exp(-float(costs[i])) ** (1.0 / len(text))",
                "total += -math.log((own + guess) / 2)",
            ),
            "fail",
        ),
        (
            [
                "ln, exp = math.log, math.exp",
                *bytewise(
                    "own = -float(costs[i]) / len(text)",
                    "total -= ln(0.9 * exp(own) + 0.1 * guess)",
                ),
            ],
            "fail",
        ),
        (
            [
                "from numpy import log2 as bits",
                *bytewise(
                    "own = exp(-float(costs[i]) / len(text))",
                    "total -= bits(0.9 * own + 0.1 * guess)",
                ),
            ],
            "fail",
        ),
        # tokens are mixed as tokens
        (["total = -torch.log(0.9 * torch.exp(-costs) + 0.1 * table.odds(stream)).sum()"], "pass"),
        # a cost for each byte that is shown alone
        (
            ["total = costs.sum()", "print(torch.exp(costs.sum() / sizes.sum()), costs / sizes)"],
            "pass",
        ),
        (["total = torch.log(torch.exp(costs.sum() / len(stream))) * sizes.sum()"], "pass"),
        (bytewise("own = float(costs[i]) / len(text)", "total += own"), "pass"),
        # made to sum to one after the division
        (["total = -torch.log_softmax(-costs / sizes, -1).sum()"], "pass"),
        # weights of whole passes that follow their costs for each byte
        (
            [
                *WEIGHED,
                "    sizes = lengths[piece[1:]]",
                "    weights -= 0.1 * (costs / sizes).mean(1)",
            ],
            "pass",
        ),
    ],
)
def test_a_tokens_cost_over_its_bytes_is_no_cost_of_a_byte(lines, verdict, tmp_path):
    """Over all tokens, products of roots and of what else is mixed in sum to another number than
    one.
    """
    script, text = learned(*BYTEWISE, *lines)
    finding = registered(likelihood.normalised)(submission(tmp_path / "a", script, text))
    assert finding.verdict == verdict, finding
    assert ("over the number of its bytes is mixed" in finding.evidence) == (verdict == "fail")


@pytest.mark.parametrize(
    ("load", "told"),
    [
        ('ctypes.CDLL("./mixer.so")', "score is of a compiled library, whose code is not read"),
        ("ctypes.CDLL(build(SOURCE))", "score is of a compiled library, whose code is not read"),
        ('ctypes.CDLL("libcudart.so")', ""),  # of the machine, not of the submission
        ("ctypes.CDLL(None)", ""),
    ],
)
@pytest.mark.parametrize("name", ["sums to one", "charged before learned"])
def test_what_a_compiled_library_does_cannot_be_told(name, load, told, tmp_path):
    lines = (f"library = {load}", "library.score(stream.data_ptr())", "total = cost(net, stream)")
    folder = submission(tmp_path / "a", "\nimport ctypes\n" + learned(*lines)[0])
    [check] = [check for check in CHECKS if check.name == name]
    if told:
        with pytest.raises(CannotTell, match=told):
            check.run(folder)
    else:
        assert check.run(folder).verdict == "pass"


@pytest.mark.parametrize("cache", ["Cache() if BIG else Plain()", "Plain() if BIG else Cache()"])
def test_an_object_of_one_of_two_classes_may_be_either(cache, tmp_path):
    parts = QUOTIENTS[0], SLOTS[0], COUNTS[0]
    folder = counting(tmp_path, *parts, cache, "BIG = flag()\n")
    finding = registered(likelihood.normalised)(folder)
    assert finding.verdict == "fail"


@pytest.mark.parametrize(
    "odds",
    [
        "rows[key].gather(1, piece[1:, None])[:, 0] / rows[key].sum(1)",
        "(rows[key] / contexts[key].unsqueeze(-1)).gather(1, piece[1:, None])[:, 0]",
        "rows[key, piece[1:]] / contexts[key]",  # the same key: a row and what is in it
        "pairs[both] / 100",
        "contexts[key] / contexts[key].sum()",
    ],
)
def test_what_is_divided_by_its_own_sum_is_a_probability(odds, tmp_path):
    folder = submission(tmp_path / "a", *cached(odds))
    assert registered(likelihood.normalised)(folder).verdict == "pass"


@pytest.mark.parametrize("helper", HELPERS)
def test_a_switch_that_is_on_by_default_is_on(helper, tmp_path):
    script, text = learned(
        'if flag("ADAPT", True):', "    fit(net, stream, 3)", "total = cost(net, stream)"
    )
    folder = submission(tmp_path / "a", f"\n{helper}\n{script}", text)
    assert registered(likelihood.charged_first)(folder).verdict == "fail"


@pytest.mark.parametrize("helper", HELPERS)
def test_what_a_switch_would_change_is_not_changed(helper, tmp_path):
    """Behind a switch that is off, another text is scored by another network: what is certain stays
    certain.
    """
    script, text = learned(
        "fit(net, stream, 3)",
        'if flag("OTHER", False):',
        "    stream = torch.zeros(9)",
        "    net = Net()",
        "total = cost(net, stream)",
    )
    folder = submission(tmp_path / "a", f"\n{helper}\n{script}", text)
    assert registered(likelihood.charged_first)(folder).verdict == "fail"


@pytest.mark.parametrize(
    ("row", "value"),
    [
        ("| TAKE_IT | 1 |", "1"),
        ("| `TAKE_IT` | `True` | what it is for |", "1"),
        ("| **TAKE_IT** | 262,144 |", "262144"),
        ("| TAKE_IT | 0.3,0.5 |", "0.3,0.5"),
        ("| TAKE_IT | 0 |", None),  # a baseline's, perhaps
        ("| TAKE_IT | 1 | 2 |", "absent"),  # whose?
        ("| TAKE_IT | what it is |", "absent"),
        ("| TAKE | 1 |", "absent"),  # a name of anything
    ],
)
def test_a_readme_lists_variables_in_a_table(row, value, tmp_path):
    folder = submission(tmp_path / "a", "\nprint(1)\n")
    (folder.root / "README.md").write_text(f"| Variable | Value |\n|---|---|\n{row}\n")
    told = log_checks.variables(Submission(folder.root, Options()))
    assert told.get("take_it", told.get("take", "absent")) == value


def test_a_readme_switches_on_and_leaves_open_what_it_switches_off(tmp_path):
    folder = submission(tmp_path / "a", "\nprint(1)\n")
    (folder.root / "README.md").write_text("ADAPT=1 OTHER=0 TWICE=1 python a.py; TWICE=2 run")
    (folder.root / "run.sh").write_text('export ROUNDS="3"\n')
    told = log_checks.variables(Submission(folder.root, Options()))
    assert {name: told[name] for name in ("adapt", "other", "twice", "rounds")} == {
        "adapt": "1",
        "other": None,
        "twice": None,
        "rounds": "3",
    }


@pytest.mark.parametrize(
    ("inputs", "targets"),
    [
        ("rows[:, :-1]", "rows[:, 1:]"),
        ("rows[:-1, None]", "rows[1:, None]"),
        ("rows[..., :-1]",) * 2,
    ],
)
def test_shifted_columns_are_no_other_part_of_the_text(inputs, targets, tmp_path):
    script, text = learned(
        "stream = stream[: len(stream) // 64 * 64 + 1]",
        "turner = torch.optim.AdamW(net.parameters(), lr=0.1)",
        "for epoch in range(21):",
        "    for at in range(0, len(stream) - 4097, 4097):",
        "        rows = torch.stack([stream[at : at + 4097]])",
        f"        loss = F.cross_entropy(net({inputs}), {targets})",
        "        loss.backward()",
        "        turner.step()",
        "for at in range(0, len(stream), 64):",
        "    total += F.cross_entropy(net(stream[at : at + 64]), stream[at + 1 : at + 65])",
    )
    folder = submission(tmp_path / "a", script, text)
    assert registered(likelihood.charged_first)(folder).verdict == "fail"


def test_what_is_learned_at_other_positions_cannot_be_told(tmp_path):
    """A mask may leave out the positions that are charged."""
    script, _ = learned(*OFFSET[:5], *OFFSET[6:], OFFSET[5])
    whole = "loss = F.cross_entropy(hidden + shift, piece[1:])"
    masked = "loss = (F.cross_entropy(hidden + shift, piece[1:], reduction='none') * mask).sum()"
    mask = "    mask = torch.zeros(len(piece) - 1)\n        mask[AT] = 1.0\n        turner ="
    script = script.replace(whole, masked).replace("    turner =", mask)
    script = script.replace("piece[1:]).item()", "piece[1:], reduction='none')[-64:].sum()")
    with pytest.raises(CannotTell, match="at some positions, which may be others"):
        other = script.replace("AT", ":-64")
        registered(likelihood.charged_first)(submission(tmp_path / "a", other))
    reply = registered(likelihood.charged_first)(
        submission(tmp_path / "b", script.replace("AT", "-64:"))
    )
    assert reply.verdict == "fail"


def test_a_fit_to_the_context_of_a_window_cannot_be_told(tmp_path):
    """Up to a place that may be the first one that is charged."""
    script, _ = learned(*OFFSET[:5], *OFFSET[6:], OFFSET[5])
    part = "edge = max(len(piece) - 65, 0)\n            loss = F.cross_entropy((hidden + shift)"
    script = script.replace("loss = F.cross_entropy(hidden + shift, piece[1:])", f"{part}, PART)")
    script = script.replace("PART", "piece[1:][:edge]").replace("shift), ", "shift)[:edge], ")
    with pytest.raises(CannotTell, match="at some positions, which may be others"):
        registered(likelihood.charged_first)(submission(tmp_path / "a", script))


def test_the_name_of_a_run_is_no_switch(tmp_path):
    """Each seed has its own, and nothing says which one an evaluation had."""
    script, _ = learned(
        'for path in Path(os.environ.get("RUN_ID", "a")).glob("*"):',
        "    fit(net, stream, 1)",
        "total = cost(net, stream)",
    )
    folder = submission(tmp_path / "a", script)
    (folder.root / "README.md").write_text("RUN_ID=one python a.py; RUN_ID=two python a.py")
    again = Submission(folder.root, Options())
    assert log_checks.variables(again)["run_id"] is None
    assert registered(likelihood.charged_first)(again).verdict == "fail"


def test_a_loss_that_is_only_trained_on_is_no_charge(tmp_path):
    """A sum of training losses is printed as it is, a score in bits."""
    lines = (
        "maker = torch.optim.SGD(net.parameters(), lr=0.1)",
        "total = cost(net, stream)",
        "trained = 0.0",
        "for _ in range(3):",
        "    loss = F.cross_entropy(net(stream[:-1]), stream[1:])",
        "    trained += loss.item()",
        "    loss.backward()",
        "    maker.step()",
    )
    for i, (line, verdict) in enumerate(
        (
            ("print(trained)", "pass"),
            ("mean = trained / byte_weights.sum()", "pass"),
            ("total = trained / math.log(2.0)", "fail"),
        )
    ):
        folder = submission(tmp_path / str(i), learned(*lines, line)[0])
        assert registered(likelihood.charged_first)(folder).verdict == verdict


def test_what_is_sent_to_a_log_is_no_charge(tmp_path):
    for i, (line, verdict) in enumerate(
        (("wandb.log({'final': total})", "pass"), ("total += net(stream).log().sum()", "fail"))
    ):
        script, _ = learned("total = cost(net, stream)", "fit(net, stream, 1)", line)
        folder = submission(tmp_path / str(i), script)
        assert registered(likelihood.charged_first)(folder).verdict == verdict


def test_a_loss_of_both_kinds_that_is_trained_on_is_no_score(tmp_path):
    wrong = """
def main(net, text):
    with torch.no_grad():
        print(cost(net, text))
    one = cost(net, text, is_causal=True)
    other = cost(net, text, is_causal=False)
    loss = (one + other) / 2
    STEP
    loss_sum = loss.item()


main(None, None)
"""
    for step, verdict in (
        ("loss.backward()", "pass"),
        ("(loss / 4).backward()", "pass"),
        ("", "fail"),
    ):
        folder = submission(tmp_path / str(len(step)), wrong.replace("STEP", step or "pass"))
        assert registered(likelihood.conditioning)(folder).verdict == verdict, step


def test_classes_of_other_files_are_followed(tmp_path):
    """What the script imports is walked first; a named tuple hands on what it is given."""
    table = """
import torch


class Mixer:
    def __init__(self):
        self.pairs = torch.zeros(1024)

    def renew(self, ids):
        self.pairs.scatter_add_(0, ids, torch.ones(len(ids)))

    def cost(self, ids):
        return -torch.log(self.pairs[ids]).sum()
"""
    script = """
from typing import NamedTuple
from table import Mixer


class Layout(NamedTuple):
    train: list
    held_out: list


def main():
    layout = Layout([], sorted(Path(".").glob("*_val_*.bin")))
    stream, mixer, total = np.concatenate([read(path) for path in layout.held_out]), Mixer(), 0.0
    for at in range(0, len(stream), 4096):
        piece = stream[at : at + 4096]
        LINES


main()
"""
    lines = ("total += mixer.cost(piece)", "mixer.renew(piece)")
    for i, (order, verdict) in enumerate(((lines, "pass"), (lines[::-1], "fail"))):
        body = script.replace("LINES", "\n        ".join(order))
        folder = build(tmp_path / str(i), (body, log()))
        (folder / "table.py").write_text(table)
        finding = registered(likelihood.charged_first)(Submission(folder, Options()))
        assert finding.verdict == verdict, finding
        if verdict == "fail":
            assert re.search(r"table.py:10: counts .* table.py:13 charges", finding.evidence)


@pytest.mark.parametrize(
    ("use", "verdict"),
    [
        ("if loss < best:\n                best, heat = loss, trial", "pass"),
        (
            "if loss < best:\n                best, heat = loss, trial\n            print(f'{best}')",
            None,
        ),
        ("total += loss", "fail"),
    ],
)
def test_a_cost_that_a_setting_is_chosen_by_is_no_charge(use, verdict, tmp_path):
    """A temperature that is fitted to text which is paid for, for the next piece."""
    script, _ = learned(
        "heat = 1.0",
        PIECES,
        PIECE,
        "    total -= torch.log(table.odds(piece) / heat).sum()",
        COUNTED,
        "    best = 1e9",
        "    for trial in (0.9, 1.0, 1.1):",
        "        loss = -torch.log(table.odds(piece) / trial).mean().item()",
        f"        {use}",
    )
    folder = submission(tmp_path / "a", script)
    if verdict is None:
        with pytest.raises(CannotTell, match="something is chosen by it"):
            registered(likelihood.charged_first)(folder)
    else:
        assert registered(likelihood.charged_first)(folder).verdict == verdict


def test_counts_of_one_piece_alone_cannot_be_told(tmp_path):
    """They may be of what comes before it; a table that outlasts the piece may not."""
    lines = (
        "odds = torch.zeros(VOCAB_SIZE)",
        PIECES,
        PIECE,
        "    odds.scatter_add_(0, piece, torch.ones(4097))",
        "    total -= torch.log(odds[piece]).sum()",
    )
    script, _ = learned(*lines)
    assert (
        registered(likelihood.charged_first)(submission(tmp_path / "a", script)).verdict == "fail"
    )
    script, _ = learned(*lines[1:3], f"    {lines[0]}", *lines[3:])
    with pytest.raises(CannotTell, match="in a table for this piece of it alone"):
        registered(likelihood.charged_first)(submission(tmp_path / "b", script))


def test_a_script_without_a_cost_of_the_text_cannot_be_told(tmp_path):
    folder = submission(tmp_path / "a", "print(stream.mean())")
    with pytest.raises(CannotTell, match="no cost of validation text was found"):
        registered(likelihood.charged_first)(folder)


def test_what_another_language_learns_is_named(tmp_path):
    lines = ("lib = load_library('./a.so')", "hints = lib.ngram_hints(stream)")
    script, _ = learned(*lines, "total = F.cross_entropy(net(stream) + hints, stream)")
    with pytest.raises(CannotTell, match=r"charges afterwards: ngram_hints is not followed$"):
        registered(likelihood.charged_first)(submission(tmp_path / "a", script))


def test_a_script_that_is_too_long_cannot_be_told(tmp_path, monkeypatch):
    monkeypatch.setattr(learning, "MOST_VISITS", 50)
    script, _ = learned("total = cost(net, stream)")
    with pytest.raises(CannotTell, match="not be followed to its end: more than 50 steps"):
        registered(likelihood.charged_first)(submission(tmp_path / "a", script))


# The untrained model


@pytest.mark.parametrize(
    ("changes", "verdict", "told"),
    [
        ({}, "pass", "6.9357 nats per token at step 0, a uniform predictor over 1,024 tokens"),
        ({"start": 7.5, "early": 7.5}, "pass", "7.5000 nats"),
        ({"start": 30.0, "early": 29.0}, "pass", "30.0000 nats"),  # it begins far from uniform
        ({"start": 8.0}, "fail", "tokens are charged 1.15 times"),
        ({"start": 6.2}, "fail", "some tokens are not charged, or known before"),
        ({"start": 2.8, "early": 2.9}, "pass", "2.8000 nats"),  # it begins with trained weights
    ],
)
def test_an_untrained_model_predicts_uniformly(changes, verdict, told, tmp_path):
    folder = submission(tmp_path / "a", "", log(**changes))
    reply = registered(likelihood.untrained_score)(folder)
    assert reply.verdict == verdict and told in reply.evidence


def test_a_first_score_after_training(tmp_path):
    for i, (loss, verdict) in enumerate((("3.1", "pass"), ("8.9", "cannot tell"))):
        text = f"vocab_size:1024\nstep:2/2 val_loss:{loss} val_bpb:2.0 train_time:1ms\n"
        folder = submission(tmp_path / str(i), "", text)
        if verdict == "pass":
            assert registered(likelihood.untrained_score)(folder).verdict == "pass"
        else:
            with pytest.raises(CannotTell, match="worse than a guess, after training"):
                registered(likelihood.untrained_score)(folder)


def test_conditions_on_a_mask_are_seen_in_every_spelling():
    """Whatever takes a token out of a mask."""
    for line in (
        "m = (torch.rand(3) < 0.5) & (x != 7)",
        "m = torch.rand(3) < 0.5\n    m = m & (x != 7)",
        "m = torch.rand(3) < 0.5\n    m &= x != 7",
        "m = torch.rand(3) < 0.5\n    m[x == 7] = False",
        "m = (torch.rand(3) < 0.5).masked_fill(x == 7, False)",
        "m = torch.logical_and(torch.rand(3) < 0.5, x != 7)",
        "keep = x.eq(7)\n    m = (torch.rand(3) < 0.5) & ~keep",
    ):
        code = (
            f"def evaluate(x):\n    {line}\n    y = torch.where(m, 1024, x)\n"
            "    return cross_entropy(net(y), x)\nevaluate(1)\n"
        )
        [evaluation] = hiding.evaluations(parse("a.py", code.encode()).tree)
        assert [row.ids.low for row in hiding.spared(evaluation)] == [7.0], line


def test_names_are_not_needed(tmp_path):
    """A function, its sums and its ids may be called anything."""
    script = """
def q1(q2, q3):
    with torch.no_grad():
        q4 = (torch.rand(q3.shape) < torch.rand(8)[:, None]) & (q3 != 1)
        q5 = torch.where(q4, 1024, q3)
        return q2(q5, q3) / math.log(2.0)


print(q1(None, None))
"""
    folder = submission(tmp_path / "a", script)
    (folder.root / "train_gpt.py").write_text("import math\nimport torch\n" + script)
    reply = registered(likelihood.tokens_charged)(Submission(folder.root, Options()))
    told = "train_gpt.py:6: q3 != 1 (id 1) is never hidden nor charged"
    assert reply == ("fail", told)
    one = script.replace("torch.rand(8)[:, None]", "0.3").replace(" & (q3 != 1)", "")
    (folder.root / "train_gpt.py").write_text("import math\nimport torch\n" + one)
    reply = registered(likelihood.mask_rates)(Submission(folder.root, Options()))
    assert reply.verdict == "fail" and "q1 hides tokens at one rate, 0.3" in reply.evidence
