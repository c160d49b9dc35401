"""A user's own sequences."""

import pathlib
import re
import zipfile

import numpy as np
import pytest

import datasets
from datasets import DataError
from datasets.task import mixed

RNG = np.random.default_rng(0)
Y = np.arange(20) % 3
PIXELS = RNG.integers(0, 256, (20, 5, 2), np.uint8)
TOKENS = RNG.integers(0, 9, (20, 6))
TOKENS[0, 0] = 9
LENGTHS = 3 + np.arange(20) % 4


@pytest.fixture
def load(tmp_path):
    """load(x=..., y=...) saves the arrays and loads the task."""

    def loaded(**arrays):
        np.savez(tmp_path / "own.npz", **arrays)
        return datasets.load("npz", data_dir=tmp_path / "own.npz")

    return loaded


def saved(rows):
    """In the order of the file, where it has a test set of its own."""
    order = np.argsort(mixed(len(rows)))
    return [rows[i] for i in order] if isinstance(rows, list) else rows[order]


def rows(x, y):
    """Each sequence beside its class, in any order."""
    return sorted((np.asarray(steps).tolist(), int(c)) for steps, c in zip(x, y))


def test_a_tenth_is_the_test_set(load):
    task, again = load(x=PIXELS, y=Y), load(x=PIXELS, y=Y)
    assert task.x_train.shape == (18, 5, 2) and task.x_test.shape == (2, 5, 2)
    both = np.concatenate([task.x_train, task.x_test]), np.concatenate([task.y_train, task.y_test])
    assert rows(*both) == rows(PIXELS, Y)
    assert (task.x_test == again.x_test).all() and (task.y_test == again.y_test).all()
    assert not (task.x_test == PIXELS[:2]).all() and not (task.x_test == PIXELS[-2:]).all()
    assert len(load(x=PIXELS[:2], y=Y[:2]).y_test) == 1


def test_a_test_set_of_its_own(load):
    task = load(x=PIXELS[:15], y=Y[:15], x_test=PIXELS[15:], y_test=Y[15:] + 2)
    assert (saved(task.x_train) == PIXELS[:15]).all() and (saved(task.y_train) == Y[:15]).all()
    assert (saved(task.x_test) == PIXELS[15:]).all() and (saved(task.y_test) == Y[15:] + 2).all()
    assert task.classes == 5 and task.tokens is None and task.permutation is None
    assert task.y_train.dtype == task.y_test.dtype == np.int64


def test_bytes_stay_and_floats_are_taken_as_they_are(load):
    assert load(x=PIXELS, y=Y).x_train.dtype == np.uint8
    for dtype, kept in ("f2", "f4"), ("f4", "f4"), (">f4", "f4"), ("f8", "f8"), (">f8", "f8"):
        x = RNG.standard_normal((20, 5, 2)).astype(dtype)
        task = load(x=x[:15], y=Y[:15], x_test=x[15:], y_test=Y[15:])
        assert task.x_train.dtype == kept and (saved(task.x_train) == x[:15]).all()
        assert task.x_test.dtype == kept and (saved(task.x_test) == x[15:]).all()


def test_floats_of_two_widths_are_taken_as_the_wider(load):
    x = RNG.standard_normal((20, 5, 2))
    task = load(x=x[:15].astype("f4"), y=Y[:15], x_test=x[15:], y_test=Y[15:])
    assert task.x_train.dtype == task.x_test.dtype == np.float64
    assert (saved(task.x_train) == x[:15].astype("f4")).all() and (saved(task.x_test) == x[15:]).all()


def test_distinct_numbers_stay_apart(load):
    seconds = 1.7e9 + np.arange(100.0).reshape(20, 5)
    task = load(x=seconds, y=Y)
    assert len(np.unique(np.concatenate([task.x_train, task.x_test]))) == 100


def test_rows_are_mixed(load):
    """The file may be sorted by class."""
    y = np.arange(200) // 20
    x = np.repeat(y[:, None], 4, 1)
    test = {"x_test": x, "y_test": y}
    for arrays in {"x": x, "y": y}, {"x": x, "y": y, **test}, {"x": x / 10, "y": y}:
        task, again = load(**arrays), load(**arrays)
        assert set(task.y_train[:60]) == set(range(10)) and (np.diff(task.y_test) < 0).any()
        assert (task.y_train == again.y_train).all()
        for steps, label in zip([*task.x_train, *task.x_test], [*task.y_train, *task.y_test]):
            assert (steps == (label if task.tokens else label / 10)).all()
    assert set(load(x=x, y=y, **test).y_test[:60]) == set(range(10))


