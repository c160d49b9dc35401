"""What every loader here returns, and what it raises."""

from typing import Any, NamedTuple

import numpy as np


class Task(NamedTuple):
    """Labelled sequences, split into training and test.

    Of numbers: x is `[n, T, D]`, T steps of D numbers each, uint8 where a value v stands for v/255, or float32
    as it is. Of tokens: x is a list of n arrays `[T_i]` of whole numbers from 0 to tokens-1, each T_i at least 3.
    """

    x_train: Any
    y_train: Any  # [n] int64, 0 ... classes-1
    x_test: Any
    y_test: Any
    classes: int
    permutation: str | None = None  # the name of the order of steps, if it is not the natural one
    order: Any = None  # of pictures: which pixel, counted in rows from the top left, each step is, [T]
    tokens: int | None = None  # how many different tokens there are; None: the sequences are of numbers


class DataError(Exception):
    """A data file is missing or not what it should be; one line that says which and what to do."""


class Incomplete(DataError):
    """What a download would bring is missing; the line ends before the command that gets it."""


def mixed(n):
    """A fixed random order of n rows. Where a file is sorted by class its first rows, which are what --limit-train
    and --limit-test take, would be of a class or two; MNIST's and CIFAR-10's are mixed already."""
    return np.random.RandomState(0).permutation(n)


def counted(n, thing):
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}{'es' if thing.endswith('s') else 's'}"


def brief(error):
    """The beginning of its text, in one line."""
    return " ".join(f"{error}".split())[:100]
