"""The production graphs lowered for an H100 without one: kernels, bytes, FLOPs, a roofline."""