def test_training_sequences_may_have_no_label(load, tmp_path):
    y = np.where(np.arange(20) < 8, Y, -1)
    task = load(x=TOKENS, y=y)
    assert len(task.y_test) == 1 and task.y_test.min() >= 0 and (task.y_train == -1).sum() == 12
    assert rows(task.x_train + task.x_test, [*task.y_train, *task.y_test]) == rows(TOKENS, y)
    assert task.classes == 3
    says = "19 training and 1 test sequences, 3 classes (12 sequences without a label), 6 tokens each"
    assert says in datasets.check("npz", tmp_path / "own.npz")
    task = load(x=PIXELS, y=y * 0 - 1, x_test=PIXELS, y_test=Y)
    assert (task.y_train == -1).all() and task.classes == 3
    with pytest.raises(DataError, match="sequences without labels cannot be both trained on and tested"):
        load(x=PIXELS, y=y * 0 - 1)


def test_one_number_a_step(load):
    task = load(x=PIXELS[:15, :, 0], y=Y[:15], x_test=PIXELS[15:, :, 0], y_test=Y[15:])
    assert task.x_train.shape == (15, 5, 1) and (saved(task.x_train)[:, :, 0] == PIXELS[:15, :, 0]).all()


@pytest.mark.parametrize("dtype", ["i1", "i4", "i8", "u2", "u8", ">i4"])
def test_tokens(load, dtype):
    task = load(x=TOKENS.astype(dtype), y=Y.astype(dtype))
    assert isinstance(task.x_train, list) and task.tokens == 10 and task.classes == 3
    assert rows(task.x_train + task.x_test, [*task.y_train, *task.y_test]) == rows(TOKENS, Y)
    assert all(steps.dtype == np.int32 for steps in task.x_train)


def test_tokens_of_unlike_lengths(load):
    x = TOKENS.copy()
    x[np.arange(6) >= LENGTHS[:, None]] = -1  # what does not count may be anything
    x[0, 5] = 10**9
    task = load(x=x, y=Y, lengths=LENGTHS)
    cut = [steps[:n] for steps, n in zip(x, LENGTHS)]
    assert rows(task.x_train + task.x_test, [*task.y_train, *task.y_test]) == rows(cut, Y)
    assert task.tokens == 10
    test = {"x_test": TOKENS[:3], "y_test": Y[:3], "lengths_test": LENGTHS[1:4]}
    task = load(x=x, y=Y, lengths=LENGTHS, **test)
    assert [len(steps) for steps in saved(task.x_train)] == LENGTHS.tolist()
    assert [len(steps) for steps in saved(task.x_test)] == LENGTHS[1:4].tolist()


def test_tokens_of_the_test_set_count(load):
    assert load(x=TOKENS, y=Y, x_test=TOKENS[:2] + 100, y_test=Y[:2]).tokens == TOKENS[:2].max() + 101


def changed(array, place, value):
    array = array.copy()
    array[place] = value
    return array


def floats(value):
    return changed(PIXELS.astype(float), (3, 4, 1), value)


