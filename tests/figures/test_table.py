"""`table`, from what runs leave behind."""

import json

from tests.conftest import read_json, write_run


def rows(text):
    """[{head: cell}] of the table's rows."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert len({line.count("|") for line in lines}) == 1
    return [dict(zip(cells[0], row)) for row in cells[2:]]


def test_every_run_has_a_row(invoke, tmp_path):
    runs = [
        write_run(tmp_path / "a", test_accuracy=0.9),
        write_run(tmp_path / "c", test_accuracy=0.956, aux="r", bptt="full"),
        write_run(tmp_path / "small", test_accuracy=0.8, options={"size": 14, "bptt": 300}),
        write_run(tmp_path / "part", test_accuracy=0.7, options={"limit_train": 500, "valid": 50}),
        write_run(
            tmp_path / "small file",
            test_accuracy=0.7,
            options={"limit_train": 900, "valid": 20, "data": {"train": 200}},
        ),
        write_run(tmp_path / "labels", test_accuracy=0.3, options={"limit_labels": 1000}),
        write_run(tmp_path / "few", test_accuracy=0.6, test_examples=100, complete=False),
        write_run(tmp_path / "text", test_accuracy=0.5, options={"task": "dbpedia"}),
        write_run(tmp_path / "other", test_accuracy=0.4, aux="r", options={"bptt": 3, "aux_bptt": 50}),
        write_run(tmp_path / "begun", options={"seed": 1}),
    ]
    (runs[-1] / "result.json").unlink()
    text = invoke("table", *runs).stdout
    found = {row["run"]: row for row in rows(text)}
    assert found.keys() == {run.name for run in runs}
    assert {name: row["accuracy, %"] for name, row in found.items()} == {
        **{
            "a": "90.0",
            "c": "95.6",
            "small": "80.0",
            "part": "70.0",
            "small file": "70.0",
            "labels": "30.0",
            "few": "60.0 *",
            "text": "50.0",
        },
        **{"other": "40.0", "begun": "not tested yet"},
    }
    # The paper's figure stands beside runs of the whole task at its sizes, tested on all of it.
    reported = {name: row["paper"] for name, row in found.items() if row["paper"] != "–"}
    assert reported == {"a": "88.8", "c": "95.2", "begun": "88.8"}
    assert found["small"]["task"] == "pMNIST 14×14" and found["part"]["task"] == "pMNIST, 450 sequences"
    assert found["small file"]["task"] == "pMNIST, 180 sequences"
    assert found["labels"]["task"] == "pMNIST, 1,000 labels"
    assert (found["c"]["model"], found["c"]["truncation"]) == ("r-LSTM", "full")
    assert found["other"]["truncation"] == "3 (r: 50)" and found["text"]["task"] == "DBpedia, 512 bytes"
    assert "Where * stands, not all runs have come to their end." in text


def test_only_runs_that_differ_in_their_seeds_alone_share_a_row(invoke, tmp_path):
    chrono = {"lr": 0.01, "forget_bias": "chrono"}
    runs = [
        write_run(tmp_path / "a", test_accuracy=0.5, options={"lr": 0.01}),
        write_run(tmp_path / "b", test_accuracy=0.9, options=chrono),
        # a plain LSTM has no segments
        write_run(tmp_path / "c", test_accuracy=0.8, options={**chrono, "aux_length": 50, "seed": 1}),
    ]
    text = invoke("table", *runs).stdout
    one, two = rows(text)
    assert list(one.values())[0:5:4] == ["a", "forget bias loguniform"] and one["accuracy, %"] == "50.0"
    assert (two["run"], two["accuracy, %"], two["seeds"]) == ("b, c", "85.0 (80.0 to 90.0)", "0, 1")
    assert two["other settings"] == "–" and "Where no other setting stands: forget bias chrono." in text


def test_other_data_of_the_same_name_are_another_task(invoke, tmp_path):
    given = {"task": "npz", "data_dir": "here/x.npz", "bptt": 300}
    data = [{**given, "seed": n, "data": {"train": n}} for n in range(2)]
    runs = [write_run(tmp_path / f"{n}", test_accuracy=0.5, options=data[n]) for n in range(2)]
    found = [(row["run"], row["task"]) for row in rows(invoke("table", *runs).stdout)]
    assert found == [("0", "npz x.npz"), ("1", "npz x.npz")]


def test_a_row_of_many_runs_does_not_name_them_all(invoke, tmp_path):
    runs = [write_run(tmp_path / f"run{n}", test_accuracy=0.5, options={"seed": n}) for n in range(5)]
    [row] = rows(invoke("table", *runs).stdout)
    assert row["run"] == "run0, and 4 more" and row["seeds"] == "0, 1, 2, 3, 4"


def test_names_cannot_break_the_table(invoke, tmp_path):
    text = invoke("table", *[write_run(tmp_path / name, test_accuracy=0.5) for name in ("a|b", "x\ny")]).stdout
    assert len({len(line) for line in text.splitlines()}) == 1  # a table for people, too
    assert [row["run"] for row in rows(text.replace("\\|", "/"))] == ["a/b", "x\\ny"]  # twice the same seed


def test_what_is_no_run_is_left_out(invoke, tmp_path):
    run, damaged = (write_run(tmp_path / name, test_accuracy=0.9) for name in "ab")
    words = {"test_accuracy": "0.9", "test_examples": "9", "seed": "0", "elapsed_s": "1"}
    whole, infinite = read_json(run / "result.json"), {"test_accuracy": float("inf")}
    for text in (
        '{"seed": 0}',
        "[]",
        "{",
        "[" * 100_000,
        *(json.dumps({**whole, **bad}) for bad in (words, infinite)),
    ):
        (damaged / "result.json").write_text(text)
        assert "is damaged" in invoke("table", damaged).stderr and invoke("table", damaged).status == 1
        ended = invoke("table", run, damaged, tmp_path, run / "config.json")
        assert [row["run"] for row in rows(ended.stdout)] == ["a"] and ended.status == 0
        assert ended.stderr.count("left out: ") == ended.stderr.count("\n") == 3
    (run / "config.json").write_text(json.dumps({"task": 3}))
    ended = invoke("table", run)
    assert ended.status == 1 and "is damaged" in ended.stderr and ended.stderr.count("\n") == 1
