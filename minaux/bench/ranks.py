"""What ranks of MPI bring: `mpiexec -n 2 python cli.py bench`."""

import platform
import statistics
import time

from ..model import Result
from ..training.loop import train_step
from ..training.processes import processes
from ..training.shards import Shards, ranks
from .cpu import Case, new_run

LENGTHS = (784,)


def cases(lengths):
    return [Case(aux, T, 300, N=N, L=100) for T in lengths for N in (128, 32) for aux in ("none", "r", "p")]


def machine():
    return {"ranks": ranks.size(), "host of rank 0": platform.node()}


def nothing(params, x, y, draws, **options):
    """What a shard would answer, without computing it: as many numbers."""
    losses, Wh = dict.fromkeys(("supervised", "r", "p"), 0.0), params["main.Wh"]
    return Result(losses, dict(params), {"supervised": Wh.copy(), "auxiliary": Wh.copy()}, [])  # pickled each


def measure(case, rounds):
    """The seconds of a training step on all ranks, on rank 0 alone, and of a step's communication, in turn."""
    run, state, draws = new_run(case, 1)
    x, y, times = run.task.x_train[: case.N], run.task.y_train[: case.N], {}
    with run.open_shards() as every, processes(1) as mine:
        programs = {
            "ranks": lambda: train_step(run, every, state),
            "alone": lambda: train_step(run, Shards(1, every.dtype, mine), state),
            "communication": lambda: every.loss_and_grads(nothing, state.params, x, y, draws(0)),
        }
        for n in range(rounds + 1):  # the first is slower: not counted
            for name, program in programs.items():
                began = time.perf_counter()
                program()
                times.setdefault(name, []).extend([time.perf_counter() - began] if n else [])
    row = {f"{name}_s": statistics.median(seconds) for name, seconds in times.items()}
    row |= {"bytes": sum(w.nbytes for w in state.params.values()), "ranks": every.workers.comm.size}
    speedup = statistics.median(a / b for a, b in zip(times["alone"], times["ranks"]))
    return {"aux": case.what, "N": case.N, "T": case.T, **row, "speedup": speedup}


def head(machine):
    yield ", ".join(f"{name} {value}" for name, value in machine.items())
    columns = {"batch": 6, "one, ms": 10, "all, ms": 10, "speed-up": 10, "communication, ms": 19, "MB each way": 13}
    yield f"{'training step':16}" + "".join(f"{name:>{width}}" for name, width in columns.items())


def line(row):
    ms = [f"{1e3 * row[f'{name}_s']:.0f}" for name in ("alone", "ranks")]
    figures = f"{ms[0]:>10}{ms[1]:>10}{row['speedup']:>10.2f}{1e3 * row['communication_s']:>19.1f}"
    return f"{row['aux']:16}{row['N']:>6}{figures}{row['bytes'] / 1e6:>13.1f}"
