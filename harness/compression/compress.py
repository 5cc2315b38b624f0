"""A code length you can hold: a file written with the model and a range coder along an evaluation
order, and restored byte for byte.
"""

import hashlib
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fast import artifact, evaluate
from fast.bytes import Tokenizer, load_tokenizer
from fast.checkpoint import write_atomic
from fast.likelihood import LogProbs
from harness import bounded
from harness.compression import byte_tokens, coder, file_format
from harness.compression.requirements import Needs, check, machine, needs
from harness.corpus.sources import Source, layout_of
from harness.progress import bar
from harness.scoring import locate
from reference.recipe import InputError, Recipe

SUFFIX = ".mgz"
ROWS = 64  # windows per forward pass
MAX_THREADS = 64


@dataclass(frozen=True)
class Predictor:
    """A model ready to code with: its conditionals, recipe and tokenizer, where it runs, and the
    SHA-256 of its file.
    """

    log_probs: LogProbs
    recipe: Recipe
    tokenizer: Tokenizer
    device: str
    sha256: str

    def plan(self, rows: int, order: str) -> coder.Plan:
        """Return how its windows are walked through; a causal model has one order."""
        model = self.recipe.model
        if model.causal and order != "left-to-right":
            raise InputError(
                f"causal model: expected --order left-to-right, found {order}; it has no other"
            )
        return coder.Plan(model.length, rows, model.vocab, order)

    def needs(self) -> Needs:
        """Return what its streams depend on."""
        return needs(
            self.sha256, self.tokenizer.sha256, self.device, self.recipe.training.compute_dtype
        )


def causal(log_probs: LogProbs, vocab: int, start: int) -> LogProbs:
    """Return the conditionals of a causal model at its own positions: each from the tokens before
    it, the first from token `start`.
    """

    def shifted(ids_BL: torch.Tensor) -> torch.Tensor:
        before_BL = torch.cat([torch.full_like(ids_BL[:, :1], start), ids_BL[:, :-1]], dim=1)
        # The model has no id for what is hidden; under its mask a stand-in changes nothing before
        # it.
        return log_probs(before_BL.masked_fill(before_BL == vocab, start))

    return shifted


def predictor(
    params: dict[str, torch.Tensor],
    recipe: Recipe,
    tokenizer: Tokenizer,
    sha256: str,
    device: str = "cpu",
) -> Predictor:
    """Return the Predictor of a model: activations in float32, or float64 where the recipe computes
    in that; nothing compiled.
    """
    wide = recipe.training.compute_dtype == "float64"
    recipe = replace(
        recipe, training=replace(recipe.training, compute_dtype="float64" if wide else "float32")
    )
    log_probs = evaluate.predictor(params, recipe, device)
    if recipe.model.causal:
        log_probs = causal(log_probs, recipe.model.vocab, max(tokenizer.processor.bos_id(), 0))
    return Predictor(log_probs, recipe, tokenizer, device, sha256)


def load(run: Path, tokenizer: Path | None = None, device: str = "cpu") -> Predictor:
    """Return the Predictor of a run directory or an artifact file; without a tokenizer, that of the
    run's source.
    """
    file, described = locate(run)
    header, params = artifact.read(file)
    recipe = artifact.recipe_of(header, str(file))
    vocab = recipe.model.vocab
    source = Source.restore(described)
    pieces = load_tokenizer(
        tokenizer or source.tokenizer or layout_of(source, vocab).tokenizer, expect_vocab=vocab
    )
    artifact.check_tokenizer(header, pieces)
    return predictor(params, recipe, pieces, hashlib.sha256(file.read_bytes()).hexdigest(), device)


