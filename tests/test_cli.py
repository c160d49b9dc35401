"""The command line: what it writes and prints, and how it ends when the input is bad."""

import dataclasses
import errno
import gzip
import itertools
import json
import math
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cli
import datasets
import minaux
from datasets import Task, mnist
from minaux import model
from minaux.training import config
from minaux.training.checkpoint import RunDirectory, digest
from minaux.training.run import set_up
from tests.conftest import ROOT, SMALL, arrays, assert_same_arrays, assert_same_run, rows, tiny


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it."""
    return pathlib.Path(shutil.copytree(finished, tmp_path / "run"))


def read(path):
    return json.loads(path.read_text())


def contents(directory):
    """{path: bytes} of all files in it."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def refused(ended, *words):
    """It ended as bad input should: a status that is not 0 and one line on standard error that has these
    words in it, below click's hint at the usage if there is one. (`invoke` raises what would be a traceback.)"""
    *before, last = ended.stderr.splitlines()
    assert ended.status == (2 if before else 1)
    assert last.startswith("Error: ")
    assert not before or before[0].startswith("Usage: ")
    for word in words:
        assert str(word) in last


# --- what a run leaves ---


def test_result_json(finished):
    result = read(finished / "result.json")
    keys = """task model aux bptt seed test_accuracy test_examples valid_accuracy epochs steps parameters elapsed_s
    device complete"""
    assert list(result) == keys.split()
    known = "task model aux bptt seed test_examples epochs steps device complete".split()
    assert [result[k] for k in known] == ["mnist", "lstm", "r", 10, 0, 20, 1, 24, "cpu", True]
    weights = {name: w for name, w in arrays(finished).items() if name.startswith("params/")}
    assert result["parameters"] == sum(w.size for w in weights.values())
    evaluations = [row for row in rows(finished) if row["kind"] == "eval"]
    assert result["test_accuracy"] == evaluations[-1]["accuracy"]
    assert result["valid_accuracy"] == evaluations[-2]["accuracy"]  # the only one of joint training
    assert result["elapsed_s"] >= 0


def test_metrics_rows(finished):
    found = rows(finished)
    train_keys = """kind epoch step elapsed_s phase loss_supervised loss_auxiliary grad_norm_supervised
    grad_norm_auxiliary fed_truth sequences_per_second"""
    eval_keys = """kind epoch step elapsed_s split accuracy loss_supervised
    r_loss r_constant r_position_mean r_copy r_swap_gap"""
    for row in found:
        assert set(row) == set((train_keys if row["kind"] == "train" else eval_keys).split())
    trained = [(row["step"], row["epoch"], row["phase"]) for row in found if row["kind"] == "train"]
    assert trained == [(10, 1, "pretrain"), (12, 1, "pretrain"), (20, 2, "joint"), (24, 2, "joint")]
    evaluated = [(row["step"], row["epoch"], row["split"]) for row in found if row["kind"] == "eval"]
    assert evaluated == [(12, 1, "valid"), (24, 2, "valid"), (24, 2, "test")]
    pretrained, _, joint, _ = (row for row in found if row["kind"] == "train")
    assert pretrained["loss_supervised"] is None and pretrained["grad_norm_supervised"] == 0
    assert joint["loss_supervised"] > 0 and joint["grad_norm_supervised"] > 0
    assert pretrained["fed_truth"] == pytest.approx(1 - 9 / 12) and joint["fed_truth"] == 0


@pytest.mark.parametrize("aux", ["none", "p", "rp"])
def test_each_auxiliary_loss_has_its_report(invoke, tmp_path, aux):
    options = ["--aux", aux, "--pretrain-epochs", 0, "--bptt", "full", "--limit-train", 11]
    assert invoke("train", *SMALL, *options, "--out", tmp_path).status == 0
    trained, *_, tested = rows(tmp_path)
    report = {
        "r": {"r_loss", "r_constant", "r_position_mean", "r_copy", "r_swap_gap"},
        "p": {"p_loss", "p_constant", "p_position_mean", "p_copy"},
    }
    expected = set().union(*(names for kind, names in report.items() if kind in aux))
    assert {name for name in tested if name[:2] in ("r_", "p_")} == expected
    assert (trained["loss_auxiliary"] is None) == (aux == "none")
    assert (trained["fed_truth"] is None) == ("r" not in aux)
    assert read(tmp_path / "result.json")["bptt"] == "full"


def test_config_json_holds_every_option(finished):
    saved = read(finished / "config.json")
    assert {p.name for p in cli.train.params} - {"out", "resume"} < set(saved)
    given = dict(zip(SMALL[::2], SMALL[1::2]))
    assert {name: str(saved[name[2:].replace("-", "_")]) for name in given} == given
    assert saved["version"] == minaux.__version__
    assert (saved["shards"], saved["permutation"]) == (1, None)
    assert saved["schedule_steps"] == {"feed": 12, "lr": 24}


def test_config_json_names_the_permutation(invoke, tmp_path):
    assert invoke("train", *SMALL, "--task", "pmnist", "--threads", 2, "--budget", 0, "--out", tmp_path).status == 0
    saved = read(tmp_path / "config.json")
    assert saved["permutation"] == "numpy.random.RandomState(92916).permutation(196)"
    assert saved["shards"] == 2


