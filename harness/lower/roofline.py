"""How long a lowered graph would run: a roofline of stated assumptions, each with its reason."""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields

from harness.lower.inductor import Launch
from reference.recipe import Recipe


def _assume(value: float, why: str):
    return field(default=value, metadata={"why": why})


@dataclass(frozen=True)
class Assumptions:
    """What the predicted milliseconds rest on. Rates in bytes, operations and rows per second."""

    bandwidth: float = _assume(3.35e12, "HBM3 of an H100 SXM, NVIDIA's data sheet")
    stream: float = _assume(
        0.80, "share of it that generated kernels reach; a plain copy reaches 90 %"
    )
    half_peak: float = _assume(989e12, "bfloat16 and float16 without sparsity, data sheet")
    single_peak: float = _assume(67e12, "float32 and float64, data sheet; torch leaves TF32 off")
    matmul: float = _assume(
        0.60, "share of the peak in a library's products with sides of 500 to 1,200"
    )
    matmul_long: float = _assume(0.50, "the same where K is long and the output small: K is split")
    long_inner: float = _assume(
        16384, "K from which it is long: that of weight gradients, the tokens"
    )
    template: float = _assume(
        0.55,
        "the same in Triton's: 92 to 97 % of the library's with K of 512 and 1,024 on an H100 "
        "(triton pull request 5726, facebookexperimental/triton 1038)",
    )
    cudnn_forward: float = _assume(300e12, "cuDNN's attention on Hopper, bfloat16, head width 72")
    cudnn_backward: float = _assume(225e12, "the same; backward counts 2.5 forwards")
    flash_forward: float = _assume(247e12, "FlashAttention 2, which torch carries, on an H100")
    flash_backward: float = _assume(186e12, "the same; backward counts 2.5 forwards")
    other_forward: float = _assume(
        20e12, "the memory-efficient kernel in float32: a third of the peak"
    )
    other_backward: float = _assume(10e12, "the same; backward counts 2.5 forwards")
    launch: float = _assume(3e-6, "seconds at least of any kernel, its launch hidden behind others")
    repeated: float = _assume(
        0.5, "share of an accumulating fallback's rows with one index: the mask"
    )
    serial_row: float = _assume(
        0.7e-6, "seconds per such row: a guess between 0.45 and 0.9, unmeasured"
    )

    def stated(self) -> dict[str, dict]:
        """Return {name: {value, why}} for a result file."""
        return {
            assumed.name: {"value": getattr(self, assumed.name), "why": assumed.metadata["why"]}
            for assumed in fields(self)
        }


def peak(dtype: str, assumed: Assumptions) -> float:
    """Return the operations per second of the units that multiply a type."""
    return assumed.half_peak if dtype in ("bfloat16", "float16") else assumed.single_peak


def attention_rate(name: str, assumed: Assumptions) -> float:
    """Return the operations per second of an attention operator."""
    kernel = next((kind for kind in ("cudnn", "flash") if kind in name), "other")
    direction = "backward" if "backward" in name else "forward"
    return getattr(assumed, f"{kernel}_{direction}")


def seconds(launch: Launch, assumed: Assumptions) -> float:
    """Return the time of one launch: of its bytes or its operations, whichever take longer."""
    least = max(assumed.launch, launch.bytes / (assumed.bandwidth * assumed.stream))
    if launch.kind == "attention":
        return max(least, launch.flops / attention_rate(launch.name, assumed))
    if launch.kind in ("matmul", "template"):
        share = assumed.matmul_long if launch.inner >= assumed.long_inner else assumed.matmul
        share = assumed.template if launch.kind == "template" else share
        return max(least, launch.flops / (peak(launch.dtype, assumed) * share))
    return least + launch.rows * assumed.repeated * assumed.serial_row


@dataclass
class Sum:
    """Launches, bytes, operations and milliseconds of some launches together."""

    launches: int = 0
    bytes: float = 0.0
    flops: float = 0.0
    ms: float = 0.0

    def add(self, launch: Launch, times: int, assumed: Assumptions) -> None:
        """Add one launch that runs so many times."""
        self.launches += times
        self.bytes += times * launch.bytes
        self.flops += times * launch.flops
        self.ms += times * 1e3 * seconds(launch, assumed)


STEP = ("forward", "backward", "update")  # the phases that make a training step
STEP_NAME, ALL = "step", "all"


def times_of(phase: str, recipe: Recipe) -> int:
    """Return how often a phase's graph runs in a step, or in one pass of anything else."""
    training = recipe.training
    tokens = min(training.micro_batch_tokens, training.tokens_per_step)
    return training.tokens_per_step // tokens if phase in ("forward", "backward") else 1


def table(launches: Iterable[Launch], recipe: Recipe, assumed: Assumptions) -> dict[tuple, Sum]:
    """Return {(phase, part): Sum}; part "all" sums a phase, phase "step" a training step.

    A step has training.tokens_per_step tokens, on one GPU; other phases are one pass of theirs.
    """
    sums: dict[tuple, Sum] = {}
    for launch in launches:
        keys = [(launch.phase, launch.part), (launch.phase, ALL)]
        if launch.phase in STEP:
            keys += [(STEP_NAME, launch.part), (STEP_NAME, ALL)]
        for key in keys:
            sums.setdefault(key, Sum()).add(launch, times_of(launch.phase, recipe), assumed)
    phases = list(dict.fromkeys(phase for phase, _ in sums))
    phases.sort(key=lambda phase: phase != STEP_NAME)
    order = [key for phase in phases for key in sums if key[0] == phase]
    order.sort(key=lambda key: (phases.index(key[0]), key[1] != ALL, -sums[key].ms))
    return {key: sums[key] for key in order}