@pytest.mark.parametrize(
    "arrays, says",
    [
        ({"y": None}, "there is no array y in it: write it again, with np.savez(FILE, x=x, y=y)"),
        ({"x": None}, "there is no array x in it"),
        (
            {"x": None, "y": None, "x_train": PIXELS, "y_train": Y},
            "there is no array x in it, but x_train, y_train: save them under the names that count, x, y",
        ),
        (
            {"y": None, "labels": Y},
            "there is no array y in it, but labels: save them under the names that count, x,",
        ),
        ({"x_test": PIXELS}, "there is no array y_test in it: a test set needs x_test and y_test"),
        ({"y_test": Y}, "there is no array x_test in it"),
        ({"lengths_test": LENGTHS}, "there is no array x_test in it"),
        (
            {"test_x": PIXELS},
            "test_x is none of the arrays that count (x, y, lengths, x_test, y_test, lengths_test): rename it, or "
            "leave it out",
        ),
        ({"x": PIXELS[0, 0]}, "x has the shape (2,), not [n, T] or [n, T, D]"),
        ({"x": PIXELS[None]}, "x has the shape (1, 20, 5, 2), not"),
        ({"x": PIXELS[:0], "y": Y[:0]}, "x is empty, its shape is (0, 5, 2): save sequences there"),
        ({"x": TOKENS[:0], "y": Y[:0]}, "x is empty, its shape is (0, 6): save sequences there"),
        ({"x": PIXELS[:, :, :0]}, "x is empty, its shape is (20, 5, 0)"),
        (
            {"x_test": PIXELS[:0], "y_test": Y[:0]},
            "x_test is empty, its shape is (0, 5, 2): save sequences there, or leave x_test and y_test out",
        ),
        (
            {"x": np.zeros((20, 6), "V2")},  # what bfloat16 is saved as
            "x is of |V2 in 2 dimensions, not uint8, floats, or integers [n, T] (tokens): save "
            "x.astype('float32') of bfloat16 and alike, which .npz files do not keep",
        ),
        (
            {"x": np.zeros((20, 6), "f4, f4")},
            "x is of [('f0', '<f4'), ('f1', '<f4')] in 2 dimensions, not uint8, floats, or integers [n, T] "
            "(tokens): save its fields as the numbers of a step, np.stack(",
        ),
        (
            {"x": PIXELS[None].repeat(20, 0)},
            "x has the shape (20, 20, 5, 2), not [n, T] or [n, T, D]: of pictures save x.reshape(20, 100, 2)",
        ),
        ({"x": PIXELS[:, :1]}, "x has 1 step, at least 3 are needed: its shape is [n, T] or [n, T, D]"),
        ({"x": PIXELS[:, :2]}, "x has 2 steps, at least 3 are needed"),
        (
            {"x": PIXELS.astype(int)},
            "x is of int64 in 3 dimensions, not uint8, floats, or integers [n, T] (tokens): "
            "save x.astype('float64'), or 'uint8' if they are bytes",
        ),
        ({"x": PIXELS.astype(complex)}, "x is of complex128 in 3 dimensions, not"),
        (
            {"x": PIXELS > 9},
            "x is of bool in 3 dimensions, not uint8, floats, or integers [n, T] (tokens): "
            "save x.astype('float32')",
        ),
        (
            {"x": PIXELS.astype(str)},
            "x is of <U3 in 3 dimensions, not uint8, floats, or integers [n, T] (tokens): save text as tokens, as "
            "docs/tasks.md shows",
        ),
        ({"x": np.array(["text"] * 20)}, "x is of <U4 in 1 dimension, not uint8"),
        (
            {"x": PIXELS.astype("longdouble")},
            f"x is of {np.dtype('longdouble')} in 3 dimensions, not uint8, floats, or integers [n, T] (tokens): "
            "save x.astype('float64')",
        ),
        (
            {"x": PIXELS.astype("datetime64[s]")},
            "x is of datetime64[s] in 3 dimensions, not uint8, floats, or integers [n, T] (tokens): save "
            "(x - np.nanmin(x)) / np.timedelta64(1, 's')",
        ),
        (
            {"x_test": PIXELS.astype("datetime64[s]"), "y_test": Y},
            "x_test is of datetime64[s] in 3 dimensions, not uint8, floats, or integers [n, T] (tokens): save "
            "(x_test - np.nanmin(x)) / np.timedelta64(1, 's')",
        ),
        (
            {"x": TOKENS.astype("timedelta64[s]")},
            "x is of timedelta64[s] in 2 dimensions, not uint8, floats, or integers [n, T] (tokens): save "
            "x / np.timedelta64(1, 's')",
        ),
        ({"x": floats(np.nan)}, "x[3, 4, 1] is nan, no finite number: put a number there, or leave that sequence"),
        ({"x_test": floats(-np.inf), "y_test": Y}, "x_test[3, 4, 1] is -inf, no finite number: put"),
        (
            {"x": changed(TOKENS, (2, 5), -1)},
            "x[2, 5] is -1, tokens are from 0 to 999,999: of numbers that are no tokens save x.astype('float64')",
        ),
        ({"x": changed(TOKENS, (2, 5), 10**6)}, "x[2, 5] is 1000000, tokens are from 0 to 999,999"),
        ({"x": TOKENS, "lengths": LENGTHS[1:]}, "lengths is of int64 and shape (19,), not integers [20]"),
        (
            {"x": TOKENS, "lengths": LENGTHS / 1},
            "lengths is of float64 and shape (20,), not integers [20]: save how many tokens of each sequence count",
        ),
        (
            {"x": TOKENS, "lengths": LENGTHS.astype("timedelta64[s]")},
            "lengths is of timedelta64[s] and shape (20,), not integers [20]",
        ),
        ({"x": TOKENS, "lengths": changed(LENGTHS, 7, 2)}, "lengths[7] is 2, not 3 to 6"),
        ({"x": TOKENS, "lengths": changed(LENGTHS, 7, 7)}, "lengths[7] is 7, not 3 to 6"),
        (
            {"x": TOKENS, "lengths": LENGTHS, "x_test": TOKENS, "y_test": Y},
            "lengths is there but lengths_test is not: add it",
        ),
        (
            {"x": TOKENS, "x_test": TOKENS, "y_test": Y, "lengths_test": LENGTHS},
            "lengths_test is there but lengths is not: add it",
        ),
        (
            {"lengths": LENGTHS},
            "lengths goes with tokens only, and x is of uint8 in 3 dimensions: leave it out, and cut or fill up",
        ),
        (
            {"x": PIXELS[:, :, 0], "lengths": LENGTHS},
            "lengths goes with tokens only, and x is of uint8 in 2 dimensions: leave it out, or save "
            "x.astype('int32') if these are tokens",
        ),
        ({"y": Y[1:]}, "y is of int64 and shape (19,), not integers [20]"),
        (
            {"y": Y / 1},
            "y is of float64 and shape (20,), not integers [20], one for each sequence: save y.astype(int)",
        ),
        (
            {"y": Y > 1},
            "y is of bool and shape (20,), not integers [20], one for each sequence: save y.astype(int)",
        ),
        (
            {"y": np.eye(3)[Y]},
            "y is of float64 and shape (20, 3), not integers [20], one for each sequence: if it is "
            "one-hot, save y.argmax(1)",
        ),
        (
            {"y": Y[:, None]},
            "y is of int64 and shape (20, 1), not integers [20], one for each sequence: save y.ravel()",
        ),
        (
            {"y": Y / 2},
            "y is of float64 and shape (20,), not integers [20], one for each sequence: make classes of it, of "
            "numbers with np.digitize(y, LIMITS)",
        ),
        (
            {"y": np.array(["cat", "dog"])[Y % 2]},
            "y is of <U3 and shape (20,), not integers [20], one for each sequence: save "
            "np.unique(y, return_inverse=True)[1]",
        ),
        (
            {"y": changed(Y / 1, 4, np.inf)},
            "y is of float64 and shape (20,), not integers [20], one for each sequence: make classes of it, of "
            "numbers with np.digitize(y, LIMITS)",
        ),
        (
            {"y": Y.astype("timedelta64[s]")},
            "y is of timedelta64[s] and shape (20,), not integers [20], one for each sequence: make classes of it, "
            "of times with np.digitize(y.astype(float), LIMITS)",
        ),
        (
            {"y": Y.astype("datetime64[s]")},
            "y is of datetime64[s] and shape (20,), not integers [20], one for each sequence: make classes of it, "
            "of times with np.digitize(y.astype(float), LIMITS)",
        ),
        (
            {"y": Y.astype(complex)},
            "y is of complex128 and shape (20,), not integers [20], one for each sequence: save "
            "np.unique(y, return_inverse=True)[1]",
        ),
        ({"y": changed(Y, 4, -2)}, "y[4] is -2, classes are from 0 to 999,999, or -1 without a label"),
        ({"y": changed(Y, 4, 10**12)}, "y[4] is 1000000000000, classes are from 0 to"),
        ({"x_test": PIXELS, "y_test": changed(Y, 4, -1)}, "y_test[4] is -1, no label: leave that sequence"),
        (
            {"x_test": PIXELS, "y": Y % 2 * 2 - 1, "y_test": Y % 2 * 2 - 1},
            "y_test[0] is -1, no label: of the labels -1 and 1 save (y + 1) // 2 and (y_test + 1) // 2",
        ),
        ({"x_test": PIXELS, "y_test": changed(Y, 4, -2)}, "y_test[4] is -2, classes are from 0 to 999,999"),
        (
            {"x_test": TOKENS, "y_test": Y},
            "x_test holds tokens, but x bytes (uint8) in 5 steps of 2: of tokens save",
        ),
        (
            {"x_test": PIXELS[:, :4], "y_test": Y},
            "x_test holds bytes (uint8) in 4 steps of 2, but x bytes (uint8) in 5 steps of 2: cut both to the same "
            "number of steps, or fill them up with zeros",
        ),
        (
            {"x_test": PIXELS[:, :, 0], "y_test": Y},
            "x_test holds bytes (uint8) in 5 steps of 1, but x bytes (uint8) in 5 steps of 2: save the same "
            "numbers of each step in both",
        ),
        (
            {"x_test": floats(0), "y_test": Y},
            "x_test holds floats in 5 steps of 2, but x bytes (uint8) in 5 steps of 2: save x / 255, as bytes",
        ),
        (
            {"x": floats(0), "x_test": PIXELS, "y_test": Y},
            "x_test holds bytes (uint8) in 5 steps of 2, but x floats in 5 steps of 2: save x_test / 255, as bytes",
        ),
        ({"x": PIXELS[:1], "y": Y[:1]}, "one sequence cannot be both trained on and tested"),
    ],
)
def test_a_wrong_array_is_named(arrays, says, load, tmp_path):
    arrays = {"x": PIXELS, "y": Y, **arrays}
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'own.npz'}: {says}")) as error:
        load(**{name: array for name, array in arrays.items() if array is not None})
    assert "\n" not in str(error.value)


