"""Sequences of your own, in a NumPy .npz file: `--task npz --data-dir FILE`.

x      `[n, T]` or `[n, T, D]`: uint8 (v stands for v/255) or floats (as they are);
       or tokens: other integers `[n, T]` from 0 up. T is at least 3.
y      `[n]`: classes, integers from 0 up; -1 for a training sequence without a label
lengths `[n]`, with tokens, if you like: only the first lengths[i] of x[i] count
x_test, y_test, lengths_test: the test set, with lengths if x has them; without it, it is a tenth of the above that
       have labels, the same one every time
"""

import os
import zipfile

import numpy as np

from .task import DataError, Task, brief, counted, mixed, pick

ARRAYS = ("x", "y", "lengths", "x_test", "y_test", "lengths_test")
LARGEST = 1_000_000  # tokens and classes: beyond it a number is no token but a mistake
AGAIN = "write it again, with np.savez(FILE, x=x, y=y)"


# What to save for a type that sequences cannot have, by NumPy's letter for it; otherwise x.astype('float64').
INSTEAD = {
    "integers": "{0}.astype('float64'), or 'uint8' if they are bytes",
    "b": "{0}.astype('float32')",
    "c": "its real and imaginary part as two numbers a step",
    "M": "({0} - np.nanmin(x)) / np.timedelta64(1, 's')",  # x_test from the same moment as x
    "m": "{0} / np.timedelta64(1, 's')",
    "U": "text as tokens, as docs/tasks.md shows",
    "S": "text as tokens, as docs/tasks.md shows",
    "V": "its fields as the numbers of a step, np.stack([{0}[name] for name in {0}.dtype.names], -1)",
    "nameless": "{0}.astype('float32') of bfloat16 and alike, which .npz files do not keep",
}
CODES = {  # of names, the same in both
    "y": "np.unique(y, return_inverse=True)[1]",
    "y_test": "codes[len(y):], and y as codes[:len(y)], of "
    "codes = np.unique(np.concatenate([y, y_test]), return_inverse=True)[1]",
}


def load(path=None):
    """The Task in the file at `path`; its rows are mixed. Raises DataError for what is wrong with it, ValueError
    without a path."""
    if path is None:
        raise ValueError("--data-dir: the task npz needs the .npz file to read, --data-dir FILE")
    arrays = read(path)
    x, y = part(path, arrays, "")
    if any(f"{name}_test" in arrays for name in ("x", "y", "lengths")):
        x_test, y_test = part(path, arrays, "_test")
        if kind(x_test) != kind(x):
            fault(path, f"x_test holds {kind(x_test)}, but x {kind(x)}: {alike(x, x_test)}")
        there = [name for name in ("lengths", "lengths_test") if name in arrays]
        if len(there) == 1:
            [lacks] = {"lengths", "lengths_test"} - {*there}
            fault(path, f"{there[0]} is there but {lacks} is not: add it, how many tokens of each sequence count")
        if isinstance(x, np.ndarray):  # of floats, the wider kind
            x, x_test = (a.astype(np.result_type(x, x_test), copy=False) for a in (x, x_test))
        parts = [pick(x, y, mixed(len(y))), pick(x_test, y_test, mixed(len(y_test)))]
    else:
        parts = split(path, x, y)
    (x_train, y_train), (x_test, y_test) = parts
    classes = 1 + int(max(y_train.max(), y_test.max()))
    tokens = 1 + int(max(steps.max() for steps in (*x_train, *x_test))) if isinstance(x_train, list) else None
    return Task(x_train, y_train, x_test, y_test, classes=classes, tokens=tokens)


def inputs(path):
    """The sequences x of the file in their order, as in a Task; labels need not be there. Raises DataError."""
    return sequences(path, read(path, needed="x"), "x", "lengths")


def fault(path, text):
    raise DataError(f"{path}: {text}")


# --- the file ---


def read(path, needed="xy"):
    """{name: array} of the arrays in the file; nothing in it can run code."""
    try:
        with open(path, "rb") as file:
            if file.read(6) == b"\x93NUMPY":
                fault(path, f"it is a single array, no .npz: {AGAIN}")
            if not zipfile.is_zipfile(file):
                fault(path, f"it is no .npz, or cut off: {AGAIN}")
            file.seek(0)
            with np.load(file, allow_pickle=False) as members:
                check_names(path, members.files, needed)
                return {name: member(path, members, name) for name in members.files}
    except FileNotFoundError:
        meant = f"{path}.npz"  # NumPy adds the ending
        there = f"there is {meant}" if os.path.exists(meant) else "--data-dir is the .npz file to read"
        raise DataError(f"{path} is missing: {there}") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder: --data-dir is the .npz file to read") from None
    except DataError:
        raise
    except Exception as error:  # a damaged .npz raises nearly anything
        if getattr(error, "errno", None):  # the disk's fault, not the file's
            raise
        raise DataError(f"{path}: it is damaged: {AGAIN}") from None


