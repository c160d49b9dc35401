"""`table`, from what runs leave behind."""

from tests.conftest import write_run


def test_the_table_has_each_run_in_its_place(invoke, tmp_path):
    runs = [
        write_run(tmp_path / "a", test_accuracy=0.9),
        write_run(tmp_path / "b", test_accuracy=0.8, seed=1, complete=False),
        write_run(tmp_path / "c", test_accuracy=0.956, task="cifar10", aux="r", bptt="full"),
        write_run(tmp_path / "few", test_accuracy=0.9, test_examples=100),
        write_run(tmp_path / "text", test_accuracy=0.7, task="dbpedia"),
        write_run(tmp_path / "small", test_accuracy=0.9, options={"size": 14, "bptt": 300}),
        write_run(tmp_path / "part", test_accuracy=0.9, options={"limit_train": 500}),
        write_run(tmp_path / "narrow", test_accuracy=0.9, options={"hidden": 8}),
        write_run(tmp_path / "other", test_accuracy=0.9, aux="r", options={"aux_bptt": 5}),
        tmp_path / "unfinished",
    ]
    lines = invoke("table", *runs).stdout.splitlines()
    assert "| LSTM, truncated 300 | 11.3 |  | 88.8 | 85.0* (n = 2) | 49.0 |  |" in lines
    assert "| r-LSTM, full BPTT | 98.4 |  | 95.2 |  | 72.2 | 95.6 (n = 1) |" in lines
    assert "- LSTM, truncated 300, pMNIST: a, b" in lines
    [left] = [line.split(": ")[1] for line in lines if "in no row" in line]
    assert left == "few, text, small, part, narrow, other"
    assert "- not tested yet, or no run: unfinished" in lines
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_the_table_averages_no_unlike_runs(invoke, tmp_path):
    runs = [
        write_run(tmp_path / "a", test_accuracy=0.5, options={"lr": 0.01}),
        write_run(tmp_path / "b", test_accuracy=0.9, options={"lr": 0.01, "forget_bias": "chrono"}),
        write_run(
            tmp_path / "c",  # a plain LSTM has no segments
            test_accuracy=0.8,
            seed=1,
            options={"lr": 0.01, "forget_bias": "chrono", "aux_length": 50},
        ),
    ]
    lines = invoke("table", *runs).stdout.splitlines()
    assert "| LSTM, truncated 300 | 11.3 |  | 88.8 |  | 49.0 |  |" in lines
    assert "| LSTM, truncated 300: forget bias loguniform |  |  |  | 50.0 (n = 1) |  |  |" in lines
    assert "| LSTM, truncated 300: forget bias chrono |  |  |  | 85.0 (n = 2) |  |  |" in lines
    assert "- LSTM, truncated 300: forget bias chrono, pMNIST: b, c" in lines


def test_a_run_without_a_result_is_no_row(invoke, tmp_path):
    run = write_run(tmp_path / "a", test_accuracy=0.9)
    for text in '{"seed": 0}', "[]", "{":
        (run / "result.json").write_text(text)
        assert "is damaged" in invoke("table", run).stderr
    (run / "result.json").unlink()
    ended = invoke("table", run)
    assert ended.status == 1 and "none of these has been tested" in ended.stderr and ended.stderr.count("\n") == 1
