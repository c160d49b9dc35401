"""From a task's sequences on the host to the arrays of a batch."""

import numpy as np

from ..arrays import ORDER, rng

POOL = 50  # batches whose sequences are sorted by length together


def lengths_of(x):
    """`[n]` the number of steps of each sequence: all alike in an array, their own in a list."""
    return np.full(len(x), x.shape[1]) if isinstance(x, np.ndarray) else np.array([len(tokens) for tokens in x])


def mean_of(x, rows, tokens=None):
    """What a predictor without memory needs for the auxiliary report: the mean `[T, D]` of numbers, or the
    logarithm `[V]` of the frequency of each of V tokens (one more of each, so that none has none)."""
    some = (rows[i : i + 1000] for i in range(0, len(rows), 1000))  # all at once would be copied
    if tokens:
        counts = 1 + sum(np.bincount(np.concatenate([x[i] for i in part]), minlength=tokens) for part in some)
        return np.log(counts / counts.sum())
    mean = sum(x[part].sum(0, dtype="float64") for part in some) / len(rows)
    return mean / 255 if x.dtype == np.uint8 else mean


def scaled(x, dtype):
    """Numbers: a byte v stands for v/255, floats for themselves."""
    numbers = x.astype(dtype)
    if x.dtype == np.uint8:
        numbers /= 255
    return numbers


class Shuffled:
    """Training sequences in batches, `size` to each, in a new order every epoch."""

    def __init__(self, seed, all_rows, lengths, size):
        self.seed, self.all_rows, self.lengths, self.size = seed, all_rows, lengths, size
        self.steps_per_epoch = -(-len(all_rows) // size)
        self.last = None, []  # the epoch asked for last, and its batches

    def rows(self, epoch, i):
        """The rows of batch i of an epoch, both counted from the run's first, from 0."""
        if epoch != self.last[0]:
            order = rng(self.seed, ORDER, epoch)
            self.last = epoch, of_an_epoch(order, self.all_rows, self.lengths, self.size)
        return self.last[1][i]


def of_an_epoch(rng, rows, lengths, size):
    """The rows of each batch of an epoch: `rows` in a new order, `size` at a time, the last ones together.

    Sequences of unlike lengths are sorted within pools of batches, so that those of a batch are about as long
    as each other and little is padded; then it is the batches that come in random order.
    """
    order = rng.permutation(rows)
    pools = [order[i : i + POOL * size] for i in range(0, len(order), POOL * size)]
    order = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    unlike = lengths.min() < lengths.max()
    return [batches[i] for i in rng.permutation(len(batches))] if unlike else batches


def take(x, rows):
    """These rows of x in one array: numbers `[n, T, D]`, or tokens `[n, T]` with zeros before the short ones."""
    if isinstance(x, np.ndarray):
        return x[rows]
    T = max(len(x[i]) for i in rows)
    out = np.zeros((len(rows), T), x[rows[0]].dtype)
    for n, i in enumerate(rows):
        out[n, T - len(x[i]) :] = x[i]
    return out
