"""Parity: not a numeric piece. The program of a submission: train, ship the artifact, score it from
the file.

harness/packaging/bundle.py writes it and all that it reaches as one self-contained train_gpt.py,
with the recipe of the packed run.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from fast import artifact, data, distributed, evaluate, transformer
from fast.bytes import Tokenizer, load_tokenizer
from fast.callbacks import LogLoss, TrainLog, Validate, validation_text
from fast.data import Layout, Tokens
from fast.distributed import World
from fast.errors import PeerFailed, PeerLost, TrainingError
from fast.ship import log
from fast.ship.packed import CODEC, RECIPE
from fast.train import State, Stepper, deterministic, initial_state, train
from reference.recipe import InputError, Recipe, Score, check

ARTIFACT = "final_model.mgolf"
DATA = "./data/datasets/fineweb10B_sp1024"
TOKENIZER = "./data/tokenizers/fineweb_1024_bpe.model"
SCORED_ROWS = 64  # windows per forward pass of the score


def setting(name: str, kind: type, default):
    """Return an environment variable as an int or a float, the default where it is not set."""
    text = os.environ.get(name)
    if text is None:
        return default
    try:
        return kind(text)
    except ValueError:
        word = {int: "a whole number", float: "a number"}[kind]
        raise InputError(
            f"{name}: expected {word}, found {text!r}; set it to one, or leave it unset for"
            f" {default}"
        ) from None


def configured(recipe: Recipe) -> Recipe:
    """Return the recipe under SEED, ITERATIONS and MAX_WALLCLOCK_SECONDS (0: no cap)."""
    iterations = setting("ITERATIONS", int, recipe.training.iterations)
    seconds = setting("MAX_WALLCLOCK_SECONDS", float, recipe.training.max_wallclock_seconds)
    training = replace(recipe.training, iterations=iterations, max_wallclock_seconds=seconds)
    return check(replace(recipe, seed=setting("SEED", int, recipe.seed), training=training))


def opened(recipe: Recipe) -> tuple[Layout, Tokenizer]:
    """Return the shards at DATA_PATH and the tokenizer at TOKENIZER_PATH."""
    layout = data.find_layout(
        os.environ.get("DATA_PATH", DATA), os.environ.get("TOKENIZER_PATH", TOKENIZER)
    )
    return layout, load_tokenizer(layout.tokenizer, recipe.model.vocab)


def train_model(recipe: Recipe, tokens: Tokens, callbacks: list[Callable], world: World) -> State:
    """Return the state at the end of the budget."""
    # On a CPU the compiler takes longer than a short run saves
    compiled = world.device.startswith("cuda")
    batch = data.batches(tokens, recipe)
    with deterministic(recipe.training.repeatable):
        stepper, state = (
            Stepper(recipe, world.device, compiled, world),
            initial_state(recipe, world.device),
        )
        if compiled:
            stepper.warm_up(state, batch)
        choose = partial(artifact.choose_steps, codec=CODEC)
        return train(batch, recipe, state, stepper, callbacks, world=world, choose=choose)[0]


def score_tokens(
    params: dict[str, torch.Tensor],
    recipe: Recipe,
    tokens: Tokens,
    tokenizer: Tokenizer,
    world: World,
) -> Score:
    """Return the score of the whole validation split, shared by the ranks, by the
    objective's estimator.
    """
    model, begun = recipe.model, time.perf_counter()
    effort = evaluate.default_effort(recipe)
    windows = data.evaluation_count(tokens, model.length)
    settings = {
        "batch_rows": min(SCORED_ROWS, data.count_windows(tokens, model.length)),
        "device": world.device,
    }
    # Whole batches, so that cutting them changes no number
    share = -(-windows // (world.size * SCORED_ROWS)) * SCORED_ROWS
    first, parts, plans = world.rank * share, [], {}
    with distributed.fail_on_all_ranks(world):
        if first < windows:
            predict = evaluate.predictor(
                params, recipe, world.device, compiled=world.device.startswith("cuda")
            )
            if evaluate.METHODS[effort.estimator].planned:
                plans[model.length], _ = evaluate.split_plan(
                    predict, tokens, model.length, model.vocab, effort, **settings
                )
            count = min(share, windows - first)
            own = data.evaluation_windows(tokens, model.length, model.vocab, first, count)
            parts = list(
                evaluate.measure(
                    predict, own, tokenizer.table, effort, first_row=first, **settings, plans=plans
                )
            )
    known_N4 = torch.zeros(windows, 4, dtype=torch.float64)
    for part in parts:
        known_N4[part.rows_N] = torch.from_numpy(
            np.stack([part.nats_N, part.variance_N, part.tokens_N, part.bytes_N], axis=1).astype(
                np.float64
            )
        )
    distributed.wait(world)
    # Zeros but for the rank that scored a window: the sum is exact
    [known_N4] = distributed.sum_over_ranks([known_N4.to(world.device)], world)
    nats_N, variance_N, tokens_N, bytes_N = known_N4.cpu().numpy().T
    every = evaluate.Part(
        np.arange(windows),
        nats_N,
        variance_N,
        tokens_N.astype(np.int64),
        bytes_N.astype(np.int64),
        0,
    )
    return evaluate.total([every], effort, time.perf_counter() - begun)


def score_file(path: Path | str, world: World) -> list[str]:
    """Return the lines about size and score of an artifact, read from the file; over the limit is
    an InputError.
    """
    with distributed.fail_on_all_ranks(world):
        header, params = artifact.read(path)
        recipe = artifact.recipe_of(header, str(path))
        layout, tokenizer = opened(recipe)
        artifact.check_tokenizer(header, tokenizer)
        size, code, label = (
            Path(path).stat().st_size,
            Path(__file__).stat().st_size,
            f"{recipe.quantization.format}+{header['codec']}",
        )
        artifact.check_size(header, size, {Path(__file__).name: code})
        tokens = Tokens(layout.validation)
        data.count_windows(tokens, recipe.model.length)
    score = score_tokens(params, recipe, tokens, tokenizer, world)
    return [*log.size_lines(label, size, code), *log.score_lines(label, score)]


def begin(
    recipe: Recipe, world: World
) -> tuple[Recipe, Tokens, Tokenizer, TrainLog | None, list[Callable]]:
    """Return the recipe under the environment, its training tokens, tokenizer, log and
    callbacks: rank 0 writes logs/RUN_ID.txt, the others nothing.
    """
    recipe = configured(recipe)
    distributed.share(recipe, world)
    run_id = os.environ.get("RUN_ID", f"train_seed{recipe.seed}")
    if run_id in ("", ".", "..") or "/" in run_id or "\0" in run_id:
        raise InputError(
            f"RUN_ID: expected a file name, found {run_id!r}; choose one without slashes"
        )
    layout, tokenizer = opened(recipe)
    tokens, validation = Tokens(layout.train), Tokens(layout.validation)
    for split in (tokens, validation):
        data.count_windows(split, recipe.model.length)
    if world.rank:
        return recipe, tokens, tokenizer, None, []
    validate = evaluate.validator(recipe, validation, tokenizer.table, world.device)
    train_log = TrainLog(Path("logs") / f"{run_id}.txt", partial(print, flush=True))
    train_log.begin()
    parameters = sum(math.prod(shape) for shape in transformer.shapes(recipe.model).values())
    for line in log.opening_lines(
        recipe,
        log.hardware(world.device, world.size),
        torch.__version__,
        parameters,
        len(validation),
    ):
        train_log.line(line)
    train_log.line(validation_text(*evaluate.validated(validation, recipe.model.length)))
    training = recipe.training
    callbacks = [LogLoss(train_log, training), Validate(validate, training, train_log)]
    return recipe, tokens, tokenizer, train_log, callbacks


def run(recipe: Recipe, world: World) -> None:
    """Train under the recipe, write the artifact here, read it back and score it; everything goes
    to logs/RUN_ID.txt.
    """
    with distributed.fail_on_all_ranks(world):
        recipe, tokens, tokenizer, train_log, callbacks = begin(recipe, world)
    state = train_model(recipe, tokens, callbacks, world)
    with distributed.fail_on_all_ranks(world):
        if world.rank == 0:
            if world.device.startswith("cuda"):
                allocated, reserved = (
                    torch.cuda.max_memory_allocated() >> 20,
                    torch.cuda.max_memory_reserved() >> 20,
                )
                train_log.line(f"peak memory allocated: {allocated} MiB reserved: {reserved} MiB")
            artifact.write(
                ARTIFACT,
                state.shadow,
                recipe,
                {"tokenizer_sha256": tokenizer.sha256},
                CODEC,
                data.batches(tokens, recipe),
                state.exponents,
            )
            for line in log.closing_lines(state, recipe):
                train_log.line(line)
    lines = score_file(ARTIFACT, world)
    if world.rank == 0:
        for line in lines:
            train_log.line(line)


def main(arguments: list[str] | None = None) -> int:
    """Train and score, or only score with --score FILE; returns the exit code, bad input is one
    message.
    """
    parser = argparse.ArgumentParser(
        description="Train, ship and score a model; or score an artifact."
    )
    parser.add_argument(
        "--score",
        metavar="FILE",
        help="score this artifact on the validation split at DATA_PATH; train nothing",
    )
    parsed = parser.parse_args(arguments)
    world = World()
    try:
        world = distributed.join("cuda" if torch.cuda.is_available() else "cpu")
        if parsed.score is None:
            run(RECIPE, world)
        else:
            lines = score_file(parsed.score, world)
            if world.rank == 0:
                print(*lines, sep="\n")
    except (InputError, TrainingError, PeerLost, PeerFailed) as error:
        if isinstance(error, InputError) or world.rank == 0:  # what all ranks meet is said once
            print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        print(f"{Path(__file__).name}: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