def test_a_run_has_a_directory_of_its_own_by_default(invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "runs/mnist-14-r-10-s3 " in invoke("train", *SMALL, "--seed", 3, "--budget", 0).stdout.replace("\n", " ")
    assert (tmp_path / "runs/mnist-14-r-10-s3/result.json").exists()


def test_quiet_prints_the_result_alone(invoke, finished, tmp_path):
    ended = invoke("train", *SMALL, "--quiet", "--out", tmp_path)
    first, second = ended.stdout.splitlines()
    assert first.startswith("test accuracy ") and str(tmp_path) in second
    assert ended.stderr == ""
    assert_same_run(tmp_path, finished)


def test_one_set_of_options_serves_none_r_and_p(invoke, tmp_path):
    for kind in "lstm", "irnn":
        options = ["--aux", "none", "--model", kind, "--pretrain-epochs", 3, "--bptt", 5, "--quiet"]
        ended = invoke("train", *SMALL, *options, "--out", tmp_path / kind)
        assert ended.status == 0 and "--pretrain-epochs is 0 here" in ended.stderr
        assert json.loads((tmp_path / kind / "config.json").read_text())["pretrain_epochs"] == 0
    nothing = ["--aux", "none", "--pretrain-epochs", 0, "--quiet", "--out", tmp_path / "run"]
    assert invoke("train", *SMALL, *nothing).stderr == ""


def test_it_tells_what_the_paper_reports(invoke, tmp_path):
    small = ["--task", "pmnist", "--limit-train", 3, "--valid", 0, "--limit-test", 2, "--epochs", 1, "--budget", 0]
    ended = invoke("train", *small, "--aux", "p", "--bptt", 300, "--out", tmp_path / "run")
    assert ended.stdout.count("the paper reports 92.5 % (Table 2: pmnist, aux p, truncation 300;") == 2
    for n, options in enumerate(
        [["--bptt", 299], ["--size", 14, "--bptt", 300], ["--aux", "rp"], ["--hidden", 4], ["--aux-bptt", 9]]
    ):
        ended = invoke("train", *small, "--aux", "p", *options, "--out", tmp_path / str(n))
        assert ended.status == 0 and "the paper" not in ended.stdout


def test_it_tells_what_it_does(invoke, tmp_path):
    shown = invoke("train", *SMALL, "--out", tmp_path).stdout
    assert "35 training, 5 validation, 20 test" in shown
    assert "read the target for 9 of 9 targets" in shown
    assert f"{read(tmp_path / 'result.json')['parameters']:,} parameters" in shown


# --- evaluate ---


def test_evaluate_gives_the_same_bits_and_writes_nothing(invoke, finished):
    before = contents(finished)
    ended = invoke("evaluate", finished, "--json", "--device", "cpu")
    assert ended.status == 0
    found = json.loads(ended.stdout.splitlines()[-1])
    result, row = read(finished / "result.json"), rows(finished)[-1]
    assert {name: found[name] for name in ("test_accuracy", "test_examples")}.items() <= result.items()
    assert {name: found[name] for name in ("loss_supervised", "r_loss", "r_swap_gap")}.items() <= row.items()
    assert contents(finished) == before


def test_evaluate_needs_no_options(invoke, finished):
    """Whatever --device the run was trained on."""
    ended = invoke("evaluate", finished)
    assert ended.status == 0, ended.stderr
    assert re.search(r"test_accuracy +[\d.]+\ntest_examples +20\n", ended.stdout)


# --- going on ---


def test_a_spent_budget_is_no_failure_and_the_run_can_go_on(invoke, finished, tmp_path):
    ended = invoke("train", *SMALL, "--budget", 0, "--out", tmp_path)
    assert ended.status == 0 and "the budget is spent after 0 batches" in ended.stdout
    result = read(tmp_path / "result.json")
    assert (result["complete"], result["steps"], result["epochs"]) == (False, 0, 0)
    assert invoke("train", "--resume", "--out", tmp_path).status == 0  # without the budget
    result, whole = read(tmp_path / "result.json"), read(finished / "result.json")
    assert {**result, "elapsed_s": 0} == {**whole, "elapsed_s": 0}
    assert_same_arrays(tmp_path, finished)


def test_more_epochs_on_resume_are_as_if_asked_for_at_once(invoke, finished, run, tmp_path):
    assert invoke("train", "--resume", "--epochs", 2, "--out", run).status == 0
    assert invoke("train", *SMALL, "--epochs", 2, "--out", tmp_path / "at once").status == 0
    assert_same_arrays(run, tmp_path / "at once")
    assert (read(run / "result.json")["epochs"], read(run / "result.json")["steps"]) == (2, 36)
    assert read(run / "config.json")["epochs"] == 2
    # The best weights are the first's among the two joint epochs, or the last if those did better.
    _, first, second = (row["accuracy"] for row in rows(run) if row.get("split") == "valid")
    better = run if second > first else finished
    best, expected = arrays(run), arrays(better)
    assert all((best[f"best/{k[7:]}"] == w).all() for k, w in expected.items() if k.startswith("params/"))
    evaluated = json.loads(invoke("evaluate", run, "--json", "--device", "cpu").stdout)
    assert evaluated["loss_supervised"] == rows(run)[-1]["loss_supervised"]


def test_schedules_are_fixed_at_the_start(invoke, tmp_path):
    """A cosine has come to 0 when the first epochs end, and a longer run stays there: nothing moves."""
    assert invoke("train", *SMALL, "--lr-schedule", "cosine", "--out", tmp_path).status == 0
    weights, saved = arrays(tmp_path), read(tmp_path / "config.json")
    longer = invoke("train", "--resume", "--epochs", 2, "--out", tmp_path)
    assert longer.status == 0 and "the learning rate falls to 0 at batch 24 and stays there" in longer.stdout
    assert read(tmp_path / "config.json") == {**saved, "epochs": 2}
    assert read(tmp_path / "result.json")["steps"] == 36
    assert all((arrays(tmp_path)[k] == w).all() for k, w in weights.items() if k.startswith("params/"))
    assert any((arrays(tmp_path)[k] != w).any() for k, w in weights.items() if k.startswith("v/"))


def test_a_cosine_that_pretraining_uses_up_is_told(invoke, sabotage, tmp_path):
    """After two of three epochs, 24 of 36 batches, the rate of 0.003 is at a quarter."""
    words = "the learning rate's cosine spans pretraining too, 24 of 36 batches: joint training begins at 0.00075"
    half, much, constant, alone = (tmp_path / name for name in ("half", "much", "constant", "alone"))
    cosine = *SMALL, "--lr-schedule", "cosine"
    assert "spans" not in invoke("train", *cosine, "--out", half).stdout
    much_of_it = "train", *cosine, "--pretrain-epochs", 2, "--out", much
    assert words in sabotage("at_call(11, loop, 'train_step', interrupt)", *much_of_it).stdout
    resumed = invoke("train", "--resume", "--out", much).stdout
    assert "going on after batch" in resumed and "spans" not in resumed
    assert "spans" not in invoke("train", *cosine, "--epochs", 0, "--out", alone).stdout
    assert "spans" not in invoke("train", *SMALL, "--pretrain-epochs", 2, "--out", constant).stdout


def test_a_run_of_no_epochs_can_be_made_longer(invoke, tmp_path):
    options = "--pretrain-epochs 0 --epochs 0 --lr-schedule cosine".split()
    assert invoke("train", *SMALL, *options, "--out", tmp_path).status == 0
    assert invoke("train", "--resume", "--epochs", 1, "--out", tmp_path).status == 0
    assert read(tmp_path / "result.json")["steps"] == 12


def test_ctrl_c_while_nothing_runs_yet(invoke, monkeypatch, tmp_path):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("cli.new_state", interrupted)
    ended = invoke("train", *SMALL, "--out", tmp_path / "run")
    assert ended.status == 130 and ended.stderr.strip() == "stopped"


def test_a_longer_run_takes_the_shorter_ones_result_away(invoke, run, sabotage):
    ended = sabotage("at_call(1, loop, 'train_step', interrupt)", "train", "--resume", "--epochs", 2, "--out", run)
    assert ended.status == 130 and not (run / "result.json").exists()
    assert any(row.get("split") == "test" for row in rows(run))  # its row stays
    refused(invoke("train", "--resume", "--epochs", 1, "--out", run), "--epochs: 1 is less than the 2")
    assert invoke("train", "--resume", "--out", run).status == 0 and read(run / "result.json")["complete"]


def test_a_kill_before_the_first_checkpoint_of_a_longer_run_leaves_no_result(run, sabotage):
    sabotage("at_call(1, loop, 'train_step', kill)", "train", "--resume", "--epochs", 2, "--out", run)
    assert read(run / "config.json")["epochs"] == 2 and not (run / "result.json").exists()


def test_a_new_run_where_weights_are_missing_takes_the_old_result_away(run, sabotage):
    (run / "checkpoint.npz").unlink()
    sabotage("at_call(1, os, 'replace', kill, after=True)", "train", *SMALL, "--seed", 3, "--out", run)
    assert read(run / "config.json")["seed"] == 3 and not (run / "result.json").exists()


def test_resume_keeps_the_result_of_as_many_epochs(run, sabotage):
    sabotage("at_call(1, evaluation, 'test', kill)", "train", "--resume", "--out", run)
    assert read(run / "result.json")["complete"]


def test_resume_may_repeat_the_options(invoke, run, finished):
    assert invoke("train", "--resume", *SMALL, "--quiet", "--budget", "1h", "--out", run).status == 0
    assert_same_arrays(run, finished)


def test_a_run_stays_on_the_device_it_began_on(invoke, run, finished, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert read(finished / "config.json")["device"] == "cpu"
    config = read(run / "config.json")
    (run / "config.json").write_text(json.dumps({**config, "device": "auto"}))  # as older versions wrote it
    assert invoke("train", "--resume", "--out", run).status == 0 and read(run / "config.json") == config
    (run / "config.json").write_text(json.dumps({**config, "device": "gpu"}))  # which is not there any more
    refused(invoke("train", "--resume", "--out", run), "--device cpu")
    assert invoke("train", "--resume", "--device", "cpu", "--out", run).status == 0
    assert read(run / "config.json") == config


IN_AN_EPOCH = "at_call(11, loop, 'train_step', interrupt)"
INTERRUPTS = {  # and the step of the checkpoint that stays
    "in an epoch": (IN_AN_EPOCH, 11),
    "at an epoch's end": ("at_call(12, loop, 'train_step', interrupt)", 12),
    "in validation": (
        "at_call(2, evaluation, 'validate', lambda: at_call(1, evaluation, 'evaluate', interrupt))",
        24,
    ),
    "in the test": (
        "at_call(1, evaluation, 'test', lambda: at_call(1, evaluation, 'evaluate', interrupt))",
        24,
    ),
    "twice": ("at_call(18, loop, 'train_step', lambda: (interrupt(), interrupt()))", 12),
}


@pytest.mark.parametrize("code, step", INTERRUPTS.values(), ids=INTERRUPTS.keys())
def test_ctrl_c_saves_and_says_how_to_go_on(invoke, sabotage, finished, tmp_path, code, step):
    run = tmp_path / "a run"  # the command has to quote it
    ended = sabotage(code, "train", *SMALL, "--quiet", "--out", run)
    assert ended.status == 130 and "Traceback" not in ended.stderr
    assert json.loads(invoke("evaluate", run, "--json", "--device", "cpu").stdout)["step"] == step
    assert not (run / "result.json").exists() and not any(row.get("split") == "test" for row in rows(run))
    *_, command = ended.stderr.split("with: ")
    python, program, *args = shlex.split(command)
    assert (python, program) == ("python", "cli.py")
    assert invoke(*args).status == 0
    assert_same_run(run, finished)


def test_what_ctrl_c_says_works_in_a_shell(sabotage, finished, tmp_path):
    """On the real data."""
    real = """
whole = datasets.mnist.load(datasets.mnist.HERE, 14)
datasets.load = lambda *args: whole._replace(fingerprint=datasets.fingerprint(whole))
"""
    run = tmp_path / "a run"
    ended = sabotage(real + IN_AN_EPOCH, "train", *SMALL, "--out", run)
    *_, command = ended.stderr.split("with: ")
    command = command.replace("python", shlex.quote(sys.executable), 1)
    ended = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert_same_arrays(run, finished)  # tested in other blocks


# --- presets, sizes, splits ---


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"aux": "r"}, {"pretrain_epochs": 1, "epochs": 8, "bptt": 300, "aux_bptt": 300, "aux_length": 100}),
        (
            {},
            {"aux": "none", "pretrain_epochs": 0, "epochs": 8, "batch_size": 32, "dropconnect": 0, "threads": 4},
        ),  # shards of 8
        ({"batch_size": 128}, {"threads": 7}),
        ({"batch_size": 3}, {"threads": 1}),
        ({"threads": 9}, {"threads": 9}),
        (
            {"preset": "paper"},
            {"pretrain_epochs": 0, "epochs": 100, "valid": 0, "batch_size": 128, "dropconnect": 0.5},
        ),
        ({"model": "irnn"}, {"batch_size": 32, "dropconnect": 0, "bptt": "full", "aux_bptt": "full", "epochs": 8}),
        ({}, {"forget_bias": "loguniform", "lr": 0.003, "lr_schedule": "cosine"}),
        ({"lr": 0.01}, {"forget_bias": "loguniform", "lr": 0.01, "lr_schedule": "cosine"}),
        ({"preset": "paper"}, {"forget_bias": 1, "lr": 0.001, "lr_schedule": "constant"}),
        ({"model": "irnn"}, {"forget_bias": 1, "lr": 0.0003, "lr_schedule": "cosine"}),
        ({"model": "irnn", "size": 14}, {"bptt": "full"}),
        ({"model": "urnn", "bptt": 40}, {"lr": 0.0003, "lr_schedule": "cosine", "bptt": 40}),
        ({"model": "transformer", "preset": "paper"}, {"lr": 0.0005, "batch_size": 16, "epochs": 100, "valid": 0}),
        ({"aux": "p", "preset": "paper"}, {"pretrain_epochs": 20, "epochs": 100, "bptt": 300, "aux_length": 600}),
        ({"aux": "r", "preset": "paper", "epochs": 7}, {"pretrain_epochs": 20, "epochs": 7, "valid": 0}),
        ({"aux": "r", "size": 14}, {"bptt": 75, "aux_bptt": 75, "aux_length": 25}),
        ({"aux": "r", "size": 14, "preset": "paper"}, {"bptt": 75, "aux_bptt": 75, "aux_length": 150}),
        ({"aux": "r", "size": 14, "bptt": 50}, {"bptt": 50, "aux_bptt": 50, "aux_length": 25}),
        ({"aux": "r", "size": 14, "bptt": 0}, {"bptt": 0, "aux_bptt": 75}),
        ({"aux": "r", "size": 28, "bptt": 0}, {"bptt": 0, "aux_bptt": 300, "aux_length": 100}),
        ({"aux": "r", "bptt": "full"}, {"bptt": "full", "aux_bptt": "full"}),
        ({"aux": "r", "bptt": 20, "aux_bptt": 0}, {"bptt": 20, "aux_bptt": 0}),
    ],
)
def test_defaults(given, expected):
    built = dataclasses.asdict(config.build({"task": "mnist", **given}, cores=7))
    assert {name: built[name] for name in expected} == expected


