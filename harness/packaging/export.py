"""What `maskgolf export` does: the weights of an artifact as a safetensors file, which other tools
read.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save

from fast import artifact
from fast.checkpoint import write_atomic
from harness.evaluation.scoring import locate


def export(run: Path, out: Path) -> dict:
    """Write the weights that an artifact holds, as it decodes them (float32), by their names in
    fast.transformer.shapes; return what was written.

    Its metadata holds under "maskgolf" a JSON object: recipe, artifact_sha256, tokenizer_sha256.
    """
    file, _ = locate(run)
    header, params = artifact.read(file)
    recipe = artifact.recipe_of(header, str(file))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    tensors = {name: value.contiguous() for name, value in params.items()}
    source = {"artifact_sha256": digest, "tokenizer_sha256": header["tokenizer_sha256"]}
    # One entry: the library writes several in any order
    metadata = {"maskgolf": json.dumps({"recipe": asdict(recipe), **source})}
    content = save(tensors, metadata)
    write_atomic(out, content)
    return {
        "run": str(run),
        "file": str(out),
        "bytes": len(content),
        "tensors": len(tensors),
        "parameters": sum(value.numel() for value in tensors.values()),
        "dtype": "float32",
        "artifact_sha256": digest,
    }
