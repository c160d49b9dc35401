"""Runs. Read run.py, what a run is; then loop.py, how it trains; shards.py, how a batch is split and summed.

Beside them: batches.py and evaluation.py; processes.py and ranks.py, where shards are computed; predict.py, a
trained model at work. config.py, checkpoint.py and report.py are options, files and words; checks.py looks at the
data, paper.py has the paper's figures; stop.py and output.py deal with signals and with streams.
"""
