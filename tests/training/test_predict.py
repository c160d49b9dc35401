"""A trained model at work."""

import csv
import dataclasses

import numpy as np
import pytest
from safetensors.numpy import load_file

import datasets
from minaux.training import evaluation
from minaux.training.checkpoint import RunDirectory
from minaux.training.config import UserError
from minaux.training.predict import load_model
from minaux.training.run import set_up
from tests.conftest import SMALL, read_json, tiny


def answers(path):
    """(classes, probabilities, labels) in the file."""
    rows = list(csv.DictReader(path.read_text().splitlines()))
    probabilities = np.array([[float(row[name]) for name in row if name[0] == "p"] for row in rows])
    return [int(row["class"]) for row in rows], probabilities, [row.get("label") for row in rows]


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
    classes, probabilities, labels = answers(tmp_path / "new.csv")
    assert (probabilities.argmax(1) == classes).all() and np.allclose(probabilities.sum(1), 1, atol=1e-4)
    accuracy = read_json("run/result.json")["test_accuracy"]
    assert accuracy == pytest.approx((classes == y).mean()) and set(labels) == {None}
    some = datasets.npz.inputs("new.npz")[:5]  # alone, they get the same
    np.testing.assert_allclose(load_model("run")(some), probabilities[:5], rtol=1e-4)
    if kind == "tokens":
        some = x[:5, :4]  # as an array, of one length
        np.testing.assert_array_equal(load_model("run")(some), load_model("run")(list(some)))
    assert invoke("predict", "run", "--out", "test.csv").status == 0
    again, test_probabilities, labels = answers(tmp_path / "test.csv")  # in a mixed order
    assert accuracy == pytest.approx(np.mean([str(c) == label for c, label in zip(again, labels)]))
    assert sorted(map(tuple, test_probabilities)) == sorted(map(tuple, probabilities))


def test_the_runs_own_sequences_are_those_it_was_tested_on(invoke, tmp_path):
    x, y = np.random.default_rng(0).random((40, 8)), np.arange(40) % 2
    np.savez(tmp_path / "x.npz", x=x, y=y, x_test=x, y_test=y)
    run, out = tmp_path / "run", tmp_path / "out.csv"
    assert invoke(*tiny("npz", tmp_path / "x.npz", "none", run), "--limit-test", 7).status == 0
    assert invoke("predict", run, "--out", out).status == 0
    classes, probabilities, _ = answers(out)
    assert len(classes) == 7
    np.testing.assert_allclose(load_model(run)(x)[0], load_model(run)(x[:, :, None])[0])
    np.savez(tmp_path / "x.npz", x=100 * x, y=y, x_test=x, y_test=y)
    ended = invoke("predict", run, "--out", tmp_path / "other.csv")
    assert ended.status == 1 and "the data differ from this run's" in ended.stderr
    for wrong, says in ("", "the name is empty"), (tmp_path, "is a directory"):
        ended = invoke("predict", run, "--out", wrong)
        assert ended.status == 1 and says in ended.stderr and "predictions.csv" in ended.stderr


def test_the_weights_that_validated_best_are_those_at_work(invoke, tmp_path, task):
    """Whatever the last ones are: what is tested again, answered, classified and exported is theirs."""
    run, out = tmp_path / "run", tmp_path / "weights.safetensors"
    assert invoke("train", *SMALL, "--quiet", "--out", run).status == 0
    directory = RunDirectory(run)
    cfg = directory.read_config()
    trained = directory.load(cfg).params
    halved = {name: w / 2 for name, w in trained.items()}

    def at_work(params, best):
        directory.save(cfg, dataclasses.replace(directory.load(cfg), params=params, best=best))
        assert invoke("export", run, "--out", out).status == 0
        looked_at = set_up(cfg, task, run)
        [answer] = evaluation.answers(looked_at, 3)[1]
        found = [load_model(run)(task.x_test[:5]), answer.y, *load_file(out).values()]
        return [*found, np.array([evaluation.evaluate_saved(looked_at)["loss_supervised"]])]

    expected = at_work(trained, trained)
    assert all((a == b).all() for a, b in zip(at_work(halved, trained), expected, strict=True))
    assert all((a != b).any() or not a.any() for a, b in zip(at_work(trained, halved), expected))


