"""Samples of text: how they open, whose rows they are, what they spell, what is said of each token."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fast.sample import Drawn
from harness.compression import compress
from harness.corpus import prepare, shards
from harness.sampling import gaps, samples, templates
from reference.recipe import TINY, InputError
from tests.support import tokenizers
from tests.support.recorded import record
from tests.support.strategies import random_params, tensors

LENGTH = 16
ORDINARY = "left-to-right", 1, 1, 1.0, 0, "cpu"


def model_of(tokenizer, **changes):
    """Return a loaded model with rows of LENGTH tokens and weights at random."""
    model = replace(TINY.model, vocab=tokenizer.vocab, length=LENGTH, **changes)
    recipe = replace(TINY, model=model)
    weights = tensors(random_params(model, np.random.default_rng(4)), torch.float32)
    return compress.predictor(weights, recipe, tokenizer, "ab" * 32)


@pytest.fixture
def loaded(monkeypatch):
    """Return a tokenizer, and have every run load as a model of it with rows of 16 tokens."""
    tokenizer = tokenizers.small()
    record(monkeypatch, "harness.compression.compress.load", model_of(tokenizer))
    return tokenizer


def drawn_by(choose):
    """Return a fill() that puts choose(ids_BL) where something is hidden before the stop."""

    def fill(_, ids_BL, vocab, *rest, stop, on_pass=None):
        hidden_BL = (ids_BL == vocab) & (torch.arange(ids_BL.shape[1]) < stop)
        new_BL = torch.where(hidden_BL, choose(ids_BL), ids_BL)
        rank_BL = torch.where(hidden_BL, hidden_BL.cumsum(dim=1) - 1, -1)
        return Drawn(new_BL, -0.125 * (rank_BL + 1).double(), rank_BL)

    return fill


def test_samples_open_with_the_control_token_and_the_prompt(loaded, monkeypatch):
    """Three rows that differ: each begins with <s> and the prompt, hides the rest, and its text is
    that of its own ids, without a space before the first word.
    """
    words = [prepare.encode(word, loaded)[0] for word in ("class", "word", "man")]
    given = []

    def choose(ids_BL):
        given.append(ids_BL.clone())
        return torch.tensor(words)[: len(ids_BL), None].expand_as(ids_BL)

    record(monkeypatch, "fast.sample.fill", drawn_by(choose))
    drawn = samples.sample("run", None, " said", 3, "confidence", 1, 1, 1.0, 0, "cpu")
    opening = [1, *prepare.encode(" said", loaded)]
    hidden = 16 - len(opening)
    [ids_BL] = given
    assert ids_BL.tolist() == [opening + [tokenizers.VOCAB] * hidden] * 3
    assert [one["row"] for one in drawn] == [0, 1, 2]
    for one, word in zip(drawn, words, strict=True):
        assert one["ids"] == opening + [word] * hidden
        text = loaded.processor.id_to_piece(word)
        assert one["text"] == " said" + text * hidden
        assert one["text"].encode() == shards.raw_text(one["ids"], loaded)


def test_a_prompt_leaves_a_token_to_draw(loaded, monkeypatch):
    """<s> and 14 tokens of 16; 15 are too many. Bytes that are no text are shown as such."""
    record(monkeypatch, "fast.sample.fill", drawn_by(lambda ids_BL: torch.tensor(259)))
    assert loaded.processor.id_to_piece(259) == "<0xFF>"
    [one] = samples.sample("run", None, "\t" * 14, 1, *ORDINARY)
    assert one["text"] == "\t" * 14 + "\ufffd"
    with pytest.raises(InputError, match="--prompt: expected fewer than 15 tokens, found 15"):
        samples.sample("run", None, "\t" * 15, 1, *ORDINARY)


def test_no_more_is_drawn_than_asked_for(loaded):
    """The first tokens of the whole window from left to right; no more than the window holds."""
    [whole] = samples.sample("run", None, "the", 1, *ORDINARY)
    [some] = samples.sample("run", None, "the", 1, *ORDINARY, tokens=5)
    opening = len(prepare.encode("the", loaded)) + 1
    assert some["ids"] == whole["ids"][: opening + 5] and len(whole["ids"]) == LENGTH
    left = LENGTH - opening
    samples.sample("run", None, "the", 1, *ORDINARY, tokens=left)
    with pytest.raises(InputError, match=f"--tokens: expected at most {left}, .*{left + 1}; lower"):
        samples.sample("run", None, "the", 1, *ORDINARY, tokens=left + 1)
    with pytest.raises(InputError, match="--tokens: expected at least 1, found 0"):
        samples.sample("run", None, "the", 1, *ORDINARY, tokens=0)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_that_would_wrap_around_is_refused(seed):
    order, step, block, temperature, _, device = ORDINARY
    with pytest.raises(InputError, match=rf"--seed: expected 0 ... 2\*\*64 - 1, found {seed};"):
        samples.sample("run", None, "the", 1, order, step, block, temperature, seed, device)


def test_a_model_of_single_tokens_draws_no_text(loaded):
    with pytest.raises(InputError, match="at least 2 tokens, found model.length 1"):
        templates.begin("", None, None, None, 1, loaded)


def test_what_is_said_of_each_token(loaded, monkeypatch):
    """Of given ones nothing; of drawn ones the probability and the place among the draws. A
    character of several bytes goes with its last token, what is cut off with what was drawn.
    """
    euro = [259 - 0xFF + byte for byte in "\u20ac".encode()]
    pieces = [loaded.processor.id_to_piece(i) for i in euro]
    assert pieces == ["<0xE2>", "<0x82>", "<0xAC>"]
    cut = torch.tensor([1, *[0] * 3, *euro, euro[0], *[0] * 8])
    record(monkeypatch, "fast.sample.fill", drawn_by(lambda ids_BL: cut))
    [one] = samples.sample("run", None, "", 1, *ORDINARY, infill="\t\t\t____\t")
    assert one["parts"] == ["", "\t", "\t", "\t", "", "", "\u20ac", "\ufffd", "\t"]
    assert one["text"] == "\t\t\t\u20ac\ufffd\t" == "".join(one["parts"])
    assert one["pieces"] == ["<s>", *["<0x09>"] * 3, *pieces, pieces[0], "<0x09>"]
    assert one["reveal"] == [None] * 4 + [0, 1, 2, 3, None]
    assert one["probabilities"][4:8] == pytest.approx(np.exp(-0.125 * np.arange(1, 5)))
    assert one["probabilities"][:4] == [None] * 4 and one["probabilities"][8] is None
    told = {name: one[name] for name in ("order", "step", "temperature", "seed")}
    assert told == {"order": "left-to-right", "step": 1, "temperature": 1.0, "seed": 0}


def test_probabilities_are_those_of_the_model(loaded):
    """Of the first token that is drawn, among the tokens that may stand in a gap."""
    [one] = samples.sample("run", None, "", 1, "confidence", 1, 1, 1.0, 3, "cpu", infill="a____b")
    begun = templates.encode(["a", 4, "b"], loaded, "--infill")
    ids_BL = torch.full((1, LENGTH), tokenizers.VOCAB)
    ids_BL[0, : len(begun.ids)] = torch.from_numpy(begun.ids)
    place = one["reveal"].index(0)
    log_p_V = model_of(loaded).log_probs(ids_BL)[0, place].double()
    assert log_p_V[loaded.table.control_V].exp().sum() > 1e-3
    log_p_V[loaded.table.control_V] = -torch.inf
    expected = log_p_V.softmax(dim=0)[one["ids"][place]].item()
    assert one["probabilities"][place] == pytest.approx(expected, rel=1e-5)  # float32


def test_a_gap_is_filled_by_what_stands_around_it(monkeypatch):
    """By the masked network, of a model that has both: what stands behind matters, from left to
    right too; by rows() of the model alone, whose other rows nobody reads.
    """
    model = model_of(tokenizers.small(), causal_share=0.5, shift=True, mixing=1)
    record(monkeypatch, "harness.compression.compress.load", model)
    monkeypatch.setattr(type(model.log_probs), "__call__", None)
    base = "run", None, "", 8, *ORDINARY
    one, other = (
        [sample["ids"][1:4] for sample in samples.sample(*base, infill=f"___{behind}")]
        for behind in ("\tx x", "\tthe class")
    )
    assert one != other and len(one) == 8


def test_a_model_that_looks_back_draws_in_no_gap(monkeypatch):
    """Nor several tokens at once: it has no token that hides the others."""
    record(
        monkeypatch, "harness.compression.compress.load", model_of(tokenizers.small(), causal=True)
    )
    base = "run", None, "", 1, "left-to-right"
    assert samples.sample(*base, 1, 1, 1.0, 0, "cpu", tokens=2)
    said = "--infill: expected a model trained on masked text, found a causal one, .* use --prompt"
    with pytest.raises(InputError, match=said):
        samples.sample(*base, 1, 1, 1.0, 0, "cpu", infill="a___")
    with pytest.raises(InputError, match="--step 2: expected 1, as a causal model"):
        samples.sample(*base, 2, 1, 1.0, 0, "cpu")


def test_a_text_that_does_not_fit_is_refused(loaded, monkeypatch):
    """Too long with its gaps, or with characters that no piece spells; before anything is drawn."""
    record(monkeypatch, "fast.sample.fill", lambda *_, **__: pytest.fail("drawn"))
    base = "run", None, "", 1, *ORDINARY
    said = "--infill: expected at most 15 tokens, found 16, 7 of them in gaps; shorten the text"
    with pytest.raises(InputError, match=said):
        samples.sample(*base, infill="\t" * 9 + "_" * 7)
    with pytest.raises(InputError, match="found 29, 20 of them in gaps"):
        samples.sample(*base, infill="\t" * 4 + "___" + "\t" * 5 + "___", gap=10)
    bare = model_of(tokenizers.bare())
    record(monkeypatch, "harness.compression.compress.load", bare)
    said = "--infill: expected text that the tokenizer's pieces spell, found '\u20ac', which none"
    with pytest.raises(InputError, match=said):
        samples.sample(*base, infill="the \u20ac___")
    with pytest.raises(InputError, match="--prompt: expected text that the tokenizer's pieces"):
        samples.sample("run", None, "\u20ac", 1, *ORDINARY)


def test_probabilities_that_are_none_are_refused(loaded, monkeypatch):
    broken = drawn_by(lambda ids_BL: torch.tensor(9))
    lost = lambda *given, **named: broken(*given, **named)._replace(  # noqa: E731
        log_p_BL=torch.tensor([[torch.nan] * LENGTH])
    )
    record(monkeypatch, "fast.sample.fill", lost)
    with pytest.raises(InputError, match="expected finite probabilities, found nan"):
        samples.sample("run", None, "", 1, *ORDINARY)


def test_a_seed_draws_the_same_again(loaded):
    """And another one another text; also where several are watched."""
    base = "run", None, "", 2, "entropy", 2, 1, 1.0
    seen = []
    once = samples.sample(*base, 5, "cpu", infill="the ____ of ___")
    again = samples.sample(*base, 5, "cpu", infill="the ____ of ___", watch=seen.append)
    assert once == again != samples.sample(*base, 6, "cpu", infill="the ____ of ___")
    assert once[0]["ids"] != once[1]["ids"] and len(seen) == 4


@pytest.mark.parametrize(("count", "threads"), [(1, 1), (2, 3)])
def test_small_passes_have_a_thread_to_themselves(count, threads, loaded, monkeypatch):
    """Wide ones have those of the process, which it has again behind both, and behind an error."""
    monkeypatch.setattr(samples, "SHARED", LENGTH * TINY.model.d**2 + 1)
    used, before = [], torch.get_num_threads()

    def watch(so_far):
        used.append(torch.get_num_threads())
        raise KeyError

    try:
        torch.set_num_threads(3)
        with pytest.raises(KeyError):
            samples.sample("run", None, "", count, *ORDINARY, watch=watch)
        assert used == [threads] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_what_is_watched_fills_in(loaded):
    """After each pass: what is hidden has no text, piece or probability yet; a word behind it keeps
    its space.
    """
    seen = []
    base = "run", None, "", 1, "right-to-left", 4, 1, 1.0, 5, "cpu"
    drawn = samples.sample(
        *base, infill="___ said___", watch=lambda so_far: seen.append(so_far()[0])
    )
    [first, last] = seen
    assert [part is None for part in first["parts"]] == [False, True, True] + [False] * (
        len(first["parts"]) - 3
    )
    assert first["text"].startswith(drawn[0]["parts"][3] + " said")
    assert first["pieces"][1] is None and first["probabilities"][1] is None
    assert first["reveal"][:4] == [None, None, None, 3] and first["reveal"][-3:] == [2, 1, 0]
    assert {name: drawn[0][name] for name in last} == last


def test_a_word_behind_what_is_hidden_keeps_its_space(loaded):
    said = prepare.encode(". said", loaded)[1:]
    ids = [1, tokenizers.VOCAB, *said]
    given = [False, True, *[False] * len(said)]
    parts = samples.texts(ids, given, loaded, tokenizers.VOCAB)
    assert parts[:2] == ["", None] and "".join(parts[2:]) == " said"


TEXTS = st.lists(
    st.one_of(
        st.text(max_size=6),
        st.sampled_from(
            [" ", "  ", "\n", "_", "__", "the class ", " said", "\u2581", "\ufffd", ""]
        ),
    ),
    max_size=4,
).map("".join)
VALID = TEXTS.filter(lambda text: not gaps.GAP.search(text))


@given(
    texts=st.lists(VALID, min_size=2, max_size=4),
    sizes=st.lists(st.integers(3, 5), min_size=3, max_size=3),
    which=st.integers(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
@example(texts=[" ", ""], sizes=[3, 3, 3], which=0, seed=0)
@example(texts=["the ", " ", " said"], sizes=[3, 3, 3], which=0, seed=0)
@settings(max_examples=300, deadline=None)
def test_given_text_comes_back_byte_for_byte(texts, sizes, which, seed):
    """Whatever is drawn that may be: bytes that are no text, spaces, and pieces with one; around
    gaps at the ends, next to each other, and of a tokenizer that strips and adds spaces.
    """
    tokenizer = (tokenizers.small, tokenizers.stripping)[which]()
    infill = texts[0]
    for text, size in zip(texts[1:], sizes):
        infill = infill.rstrip("_") + "_" * size + text.lstrip("_")
    parts = gaps.split(infill)
    begun = templates.encode(parts, tokenizer, "--infill")
    hidden_S = begun.ids == tokenizer.vocab
    allowed_LV = templates.allowed(begun, len(begun.ids), tokenizer).numpy()
    controls = [i for i in range(tokenizer.vocab) if tokenizer.processor.is_control(i)]
    assert controls and not allowed_LV[hidden_S][:, controls].any()
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(np.flatnonzero(allowed_V)) for allowed_V in allowed_LV]
    ids = np.where(hidden_S, drawn, begun.ids)
    spelled = samples.texts(ids.tolist(), hidden_S.tolist(), tokenizer, tokenizer.vocab)
    rest = shards.raw_text(ids, tokenizer)
    assert "".join(spelled) == rest.decode(errors="replace")
    waiting = np.flatnonzero(hidden_S).tolist()
    for part in parts:  # each given text stands where the gap before it ends
        if isinstance(part, int):
            start, waiting = waiting[0], waiting[part:]
            part = shards.raw_text(ids[start : start + part], tokenizer, ids[start - 1])
            part = part.removeprefix(b" ") if start in begun.spaced else part
        else:
            part = part.encode()
        assert rest.startswith(part)
        rest = rest.removeprefix(part)
    assert rest == b"" and not waiting
