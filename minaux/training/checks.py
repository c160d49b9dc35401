"""Do the data fit the run? What cannot be learned from is an error, what a user may not expect a note."""

import numpy as np

from .config import UserError

SCALE = "scale x as docs/tasks.md shows under Numbers"
USUAL = 1e-3, 1e3  # largest numbers that a network learns from as they are
SAMPLE = 10_000  # numbers of each channel that are looked at
SHARE = 0.01  # of distinct numbers: measured noise loses less in float32, and nothing by it


def notes(run):
    """What to tell of a new run's data, a line each. Raises UserError if nothing can be learned from them."""
    cfg, task = run.cfg, run.task
    of_classes = classes(task, run.labelled.all_rows, run.test_rows, cfg.limit_train) if cfg.epochs else []
    return [f"note: {line}" for line in (*of_classes, *numbers(task, run.train_rows, cfg.dtype))]


def classes(task, train_rows, test_rows, limit_train):
    """Notes on the classes. Raises UserError if training has less than two."""
    y, y_test = task.y_train[train_rows], task.y_test[test_rows]
    beyond = task.y_train[len(task.y_train) if limit_train is None else limit_train :]  # what the limit leaves out
    seen = np.unique(y[y >= 0])
    if len(seen) < 2:
        alike = f"of class {seen[0]}" if len(seen) else "without a label"
        some = " that have a label" if len(seen) and (task.y_train < 0).any() else ""
        others = np.setdiff1d(beyond[beyond >= 0], seen)
        remedy = "raise --limit-train" if len(others) else "add sequences of another class"
        if set(task.y_train.tolist()) == {-1, 1}:
            remedy = "if -1 is a class, too, save (y + 1) // 2"
        raise UserError(
            f"all {len(y):,} training sequences{some} are {alike}, there is nothing to tell apart: {remedy}"
        )
    unseen = np.setdiff1d(y_test, seen)
    if not len(unseen):
        return []
    some = ", ".join(map(str, unseen[:5])) + ", ..." * (len(unseen) > 5)
    which = f"class {some}" if len(unseen) == 1 else f"{len(unseen)} classes ({some})"
    tested = f"{np.isin(y_test, unseen).sum():,} of {len(y_test):,} test sequences are"
    remedy = "; raise --limit-train" if np.isin(unseen, beyond).any() else ""
    return [f"training has no sequence of {which}, and {tested}{remedy}"]


def largest(task):
    """The largest number of x, regardless of sign; None for bytes and tokens, which the program scales."""
    if task.tokens or task.x_train.dtype == np.uint8:
        return None
    return float(max(abs(f(x)) for x in (task.x_train, task.x_test) for f in (np.min, np.max)))


def numbers(task, rows, dtype):
    """Notes on the numbers in x. Raises UserError if `dtype` cannot hold the squares that losses and norms sum."""
    if same(task.x_train):
        each = " in each channel" if task.x_train.shape[2] > 1 else ""
        raise UserError(
            f"all numbers of x are equal{each}, there is nothing to tell apart: check what was saved as x"
        )
    size = largest(task)
    if size is None:
        return []
    if size > 1e-3 * float(np.finfo(dtype).max) ** 0.5:
        raise UserError(f"x holds numbers up to {size:.3g}, which overflow in {dtype}: {SCALE}")
    found = []
    if not USUAL[0] <= size <= USUAL[1]:
        found.append(f"x holds numbers up to {size:.3g}, and a network learns best from numbers about 1: {SCALE}")
    apart, together = distinct(task.x_train, rows, dtype)
    if together > SHARE * apart:
        fall = f"of {apart:,} distinct numbers of x {together:,} fall together in {dtype}"
        found.append(f"{fall}: add --dtype float64, or {SCALE}")
    return found


def same(x):
    """Whether all steps of all sequences are the same numbers. Tokens may differ in how many they are."""
    return not isinstance(x, list) and all((steps == x[0, 0]).all() for steps in x)


def distinct(x, rows, dtype):
    """(n, m) of the channel of x `[n, T, D]` that suffers most: of n distinct numbers, m are equal to others in
    `dtype`."""
    T, D = x.shape[1:]
    if np.finfo(x.dtype).bits <= np.finfo(dtype).bits:
        return 0, 0
    steps, found = len(rows) * T, []
    some = np.arange(steps) if steps <= SAMPLE else np.random.default_rng(0).integers(0, steps, SAMPLE)
    for d in range(D):
        n = np.unique(x[rows[some // T], some % T, d])
        found.append((len(n), len(n) - len(np.unique(n.astype(dtype)))))
    return max(found, key=lambda pair: pair[1] / pair[0])
