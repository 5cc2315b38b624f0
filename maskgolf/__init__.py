"""MaskGolf from Python: train, load, score, sample and parity.

>>> import maskgolf
>>> run = maskgolf.train("tiny", out="runs/mine")
>>> maskgolf.score(run, estimator="nelbo", sequences=8)
>>> maskgolf.sample(run, "The ")
"""

from harness.api import load, parity, sample, score, train

__all__ = ["load", "parity", "sample", "score", "train"]
