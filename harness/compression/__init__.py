"""Files written with a model and a range coder, and restored byte for byte."""
