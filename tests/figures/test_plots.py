"""`plot` and `reconstruct`, from what runs leave behind."""

import numpy as np
import pytest
from PIL import Image

import datasets
from minaux.figures import plots
from minaux.model import draw
from minaux.training import config, evaluation
from minaux.training.evaluation import evaluate
from minaux.training.run import new_state, set_up
from tests.conftest import SMALL, tiny, write_run


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


def test_tokens_are_shown_sign_by_sign():
    x = np.array([[72, 105, 0xC3, 33]])
    answers = [("r", 1, np.array([[106, 10, 34]]))]
    assert plots.texts(x, answers, 256).splitlines()[:2] == ["true  i.!", '   r  j."']
    assert plots.texts(x, answers, 300).splitlines()[:2] == ["true  105 195 33", "   r  106 10 34"]


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


# --- reconstruct ---


def test_a_segment_is_put_back_into_its_picture():
    order = np.random.default_rng(0).permutation(16)
    image = np.arange(16.0) / 16
    found = plots.picture(image[order][:, None], slice(3, 9), order)
    assert found.shape == (4, 4)
    for t, pixel in enumerate(order):
        faded = 0.35 + 0.2 * image[pixel]
        assert found.flat[pixel] == pytest.approx(image[pixel] if 3 <= t < 9 else faded)
    assert plots.picture(np.zeros((16, 3)), slice(0, 2), order).shape == (4, 4, 3)


def test_answers_are_those_of_the_heads_at_the_evaluation_s_anchors(tmp_path):
    r = np.random.default_rng(0)
    x = r.integers(0, 256, (12, 9, 2)).astype(np.uint8)
    task = datasets.Task(x, r.integers(0, 3, 12), x, r.integers(0, 3, 12), classes=3, order=np.arange(9))
    given = {"task": "mnist", "aux": "rp", "hidden": 4, "bptt": 5, "aux_length": 4, "epochs": 0, "quiet": True}
    cfg = config.build({**given, "pretrain_epochs": 0, "threads": 2, "dtype": "float64"}, 2)
    run = set_up(cfg, task, tmp_path / "run")
    state = new_state(run)
    shown, answers = evaluation.answers(run, 5)
    assert (shown == x[:5] / 255).all() and [kind for kind, *_ in answers] == ["r", "p"]
    draws = draw(0, 0, "rp", 1, 4, 9, 5, run.shapes, evaluation=True)
    [a], [b] = draws.r_anchors, draws.p_anchors
    assert [first for _, first, _ in answers] == [a - 3, b + 1]
    columns = np.moveaxis(x[:5] / 255, 0, -1)  # [T, D, N]
    for kind, first, y in answers:
        assert y.shape == (5, 3 if kind == "r" else 4, 2)
        loss = ((y - shown[:, first : first + y.shape[1]]) ** 2).mean((1, 2)).sum()
        assert loss == pytest.approx(float(evaluate(state.params, columns, task.y_test[:5], draws)[f"{kind}_loss"]))


def test_reconstruct_draws_pictures(invoke, tmp_path):
    invoke("train", *SMALL, "--quiet", "--out", tmp_path / "run")
    ended = invoke("reconstruct", tmp_path / "run", "--out", tmp_path / "a.png")
    assert ended.status == 0 and "a.png is written" in ended.stdout
    with Image.open(tmp_path / "a.png") as shown:
        assert shown.width > shown.height > 400


def test_reconstruct_draws_numbers_and_prints_text(invoke, tmp_path):
    r = np.random.default_rng(0)
    np.savez(tmp_path / "numbers.npz", x=r.random((40, 12, 2)), y=np.arange(40) % 2)
    np.savez(tmp_path / "text.npz", x=r.integers(97, 123, (40, 12)), y=np.arange(40) % 2)
    for name in "numbers", "text":
        invoke(*tiny("npz", tmp_path / f"{name}.npz", "rp", tmp_path / name))
    figure = tmp_path / "a.png"
    assert invoke("reconstruct", tmp_path / "numbers", "--out", figure).status == 0 and figure.exists()
    printed = invoke("reconstruct", tmp_path / "text").stdout
    assert invoke("reconstruct", tmp_path / "text", "--out", tmp_path / "a.txt").status == 0
    assert (tmp_path / "a.txt").read_text() == printed
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines if line][::2] == ["true"] * 8 and len(lines) >= 24


def test_reconstruct_without_an_auxiliary_loss_is_an_error(invoke, tmp_path):
    none = [
        *SMALL[:2],
        "--size",
        14,
        "--hidden",
        3,
        "--limit-train",
        20,
        "--epochs",
        0,
        "--device",
        "cpu",
        "--quiet",
    ]
    invoke("train", *none, "--out", tmp_path / "run")
    ended = invoke("reconstruct", tmp_path / "run", "--out", tmp_path / "a.png")
    assert ended.status == 1 and "has no auxiliary loss" in ended.stderr and not (tmp_path / "a.png").exists()
