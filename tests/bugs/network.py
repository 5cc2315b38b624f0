"""Bugs in the network and its loss."""

import torch

from fast import masking, transformer
from tests.bugs import Bug
from tests.bugs.edits import (
    always,
    argument,
    call,
    constant,
    first,
    giving,
    left,
    name,
    operator,
    pair,
    receiver,
    whole,
)

FORMS = "tests/pieces/test_transformer.py::test_forms_for_gpus_compute_the_same_"  # what parity on a CPU does not run
EPSILON = 2.0**-23  # of norms where there should be none


def skip_later(block, x, *given):
    """A block whose input is (activations, skip): the skip is added behind it."""
    if not isinstance(x, tuple):
        return block(x, *given)
    x, skip = x
    pick = given[-2]
    return block(x, *given) + (skip if pick is None else pick(skip))


BUGS = [
    Bug(
        "loss-over-masked-count",
        "fast.masking.loss",
        whole(
            by=lambda loss, logits, ids, mask, weights: loss(
                logits, ids, mask, weights * mask.shape[1] / mask.sum(dim=1).clamp(min=1)
            )
        ),
        "the masked mean is what BERT trains on; with the weight 1/t it is no bound",
        ("loss", "gradients"),
    ),
    Bug(
        "loss-sums-rows",
        "fast.masking.loss",
        call("mean", to="sum", nth=2),
        "a sum makes the step depend on the batch size",
        ("loss", "gradients"),
    ),
    Bug(
        "unmasked-charged",
        "fast.masking.loss",
        call("where", by=receiver),
        "the plain cross-entropy runs and even trains, mostly on copying",
        ("loss", "gradients"),
    ),
    Bug(
        "masked-spared",
        "fast.masking.loss",
        call("where", by=argument(0, lambda mask: ~mask)),
        "attention masks and loss masks have opposite signs",
        ("loss",),
    ),
    Bug(
        "weights-averaged-first",
        "fast.masking.loss",
        call("to", by=lambda to, dtype: to(dtype).mean()),
        "a scalar mean of 1/t times a scalar mean of the loss is biased and plausible",
        ("loss",),
    ),
    Bug(
        "log-softmax-in-the-compute-dtype",
        "fast.masking.log_softmax",
        call("promote_types", by=always(torch.bfloat16)),
        "autocast chooses the dtype of softmax in some versions",
        ("loss", "predictor"),
    ),
    Bug(
        "label-smoothing",
        "fast.masking.cross_entropy",
        whole(
            by=lambda nats, logits, ids: (
                0.999 * nats(logits, ids) - 0.001 * masking.log_softmax(logits).mean(-1)
            )
        ),
        "a default taken over from another trainer; a bound no more",
        ("loss",),
    ),
    Bug(
        "spare-slots-count",
        "fast.masking.masked_loss",
        call("where", by=receiver, nth=1),
        "padding of a batch with a fixed size joins the mean",
        ("gradients",),
    ),
    Bug(
        "masked-weights-by-slot",
        "fast.masking.masked_loss",
        (
            operator("//", by=left),
            operator("[]", by=lambda weights, position: weights[position % len(weights)], nth=2),
        ),
        "rows and columns of a flat index confused",
        ("gradients",),
    ),
    Bug(
        "masked-mean-over-masked",
        "fast.masking.masked_loss",
        whole(
            by=lambda loss, logits, ids, masked, weights: (
                loss(logits, ids, masked, weights) * ids.numel() / masked.filled_C.sum()
            )
        ),
        "the divisor is L, not the masked count",
        ("gradients",),
    ),
    Bug(
        "gradient-of-what-was-not-taken",
        "fast.masking._Take.backward",
        call("where", by=receiver),
        "a gather by clamped rank gives every position some gradient",
        ("gradients",),
    ),
    Bug(
        "norm-epsilon-outside",
        "fast.transformer.rmsnorm",
        operator("+", by=lambda square, eps: (square.sqrt() + eps).square()),
        "both spellings are found in the wild",
        ("rmsnorm",),
    ),
    Bug(
        "norm-epsilon-of-another-model",
        "fast.transformer.rmsnorm",
        operator("+", by=lambda square, eps: square + 1e-5),
        "1e-5 and 1e-6 are the usual defaults",
        ("rmsnorm",),
    ),
    Bug(
        "norm-by-sum",
        "fast.transformer.rmsnorm",
        call("mean", to="sum"),
        "an L2 norm differs by a constant that scales hide",
        ("rmsnorm",),
    ),
    Bug(
        "norm-in-the-compute-dtype",
        "fast.transformer.rmsnorm",
        call("to", by=receiver, nth=1),
        "without the cast bfloat16 squares are summed in bfloat16",
        ("rmsnorm",),
    ),
    Bug(
        "norm-subtracts-the-mean",
        "fast.transformer.rmsnorm",
        call("to", by=lambda to, dtype: to(dtype) - to(dtype).mean(-1, keepdim=True), nth=1),
        "LayerNorm out of habit",
        ("rmsnorm",),
    ),
    Bug(
        "rope-direction",
        "fast.transformer.rope_table",
        call("cat", by=lambda cat, sines, axis: -cat(sines, axis), nth=2),
        "the other sign is as common; weights do not transfer",
        ("rope",),
    ),
    Bug(
        "rope-unsigned",
        "fast.transformer.rope_table",
        call("cat", by=lambda cat, sines, axis: cat(sines[:1] * 2, axis), nth=2),
        "cosines are repeated, so sines are too",
        (FORMS + "rope",),
    ),
    Bug(
        "rope-interleaved",
        "fast.transformer.rope_table",
        whole(
            by=lambda table, *given: (
                table(*given).unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
            )
        ),
        "GPT-J pairs neighbours, LLaMA's port pairs halves",
        ("rope",),
    ),
    Bug(
        "rope-rolled-by-one",
        "fast.transformer.rope",
        call("roll", by=argument(0, always(1))),
        "the partner of a channel is half a head away; at width 2 nobody notices",
        (FORMS + "rope",),
    ),
    Bug(
        "rope-rolls-positions",
        "fast.transformer.rope",
        call("roll", by=argument(1, always(-2))),
        "the axis before the last one holds positions or heads",
        (FORMS + "rope",),
    ),
    Bug(
        "rope-halves-interleaved",
        "fast.transformer.rope",
        call("stack", by=giving(dim=-1)),
        "the pairs are rotated rightly and stored as GPT-J stores them",
        ("rope",),
    ),
    Bug(
        "rope-second-half-reflected",
        "fast.transformer.rope",
        operator("-", by=lambda x, y: y - x),
        "the sign of one half, where it is written apart",
        ("rope",),
    ),
    Bug(
        "rope-rounded-before-the-sum",
        "fast.transformer.rope",
        (
            call("_accurate", by=first),
            whole(
                by=lambda rope, x, base, table, **named: rope(
                    x, base, None if table is None else table.to(x.dtype), **named
                )
            ),
        ),
        "products in bfloat16 look right to three digits",
        ("rope",),
    ),
    Bug(
        "rope-off-by-one",
        "fast.transformer.rope_table",
        call("arange", by=lambda arange, length, **named: arange(1, length + 1, **named)),
        "positions from 1: scores are the same in exact arithmetic, so only the rotation itself shows it",
        ("rope",),
    ),
    Bug(
        "rope-frequencies-of-half-width",
        "fast.transformer.inverse_frequencies",
        operator("/", by=lambda channel, width: channel / (width // 2)),
        "the exponent counts channels in one paper and pairs in another",
        ("rope",),
    ),
    Bug(
        "rope-frequencies-always-exact",
        "fast.transformer.table_for",
        name("rope_frequencies", by=always("exact")),
        "the shipped table forgets what the run trained with, and short windows hide it",
        ("forward", "predictor"),
    ),
    Bug(
        "rope-frequencies-truncated",
        "fast.transformer.inverse_frequencies",
        call(
            "bfloat16",
            by=lambda bfloat16: (bfloat16.__self__.view(torch.int32) >> 16 << 16).view(
                torch.float32
            ),
        ),
        "the upper half of a float32 is a bfloat16, rounded towards zero",
        ("rope",),
    ),
    Bug(
        "rope-angles-in-bfloat16",
        "fast.transformer.rope",
        whole(
            by=lambda rope, x, base, table, **named: rope(
                x, base, None if table is None else table.to(x.dtype), **named
            )
        ),
        "only 513 of 1,024 positions stay distinct in bfloat16; compiled and eager runs disagree",
        ("rope",),
    ),
    Bug(
        "heads-interleaved",
        "fast.transformer._attention",
        call(
            "scaled_dot_product_attention",
            by=lambda attend, q, k, v, **named: attend(
                q.unflatten(1, (k.shape[1], -1)).transpose(1, 2).flatten(1, 2), k, v, **named
            ),
        ),
        "repeat and repeat_interleave of grouped heads: group g serves heads g, g + G, ...",
        ("attention",),
    ),
    Bug(
        "query-norm-missing",
        "fast.transformer._attention",
        call("rmsnorm", by=lambda norm, q, eps, gain: q * gain.to(q.dtype), nth=1),
        "most code has no q/k norm",
        ("attention",),
    ),
    Bug(
        "key-norm-missing",
        "fast.transformer._attention",
        call("rmsnorm", by=first, nth=2),
        "most code has no q/k norm",
        ("attention",),
    ),
    Bug(
        "key-not-rotated",
        "fast.transformer._attention",
        call("rope", by=first, nth=2),
        "absolute positions of the query alone",
        ("attention",),
    ),
    Bug(
        "gain-before-the-norm",
        "fast.transformer._attention",
        call("rmsnorm", by=lambda norm, q, eps, gain: norm(q * gain.to(q.dtype), eps), nth=1),
        "the norm takes the gain out again: it never learns",
        ("attention", "gradients"),
    ),
    Bug(
        "gain-averaged-over-heads",
        "fast.transformer._attention",
        call("rmsnorm", by=argument(2, torch.mean), nth=1),
        "one gain for all heads: they start equal",
        ("attention", "gradients"),
    ),
    Bug(
        "keys-and-values-swapped",
        "fast.transformer._attention",
        call("split", by=lambda split, sizes, dim: [split(sizes, dim)[i] for i in (0, 2, 1)]),
        "the order of three matrices in one",
        ("attention", "gradients"),
    ),
    Bug(
        "always-causal",
        "fast.transformer._attention",
        call("scaled_dot_product_attention", by=giving(is_causal=True)),
        "the line came from an autoregressive model",
        ("attention", "forward"),
    ),
    Bug(
        "never-causal",
        "fast.transformer._attention",
        call("scaled_dot_product_attention", by=giving(is_causal=False)),
        "the baseline then sees its own targets",
        ("attention", "forward"),
    ),
    Bug(
        "softmax-scale-missing",
        "fast.transformer._attention",
        call("scaled_dot_product_attention", by=giving(scale=1.0)),
        "q/k norm makes it look superfluous",
        ("attention",),
    ),
    Bug(
        "values-normed",
        "fast.transformer._attention",
        call(
            "scaled_dot_product_attention",
            by=argument(2, lambda v: transformer.rmsnorm(v, EPSILON)),
        ),
        "one line applied to all three",
        ("attention",),
    ),
    Bug(
        "relu-not-squared",
        "fast.transformer.mlp",
        call("square", by=receiver),
        "relu is the default",
        ("block", "forward"),
    ),
    Bug(
        "square-before-relu",
        "fast.transformer.mlp",
        call("relu", by=first),
        "the order of two calls; negative inputs pass",
        ("block",),
    ),
    Bug(
        "mix-swapped",
        "fast.transformer._block",
        (constant(0, 1), constant(1, 0)),
        "with the initial weights 1 and 0 the network forgets every block before",
        ("block", "forward"),
    ),
    Bug(
        "mix-of-the-input-lost",
        "fast.transformer._block",
        operator("+", by=left, nth=1),
        "mix[1] starts at 0: nothing shows before training",
        ("block",),
    ),
    Bug(
        "residual-of-the-norm",
        "fast.transformer._block",
        operator("+", by=lambda x, attended: transformer.rmsnorm(x, EPSILON) + attended, nth=2),
        "post-norm habits",
        ("block",),
    ),
    Bug(
        "positions-picked-late",
        "fast.transformer._block",
        call(
            "_attention",
            by=lambda attention, *given: attention(*given).roll(0 if given[-2] is None else 1, 0),
        ),
        "what was picked from the residual stream and from the attention must be the same positions",
        ("gradients",),
    ),
    Bug(
        "mlp-scale-forgotten",
        "fast.transformer._ready",
        constant("mlp_scale", "attn_scale"),
        "scales start at 1: nothing shows before training",
        ("block", "gradients"),
    ),
    Bug(
        "scale-of-the-columns",
        "fast.transformer._ready",
        operator(
            "*",
            by=lambda scale, matrix: (
                (scale.mT if matrix.shape[-2] == matrix.shape[-1] else scale) * matrix
            ),
        ),
        "channels of the input instead of the output: a square matrix takes both",
        ("block",),
    ),
    Bug(
        "values-before-keys",
        "fast.transformer._ready",
        constant("qkv", "qvk", nth=2),
        "the order in which one matrix holds three",
        ("block", "gradients"),
    ),
    Bug(
        "normed-product-scaled-twice",
        "fast.transformer._NormedLinear.forward",
        operator("*", by=lambda product, scale: product * scale * scale),
        "a variance taken for a deviation",
        ("block", "forward"),
    ),
    Bug(
        "normed-product-norm-is-constant",
        "fast.transformer._NormedLinear.backward",
        operator("-", by=left),
        "the norm depends on x too: forward passes and directions look right",
        ("gradients",),
    ),
    Bug(
        "normed-product-sum-for-mean",
        "fast.transformer._NormedLinear.backward",
        call("mean", to="sum"),
        "the mean is inside the norm",
        ("gradients",),
    ),
    Bug(
        "normed-product-weight-unscaled",
        "fast.transformer._NormedLinear.backward",
        whole(
            by=lambda backward, ctx, grad: (
                backward(ctx, grad)[0],
                grad.T @ ctx.saved_tensors[0],
                None,
            )
        ),
        "the gradient of the weight sees the normed input",
        ("gradients",),
    ),
    Bug(
        "embedding-gradient-overwrites",
        "fast.transformer._Embed.backward",
        call("index_add", to="index_copy"),
        "rows of one id replace one another",
        ("gradients",),
    ),
    Bug(
        "embedding-gradient-by-product",
        "fast.transformer._Embed.backward",
        call("arange", by=lambda arange, *given, **named: arange(*given, **named).roll(1)),
        "what a GPU runs is not what a CPU runs",
        (
            "tests/pieces/test_transformer.py::test_the_embedding_gradient_is_the_same_sum_both_ways",
        ),
    ),
    Bug(
        "skips-in-push-order",
        "fast.transformer.forward",
        call("pop", by=lambda pop: pop(0)),
        "a queue instead of a stack: with two layers nobody notices",
        ("unet", "forward"),
    ),
    Bug(
        "skip-weights-reversed",
        "fast.transformer._prepare",
        whole(
            by=lambda prepare, params, *given: prepare(
                {**params, "skip": params["skip"].flip(0)}, *given
            )
        ),
        "mirror images of the right index",
        ("unet",),
    ),
    Bug(
        "skip-after-the-block",
        "fast.transformer.forward",
        (operator("+", by=pair), call("_block", by=skip_later)),
        "U-Nets add before or after",
        ("unet", "forward"),
    ),
    Bug(
        "middle-of-an-odd-stack-pushes",
        "fast.transformer.forward",
        operator("//", by=lambda layers, two: (layers + 1) // two),
        "odd numbers of layers",
        ("unet",),
    ),
    Bug(
        "embedding-not-normed",
        "fast.transformer._prepare",
        call("rmsnorm", by=first),
        "few models norm their embeddings",
        ("unet", "forward"),
    ),
    Bug(
        "final-norm-missing",
        "fast.transformer.forward",
        call("rmsnorm", by=first),
        "a line lost in a merge",
        ("forward", "predictor"),
    ),
    Bug(
        "softcap-in-the-compute-dtype",
        "fast.transformer.forward",
        call("_accurate", by=first),
        "30 tanh in bfloat16 loses most of large logits",
        ("forward",),
    ),
    Bug(
        "softcap-after-the-loss",
        "fast.transformer.forward",
        call("tanh", by=first),
        "the cap was applied in the printed logits only: training and scoring saw others",
        ("forward", "gradients"),
    ),
    Bug(
        "mask-token-in-the-output",
        "fast.transformer._prepare",
        name("vocab", by=always(None)),
        "tying the whole embedding gives the mask token probability, which every bound pays for",
        ("forward", "gradients"),
    ),
    Bug(
        "stacked-blocks-reversed",
        "fast.transformer._blocks",
        call("unbind", by=lambda unbind, axis: unbind(axis)[::-1]),
        "weights stacked for the optimizer come apart in another order",
        (FORMS + "logits_and_gradients",),
    ),
    Bug(
        "unstacked-blocks-reversed",
        "fast.transformer.unstack",
        call("unbind", by=lambda unbind, axis: unbind(axis)[::-1]),
        "the artifact ships the blocks in another order",
        ("tests/pieces/test_transformer.py::test_stack_and_unstack_undo_each_other",),
    ),
    Bug(
        "neighbours-from-the-other-side",
        "fast.transformer.mix_neighbours",
        operator("-", by=lambda most, offset: most + offset, nth=1),
        "before and behind change places; a causal model then reads the token it predicts",
        ("forward", "predictor"),
    ),
    Bug(
        "neighbours-behind-a-causal-position",
        "fast.transformer.offsets",
        whole(by=lambda offsets, model, causal=None: offsets(model, False)),
        "one set of weights under two attentions, and the input forgot which",
        ("predictor",),
    ),
    Bug(
        "neighbours-of-the-block-too",
        "fast.transformer.forward",
        whole(
            by=lambda forward, params, ids, model, *given, **named: forward(
                {**params, "neighbours": 2 * params["neighbours"]} if model.mixing else params,
                ids,
                model,
                *given,
                **named,
            )
        ),
        "added twice",
        ("forward", "gradients"),
    ),
    Bug(
        "neighbours-that-do-not-exist",
        "fast.row_predictor.RowPredictor.rows",
        operator("*", by=left, nth=1),
        "keys are hidden, the input's neighbours are not",
        ("query",),
    ),
    Bug(
        "single-rows-without-shift",
        "fast.row_predictor.RowPredictor.rows",
        call("shown", by=lambda shown, ids, model: ids),
        "training shifts what the network sees, one way of scoring does not",
        ("query", "chain-queried"),
    ),
    Bug(
        "whole-windows-without-shift",
        "fast.row_predictor._whole",
        call("shown", by=lambda shown, ids, model: ids),
        "the other way of scoring does not",
        ("predictor",),
    ),
    Bug(
        "shift-behind-a-token",
        "fast.objective.DualObjective.before",
        whole(by=lambda before, self, before_BL, model: before_BL),
        "two modes of one network that begin a window differently",
        ("gradients", "predictor"),
    ),
]
