"""CIFAR-10 from files of four pictures a batch."""

import io
import re
import tarfile

import numpy as np
import pooch
import pytest

import datasets
from datasets import DataError, cifar10
from tests.conftest import arrays, tiny

N = 4
RECORDS = np.random.default_rng(0).integers(0, 256, (6, N, 3073), np.uint8)
RECORDS[:, :, 0] = np.arange(6 * N).reshape(6, N) * 7 % 10


@pytest.fixture
def unpacked(tmp_path, monkeypatch):
    """A folder with cifar-10-batches-bin/."""
    monkeypatch.setattr(cifar10, "RECORDS", N)
    (tmp_path / "cifar-10-batches-bin").mkdir()
    for name, records in zip(cifar10.NAMES, RECORDS):
        (tmp_path / name).write_bytes(records.tobytes())
    return tmp_path


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """A folder with cifar-10-binary.tar.gz, its batches in another order, and its checksum the expected one."""
    monkeypatch.setattr(cifar10, "RECORDS", N)
    path = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for i in 3, 0, 5, 2, 4, 1:
            member = tarfile.TarInfo(cifar10.NAMES[i])
            member.size = N * 3073
            tar.addfile(member, io.BytesIO(RECORDS[i].tobytes()))
    expected = cifar10.FILES[0]._replace(sha256=pooch.file_hash(str(path)))
    monkeypatch.setattr(cifar10, "FILES", (expected,))
    return tmp_path


def assert_all_there(task):
    assert task.x_train.shape == (5 * N, 1024, 3) and task.x_test.shape == (N, 1024, 3)
    assert task.x_train.dtype == task.x_test.dtype == np.uint8
    assert task.y_train.dtype == task.y_test.dtype == np.int64
    assert task.y_train.tolist() == RECORDS[:5, :, 0].ravel().tolist()
    assert task.y_test.tolist() == RECORDS[5, :, 0].tolist()
    for row, column, colour in (0, 0, 0), (0, 1, 2), (7, 3, 1), (31, 31, 2):
        steps = task.x_train[:, 32 * row + column, colour]
        assert steps.tolist() == RECORDS[:5, :, 1 + 1024 * colour + 32 * row + column].ravel().tolist()
    assert (task.x_test.transpose(0, 2, 1).reshape(N, 3072) == RECORDS[5, :, 1:]).all()
    assert task.classes == 10 and task.permutation is None and task.tokens is None
    assert (task.order == np.arange(1024)).all()


def test_files_are_of_the_canonical_size():
    assert cifar10.RECORDS * cifar10.RECORD == 30_730_000
    assert [name.rpartition("/")[2] for name in cifar10.NAMES] == [
        *(f"data_batch_{i}.bin" for i in (1, 2, 3, 4, 5)),
        "test_batch.bin",
    ]


def test_unpacked_files(unpacked):
    assert_all_there(datasets.load("cifar10", data_dir=unpacked))
    assert_all_there(datasets.load("cifar10", data_dir=unpacked / "cifar-10-batches-bin"))


def test_the_archive(packed):
    assert_all_there(datasets.load("cifar10", data_dir=packed))
    assert [path.name for path in packed.iterdir()] == ["cifar-10-binary.tar.gz"]


def test_an_archive_with_another_checksum_is_refused(packed):
    path = packed / "cifar-10-binary.tar.gz"
    with open(path, "ab") as file:
        file.write(b"\0")
    with pytest.raises(DataError, match=f"{re.escape(str(path))} is not the original .*SHA-256"):
        datasets.load("cifar10", data_dir=packed)


@pytest.mark.parametrize("size", [N * 3073 - 1, N * 3073 + 1, 0])
def test_a_wrong_size_is_named(size, unpacked):
    path = unpacked / "cifar-10-batches-bin" / "data_batch_3.bin"
    path.write_bytes(bytes(size))
    with pytest.raises(DataError, match=f"{re.escape(str(path))} has {size:,} bytes, not 12,292"):
        datasets.load("cifar10", data_dir=unpacked)


def test_a_label_out_of_range_is_named(unpacked):
    path = unpacked / "cifar-10-batches-bin" / "test_batch.bin"
    records = RECORDS[5].copy()
    records[2, 0] = 10
    path.write_bytes(records.tobytes())
    with pytest.raises(DataError, match=rf"{re.escape(str(path))}: record 2 \(at byte 6,146\) has label 10, not 0"):
        datasets.load("cifar10", data_dir=unpacked)


def test_a_missing_batch_is_named(unpacked):
    inside = unpacked / "cifar-10-batches-bin"
    (inside / "data_batch_5.bin").unlink()
    for folder in unpacked, inside:
        with pytest.raises(DataError) as error:
            datasets.load("cifar10", data_dir=folder)
        assert str(error.value) == (
            f"{inside}/data_batch_5.bin is missing: restore it, or get cifar-10-binary.tar.gz with: "
            f"python cli.py data fetch cifar10 --data-dir {folder}"
        )


def test_unpacked_files_are_not_fetched(unpacked, invoke, monkeypatch):
    monkeypatch.setattr(pooch, "retrieve", lambda *_, **__: pytest.fail("fetched"))
    inside = unpacked / "cifar-10-batches-bin"
    for folder in unpacked, inside:
        ended = invoke("data", "fetch", "cifar10", "--data-dir", folder)
        assert ended.stdout == f"{folder} has cifar-10-batches-bin/ already, unpacked\n" and ended.status == 0


def test_the_list_judges_names_and_sizes(unpacked, invoke):
    def line():
        lines = invoke("data", "list", "--data-dir", unpacked).stdout.splitlines()
        return next(line for line in lines if line.startswith("cifar10"))

    command = f"; 170.1 MB by: python cli.py data fetch cifar10 --data-dir {unpacked}"
    assert line() == f"cifar10  6 files, 0.1 MB, in {unpacked}"
    path = unpacked / "cifar-10-batches-bin" / "data_batch_3.bin"
    path.write_bytes(b"half")
    assert line() == f"cifar10  incomplete: {path} has 4 bytes, not 12,292{command}"
    path.unlink()
    assert line() == f"cifar10  incomplete: {path} is missing{command}"
    (unpacked / "cifar-10-binary.tar.gz").write_bytes(b"half")
    assert "incomplete: " in line() and "cifar-10-binary.tar.gz has 4 bytes, not 170,052,171" in line()


def test_check_counts(unpacked):
    found = datasets.check("cifar10", unpacked)
    assert found == f"cifar10: {5 * N} training and {N} test sequences, 10 classes, 1,024 steps of 3 bytes each"


@pytest.mark.parametrize("aux", ["none", "r", "p", "rp"])
def test_each_auxiliary_loss_trains(unpacked, invoke, aux):
    ended = invoke(*tiny("cifar10", unpacked, aux, unpacked / "run"), "--valid", 4)
    assert ended.status == 0 and "on 4 sequences" in ended.stdout
    assert arrays(unpacked / "run")["params/main.We"].shape == (3, 3)  # three channels
