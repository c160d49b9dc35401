"""From a task's sequences on the host to the arrays of a batch."""

import numpy as np

from ..arrays import array_module

POOL = 50  # batches whose sequences are sorted by length together


def lengths_of(x):
    """`[n]` the number of steps of each sequence: all alike in an array, their own in a list."""
    return np.full(len(x), x.shape[1]) if isinstance(x, np.ndarray) else np.array([len(tokens) for tokens in x])


def mean_of(x, rows, tokens=None):
    """What a predictor without memory needs for the auxiliary report: the mean `[T, D]` of numbers, or the
    logarithm `[V]` of the frequency of each of V tokens (one more of each, so that none has none)."""
    if tokens:
        counts = 1 + sum(np.bincount(x[i], minlength=tokens) for i in rows)
        return np.log(counts / counts.sum())
    some = (rows[i : i + 1000] for i in range(0, len(rows), 1000))  # all at once would be copied
    mean = sum(x[part].sum(0, dtype="float64") for part in some) / len(rows)
    return mean / 255 if x.dtype == np.uint8 else mean


def scaled(x, dtype):
    """Numbers: a byte v stands for v/255, floats for themselves."""
    numbers = x.astype(dtype)
    if x.dtype == np.uint8:
        numbers /= 255
    return numbers


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


def on_shard(function, params, x, y, draws, dtype, padding, options):
    """function(params, x, y, draws, **options) on one shard: x `[n, T, D]` or `[n, T]` on the host becomes
    `[T, D, n]` numbers or `[T, n]` tokens on the device of `params`; `padding [n]` (or None) is how many steps
    at the front are none of the sequence's."""
    xp = array_module(next(iter(params.values())))
    steps = x.swapaxes(0, 1)  # [T, n, D] or [T, n], which is how they lie on a GPU
    if x.ndim == 3 and xp is np:
        steps = steps.swapaxes(1, 2)  # [T, D, n]
    steps = xp.asarray(np.ascontiguousarray(steps))  # while they are bytes
    steps = scaled(steps, dtype) if x.ndim == 3 else steps.astype("int64")
    if x.ndim == 3 and xp is not np:
        steps = steps.swapaxes(1, 2)
    if padding is not None:
        options = {**options, "mask": xp.asarray((np.arange(len(steps))[:, None] >= padding).astype(dtype))}
    masks = {name: xp.asarray(mask) for name, mask in draws.masks.items()}
    draws = draws._replace(masks=masks, truth=None if draws.truth is None else xp.asarray(draws.truth))
    with np.errstate(over="ignore", invalid="ignore"):  # as in `Run.working`: this may be another process
        return function(params, steps, None if y is None else xp.asarray(y), draws, **options)
