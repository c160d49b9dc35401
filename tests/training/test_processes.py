"""Worker processes: what they get and answer, their errors, and their end."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from minaux.training.processes import Memory, WorkerError, processes
from tests.conftest import ROOT, SMALL, arrays, assert_same_run

RUN = [*SMALL, "--threads", 3, "--quiet"]
PIDS = "[worker.process.pid for worker in processes.them.workers]"
# Keeps the run's processes where the sabotage finds them.
KEEP = """
made = processes.Processes.__init__
def keep(self, n):
    processes.them = self
    made(self, n)
processes.Processes.__init__ = keep
"""


def test_results_come_in_the_order_of_the_parts():
    with processes(3) as workers:
        assert workers.run(divmod, (), [(7, 2), (9, 4), (1, 1)]) == [(3, 1), (2, 1), (1, 0)]
        assert workers.run(divmod, (7,), [(n,) for n in range(1, 8)]) == [divmod(7, n) for n in range(1, 8)]
        assert workers.run(divmod, (5,), [(3,)]) == [(1, 2)]


def test_an_error_in_a_worker_is_raised_here():
    with pytest.raises(ZeroDivisionError), processes(2) as workers:
        workers.run(divmod, (1,), [(1,), (0,)])


class Odd(Exception):
    def __init__(self, one, two):
        super().__init__("odd")


def fails(kind):
    if kind:
        raise {"closed": ValueError(lambda: 1), "odd": Odd(1, 2), "plain": ValueError("words")}[kind]


def test_an_error_that_cannot_be_sent_is_told_by_its_words():
    for kind, says in ("plain", "words"), ("closed", "ValueError"), ("odd", "odd"):
        with pytest.raises((ValueError, RuntimeError), match=says), processes(2) as workers:
            workers.run(fails, (), [("",), (kind,)])


def test_where_no_process_can_be_started_fewer_threads_are_advised(monkeypatch):
    def refused(*args, **options):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refused)
    says = r"no worker process can be started \(Resource temporarily unavailable\); to go on with fewer --threads"
    with pytest.raises(WorkerError, match=says), processes(2) as workers:
        workers.run(divmod, (1,), [(1,), (1,)])


def twice(common, mine):
    return {"twice": 2 * common["a"], "mine": mine + 1, "pid": os.getpid()}


def test_arrays_go_there_and_back_whatever_their_size_and_layout():
    r = np.random.default_rng(0)
    with processes(2) as workers:
        for size in 1, 1000, 3, 300_000:  # the memory grows, and what it held before does not matter
            a, *mine = (r.standard_normal((4, size)).T.astype(dtype) for dtype in ("float32", "float64", "float16"))
            mine[1] = mine[1][::2]
            here, there = workers.run(twice, ({"a": a},), [(m,) for m in mine])
            assert here["pid"] == os.getpid() != there["pid"]
            for found, m in (here, mine[0]), (there, mine[1]):
                assert (found["twice"] == 2 * a).all() and (found["mine"] == m + 1).all()
                assert (found["mine"].shape, found["mine"].dtype) == (m.shape, m.dtype)
        empty = np.zeros((0, 3))
        assert workers.run(twice, ({"a": empty},), [(empty,)] * 2)[1]["mine"].shape == (0, 3)


def test_what_was_read_does_not_change_when_the_memory_grows():
    memory = Memory()
    first = memory.read(memory.write(np.arange(10)))
    assert first.ctypes.data % 64 == 0 and not first.flags.writeable
    memory.first(1_000_000)
    assert (first == np.arange(10)).all()
    os.close(memory.fd)


def test_workers_run_the_same_code_whatever_the_current_folder_holds(tmp_path):
    """Neither another minaux there nor a module that hides one of Python's is imported."""
    for name in "minaux", "numpy", "random", "pickle", "mmap", "subprocess":
        (tmp_path / f"{name}.py").write_text(
            f"open('imported', 'a').write('{name} '); raise SystemExit('wrong code')"
        )
    run = [*SMALL, "--threads", "2", "--quiet", "--epochs", "1", "--out", tmp_path / "run"]
    ended = subprocess.run([sys.executable, ROOT / "cli.py", "train", *run], cwd=tmp_path, capture_output=True)
    assert (ended.returncode, ended.stderr) == (0, b"") and not (tmp_path / "imported").exists()


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = pathlib.Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().split()[2] == "Z"  # over, though nobody has asked for its status


def test_workers_end_when_their_run_is_killed(sabotage, tmp_path):
    write = f"open({str(tmp_path / 'pids')!r}, 'w').write(repr({PIDS}))"
    sabotage(
        f"{KEEP}\nat_call(5, loop, 'train_step', lambda: [{write}, kill()])",
        "train",
        *RUN,
        "--out",
        tmp_path / "run",
    )
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().strip("[]").split(",")]
    deadline = time.monotonic() + 60
    while not all(map(gone, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(pids) == 2 and all(map(gone, pids))


def test_a_worker_that_dies_costs_nothing_saved(sabotage, invoke, tmp_path):
    died, run = tmp_path / "died", tmp_path / "run"
    ended = sabotage(
        f"{KEEP}\nat_call(15, loop, 'train_step', lambda: [os.kill(pid, 9) for pid in {PIDS}])",
        "train",
        *RUN,
        "--out",
        died,
    )
    assert ended.status == 1 and ended.stderr.count("\n") == 1 and "ended with signal 9" in ended.stderr
    before = arrays(died)
    assert before["params/main.Wh"].any()
    assert invoke("train", "--resume", "--threads", 1, "--quiet", "--out", died).status == 0  # the same 3 shards
    assert invoke("train", *RUN, "--out", run).status == 0
    assert_same_run(died, run)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1], ids=lambda s: s.name)
@pytest.mark.parametrize("after", [False, True])
def test_signals_go_to_the_run_alone(sabotage, invoke, tmp_path, after, number):
    """As from a terminal or a scheduler: to all processes, before or after the first batch starts the workers."""
    stopped, run = tmp_path / "stopped", tmp_path / "run"
    act = f"lambda: os.killpg(0, {int(number)}), after={after}"
    interrupt = f"os.setpgid(0, 0); at_call(1, shards.Shards, 'each', {act})"
    ended = sabotage(interrupt, "train", *RUN, "--out", stopped)
    assert ended.status == 128 + number and "Traceback" not in ended.stderr
    assert invoke("train", "--resume", "--quiet", "--out", stopped).status == 0
    assert invoke("train", *RUN, "--out", run).status == 0
    assert_same_run(stopped, run)
