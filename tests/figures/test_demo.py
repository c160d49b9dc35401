"""`cli.py demo`, on a few sequences."""

import json

import pytest

from minaux.figures import demo, names

TINY = {"limit_train": 24, "limit_test": 8, "valid": 8, "epochs": 1, "hidden": 4, "threads": 1, "quiet": True}


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(demo, "OPTIONS", {**demo.OPTIONS, **TINY})


def test_three_runs_alike_but_for_the_auxiliary_loss_and_what_they_came_to(tiny, invoke, tmp_path):
    out = tmp_path / "demo"
    ended = invoke("demo", "--out", out, "--seed", 3)
    assert ended.status == 0
    configs = {name: json.loads((out / name / "config.json").read_text()) for name in names.LSTMS.values()}
    assert [c.pop("aux") for c in configs.values()] == ["none", "r", "p"]
    assert [c.pop("pretrain_epochs") for c in configs.values()] == [0, 1, 1]
    for c in configs.values():
        assert (c["seed"], c["bptt"], c["aux_bptt"], c["batch_size"], c.pop("schedule_steps")["lr"]) in (
            *[(3, 3, 75, 32, steps) for steps in (1, 2)],
        )
    assert configs["LSTM"] == configs["r-LSTM"] == configs["p-LSTM"]
    for name in names.LSTMS.values():
        accuracy = json.loads((out / name / "result.json").read_text())["test_accuracy"]
        assert f"{name:8}{accuracy:6.1%} of the test images" in ended.stdout
    for picture in "curves.png", "r.png", "p.png":
        assert (out / picture).read_bytes().startswith(b"\x89PNG")


def test_the_same_command_goes_on_and_another_seed_is_told_apart(tiny, invoke, tmp_path):
    assert invoke("demo", "--out", tmp_path).status == 0
    checkpoints = {name: (tmp_path / name / "checkpoint.npz").stat().st_mtime_ns for name in names.LSTMS.values()}
    (tmp_path / "p-LSTM" / "result.json").unlink()
    ended = invoke("demo", "--out", tmp_path)
    assert ended.status == 0 and "3 of 3: p-LSTM" in ended.stdout and "1 of 3" not in ended.stdout
    for name in "LSTM", "r-LSTM":
        assert (tmp_path / name / "checkpoint.npz").stat().st_mtime_ns == checkpoints[name]
    ended = invoke("demo", "--out", tmp_path, "--seed", 1)
    assert ended.status == 1 and "seed 0, not 1: choose another --out" in ended.stderr