TYPES = ["M8[s]", "m8[s]", "bool", "longdouble", "i4"]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(20, 6), (20, 3, 2)])
def test_what_is_advised_for_x_is_taken(dtype, shape, load):
    x = TOKENS.reshape(shape).astype(dtype)
    try:
        load(x=x, y=Y)
    except DataError as error:
        advice = str(error).partition(": save ")[2].partition(", or ")[0]
        load(x=eval(advice, {"np": np, "x": x}), y=Y)
    else:
        assert (dtype, shape) == ("i4", (20, 6))  # tokens


def test_what_is_advised_for_another_kind_of_test_set_is_taken(load):
    numbers, tokens = PIXELS[:, :, 0], TOKENS[:, :5]
    for x, x_test in (tokens, numbers), (tokens, numbers / 255), (numbers, tokens):
        with pytest.raises(DataError) as error:
            load(x=x, y=Y, x_test=x_test, y_test=Y)
        of_tokens, of_numbers = re.findall(r"astype\('(\w+)'\)", str(error.value))
        assert load(x=x.astype(of_tokens), y=Y, x_test=x_test.astype(of_tokens), y_test=Y).tokens
        assert not load(x=x.astype(of_numbers), y=Y, x_test=x_test.astype(of_numbers), y_test=Y).tokens
    with pytest.raises(DataError, match=": save x_test / 255,"):
        load(x=PIXELS / 255, y=Y, x_test=PIXELS, y_test=Y)
    task = load(x=PIXELS / 255, y=Y, x_test=PIXELS / 255, y_test=Y)
    assert (task.x_train == task.x_test).all() and task.x_train.max() <= 1


