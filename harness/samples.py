"""What `maskgolf sample` does: text drawn from an artifact, alone or after a prompt."""

from pathlib import Path

import torch

from fast import sample as drawing
from fast.objective import objective_of
from harness.compression import compress
from harness.corpus import prepare, shards
from reference.recipe import InputError


def sample(
    run: Path,
    tokenizer: Path | None,
    prompt: str,
    count: int,
    order: str,
    step: int,
    block: int,
    temperature: float,
    seed: int,
    device: str,
) -> list[dict]:
    """Return `count` windows of text, each opened by <s> and the prompt: row (of the random draws),
    ids, text.
    """
    for name, value, least in (
        ("count", count, 1),
        ("step", step, 1),
        ("block", block, 1),
        ("temperature", temperature, 0),
    ):
        if not value >= least:
            raise InputError(f"--{name}: expected at least {least}, found {value}; raise it")
    model = compress.load(run, tokenizer, device)
    shape, processor = model.recipe.model, model.tokenizer.processor
    objective_of(shape).check_order(order)
    opening = [processor.bos_id(), *prepare.encode(prompt, model.tokenizer)]
    if len(opening) >= shape.length:
        raise InputError(
            f"--prompt: expected fewer than {shape.length - 1} tokens, found {len(opening) - 1};"
            " shorten it"
        )
    ids_BL = torch.full((count, shape.length), shape.vocab)
    ids_BL[:, : len(opening)] = torch.tensor(opening)
    predict = model.along(order) if step == 1 else model.log_probs
    drawn_BL = drawing.fill(
        predict, ids_BL.to(device), shape.vocab, order, seed, step, block, temperature
    ).cpu()
    texts = [
        shards.raw_text(ids_L, model.tokenizer).decode("utf-8", errors="replace")
        for ids_L in drawn_BL.numpy()
    ]
    return [
        {"row": row, "text": text, "ids": ids}
        for row, (text, ids) in enumerate(zip(texts, drawn_BL.tolist(), strict=True))
    ]
