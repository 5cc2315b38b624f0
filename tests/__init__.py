"""The tests. What they read of a report is as wide as in a pipe, whatever terminal they run in."""

import os

os.environ.pop("COLUMNS", None)  # readline sets it for the processes that pytest starts
