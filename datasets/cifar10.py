"""CIFAR-10 as sequences of 1,024 pixels, in rows from the top left, each a step of red, green and blue.

Alex Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009. The binary version is read, never the
one in Python's pickle format.
"""

import pathlib

import numpy as np

from . import files
from .task import DataError, Task

HERE = pathlib.Path(__file__).parent / "data" / "cifar10"
FILES = (
    files.File(
        "cifar-10-binary.tar.gz",
        170_052_171,
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        (
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/cifar-10-binary.tar.gz",
        ),
        "cifar-10-batches-bin/",
        lambda folder: dict.fromkeys(NAMES, RECORDS * RECORD),
    ),
)
NAMES = [f"cifar-10-batches-bin/{name}.bin" for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")]
RECORDS, RECORD = 10_000, 1 + 3 * 1024  # records a file; bytes a record: label, then red, green, blue planes


def load(folder):
    """The Task of x `[n, 1024, 3]` uint8 from cifar-10-binary.tar.gz or cifar-10-batches-bin/ in `folder`.

    The archive's checksum is verified; unpacked files, which may be another's copy of the pictures, only by their
    size and labels. Raises DataError for what is wrong, Incomplete for what is missing.
    """
    x = np.empty((len(NAMES), RECORDS, 1024, 3), np.uint8)
    y = np.empty((len(NAMES), RECORDS), np.int64)
    for name, place, data in files.read(folder, FILES[0]):
        records = np.frombuffer(data, np.uint8).reshape(RECORDS, RECORD)
        for i in np.flatnonzero(records[:, 0] > 9)[:1]:
            raise DataError(
                f"{place}: record {i} (at byte {i * RECORD:,}) has label {records[i, 0]}, not 0 to 9: restore it"
            )
        batch = NAMES.index(name)
        x[batch] = records[:, 1:].reshape(RECORDS, 3, 1024).transpose(0, 2, 1)
        y[batch] = records[:, 0]
    return Task(x[:-1].reshape(-1, 1024, 3), y[:-1].ravel(), x[-1], y[-1], classes=10, order=np.arange(1024))
