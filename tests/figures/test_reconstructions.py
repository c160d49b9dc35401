"""`reconstruct`, from what runs leave behind."""

import numpy as np
import pytest
from PIL import Image

import datasets
from minaux.figures import reconstructions
from minaux.model import draw
from minaux.training import config, evaluation
from minaux.training.evaluation import evaluate
from minaux.training.run import new_state, set_up
from tests.conftest import SMALL, tiny


def test_tokens_are_shown_sign_by_sign():
    x = np.array([[72, 105, 0xC3, 33]])
    answers = [("r", 1, np.array([[106, 10, 34]]))]
    assert reconstructions.texts(x, answers, 256).splitlines()[:2] == ["true  i.!", '   r  j."']
    assert reconstructions.texts(x, answers, 300).splitlines()[:2] == ["true  105 195 33", "   r  106 10 34"]


def test_a_segment_is_put_back_into_its_picture():
    order = np.random.default_rng(0).permutation(16)
    image = np.arange(16.0) / 16
    found = reconstructions.picture(image[order][:, None], slice(3, 9), order)
    assert found.shape == (4, 4)
    for t, pixel in enumerate(order):
        faded = 0.35 + 0.2 * image[pixel]
        assert found.flat[pixel] == pytest.approx(image[pixel] if 3 <= t < 9 else faded)
    assert reconstructions.picture(np.zeros((16, 3)), slice(0, 2), order).shape == (4, 4, 3)


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
