"""MNIST as it travels with the project."""

import gzip
import pathlib
import re

import numpy as np
import pytest

import datasets
from datasets import DataError, mnist


@pytest.fixture(scope="module")
def tasks():
    return {(name, size): datasets.load(name, size) for name in ("mnist", "pmnist") for size in (28, 14)}


def test_all_of_mnist_is_here(tasks):
    task = tasks["mnist", 28]
    assert task.x_train.shape == (60000, 784, 1) and task.x_test.shape == (10000, 784, 1)
    assert task.x_train.dtype == np.uint8 and task.y_train.dtype == np.int64
    assert task.y_train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert np.bincount(task.y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert task.x_train.mean() / 255 == pytest.approx(0.1307, abs=1e-4)
    assert task.permutation is None and task.classes == 10 and (task.order == np.arange(784)).all()


def test_size_14_is_the_mean_of_2x2_pixels(tasks):
    full = tasks["mnist", 28].x_train[7].reshape(28, 28).astype(int)
    small = tasks["mnist", 14].x_train[7].reshape(14, 14)
    for i in range(14):
        for j in range(14):
            assert abs(int(small[i, j]) - full[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean()) <= 0.5
    assert tasks["mnist", 14].x_test.shape == (10000, 196, 1)


@pytest.mark.parametrize("size", [28, 14])
def test_pmnist_is_mnist_in_one_published_order(tasks, size):
    plain, permuted = tasks["mnist", size], tasks["pmnist", size]
    order = np.random.RandomState(92916).permutation(size * size)
    assert (permuted.x_test[:, :, 0] == plain.x_test[:, order, 0]).all()
    assert (permuted.x_train[:100] == plain.x_train[:100][:, order]).all()
    assert (permuted.y_train == plain.y_train).all()
    assert (permuted.order == order).all(), "which pixel each step is"
    assert permuted.permutation == f"numpy.random.RandomState(92916).permutation({size * size})"


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match="28 or 14"):
        datasets.load("mnist", size=15)


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("form", ["{}-idx{}-ubyte", "{}.idx{}-ubyte"])
def test_files_may_be_unzipped_and_elsewhere_and_as_unpackers_name_them(form, end, tmp_path, tasks):
    for name in mnist.SHA256:
        data = (mnist.HERE / f"{name}.gz").read_bytes()
        path = tmp_path / (form.format(*re.fullmatch("(.*)-idx(.)-ubyte", name).groups()) + end)
        path.write_bytes(data if end else gzip.decompress(data))
    elsewhere = datasets.load("mnist", data_dir=tmp_path)
    assert (elsewhere.x_test == tasks["mnist", 28].x_test).all()
    assert datasets.describe("mnist", tmp_path).startswith("4 files, ")


def test_a_folder_of_a_files_name_is_no_file(tmp_path):
    """One packed set unpacks to folders of these names, and has the files beside them."""
    name = "t10k-labels-idx1-ubyte"
    (tmp_path / name).mkdir()
    (tmp_path / "t10k-labels.idx1-ubyte.gz").write_bytes((mnist.HERE / f"{name}.gz").read_bytes())
    assert len(mnist.read_idx(tmp_path, name)) == 10000


@pytest.mark.parametrize("name", ["{}", "{}.gz"])
def test_a_folder_in_place_of_a_file_is_told(name, tmp_path):
    """Some unpackers make one of each file's name, and put the file into it."""
    for one in mnist.SHA256:
        (tmp_path / name.format(one)).mkdir()
    path = tmp_path / name.format("train-images-idx3-ubyte")
    with pytest.raises(DataError) as error:
        datasets.load("mnist", data_dir=tmp_path)
    says = f"{path} is a folder, not the file"
    assert str(error.value) == f"{says}: put MNIST's train-images-idx3-ubyte in its place"
    assert datasets.survey("mnist", tmp_path) == ([], says)


def test_a_file_that_may_not_be_read_is_told_as_that(tmp_path, monkeypatch):
    """Restoring it would not help."""

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(pathlib.Path, "read_bytes", refused)
    with pytest.raises(PermissionError):
        mnist.read_idx(tmp_path, "t10k-labels-idx1-ubyte")


@pytest.mark.parametrize("harm", ["missing", "truncated", "flipped byte", "other file", "not gzip"])
def test_a_file_that_is_not_the_original_is_named(tmp_path, harm):
    name = "t10k-labels-idx1-ubyte"
    data = bytearray((mnist.HERE / f"{name}.gz").read_bytes())
    if harm == "truncated":
        data = data[:-100]
    elif harm == "flipped byte":
        raw = bytearray(gzip.decompress(data))
        raw[5000] ^= 1
        data = gzip.compress(raw)
    elif harm == "other file":
        data = (mnist.HERE / "train-labels-idx1-ubyte.gz").read_bytes()
    elif harm == "not gzip":
        data = b"hello"
    if harm != "missing":
        (tmp_path / f"{name}.gz").write_bytes(data)
    with pytest.raises(DataError, match=rf"{name}.*(is missing|cannot be read|SHA-256.*npz)") as error:
        mnist.read_idx(tmp_path, name)
    assert "\n" not in str(error.value)
