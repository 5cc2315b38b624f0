"""A small lossless tokenizer for tests, trained once per process."""

import functools
import tempfile
from pathlib import Path

from fast.bytes import Tokenizer, load_tokenizer
from harness.corpus import prepare

VOCAB = 300
TEXT = "the class of a word is the word of a class, said the man to the other man " * 3


@functools.cache
def small() -> Tokenizer:
    """Return a tokenizer of VOCAB pieces."""
    path = Path(tempfile.mkdtemp(prefix="maskgolf-tokenizer-")) / "small.model"
    path.write_bytes(prepare.train_tokenizer([TEXT], VOCAB))
    return load_tokenizer(path)
