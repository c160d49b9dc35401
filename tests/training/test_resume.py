"""A run that is killed at any moment and resumed ends with the bits of one that is not."""

import dataclasses
import json
import os
import random
import shutil
import signal

import numpy as np
import pytest

from minaux.training import loop
from minaux.training.checkpoint import RunDirectory, digest
from tests.conftest import SMALL, arrays, assert_same_run, rows

# 5 batches an epoch, the last of 2 sequences; 3 epochs. Both auxiliary losses, and all kinds of randomness.
RUN = [*SMALL, *"--aux rp --limit-train 23 --batch-size 4 --epochs 2 --feed-start 0.3 --dropconnect 0.3".split()]
RUN += ["--seed", "1", "--quiet"]
FILES = ["checkpoint.npz", "config.json", "metrics.jsonl", "result.json"]
SAVE_EVERY_STEP = "loop.SAVE_EVERY_S = 0; "

# Files are written in this order: config.json, the step-0 checkpoint, those of epochs 1, 2, 3, result.json.
KILLS = {
    "config.json, half written": "in_write(1, 'config.json')",
    "step-0 checkpoint, half written": "in_write(1, 'checkpoint.npz')",
    "step-0 checkpoint, not renamed": "at_call(2, os, 'replace', kill)",
    "after the step-0 checkpoint": "at_call(2, os, 'replace', kill, after=True)",
    "checkpoint, half written": "in_write(3, 'checkpoint.npz')",
    "checkpoint, not flushed": "at_call(4, os, 'fsync', kill)",
    "checkpoint, not renamed": "at_call(4, os, 'replace', kill)",
    "after a checkpoint": "at_call(4, os, 'replace', kill, after=True)",
    "between a row and its checkpoint": "at_call(4, checkpoint.RunDirectory, 'save', kill)",
    "half a row": "in_write(3, 'metrics.jsonl')",
    "in an epoch": "at_call(8, loop, 'train_step', kill)",
    "in an epoch, after a timed checkpoint": SAVE_EVERY_STEP + "at_call(8, loop, 'train_step', kill)",
    "in an epoch, in a timed checkpoint": SAVE_EVERY_STEP + "in_write(9, 'checkpoint.npz')",
    "in validation": "at_call(2, evaluation, 'validate', lambda: at_call(2, shards.Shards, 'run', kill))",
    "after validation": "at_call(2, evaluation, 'validate', kill, after=True)",
    "in the test": "at_call(1, evaluation, 'test', lambda: at_call(2, shards.Shards, 'run', kill))",
    "after the test": "at_call(1, evaluation, 'test', kill, after=True)",
    "result.json, half written": "in_write(1, 'result.json')",
}


@pytest.fixture(scope="module")
def uninterrupted(invoke, tmp_path_factory):
    """{threads: the directory of a run that nothing stopped}"""
    runs = {threads: tmp_path_factory.mktemp(f"uninterrupted-{threads}") for threads in (1, 2)}
    for threads, run in runs.items():
        assert invoke("train", *RUN, "--threads", threads, "--out", run).status == 0
    return runs


def again(run, threads):
    """The arguments that go on with `run`; what has no checkpoint is no run, and is started over."""
    begun = (run / "checkpoint.npz").exists()
    return ["train", *(["--resume", "--quiet"] if begun else [*RUN, "--threads", threads]), "--out", run]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("code", KILLS.values(), ids=KILLS.keys())
def test_killed_and_resumed(invoke, sabotage, uninterrupted, tmp_path, code, threads):
    run = tmp_path / "run"
    assert sabotage(code, *again(run, threads)).status == -signal.SIGKILL
    assert not (run / "result.json").exists()
    assert invoke(*again(run, threads)).status == 0
    assert_same_run(run, uninterrupted[threads])
    assert sorted(os.listdir(run)) == FILES  # no temporary file stays
    result, expected = (json.loads((r / "result.json").read_text()) for r in (run, uninterrupted[threads]))
    assert {**result, "elapsed_s": 0} == {**expected, "elapsed_s": 0}


def test_the_best_weights_outlive_a_resume(invoke, uninterrupted, tmp_path):
    """However well the later epochs do: here nothing can be better."""
    directory = RunDirectory(shutil.copytree(uninterrupted[1], tmp_path / "run"))
    cfg = directory.read_config()
    state = directory.load(cfg)
    best = {name: w + 1 for name, w in state.params.items()}
    directory.save(cfg, dataclasses.replace(state, best=best, best_accuracy=1.5, best_step=7))
    assert invoke("train", "--resume", "--epochs", 3, "--quiet", "--out", directory.path).status == 0
    state = directory.load(directory.read_config())
    assert (state.best_accuracy, state.best_step, state.step) == (1.5, 7, 20)
    assert all((state.best[name] == w).all() for name, w in best.items())


def test_killed_before_its_first_checkpoint_is_no_run(invoke, sabotage, tmp_path):
    assert sabotage("at_call(2, os, 'replace', kill)", *again(tmp_path, 1)).status == -signal.SIGKILL
    assert "config.json" in os.listdir(tmp_path) and "checkpoint.npz" not in os.listdir(tmp_path)
    ended = invoke("train", "--resume", "--out", tmp_path)
    assert ended.status == 1 and "holds no run" in ended.stderr


