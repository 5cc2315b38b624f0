"""An estimator is a name in the recipe, and a function and a row of METHODS in each half
(reference/likelihood.py, fast/evaluate.py).
"""

import json

from tests.support.scratch import Copy

FUNCTION = """

def _blind(log_probs, group, vocab, effort, plan, first_row, settings):
    every = group.ids_NL.shape[1]
    nats_NL = chain.chain(log_probs, group.ids_NL, vocab, "random", 0, every, 1, **settings)
    return nats_NL.sum(axis=1), np.zeros(len(nats_NL))
"""
REFERENCE = """

def _blind(log_probs, ids_NL, previous_N, vocab, effort, row):
    nats_NL = chain.chain(log_probs, ids_NL, vocab, "random", 0, ids_NL.shape[1], 1)
    return nats_NL.sum(axis=1), np.zeros(len(ids_NL))
"""
PARITY = """
from harness import parity

cases = [case for case in parity.PIECES["evaluate"].cases if case["estimator"] == "blind"]
for case in cases:
    parity.reproduce("evaluate", **case)
print(len(cases))
"""
ROW = '    "blind": Method(lambda effort, length: 1, _blind),\n'


def test_an_estimator_is_a_name_and_a_row(tmp_path, run_directory):
    """Here one that hides every token from every other, in one pass: it equals a chain of one
    step.
    """
    copy = Copy(tmp_path)
    copy.replace("reference/recipe.py", "Estimator = Literal[", 'Estimator = Literal["blind", ')
    copy.insert("fast/evaluate.py", "return nats_NL.sum(axis=1), np.zeros(len(nats_NL))", FUNCTION)
    copy.insert("fast/evaluate.py", "METHODS = {", ROW)
    file = "reference/likelihood.py"
    copy.insert(
        file,
        "return causal_nll(log_probs, ids_NL, previous_N).sum(axis=1), np.zeros(len(ids_NL))",
        REFERENCE,
    )
    copy.insert(file, "METHODS = {", '    "blind": _blind,\n')
    ran = copy.run("-c", PARITY)
    assert ran.stdout == "2\n", ran.stderr
    scores = []
    for how in (("blind",), ("chain", "--step", "8")):
        told = ("--sequences", "20", "--no-compiled", "--json", "-", "--estimator", *how)
        ran = copy.run("-m", "harness", "eval", run_directory, *told)
        assert ran.returncode == 0, ran.stderr
        scores.append(json.loads(ran.stdout))
    blind, chain = scores
    assert (blind["estimator"], blind["order"], blind["forwards"]) == ("blind", None, 20)
    assert abs(blind["bpb"] / chain["bpb"] - 1) < 1e-6
