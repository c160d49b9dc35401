"""What every loader here returns, and what it raises."""

import hashlib
from typing import Any, NamedTuple

import numpy as np

CHUNK = 1 << 24  # bytes that `fingerprint` copies at a time, where an array does not lie in one piece


class Task(NamedTuple):
    """Labelled sequences, split into training and test.

    Of numbers: x is `[n, T, D]`, T steps of D numbers each, uint8 where a value v stands for v/255, or float32 or
    float64 as it is. Of tokens: x is a list of n arrays `[T_i]` of whole numbers from 0 to tokens-1, each T_i at
    least 3.
    """

    x_train: Any
    y_train: Any  # [n] int64, 0 ... classes-1; -1: it has no label
    x_test: Any
    y_test: Any  # all have labels
    classes: int
    permutation: str | None = None  # the name of the order of steps, if it is not the natural one
    order: Any = None  # of pictures: which pixel, counted in rows from the top left, each step is, [T]
    tokens: int | None = None  # how many different tokens there are; None: the sequences are of numbers
    fingerprint: str | None = None  # of x and y, see `fingerprint`


def fingerprint(task):
    """16 hexadecimal digits of x and y, training and test. Other values, types, shapes, lengths or another order
    give other digits.

    BLAKE2b, 1 GB a second: MNIST takes 0.05 s, 10,000 pictures of 128x128 half a second. CRC-32 is twice as fast,
    but one in four thousand million changes keeps it, and anybody can make such a one.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name in "x_train", "y_train", "x_test", "y_test":
        array = getattr(task, name)
        if isinstance(array, list):  # of sequences of unlike lengths: these, then all steps in a row
            add(digest, name, np.array([len(steps) for steps in array], np.int64))
            array = np.concatenate(array)
        add(digest, name, array)
    return digest.hexdigest()


def add(digest, name, array):
    """Add the array to the digest, in any layout: a part of a file in memory, too."""
    digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
    rows = max(1, CHUNK // max(1, array[:1].nbytes))
    for i in range(0, len(array), rows):
        digest.update(np.ascontiguousarray(array[i : i + rows]).data)


class DataError(Exception):
    """A data file is missing or not what it should be; one line that says which and what to do."""


class Incomplete(DataError):
    """What a download would bring is missing; the line ends before the command that gets it."""


def mixed(n):
    """A fixed random order of n rows. Where a file is sorted by class its first rows, which are what --limit-train
    and --limit-test take, would be of a class or two; MNIST's and CIFAR-10's are mixed already."""
    return np.random.RandomState(0).permutation(n)


def pick(x, y, rows):
    """These rows of x and y."""
    return [x[i] for i in rows] if isinstance(x, list) else x[rows], y[rows]


def counted(n, thing):
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}{'es' if thing.endswith('s') else 's'}"


def brief(error):
    """The beginning of its text, in one line."""
    return " ".join(f"{error}".split())[:100]
