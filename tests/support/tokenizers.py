"""Small tokenizers for tests, trained once per process."""

import functools
import io
import tempfile
from pathlib import Path

import sentencepiece

from fast.bytes import Tokenizer, load_tokenizer
from harness.corpus import prepare

VOCAB = 300
TEXT = "the class of a word is the word of a class, said the man to the other man " * 3


@functools.cache
def small() -> Tokenizer:
    """Return a lossless tokenizer of VOCAB pieces."""
    return _loaded(prepare.train_tokenizer([TEXT], VOCAB))


@functools.cache
def stripping() -> Tokenizer:
    """Return a tokenizer of VOCAB pieces that drops spaces and normalises, as the challenge's."""
    return _trained(VOCAB, byte_fallback=True, add_dummy_prefix=False)


@functools.cache
def bare() -> Tokenizer:
    """Return a tokenizer of 32 pieces, none of them a byte."""
    return _trained(32)


def _trained(vocab: int, **options) -> Tokenizer:
    out = io.BytesIO()
    options |= {"model_type": "bpe", "vocab_size": vocab, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT]), model_writer=out, **options
    )
    return _loaded(out.getvalue())


def _loaded(model: bytes) -> Tokenizer:
    path = Path(tempfile.mkdtemp(prefix="maskgolf-tokenizer-")) / "small.model"
    path.write_bytes(model)
    return load_tokenizer(path)
