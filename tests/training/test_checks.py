"""What a new run says of its data."""

import pathlib
import re
import types

import numpy as np
import pytest

import datasets
from datasets import Task
from minaux.training import checks, config
from minaux.training.config import UserError
from minaux.training.run import new_state, set_up
from tests.conftest import tiny

R = np.random.default_rng(0)
X = R.integers(0, 256, (40, 6, 1)).astype(np.uint8)
Y = np.arange(40) % 4


@pytest.fixture
def told(tmp_path):
    """told(task, options) starts a run and returns the lines that it prints."""

    def start(task, **given):
        lines = []
        options = {"task": "npz", "hidden": 2, "bptt": 3, "epochs": 1, "threads": 1, "device": "cpu", **given}
        out = tmp_path / str(len([*tmp_path.iterdir()]))
        new_state(set_up(config.build(options, 1), task, out, echo=lines.append))
        return lines

    return start


def test_of_usual_data_nothing_is_told(told):
    assert told(Task(X, Y, X, Y, classes=4)) == []
    x = R.standard_normal((40, 6, 2))
    for dtype in "float32", "float64":
        assert told(Task(x.astype(dtype), Y, x.astype(dtype), Y, classes=4)) == []
    tokens = [*X[:, :, 0].astype(np.int32)]
    assert told(Task(tokens, Y, tokens, Y, classes=4, tokens=256)) == []


# --- classes ---


