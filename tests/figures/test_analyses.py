"""`analyse`: small grids that go on where they stopped, and end with a table and a picture."""

import json
import subprocess
import sys

import pytest
from PIL import Image

import cli
from minaux.bench import cpu as bench
from minaux.bench.cpu import Case
from minaux.figures import analyses
from minaux.training.checkpoint import RunDirectory
from tests.conftest import ROOT, SMALL


@pytest.fixture(autouse=True)
def small_grids(monkeypatch):
    grid = [
        {"aux": aux, "bptt": K, "aux_bptt": 28} for aux in ("none", "r", "p") for K in (0, 20)
    ]  # 0, 5 at size 14
    monkeypatch.setitem(analyses.GRIDS, "truncation", grid)


def options(*dropped):
    """Options of `train` that every run of a grid can have."""
    words = " ".join(map(str, SMALL)).replace("--aux r ", "").replace("--pretrain-epochs 1", "")
    for flag in dropped:
        words = words.replace(flag, "")
    return [*words.split(), "--quiet"]


def test_a_grid_ends_with_a_table_and_a_picture_and_goes_on_where_it_stopped(invoke, tmp_path):
    out = tmp_path / "grid"
    command = ["analyse", "truncation", "--out", out, *options("--bptt 10"), "--pretrain-epochs", 1]
    ended = invoke(*command)
    assert ended.status == 0, ended.stderr
    table = (out / "table.md").read_text().splitlines()
    assert [line.split(" | ")[:2] for line in table[2:8]] == [
        [f"| {aux}", K] for aux in ("none", "r", "p") for K in ("0", "5")
    ]
    result = json.loads((out / "aux-r-bptt-5-aux_bptt-7" / "result.json").read_text())
    assert result["bptt"] == 5 and f"{100 * result['test_accuracy']:.1f}" in table[5]
    with Image.open(out / "picture.png") as picture:
        assert picture.width > 800
    times = {path: path.stat().st_mtime_ns for path in out.glob("*/checkpoint.npz")}
    (out / "aux-p-bptt-0-aux_bptt-7" / "result.json").unlink()
    again = invoke(*command)
    assert again.status == 0 and again.stdout.count("run 5 of 6") == 1 and "aux-p-bptt-0" in again.stdout
    assert (out / "table.md").read_text().splitlines() == table
    assert [path.parent.name for path, t in times.items() if path.stat().st_mtime_ns != t] in (
        [],
        ["aux-p-bptt-0-aux_bptt-7"],
    )


def test_other_options_in_the_same_directory_are_refused(invoke, tmp_path):
    out = tmp_path / "grid"
    assert invoke("analyse", "curves", "--out", out, *options()).status == 0
    ended = invoke("analyse", "curves", "--out", out, *options(), "--lr", 0.1)
    assert ended.status == 1 and ended.stderr.count("\n") == 1
    assert "is of an analysis with lr by default, not 0.1" in ended.stderr
    again = invoke("analyse", "curves", "--out", out, *reversed_pairs(options()))
    assert again.status == 0 and "run 1" not in again.stdout
    (out / "options.json").write_text("{")
    assert "is damaged" in invoke("analyse", "curves", "--out", out, *options()).stderr


def reversed_pairs(words):
    """The same options in another order, --quiet left out."""
    pairs = list(zip(words[:-1:2], words[1:-1:2]))
    return [word for pair in reversed(pairs) for word in pair]


def test_what_the_grid_sets_is_refused(invoke, tmp_path):
    ended = invoke("analyse", "truncation", "--out", tmp_path / "x", "--task", "mnist", "--bptt", 0)
    assert ended.status == 1 and "--bptt is what the grid sets" in ended.stderr and not (tmp_path / "x").exists()


