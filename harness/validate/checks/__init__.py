"""The checks, one file per group in the order of their rows; importing a file registers its checks.

To add one: a function of a Submission, decorated with harness.validate.verdict.check.
"""
