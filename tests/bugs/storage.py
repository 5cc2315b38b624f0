"""Bugs in fp8, formats, the container, byte counts, data and what ships."""

import numpy as np
import torch

from fast.bytes import CONTROL_KINDS
from tests.bugs import Bug
from tests.bugs.edits import (
    always,
    argument,
    call,
    constant,
    first,
    left,
    name,
    operator,
    receiver,
    whole,
    without,
)


class Uncompressed:
    """A hash of what a payload was made of."""

    def compress(self, compress, raw, *given):
        """Keep the bytes before compression."""
        self.raw = raw
        return compress(raw, *given)

    def sha256(self, sha256, payload):
        """Hash those."""
        return sha256(self.raw)


def lengths_of(kinds_counted):
    """A byte table that counts the characters of some kinds of pieces."""

    def by(table, pieces, kinds):
        made = table(pieces, kinds)
        counted = [
            len(piece) * (kind in kinds_counted) for piece, kind in zip(pieces, kinds, strict=True)
        ]
        return made._replace(length_V=np.maximum(made.length_V, counted))

    return by


UNCOMPRESSED = Uncompressed()
BUGS = [
    Bug(
        "fp8-truncates",
        "fast.fp8.encode",
        (operator("+", by=left, nth=2), operator("+", by=left, nth=3)),
        "a bit shift without rounding",
        ("fp8", "quantize-e4m3"),
    ),
    Bug(
        "fp8-ties-away",
        "fast.fp8.encode",
        (
            operator("+", by=lambda pattern, below_half: pattern + below_half + 1, nth=2),
            operator("+", by=left, nth=3),
        ),
        "adding half is the usual integer rounding",
        ("fp8",),
    ),
    Bug(
        "fp8-ties-away-among-subnormals",
        "fast.fp8.encode",
        call("round", by=lambda round, x: torch.floor(x + 0.5)),
        "floor(x + 0.5)",
        ("fp8",),
    ),
    Bug(
        "fp8-flushes-subnormals",
        "fast.fp8.encode",
        call("where", by=argument(1, torch.zeros_like)),
        "hardware modes flush; small weights are most of them",
        ("fp8", "quantize-e4m3"),
    ),
    Bug(
        "fp8-nan-on-overflow",
        "fast.fp8.encode",
        whole(
            by=lambda encode, values, kind, check: (
                encode(values, kind, check)
                | ((values.abs() > 464) & (kind == "e4m3")).to(torch.uint8)
            )
        ),
        "library casts did that, and changed between versions of torch",
        ("fp8",),
    ),
    Bug(
        "fp8-saturates-at-240",
        "fast.fp8.encode",
        call("clamp", by=lambda clamp, max: clamp(max=240.0 if max == 448.0 else max), nth=1),
        "e4m3 without fn ends at 240",
        ("fp8", "quantize-e4m3"),
    ),
    Bug(
        "fp8-loses-the-sign-of-zero",
        "fast.fp8.encode",
        call("view", by=receiver, nth=1),
        "-0 < 0 is false",
        ("fp8",),
    ),
    Bug(
        "fp8-by-way-of-bfloat16",
        "fast.fp8.encode",
        whole(by=lambda encode, values, *given: encode(values.bfloat16().to(values.dtype), *given)),
        "rounding twice",
        ("fp8",),
    ),
    Bug(
        "fp8-decodes-subnormals-with-the-hidden-bit",
        "fast.fp8.decode",
        call("where", by=lambda where, small, subnormal, normal: normal, nth=1),
        "the formula of the other 240 codes",
        ("fp8",),
    ),
    Bug(
        "fp8-bias-of-fnuz",
        "fast.fp8.decode",
        constant(127, 126, nth=1),
        "AMD's e4m3fnuz has bias 8",
        ("fp8", "quantize-e4m3"),
    ),
    Bug(
        "row-exponent-rounds-down",
        "fast.quantize._row_exponents",
        operator("+", by=left),
        "the largest weights of a row saturate",
        ("quantize-e4m3-row",),
    ),
    Bug(
        "row-exponent-at-448",
        "fast.quantize._row_exponents",
        constant(0.90625, 0.875),
        "448 / 512: encoding what was decoded then changes it",
        ("quantize-e4m3-row",),
    ),
    Bug(
        "scale-on-the-wrong-axis",
        "fast.quantize._row_exponents",
        call(
            "amax",
            by=lambda amax, dim: amax(dim=(0, 1)).repeat(len(amax.__self__))[
                : len(amax.__self__), None
            ],
        ),
        "per column instead of per row: fits square matrices",
        ("quantize-e4m3-row",),
    ),
    Bug(
        "scale-read-on-the-wrong-axis",
        "fast.quantize.Scale.read",
        call("repeat_interleave", by=lambda repeat, times, dim: repeat.__self__.repeat(1, times)),
        "repeat and repeat_interleave",
        ("quantize-int4-group",),
    ),
    Bug(
        "scale-of-the-mean",
        "fast.quantize._covering_scales",
        call("amax", to="mean"),
        "everything above the mean is clipped",
        ("quantize-int8-row",),
    ),
    Bug(
        "scale-one-sided",
        "fast.quantize._covering_scales",
        call("abs", by=receiver),
        "abs forgotten: fine until a row's largest weight is negative",
        ("quantize-int4-group",),
    ),
    Bug(
        "scale-rounded-down",
        "fast.quantize._covering_scales",
        operator("<", by=lambda covered, largest: covered < 0),
        "a float16 scale rounded to nearest clips the largest code half of the time",
        ("quantize-int6-row",),
    ),
    Bug(
        "step-exponent-rounds-down",
        "fast.quantize._mean_exponents",
        operator("+", by=left, nth=2),
        "an eighth of an octave below the nearest",
        ("quantize-uniform",),
    ),
    Bug(
        "step-of-a-padded-mean",
        "fast.quantize._mean_exponents",
        operator("/", by=lambda sums, columns: sums / (1 << (columns - 1).bit_length())),
        "the mean over a power of two: fits rows that are one",
        ("quantize-uniform",),
    ),
    Bug(
        "step-without-its-dial",
        "fast.quantize._row_steps",
        operator("-", by=lambda middle, dial: middle - 28),
        "the default, whatever is asked for",
        (
            "tests/pieces/test_quantize.py::test_the_step_is_the_root_mean_square_over_a_power_of_two",
        ),
    ),
    Bug(
        "step-chosen-anew",
        "fast.quantize._row_steps",
        call("sorted", by=lambda ordered, *given, **keywords: []),
        "what was rounded once is rounded again, by another step",
        ("tests/pieces/test_quantize.py::test_storing_a_stored_tensor_gives_the_same_bytes",),
    ),
    Bug(
        "steps-of-the-rows-alone",
        "fast.quantize.StepScale.divide",
        operator("+", by=left),
        "what the columns add is stored and not applied",
        ("quantize-steps",),
    ),
    Bug(
        "fisher-of-the-mean",
        "fast.allot.gradients",
        operator("*", by=lambda count, grad: grad, nth=1),
        "the gradient of a mean over tokens, squared, is that many times too small twice over",
        ("fisher",),
    ),
    Bug(
        "fisher-of-one-batch",
        "fast.allot.squared_gradients",
        operator("/", by=lambda square, tokens: square / 16),
        "divided by the tokens of a gradient, not of all",
        ("fisher",),
    ),
    Bug(
        "steps-by-the-square",
        "fast.allot.step_exponents",
        operator("/", by=left, nth=1),
        "a step goes with one over the root of a square",
        ("allot",),
    ),
    Bug(
        "columns-not-centred",
        "fast.allot.factors",
        call("exp", by=lambda exp: 1.0),
        "rows and columns then share a factor in another way",
        ("allot",),
    ),
    Bug(
        "dial-rounded-up",
        "fast.allot.step_exponents",
        call("floor", to="ceil"),
        "the fraction of the dial is then counted twice",
        ("allot",),
    ),
    Bug(
        "share-of-rows-in-float32",
        "fast.allot._first",
        call("arange", by=lambda arange, *given, **types: arange(*given)),
        "an integer tensor is compared with a float in float32",
        ("allot",),
    ),
    Bug(
        "code-beyond-16-bits",
        "fast.allot._bounded",
        call("maximum", by=lambda maximum, rows, most: rows),
        "an outlier far above the rest of its row",
        ("tests/pieces/test_allot.py::test_no_code_takes_more_than_16_bits",),
    ),
    Bug(
        "shifted-the-other-way",
        "fast.allot.shifted",
        operator("-", by=lambda rows_R, finer: rows_R + finer, nth=1),
        "a greater exponent is a coarser step",
        ("allot",),
    ),
    Bug(
        "shifted-beyond-16-bits",
        "fast.allot.shifted",
        call("maximum", by=lambda maximum, rows, most: rows),
        "weights that have grown since their steps were chosen",
        ("tests/pieces/test_allot.py::test_no_finer_step_takes_more_than_16_bits",),
    ),
    Bug(
        "rounded-down",
        "fast.quantize.rounded",
        call("round", to="floor"),
        "training at other weights than those that are stored",
        ("quantize-steps",),
    ),
    Bug(
        "moments-of-the-rows",
        "fast.compensate.second_moments",
        operator("@", by=lambda one, other: other @ one if len(one) == len(other) else one @ other),
        "products of two rows' gradients where a matrix is square",
        ("moments",),
    ),
    Bug(
        "feedback-to-the-earlier-columns",
        "fast.compensate.feedback",
        call("cholesky", by=lambda cholesky, moments: cholesky(moments.flip(0, 1)).T.flip(0, 1)),
        "the other triangle: columns are explained by those before them",
        ("compensate",),
    ),
    Bug(
        "feedback-without-its-diagonal",
        "fast.compensate.feedback",
        operator("/", by=left, nth=1),
        "a factor of the moments themselves",
        ("compensate",),
    ),
    Bug(
        "errors-of-earlier-blocks-forgotten",
        "fast.compensate.compensated",
        operator("+", by=left, nth=2),
        "only the errors of the block at hand are passed on",
        ("compensate",),
    ),
    Bug(
        "compensated-beyond-16-bits",
        "fast.compensate.compensated",
        call("clamp", by=lambda clamp, *ends: clamp(-(2**20), 2**20)),
        "the largest code and the errors of earlier columns",
        ("tests/pieces/test_compensate.py::test_no_code_takes_more_than_16_bits",),
    ),
    Bug(
        "budget-overspent",
        "fast.artifact._fitted",
        operator("<=", by=always(True)),
        "what is over the budget is kept as well",
        ("tests/pieces/test_allot.py::test_a_budget_is_met_to_a_thousandth",),
    ),
    Bug(
        "spread-by-the-sum",
        "fast.spread._mean",
        operator("/", by=left),
        "a class for every number of columns",
        ("tests/pieces/test_codec.py::test_a_class_is_a_quarter_of_an_octave",),
    ),
    Bug(
        "spread-of-rows-alone",
        "fast.spread.Grid.kinds",
        call("outer", by=lambda outer, rows, columns: outer(rows, 0 * columns)),
        "decodes, and takes more bytes where columns differ",
        ("tests/pieces/test_codec.py::test_integers_take_what_the_spread_of_row_and_column_takes",),
    ),
    Bug(
        "ternary-scale-of-the-mean",
        "fast.quantize._ternary_scales",
        call("where", by=lambda where, better, new, best: new),
        "BitNet's absmean is not the least squares scale",
        ("quantize-ternary-group",),
    ),
    Bug(
        "ternary-digits-reversed",
        "fast.quantize.pack_codes",
        operator("**", by=lambda three, i: three ** (4 - i)),
        "big-endian digits",
        ("quantize-ternary-group",),
    ),
    Bug(
        "nibbles-swapped",
        "fast.quantize.pack_codes",
        operator("*", by=lambda bits, i: bits * ({6: 4, 4: 2}[bits] - 1 - i), nth=1),
        "high nibble first is as common",
        ("quantize-int4-group", "quantize-e2m1-group"),
    ),
    Bug(
        "integers-asymmetric",
        "fast.quantize.Integers.encode",
        call("clamp", by=lambda clamp, low, high: clamp(low - 1, high - 1)),
        "two's complement has one more negative code",
        ("quantize-int8-row",),
    ),
    Bug(
        "integers-truncate",
        "fast.quantize.Integers.encode",
        call("round", to="trunc"),
        "a cast to int truncates toward zero",
        ("quantize-int8-row",),
    ),
    Bug(
        "big-endian",
        "fast.quantize.Floats.encode",
        call("astype", by=lambda astype, kind: astype(kind).byteswap()),
        "the machine's or the network's order, where the format says little",
        ("quantize-float32", "quantize-float16"),
    ),
    Bug(
        "one-fp8-for-all",
        "fast.quantize.SmallFloats.decode",
        call("decode", by=argument(1, always("e4m3"))),
        "the kind is a default argument",
        ("quantize-e5m2",),
    ),
    Bug(
        "float16-through-float32",
        "fast.quantize.Floats.encode",
        call("numpy", by=lambda numpy: numpy.__self__.float().double().numpy()),
        "rounding twice on the way",
        ("tests/pieces/test_quantize.py::test_float16_rounds_float64_once",),
    ),
    Bug(
        "control-tensors-in-fp8",
        "fast.quantize.choose_format",
        operator("in", by=always(False)),
        "a rule by size alone stores gains in 3 bits of mantissa",
        ("container",),
    ),
    Bug(
        "threshold-exclusive",
        "fast.quantize.choose_format",
        operator("<=", to="<"),
        "above means above",
        ("container",),
    ),
    Bug(
        "tensors-in-insertion-order",
        "fast.container.tensor_table",
        call("sorted", to="list"),
        "the same weights then give other bytes",
        ("container",),
    ),
    Bug(
        "header-with-spaces",
        "fast.container.canonical_json",
        call("dumps", by=without("separators")),
        "json.dumps by default",
        ("container",),
    ),
    Bug(
        "hash-of-the-raw-payload",
        "fast.container.pack",
        (call("compress", by=UNCOMPRESSED.compress), call("sha256", by=UNCOMPRESSED.sha256)),
        "before or after the codec",
        ("container",),
    ),
    Bug(
        "leading-space-counted-twice",
        "fast.bytes.byte_table",
        operator("-", by=left, nth=2),
        "the piece's own length holds its space already",
        ("bytes",),
    ),
    Bug(
        "leading-space-never-counted",
        "fast.bytes.token_bytes",
        operator("+", by=left),
        "bits per byte then come out a fifth too high",
        ("bytes",),
    ),
    Bug(
        "leading-space-after-control-counted",
        "fast.bytes.token_bytes",
        call("append", by=argument(0, np.ones_like)),
        "the first word of every document gets a byte that its text has not",
        ("bytes",),
    ),
    Bug(
        "no-previous-token-is-the-last-piece",
        "fast.bytes.token_bytes",
        call("append", by=first),
        "index -1 wraps around",
        ("bytes",),
    ),
    Bug(
        "byte-pieces-counted-as-text",
        "fast.bytes.byte_table",
        whole(by=lengths_of({"byte"})),
        "<0x41> is six characters and one byte",
        ("bytes",),
    ),
    Bug(
        "characters-for-bytes",
        "fast.bytes.byte_table",
        (call("encode", by=receiver), operator("-", by=left, nth=1)),
        "len of a str counts code points",
        ("bytes",),
    ),
    Bug(
        "inner-spaces-of-three-bytes",
        "fast.bytes.byte_table",
        call("count", by=lambda count, space: int(count.__self__.startswith(space))),
        "only the leading U+2581 is taken for a space",
        ("bytes",),
    ),
    Bug(
        "unknown-counted",
        "fast.bytes.byte_table",
        whole(by=lengths_of(CONTROL_KINDS)),
        "<unk> is five characters and no text",
        ("bytes",),
    ),
    Bug(
        "last-window-dropped",
        "fast.data.evaluation_windows",
        operator(">", by=always(False)),
        "drop_last: the tail of a validation set is cheap to lose and changes the score",
        ("tests/pieces/test_data.py::test_evaluation_crosses_shard_borders",),
    ),
    Bug(
        "previous-token-of-the-wrong-window",
        "fast.data.evaluation_windows",
        operator("-", by=left, nth=2),
        "off by one at every border",
        ("tests/pieces/test_data.py::test_evaluation_crosses_shard_borders",),
    ),
    Bug(
        "context-forgotten-where-a-range-begins",
        "fast.data.evaluation_windows",
        call("read", nth=3, by=lambda read, *given: np.full_like(read(*given), -1)),
        "the first row of every range but the split's is scored as if a text began there",
        ("tests/pieces/test_data.py::test_context_of_a_row_is_the_row_before_it",),
    ),
    Bug(
        "submission-ships-live-weights",
        "fast.ship.submission.run",
        name("shadow", to="params"),
        "what maskgolf train does right, train_gpt.py may do wrong",
        ("tests/harness/test_bundle.py::test_the_average_ships",),
    ),
    Bug(
        "submission-scores-its-own-rank",
        "fast.ship.submission.score_tokens",
        call("evaluation_windows", by=argument(-1, lambda share: share // 2)),
        "a share of the windows that is cut twice leaves windows that nobody scores",
        ("tests/harness/test_bundle.py::test_a_program_scores_every_window",),
    ),
    Bug(
        "stored-by-other-steps-than-trained-at",
        "harness.runs._ship",
        call("write", by=without("exponents")),
        "steps chosen anew at the end",
        ("tests/harness/test_runs.py::test_a_run_is_stored_by_the_steps_that_its_training_chose",),
    ),
    Bug(
        "submission-stored-by-other-steps-than-trained-at",
        "fast.ship.submission.run",
        call("write", by=argument(-1, lambda exponents: None)),
        "the same in a packed program",
        ("tests/pieces/test_ship.py::test_a_program_ships_by_the_steps_that_its_training_chose",),
    ),
    Bug(
        "shipped-from-live-weights",
        "harness.runs._ship",
        name("shadow", to="params"),
        "the average is computed, logged and never used",
        ("tests/harness/test_commands.py::test_artifact_holds_the_shadow",),
    ),
    Bug(
        "stored-before-averaging",
        "fast.checkpoint.save",
        call("detach", by=lambda detach: detach().bfloat16().to(detach().dtype)),
        "checkpoints in half precision do not resume bit for bit",
        ("tests/pieces/test_checkpoint.py::test_round_trip_is_bit_for_bit",),
    ),
]