def check_names(path, names, needed):
    """Raise DataError if there is an array that does not count, or none that must be there."""
    others, lacks = [name for name in names if name not in ARRAYS], [name for name in needed if name not in names]
    if others and lacks:
        there = f"there is no array {lacks[0]} in it, but {', '.join(others)}"
        fault(path, f"{there:.300}: save them under the names that count, {', '.join(ARRAYS)}")
    if others:
        none = f"{others[0]} is none of the arrays that count ({', '.join(ARRAYS)})"
        fault(path, f"{none}: rename it, or leave it out")
    if lacks:
        fault(path, f"there is no array {lacks[0]} in it: {AGAIN}")


def member(path, members, name):
    """The array `name` in the file. Raises DataError if it holds Python objects, or is too large."""
    try:
        array = members[name]
    except MemoryError as error:
        fault(path, f"{name} does not fit into memory ({brief(error)})")
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        if name.startswith("y"):
            fault(path, f"{name} holds Python objects: save {name}.astype(int), of names {CODES[name]}")
        like = "fill them up with zeros to one array [n, T] or [n, T, D]; of tokens save their lengths, too"
        fault(path, f"{name} holds Python objects: of sequences of unlike lengths {like}")
    if not isinstance(array, np.ndarray):
        fault(path, f"{name} is no array: {AGAIN}")
    return array


# --- what is in it ---


def part(path, arrays, suffix):
    """The checked sequences and classes of x and y, or of x_test and y_test with the suffix "_test"."""
    for name in "x", "y":
        if name + suffix not in arrays:
            fault(path, f"there is no array {name}{suffix} in it: a test set needs x_test and y_test")
    x = sequences(path, arrays, "x" + suffix, "lengths" + suffix)
    return x, labels(path, arrays["y" + suffix], "y" + suffix, len(x), -1 if suffix == "" else 0)


def sequences(path, arrays, name, lengths_name):
    """x as a list of tokens, or `[n, T, D]` of bytes or floats that are as wide as they were saved."""
    x, lengths = arrays[name], arrays.get(lengths_name)
    check_form(path, x, name)
    if whole(x) and x.dtype != np.uint8:
        return tokens(path, x, name, lengths, lengths_name)
    if lengths is not None:
        otherwise = f"leave it out, or save {name}.astype('int32') if these are tokens"
        if x.ndim == 3 or x.dtype != np.uint8:
            otherwise = "leave it out, and cut or fill up the sequences"
        what = f"{name} is of {x.dtype} in {x.ndim} dimensions"
        fault(path, f"{lengths_name} goes with tokens only, and {what}: {otherwise}")
    if x.dtype != np.uint8:
        for place in np.argwhere(~np.isfinite(x))[:1].tolist():
            what = f"{name}{place} is {x[tuple(place)]}, no finite number"
            fault(path, f"{what}: put a number there, or leave that sequence out")
        x = x.astype(np.result_type(x, np.float32), copy=False)
    return x.reshape(*x.shape[:2], -1)


def check_form(path, x, name):
    """Raise DataError if x has a type or shape that is none of sequences, with what to save instead."""
    if 0 in x.shape:
        otherwise = "" if name == "x" else ", or leave x_test and y_test out"
        fault(path, f"{name} is empty, its shape is {x.shape}: save sequences there{otherwise}")
    integers = whole(x) and x.dtype != np.uint8
    floats = np.issubdtype(x.dtype, np.floating) and x.dtype.itemsize <= 8
    if not (x.dtype == np.uint8 or floats or (integers and x.ndim != 3)):
        nameless = x.dtype.kind == "V" and not x.dtype.names
        letter = "integers" if integers else "nameless" if nameless else x.dtype.kind
        instead = INSTEAD.get(letter, "{0}.astype('float64')").format(name)
        what = f"{name} is of {x.dtype} in {counted(x.ndim, 'dimension')}"
        fault(path, f"{what}, not uint8, floats, or integers [n, T] (tokens): save {instead}")
    if x.ndim not in (2, 3):
        text = f"{name} has the shape {x.shape}, not [n, T] or [n, T, D]"
        if x.ndim == 4:
            n, height, width, channels = x.shape
            text += f": of pictures save {name}.reshape({n}, {height * width}, {channels})"
        fault(path, text)
    if x.shape[1] < 3:
        steps = counted(x.shape[1], "step")
        fault(path, f"{name} has {steps}, at least 3 are needed: its shape is [n, T] or [n, T, D]")


