"""DBpedia from small files in the canonical form."""

import gzip
import io
import json
import re
import tarfile
import zipfile

import numpy as np
import pooch
import pytest

import datasets
from datasets import DataError, dbpedia
from datasets.task import mixed
from tests.conftest import arrays, assert_same_arrays, tiny
from tests.conftest import rows as conftest_rows

TRAIN = """"1","A ""B"" Ltd"," A firm, in Oslo. "
"14","","no title"
2,"Žluťoučký kůň","two
lines"
"""
TEST = '"3","only title",""\r\n"7","漢","字"\r\n'
TEXTS = ['A "B" Ltd A firm, in Oslo.', "no title", "Žluťoučký kůň two\nlines"]


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, TRAIN, TEST)
    return tmp_path


def write(folder, train, test=TEST):
    for name, text in ("train.csv", train), ("test.csv", test):
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def load(folder, max_length=None):
    return datasets.load("dbpedia", data_dir=folder, max_length=max_length)


def written(rows):
    """In the order of the file."""
    return [rows[i] for i in np.argsort(mixed(len(rows)))]


def texts(arrays):
    return [array.tobytes().decode() for array in written(arrays)]


def assert_all_there(task):
    assert texts(task.x_train) == TEXTS and texts(task.x_test) == ["only title", "漢 字"]
    assert all(array.dtype == np.uint8 and array.ndim == 1 for array in (*task.x_train, *task.x_test))
    assert written(task.y_train) == [0, 13, 1] and written(task.y_test) == [2, 6]
    assert task.y_train.dtype == np.int64
    assert (task.classes, task.tokens, task.permutation) == (14, 256, None)


def test_csv_files(folder):
    assert_all_there(load(folder))


def test_a_byte_order_mark_does_no_harm(folder):
    write(folder, b"\xef\xbb\xbf" + TRAIN.encode())
    assert_all_there(load(folder))


