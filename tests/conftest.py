"""Hypothesis's profile; a small task, and ways to run cli.py on it: in this process, or in one that is to die."""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import warnings
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import settings

import cli
import datasets
from minaux.arrays import backend
from minaux.training import config, evaluation

# A shell may have had the tests ignore Ctrl-C, as it does in the background of a script; the programs they start,
# which inherit that, are to hear it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples every time, and no deadlines: machines differ.
settings.register_profile("ci", derandomize=True, deadline=None, max_examples=40, database=None)
settings.load_profile("ci")

ROOT = pathlib.Path(__file__).parent.parent
# 12 batches an epoch, the last one of 2 sequences.
SMALL = """--task mnist --size 14 --aux r --aux-length 10 --bptt 10 --hidden 3
--limit-train 40 --valid 5 --limit-test 20 --batch-size 3 --pretrain-epochs 1 --epochs 1
--lr-schedule constant --threads 1 --device cpu""".split()


class Ended(NamedTuple):
    status: int
    stdout: str
    stderr: str


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu"):
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # of CuPy's own none shall look like a missing GPU
            try:
                backend("gpu")
            except RuntimeError as error:
                pytest.skip(str(error))  # what can be emulated runs by the stand-in, too


@pytest.fixture(scope="session")
def task():
    """MNIST's first sequences at --size 14."""
    whole = datasets.load("mnist", 14)
    some = whole._replace(**{name: getattr(whole, name)[:64] for name in whole._fields[:4]})
    return some._replace(fingerprint=datasets.fingerprint(some))


@pytest.fixture(scope="session")
def invoke(task):
    """invoke(*args) runs cli.py in this process and returns how it ended; what a user would see as a
    traceback is raised. `task` stands in for MNIST at --size 14, which takes longer to load; it is tested in
    blocks of 4 sequences, as in `sabotage`."""
    load = datasets.load

    def load_small(name, size=None, data_dir=None, max_length=None):
        return task if (name, size, data_dir) == ("mnist", 14, None) else load(name, size, data_dir, max_length)

    def run(*args):
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
            patch.setattr(datasets, "load", load_small)
            patch.setattr(evaluation, "BLOCK", 4)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                cli.cli([str(arg) for arg in args], prog_name="cli.py")
        return Ended(end.value.code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def finished(invoke, tmp_path_factory):
    """The directory of a small run. Copy it before writing there."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    assert invoke("train", *SMALL, "--out", run).status == 0
    return run


# Run cli.py on the small task after a line of sabotage.
DRIVER = """
import itertools, os, resource, signal, sys, threading
import numpy as np
import cli, datasets
from minaux.training import checkpoint, evaluation, loop, processes, shards
from minaux import model

with np.load(sys.argv.pop(1)) as file:
    task = datasets.Task(**file, classes=10)
task = task._replace(fingerprint=datasets.fingerprint(task))
datasets.load = lambda *args: task
evaluation.BLOCK = 4

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)

def kill_after(seconds):
    timer = threading.Timer(seconds, kill)
    timer.daemon = True
    timer.start()

def at_call(n, owner, name, act, after=False):
    # At the n-th call of owner.name: act before it, or after it.
    function, calls = getattr(owner, name), itertools.count(1)
    def wrapped(*args, **kwargs):
        now = next(calls) == n
        if now and not after:
            act()
        result = function(*args, **kwargs)
        if now and after:
            act()
        return result
    setattr(owner, name, wrapped)

def in_write(n, name):
    # Die half way through the n-th write to a file with `name` in its path.
    writes = itertools.count(1)
    def opened(path, *args, **kwargs):
        file = open(path, *args, **kwargs)
        def write(data):
            if name in str(path) and next(writes) == n:
                type(file).write(file, data[: len(data) // 2])
                file.flush()
                kill()
            return type(file).write(file, data)
        file.write = write
        return file
    checkpoint.open = opened

exec(sys.argv.pop(1))
cli.cli(prog_name="cli.py")
"""


@pytest.fixture(scope="session")
def sabotage(task, tmp_path_factory):
    """sabotage(code, *args) runs cli.py in a process of its own, after `code`, and returns how it ended."""
    path = tmp_path_factory.mktemp("task") / "task.npz"
    np.savez(path, **{name: getattr(task, name) for name in task._fields[:4]})

    def run(code, *args):
        command = [sys.executable, "-c", DRIVER, path, code, *args]
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # starts faster
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:  # a pipe may be kept open
            ended = subprocess.run(map(str, command), cwd=ROOT, env=environment, stdout=out, stderr=err)
            out.seek(0), err.seek(0)
            return Ended(ended.returncode, out.read(), err.read())

    return run


def read_json(path):
    return json.loads(pathlib.Path(path).read_text())


def arrays(run):
    """The arrays in a run's checkpoint that are its result: "params/main.Wh", "v/...", "best/..."."""
    with np.load(run / "checkpoint.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files if "/" in name}


def rows(run):
    """The rows of a run's metrics.jsonl, which hold nothing but JSON (no NaN)."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} in metrics.jsonl")) for line in lines]


def assert_same_arrays(run, other):
    """The two checkpoints' arrays agree bit for bit."""
    mine, its = arrays(run), arrays(other)
    assert mine.keys() == its.keys()
    assert [k for k in mine if (mine[k].dtype, mine[k].tobytes()) != (its[k].dtype, its[k].tobytes())] == []


def assert_same_run(run, other):
    """As above, and their rows agree but for the clock's values."""
    assert_same_arrays(run, other)
    clock = ("elapsed_s", "sequences_per_second")
    mine, its = ([{k: v for k, v in row.items() if k not in clock} for row in rows(r)] for r in (run, other))
    assert mine == its


def tiny(task, folder, aux, run):
    """The arguments that train a tiny model on `task`, whose files are in `folder`."""
    options = "--hidden 3 --bptt 8 --aux-length 6 --batch-size 6 --epochs 1 --threads 1 --quiet".split()
    pretraining = [] if aux == "none" else ["--pretrain-epochs", 1]
    return ["train", "--task", task, "--data-dir", folder, "--aux", aux, *options, *pretraining, "--out", run]


def write_run(path, rows=(), options=(), **result):
    """Write the files of a run that was tested, with these rows, options and results: what figures read."""
    path.mkdir()
    (path / "metrics.jsonl").write_text("".join(json.dumps({"epoch": 1, **row}) + "\n" for row in rows))
    options = dict(options)
    made = {"task": "pmnist", "aux": "none", "bptt": 300, **{k: result[k] for k in result if k in ("aux", "bptt")}}
    (path / "config.json").write_text(json.dumps(dataclasses.asdict(config.build({**made, **options}, 1))))
    whole = {"task": "pmnist", "model": "lstm", "aux": "none", "bptt": 300, "seed": 0, "test_examples": 10_000}
    (path / "result.json").write_text(json.dumps({**whole, "complete": True, "elapsed_s": 1.0, **result}))
    return path
