"""Ranks of MPI: the same bits as processes of one machine, and their end."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from minaux.training import ranks
from tests.conftest import ROOT, SMALL, assert_same_arrays, rows

pytest.importorskip("mpi4py", reason="requirements-mpi.txt is not installed")
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]))
# Open MPI's leave to run as root and with more ranks than cores.
LEAVE = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
LEAVE |= {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe", "OPENBLAS_NUM_THREADS": "1"}
pytestmark = pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec")


def start(n, *args):
    """cli.py on n ranks."""
    command = [MPIEXEC, "-n", n, sys.executable, ROOT / "cli.py", *args]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        list(map(str, command)), env={**os.environ, **LEAVE}, stdout=pipe, stderr=pipe, text=True
    )


def run(n, *args):
    process = start(n, *args)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def alone(*args):
    ended = subprocess.run([sys.executable, ROOT / "cli.py", *map(str, args)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


RUN = [*SMALL, "--quiet"]


def kinds(folder):
    r = np.random.default_rng(0)
    lengths = r.integers(4, 13, 40)
    tokens = r.integers(0, 5, (40, 12)) * (np.arange(12) < lengths[:, None])
    np.savez(folder / "text.npz", x=tokens, y=np.arange(40) % 2, lengths=lengths)
    text = ["--task", "npz", "--data-dir", folder / "text.npz", "--aux", "rp", "--bptt", 8, "--aux-length", 6]
    nothing = ["--pretrain-epochs", 0]
    small = ["--hidden", 3, "--batch-size", 6, "--epochs", 1, "--device", "cpu", "--quiet"]
    return {
        "none": [*RUN, "--aux", "none", *nothing],
        "rp": [*RUN, "--aux", "rp"],
        "text": [*text, *small],
        "transformer": [*RUN, "--aux", "none", *nothing, "--model", "transformer", "--bptt", "full"],
    }


@pytest.mark.parametrize("kind", ["none", "rp", "text", "transformer"])
def test_ranks_give_the_bits_of_threads(tmp_path, kind):
    options = kinds(tmp_path)[kind]
    n = 3 if kind == "rp" else 2
    status, out, err = run(n, "train", *options, "--threads", 1, "--out", tmp_path / "ranks")
    assert (status, err) == (0, "") and out.count("test accuracy") == 1
    alone("train", *options, "--threads", n, "--out", tmp_path / "threads")
    assert_same_arrays(tmp_path / "ranks", tmp_path / "threads")
    assert (tmp_path / "ranks/metrics.jsonl").read_text().count('"eval"') >= 2


def test_a_run_goes_on_with_other_ranks_or_none(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = [*RUN, "--epochs", 2]
    alone("train", *options, "--threads", 4, "--out", whole)
    assert run(2, "train", *options, "--threads", 2, "--budget", 0, "--out", parts)[0] == 0  # 4 shards
    assert run(3, "train", "--resume", "--threads", 1, "--budget", "0.2s", "--out", parts)[0] == 0
    alone("train", "--resume", "--quiet", "--out", parts)
    assert_same_arrays(whole, parts)


def pids(process):
    """Of the ranks, by number."""
    found = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "environ").read_bytes().split(b"\0")
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        rank = [word.split(b"=")[1] for word in words if word.startswith((b"OMPI_COMM_WORLD_RANK=", b"PMI_RANK="))]
        if rank and str(ROOT / "cli.py").encode() in line and str(process.out).encode() in line:
            found[int(rank[0])] = int(folder.name)
    return found


def gone(process, within=10):
    """Whether no rank is left: mpiexec may end before the last one that it killed."""
    deadline = time.monotonic() + within
    while pids(process) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not pids(process)


def training(run, *args, n=2):
    """The ranks of a run that has begun to train."""
    process = start(n, "train", *args, "--out", run)
    process.out = run
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text().count("\n") > 1) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(random.Random(str(run)).random() / 2)
    return process, pids(process)


LONG = [*RUN, "--epochs", 40]


@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="no /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_costs_nothing_saved(tmp_path, rank):
    run_, whole = tmp_path / "run", tmp_path / "whole"
    process, found = training(run_, *LONG)
    os.kill(found[rank], signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode and gone(process)
    assert run(2, "train", "--resume", "--quiet", "--out", run_)[0] == 0
    alone("train", *LONG, "--threads", 2, "--out", whole)
    assert_same_arrays(run_, whole)


@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="no /proc")
@pytest.mark.parametrize("to", ["rank 0", "mpiexec"])
def test_sigterm_saves_and_ends_all_ranks(tmp_path, to):
    run_, whole = tmp_path / "run", tmp_path / "whole"
    process, found = training(run_, *LONG)
    os.kill(found[0] if to == "rank 0" else process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode and gone(process)
    with np.load(run_ / "checkpoint.npz") as file:
        saved = bytes(file["meta"]).decode()
    assert '"step": 0,' not in saved
    alone("train", "--resume", "--quiet", "--out", run_)
    alone("train", *LONG, "--threads", 2, "--out", whole)
    assert_same_arrays(run_, whole)


@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="no /proc")
def test_mpiexec_does_not_wait_for_the_batch(tmp_path):
    """It kills its ranks a quarter of a second after SIGTERM: what was trained until then is saved all the same."""
    options = "--task mnist --bptt full --batch-size 256 --valid 0 --limit-test 64 --epochs 1 --threads 1 --quiet"
    process, _ = training(tmp_path / "run", *options.split())
    trained = rows(tmp_path / "run")[-1]["step"]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert gone(process) and trained > 0
    with np.load(tmp_path / "run/checkpoint.npz") as file:
        assert json.loads(bytes(file["meta"]).decode())["step"] >= trained


def test_bad_options_are_told_once(tmp_path):
    status, out, err = run(3, "train", *RUN, "--lr", 0, "--out", tmp_path / "run")
    assert status and err.count("--lr: 0 would train nothing") == 1 and "Traceback" not in err


def fails_elsewhere(first):
    if ranks.communicator().rank:
        raise ValueError("no such thing")


def test_a_rank_that_fails_is_named(tmp_path):
    code = "from minaux.training.ranks import ranks, run_program; from tests.training import test_ranks as t\n"
    code += "def program():\n    with ranks(1) as all:\n        all.run(t.fails_elsewhere, (1,), [(), ()])\n"
    command = [MPIEXEC, "-n", "2", sys.executable, "-c", code + "run_program(program)"]
    ended = subprocess.run(command, env={**os.environ, **LEAVE}, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode and "rank 1 on " in ended.stderr and "ValueError('no such thing')" in ended.stderr


def test_without_mpi4py_it_is_said_once(tmp_path):
    (tmp_path / "mpi4py.py").write_text("raise ImportError('none here')")
    environment = {**os.environ, **LEAVE, "PYTHONPATH": str(tmp_path)}
    command = [MPIEXEC, "-n", "2", sys.executable, str(ROOT / "cli.py"), "data", "list"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode and ended.stderr.count("mpiexec needs mpi4py (none here): pip install") == 1
    assert ended.stdout == ""