@pytest.mark.parametrize("code", ["in_write(1, 'metrics.jsonl')", "at_call(2, os, 'replace', kill)"])
def test_killed_while_it_resumes(invoke, sabotage, uninterrupted, tmp_path, code):
    """It dies between two checkpoints, then again while metrics.jsonl or config.json is written anew."""
    first = SAVE_EVERY_STEP + "at_call(5, checkpoint.RunDirectory, 'save', kill)"
    for sabotaged in first, code:
        assert sabotage(sabotaged, *again(tmp_path, 1)).status == -signal.SIGKILL
    assert invoke(*again(tmp_path, 1)).status == 0
    assert_same_run(tmp_path, uninterrupted[1])


def test_interrupted_before_validation_then_killed_after_it(invoke, sabotage, uninterrupted, tmp_path):
    """Ctrl-C at an epoch's end saves that the validation is still due; its row must not stand there twice."""
    ended = sabotage("at_call(5, loop, 'train_step', interrupt)", *again(tmp_path, 1))
    assert ended.status == 130
    ended = sabotage("at_call(1, evaluation, 'validate', kill, after=True)", *again(tmp_path, 1))
    assert ended.status == -signal.SIGKILL
    assert invoke(*again(tmp_path, 1)).status == 0
    assert_same_run(tmp_path, uninterrupted[1])


@pytest.mark.parametrize("threads", [1, 2])
def test_killed_at_random_times(invoke, sabotage, uninterrupted, tmp_path, threads):
    """Several times in a row; here and there a checkpoint after every step."""
    draw, ends = random.Random(threads), []
    for _ in range(5):
        save = draw.choice(["", SAVE_EVERY_STEP])
        code = f"{save}at_call(1, loop, 'train', lambda: kill_after({draw.uniform(0, 0.06)}))"
        ends.append(sabotage(code, *again(tmp_path, threads)).status)
        if ends[-1] == 0:  # it was faster
            break
    assert set(ends) <= {0, -signal.SIGKILL}
    assert invoke(*again(tmp_path, threads)).status == 0
    assert_same_run(tmp_path, uninterrupted[threads])


def test_same_seed_same_bits_in_another_process(sabotage, uninterrupted, tmp_path):
    for threads, run in uninterrupted.items():
        again_run = tmp_path / str(threads)
        assert sabotage("", "train", *RUN, "--threads", threads, "--out", again_run).status == 0
        assert_same_run(again_run, run)


def test_other_seed_other_bits(invoke, uninterrupted, tmp_path):
    whole, *begun = (tmp_path / name for name in ("whole", "seed 0", "seed 1"))
    assert invoke("train", *RUN, "--seed", 0, "--out", whole).status == 0
    for seed, run in enumerate(begun):
        assert invoke("train", *RUN, "--seed", seed, "--budget", 0, "--out", run).status == 0
    mine, its = arrays(whole), arrays(uninterrupted[1])
    assert mine.keys() == its.keys() and all((mine[k] != its[k]).any() for k in mine)
    mine, its = map(arrays, begun)  # the initial weights
    assert all((mine[k] != its[k]).any() for k in mine if k.startswith("params/") and ".W" in k)


def test_threads_do_not_change_what_is_drawn(invoke, monkeypatch, tmp_path):
    """Sums are rounded in another order, no more: the losses of step 1 and of the evaluations after it, with
    anchors of their own, agree closely."""
    monkeypatch.setattr(loop, "ROW_EVERY", 1)
    one_step = "--pretrain-epochs 0 --epochs 1 --limit-train 9 --valid 5 --feed-start 0.5 --lr 1e-6".split()
    found = {}
    for threads in 1, 2, 3:
        run = tmp_path / str(threads)
        assert invoke("train", *RUN, *one_step, "--threads", threads, "--out", run).status == 0
        found[threads] = rows(run)
    losses = [name for name in found[1][-1] if "loss" in name] + ["loss_auxiliary", "grad_norm_supervised"]
    for threads in 2, 3:
        for a, b in zip(found[1], found[threads], strict=True):
            assert a.keys() == b.keys()
            mine, its = ([row.get(name, 0) for name in losses] for row in (a, b))
            assert mine == pytest.approx(its, rel=1e-5)


def test_a_run_from_before_an_option_was_added_goes_on(invoke, tmp_path):
    invoke("train", *SMALL, "--quiet", "--budget", "0", "--out", tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    for name in "checkpoint_every", "data":
        del settings[name]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with np.load(tmp_path / "checkpoint.npz") as file:
        arrays = {name: file[name] for name in file.files if name != "sha256"}
    meta = json.loads(arrays["meta"].tobytes())
    meta["config"] = settings
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    np.savez(tmp_path / "checkpoint.npz", sha256=np.frombuffer(digest(arrays), np.uint8), **arrays)
    ended = invoke("train", "--resume", "--quiet", "--out", tmp_path)
    assert ended.status == 0, ended.stderr
