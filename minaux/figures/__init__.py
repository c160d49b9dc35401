"""What comes of runs: pictures, tables, the analyses of the paper, weights for PyTorch.

A `run` is its directory here; where it is a `Run`, the docstring says so.
"""
