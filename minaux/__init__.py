"""minaux: LSTMs with auxiliary losses (Trinh, Dai, Luong & Le, ICML 2018), by hand on NumPy and CuPy.

Read in this order:

    model.py        the whole algorithm: loss_and_grads is one page
    plain.py        the LSTM by the book, forward and backward
    lstm.py         the same made fast
    windows.py      where each gradient may go, in whole numbers
    auxiliary.py    r's decoder and p's predictor
    ops.py optim.py initial.py arrays.py    classifier and losses, RMSProp, initial weights, NumPy or CuPy
    gradcheck.py    the checker, and what a truncated gradient is

Rooms behind it: gpu/ (lstm.py in CUDA), baselines/, training/, figures/, bench/. Imports go one way, as
pyproject.toml lists it: from figures/ down to windows.py and arrays.py.
"""

__version__ = "0.1.0"
