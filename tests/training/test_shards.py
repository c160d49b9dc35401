"""Worker processes: their errors, and their end."""

import os
import pathlib
import time

import pytest

from minaux.training.shards import workers
from tests.conftest import SMALL, arrays, assert_same_run

RUN = [*SMALL, "--threads", 3, "--quiet"]
PIDS = "[child.pid for child in __import__('multiprocessing').active_children()]"


def test_results_come_in_the_order_of_the_parts():
    with workers(3) as run:
        assert run(divmod, [(7, 2), (9, 4), (1, 1)]) == [(3, 1), (2, 1), (1, 0)]
        assert run(divmod, [(5, 3)]) == [(1, 2)]


def test_an_error_in_a_worker_is_raised_here():
    with pytest.raises(ZeroDivisionError), workers(2) as run:
        run(divmod, [(1, 1), (1, 0)])


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = pathlib.Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().split()[2] == "Z"  # over, though nobody has asked for its status


def test_workers_end_when_their_run_is_killed(sabotage, tmp_path):
    write = f"open({str(tmp_path / 'pids')!r}, 'w').write(repr({PIDS}))"
    sabotage(f"at_call(5, loop, 'train_step', lambda: [{write}, kill()])", "train", *RUN, "--out", tmp_path / "run")
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().strip("[]").split(",")]
    deadline = time.monotonic() + 60
    while not all(map(gone, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(pids) == 2 and all(map(gone, pids))


def test_a_worker_that_dies_costs_nothing_saved(sabotage, invoke, tmp_path):
    died, run = tmp_path / "died", tmp_path / "run"
    ended = sabotage(
        f"at_call(15, loop, 'train_step', lambda: [os.kill(pid, 9) for pid in {PIDS}])",
        "train",
        *RUN,
        "--out",
        died,
    )
    assert ended.status == 1 and ended.stderr.count("\n") == 1 and "a worker process died" in ended.stderr
    before = arrays(died)
    assert before["params/main.Wh"].any()
    assert invoke("train", "--resume", "--quiet", "--out", died).status == 0
    assert invoke("train", *RUN, "--out", run).status == 0
    assert_same_run(died, run)


@pytest.mark.parametrize("after", [False, True])
def test_ctrl_c_goes_to_the_run_alone(sabotage, invoke, tmp_path, after):
    """As from a terminal: to the whole group of processes, before or after the first batch starts the workers."""
    stopped, run = tmp_path / "stopped", tmp_path / "run"
    act = f"lambda: os.killpg(0, signal.SIGINT), after={after}"
    interrupt = f"os.setpgid(0, 0); at_call(1, shards.Shards, 'each', {act})"
    ended = sabotage(interrupt, "train", *RUN, "--out", stopped)
    assert ended.status == 130 and "Traceback" not in ended.stderr
    assert invoke("train", "--resume", "--quiet", "--out", stopped).status == 0
    assert invoke("train", *RUN, "--out", run).status == 0
    assert_same_run(stopped, run)