@pytest.mark.parametrize("given, seconds", [("90s", 90), ("90", 90), ("1.5m", 90), ("2h", 7200), ("0", 0)])
def test_a_budget_is_in_seconds_minutes_or_hours(given, seconds):
    assert cli.train_options(["--budget", given]) == {"budget": seconds}


def test_help_shows_limits_that_do_not_go_without_saying(invoke):
    words = " ".join(invoke("train", "--help").stdout.split())
    assert "[default: 1.0; 0 to 1]" in words and "sequences a shard; 1 to 256]" in words
    assert "512; 3 or more]" in words and "validation split. [default: 0]" in words


def test_preset_and_size_on_the_command_line(invoke, tmp_path):
    options = "--task mnist --size 14 --aux rp --preset paper --hidden 2 --device cpu --budget 0 --quiet".split()
    assert invoke("train", *options, "--out", tmp_path).status == 0
    saved = read(tmp_path / "config.json")
    names = "pretrain_epochs epochs bptt aux_bptt aux_length valid".split()
    assert [saved[name] for name in names] == [20, 100, 75, 75, 150, 0]
    assert saved["threads"] == saved["shards"] == min(cli.cores(), 4)


@pytest.mark.parametrize(
    "given, trained, validated, tested",
    [
        ({}, 55000, 5000, 10000),
        ({"limit_train": 100}, 90, 10, 10000),
        ({"limit_train": 9}, 9, 0, 10000),
        ({"valid": 0}, 60000, 0, 10000),
        ({"valid": 7, "limit_train": 100}, 93, 7, 10000),
        ({"limit_test": 30}, 55000, 30, 30),
        ({"limit_train": 99999999, "limit_test": 99999999}, 55000, 5000, 10000),
    ],
)
def test_splits(tmp_path, given, trained, validated, tested):
    x = np.zeros((60000, 4, 1), "uint8")
    task = Task(x, np.zeros(60000, int), x[:10000], np.zeros(10000, int), classes=10)
    runs = [set_up(config.build({"task": "mnist", "seed": seed, **given}, 1), task, tmp_path) for seed in (0, 1)]
    train, valid, test = runs[0].train_rows, runs[0].valid_rows, runs[0].test_rows
    assert (len(train), len(valid), len(test)) == (trained, validated, tested)
    assert len(np.union1d(train, valid)) == trained + validated
    assert max(train.max(), valid.max(initial=0)) < given.get("limit_train", 60000)
    assert (runs[1].valid_rows == valid).all()  # whatever the seed


