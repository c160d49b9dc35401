"""Section 2's rivals that need no LSTM: a linear model of the last pixels, a constant, copying the last pixel.

PYTHONPATH=. python results/trials/linear.py      (in the project's folder)
"""

import numpy as np

import datasets


def runs(x, n):
    """Every run of n pixels of the images x, with a 1 behind it, and the pixel that follows."""
    windows = np.lib.stride_tricks.sliding_window_view(x, n + 1, axis=1).reshape(-1, n + 1)
    return np.c_[windows[:, :-1], np.ones(len(windows))].astype("f4"), windows[:, -1].astype("f4")


for name in ("mnist", "pmnist"):
    task = datasets.load(name)
    train, test = (x[:count, :, 0] / 255 for x, count in ((task.x_train, 4000), (task.x_test, 2000)))
    for n in (8, 30):
        A, b = np.zeros((n + 1, n + 1)), np.zeros(n + 1)  # least squares by its normal equations, in parts
        for part in np.array_split(train, 40):
            X, y = runs(part, n)
            A, b = A + X.T @ X, b + X.T @ y
        X, y = runs(test, n)
        predictions = {"linear": X @ np.linalg.solve(A, b), "constant": train.mean(), "copying": X[:, n - 1]}
        errors = ", ".join(f"{k} {np.mean((p - y) ** 2):.4f}" for k, p in predictions.items())
        print(f"{name}, the last {n} pixels: {errors}")
