"""minaux: LSTMs with auxiliary losses (Trinh, Dai, Luong & Le, ICML 2018), by hand on NumPy and CuPy.

Reading order:

    model.py       loss_and_grads is the algorithm on one page
    lstm.py        the equations, forward and backward
    windows.py     where gradients may go: anchors, segments, truncation
    auxiliary.py   the r and p heads, scheduled sampling
    ops.py         the classifier's and the losses' forward/backward pairs
    arrays.py      NumPy or CuPy, random generators
    optim.py       RMSProp, clipping, schedules
    train.py       the two phases, evaluation, resume
    config.py checkpoint.py gradcheck.py   as needed
"""

__version__ = "0.1.0"
