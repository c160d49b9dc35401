"""What a person reads while a run goes on."""

import itertools
import types

import pytest

from minaux.training import report
from minaux.training.loop import estimate
from minaux.training.run import new_state, set_up
from minaux.training.stop import Stop
from tests.training.test_run import options, toy

RIVALS = {"constant": 0.09, "position_mean": 0.07, "copy": 0.0395}
FOUND = {"accuracy": 0.9134, "loss_supervised": 0.2876}
FOUND |= {"r_loss": 0.0108, "r_swap_gap": 0.11, **{f"r_{name}": loss for name, loss in RIVALS.items()}}
FOUND |= {"p_loss": 0.0471, **{f"p_{name}": loss for name, loss in RIVALS.items()}}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (89, "89 s"),
        (91, "2 min"),
        (3600, "60 min"),
        (89.6 * 60, "1 h 30 min"),
        (12_345, "3 h 26 min"),
    ],
)
def test_durations(seconds, words):
    assert report.duration(seconds) == words


def test_an_evaluation_has_a_line_for_each_auxiliary_loss_beside_its_rivals():
    rivals = "constant 0.0900, position mean 0.0700, copy 0.0395"
    auxiliary = [f"    r 0.0108: {rivals}, swap gap 0.1100", f"    p 0.0471: {rivals}"]
    for split, phase, first in (
        ("valid", "joint training", "batch 24, joint training: valid accuracy 91.34%, loss 0.2876"),
        ("valid", "pretraining", "batch 24, pretraining: validation"),
        ("test", "joint training", "weights after batch 24: test accuracy 91.34%, loss 0.2876"),
    ):
        assert report.evaluation(split, 24, phase, FOUND).splitlines() == [first, *auxiliary]
    assert "\n" not in report.evaluation("test", 24, "joint training", {"accuracy": 1.0, "loss_supervised": 0.0})


def test_the_progress_bar_tells_losses_and_speed():
    row = {"loss_supervised": 1.25, "loss_auxiliary": 0.0625}
    assert report.progress(row, 131.6) == "class 1.250, aux 0.062, 132 seq/s"
    assert report.progress({**row, "loss_supervised": None}, 5) == "aux 0.062, 5 seq/s"


def test_the_estimate_is_of_all_batches_and_evaluations(tmp_path, monkeypatch):
    """A trial batch of pretraining takes 1 s, one of joint training 10 s, an evaluation of 4 sequences 2 s. To come
    are 3 batches, twice 3 batches, and three times 2 sequences of validation and once 8 of the test."""
    times = itertools.accumulate([0, 1, 0, 10, 0, 2])  # before and after each
    clock = types.SimpleNamespace(monotonic=lambda: next(times))
    monkeypatch.setattr("minaux.training.loop.time", clock)
    monkeypatch.setattr("minaux.training.evaluation.BLOCK", 4)
    given = {"aux": "r", "pretrain_epochs": 1, "epochs": 2, "batch_size": 2, "valid": 2, "limit_test": 8}
    run = set_up(options(**given), toy(n=8), tmp_path)
    state = new_state(run)
    with run.open_shards() as shards:
        assert estimate(run, shards, state, Stop()) == 3 * 1 + 6 * 10 + (3 * 2 + 8) * 2 / 4


def test_shards_that_share_processes_are_told(tmp_path):
    cfg = options(threads=2)
    run = set_up(cfg, toy(), tmp_path)
    cfg.threads = 1  # as on a resume
    told = report.introduction(run, new_state(run))
    assert "2 batches of 32 to go, on 1 thread for 2 shards;" in told
