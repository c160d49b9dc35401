"""MNIST as sequences of pixels, in rows from the top left (mnist) or in one fixed random order (pmnist)."""

import gzip
import hashlib
import pathlib
import zlib

import numpy as np

from . import files
from .task import DataError, Task

HERE = pathlib.Path(__file__).parent / "data" / "mnist"
# Of the uncompressed files.
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
PERMUTATION_SEED = 92916  # the one most published pMNIST code uses


def locate(folder, name):
    """Where the IDX file `name` is in `folder` or should be, gzipped or not. Some unpackers write .idx for -idx.
    Where there is none, a folder of its name."""
    paths = [folder / f"{one}{end}" for one in (name, name.replace("-idx", ".idx")) for end in (".gz", "")]
    found = [path for path in paths if path.is_file()] or [path for path in paths if path.is_dir()]
    return (found or paths)[0]


FILES = tuple(
    files.File(f"{name}.gz", None, None, (), name, lambda folder, name=name: {locate(folder, name).name: None})
    for name in SHA256
)


def load(folder, size=28):
    """The Task of T = size² steps of one pixel; size 28, or 14 by 2×2 mean pooling."""
    if size not in (14, 28):
        raise ValueError(f"--size: {size} is not a size of MNIST, choose 28 or 14")
    parts = []
    for part in "train", "t10k":
        images = read_idx(folder, f"{part}-images-idx3-ubyte")
        if size == 14:
            blocks = images.reshape(-1, 14, 2, 14, 2).mean((2, 4), dtype=np.float32)
            images = np.rint(blocks).astype(np.uint8)
        parts += [
            images.reshape(len(images), -1, 1),
            read_idx(folder, f"{part}-labels-idx1-ubyte").astype(np.int64),
        ]
    return Task(*parts, classes=10, order=np.arange(size * size))


def load_permuted(folder, size=28):
    """The same with the pixels of every image in one random order."""
    task = load(folder, size)
    order = np.random.RandomState(PERMUTATION_SEED).permutation(task.x_train.shape[1])
    name = f"numpy.random.RandomState({PERMUTATION_SEED}).permutation({len(order)})"
    return task._replace(
        x_train=task.x_train[:, order], x_test=task.x_test[:, order], permutation=name, order=order
    )


def read_idx(folder, name):
    """The array in an IDX file, gzipped or not, once its checksum is right. Raises DataError."""
    path = locate(folder, name)
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except FileNotFoundError:
        raise DataError(f"{path} is missing: put MNIST's four IDX files there, or leave --data-dir out") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder, not the file: put MNIST's {name} in its place") from None
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno:  # it is not the file's contents that are wrong
            raise
        raise DataError(f"{path} cannot be read ({error}): restore it") from None
    if hashlib.sha256(data).hexdigest() != SHA256[name]:
        others = "read other pictures with --task npz"
        raise DataError(f"{path} is not MNIST's {name} (its SHA-256 is another): restore it, or {others}")
    dimensions = data[3]  # an IDX file: 0, 0, type, number of dimensions, their sizes, the values
    shape = np.frombuffer(data, ">i4", dimensions, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
