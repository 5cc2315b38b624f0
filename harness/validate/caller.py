"""What calls a submission's byte table in the sandbox: SCRIPT NAME TOKENIZER FOLDER OUT. Writes
JSON: bytes, leading space, boundary per token.
"""

import __future__

import ast
import inspect
import json
import re
import sys
import types

PARAMETERS = ("sp|tok", "v", "dev")  # how the names of a builder's parameters begin


def defines(node, space):
    """Return whether a statement defines something, or changes a list or dictionary: training, and
    what only the started program does, do neither.
    """
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        changed = getattr(getattr(node.value.func, "value", None), "id", None)
        return isinstance(space.get(changed), (dict, list, set))
    if isinstance(node, ast.If):
        return "__name__" not in ast.unparse(node.test)
    kinds = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Try)
    return isinstance(node, (*kinds, ast.Assign, ast.AugAssign, ast.AnnAssign))


def definitions(source, name):
    """Return what a script defines; a statement that fails here, for want of a package, defines
    nothing.
    """
    sys.modules[name] = types.ModuleType(name)  # dataclasses look themselves up
    space = vars(sys.modules[name])
    space["__file__"] = f"{name}.py"
    flags = __future__.annotations.compiler_flag  # nothing evaluates them
    for node in ast.parse(source).body:
        if not defines(node, space):
            continue
        names = node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else [None]
        for alias in names:
            if alias is not None:
                node.names = [alias]
            try:
                exec(compile(ast.Module([node], []), name, "exec", flags), space)
            except Exception:
                continue
    return space


def from_luts(function, tokenizer):
    """Return the three tables of build_sentencepiece_luts(sp, vocab_size[, device])."""
    import sentencepiece

    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    starts = zip(PARAMETERS, parameters)  # noqa: B905
    known = len(parameters) in (2, 3) and all(re.match(start, p.name) for start, p in starts)
    if not known or any(p.kind != p.POSITIONAL_OR_KEYWORD for p in parameters):
        sys.exit(f"{function.__name__}{signature} is not a signature that is known")
    processor = sentencepiece.SentencePieceProcessor(model_file=tokenizer)
    arguments = [processor, processor.vocab_size()]
    if len(parameters) == 3:
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
    columns = [values.tolist() if hasattr(values, "tolist") else list(values) for values in tables]
    with open(out, "w") as file:
        json.dump(columns, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
