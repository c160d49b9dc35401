"""`analyse`: small grids that go on where they stopped, and end with a table and a picture."""

import json

import pytest
from PIL import Image

from minaux import analyses
from tests import bench
from tests.bench import Case
from tests.conftest import SMALL


@pytest.fixture(autouse=True)
def small_grids(monkeypatch):
    monkeypatch.setattr(analyses, "TRUNCATIONS", (0, 5))
    grid = [{"aux": aux, "bptt": K, "aux_bptt": 7} for aux in ("none", "r", "p") for K in (0, 5)]
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
    assert ended.status == 1 and "is of another analysis" in ended.stderr and ended.stderr.count("\n") == 1
    (out / "options.json").write_text("{")
    assert "is damaged" in invoke("analyse", "curves", "--out", out, *options()).stderr


def test_a_bad_option_of_train_is_told_as_there(invoke, tmp_path):
    out = tmp_path / "grid"
    for bad, word in (["--task", "mnist", "--lr", "-1"], "--lr"), ([], "--task is needed"), (["--lx", 1], "--lx"):
        ended = invoke("analyse", "anchors", "--out", out, *bad)
        assert ended.status != 0 and word in ended.stderr and not out.exists()
    ended = invoke("analyse", "curves", "--out", out, "--task", "mnist", "--model", "irnn")
    assert ended.status == 1 and "has no auxiliary loss" in ended.stderr and not out.exists()


def test_anchors_are_drawn_against_lengths(tmp_path):
    figure = analyses.anchors_figure(None, [1, 2, 3, 4, 5, 6])
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels[0] == "1 × 300" and len(labels) == 6 and "%" in figure.axes[0].get_ylabel()


def test_the_truncation_picture_has_a_line_for_each_loss():
    axes = analyses.truncation_figure(None, [10, 20, 30, 40, 50, 60]).axes[0]
    assert {line.get_label(): list(line.get_ydata()) for line in axes.lines} == {
        "none": [10, 20],
        "r": [30, 40],
        "p": [50, 60],
    }


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
