"""A weight format is one row in each half: here five bits a weight over a scale per row, added in a
scratch copy.
"""

from tests.support.scratch import Copy

STORE = """
import numpy as np, torch
import fast.container, fast.quantize, reference.container, reference.quantize
from harness import parity

values = np.random.default_rng(0).standard_normal((3, 67)).astype(np.float32)
data = reference.quantize.to_bytes(values, "int5-row")
assert len(data) == 2 * 3 + (3 * 67 * 5 + 7) // 8
assert fast.quantize.to_bytes(torch.from_numpy(values), "int5-row") == data
back = fast.quantize.from_bytes(data, (3, 67), "int5-row").numpy()
assert np.abs(back - values).max() <= 1.001 * np.abs(values).max() / 30
file = fast.container.pack({"q": torch.from_numpy(values)}, {"q": "int5-row"}, {})
for half in (fast, reference):
    header, tensors = half.container.unpack(file)
    assert np.array_equal(np.asarray(tensors["q"]), back) and header["tensors"][0]["format"] == "int5-row"
assert all(row.passed for row in parity.examine(parity.PIECES["quantize-int5-row"]))
print("stored")
"""


def test_a_format_is_one_row_in_each_half(tmp_path):
    copy = Copy(tmp_path)
    copy.insert("reference/recipe.py", '"ternary-group",', '    "int5-row",\n')
    copy.insert(
        "reference/quantize.py",
        '"ternary-group": Format("ternary", 0, "group", top=1),',
        '    "int5-row": Format("int", 5, "row", top=15),\n',
    )
    copy.insert(
        "fast/quantize.py",
        '"ternary-group": Format(Integers(0, 1, 1), TERNARY_GROUP),',
        '    "int5-row": Format(Integers(5, 15, 16), COVERING_ROW),\n',
    )
    ran = copy.run("-c", STORE)
    assert ran.stdout == "stored\n", ran.stderr