@pytest.mark.parametrize("dtype", [*TYPES, "complex", "f4", "U9", "S9", "V2"])
def test_what_is_advised_for_y_is_taken(dtype, load):
    y = Y.astype("u2").view("V2") if dtype == "V2" else Y.astype(dtype)
    try:
        load(x=PIXELS, y=y)
    except DataError as error:
        advice = re.search("(?:save|with) (.*)", str(error))[1]
        assert load(x=PIXELS, y=eval(advice, {"np": np, "y": y, "LIMITS": [1, 2]})).classes > 1
    else:
        assert dtype == "i4"


def test_names_of_the_test_set_get_the_codes_of_those_in_training(load):
    y, y_test = np.array(["ant", "cat", "dog"])[Y], np.array(["cat", "bee"] * 10)
    with pytest.raises(DataError) as error:
        load(x=PIXELS, y=Y, x_test=PIXELS, y_test=y_test)
    test, train, code = re.search(r"save (.*), and y as (.*), of (codes = .*)", str(error.value)).groups()
    names = {"np": np, "y": y, "y_test": y_test}
    exec(code, names)
    task = load(x=PIXELS, y=eval(train, names), x_test=PIXELS, y_test=eval(test, names))
    of_cats = saved(task.y_train)[y == "cat"]
    assert set(saved(task.y_test)[::2]) == set(of_cats) and task.classes == 4


class Harm:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_python_objects_are_refused_unread(load, tmp_path):
    objects = np.array([Harm(tmp_path / "harmed")], object)
    for name, advice in ("x", "of sequences of unlike lengths fill"), ("y", "save y.astype(int), of names"):
        with pytest.raises(DataError) as error:
            load(**{"x": PIXELS, "y": Y, name: objects})
        assert f"own.npz: {name} holds Python objects: {advice}" in str(error.value)
        assert not (tmp_path / "harmed").exists() and "pickle" not in str(error.value)


