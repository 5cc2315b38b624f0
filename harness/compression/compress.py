"""What `maskgolf compress` and `decompress` do: write a file with the model and a range coder along
an evaluation order, and restore it byte for byte.
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
from fast.next_predictor import NextPredictor
from fast.objective import objective_of
from harness import bounded
from harness.compression import (
    byte_tokens,
    coder,
    compressed_path,
    file_format,
    restored_path,
)
from harness.compression.fingerprint import Fingerprint, check, describe_machine, fingerprint_of
from harness.corpus.dataset import layout_of
from harness.corpus.sources import Source
from harness.display.progress import bar
from harness.evaluation.scoring import locate
from reference.recipe import InputError, Recipe

NEXT = "left-to-right"  # the order of a NextPredictor
ROWS = 64  # windows per forward pass
MAX_THREADS = 64


@dataclass(frozen=True)
class Predictor:
    """A loaded model: its conditionals, those of the next token where it was trained on them, its
    recipe, tokenizer and device, and the SHA-256 of its file.
    """

    log_probs: LogProbs
    next_token: NextPredictor | None
    recipe: Recipe
    tokenizer: Tokenizer
    device: str
    sha256: str

    def plan(self, rows: int, order: str) -> coder.Plan:
        """Return how its windows are coded."""
        model = self.recipe.model
        objective_of(model).check_order(order)
        return coder.Plan(model.length, rows, model.vocab, order)

    def along(self, order: str) -> LogProbs | NextPredictor:
        """Return what predicts along an order: from left to right the attention that looks back,
        where the model was trained on it.
        """
        return self.next_token if self.next_token and order == NEXT else self.log_probs

    @property
    def machine(self) -> str:
        """Return the description of the machine that its arithmetic depends on."""
        return describe_machine(self.device, self.recipe.training.compute_dtype)

    def fingerprint(self) -> Fingerprint:
        """Return what its streams depend on."""
        return fingerprint_of(self.sha256, self.tokenizer.sha256, self.machine)


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
    objective, next_token = objective_of(recipe.model), None
    if "causal" in objective.estimators:
        start, dtype = (
            max(tokenizer.processor.bos_id(), 0),
            torch.float64 if wide else torch.float32,
        )
        next_token = NextPredictor(params, recipe.model, dtype, device, start)
    masked = objective.mask_token
    log_probs = evaluate.predictor(params, recipe, device) if masked else next_token
    return Predictor(log_probs, next_token, recipe, tokenizer, device, sha256)


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
def _coding(title: str, tokens: int, threads: int):
    """Yield on_pass(count), which moves a progress bar over `tokens`. Within, torch has `threads`
    threads: how a sum is split between them decides its last bit.
    """
    before, done = torch.get_num_threads(), 0
    torch.set_num_threads(threads)
    try:
        with bar(title, "tokens") as progress:

            def on_pass(count: int) -> None:
                nonlocal done
                done += count
                progress.update(done, tokens)

            yield on_pass
    finally:
        torch.set_num_threads(before)


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
    ids, raw = byte_tokens.encode(data, model.tokenizer)
    with _coding("compress", len(ids), threads) as on_pass:
        words, bits = coder.encode(model.along(order), ids, plan, model.device, on_pass)
    packed = file_format.pack(
        file_format.Stream(
            order,
            ROWS,
            threads,
            model.fingerprint(),
            _digest(data),
            len(data),
            len(ids),
            raw,
            words,
        )
    )
    windows = sum(count for _, count, _ in coder.batches(len(ids), plan))
    return packed, {
        "tokens": len(ids),
        "chain_rule_bits": bits,
        "chunks": {"model": windows, "raw": len(raw)},
        "raw_bytes": len(file_format.pack_raw(raw)) if raw else 0,
    }


def unpack(stream: file_format.Stream, model: Predictor, where: str = "stream") -> bytes:
    """Return the text of a stream; InputError, never another text, where pack() did not write it on
    this machine.
    """
    check(stream.fingerprint, model.fingerprint(), model.machine, where)
    if stream.threads > MAX_THREADS:
        raise InputError(
            f"{where}: expected at most {MAX_THREADS} threads, found {stream.threads}; the file is"
            " damaged"
        )
    plan = model.plan(stream.rows, stream.order)
    with _coding("decompress", stream.tokens, stream.threads) as on_pass:
        try:
            predict = model.along(stream.order)
            ids = coder.decode(predict, stream.words, stream.tokens, plan, model.device, on_pass)
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
    out = compressed_path(file, out)
    data, model = _read(file, file_format.MAX_BYTES), load(run, tokenizer, device)
    packed, took = pack(data, model, order)
    if verify:
        unpack(file_format.unpack(packed, str(out)), model, str(out))
    write_atomic(out, packed)
    return {
        "file": str(file),
        "out": str(out),
        "order": order,
        "bytes_in": len(data),
        "bytes_out": len(packed),
        "bits_per_byte": 8 * len(packed) / len(data) if data else None,
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
    out = restored_path(file, out)
    packed = _read(file, 8 * file_format.MAX_BYTES)
    stream = file_format.unpack(packed, str(file))
    data = unpack(stream, load(run, tokenizer, device), str(file))
    write_atomic(out, data)
    return {
        "file": str(file),
        "out": str(out),
        "order": stream.order,
        "bytes_in": len(packed),
        "bytes_out": len(data),
        "tokens": stream.tokens,
        "seconds": time.perf_counter() - began,
    }
