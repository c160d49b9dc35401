"""minaux: LSTMs with auxiliary losses (Trinh, Dai, Luong & Le, ICML 2018), by hand on NumPy and CuPy.

Read model.py first, then lstm.py, windows.py, auxiliary.py, ops.py, optim.py, arrays.py, train.py. lstm.cu and
kernels.py are the LSTM on the GPU. The rest is what a program needs besides: batches.py, shards.py, initial.py,
evaluation.py, config.py, checkpoint.py, report.py, plots.py, analyses.py, export.py; irnn.py and
transformer.py are baselines.
"""

__version__ = "0.1.0"