def test_a_program_that_mpi_has_started_may_use_a_model(invoke, tmp_path, monkeypatch):
    """Its ranks are its own: ours work for a program that `run_program` runs."""
    x = np.random.default_rng(0).random((200, 8))
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(200) % 2)
    assert invoke(*tiny("npz", tmp_path / "x.npz", "none", tmp_path / "run")).status == 0
    expected = load_model(tmp_path / "run")(x)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    assert (load_model(tmp_path / "run")(x, threads=2) == expected).all(), "200 sequences are four blocks"


def test_sequences_of_unlike_types_keep_their_tokens(invoke, tmp_path):
    x = np.arange(160).reshape(20, 8) * 2
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(20) % 2)
    assert invoke(*tiny("npz", tmp_path / "x.npz", "none", tmp_path / "run")).status == 0
    classify, some = load_model(tmp_path / "run"), [x[0].astype("uint8"), x[19]]  # 304 and more
    assert x[19].max() > 255 > x[0].max()
    np.testing.assert_array_equal(classify(some), classify([x[0], x[19]]))


def test_what_the_model_cannot_read(invoke, tmp_path):
    x = np.random.default_rng(0).random((20, 8, 2))
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(20) % 2)
    run = tmp_path / "run"
    assert invoke(*tiny("npz", tmp_path / "x.npz", "none", run)).status == 0
    classify = load_model(run)
    for wrong, says in (
        (x[:, :, :1], "x has 1 numbers a step, but the model reads 2"),
        ([np.arange(5)], "x holds tokens, but the model reads floats"),
        (x[:0], "no sequence"),
        (x[:, :0], "no sequence"),
        (x.astype("int64"), "x holds int64, but the model reads floats"),
        ((255 * x).astype(np.uint8), "x holds bytes, but the model reads floats"),
        (x + np.nan, "not finite"),
        (x * 1e300, "too large for the model in float32: scale it as in training"),
        (None, "neither an array"),
    ):
        with pytest.raises(UserError, match=says):
            classify(wrong)
    with pytest.raises(UserError, match="holds no run"):
        load_model(tmp_path)
    np.savez(tmp_path / "new.npz", x=x[:, :, :1])
    ended = invoke("predict", run, "--data-dir", tmp_path / "new.npz", "--out", tmp_path / "new.csv")
    assert ended.status == 1 and "new.npz: x has 1 numbers a step" in ended.stderr
    np.savez(tmp_path / "new.npz", y=np.arange(3))
    ended = invoke("predict", run, "--data-dir", tmp_path / "new.npz", "--out", tmp_path / "new.csv")
    assert ended.status == 1 and "there is no array x in it" in ended.stderr and not (tmp_path / "new.csv").exists()


@pytest.mark.parametrize(
    "wrong, says",
    [
        (np.array([[-1, 0, 1]]), "the token -1, but the model reads 0 to 6"),
        ([np.array([-9999])], "the token -9999"),
        (np.array([[0, 7]]), "the token 7"),
        ([np.array([0.5, 1.5])], "no array .T. of integers"),
        ([np.array([1, 2]), np.array([], int)], "or an empty one"),
        ([[1, 2, 3]], "no array .T. of integers"),
        (
            np.random.default_rng(0).random((3, 5)),
            "x holds floats, but the model reads tokens: give it integers .n, T.",
        ),
    ],
)
def test_tokens_the_model_cannot_read(invoke, tmp_path, wrong, says):
    x = np.random.default_rng(0).integers(0, 7, (20, 8))
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(20) % 2)
    assert invoke(*tiny("npz", tmp_path / "x.npz", "none", tmp_path / "run")).status == 0
    with pytest.raises(UserError, match=says):
        load_model(tmp_path / "run")(wrong)
