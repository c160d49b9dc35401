"""`reconstruct`, from what runs leave behind."""

import numpy as np
import pytest
from PIL import Image

import cli
import datasets
from minaux.figures import reconstructions
from minaux.model import draw
from minaux.training import config, evaluation
from minaux.training.evaluation import evaluate
from minaux.training.run import new_state, set_up
from tests.conftest import SMALL, tiny


def answer(kind, first, y, rival_y):
    return evaluation.Answer(kind, 4, first, y, 0.5, "another's state", rival_y, 0.75)


def test_tokens_are_shown_sign_by_sign():
    x = np.array([[72, 105, 0xC3, 33]])
    answers = [answer("r", 1, np.array([[106, 10, 34]]), np.array([[107, 107, 107]]))]
    expected = """run: weights after batch 3

r, anchor 4: steps 1 to 3, from the state after step 4
reconstructed: loss 0.5000, another's state: loss 0.7500

           true  i.!
  reconstructed  j."
another's state  kkk
"""
    assert reconstructions.texts("run: weights after batch 3", x, answers, 256) == expected
    assert "           true  105 195  33\n" in reconstructions.texts("run", x, answers, 300)


def test_a_segment_is_put_back_into_its_picture():
    order = np.random.default_rng(0).permutation(16)
    image = np.arange(16.0) / 16
    found = reconstructions.picture(image[order][:, None], np.full((6, 1), 0.9), 3, order)
    assert found.shape == (4, 4)
    for t, pixel in enumerate(order):
        assert found.flat[pixel] == pytest.approx(0.9 if 3 <= t < 9 else 0.35 + 0.2 * image[pixel])
    assert reconstructions.picture(np.zeros((16, 3)), np.zeros((2, 3)), 0, order).shape == (4, 4, 3)


def images(order):
    """The images of a figure of r's answer, as the reader sees them: [line of the figure][sequence]."""
    x = np.random.default_rng(0).random((2, 16, 1))
    drawn = answer("r", 3, np.full((2, 6, 1), 0.25), np.full((2, 6, 1), 0.75))
    figure = reconstructions.figure_of("_x$^$", x, [drawn], order, np.full((16, 1), 0.5))
    figure.canvas.draw()
    assert figure.get_suptitle() == "_x$^$"
    part, _ = figure.subfigs
    assert part.get_suptitle() == "r, anchor 4: steps 3 to 8, from the state after step 4"
    assert [axes.get_ylabel() for axes in part.axes[::2]] == [
        "true",
        "reconstructed\nloss 0.5000",
        "another's state\nloss 0.7500",
    ]
    return x, [[axes.images[0].get_array().ravel() for axes in part.axes[i : i + 2]] for i in (0, 2, 4)]


def test_the_error_is_drawn_against_the_distance_from_the_anchor():
    """Of all sequences, though six are drawn."""
    r = np.random.default_rng(0)
    x, y, other, mean = r.random((9, 16, 2)), r.random((9, 3, 2)), r.random((9, 3, 2)), r.random((16, 2))
    drawn = evaluation.Answer("r", 14, 11, y, 0.5, "another's state", other, 0.75)
    second = drawn._replace(anchor=5, first=2, y=r.random((9, 3, 2)))
    pictures, _, part = reconstructions.figure_of("x", x, [drawn, second], None, mean).subfigs
    assert len(pictures.axes) == 3 * 6
    [axes] = part.axes
    guesses = (y, second.y), (other, other), (mean[11:14], mean[2:5])
    for line, (here, there) in zip(axes.lines, guesses, strict=True):
        assert list(line.get_xdata()) == [3, 2, 1]  # steps before the anchor
        errors = [((guess - truth) ** 2).mean((0, 2)) for guess, truth in ((here, x[:, 11:14]), (there, x[:, 2:5]))]
        assert line.get_ydata() == pytest.approx(np.mean(errors, 0))
    assert [line.get_label() for line in axes.lines] == ["its own state", "another's state", "position mean"]


def test_truth_answer_and_rival_stand_below_each_other():
    x, (true, own, rival) = images(np.arange(16))
    for one, sequence in zip(true, x):
        assert len(one) == 16 and one[3:9].tolist() == sequence[3:9, 0].tolist()
    assert all((one[3:9] == 0.25).all() and one[0] == true[n][0] for n, one in enumerate(own))
    assert all((one[3:9] == 0.75).all() for one in rival)


def test_permuted_pixels_are_drawn_in_the_order_of_time():
    x, (true, own, _) = images(np.random.default_rng(0).permutation(16))
    for one, sequence in zip(true, x):
        assert len(one) == 9 and one[:6].tolist() == sequence[3:9, 0].tolist()
        assert np.ma.getmaskarray(one)[6:].all()  # nothing is there
    assert (own[0][:6] == 0.25).all()


