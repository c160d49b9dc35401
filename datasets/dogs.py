"""Stanford Dogs: photographs of 120 breeds as sequences of size*size pixels, in rows from the top left.

Khosla, Jayadevaprakash, Yao, Li: Novel Dataset for Fine-Grained Image Categorization, 2011; the official split.
Each picture is scaled whole to size x size, with nothing cropped and whatever its shape, by Pillow's bilinear
filter, which on the way down averages over all the pixels that a new one covers. It is scaled as a viewer shows it:
turned as its EXIF data say, over white where it is transparent, and of 16 bits a channel the upper 8. Colour
profiles are left out.
"""

import contextlib
import hashlib
import io
import pathlib
import warnings

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

    The scaled pictures are kept there, in pixels-SIZE.npy, or in the user's cache where `folder` is read-only, and
    mapped into memory from it. What has changed since, the lists or a picture, is made anew. Raises ValueError for
    a size that is not 16 to 128, DataError for what is wrong, Incomplete for what is missing.
    """
    if not 16 <= size <= 128:
        raise ValueError(f"--size: {size} is not a size of dogs, choose 16 to 128")
    splits = read_lists(folder)
    path = folder / kept(size)
    there = up_to_date(path, folder, splits, size)
    if not there and not keep.writable(folder):
        path = keep.elsewhere(folder) / kept(size)
        there = up_to_date(path, folder, splits, size)
    if not there:
        keep.make_room(path, len(pictures(splits)) * record(size).itemsize)
        keep.save(path, scale_all(folder, splits, size, pixels_by_file(path, size)))
    return task(keep.read(path), splits)


def check(folder):
    """The Task at size 16, from the pictures anew; what is kept of them is compared. Raises as `load`."""
    splits = read_lists(folder)
    anew = scale_all(folder, splits, 16)
    for size in range(16, 129):
        for path in folder / kept(size), keep.elsewhere(folder) / kept(size):
            if path.exists():
                compare(keep.read(path), path, anew, size)
    return task(anew, splits)


def compare(records, path, anew, size):
    """Raise DataError unless the kept `records` at `path` are of the same pictures as `anew`, and whole."""
    same = records.dtype == record(size) and len(records) == len(anew)
    if not same or any((records[name] != anew[name]).any() for name in ("entry", "file")):
        raise DataError(f"{path} is of other pictures or lists than are here: delete it, it is made anew")
    if any((digest(one["pixels"]) != one["sha256"]).any() for one in records):
        raise DataError(f"{path} is damaged (its SHA-256 is another): delete it, it is made anew")


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
        labels = [float(label) for label in np.atleast_1d(mat["labels"])]
    except Exception:  # a damaged .mat raises nearly anything
        raise DataError(f"{place} is damaged, or holds no file_list and labels: restore it") from None
    if len(names) != len(labels) or not names:
        raise DataError(
            f"{place} has {counted(len(names), 'picture')} and {counted(len(labels), 'label')}: restore it"
        )
    for i, (name, label) in enumerate(zip(names, labels)):
        if label not in range(1, CLASSES + 1):
            raise DataError(f"{place}: entry {i}, {name}, has label {label:g}, not 1 to {CLASSES}: restore it")
    if len(set(names)) < len(names):
        raise DataError(f"{place} lists a picture twice: restore it")
    return {files.inside(name, place): int(label) for name, label in zip(names, labels)}


def pictures(splits):
    return [f"Images/{name}" for split in splits for name in split]


def scale_all(folder, splits, size, known=None):
    """The records of all pictures, training first, in the order of the lists. `known` has the pixels of some, by
    the digests of their files."""
    names, known = pictures(splits), known or {}
    rows = {name: i for i, name in enumerate(names)}
    records = np.empty(len(rows), record(size))
    records["entry"], records["stamp"] = entries(splits), files.stamps(folder, IMAGES, names)
    found = files.read(folder, IMAGES)
    for name, place, data in tqdm(found, f"scaling to {size}x{size}", len(rows), unit=" pictures", disable=None):
        one = records[rows[name]]
        one["file"] = digest(data)
        pixels = known.get(one["file"].tobytes())
        one["pixels"] = scale(data, place, size) if pixels is None else pixels
        one["sha256"] = digest(one["pixels"])
    return records


def record(size):
    """What is kept of a picture: the digests of its entry in the lists, its file and its pixels, the file's size
    and time of change, and the pixels."""
    digests = [(name, "u1", 32) for name in ("entry", "file", "sha256")]
    return np.dtype([*digests, ("stamp", "<i8", 2), ("pixels", "u1", (size * size, 3))])


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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a large picture is no fault
            with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:  # one of the .jpg files is a PNG
                image.load()
                small = as_shown(image).resize((size, size), Image.Resampling.BILINEAR)
    except UnidentifiedImageError:
        raise DataError(f"{place} is no JPEG or PNG: restore it, or save it as one") from None
    except Image.DecompressionBombError:
        most = 2 * Image.MAX_IMAGE_PIXELS
        raise DataError(f"{place} has more than {most:,} pixels: save it smaller") from None
    except Exception as error:  # as above
        raise DataError(f"{place} does not decode ({brief(error)}): restore it") from None
    return np.asarray(small).reshape(-1, 3)


def as_shown(image):
    """The picture in red, green and blue as a viewer shows it."""
    from PIL import Image, ImageOps

    with contextlib.suppress(Exception):  # EXIF data that cannot be read turn nothing
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits of grey, which `convert` would cut off at 255
        transparent = image.info.get("transparency")
        grey = np.asarray(image)
        levels = [(grey >> 8).astype(np.uint8), np.where(grey == transparent, 0, 255).astype(np.uint8)]
        image = Image.merge("LA", [Image.fromarray(level) for level in levels])
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def kept(size):
    return f"pixels-{size}.npy"


def up_to_date(path, folder, splits, size):
    """Whether the records at `path`, if there are any, are of the pictures that these lists name, in their order,
    at this size, and of the files that are in `folder` now. What is not there any more has not changed."""
    if not path.exists():
        return False
    records, expected = keep.read(path), entries(splits)
    if records.dtype != record(size) or len(records) != len(expected) or (records["entry"] != expected).any():
        return False
    now = files.stamps(folder, IMAGES, pictures(splits))
    return bool(((now == records["stamp"]) | (now == 0)).all())


def pixels_by_file(path, size):
    """{digest of a picture's file: its pixels} of the records at `path`, if there are any of this form."""
    records = keep.read(path) if path.exists() else np.empty(0)
    if records.dtype != record(size):
        return {}
    return {one["file"].tobytes(): one["pixels"] for one in records}
