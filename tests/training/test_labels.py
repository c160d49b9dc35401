"""Few labels, many sequences: who serves which loss, what an epoch is, and what --limit-labels takes."""

import numpy as np
import pytest

from datasets import Task
from minaux import model
from minaux.training import config
from minaux.training.config import UserError
from minaux.training.loop import batch_of_step
from minaux.training.run import new_state, set_up
from tests.conftest import SMALL, assert_same_run, read_json, rows

R = np.random.default_rng(0)
X = R.integers(0, 256, (40, 9, 1)).astype(np.uint8)
Y = np.repeat([0, 1, 2], [20, 15, 5])  # sorted, and of unlike numbers


def run_of(out, y=Y, **given):
    given = {
        "task": "npz",
        "aux": "rp",
        "aux_length": 4,
        "bptt": 5,
        "hidden": 4,
        "valid": 0,
        "batch_size": 4,
        **given,
    }
    cfg = config.build({"pretrain_epochs": 1, "epochs": 2, "threads": 1, "quiet": True, **given}, 1)
    return set_up(cfg, Task(X, y, X, Y, classes=3), out)


def test_the_first_labels_of_each_class_alike(tmp_path):
    rows = run_of(tmp_path, limit_labels=8).labelled.all_rows
    assert sorted(rows) == [0, 1, 2, 20, 21, 22, 35, 36]
    many = run_of(tmp_path, limit_labels=30).labelled.all_rows  # class 2 has 5
    assert np.bincount(Y[many]).tolist() == [13, 12, 5]
    with pytest.raises(
        UserError, match="^--limit-labels: 41 is more than the 40 training sequences that have a label"
    ):
        run_of(tmp_path, limit_labels=41)
    run = run_of(tmp_path, limit_labels=40)
    assert run.labelled is run.shuffled


def test_validation_takes_none_of_them(tmp_path):
    run = run_of(tmp_path, limit_labels=8, valid=10)
    assert not set(run.labelled.all_rows) & set(run.valid_rows) and len(run.train_rows) == 30


def test_sequences_without_a_label_serve_the_auxiliary_loss_alone(tmp_path):
    y = np.where(np.arange(40) % 2, -1, Y)
    run = run_of(tmp_path, y)
    assert run.labelled.all_rows.tolist() == [*range(0, 40, 2)] and len(run.shuffled.all_rows) == 40
    assert len(run_of(tmp_path, y, limit_labels=6).labelled.all_rows) == 6
    assert run_of(tmp_path, y * 0 - 1, epochs=0).pretrain_steps == 10
    with pytest.raises(UserError, match="no training sequence has a label"):
        run_of(tmp_path, y * 0 - 1)


def test_epochs_go_through_all_sequences_then_through_the_labelled(tmp_path):
    run = run_of(tmp_path, limit_labels=8)
    assert (run.pretrain_steps, run.total_steps) == (10, 14)
    assert [run.epoch(step) for step in (0, 9, 10, 11, 12, 14)] == [(0, 0), (0, 9), (1, 0), (1, 1), (2, 0), (3, 0)]
    assert [run.epochs_of_joint_training(step) for step in (9, 11, 12, 14)] == [0, 0, 1, 2]


def test_each_loss_has_its_own_batch(tmp_path):
    """The gradient is that of the labelled batch's supervised loss and the other batch's auxiliary losses."""
    run = run_of(tmp_path / "run", limit_labels=8, aux_weight=0.5)
    state, step = new_state(run), 11
    with run.open_shards() as shards:
        losses, grads, row, n = batch_of_step(run, shards, state.params, step)
    labelled, others = run.labelled.rows(1, 1), run.shuffled.rows(1, 1)
    assert n == 8 and set(labelled) <= set(run.labelled.all_rows)

    def alone(rows, aux, y):
        x = np.ascontiguousarray(X[rows].transpose(1, 2, 0)).astype("float32") / 255
        own = run.cfg.feed_end if step >= run.pretrain_steps else 0
        draws = model.draw(0, step, aux, 1, 4, 9, len(rows), run.shapes, own_probability=own)
        return model.loss_and_grads(state.params, x, y, draws, run.K, run.aux_K, 0.5)

    supervised, auxiliary = alone(labelled, "none", Y[labelled]), alone(others, "rp", None)
    assert row["loss_supervised"] == pytest.approx(supervised.losses["supervised"], rel=1e-5)
    assert row["loss_auxiliary"] == pytest.approx(auxiliary.losses["r"] + auxiliary.losses["p"], rel=1e-5)
    for name, grad in grads.items():
        expected = supervised.grads[name] + auxiliary.grads.get(name, 0)
        np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("aux", ["none", "p"])
def test_a_run_with_few_labels_goes_on_to_the_bit(invoke, sabotage, tmp_path, aux):
    few = [*SMALL, "--aux", aux, "--limit-labels", 7, "--batch-size", 2, "--epochs", 2, "--threads", 2, "--quiet"]
    whole, parts, pretraining = tmp_path / "whole", tmp_path / "parts", 0 if aux == "none" else 18
    assert invoke("train", *few, "--out", whole).status == 0
    interrupted = f"at_call({pretraining + 6}, loop, 'train_step', interrupt)"
    assert sabotage(interrupted, "train", *few, "--out", parts).status == 130
    assert invoke("train", "--resume", "--quiet", "--out", parts).status == 0
    assert_same_run(whole, parts)
    assert [r["step"] for r in rows(whole) if r["kind"] == "train"][-1] == pretraining + 2 * 4
    assert read_json(whole / "result.json")["epochs"] == 2