@pytest.mark.parametrize("tokens", [None, 7])
def test_answers_are_those_of_the_heads_at_the_evaluation_s_anchors(tmp_path, tokens):
    r = np.random.default_rng(0)
    x = r.integers(0, tokens, (12, 9)) if tokens else r.integers(0, 256, (12, 9, 2)).astype(np.uint8)
    task = datasets.Task(x, r.integers(0, 3, 12), x, r.integers(0, 3, 12), classes=3, tokens=tokens)
    given = {"task": "npz", "aux": "rp", "hidden": 4, "bptt": 5, "aux_length": 4, "epochs": 0, "quiet": True}
    cfg = config.build({**given, "pretrain_epochs": 0, "threads": 2, "dtype": "float64"}, 2)
    cfg.data = None
    run = set_up(cfg, task, tmp_path / "run")
    state = new_state(run)
    shown, answers, step = evaluation.answers(run, 5)
    numbers = x if tokens else x / 255
    assert (shown == numbers[:5]).all() and [found.kind for found in answers] == ["r", "p"] and step == 0
    draws = draw(0, 0, "rp", 1, 4, 9, 5, run.shapes, evaluation=True)
    [a], [b] = draws.r_anchors, draws.p_anchors
    assert [(found.anchor, found.first) for found in answers] == [(a, a - 3), (b, b + 1)]
    columns = np.moveaxis(numbers[:5], 0, -1)  # [T, D, N], [T, N]
    sums = evaluate(state.params, columns, task.y_test[:5], draws, run.mean)
    their = {name: float(value) / 5 for name, value in sums.items()}
    for found, steps in zip(answers, (3, 4)):
        assert found.y.shape == found.rival_y.shape == ((5, steps) if tokens else (5, steps, 2))
        assert found.loss == pytest.approx(their[f"{found.kind}_loss"])
        if not tokens:
            truth = shown[:, found.first : found.first + steps]
            assert found.loss == pytest.approx(((found.y - truth) ** 2).mean())
            assert found.rival_loss == pytest.approx(((found.rival_y - truth) ** 2).mean())
    assert answers[0].rival_loss == pytest.approx(their["r_loss"] + their["r_swap_gap"])
    assert answers[1].rival_loss == pytest.approx(their["p_constant" if tokens else "p_position_mean"])
    assert (answers[1].rival_y == answers[1].rival_y[0]).all()  # it does not know the sequence
    assert (
        evaluation.answers(run, 1)[1][0].rival != answers[0].rival == "another's state"
    )  # alone there is no other


def test_reconstruct_draws_pictures(invoke, tmp_path, monkeypatch, task):
    seen, figure_of = [], reconstructions.figure_of
    monkeypatch.setattr(reconstructions, "figure_of", lambda *args: seen.append(args) or figure_of(*args))
    invoke("train", *SMALL, "--quiet", "--out", tmp_path / "run")
    ended = invoke("reconstruct", tmp_path / "run", "--out", tmp_path / "a.png")
    assert ended.status == 0 and "a.png is written" in ended.stdout
    with Image.open(tmp_path / "a.png") as shown:
        assert shown.width > shown.height > 400
    [(_, x, _, order, _)] = seen
    assert (order == task.order).all() and (255 * x == pytest.approx(task.x_test[:20]))


def test_reconstruct_draws_numbers_and_prints_text(invoke, tmp_path, monkeypatch):
    r = np.random.default_rng(0)
    np.savez(tmp_path / "numbers.npz", x=r.random((40, 12, 2)), y=np.arange(40) % 2)
    np.savez(tmp_path / "text.npz", x=r.integers(97, 123, (40, 12)), y=np.arange(40) % 2)
    for name in "numbers", "text":
        invoke(*tiny("npz", tmp_path / f"{name}.npz", "rp", tmp_path / name), "--anchors", 4)
    figure = tmp_path / "a.png"
    assert invoke("reconstruct", tmp_path / "numbers", "--out", figure).status == 0 and figure.exists()
    printed = invoke("reconstruct", tmp_path / "text").stdout
    assert invoke("reconstruct", tmp_path / "text", "--out", tmp_path / "a.txt").status == 0
    assert (tmp_path / "a.txt").read_text() == printed
    monkeypatch.setattr(reconstructions, "reconstruction", None)  # what cannot be written is not computed
    for name, out, says in (
        ("text", "a.svg", "the segments are text"),
        ("numbers", "a.txt", ".txt is no kind of picture"),
    ):
        ended = invoke("reconstruct", tmp_path / name, "--out", tmp_path / out)
        assert ended.status == 1 and says in ended.stderr
    monkeypatch.setattr(cli, "load_task", None)  # nor are its data read
    ended = invoke("reconstruct", tmp_path / "text", "--out", tmp_path)
    assert ended.status == 1 and "is a directory" in ended.stderr
    lines = printed.splitlines()
    assert lines[0].startswith("text: weights after batch")
    assert [sum(f"{kind}, anchor" in line for line in lines) for kind in "rp"] == [2, 2]  # of four each
    assert sum(line.lstrip().startswith("true  ") for line in lines) == 16


def test_reconstruct_without_an_auxiliary_loss_is_an_error(invoke, tmp_path, monkeypatch):
    none = [*SMALL, "--aux", "none", "--pretrain-epochs", 0, "--epochs", 0]
    assert invoke("train", *none, "--out", tmp_path / "run").status == 0
    monkeypatch.setattr(cli, "load_task", None)  # its data are not read
    ended = invoke("reconstruct", tmp_path / "run", "--out", tmp_path / "a.png")
    assert ended.status == 1 and "has no auxiliary loss" in ended.stderr and not (tmp_path / "a.png").exists()