def tokens(path, x, name, lengths, lengths_name):
    """[x[i, :lengths[i]]], int32."""
    if lengths is None:
        lengths = np.full(len(x), x.shape[1])
    if lengths.shape != x.shape[:1] or not whole(lengths):
        what = f"{lengths_name} is of {lengths.dtype} and shape {lengths.shape}, not integers [{len(x)}]"
        fault(path, f"{what}: save how many tokens of each sequence count")
    for i in np.flatnonzero((lengths < 3) | (lengths > x.shape[1]))[:1]:
        fault(path, f"{lengths_name}[{i}] is {lengths[i]}, not 3 to {x.shape[1]}")
    counts = np.arange(x.shape[1]) < lengths[:, None]
    for i, t in np.argwhere(counts & ((x < 0) | (x >= LARGEST)))[:1]:
        what = f"{name}[{i}, {t}] is {x[i, t]}, tokens are from 0 to {LARGEST - 1:,}"
        fault(path, f"{what}: of numbers that are no tokens save {name}.astype('float64')")
    return [steps[:n] for steps, n in zip(x.astype(np.int32), lengths)]


def labels(path, y, name, n, least):
    """y as int64, from `least` up."""
    if y.shape != (n,) or not whole(y):
        text = f"{name} is of {y.dtype} and shape {y.shape}, not integers [{n}], one for each sequence"
        fault(path, text + classes_instead(y, name, n))
    for i in np.flatnonzero((y < least) | (y >= LARGEST))[:1]:
        if y[i] == -1:
            remedy = "leave that sequence out, it cannot be tested"
            if set(y.tolist()) == {-1, 1}:
                remedy = "of the labels -1 and 1 save (y + 1) // 2 and (y_test + 1) // 2"
            fault(path, f"{name}[{i}] is -1, no label: {remedy}")
        unlabelled = ", or -1 without a label" if least < 0 else ""
        fault(path, f"{name}[{i}] is {y[i]}, classes are from 0 to {LARGEST - 1:,}{unlabelled}")
    return y.astype(np.int64)


def classes_instead(y, name, n):
    """What to save in place of a y that is not integers `[n]`."""
    if y.ndim == 2 and len(y) == n:
        return f": save {name}.ravel()" if y.size == n else f": if it is one-hot, save {name}.argmax(1)"
    if y.shape != (n,):
        return ""
    if y.dtype.kind in "UScV":
        return f": save {CODES[name]}"
    if y.dtype.kind in "mM":
        return f": make classes of it, of times with np.digitize({name}.astype(float), LIMITS)"
    if y.dtype == bool or (y.dtype.kind == "f" and np.isfinite(y).all() and (y == np.rint(y)).all()):
        return f": save {name}.astype(int)"
    return f": make classes of it, of numbers with np.digitize({name}, LIMITS)"


def whole(array):
    """Whether it holds integers. np.issubdtype counts timedelta64 among them."""
    return array.dtype.kind in "iu"


def kind(x):
    """What training and test sequences must have in common, in words."""
    if isinstance(x, list):
        return "tokens"
    return f"{'bytes (uint8)' if x.dtype == np.uint8 else 'floats'} in {x.shape[1]} steps of {x.shape[2]}"


def alike(x, x_test):
    """What to save where these are not of one kind."""
    if isinstance(x, list) or isinstance(x_test, list):
        return "of tokens save both with .astype('int32'), of numbers both with .astype('float32')"
    if x.shape[1] != x_test.shape[1]:
        return "cut both to the same number of steps, or fill them up with zeros"
    if x.shape[2] != x_test.shape[2]:
        return "save the same numbers of each step in both"
    return f"save {'x' if x.dtype == np.uint8 else 'x_test'} / 255, as bytes stand for that"


def split(path, x, y):
    """(x, y) of training and of test, a tenth of those that have labels; both mixed."""
    order = np.random.default_rng(0).permutation(len(y))
    labelled = order[y[order] >= 0]
    if len(y) < 2 or not len(labelled):
        what = "one sequence" if len(y) < 2 else "sequences without labels"
        fault(path, f"{what} cannot be both trained on and tested: add some, or x_test and y_test")
    test = labelled[: max(1, len(labelled) // 10)]
    return [pick(x, y, order[~np.isin(order, test)]), pick(x, y, test)]
