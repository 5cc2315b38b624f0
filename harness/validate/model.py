"""What the scoring checks share: the artifact reloaded as a model, and the validation text. Opened
once per submission.
"""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import NamedTuple

import numpy as np
from torch import Tensor

from fast import artifact, container, data, evaluate, transformer
from fast.bytes import Tokenizer, load_tokenizer
from fast.likelihood import LogProbs
from harness.importers import convert
from harness.validate.submission import Submission
from harness.validate.verdict import CannotTell, require
from reference.recipe import InputError, Recipe

MOST_TOKENS = 1 << 26  # of a split that a check reads; the full validation set has 62,021,845


class Model(NamedTuple):
    """A reloaded artifact: its recipe and weights, and the SHA-256 of the tokenizer that it names,
    if it does.
    """

    recipe: Recipe
    params: dict[str, Tensor]
    tokenizer_sha256: str | None

    def predictor(self, estimator: str | None = None) -> LogProbs:
        """Return log_probs(ids_BL) by the attention that an estimator reads."""
        return evaluate.predictor(self.params, self.recipe, estimator=estimator)


class Text(NamedTuple):
    """The data that was given: training shards (None where there are none), validation tokens,
    tokenizer.
    """

    train: data.Tokens | None
    validation: data.Tokens
    tokenizer: Tokenizer

    def ids(self, count: int, split: str = "validation") -> np.ndarray:
        """Return the first tokens of a split as int64; none of a split that is not there."""
        tokens = getattr(self, split)
        return np.asarray(tokens.read(0, min(len(tokens), count)) if tokens else [], np.int64)


def once(function: Callable) -> Callable:
    """Keep what a function says of the last submission, a value or a reason, for all checks."""

    @lru_cache(maxsize=1)
    def answer(submission: Submission) -> tuple:
        try:
            return function(submission), None
        except CannotTell as reason:
            return None, str(reason)

    @wraps(function)
    def shared(submission: Submission):
        value, reason = answer(submission)
        require(reason is None, reason)
        return value

    return shared


@once
def model(submission: Submission) -> Model:
    """Return the artifact of a submission as a model, read from the file in the folder."""
    name = submission.artifact
    try:
        if name.endswith(".mgolf"):
            header, params = container.unpack(submission.read(name), name)
            recipe = artifact.recipe_of(header, name)
        else:
            header = {}
            recipe, params, _ = convert.load(submission.read(name), name)
    except InputError as error:
        raise CannotTell(f"the artifact does not open: {error}") from error
    shapes = {(key, tuple(value.shape)) for key, value in params.items()}
    expected = {(key, tuple(shape)) for key, shape in transformer.shapes(recipe.model).items()}
    others = ", ".join(sorted({key for key, _ in shapes ^ expected})[:5])
    require(shapes == expected, f"{name} has other tensors than its recipe: {others}")
    named = header.get("tokenizer_sha256")
    sha256 = named if isinstance(named, str) else None
    return Model(recipe, params, sha256)


@once
def text(submission: Submission) -> Text:
    """Return the data given with --data and --tokenizer."""
    options = submission.options
    require(options.data, "needs the validation text: pass --data and --tokenizer")
    try:
        layout = data.find_layout(options.data, options.tokenizer)
        require(layout.validation, f"{options.data} has no validation shards (*_val_*.bin)")
        train = data.Tokens(layout.train) if layout.train else None
        return Text(train, data.Tokens(layout.validation), load_tokenizer(layout.tokenizer))
    except InputError as error:
        raise CannotTell(str(error)) from error


def model_and_text(submission: Submission) -> tuple[Model, Text]:
    """Return model and data that fit: one tokenizer, ids within the vocabulary."""
    opened, given = model(submission), text(submission)
    pieces, others = opened.recipe.model.vocab, given.tokenizer.vocab
    require(pieces == others, f"the model has {pieces} pieces, the tokenizer given {others}")
    return opened, given