@pytest.mark.parametrize(
    "y, given, says",
    [
        (
            Y * 0 + 7,
            {"valid": 0},
            "all 40 training sequences are of class 7, there is nothing to tell apart: add",
        ),
        (Y * 0 + 7, {"limit_train": 99, "valid": 0}, "all 40 .* of class 7, .*: add sequences of another class"),
        (
            np.sort(Y),
            {"limit_train": 9},
            "all 9 .* of class 0, there is nothing to tell apart: raise --limit-train",
        ),
        (
            Y * 0 + 7,
            {"limit_train": 9},
            "all 9 .* of class 7, .*: add sequences of another class",
        ),
        (
            Y % 2 * 2 - 1,
            {},
            r"all 18 training sequences that have a label are of class 1, .*: if -1 is a class, too, "
            r"save \(y \+ 1\) // 2$",
        ),
        (Y // 3 * 3 - 1, {}, "all 9 training sequences that have a label are of class 2, .*: add sequences of"),
        (np.sort(Y), {"limit_train": 10, "valid": 4}, "all 6 training sequences are of class 0"),
    ],
)
def test_a_training_part_of_one_class_is_refused(y, given, says, told, tmp_path):
    with pytest.raises(UserError, match=f"^{says}"):
        told(Task(X, y, X, Y, classes=8), **given)
    assert not [*tmp_path.iterdir()]  # no directory is made


def test_pretraining_alone_needs_no_classes(told):
    assert told(Task(X, Y * 0, X, Y, classes=4), aux="r", pretrain_epochs=1, epochs=0) == []


@pytest.mark.parametrize(
    "y_test, given, says",
    [
        (Y + 1, {}, "note: training has no sequence of class 4, and 10 of 40 test sequences are"),
        (Y + 1, {"limit_test": 7}, "note: training has no sequence of class 4, and 1 of 7 test sequences are"),
        (Y + 2, {}, "note: training has no sequence of 2 classes (4, 5), and 20 of 40 test sequences are"),
        (
            np.arange(40),
            {"limit_train": 39},
            "note: training has no sequence of 36 classes (4, 5, 6, 7, 8, ...), and 36 of 40 test sequences are",
        ),
        (
            Y,
            {"limit_train": 3},
            "note: training has no sequence of class 3, and 10 of 40 test sequences are; raise --limit-train",
        ),
    ],
)
def test_classes_that_training_never_sees_are_told(y_test, given, says, told):
    task = Task(X, Y, X, y_test, classes=40)
    assert told(task, valid=0, **given) == [says]
    assert told(task, valid=0, quiet=True, **given) == []


def test_validation_is_not_training(told):
    """The one sequence of class 3 is set aside."""
    order = np.random.default_rng(0).permutation(40)
    y = np.where(np.arange(40) == order[0], 3, Y % 3)
    assert told(Task(X, y, X, y, classes=4), valid=1)[0].startswith(
        "note: training has no sequence of class 3, and 1 "
    )


def test_validation_takes_sequences_with_labels(tmp_path):
    y = np.where(np.arange(40) < 30, Y, -1)
    task = Task(X, y, X, Y, classes=4)
    pretraining = {"task": "npz", "aux": "r", "pretrain_epochs": 1, "epochs": 0}
    run = set_up(config.build({**pretraining, "valid": 30}, 1), task, tmp_path / "run")
    assert sorted(run.valid_rows) == [*range(30)] and sorted(run.train_rows) == [*range(30, 40)]
    assert set_up(config.build(pretraining, 1), task, tmp_path / "run").cfg.valid == 3  # a tenth of the labelled
    with pytest.raises(UserError, match="--valid: 31 is more than the 30 training sequences that have labels"):
        set_up(config.build({**pretraining, "valid": 31}, 1), task, tmp_path / "run")


# --- numbers ---

SECONDS = (1.7e9 + R.permutation(240)).reshape(40, 6, 1)
TWO = np.concatenate([R.standard_normal((40, 6, 1)), 1 + 1e-9 * R.integers(0, 2, (40, 6, 1))], 2)


def test_numbers_that_fall_together_are_told(told):
    large, together = told(Task(SECONDS, Y, SECONDS, Y, classes=4), valid=0)
    left = len(np.unique(SECONDS.astype("float32")))
    assert left < 5
    assert together == (
        f"note: of 240 distinct numbers of x {240 - left} fall together in float32: add --dtype float64, or "
        "scale x as docs/tasks.md shows under Numbers"
    )
    assert large == (
        "note: x holds numbers up to 1.7e+09, and a network learns best from numbers about 1: "
        "scale x as docs/tasks.md shows under Numbers"
    )
    assert told(Task(SECONDS, Y, SECONDS, Y, classes=4), dtype="float64") == [large]
    assert told(Task(SECONDS - 1.7e9, Y, SECONDS - 1.7e9, Y, classes=4)) == []


def test_the_channel_that_suffers_most_is_told(told):
    [line] = told(Task(TWO, Y, TWO, Y, classes=4))
    assert line.startswith("note: of 2 distinct numbers of x 1 fall together in float32")


@pytest.mark.parametrize("mean, deviation", [(0, 1), (300, 5)])
def test_ordinary_noise_in_float64_is_no_news(mean, deviation):
    """Of a hundred thousand such numbers some are equal in float32."""
    x = mean + deviation * R.standard_normal((1000, 100, 1))
    assert len(np.unique(x.astype("float32"))) < x.size
    task = types.SimpleNamespace(x_train=x, x_test=x, tokens=None)
    assert checks.numbers(task, np.arange(1000), "float32") == []


@pytest.mark.parametrize("dtype, size", [("float32", 1e20), ("float32", -1e300), ("float64", 1e155)])
def test_numbers_that_overflow_are_refused_with_their_cause(dtype, size, told):
    x = np.where(np.arange(40)[:, None, None] == 3, size, R.standard_normal((40, 6, 1)))
    for train, test in (x, -X / 255), (X / 255, x):
        with pytest.raises(UserError) as error:
            told(Task(train, Y, test, Y, classes=4), dtype=dtype)
        says = f"x holds numbers up to {abs(size):.3g}, which overflow in {dtype}: {checks.SCALE}"
        assert str(error.value) == says


@pytest.mark.parametrize("dtype, size", [("float32", 1e15), ("float64", 1e150)])
def test_numbers_below_that_do_not_overflow(dtype, size, tmp_path, invoke):
    x = size * R.standard_normal((40, 30, 1))
    np.savez(tmp_path / "own.npz", x=x, y=Y)
    ended = invoke(*tiny("npz", tmp_path / "own.npz", "rp", tmp_path / "run"), "--dtype", dtype)
    assert ended.status == 0, ended.stderr


def test_small_numbers_are_told(told):
    x = 1e-6 * R.standard_normal((40, 6, 1))
    [line] = told(Task(x, Y, x, Y, classes=4))
    assert line.startswith("note: x holds numbers up to ") and line.endswith("numbers about 1: " + checks.SCALE)


NOISE = R.standard_normal((40, 6, 1))
CONSTANT = np.concatenate([NOISE * 1e6, NOISE * 0 + 0.1, NOISE * 0], 2)


@pytest.mark.parametrize("with_test", [True, False])
@pytest.mark.parametrize(
    "x, dtype",
    [
        (NOISE[:, :, 0] * 1e5, "float32"),  # [n, T]
        (NOISE * [1e6, 1e-6, 1] + [0, 1e-3, 1.7e9], "float32"),
        (SECONDS, "float32"),
        (SECONDS.astype("float32"), "float32"),
        (CONSTANT, "float32"),
        ((NOISE * 1e4).astype("float16"), "float32"),
        ((NOISE * 1e-7).astype("float16"), "float32"),
        ((NOISE * 1e20).astype("float32"), "float32"),
        ((NOISE * 1e37).astype("float32"), "float32"),
        ((NOISE * 1e-44).astype("float32"), "float32"),
        (NOISE * 1e160, "float64"),
        (NOISE * 1e160, "float32"),
        (NOISE / abs(NOISE).max() * 1.7e308, "float64"),
        (NOISE * 1e-200, "float64"),
    ],
)
def test_numbers_scaled_as_advised_are_taken_without_a_note(x, dtype, with_test, told, tmp_path):
    """Followed to the letter."""
    page = (pathlib.Path(__file__).parent.parent.parent / "docs" / "tasks.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n([^`]*def scaled[^`]*)```", page)
    if not with_test:
        code = code[: code.rindex("x, x_test =")] + re.search(r"# without .*: (.*)", code)[1]
    arrays = {"x": x, "x_test": x[::-1]} if with_test else {"x": x}
    labels = {"y": Y, "y_test": Y[::-1]} if with_test else {"y": Y}

    def load(arrays):
        np.savez(tmp_path.parent / "own.npz", **arrays, **labels)
        return datasets.load("npz", data_dir=tmp_path.parent / "own.npz")

    try:
        lines = told(load(arrays), dtype=dtype, valid=0)
    except UserError as error:
        lines = [str(error)]
    assert any(checks.SCALE in line for line in lines)
    names = {"np": np, **arrays}
    exec(code, names)
    task = load({name: names[name] for name in arrays})
    assert told(task, dtype=dtype, valid=0) == []
    if with_test:
        assert sorted(task.x_train.ravel()) == sorted(task.x_test.ravel())


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
@pytest.mark.parametrize("number", [0, 5])
def test_equal_numbers_are_refused(dtype, number, told):
    x = np.full((40, 6, 1), number, dtype)
    with pytest.raises(UserError, match="^all numbers of x are equal, there is nothing to tell apart: check what"):
        told(Task(x, Y, X.astype(dtype), Y, classes=4))
    two = np.concatenate([x, x + 1], 2)
    with pytest.raises(UserError, match="^all numbers of x are equal in each channel, there is nothing"):
        told(Task(two, Y, two, Y, classes=4))


def test_where_training_diverges_unscaled_numbers_are_the_cause(tmp_path):
    """A lower learning rate would not help."""
    for size, remedy in (
        (1e6, f"; x holds numbers up to 1e+06: {checks.SCALE}"),
        (1, "; try a lower --lr"),
    ):
        x = np.full((40, 6, 1), float(size))
        run = set_up(config.build({"task": "npz", "epochs": 1}, 1), Task(x, Y, x, Y, classes=4), tmp_path / "run")
        assert str(run.diverged("the loss is not finite")).endswith(remedy)
    run = set_up(config.build({"task": "npz", "epochs": 1}, 1), Task(X, Y, X, Y, classes=4), tmp_path / "run")
    assert str(run.diverged("the loss is not finite")).endswith("; try a lower --lr")
