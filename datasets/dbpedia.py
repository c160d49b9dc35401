"""DBpedia ontology classification: an article's title and text, one byte a step, 14 classes.

Xiang Zhang, Junbo Zhao, Yann LeCun: Character-level Convolutional Networks for Text Classification, 2015. Tokens
are UTF-8's bytes: 256 of them write any script, and there is no vocabulary to choose, store or match.
"""

import contextlib
import csv
import io
import itertools
import pathlib

import numpy as np

from . import files
from .task import DataError, Task, counted, mixed

HERE = pathlib.Path(__file__).parent / "data" / "dbpedia"
FILES = (
    files.File(
        "dbpedia_csv.tgz",
        68_341_743,
        "42db5221ddedddb673a4cabcc5f3a7d869714c878bcfe4ba94b29d14aa38e417",
        ("https://s3.amazonaws.com/fast-ai-nlp/dbpedia_csv.tgz",),
        "train.csv and test.csv",
        lambda folder: dict.fromkeys(NAMES),
    ),
)
NAMES = ["dbpedia_csv/train.csv", "dbpedia_csv/test.csv"]
CLASSES = 14
CLASS_NAMES = {str(i) for i in range(1, CLASSES + 1)}
BEGINNINGS = {  # of files that are no CSV: what they are and what to do
    b"\x1f\x8b": "packed by gzip: unpack it",
    b"PK\3\4": "a zip archive or a spreadsheet: unpack it, or save it as CSV",
    b"\xd0\xcf\x11\xe0": "a spreadsheet: save it as CSV",
}
SEPARATORS = {";": "semicolons", "\t": "tabs"}


def load(folder, max_length=512):
    """The Task of sequences of at most `max_length` bytes, from dbpedia_csv.tgz or train.csv and test.csv.

    What is longer loses its end: the first sentences say what the article is about, and few reach beyond 512
    bytes. The rows are mixed. Raises ValueError for a max_length below 3, DataError for a row that is wrong,
    Incomplete for a file that is missing.
    """
    if max_length < 3:
        raise ValueError(f"--max-length: {max_length} is too short, it must be at least 3")
    parts = {name: rows(data, place, max_length) for name, place, data in files.read(folder, FILES[0])}
    (x_train, y_train), (x_test, y_test) = (parts[name] for name in NAMES)
    return Task(x_train, y_train, x_test, y_test, classes=CLASSES, tokens=256)


def rows(data, place, max_length):
    """The texts, a list of uint8 arrays, and their classes from 0, in a CSV file of class, title and text; mixed.

    Raises DataError that names `place` and the line.
    """
    for beginning, what in BEGINNINGS.items():
        if data.startswith(beginning):
            raise DataError(f"{place} is {what}")
    if b"\0" in data[:4]:  # `"1"` as UTF-16 or UTF-32 writes it
        raise DataError(f"{place} is in UTF-16 or UTF-32: save it as UTF-8")
    csv.field_size_limit(2**31 - 1)  # Python's own is 131,072; of a longer field the beginning is read, too
    reader = csv.reader(lines(data), strict=True)
    texts, labels, line = [], [], 1
    remedy = "mend or delete that line, or restore the file"
    try:
        for row in reader:
            if len(row) != 3:
                raise ValueError(f"{counted(len(row), 'field')}, not 3 (class, title, text)")
            if row[0].strip() not in CLASS_NAMES:
                header = " (a header? there must be none)" if not texts and row[0].strip().isalpha() else ""
                raise ValueError(f"class {row[0]!r:.20}, not 1 to {CLASSES}{header}")
            text = " ".join(filter(None, (field.strip() for field in row[1:]))).encode()
            if len(text) < 3:
                raise ValueError("title and text have fewer than 3 bytes")
            texts.append(np.frombuffer(text[:max_length], np.uint8))
            labels.append(int(row[0]) - 1)
            line = reader.line_num + 1
    except UnicodeEncodeError:
        raise DataError(f"{place}, line {line}: not UTF-8: save the file as UTF-8, or {remedy}") from None
    except (ValueError, csv.Error) as error:
        other = None if texts else separator(data)
        if other:
            raise DataError(f"{place} has {other} between its fields: save it with commas") from None
        cut = "a quote is not closed, the file is probably cut off"
        text = cut if str(error) == "unexpected end of data" else error
        raise DataError(f"{place}, line {line}: {text}: {remedy}") from None
    if not texts:
        raise DataError(f"{place} is empty: restore it")
    order = mixed(len(texts))
    return [texts[i] for i in order], np.array(labels, np.int64)[order]


def lines(data):
    """The text of a file. Surrogates carry bytes that are not UTF-8 to the row they are in, where encoding finds
    them."""
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", errors="surrogateescape", newline="")


def separator(data):
    """What the first rows have between their three fields if it is another sign than a comma, in words, or None."""
    for sign, name in SEPARATORS.items():
        with contextlib.suppress(csv.Error):
            first = [*itertools.islice(csv.reader(lines(data), delimiter=sign, strict=True), 10)]
            if first and all(len(row) == 3 for row in first):
                return name
    return None