# --- gradcheck ---


def test_gradcheck_passes(invoke):
    ended = invoke("gradcheck", "--aux", "r", "--bptt", 5)
    assert ended.status == 0
    assert re.search(r"^main\.Wh +\d\.\de-\d\d$", ended.stdout, re.MULTILINE)


def test_gradcheck_fails_and_names_the_wrong_gradient(invoke, monkeypatch):
    right = model.lstm_backward_of_each

    def wrong(*args, **options):
        return [(dx, dh, dc, dWx, dWh * 1.0005, db) for dx, dh, dc, dWx, dWh, db in right(*args, **options)]

    monkeypatch.setattr(model, "lstm_backward_of_each", wrong)
    refused(invoke("gradcheck", "--aux", "none", "--bptt", 5), "main.Wh (none 5)")


# --- bad input: the options ---

BAD_OPTIONS = [
    ("--epochs -1", "--epochs"),
    ("--epochs many", "many"),
    ("--batch-size 0", "--batch-size"),
    ("--hidden 0", "--hidden"),
    (f"--hidden 1{'0' * 30}", "--hidden"),
    ("--aux-length 1", "--aux-length"),
    ("--anchors 0", "--anchors"),
    (f"--anchors 1{'0' * 30}", "--anchors"),
    ("--threads 0", "--threads"),
    ("--threads 257", "--threads"),
    ("--feed-start 1.5", "--feed-start"),
    ("--feed-end -0.1", "--feed-end"),
    ("--limit-train 0", "--limit-train"),
    ("--limit-test 0", "--limit-test"),
    ("--seed -1", "--seed"),
    (f"--seed 1{'0' * 400}", "--seed"),
    ("--bptt -1", "--bptt"),
    ("--bptt some", "neither a number nor 'full'"),
    ("--aux-bptt 2.5", "2.5"),
    ("--forget-bias much", "neither a number nor 'chrono' nor 'loguniform'"),
    ("--forget-bias nan", "not a finite number"),
    ("--lr nan", "not a finite number"),
    ("--lr inf", "not a finite number"),
    ("--lr 0", "above 0"),
    ("--lr -0.1", "--lr"),
    ("--aux-weight nan", "--aux-weight"),
    ("--clip -1", "--clip"),
    ("--dropconnect 1", "below 1"),
    ("--checkpoint-every 12", "12 is no multiple of 8"),
    ("--task cifar11", "mnist"),
    ("--aux q", "none"),
    ("--model rnn", "lstm"),
    ("--dtype float16", "float32"),
    ("--preset large", "paper"),
    ("--aux none --pretrain-epochs -1", "--pretrain-epochs: -1 is out of range"),
    ("--aux none --model irnn --forget-bias chrono", "has no forget gates"),
    ("--valid 40", "leaves none of the 40"),
    ("--size 15", "choose 28 or 14"),
    ("--budget soon", "30m"),
    ("--budget -5", "--budget"),
    ("--budget nan", "--budget"),
    ("--learning-rate 1", "--learning-rate"),
    ("more", "more"),
]


