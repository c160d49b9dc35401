"""`plot`, from what runs leave behind."""

import pytest
from PIL import Image

from minaux.figures import plots
from tests.conftest import write_run


def rows(aux=False):
    loss = 0.5 if aux else None
    train = [
        {"kind": "train", "phase": "pretrain", "step": 10, "loss_supervised": None, "loss_auxiliary": 0.7},
        {"kind": "train", "phase": "joint", "step": 20, "loss_supervised": 2.0, "loss_auxiliary": loss},
        {"kind": "train", "phase": "joint", "step": 30, "loss_supervised": 1.0, "loss_auxiliary": loss},
    ]
    valid = {"kind": "eval", "split": "valid", "step": 30, "accuracy": 0.5, "p_constant": 0.1, "p_copy": 0.2}
    return [*(train if aux else train[1:]), valid, {**valid, "split": "test", "accuracy": 0.4}]


@pytest.fixture
def runs(tmp_path):
    return [write_run(tmp_path / "plain", rows()), write_run(tmp_path / "p", rows(True), aux="p")]


def test_curves_are_the_rows(runs):
    accuracy, loss, auxiliary = plots.plot([str(run) for run in runs]).axes
    lines = {(line.get_label(), line.get_marker()): line.get_xydata().tolist() for line in accuracy.lines}
    assert lines["plain", "o"] == lines["p", "s"] == [[30, 50]] and [30, 40] in [
        x for v in lines.values() for x in v
    ]
    found = {line.get_label(): line.get_xydata().tolist() for line in loss.lines}
    assert found["plain"] == [[20, 2], [30, 1]]
    assert auxiliary.get_legend_handles_labels()[1] == ["p"]
    assert [line.get_xydata().tolist() for line in auxiliary.lines[:2]] == [[[20, 0.5], [30, 0.5]], [[10, 0.7]]]
    assert [text.get_text() for text in auxiliary.texts] == ["p: constant", "p: copy"]
    for axes in accuracy, loss, auxiliary:
        assert axes.get_title() and axes.get_ylabel() and axes.get_xlabel().startswith("batches")
        assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"] == [10]  # pretraining
    assert len(plots.plot([str(runs[0])]).axes) == 2  # no auxiliary loss, no panel


def test_long_curves_are_running_means_of_one_phase(tmp_path):
    step = {"kind": "train", "loss_supervised": None}
    found = [{**step, "phase": "pretrain", "step": n, "loss_auxiliary": 100} for n in range(5)]
    found += [{**step, "phase": "joint", "step": n, "loss_auxiliary": n % 2} for n in range(5, 35)]
    run = write_run(tmp_path / "p", found, aux="p")
    joint, pretraining = plots.plot([str(run)]).axes[2].lines[:2]
    assert len(joint.get_xdata()) == 30 and joint.get_ydata().max() == 1 and joint.get_marker() == "None"
    assert joint.get_ydata()[3:].tolist() == pytest.approx([0.5] * 27)  # of 4 rows each
    assert pretraining.get_ydata().tolist() == [100] * 5


def test_runs_are_told_apart_in_black_and_white(tmp_path):
    several = [str(write_run(tmp_path / f"{n}", rows())) for n in range(12)]
    accuracy, *_ = plots.plot(several).axes
    drawn = [line for line in accuracy.lines if line.get_label() in map(str, range(12))]
    assert len({(line.get_marker(), line.get_color()) for line in drawn}) == 12
    assert len({line.get_marker() for line in drawn[:4]}) == 4 and len(set(plots.LINES)) == 4


def test_runs_that_have_hardly_begun(tmp_path):
    pretraining = write_run(tmp_path / "pretraining", rows(True)[:1])
    with open(pretraining / "metrics.jsonl", "a") as file:
        file.write('{"kind": "tr')  # killed while it wrote
    empty = write_run(tmp_path / "empty")
    accuracy, loss, auxiliary = plots.plot([str(pretraining), str(empty)]).axes
    assert not loss.lines[0].get_xdata().size and auxiliary.lines[1].get_xydata().tolist() == [[10, 0.7]]


def test_the_command_writes_a_picture(invoke, runs, tmp_path):
    ended = invoke("plot", *runs, "--out", tmp_path / "a.png")
    assert ended.status == 0 and "a.png is written" in ended.stdout
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 2000 and len(picture.convert("L").getcolors()) > 50
    assert invoke("plot", *runs, "--out", tmp_path / "a.svg").status == 0
    assert "<svg" in (tmp_path / "a.svg").read_text()


@pytest.mark.parametrize(
    "damage, word",
    [
        (lambda run: (run / "metrics.jsonl").unlink(), "is no run"),
        (lambda run: (run / "metrics.jsonl").write_text("{\n"), "is damaged"),
        (lambda run: (run / "metrics.jsonl").write_text("[1]\n"), "is damaged"),
        (lambda run: (run / "metrics.jsonl").write_bytes(b"\xff"), "is damaged"),
    ],
)
def test_no_run_no_picture(invoke, runs, tmp_path, damage, word):
    damage(runs[0])
    ended = invoke("plot", *runs, "--out", tmp_path / "a.png")
    assert ended.status == 1 and ended.stderr.count("\n") == 1 and word in ended.stderr
    assert not (tmp_path / "a.png").exists()


def test_a_picture_of_no_kind_is_refused(invoke, runs, tmp_path):
    ended = invoke("plot", *runs, "--out", tmp_path / "a.txt")
    assert ended.status == 1 and ".txt is no kind of picture" in ended.stderr and len(list(tmp_path.iterdir())) == 2
    assert invoke("plot", *runs, "--out", tmp_path / "none" / "a.png").stderr.count("\n") == 1
