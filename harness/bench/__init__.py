"""Benchmarks: paired measurements in one process, as ratios; a piece whose parity is red is not
timed.
"""