@pytest.mark.parametrize("options, says", BAD_OPTIONS, ids=[options[:30] for options, _ in BAD_OPTIONS])
def test_bad_options_are_refused_and_nothing_is_begun(invoke, tmp_path, options, says):
    refused(invoke("train", *SMALL, *options.split(), "--out", tmp_path / "run"), says)
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_is_not_there(invoke, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cupy", None)  # as if not installed
    ended = invoke("train", *SMALL, "--device", "gpu", "--out", tmp_path / "run")
    refused(ended, "CuPy is not installed", "requirements-gpu.txt", "--device cpu")
    assert not (tmp_path / "run").exists()


def test_task_and_out_are_needed(invoke):
    refused(invoke("train", "--aux", "r"), "--task is needed: one of mnist, pmnist")
    refused(invoke("train", "--resume"), "--resume needs --out")


def test_bad_options_of_gradcheck_are_refused(invoke):
    refused(invoke("gradcheck", "--bptt", "-1"), "--bptt")
    refused(invoke("gradcheck", "--aux", "q"), "'q' is not one of")


# --- bad input: the run directory ---


@pytest.mark.parametrize(
    "old, option, new",
    [
        ("0.003", "--lr", "0.01"),
        ("mnist", "--task", "pmnist"),
        ("r", "--aux", "rp"),
        ("10", "--bptt", "full"),
        ("3", "--hidden", "4"),
        ("0", "--seed", "1"),
        ("1", "--pretrain-epochs", "2"),
    ],
)
def test_resume_with_another_option_names_both_values(invoke, run, old, option, new):
    before = contents(run)
    ended = invoke("train", "--resume", option, new, "--out", run)
    refused(ended, f"{option} {new} differs from this run's {old};")
    assert contents(run) == before


def test_resume_with_bad_options_of_its_own(invoke, run):
    before = contents(run)
    for options in ["--epochs", "-1"], ["--budget", "soon"], ["--data-dir", "nowhere"]:
        refused(invoke("train", "--resume", *options, "--out", run), options[1])
    assert contents(run) == before


def test_resume_on_other_data(invoke, run, task, monkeypatch):
    before = contents(run)
    monkeypatch.setattr(cli, "load_task", lambda cfg: (cfg, task._replace(y_test=task.y_test[:30])))
    for command in ["evaluate", "--device", "cpu", run], ["train", "--resume", "--out", run]:
        refused(invoke(*command), "the data differ from this run's: test 30, not 64; check --data-dir")
    assert contents(run) == before


def test_a_run_is_not_written_over(invoke, run, monkeypatch):
    before = contents(run)
    refused(invoke("train", *SMALL, "--seed", 5, "--out", run), "--resume", "another --out")
    monkeypatch.setattr(cli, "load_task", lambda cfg: pytest.fail("the data were read first"))
    refused(invoke("train", *SMALL, "--seed", 5, "--out", run), "--resume", "another --out")
    assert contents(run) == before


@pytest.mark.parametrize("command", [["evaluate"], ["train", "--resume", "--out"]], ids=["evaluate", "resume"])
def test_a_directory_that_is_no_run(invoke, tmp_path, command):
    (tmp_path / "notes.txt").write_text("no run")
    for path in tmp_path, tmp_path / "nowhere", tmp_path / "no" / "where", tmp_path / "notes.txt":
        refused(invoke(*command, path), path, "holds no run")
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_a_run_whose_weights_were_not_kept(invoke, tmp_path):
    (tmp_path / "result.json").write_text("{}")
    refused(invoke("evaluate", tmp_path), tmp_path, "without its weights", "restore checkpoint.npz")


def members(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def flip(path):
    """One bit of one weight."""
    data = bytearray(path.read_bytes())
    data[data.index(members(path)["params/main.Wh"].tobytes())] ^= 1
    path.write_bytes(data)


def pickled(path):
    """An array whose unpickling makes a file."""

    class Trap:
        def __reduce__(self):
            return open, (str(path.parent / "sprung"), "w")

    np.savez(path, **{**members(path), "params/main.Wh": np.array([Trap()], object)})


def another_weight(path):
    """A sound .npz, were it not for the checksum."""
    saved = members(path)
    saved["params/main.Wh"][0, 0] += 1
    np.savez(path, **saved)


def without_checksum(path):
    saved = members(path)
    del saved["sha256"]
    np.savez(path, **saved)


def of_a_later_version(path):
    """With its right checksum, but something in it that this version does not know."""
    saved = members(path)
    meta = {**json.loads(saved["meta"].tobytes()), "momentum": 0.9}
    saved["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    del saved["sha256"]
    np.savez(path, **saved, sha256=np.frombuffer(digest(saved), np.uint8))


def as_npy(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


def as_directory(path):
    path.unlink()
    path.mkdir()


def edit(**changes):
    """Harm config.json: other values for some of its keys."""
    return lambda path: path.write_text(json.dumps({**read(path), **changes}))


def without_task(path):
    path.write_text(json.dumps({k: v for k, v in read(path).items() if k != "task"}))


HARM = {
    "checkpoint.npz": {
        "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
        "a flipped bit": flip,
        "empty": lambda path: path.write_bytes(b""),
        "text": lambda path: path.write_text("not an archive\n" * 100),
        "an array of objects": pickled,
        "another weight": another_weight,
        "no checksum": without_checksum,
        "of a later version": of_a_later_version,
        "an .npy": as_npy,
        "a directory": as_directory,
    },
    "config.json": {
        "missing": lambda path: path.unlink(),
        "empty": lambda path: path.write_text(""),
        "truncated": lambda path: path.write_text(path.read_text()[:100]),
        "binary": lambda path: path.write_bytes(bytes(range(256))),
        "a list": lambda path: path.write_text("[1, 2]"),
        "nested": lambda path: path.write_text("[" * 100_000),
        "an unknown key": edit(colour="red"),
        "no task": without_task,
        "a word for a number": edit(lr="fast"),
        "a number for a word": edit(dtype=32),
        "half an epoch": edit(epochs=1.5),
        "null epochs": edit(epochs=None),
        "null aux_bptt": edit(aux_bptt=None),
        "NaN": edit(lr=math.nan),
        "a huge number": edit(lr=10**400),
        "no shards": edit(shards=0),
        "no schedules": edit(schedule_steps=None),
        "another seed": edit(seed=1),
    },
}
HARMS = [pytest.param(name, harm, id=f"{name}: {what}") for name in HARM for what, harm in HARM[name].items()]


@pytest.mark.parametrize("name, harm", HARMS)
def test_a_damaged_run_is_refused_and_left_as_it_is(invoke, run, name, harm):
    harm(run / name)
    before = contents(run)
    for command in ["evaluate", "--device", "cpu", run], ["train", "--resume", "--out", run]:
        refused(invoke(*command), run, name)
        assert contents(run) == before


@pytest.mark.parametrize(
    "error, says",
    [(PermissionError(13, "Permission denied"), "Permission"), (MemoryError(), "does not fit into memory")],
)
def test_a_checkpoint_that_cannot_be_read_now_is_not_called_damaged(invoke, run, monkeypatch, error, says):
    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr("minaux.training.checkpoint.np.load", fails)
    ended = invoke("train", "--resume", "--out", run)
    refused(ended, says)
    assert "damaged" not in ended.stderr and "new run" not in ended.stderr


def test_a_checkpoint_of_another_size(invoke, run):
    """Its options are the run's, but its weights are not."""
    directory = RunDirectory(run)
    cfg = directory.read_config()
    state, before = directory.load(cfg), contents(run)
    state.params["main.Wh"] = state.params["main.Wh"][:-1]
    directory.save(cfg, state)
    refused(invoke("evaluate", run), "checkpoint.npz does not hold the parameters of this run's model: restore it")
    assert contents(run).keys() == before.keys() - {"result.json"}  # `save` removed it


@pytest.mark.parametrize(("why", "told"), [("Unable to allocate 9 TiB", " (Unable to allocate 9 TiB)"), ("", "")])
def test_too_little_memory_is_one_line(invoke, monkeypatch, tmp_path, why, told):
    def allocate(run):
        raise MemoryError(why)

    monkeypatch.setattr("cli.new_state", allocate)
    ended = invoke("train", *SMALL, "--out", tmp_path / "run")
    refused(ended, f"out of memory{told}: free some, or train with a smaller --hidden or --batch-size")
    assert not (tmp_path / "run").exists()


def test_a_missing_package_is_named(tmp_path):
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError(name='click')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, ROOT / "cli.py", "--version"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr == "click is missing: first . .venv/bin/activate, or pip install -r requirements.txt\n"


def test_an_unknown_task_in_config_json(invoke, run):
    edit(task="mnist2")(run / "config.json")
    for command in ["evaluate", run], ["train", "--resume", "--out", run]:
        refused(invoke(*command), "mnist2")


def test_a_checkpoint_of_another_run(invoke, run, tmp_path):
    other = tmp_path / "other"
    assert invoke("train", *SMALL, "--seed", 1, "--budget", 0, "--out", other).status == 0
    shutil.copy(other / "checkpoint.npz", run)
    before = contents(run)
    refused(invoke("train", "--resume", "--out", run), "of different runs: seed is 1 in the one and 0 in the other")
    assert contents(run) == before


@pytest.fixture(scope="module")
def sound(finished, tmp_path_factory):
    """A copy's directory, its checkpoint's bytes, and what it takes to load them."""
    run = pathlib.Path(shutil.copytree(finished, tmp_path_factory.mktemp("sound") / "run"))
    shapes = {name[7:]: w.shape for name, w in arrays(run).items() if name.startswith("params/")}
    return run, (run / "checkpoint.npz").read_bytes(), (config.read(run / "config.json"), shapes)


@settings(max_examples=100)
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_any_byte_of_a_checkpoint(finished, sound, where, change):
    """Changed, it is noticed, or it makes no difference (some bytes of a .zip mean nothing)."""
    run, data, expected = sound
    at = int(where * len(data))
    (run / "checkpoint.npz").write_bytes(data[:at] + bytes([data[at] ^ change]) + data[at + 1 :])
    try:
        state = RunDirectory(run).load(*expected)
    except config.UserError as error:
        assert str(run / "checkpoint.npz") in str(error)
        return
    assert_same_arrays(run, finished)
    assert state.step == 24


# --- bad input: the data ---


def replace(name, data):
    """Harm a folder of MNIST's files: other bytes in one of them."""

    def harm(folder):
        (folder / f"{name}.gz").unlink()
        (folder / f"{name}.gz").write_bytes(data((mnist.HERE / f"{name}.gz").read_bytes()))
        return f"{name}.gz"

    return harm


def missing(folder):
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    return "train-labels-idx1-ubyte.gz is missing"


def swapped(folder):
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    (folder / "train-labels-idx1-ubyte.gz").symlink_to(mnist.HERE / "t10k-labels-idx1-ubyte.gz")
    return "is not MNIST's train-labels-idx1-ubyte"


def no_folder(folder):
    shutil.rmtree(folder)
    return f"there is no folder {folder}: correct --data-dir, or leave it out"


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
DATA_HARM = {
    "no folder": no_folder,
    "no labels": missing,
    "swapped labels": swapped,
    "truncated": replace(IMAGES, lambda data: data[:5000]),
    "truncated by a byte": replace(LABELS, lambda data: data[:-1]),
    "a flipped bit": replace(LABELS, lambda data: data[:9999] + bytes([data[9999] ^ 1]) + data[10000:]),
    "not zipped": replace(LABELS, gzip.decompress),
    "empty": replace(IMAGES, lambda data: b""),
}


@pytest.mark.parametrize("harm", DATA_HARM.values(), ids=DATA_HARM.keys())
def test_damaged_data(invoke, run, tmp_path, harm):
    folder, before = tmp_path / "data", contents(run)
    folder.mkdir()
    for path in mnist.HERE.glob("*.gz"):
        (folder / path.name).symlink_to(path)
    says = harm(folder)
    refused(invoke("train", "--resume", "--data-dir", folder, "--out", run), folder, says)
    assert contents(run) == before


# --- bad input: the disk ---


def test_a_place_that_cannot_be_written(invoke, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in tmp_path / "file", tmp_path / "file" / "run", "/dev/null/run":
        refused(invoke("train", *SMALL, "--out", out), out)
    assert contents(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_full_disk_costs_nothing_saved(invoke, run, monkeypatch, name):
    """config.json, which resume writes anew, still fits; then nothing does."""
    function, calls, before = getattr(os, name), itertools.count(), contents(run)

    def full(*args):
        if next(calls) < 1:
            return function(*args)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, name, full)
        ended = invoke("train", "--resume", "--epochs", 2, "--out", run)
    refused(ended, "No space left on device", run / "checkpoint.npz", "--resume")
    assert contents(run).keys() == before.keys() - {"result.json"}  # of the shorter run; no temporary file stays
    assert contents(run)["checkpoint.npz"] == before["checkpoint.npz"]
    assert invoke("train", "--resume", "--out", run).status == 0
    assert read(run / "result.json")["steps"] == 36


@pytest.mark.parametrize("name, more", [("checkpoint.npz", -9000), ("metrics.jsonl", 100)])
def test_a_disk_that_is_full_in_the_middle_of_a_file(invoke, sabotage, run, name, more):
    """The system itself refuses to write on."""
    before = contents(run)
    size = len(before[name]) + more
    code = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"
    ended = sabotage(code, "train", "--resume", "--epochs", 2, "--quiet", "--out", run)
    refused(ended, "File too large", run / name)
    assert contents(run).keys() == before.keys() - {"result.json"}
    assert contents(run)["checkpoint.npz"] == before["checkpoint.npz"]
    assert invoke("train", "--resume", "--out", run).status == 0
    assert [row["step"] for row in rows(run) if row["kind"] == "train"] == [10, 12, 20, 24, 30, 36]


def test_a_disk_that_is_full_from_the_start(invoke, sabotage, finished, tmp_path):
    code = "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))"
    ended = sabotage(code, "train", *SMALL, "--quiet", "--out", tmp_path)
    refused(ended, "File too large", tmp_path / "checkpoint.npz")
    assert contents(tmp_path).keys() == {"config.json"}  # without a checkpoint it is no run:
    assert invoke("train", *SMALL, "--out", tmp_path).status == 0
    assert_same_run(tmp_path, finished)


# --- bad input: numbers that run away ---


@pytest.mark.parametrize("change", ["values", "order", "labels", "none"])
def test_other_data_of_the_same_shape_are_noticed(invoke, tmp_path, change):
    r = np.random.default_rng(0)
    x, y = r.random((40, 12, 1), "float32"), np.arange(40) % 2
    file, run = tmp_path / "x.npz", tmp_path / "run"
    np.savez(file, x=x, y=y)
    assert invoke(*tiny("npz", file, "none", run)).status == 0
    before = contents(run)
    changed = {"values": (x * 2, y), "order": (x[::-1], y[::-1]), "labels": (x, 1 - y), "none": (x.copy(), y)}
    x, y = changed[change]
    np.savez_compressed(file, x=x, y=y)  # other bytes of the file in each case
    for command in ["evaluate", run], ["train", "--resume", "--epochs", 1, "--quiet", "--out", run]:
        ended = invoke(*command)
        if change == "none":
            assert ended.status == 0, ended.stderr
        else:
            refused(ended, "the data differ from this run's: as many, but other values or another order;")
            assert contents(run) == before


def test_a_config_of_a_newer_version_is_told_as_one(invoke, run):
    saved = read(run / "config.json")
    (run / "config.json").write_text(json.dumps({**saved, "version": "99.1", "dropout": 0.5}))
    refused(invoke("evaluate", run), "was written by minaux 99.1,", "does not know dropout; use that version")
    (run / "config.json").write_text(json.dumps({**saved, "version": "99.1", "model": "mamba"}))
    refused(invoke("evaluate", run), "was written by minaux 99.1,", "'mamba' is not one of", "; use that version")
    (run / "config.json").write_text(json.dumps({**saved, "dropout": 0.5}))  # this version wrote no such thing
    refused(invoke("evaluate", run), "is damaged")


@pytest.mark.parametrize("command", [["train", *SMALL], ["demo"], ["analyse", "curves", "--task", "mnist"]])
def test_an_empty_out_is_told(invoke, command):
    refused(invoke(*command, "--out", ""), "--out: the name is empty, choose a directory")


@pytest.mark.parametrize(
    "command", [["train", "--resume", "--out"], ["evaluate"], ["predict"], ["export", "--out", "a.safetensors"]]
)
def test_an_empty_name_of_a_run_is_told(invoke, command):
    refused(invoke(*command, ""), "the run's name is empty: give its directory")


def test_one_command_goes_on_with_none_r_and_p(invoke, tmp_path):
    """--pretrain-epochs, which is 0 without an auxiliary loss, is no other option than the run's."""
    options = [*SMALL, "--aux", "none", "--pretrain-epochs", 1, "--quiet", "--out", tmp_path / "run"]
    assert invoke("train", *options, "--budget", 0).status == 0
    assert invoke("train", *options, "--resume").status == 0
    refused(invoke("train", *options, "--resume", "--lr", 1), "--lr 1.0 differs from this run's")


@pytest.mark.parametrize(
    "started, typed",
    [
        ("/a b/cli.py", "python '/a b/cli.py'"),
        ("cli.py", "python cli.py"),
        ("/bin/minaux", "minaux"),
        ("-c", "python cli.py"),
    ],
)
def test_advice_names_what_was_started(monkeypatch, started, typed):
    monkeypatch.setattr(sys, "argv", [started])
    assert datasets.program() == typed and datasets.command("cifar10") == f"{typed} data fetch cifar10"


def test_pretraining_tells_no_accuracy(invoke, tmp_path):
    told = invoke("train", *SMALL, "--out", tmp_path / "run").stdout.splitlines()
    assert "batch 12, pretraining: validation" in told and any("valid accuracy" in line for line in told)


@pytest.mark.parametrize("lr", ["1e30", "1e300"])
def test_loss_that_is_not_finite(invoke, tmp_path, lr):
    ended = invoke("train", *SMALL, "--lr", lr, "--clip", 0, "--out", tmp_path)
    refused(ended, "not finite in batch 2:", "lower --lr", tmp_path / "checkpoint.npz")
    assert not (tmp_path / "result.json").exists()
    assert all(np.isfinite(a).all() for a in arrays(tmp_path).values())
    assert invoke("evaluate", tmp_path, "--device", "cpu").status == 0


def test_a_nan_leaves_the_last_checkpoint(invoke, run, monkeypatch):
    right, before = model.loss_and_grads, contents(run)

    def wrong(*args, **options):
        result = right(*args, **options)
        result.grads["main.Wh"][0, 0] = np.nan
        return result

    monkeypatch.setattr(model, "loss_and_grads", wrong)
    ended = invoke("train", "--resume", "--epochs", 2, "--out", run)
    refused(ended, "not finite in batch 25:", run / "checkpoint.npz")
    assert contents(run)["checkpoint.npz"] == before["checkpoint.npz"]
    monkeypatch.undo()
    assert invoke("train", "--resume", "--out", run).status == 0


def test_loss_that_is_not_finite_after_the_last_step(invoke, tmp_path):
    """Only the evaluation can notice it."""
    options = "--pretrain-epochs 0 --limit-train 3 --valid 0 --lr 1e30 --clip 0".split()
    refused(invoke("train", *SMALL, *options, "--out", tmp_path), "not finite", "batch 1")
    assert all(np.isfinite(a).all() for a in arrays(tmp_path).values())
    assert not (tmp_path / "result.json").exists()
    assert all(row["step"] == 1 for row in rows(tmp_path))


def test_weights_that_are_not_finite_from_the_start(invoke, tmp_path):
    ended = invoke("train", *SMALL, "--forget-bias", 1e39, "--out", tmp_path)
    refused(ended, "--forget-bias: 1e+39 is not finite in float32")
    assert not (tmp_path / "checkpoint.npz").exists()
