"""A trained model at work."""

import csv

import numpy as np
import pytest

import datasets
from minaux.training.config import UserError
from minaux.training.predict import load_model
from tests.conftest import read_json, tiny


def answers(path):
    head, *rows = csv.reader(path.read_text().splitlines())
    assert head[0] == "class" and len(head) == len(rows[0])
    return np.array(rows, float)


@pytest.mark.parametrize("kind", ["numbers", "tokens", "transformer"])
def test_predictions_are_what_the_test_counted(invoke, tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    r = np.random.default_rng(0)
    y = np.arange(60) % 3
    lengths = {"lengths": r.integers(4, 13, 60)} if kind == "tokens" else {}
    x = r.integers(0, 7, (60, 12)) if kind == "tokens" else r.random((60, 12, 2))
    np.savez("x.npz", x=x, y=y, x_test=x, y_test=y, **lengths, **{f"{k}_test": v for k, v in lengths.items()})
    model = ["--model", "transformer", "--bptt", "full"] if kind == "transformer" else []
    assert invoke(*tiny("npz", "x.npz", "none", tmp_path / "run"), *model).status == 0
    np.savez("new.npz", x=x, **lengths)  # no labels
    ended = invoke("predict", "run", "--data-dir", "new.npz", "--out", "new.csv")
    assert ended.status == 0 and "60 sequences" in ended.stdout
    found = answers(tmp_path / "new.csv")
    assert (found[:, 1:].argmax(1) == found[:, 0]).all() and np.allclose(found[:, 1:].sum(1), 1, atol=1e-4)
    assert read_json("run/result.json")["test_accuracy"] == pytest.approx((found[:, 0] == y).mean())
    some = datasets.npz.inputs("new.npz")[:5]  # alone, they get the same
    np.testing.assert_allclose(load_model("run")(some), found[:5, 1:], rtol=1e-4)
    assert invoke("predict", "run", "--out", "test.csv").status == 0
    assert sorted(map(tuple, answers(tmp_path / "test.csv"))) == sorted(map(tuple, found))  # in a mixed order


def test_what_the_model_cannot_read(invoke, tmp_path):
    x = np.random.default_rng(0).random((20, 8, 2))
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(20) % 2)
    run = tmp_path / "run"
    assert invoke(*tiny("npz", tmp_path / "x.npz", "none", run)).status == 0
    classify = load_model(run)
    for wrong, says in (
        (x[:, :, :1], "x has 1 numbers a step, but the model reads 2"),
        ([np.arange(5)], "x holds tokens, but the model reads numbers"),
        (x[:0], "no sequence"),
    ):
        with pytest.raises(UserError, match=says):
            classify(wrong)
    with pytest.raises(UserError, match="holds no run"):
        load_model(tmp_path)
    np.savez(tmp_path / "new.npz", y=np.arange(3))
    ended = invoke("predict", run, "--data-dir", tmp_path / "new.npz", "--out", tmp_path / "new.csv")
    assert ended.status == 1 and "there is no array x in it" in ended.stderr and not (tmp_path / "new.csv").exists()
