"""Tasks: labelled sequences, as NumPy arrays on the host. Imports nothing of minaux."""

import contextlib
import inspect
import os
import pathlib
import shlex
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from . import cifar10, dbpedia, dogs, files, mnist, npz
from .files import File
from .task import DataError, Incomplete, Task, counted, fingerprint, pick

__all__ = [
    "NAMES",
    "TASKS",
    "DataError",
    "Task",
    "check",
    "command",
    "describe",
    "fetch",
    "fingerprint",
    "folder",
    "load",
    "pick",
    "program",
    "survey",
]


class Source(NamedTuple):
    """Where a task comes from."""

    load: Callable  # load(folder, ...) returns the Task; what else it takes are the task's options
    folder: pathlib.Path | None  # where its files are unless the user says otherwise
    files: tuple[File, ...] = ()  # what it is read from
    check: Callable | None = None  # check(folder) reads all there is; None: loading does
    whole: tuple[int, int] | None = None  # training and test sequences, where a part of them is a task too

    @property
    def size(self):
        """How many bytes `data fetch` gets at most; 0: there is nothing to download."""
        return sum(file.size for file in self.files if file.urls)


TASKS = {
    "mnist": Source(mnist.load, mnist.HERE, mnist.FILES),
    "pmnist": Source(mnist.load_permuted, mnist.HERE, mnist.FILES),
    "cifar10": Source(cifar10.load, cifar10.HERE, cifar10.FILES),
    "dogs": Source(dogs.load, dogs.HERE, dogs.FILES, dogs.check, whole=(12_000, 8_580)),
    "dbpedia": Source(dbpedia.load, dbpedia.HERE, dbpedia.FILES, whole=(560_000, 70_000)),
    "npz": Source(npz.load, None),
}
NAMES = tuple(TASKS)


def folder(name, data_dir=None):
    """Where the files of the task `name` are: `data_dir`, or else its folder in datasets/data (npz has none)."""
    source = TASKS[name]
    if not data_dir:
        return source.folder
    path = pathlib.Path(data_dir)
    if source.files and path.is_file():
        names = ", ".join(file.name for file in source.files)
        raise DataError(f"{path} is a file; --data-dir is the folder that holds {names}, packed or unpacked")
    return path


def command(name, data_dir=None):
    """The command that downloads what `name` is read from."""
    where = f" --data-dir {shlex.quote(str(data_dir))}" if data_dir else ""
    return f"{program()} data fetch {name}{where}"


def program():
    """What a user types to start the program: `minaux` where it is installed, else python and cli.py's path."""
    name = os.path.basename(sys.argv[0])
    return name if name == "minaux" else f"python {shlex.quote(sys.argv[0]) if name == 'cli.py' else 'cli.py'}"


def survey(name, data_dir=None):
    """(paths, fault): the files of the task `name` that are there, and the first thing that is missing or of the
    wrong size, in words, or None."""
    found = [files.survey(folder(name, data_dir), file) for file in TASKS[name].files]
    faults = [fault for _, fault in found if fault]
    return [path for there, _ in found for path in there.values()], faults[0] if faults else None


def describe(name, data_dir=None):
    """What `data list` says of the task `name`: how many files there are and where, or what is missing."""
    source, (paths, fault) = TASKS[name], survey(name, data_dir)
    if not source.files:
        return f"a file of yours: --task {name} --data-dir FILE"
    if paths and not fault:
        size = sum(path.stat().st_size for path in paths)
        return f"{counted(len(paths), 'file')}, {megabytes(size)}, in {folder(name, data_dir)}"
    line = f"incomplete: {fault}" if paths else "not there"
    return f"{line}; {megabytes(source.size)} by: {command(name, data_dir)}" if source.size else line


def megabytes(size):
    return f"{size / 1e6:,.1f} MB"


def load(name, size=None, data_dir=None, max_length=None):
    """The Task called `name`. Raises DataError for its files, ValueError for an option that it does not take."""
    options = {"size": size, "max_length": max_length}
    given = {option: value for option, value in options.items() if value is not None}
    for option in given:
        if option not in inspect.signature(TASKS[name].load).parameters:
            raise ValueError(f"--{option.replace('_', '-')}: {name} does not take it, leave it out")
    task = reading(TASKS[name].load, name, data_dir, **given)
    return task._replace(fingerprint=fingerprint(task))


def check(name, data_dir=None):
    """Read everything there is of the task `name`, and return a line that counts it. Raises as `load` does."""
    source = TASKS[name]
    task = reading(source.check or source.load, name, data_dir)
    counts = len(task.y_train), len(task.y_test)
    line = f"{name}: {counts[0]:,} training and {counts[1]:,} test sequences"
    if source.whole not in (None, counts):
        line += " (a part: the whole has {:,} and {:,})".format(*source.whole)
    classes = len({*task.y_train.tolist(), *task.y_test.tolist()} - {-1})
    part = "" if classes == task.classes else f"{classes} of "
    line += f", {part}{counted(task.classes, 'class')}"
    if (task.y_train < 0).any():
        line += f" ({(task.y_train < 0).sum():,} sequences without a label)"
    if task.tokens:
        lengths = [len(x) for x in (*task.x_train, *task.x_test)]
        least = f"{min(lengths):,} to " if min(lengths) < max(lengths) else ""
        line += f", {least}{max(lengths):,} tokens each, of {counted(task.tokens, 'kind')}"
    elif not source.check:
        _, T, D = task.x_train.shape
        line += f", {T:,} steps of {counted(D, 'byte' if task.x_train.dtype == np.uint8 else 'number')} each"
    return line


def reading(function, name, data_dir, **options):
    """function(folder, **options), where a missing file is a DataError that says how to get it."""
    target, source = folder(name, data_dir), TASKS[name]
    if data_dir and source.files and not target.exists():
        remedy = f"or get {name} with: {command(name, data_dir)}" if source.size else "or leave it out"
        raise DataError(f"there is no folder {target}: correct --data-dir, {remedy}")
    try:
        return function(target, **options)
    except Incomplete as error:
        raise DataError(f"{error} with: {command(name, data_dir)}") from None


def fetch(name, data_dir, tell):
    """Download what the task `name` is read from; tell(line) hears how it goes. Raises DataError if a file of it
    cannot be had, with a line for each that says what to put where by hand. No folder is made in vain."""
    target = folder(name, data_dir)
    new = [path for path in (target, *target.parents) if not path.exists()]
    try:
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            text = f"{error.filename} cannot be made ({error.strerror}): choose another --data-dir"
            raise DataError(text) from None
        lacking = [file for file in TASKS[name].files if not files.fetch(file, target, tell)]
    finally:
        for path in new:
            with contextlib.suppress(OSError):  # it is not empty
                path.rmdir()
    if lacking:
        by_hand = (f"  {f.name} ({f.size:,} bytes) from {' or '.join(f.urls)}" for f in lacking)
        raise DataError("\n".join([f"{name} could not be downloaded; put by hand into {target}", *by_hand]))