def test_a_run_is_no_place_for_an_analysis(invoke, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    ended = invoke("analyse", "curves", "--out", tmp_path, *options())
    assert ended.status == 1 and "holds a run" in ended.stderr and len(list(tmp_path.iterdir())) == 1


def test_an_analysis_that_is_stopped_says_how_it_goes_on(invoke, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise SystemExit(130)

    monkeypatch.setattr(cli, "train_in", stopped)
    ended = invoke("analyse", "curves", "--out", tmp_path / "x", *options())
    assert ended.status == 130 and "the same `analyse` command goes on" in ended.stderr


def test_lengths_are_a_quarter_for_pictures_of_14():
    found = [(o["anchors"], o["aux_length"]) for _, o in analyses.runs("anchors", "x", quarter=True)]
    assert found == [(1, 75), (1, 25), (1, 12), (2, 37), (4, 18), (8, 12)]


def test_a_bad_option_of_train_is_told_as_there(invoke, tmp_path):
    out = tmp_path / "grid"
    for bad, word in (["--task", "mnist", "--lr", "-1"], "--lr"), ([], "--task is needed"), (["--lx", 1], "--lx"):
        ended = invoke("analyse", "anchors", "--out", out, *bad)
        assert ended.status != 0 and word in ended.stderr and not out.exists()
    ended = invoke("analyse", "curves", "--out", out, "--task", "mnist", "--model", "irnn")
    assert ended.status == 1 and "has no auxiliary loss" in ended.stderr and not out.exists()


def test_anchors_are_drawn_against_lengths(tmp_path):
    figure = analyses.anchors_figure(analyses.runs("anchors", tmp_path), [1, 2, 3, 4, 5, 6])
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels[0] == "1 × 300" and len(labels) == 6 and "%" in figure.axes[0].get_ylabel()


def test_the_truncation_picture_has_a_line_for_each_loss():
    axes = analyses.truncation_figure(analyses.runs("truncation", "x"), [10, 20, 30, 40, 50, 60]).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "20"]
    assert {line.get_label(): list(line.get_ydata()) for line in axes.lines} == {
        "none": [10, 20],
        "r": [30, 40],
        "p": [50, 60],
    }


def test_the_labels_picture_has_a_line_for_each_loss():
    grid = analyses.runs("labels", "x")
    axes = analyses.labels_figure(grid, range(15)).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["100", "300", "1,000", "3,000", "10,000"]
    assert [list(line.get_ydata()) for line in axes.lines] == [[*range(5)], [*range(5, 10)], [*range(10, 15)]]
    batches = [options["epochs"] * -(-options["limit_labels"] // 32) for _, options in grid[:5]]
    assert batches == [384, 600, 960, 1692, 3130]


def test_costs_are_measured_once(invoke, tmp_path, monkeypatch):
    tiny = [(name, Case("none", T, K, N=4, H=4)) for T in (20, 40) for name, K in (("full", "full"), ("short", 5))]
    monkeypatch.setattr(bench, "costs", lambda: tiny)
    ended = invoke("analyse", "cost", "--out", tmp_path)
    assert ended.status == 0 and ended.stdout.count("steps\n") == 4, ended.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["name"], row["T"]) for row in rows] == [("full", 20), ("short", 20), ("full", 40), ("short", 40)]
    assert (tmp_path / "table.md").read_text().count("| short |") == 2 and (tmp_path / "picture.png").exists()
    assert "steps\n" not in invoke("analyse", "cost", "--out", tmp_path).stdout
    assert invoke("analyse", "cost", "--out", tmp_path / "x", "--lr", 1).status == 1


def test_cost_cases_reach_16384_steps():
    found = {(name, case.T) for name, case in bench.costs()}
    assert {(name, 16384) for name in ("LSTM, truncated 300", "r-LSTM, truncated 300", "LSTM, full BPTT")} <= found
    assert ("Transformer", 4096) in found


def test_processes_started_together_divide_the_grid(tmp_path):
    """Each run is trained once, and the last process writes the table."""
    out, pipe = tmp_path / "grid", subprocess.PIPE
    command = [sys.executable, ROOT / "cli.py", "analyse", "curves", *options(), "--epochs", 6, "--out", out]
    command = list(map(str, command))
    together = [subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) for _ in range(3)]
    outs, errs = zip(*(process.communicate() for process in together))
    assert [process.returncode for process in together] == [0, 0, 0] and not any(errs), errs
    assert sum(text.count("test accuracy ") for text in outs) == 3  # one for each run
    assert "| none |" in (out / "table.md").read_text() and any("| none |" in text for text in outs)
    assert not [path for path in out.rglob("*") if path.name == "lock" or path.suffix == ".tmp"]


def test_a_run_that_another_process_holds_is_left_to_it(invoke, tmp_path):
    out = tmp_path / "grid"
    command = ["analyse", "curves", "--out", out, *options()]
    with RunDirectory(analyses.runs("curves", out, quarter=True)[1][0]).held():
        ended = invoke(*command)
        assert ended.status == 0 and "other processes are at work on 1 of 3 runs" in ended.stdout
        assert not (out / "table.md").exists()
    ended = invoke(*command)
    assert ended.status == 0 and (out / "table.md").exists() and ended.stdout.count("test accuracy ") == 1
