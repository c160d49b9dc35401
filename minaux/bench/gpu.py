"""What `cli.py bench --device gpu` does: time, in one process and in turn, our LSTM, its slower paths and
PyTorch's (cuDNN) on a GPU, and our training steps.

A figure is the median over the rounds; a ratio is the median of the rounds' ratios. Times are those between two
events on the device. Ceilings are measured in the same rounds: the rate of large products (sgemm) and of copies.
"""

import dataclasses
import statistics
from unittest import mock

import numpy as np
from tqdm import tqdm

from .. import lstm
from ..gpu import kernels
from ..training.loop import train_step
from . import cpu
from .cpu import Case

LENGTHS = (784, 16384)
STEPS = 10  # training steps at a time: only the last one is waited for
LAYERS = 5  # forward and backward of a layer at a time: Python's part then runs ahead of the device
SGEMM, COPY = 8192, 2**28  # rows and columns of a matrix; numbers


def cases(lengths):
    """The layer alone, and whole training steps; r's as it begins (fed the truth) and as it ends (own outputs)."""
    found = [Case("lstm", lengths[0], "full")]
    for T in lengths:
        found += [Case("none", T, 300), Case("r", T, 300), Case("r", T, 300, own=1.0), Case("p", T, 300)]
    return found


def traffic(case):
    """Bytes that a layer's forward and backward must move at least: gates, h and c are written and read once."""
    return 2 * (4 + 1 + 1) * case.H * case.N * case.T * 4


def elapsed(xp, work):
    """Seconds on the device."""
    begin, end = xp.cuda.Event(), xp.cuda.Event()
    begin.record()
    work()
    end.record()
    end.synchronize()
    return xp.cuda.get_elapsed_time(begin, end) / 1e3


def layers(xp, case):
    """Name -> forward and backward of a layer: ours, ours without windows in one kernel, NumPy's code as it
    stands on CuPy, and cuDNN's through PyTorch, as it comes and without TF32."""
    x, zeros, weights, dh_last = (
        [xp.asarray(w) for w in a] if isinstance(a, list) else xp.asarray(a)
        for a in cpu.lstm_inputs(case.T, case.D, case.H, case.N)
    )
    x = xp.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2)  # as batches are

    def ours():
        _, _, cache = lstm.lstm_forward(x, zeros, zeros, *weights)
        lstm.lstm_backward(None, dh_last, None, cache)

    def step_by_step():
        with mock.patch.object(kernels, "whole_windows", lambda hs: False):
            ours()

    def op_by_op():
        with mock.patch.object(lstm, "on_gpu", lambda a: False):
            ours()

    found = {"ours": ours, "a kernel a step": step_by_step, "op by op": op_by_op}
    return {**found, **(cudnn(case) if has_pytorch() else {})}


def has_pytorch():
    if not cpu.has_pytorch():
        return False
    import torch

    return torch.cuda.is_available()


def cudnn(case):
    import torch

    layer = torch.nn.LSTM(case.D, case.H).cuda()
    x = torch.rand(case.T, case.N, case.D).cuda()

    def pytorch(tf32):
        def step():
            torch.backends.cudnn.allow_tf32 = tf32
            layer.zero_grad()
            layer(x)[0][-1].sum().backward()

        return step

    return {"PyTorch": pytorch(True), "PyTorch, no TF32": pytorch(False)}


def repeated(work):
    return lambda: [work() for _ in range(LAYERS)]


def rounds_of(xp, programs, rounds):
    """[{name: seconds}] of each round, after one that does not count; with the ceilings' rates."""
    square, many = xp.ones((SGEMM, SGEMM), "float32"), xp.ones(COPY, "float32")
    programs = {**programs, "sgemm": lambda: square @ square, "copy": many.copy}
    return [{name: elapsed(xp, work) for name, work in programs.items()} for _ in range(rounds + 1)][1:]


def row_of(case, path, times, operations, steps=1):
    """The row of one program; `times` its seconds in each round with those of "ours" and the ceilings."""
    seconds = [t[path] / steps for t in times]
    flops = [operations / s for s in seconds]
    return {
        **dataclasses.asdict(case),
        "path": path,
        "s": statistics.median(seconds),
        "sequences_per_second": case.N / statistics.median(seconds),
        "gflops": statistics.median(flops) / 1e9,
        "of_sgemm": statistics.median(f * t["sgemm"] / (2 * SGEMM**3) for f, t in zip(flops, times)),
    }


def measure(xp, case, rounds):
    """The rows of a case."""
    if case.what == "lstm":
        programs = layers(xp, case)
        times = rounds_of(xp, {path: repeated(work) for path, work in programs.items()}, rounds)
        for path in programs:
            row = row_of(case, path, times, cpu.operations(case), LAYERS)
            rate = statistics.median(LAYERS * traffic(case) / t[path] * t["copy"] / (8 * COPY) for t in times)
            yield {**row, "of_copy": rate, "speedup": statistics.median(t[path] / t["ours"] for t in times)}
        return
    run, state, draws = cpu.new_run(case, 1, "gpu", STEPS)
    with run.open_shards() as shards:
        counts = [cpu.operations(case, draws(step)) for step in range(STEPS)]
        times = rounds_of(xp, {"ours": lambda: [train_step(run, shards, state) for _ in range(STEPS)]}, rounds)
    yield row_of(case, "ours", times, float(np.mean(counts)), STEPS)


def machine(xp, rounds):
    """What the figures depend on."""
    properties = xp.cuda.runtime.getDeviceProperties(0)
    about = {"gpu": properties["name"].decode(), "rounds": rounds, "cupy": xp.__version__}
    return {**cpu.machine(1, rounds), **about}


def run(xp, cases, rounds=5):
    """Yields the rows of each case."""
    for case in tqdm(cases, "bench", leave=False, disable=None):
        yield from measure(xp, case, rounds)


def head(machine):
    """The lines above the table."""
    yield ", ".join(f"{name} {value}" for name, value in machine.items() if value)
    columns = {"steps": 6, "bptt": 5, "seq/s": 8, "ms": 9, "GFLOP/s": 9, "of sgemm": 9, "of copy": 8, "times": 7}
    yield f"{'':44}" + "".join(f"{name:>{width}}" for name, width in columns.items())


def line(row):
    """A row of the table."""
    what = "LSTM alone" if row["what"] == "lstm" else f"training step, {row['what']}"
    what += ", own outputs" if row["own"] else ""
    what += f", {row['path']}" if row["path"] != "ours" else ""
    figures = (
        f"{row['sequences_per_second']:>8.0f}{1e3 * row['s']:>9.2f}{row['gflops']:>9.0f}{row['of_sgemm']:>9.0%}"
    )
    if "of_copy" in row:
        figures += f"{row['of_copy']:>8.0%}{row['speedup']:>7.2f}"
    return f"{what:44}{row['T']:>6}{row['bptt']:>5}{figures}"
