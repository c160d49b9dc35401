"""Runs. Read run.py, what a run is; then loop.py, how it trains; shards.py, how a batch is split and summed.

Beside them: batches.py and evaluation.py; config.py, checkpoint.py and report.py are options, files and words.
"""