def test_the_archive(tmp_path, monkeypatch):
    path = tmp_path / "dbpedia_csv.tgz"
    with tarfile.open(path, "w:gz") as tar:
        for name, text in ("test.csv", TEST), ("classes.txt", "Company\n"), ("train.csv", TRAIN):
            member = tarfile.TarInfo(f"dbpedia_csv/{name}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    with pytest.raises(DataError, match="dbpedia_csv.tgz is not the original"):
        load(tmp_path)
    expected = dbpedia.FILES[0]._replace(sha256=pooch.file_hash(str(path)))
    monkeypatch.setattr(dbpedia, "FILES", (expected,))
    assert_all_there(load(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["dbpedia_csv.tgz"]


def test_the_unpacked_archive(tmp_path):
    (tmp_path / "dbpedia_csv").mkdir()
    write(tmp_path / "dbpedia_csv", TRAIN)
    assert_all_there(load(tmp_path))


def test_long_texts_keep_their_first_bytes(folder):
    assert texts(load(folder, 7).x_train)[:2] == ['A "B" L', "no titl"]
    assert [len(text) for text in load(folder, 7).x_test] == [7, 7]  # cut within a character
    write(folder, f'1,"","{"0123456789" * 60}"\n')
    assert texts(load(folder).x_train) == [("0123456789" * 60)[:512]]
    assert texts(load(folder, 600).x_train) == ["0123456789" * 60]


def test_a_max_length_that_leaves_no_sequence_is_refused(folder):
    assert all(len(text) == 3 for text in load(folder, 3).x_train)
    with pytest.raises(ValueError, match="--max-length: 2 is too short"):
        load(folder, 2)


@pytest.mark.parametrize(
    "row, says",
    [
        ("1", "1 field, not 3"),
        ("1,title", "2 fields, not 3"),
        ("1,title,a text, with a comma", "4 fields, not 3"),
        ("", "0 fields, not 3"),
        ("0,title,text", "class '0', not 1 to 14"),
        ("15,title,text", "class '15', not 1 to 14"),
        ("one,title,text", "class 'one', not 1 to 14"),
        ("1.0,title,text", "class '1.0', not 1 to 14"),
        ("-1,title,text", "class '-1', not 1 to 14"),
        ('1,""," ab "', "fewer than 3 bytes"),
        ('1,"title"x,text', "expected after"),
        ('1,title,"no end', "a quote is not closed, the file is probably cut off"),
        (b"1,title,caf\xe9 au lait", "not UTF-8: save the file as UTF-8, or "),
        (b"1,title,caf\xc3", "not UTF-8"),
    ],
)
@pytest.mark.parametrize("ending", [b"\n", b""], ids=["with more rows", "at the end"])
def test_a_wrong_row_is_named_with_its_line(row, says, ending, folder):
    row = row if isinstance(row, bytes) else row.encode()
    if not row and not ending:
        row = b"\n"
    more = ending + TRAIN.encode() if ending and b"no end" not in row else b""
    write(folder, TRAIN.encode() + row + more)
    with pytest.raises(DataError) as error:
        load(folder)
    start, end = re.escape(f"{folder / 'train.csv'}, line 5: "), "mend or delete that line, or restore the file"
    assert re.fullmatch(f"{start}.*{re.escape(says)}.*{end}", str(error.value))


def test_a_text_may_be_of_any_length(folder):
    """Python's reader refuses fields beyond 131,072 characters."""
    write(folder, f'1,"","{"0123456789" * 20_000}"\n{TRAIN}')
    assert texts(load(folder).x_train) == [("0123456789" * 60)[:512], *TEXTS]
    assert len(written(load(folder, 10**6).x_train)[0]) == 200_000
    cut = f'1,"","{"0123456789" * 20_000}\n{TRAIN}'
    write(folder, cut[: cut.rindex('"')])
    with pytest.raises(DataError, match="train.csv, line 1: "):
        load(folder)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_another_encoding_is_named(encoding, folder):
    for name, text in ("train.csv", TRAIN), ("test.csv", TEST):
        write(folder, TRAIN)
        (folder / name).write_bytes(text.encode(encoding))
        with pytest.raises(DataError) as error:
            load(folder)
        assert str(error.value) == f"{folder / name} is in UTF-16 or UTF-32: save it as UTF-8"


SPREADSHEET = io.BytesIO()
with zipfile.ZipFile(SPREADSHEET, "w") as file:
    file.writestr("[Content_Types].xml", "<Types/>")


@pytest.mark.parametrize(
    "data, says",
    [
        (gzip.compress(TRAIN.encode()), "is packed by gzip: unpack it"),
        (SPREADSHEET.getvalue(), "is a zip archive or a spreadsheet: unpack it, or save it as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "is a spreadsheet: save it as CSV"),
        ('"1";"A, B";"text"\n"2";"C";"a; b"\n', "has semicolons between its fields: save it with commas"),
        ("1;A, b, c;text\n" * 20, "has semicolons between its fields: save it with commas"),
        ("label;title;text\n1;A;text\n", "has semicolons between its fields: save it with commas"),
        ("1\tA, b\ta text\n" * 20, "has tabs between its fields: save it with commas"),
        ('\ufeff"1"\t"A"\t"a ""text"""\r\n', "has tabs between its fields: save it with commas"),
    ],
)
def test_a_file_of_another_kind_is_told_as_a_whole(data, says, folder):
    write(folder, data)
    with pytest.raises(DataError) as error:
        load(folder)
    assert str(error.value) == f"{folder / 'train.csv'} {says}"


def test_semicolons_in_one_row_are_its_own_fault(folder):
    for text in "1;a title;a text\n" + TRAIN, TRAIN + "1;a title;a text\n":
        write(folder, text)
        with pytest.raises(DataError, match="train.csv, line [15]: 1 field, not 3"):
            load(folder)


def test_a_header_is_told(folder):
    write(folder, '"label","title","text"\n' + TRAIN)
    with pytest.raises(
        DataError, match=r"line 1: class 'label', not 1 to 14 \(a header\? there must be none\): mend"
    ):
        load(folder)


def test_the_first_rows_are_of_many_classes(folder):
    """The files may be sorted by class."""
    rows = [f'{c},"","class {c}"\n' for c in range(1, 15) for _ in range(30)]
    write(folder, "".join(rows), "".join(rows))
    task = load(folder)
    for x, y in (task.x_train, task.y_train), (task.x_test, task.y_test):
        assert set(y[:100]) == set(range(14))
        assert [text.tobytes().decode() for text in x] == [f"class {label + 1}" for label in y]
    assert (task.y_train == load(folder).y_train).all()


def test_an_empty_file_is_named(folder):
    write(folder, TRAIN, "")
    with pytest.raises(DataError, match="test.csv is empty"):
        load(folder)


def test_a_missing_file_is_named(folder):
    command = f"with: python cli.py data fetch dbpedia --data-dir {folder}"
    (folder / "test.csv").unlink()
    with pytest.raises(DataError) as error:
        load(folder)
    assert str(error.value) == f"{folder}/test.csv is missing: restore it, or get dbpedia_csv.tgz {command}"
    (folder / "train.csv").unlink()
    with pytest.raises(DataError) as error:
        load(folder)
    assert str(error.value) == f"{folder} has neither dbpedia_csv.tgz nor train.csv and test.csv: get it {command}"


def test_unpacked_files_are_not_fetched(folder, invoke, monkeypatch):
    monkeypatch.setattr(pooch, "retrieve", lambda *_, **__: pytest.fail("fetched"))
    ended = invoke("data", "fetch", "dbpedia", "--data-dir", folder)
    assert ended.stdout == f"{folder} has train.csv and test.csv already, unpacked\n" and ended.status == 0


def test_check_counts(folder):
    assert datasets.check("dbpedia", folder) == (
        "dbpedia: 3 training and 2 test sequences (a part: the whole has 560,000 and 70,000), 5 of 14 classes, "
        f"7 to {len(TEXTS[2].encode())} tokens each, of 256 kinds"
    )


@pytest.mark.parametrize("aux", ["none", "r", "p", "rp"])
def test_each_auxiliary_loss_trains_and_resumes(folder, invoke, aux):
    rows = [f'"{1 + i % 14}","title {i}","{"text " * (i % 9)}"\n' for i in range(40)]
    write(folder, "".join(rows), "".join(rows[:9]))
    whole, parts = tiny("dbpedia", folder, aux, folder / "whole"), tiny("dbpedia", folder, aux, folder / "parts")
    ended = invoke(*whole, "--max-length", 30)
    assert ended.status == 0 and "on 9 sequences" in ended.stdout
    assert arrays(folder / "whole")["params/main.We"].shape == (3, 256)
    assert invoke(*parts, "--max-length", 30, "--budget", 0).status == 0
    assert invoke("train", "--resume", "--quiet", "--out", folder / "parts").status == 0
    assert_same_arrays(folder / "parts", folder / "whole")


def test_a_run_is_used_where_its_files_have_moved(folder, invoke):
    files, moved, run = folder / "files", folder / "moved", folder / "run"
    files.mkdir()
    rows = [f'"{1 + i % 14}","title {i}","{"text " * (i % 9)}"\n' for i in range(40)]
    write(files, "".join(rows), "".join(rows[:9]))
    assert invoke(*tiny("dbpedia", files, "r", run)).status == 0
    files.rename(moved)
    for command, out in ("evaluate", []), ("predict", ["--out", folder / "a.csv"]), ("reconstruct", []):
        ended = invoke(command, run, *out)
        assert ended.status == 1 and "--data-dir" in ended.stderr
        assert invoke(command, run, *out, "--data-dir", moved).status == 0
    lines = (folder / "a.csv").read_text().splitlines()
    assert len(lines) == 1 + 9 and lines[0].startswith("class,label,p0,")


def test_the_longest_text_is_the_users_choice(folder, invoke):
    assert invoke(*tiny("dbpedia", folder, "none", folder / "run"), "--valid", 0).status == 0
    assert json.loads((folder / "run" / "config.json").read_text())["max_length"] == 512
    ended = invoke(*tiny("dbpedia", folder, "none", folder / "again"), "--max-length", 2)
    assert ended.status == 1 and ended.stderr.startswith("Error: --max-length: 2 is out of range")


def test_the_auxiliary_report_of_text_has_a_constant(folder, invoke):
    rows = [f'"{1 + i % 14}","{"text " * 60}",""\n' for i in range(20)]
    write(folder, "".join(rows), "".join(rows[:9]))
    assert invoke(*tiny("dbpedia", folder, "p", folder / "run")).status == 0
    [row] = [row for row in conftest_rows(folder / "run") if row.get("split") == "test"]
    frequencies = np.array([1, 2, 1, 1]) / 5  # of e, t, x and the blank in "text text ..."
    assert row["p_constant"] == pytest.approx(-(frequencies * np.log(frequencies)).sum(), rel=0.15)
    assert "p_copy" not in row and "p_position_mean" not in row
