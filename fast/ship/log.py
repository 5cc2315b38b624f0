"""Parity: not a numeric piece. The log of a run: the challenge's lines, and what else a reader of a
submission checks.
"""

import platform

import torch

from fast.objective import objective_of
from fast.train import State, initial_state
from reference.recipe import Recipe, Score


def hardware(device: str, count: int = 1) -> str:
    """Return what a run computes on, in words; count processes share it, each with a GPU of its
    own.
    """
    if device.startswith("cuda"):
        return f"{count} x {torch.cuda.get_device_name(device)}"
    return (
        f"CPU ({platform.processor() or platform.machine()}, {count} x {torch.get_num_threads()}"
        " threads)"
    )


def opening_lines(
    recipe: Recipe, device_name: str, torch_version: str, parameters: int, tokens: int
) -> list[str]:
    """Return what a log says before the first step; tokens are those of the validation split."""
    model, training = recipe.model, recipe.training
    return [
        f"Running PyTorch {torch_version} on {device_name}",
        (
            f"model_params:{parameters} layers:{model.layers} d:{model.d} heads:{model.heads}"
            f" kv_heads:{model.kv_heads} vocab:{model.vocab} length:{model.length}"
            f" causal:{objective_of(model).is_causal}"
        ),
        (
            f"iterations:{training.iterations}"
            f" max_wallclock_seconds:{training.max_wallclock_seconds:g}"
            f" warmdown:{training.warmdown} tokens_per_step:{training.tokens_per_step}"
        ),
        f"val_tokens:{tokens}",
        f"seed:{recipe.seed}",
    ]


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Return the norm of the difference of two sets of weights over the norm of the second."""
    squares = [
        ((one[name] - other[name]).double().square().sum(), other[name].double().square().sum())
        for name in other
    ]
    return float((sum(apart for apart, _ in squares) / sum(size for _, size in squares)).sqrt())


def closing_lines(state: State, recipe: Recipe) -> list[str]:
    """Return what a log says after the last step: the average, the last learning rate, the budget
    used.
    """
    start = {name: value.detach() for name, value in initial_state(recipe).params.items()}
    shadow, live = (
        {name: value.detach().cpu() for name, value in group.items()}
        for group in (state.shadow, state.params)
    )
    dtypes = ",".join(
        sorted({str(value.dtype).removeprefix("torch.") for value in shadow.values()})
    )
    began = "never" if state.ema_started_step is None else state.ema_started_step
    clock, total = f"train_time:{1000 * state.elapsed:.0f}ms", recipe.training.iterations
    return [
        *(
            [f"stopping_early: wallclock_cap {clock} step:{state.step}/{total}"]
            if state.step < total
            else []
        ),
        (
            f"ema started_step:{began} decay:{recipe.ema.decay} dtype:{dtypes}"
            f" from_start:{distance(shadow, start):.6f} from_live:{distance(shadow, live):.6f}"
        ),
        f"final_lr_multiplier:{state.multiplier:.8f}",
        f"steps:{state.step} {clock} step_avg:{1000 * state.elapsed / state.step:.2f}ms",
    ]


def size_lines(label: str, model_bytes: int, code_bytes: int) -> list[str]:
    """Return the challenge's lines about the sizes; label names format and codec."""
    return [
        f"Code size: {code_bytes} bytes",
        f"Serialized model {label}: {model_bytes} bytes",
        f"Total submission size {label}: {code_bytes + model_bytes} bytes",
    ]


def score_lines(label: str, score: Score) -> list[str]:
    """Return the challenge's lines about the score of the artifact read back; standard errors are
    in bits per byte.
    """
    name = f"final_{label.replace('+', '_')}_roundtrip"
    errors = f"stderr_masks:{score.stderr_masks:.8f} stderr_sequences:{score.stderr_sequences:.8f}"
    return [
        (
            f"{name} val_loss:{score.nats_per_token:.4f} val_bpb:{score.bpb:.4f}"
            f" eval_time:{1000 * score.seconds:.0f}ms"
        ),
        (
            f"{name}_exact val_loss:{score.nats_per_token:.8f} val_bpb:{score.bpb:.8f} {errors}"
            f" tokens:{score.tokens} bytes:{score.bytes} estimator:{score.estimator}"
        ),
    ]
