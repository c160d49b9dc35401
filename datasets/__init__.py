"""Tasks: labelled sequences, as NumPy arrays on the host. Imports nothing of minaux."""

from typing import Any, NamedTuple


class Task(NamedTuple):
    """Labelled sequences of T steps with D numbers each, split into training and test."""

    x_train: Any  # [n, T, D] uint8: a value v stands for v/255
    y_train: Any  # [n] int64, 0 ... classes-1
    x_test: Any
    y_test: Any
    classes: int
    permutation: str | None = None  # the name of the order of steps, if it is not the natural one


class DataError(Exception):
    """A data file is missing or not what it should be; one line that says which and what to do."""


def load(name, size=None, data_dir=None):
    """The Task called `name`. Raises DataError for its files, ValueError for a size it does not come in."""
    from . import mnist

    tasks = {"mnist": mnist.load, "pmnist": mnist.load_permuted}
    return tasks[name](size, data_dir)


NAMES = ("mnist", "pmnist")
