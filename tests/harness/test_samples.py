"""Samples of text: how they open, whose rows they are, what they spell."""

from dataclasses import replace

import pytest
import torch

from fast import transformer
from harness import samples
from harness.compression import compress
from harness.corpus import prepare, shards
from reference.recipe import TINY, InputError
from tests.support import tokenizers
from tests.support.recorded import record


@pytest.fixture
def loaded(monkeypatch):
    """Return a tokenizer, and have every run load as a model of it with rows of 16 tokens."""
    tokenizer = tokenizers.small()
    recipe = replace(TINY, model=replace(TINY.model, vocab=tokenizers.VOCAB, length=16))
    model = compress.predictor(
        transformer.initialize(recipe.model, 0), recipe, tokenizer, "ab" * 32
    )
    record(monkeypatch, "harness.compression.compress.load", model)
    return tokenizer


def test_samples_open_with_the_control_token_and_the_prompt(loaded, monkeypatch):
    """Three rows that differ: each begins with <s> and the prompt, hides the rest, and its text is
    that of its own ids, without a space before the first word.
    """
    words = [prepare.encode(word, loaded)[0] for word in ("class", "word", "man")]
    given = []

    def fill(_, ids_BL, vocab, *rest):
        given.append(ids_BL.clone())
        new = torch.tensor(words)[: len(ids_BL), None].expand_as(ids_BL)
        return torch.where(ids_BL == vocab, new, ids_BL)

    record(monkeypatch, "fast.sample.fill", fill)
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
    record(monkeypatch, "fast.sample.fill", lambda _, ids_BL, vocab, *rest: ids_BL.clamp(max=259))
    settings = 1, "left-to-right", 1, 1, 1.0, 0, "cpu"
    assert loaded.processor.id_to_piece(259) == "<0xFF>"
    [one] = samples.sample("run", None, "\t" * 14, *settings)
    assert one["text"] == "\t" * 14 + "\ufffd"
    with pytest.raises(InputError, match="--prompt: expected fewer than 15 tokens, found 15"):
        samples.sample("run", None, "\t" * 15, *settings)
