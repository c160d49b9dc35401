"""Sequences of your own, in a NumPy .npz file: `--task npz --data-dir FILE`.

x      `[n, T]` or `[n, T, D]`: uint8 (v stands for v/255) or floats (as they are);
       or tokens: other integers `[n, T]` from 0 up. T is at least 3.
y      `[n]`: classes, integers from 0 up
lengths `[n]`, with tokens, if you like: only the first lengths[i] of x[i] count
x_test, y_test, lengths_test: the test set, with lengths if x has them; without it, it is a tenth of the above, the
       same one every time
"""

import zipfile

import numpy as np

from .task import DataError, Task, counted

ARRAYS = ("x", "y", "lengths", "x_test", "y_test", "lengths_test")
LARGEST = 1_000_000  # tokens and classes: beyond it a number is no token but a mistake


def load(path=None):
    """The Task in the file at `path`. Raises DataError for what is wrong with it, ValueError without a path."""
    if path is None:
        raise ValueError("--data-dir: the task npz needs the .npz file to read, --data-dir FILE")
    arrays = read(path)
    parts = [part(path, arrays, "")]
    if any(f"{name}_test" in arrays for name in ("x", "y", "lengths")):
        parts.append(part(path, arrays, "_test"))
        if kind(parts[1][0]) != kind(parts[0][0]):
            fault(path, f"x_test holds {kind(parts[1][0])}, but x {kind(parts[0][0])}")
        there = [name for name in ("lengths", "lengths_test") if name in arrays]
        if len(there) == 1:
            [lacks] = {"lengths", "lengths_test"} - {*there}
            fault(path, f"{there[0]} is there but {lacks} is not: add it, how many tokens of each sequence count")
    else:
        parts = split(path, *parts[0])
    (x_train, y_train), (x_test, y_test) = parts
    classes = 1 + int(max(y_train.max(), y_test.max()))
    tokens = 1 + int(max(steps.max() for steps in (*x_train, *x_test))) if isinstance(x_train, list) else None
    return Task(x_train, y_train, x_test, y_test, classes=classes, tokens=tokens)


def fault(path, text):
    raise DataError(f"{path}: {text}")


def read(path):
    """{name: array} of the arrays in the file; nothing in it can run code."""
    again = "write it again, with np.savez(FILE, x=x, y=y)"
    try:
        with open(path, "rb") as file:
            if file.read(6) == b"\x93NUMPY":
                fault(path, f"it is a single array, no .npz: {again}")
            if not zipfile.is_zipfile(file):
                fault(path, f"it is no .npz, or cut off: {again}")
            file.seek(0)
            with np.load(file, allow_pickle=False) as members:
                unknown = [name for name in members.files if name not in ARRAYS]
                arrays = {name: members[name] for name in members.files if name in ARRAYS}
    except FileNotFoundError:
        raise DataError(f"{path} is missing: --data-dir is the .npz file to read") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder: --data-dir is the .npz file to read") from None
    except (OSError, DataError):
        raise
    except Exception:  # a damaged .npz raises nearly anything
        raise DataError(f"{path}: it is damaged, or holds Python objects: {again}") from None
    if unknown:
        fault(path, f"{unknown[0]} is none of the arrays that count ({', '.join(ARRAYS)}): leave it out")
    return arrays


def part(path, arrays, suffix):
    """The checked sequences and classes of x and y, or of x_test and y_test with the suffix "_test"."""
    for name in "x", "y":
        if name + suffix not in arrays:
            fault(path, f"there is no array {name}{suffix} in it")
    x = sequences(path, arrays, "x" + suffix, "lengths" + suffix)
    return x, labels(path, arrays["y" + suffix], "y" + suffix, len(x))


def sequences(path, arrays, name, lengths_name):
    x, lengths = arrays[name], arrays.get(lengths_name)
    if x.ndim not in (2, 3) or 0 in x.shape:
        fault(path, f"{name} has the shape {x.shape}, not [n, T] or [n, T, D]")
    if x.shape[1] < 3:
        fault(path, f"{name} has {counted(x.shape[1], 'step')}, at least 3 are needed")
    integers = np.issubdtype(x.dtype, np.integer) and x.dtype != np.uint8
    if integers and x.ndim == 2:
        return tokens(path, x, name, lengths, lengths_name)
    if lengths is not None:
        fault(path, f"{lengths_name} goes with tokens only, and {name} is of {x.dtype} in {x.ndim} dimensions")
    if integers or not (x.dtype == np.uint8 or np.issubdtype(x.dtype, np.floating)):
        text = f"{name} is of {x.dtype} in {x.ndim} dimensions, not uint8, floats, or integers [n, T] (tokens)"
        if integers or x.dtype == bool:
            text += f": save {name}.astype('float32')" + integers * ", or 'uint8' if they are bytes"
        fault(path, text)
    if x.dtype != np.uint8:
        with np.errstate(over="ignore"):  # found below
            x = x.astype(np.float32)
        for place in np.argwhere(~np.isfinite(x))[:1].tolist():
            fault(path, f"{name}{place} is not a finite number in float32")
    return x.reshape(*x.shape[:2], -1)


def tokens(path, x, name, lengths, lengths_name):
    """[x[i, :lengths[i]]], int32."""
    if lengths is None:
        lengths = np.full(len(x), x.shape[1])
    if lengths.shape != x.shape[:1] or not np.issubdtype(lengths.dtype, np.integer):
        fault(path, f"{lengths_name} is of {lengths.dtype} and shape {lengths.shape}, not integers [{len(x)}]")
    for i in np.flatnonzero((lengths < 3) | (lengths > x.shape[1]))[:1]:
        fault(path, f"{lengths_name}[{i}] is {lengths[i]}, not 3 to {x.shape[1]}")
    counts = np.arange(x.shape[1]) < lengths[:, None]
    for i, t in np.argwhere(counts & ((x < 0) | (x >= LARGEST)))[:1]:
        fault(path, f"{name}[{i}, {t}] is {x[i, t]}, tokens are from 0 to {LARGEST - 1:,}")
    return [steps[:n] for steps, n in zip(x.astype(np.int32), lengths)]


def labels(path, y, name, n):
    """y as int64."""
    if y.shape != (n,) or not np.issubdtype(y.dtype, np.integer):
        text = f"{name} is of {y.dtype} and shape {y.shape}, not integers [{n}], one for each sequence"
        if y.shape == (n,) and (y.dtype == bool or np.issubdtype(y.dtype, np.floating)):
            text += f": save {name}.astype(int)"
        elif y.ndim == 2 and len(y) == n:
            text += f": save {name}.ravel()" if y.size == n else f": if it is one-hot, save {name}.argmax(1)"
        fault(path, text)
    for i in np.flatnonzero((y < 0) | (y >= LARGEST))[:1]:
        fault(path, f"{name}[{i}] is {y[i]}, classes are from 0 to {LARGEST - 1:,}")
    return y.astype(np.int64)


def kind(x):
    """What training and test sequences must have in common, in words."""
    return "tokens" if isinstance(x, list) else f"{x.dtype} in {x.shape[1]} steps of {x.shape[2]}"


def split(path, x, y):
    """(x, y) of training and of test, a tenth."""
    n = len(y)
    if n < 2:
        fault(path, "one sequence cannot be both trained on and tested: add some, or x_test and y_test")
    order = np.random.default_rng(0).permutation(n)
    test = max(1, n // 10)
    parts = np.sort(order[test:]), np.sort(order[:test])
    return [([x[i] for i in rows] if isinstance(x, list) else x[rows], y[rows]) for rows in parts]
