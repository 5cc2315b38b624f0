"""An evaluation order is one name, and one function in each half: here two are added in a scratch
copy, one known in advance and one that the model decides.
"""

from tests.support.scratch import Copy

IMPORTS = "from reference.recipe import ORDERS, TIE, InputError, Stream"  # ends the imports of both halves
FUNCTIONS = """

def _outside_in(seed, rows, position_L, block):
    distance_L = position_L.clip(max=len(position_L) - 1 - position_L)
    return 2 * distance_L + (position_L > distance_L)


def _doubt(log_probs):
    return -log_probs.{maximum}
"""
SCORE = """
import fast.orders, reference.orders
from harness import parity
from harness.evaluation.scoring import Estimate, effort_of

for half in (reference, fast):
    priority_L = half.orders.priorities("outside-in", 0, [0], 5, 1)[0]
    assert priority_L.argsort().tolist() == [0, 4, 1, 3, 2]
    assert "outside-in" in half.orders.FIXED and "doubt" not in half.orders.FIXED
for order in ("outside-in", "doubt"):
    assert all(row.passed for row in parity.examine(parity.PIECES[f"chain-{order}"])), order
    assert effort_of(Estimate("chain", order)).order == order
print("scored")
"""


def test_an_order_is_a_name_and_a_function_in_each_half(tmp_path):
    copy = Copy(tmp_path)
    copy.replace(
        "reference/recipe.py", "Order = Literal[", 'Order = Literal["outside-in", "doubt", '
    )
    for half, maximum in (("reference", "max(axis=1)"), ("fast", "amax(dim=-1)")):
        file = f"{half}/orders.py"
        copy.insert(file, IMPORTS, FUNCTIONS.format(maximum=maximum))
        copy.insert(file, '"block": _block_index,', '    "outside-in": _outside_in,\n')
        copy.insert(file, '"block": _confidence,', '    "doubt": _doubt,\n')
    ran = copy.run("-c", SCORE)
    assert ran.stdout == "scored\n", ran.stderr
    ran = copy.run("-m", "harness", "eval", "--help")
    assert "outside-in" in ran.stdout, ran.stderr
