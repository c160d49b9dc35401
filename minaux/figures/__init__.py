"""What comes of runs: pictures, tables, the analyses of the paper, weights for PyTorch."""
