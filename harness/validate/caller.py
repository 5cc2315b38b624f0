"""What calls a submission's byte table in the sandbox: SCRIPT NAME TOKENIZER FOLDER OUT. Writes
JSON: bytes, leading space, boundary per token.
"""

import __future__

import ast
import contextlib
import inspect
import json
import re
import sys
import types

KNOWN = re.compile(r"(sp|tok)\w*,v\w*(,dev\w*)?")  # the names of a builder's parameters


def defines(node, space):
    """Return whether a statement defines something, or changes a list or dictionary: training, and
    what only the started program does, do neither.
    """
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        changed = getattr(getattr(node.value.func, "value", None), "id", None)
        return isinstance(space.get(changed), (dict, list, set))
    if isinstance(node, ast.If):
        return "__name__" not in ast.unparse(node.test)
    kinds = (ast.FunctionDef, ast.ClassDef, ast.Try, ast.Assign, ast.AugAssign, ast.AnnAssign)
    return isinstance(node, kinds)


def definitions(source, name):
    """Return what a script defines; a statement that fails here, for want of a package, defines
    nothing.
    """
    sys.modules[name] = types.ModuleType(name)  # dataclasses look themselves up
    space = vars(sys.modules[name])
    space["__file__"] = f"{name}.py"
    flags = __future__.annotations.compiler_flag  # nothing evaluates them
    for node in ast.parse(source).body:
        parts = [node] if defines(node, space) else []
        if isinstance(node, (ast.Import, ast.ImportFrom)):  # each name alone: one may be missing
            parts = [type(node)(**{**vars(node), "names": [alias]}) for alias in node.names]
        for part in parts:
            with contextlib.suppress(Exception):
                exec(compile(ast.Module([part], []), name, "exec", flags), space)
    return space


def from_luts(function, tokenizer):
    """Return the three tables of build_sentencepiece_luts(sp, vocab_size[, device])."""
    import sentencepiece

    signature = inspect.signature(function)
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    known = KNOWN.fullmatch(",".join(signature.parameters))
    if not known or kinds != {inspect.Parameter.POSITIONAL_OR_KEYWORD}:
        sys.exit(f"{function.__name__}{signature} is not a signature that is known")
    processor = sentencepiece.SentencePieceProcessor(model_file=tokenizer)
    arguments = [processor, processor.vocab_size()]
    if known[2]:
        import torch

        arguments.append(torch.device("cpu"))
    return function(*arguments)


def from_counts(space, tokenizer):
    """Return the three tables that the counts of token_bytes(ids, previous, table) of a script of
    maskgolf pack imply; previous -1 is none.
    """
    import numpy as np

    table, token_bytes = space["load_tokenizer"](tokenizer).table, space["token_bytes"]
    ids_V = np.arange(len(table.length_V))
    alone_V = token_bytes(ids_V, np.full_like(ids_V, -1), table)
    follows = int(np.argmin(table.control_V))  # a token of text
    space_V = token_bytes(ids_V, np.full_like(ids_V, follows), table) - alone_V
    spaced = np.full_like(ids_V, np.argmax(space_V))
    return alone_V, space_V, token_bytes(spaced, ids_V, table) == alone_V[spaced]


def main(script, name, tokenizer, folder, out):
    """Write the tables that a function of a script gives."""
    sys.path.insert(0, folder)
    with open(script, encoding="utf-8") as file:
        space = definitions(file.read(), "submission_table")
    ours = name == "token_bytes"
    tables = from_counts(space, tokenizer) if ours else from_luts(space[name], tokenizer)
    with open(out, "w") as file:
        json.dump(list(tables), file, default=lambda values: values.tolist())


if __name__ == "__main__":
    main(*sys.argv[1:])