@contextmanager
def _threads(count: int):
    """Run with `count` threads: how sums are split between them decides their last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _watched(title: str, tokens: int, threads: int):
    """Yield on_pass(count) that moves a bar over `tokens`, running with `threads` threads."""
    with _threads(threads), bar(title, "tokens") as progress:
        done = 0

        def on_pass(count: int) -> None:
            nonlocal done
            done += count
            progress.update(done, tokens)

        yield on_pass


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:8]


def pack(data: bytes, model: Predictor, order: str = "left-to-right") -> tuple[bytes, dict]:
    """Return the compressed file and what it took: tokens, chain_rule_bits, chunks by kind, and
    bytes of the raw ones as stored.
    """
    if len(data) > file_format.MAX_BYTES:
        raise InputError(
            f"compress: expected at most {file_format.MAX_BYTES:,} bytes, found {len(data):,};"
            " split the file"
        )
    plan, threads = model.plan(ROWS, order), min(torch.get_num_threads(), MAX_THREADS)
    content = byte_tokens.encode(data, model.tokenizer)
    tokens = len(content.ids)
    with _watched("compress", tokens, threads) as on_pass:
        words, bits = coder.encode(model.log_probs, content.ids, plan, model.device, on_pass)
    packed = file_format.pack(
        file_format.Stream(
            order,
            ROWS,
            threads,
            model.needs(),
            _digest(data),
            len(data),
            tokens,
            content.raw,
            words,
        )
    )
    windows = sum(count for _, count, _ in coder.batches(tokens, plan))
    chunks = {"model": windows, "raw": len(content.raw)}
    raw_bytes = len(file_format.pack_raw(content.raw)) if content.raw else 0
    return packed, {
        "tokens": tokens,
        "chain_rule_bits": bits,
        "chunks": chunks,
        "raw_bytes": raw_bytes,
    }


def unpack(stream: file_format.Stream, model: Predictor, where: str = "stream") -> bytes:
    """Return the text of a stream; one that pack() did not write here is an InputError, never other
    text.
    """
    check(
        stream.needs,
        model.needs(),
        machine(model.device, model.recipe.training.compute_dtype),
        where,
    )
    if stream.threads > MAX_THREADS:
        raise InputError(
            f"{where}: expected at most {MAX_THREADS} threads, found {stream.threads}; the file is"
            " damaged"
        )
    with _watched("decompress", stream.tokens, stream.threads) as on_pass:
        plan = model.plan(stream.rows, stream.order)
        try:
            ids = coder.decode(
                model.log_probs, stream.words, stream.tokens, plan, model.device, on_pass
            )
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    data = byte_tokens.decode(byte_tokens.Content(ids, stream.raw), model.tokenizer)
    if len(data) != stream.size or _digest(data) != stream.digest:
        raise InputError(
            f"{where}: expected {stream.size:,} bytes of text of SHA-256 {stream.digest.hex()}...,"
            f" found {len(data):,} of {_digest(data).hex()}...; the file is damaged, or this"
            " machine does not compute as the one that made it"
        )
    return data


def _read(file: Path, most: int) -> bytes:
    return bounded.read(file, most, "bytes", "split the file")


def _target(out: Path | None, usual: Path, file: Path) -> Path:
    """Return where to write: `out` where named (a file there is replaced), else the usual name if
    nothing is there yet.
    """
    target = out or usual
    if target.is_dir() or (target.exists() and file.exists() and target.samefile(file)):
        found = "a folder" if target.is_dir() else "the input itself"
        raise InputError(
            f"{target}: expected a file to write, found {found}; name another with --out"
        )
    if out is None and usual.exists():
        raise InputError(
            f"{usual}: expected no file of that name yet, found one; name the output with --out,"
            " which replaces it"
        )
    return target


def compress(
    file: Path,
    run: Path,
    out: Path | None = None,
    order: str = "left-to-right",
    tokenizer: Path | None = None,
    device: str = "cpu",
    verify: bool = False,
) -> dict:
    """Write `out` (default FILE.mgz) and return what it took; verify: only if decompression gives
    the file back.
    """
    began = time.perf_counter()
    target = _target(out, file.with_name(file.name + SUFFIX), file)
    data, model = _read(file, file_format.MAX_BYTES), load(run, tokenizer, device)
    packed, took = pack(data, model, order)
    if verify:
        unpack(file_format.unpack(packed, str(target)), model, str(target))
    write_atomic(target, packed)
    ratio = 8 * len(packed) / len(data) if data else None
    sizes = {"bytes_in": len(data), "bytes_out": len(packed), "bits_per_byte": ratio}
    return {
        "file": str(file),
        "out": str(target),
        "order": order,
        **sizes,
        **took,
        "seconds": time.perf_counter() - began,
    }


def decompress(
    file: Path,
    run: Path,
    out: Path | None = None,
    tokenizer: Path | None = None,
    device: str = "cpu",
) -> dict:
    """Restore the file that compress() was given into `out` (default: the name without .mgz) and
    return what it took.
    """
    began = time.perf_counter()
    if out is None and (file.suffix != SUFFIX or file.name == SUFFIX):
        raise InputError(
            f"{file}: expected a name that ends in {SUFFIX}, found {file.name!r}; name the output"
            " with --out"
        )
    target = _target(out, file.with_suffix(""), file)
    packed = _read(file, 8 * file_format.MAX_BYTES)
    stream = file_format.unpack(packed, str(file))
    data = unpack(stream, load(run, tokenizer, device), str(file))
    write_atomic(target, data)
    sizes = {"bytes_in": len(packed), "bytes_out": len(data), "tokens": stream.tokens}
    return {
        "file": str(file),
        "out": str(target),
        "order": stream.order,
        **sizes,
        "seconds": time.perf_counter() - began,
    }
