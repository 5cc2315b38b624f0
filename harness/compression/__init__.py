"""Files written with a model and a range coder, and restored byte for byte."""

from typing import Literal

CodedOrder = Literal["left-to-right", "confidence"]  # a file stores the place in this list