@pytest.mark.parametrize("name", ["x", "x.txt"])
def test_another_kind_of_zip_is_told(name, tmp_path):
    path = tmp_path / "own.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(name, b"text")
        file.writestr("y", b"text")
    says = {"x": "x is no array", "x.txt": "there is no array x in it, but x.txt: save"}[name]
    with pytest.raises(DataError, match=re.escape(f"{path}: {says}")):
        datasets.load("npz", data_dir=path)


def test_an_array_that_is_too_large_is_no_damage(load, monkeypatch):
    def full(members, name):
        raise MemoryError("Unable to allocate 9. TiB")

    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", full)
    with pytest.raises(DataError, match=r"own.npz: x does not fit into memory \(Unable to allocate 9. TiB\)$"):
        load(x=PIXELS, y=Y)


@pytest.mark.parametrize(
    "harm, says",
    [
        ("cut", "it is no .npz, or cut off"),
        ("text", "it is no .npz, or cut off"),
        ("empty", "it is no .npz, or cut off"),
        ("flipped byte", "it is damaged"),
        ("one array", "it is a single array, no .npz"),
    ],
)
def test_a_damaged_file_is_named(harm, says, load, tmp_path):
    path = tmp_path / "own.npz"
    load(x=PIXELS, y=Y)
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    if harm == "one array":
        with open(path, "wb") as file:
            np.save(file, PIXELS)
    else:
        path.write_bytes({"cut": data[:200], "text": b"text" * 9, "empty": b"", "flipped byte": bytes(data)}[harm])
    with pytest.raises(DataError) as error:
        datasets.load("npz", data_dir=path)
    assert str(error.value) == f"{path}: {says}: write it again, with np.savez(FILE, x=x, y=y)"


def test_a_missing_file_is_named(tmp_path, invoke):
    with pytest.raises(DataError, match="none.npz is missing: --data-dir is the .npz file"):
        datasets.load("npz", data_dir=tmp_path / "none.npz")
    np.savez(tmp_path / "none", x=PIXELS, y=Y)
    with pytest.raises(DataError, match="none is missing: there is .*none.npz$"):
        datasets.load("npz", data_dir=tmp_path / "none")
    with pytest.raises(ValueError, match="--data-dir FILE"):
        datasets.load("npz")
    ended = invoke("train", "--task", "npz", "--data-dir", tmp_path)  # a folder
    assert ended.stderr == f"Error: {tmp_path} is a folder: --data-dir is the .npz file to read\n"


def test_check_counts(load, tmp_path):
    load(x=TOKENS, y=Y)
    counts = "18 training and 2 test sequences, 3 classes, 6 tokens each, of 10 kinds"
    assert datasets.check("npz", tmp_path / "own.npz") == f"npz: {counts}"
    load(x=TOKENS * 0, y=Y * 0, lengths=LENGTHS)
    counts = "18 training and 2 test sequences, 1 class, 3 to 6 tokens each, of 1 kind"
    assert datasets.check("npz", tmp_path / "own.npz") == f"npz: {counts}"


def test_it_trains(load, invoke, tmp_path):
    load(x=PIXELS, y=Y)
    small = "--aux rp --hidden 2 --bptt 3 --aux-length 3 --pretrain-epochs 1 --epochs 1 --threads 1 --quiet".split()
    ended = invoke("train", "--task", "npz", *small, "--data-dir", tmp_path / "own.npz", "--out", tmp_path / "run")
    assert ended.status == 0 and "on 2 sequences" in ended.stdout


def test_the_readmes_example_is_a_task(tmp_path, monkeypatch, invoke):
    readme = (pathlib.Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n([^`]*savez.*?)```", readme, re.DOTALL)
    command = re.search(r"# then: python cli.py (.*)", code)[1]
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    small = "--hidden 8 --limit-train 60 --epochs 1 --batch-size 16 --threads 1 --quiet --out run".split()
    ended = invoke(*command.split(), *small)
    assert ended.status == 0 and "test accuracy" in ended.stdout


@pytest.mark.parametrize("name", ["tokens.npz", "texts.npz"])
def test_the_examples_of_the_docs_are_tasks(name, tmp_path, monkeypatch):
    page = (pathlib.Path(__file__).parent.parent.parent / "docs" / "tasks.md").read_text(encoding="utf-8")
    [code] = re.findall(rf'```python\n([^`]*savez\("{name}".*?)```', page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    task = datasets.load("npz", data_dir=name)
    assert task.classes == 2 and len({len(steps) for steps in task.x_train}) > 1
    if name == "texts.npz":
        found = {bytes(steps.tolist()) for steps in task.x_train}
        assert found == {b"a first text", b"and another", b"the third"}
