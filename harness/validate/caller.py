"""What calls a submission's byte table in the sandbox: PROGRAM NAME TOKENIZER FOLDER OUT. Writes
JSON: bytes, leading space, boundary per token.
"""

import importlib.util
import json
import sys


def plain(values):
    """Return a tensor, an array or a list as a list."""
    return values.tolist() if hasattr(values, "tolist") else list(values)


def from_luts(function, tokenizer, parameters):
    """Return the three tables of build_sentencepiece_luts(sp, vocab_size[, device])."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=tokenizer)
    vocab = processor.vocab_size()
    if parameters == 2:
        return function(processor, vocab)
    import torch

    return function(processor, vocab, torch.device("cpu"))


def from_counts(load_tokenizer, token_bytes, tokenizer):
    """Return the three tables that the counts of token_bytes(ids, previous, table) imply; previous
    -1 is none.
    """
    import numpy as np

    table = load_tokenizer(tokenizer).table
    ids_V = np.arange(len(table.length_V))
    alone_V = token_bytes(ids_V, np.full_like(ids_V, -1), table)
    follows = int(np.argmin(table.control_V))  # a token of text
    space_V = token_bytes(ids_V, np.full_like(ids_V, follows), table) - alone_V
    spaced = np.full_like(ids_V, np.argmax(space_V))
    return alone_V, space_V, token_bytes(spaced, ids_V, table) == alone_V[spaced]


def main(program, name, parameters, tokenizer, folder, out):
    """Load the program as a module and write its tables."""
    sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location("submission_table", program)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if name == "token_bytes":
        found = from_counts(module.load_tokenizer, module.token_bytes, tokenizer)
    else:
        found = from_luts(getattr(module, name), tokenizer, int(parameters))
    tables = [plain(values) for values in found]
    with open(out, "w") as file:
        json.dump(tables, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
