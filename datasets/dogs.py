"""Stanford Dogs: photographs of 120 breeds as sequences of size*size pixels, in rows from the top left.

Khosla, Jayadevaprakash, Yao, Li: Novel Dataset for Fine-Grained Image Categorization, 2011; the official split.
Each picture is scaled whole to size x size, with nothing cropped and whatever its shape, by Pillow's bilinear
filter, which on the way down averages over all the pixels that a new one covers.
"""

import hashlib
import io
import pathlib

import numpy as np
from tqdm import tqdm

from . import files, keep
from .task import DataError, Task, brief, counted, mixed

HERE = pathlib.Path(__file__).parent / "data" / "dogs"
ADDRESS = "http://vision.stanford.edu/aditya86/ImageNetDogs/"
IMAGES = files.File(
    "images.tar",
    793_579_520,
    "a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58",
    (ADDRESS + "images.tar",),
    "Images/",
    lambda folder: dict.fromkeys(pictures(read_lists(folder))),
)
LISTS = files.File(
    "lists.tar",
    481_280,
    "34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c",
    (ADDRESS + "lists.tar",),
    "train_list.mat and test_list.mat",
    lambda folder: dict.fromkeys(SPLITS),
)
FILES = (LISTS, IMAGES)
SPLITS = ("train_list.mat", "test_list.mat")
CLASSES = 120


def load(folder, size=128):
    """The Task of x `[n, size*size, 3]` uint8 from lists.tar and images.tar, or what they unpack to, in `folder`.

    The scaled pictures are kept there, in pixels-SIZE.npy, and mapped into memory from it; they are made anew when
    the lists have changed. Raises ValueError for a size that is not 16 to 128, DataError for what is wrong,
    Incomplete for what is missing.
    """
    if not 16 <= size <= 128:
        raise ValueError(f"--size: {size} is not a size of dogs, choose 16 to 128")
    splits = read_lists(folder)
    path = kept(folder, size)
    if not path.exists() or not fits(keep.read(path), splits, size):
        keep.save(path, scale_all(folder, splits, size))
    return task(keep.read(path), splits)


def check(folder):
    """The Task at size 16, from the pictures anew; what is kept of them is compared. Raises as `load`."""
    splits = read_lists(folder)
    anew = scale_all(folder, splits, 16)
    for size in range(16, 129):
        path = kept(folder, size)
        if path.exists():
            records = keep.read(path)
            if not fits(records, splits, size) or (records["file"] != anew["file"]).any():
                raise DataError(f"{path} is of other pictures or lists than are here: delete it, it is made anew")
            if any((digest(one["pixels"]) != one["sha256"]).any() for one in records):
                raise DataError(f"{path} is damaged (its SHA-256 is another): delete it, it is made anew")
    return task(anew, splits)


def task(records, splits):
    x, (train, test) = records["pixels"], (np.array([*split.values()], np.int64) - 1 for split in splits)
    return Task(x[: len(train)], train, x[len(train) :], test, classes=CLASSES, order=np.arange(x.shape[1]))


def read_lists(folder):
    """[{picture's path below Images/: its label, 1 to 120}] of training and test, each mixed."""
    found = {name: read_list(data, place) for name, place, data in files.read(folder, LISTS)}
    both = found[SPLITS[0]].keys() & found[SPLITS[1]].keys()
    if both:
        raise DataError(f"{folder}: {' and '.join(SPLITS)} both list {min(both)}: restore them")
    listed = [list(found[name].items()) for name in SPLITS]
    return [dict(entries[i] for i in mixed(len(entries))) for entries in listed]


def read_list(data, place):
    from scipy.io import loadmat

    try:
        mat = loadmat(io.BytesIO(data), squeeze_me=True, variable_names=("file_list", "labels"))
        names = [str(name) for name in np.atleast_1d(mat["file_list"])]
        labels = [int(label) for label in np.atleast_1d(mat["labels"])]
    except Exception:  # a damaged .mat raises nearly anything
        raise DataError(f"{place} is damaged, or holds no file_list and labels: restore it") from None
    if len(names) != len(labels) or not names:
        raise DataError(
            f"{place} has {counted(len(names), 'picture')} and {counted(len(labels), 'label')}: restore it"
        )
    for i, (name, label) in enumerate(zip(names, labels)):
        if not 1 <= label <= CLASSES:
            raise DataError(f"{place}: entry {i}, {name}, has label {label}, not 1 to {CLASSES}: restore it")
    if len(set(names)) < len(names):
        raise DataError(f"{place} lists a picture twice: restore it")
    return {files.inside(name, place): label for name, label in zip(names, labels)}


def pictures(splits):
    return [f"Images/{name}" for split in splits for name in split]


def scale_all(folder, splits, size):
    """The records of all pictures, training first, in the order of the lists."""
    rows = {name: i for i, name in enumerate(pictures(splits))}
    records = np.empty(len(rows), record(size))
    records["entry"] = entries(splits)
    found = files.read(folder, IMAGES)
    for name, place, data in tqdm(found, f"scaling to {size}x{size}", len(rows), unit=" pictures", disable=None):
        one = records[rows[name]]
        one["file"], one["pixels"] = digest(data), scale(data, place, size)
        one["sha256"] = digest(one["pixels"])
    return records


def record(size):
    """What is kept of a picture: the digests of its entry in the lists, its file and its pixels, and these."""
    digests = [(name, "u1", 32) for name in ("entry", "file", "sha256")]
    return np.dtype([*digests, ("pixels", "u1", (size * size, 3))])


def digest(data):
    return np.frombuffer(hashlib.sha256(data).digest(), np.uint8)


def entries(splits):
    """`[n, 32]` the digest of each picture's entry in the lists: which list, its name and its label."""
    found = [f"{i} {name} {label}" for i, split in enumerate(splits) for name, label in split.items()]
    return np.array([digest(entry.encode()) for entry in found])


def scale(data, place, size):
    """The pixels `[size*size, 3]` of a picture. Raises DataError if it does not decode."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:  # one of the .jpg files is a PNG
            small = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    except UnidentifiedImageError:
        raise DataError(f"{place} is no JPEG or PNG: restore it") from None
    except Exception as error:  # as above
        raise DataError(f"{place} does not decode ({brief(error)}): restore it") from None
    return np.asarray(small).reshape(-1, 3)


def kept(folder, size):
    return folder / f"pixels-{size}.npy"


def fits(records, splits, size):
    """Whether the records are of the pictures that these lists name, in their order, at this size."""
    expected = entries(splits)
    return (
        records.dtype == record(size)
        and records.shape == (len(expected),)
        and bool((records["entry"] == expected).all())
    )
