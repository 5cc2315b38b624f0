"""Parity: not a numeric piece. What a packed run fixes of its program; harness/packaging/bundle.py
writes the run's own values here.
"""

from reference.recipe import GOLF

RECIPE = GOLF
CODEC = "best"  # lossless codec of the artifact
