"""Runs: two phases of training, evaluation, files."""
