"""What `cli.py bench` does: time our training steps and PyTorch's in turn, each in a process of its own.

A figure is the median over the rounds; a ratio is the median of the rounds' ratios, each of two times taken
one right after the other. Nothing that was measured stands in code.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import importlib.util
import json
import math
import os
import pathlib
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import types

import numpy as np
from tqdm import tqdm

from .. import model, windows
from ..baselines.transformer import LAYERS, encoder_widths
from ..lstm import lstm_advance, lstm_backward, lstm_forward
from ..training import config, shards
from ..training.loop import train_step
from ..training.run import new_state, set_up

ROOT = pathlib.Path(__file__).parent.parent.parent
CLASSES = 10
LENGTHS = (784, 1024, 4096, 16384)
SGEMM = 1024  # rows and columns of the matrices that give the rate of sgemm


@dataclasses.dataclass
class Case:
    """Something to time."""

    what: str  # "lstm": a layer alone, forward and backward; whole training steps: "none", "r", "p" or a baseline
    T: int
    bptt: int | str  # 300, or "full"
    own: float = 0.0  # probability that r's decoder is fed its own output
    fold: bool = False  # PyTorch too has the embedding folded into the LSTM's weights
    N: int = 128  # sequences, hidden units, steps of an auxiliary segment: the main job's
    H: int = 128
    L: int = 300
    D: int = 1  # numbers a step

    @property
    def K(self):
        return self.T if self.bptt == "full" else self.bptt


def cases(lengths):
    """All of them; full BPTT up to 4,096 steps."""
    found = [Case("lstm", lengths[0], bptt) for bptt in ("full", 300)]
    for T in lengths:
        found += [Case(aux, T, 300) for aux in ("none", "r", "p")]
        if T == lengths[0]:
            found += [Case("r", T, 300, own=1.0), *(Case(aux, T, 300, fold=True) for aux in ("none", "r", "p"))]
        if T <= 4096:
            found += [Case(aux, T, "full") for aux in ("none", "r", "p")]
    # Pictures of 32 x 32 and 128 x 128 in three channels, as CIFAR-10's and dogs: the same memory is wanted.
    return found + [Case("r", T, 300, N=16, D=3) for T in lengths if T in (1024, 16384)]


def costs(lengths=(256, 1024, 4096, 16384)):
    """[(name, Case)] of `cli.py analyse cost`: batches of 16."""
    found = []
    for T in lengths:
        found += [
            ("LSTM, truncated 300", Case("none", T, 300, N=16)),
            ("r-LSTM, truncated 300", Case("r", T, 300, N=16)),
        ]
        found += [
            ("LSTM, full BPTT", Case("none", T, "full", N=16)),
            ("iRNN", Case("irnn", T, "full", N=16)),
            ("uRNN", Case("urnn", T, "full", N=16)),
        ]
        if T <= 4096:  # beyond, a step takes minutes
            found += [("Transformer", Case("transformer", T, "full", N=16))]
    return found


def operations(case, draws=None):
    """Floating-point operations of the matrix products in the case's equations, the same for both programs."""
    H, N, L, D = case.H, case.N, case.L, case.D

    def layer(inputs, steps, products):  # z = Wh h + Wx x forward; backward takes two such products
        return products * steps * 2 * 4 * H * (H + inputs) * N

    def mlp(outputs, steps):
        return steps * 3 * 2 * (H * 2 * H + 2 * H * 2 * H + 2 * H * outputs) * N

    if case.what == "transformer":  # forward, and twice that back; what is made again is not counted
        E, F = encoder_widths(H)
        attention = 2 * 2 * case.T * E * N  # q k' and p v, of a query
        return 3 * case.T * (2 * E * D * N + LAYERS * (2 * (4 * E * E + 2 * E * F) * N + attention))
    if case.what == "irnn":
        return 3 * case.T * 2 * H * (H + D) * N
    if case.what == "urnn":  # of its Fourier transforms: two forward; back four, of states and gradients
        n = 4 * H
        return 6 * case.T * 5 * n * math.log2(n) * N
    if draws is None:
        return layer(D, case.T, 1) + layer(D, case.K, 2)
    spans = [windows.supervised_span(case.T, case.K), *(windows.r_span(a, case.K) for a in draws.r_anchors)]
    spans += [span for a in draws.p_anchors for span in ((a, a + L), windows.p_lead(a, case.K))]
    total = layer(D, case.T, 1) + sum(layer(D, t1 - t0, 2) for t0, t1 in spans) + mlp(CLASSES, 1)
    for bottom, steps in [(D, L - 1)] * len(draws.r_anchors) + [(H, L)] * len(draws.p_anchors):
        total += layer(bottom, steps, 3) + layer(H, steps, 3) + mlp(D, steps)
    return total


# --- in a child: a program ready to work on a case, as (a step, the most memory so far) ---


def peak():
    """The most memory this process has had, in bytes."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open("/proc/self/status") as file:  # Linux's ru_maxrss begins with its parent's
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def own_peak():
    """(process, its peak), late enough that no process gets two of the parts of `peaks`."""
    time.sleep(0.2)
    return os.getpid(), peak()


def peaks(run, processes):
    """The sum of the processes' peaks."""
    return sum(dict(run(own_peak, [()] * processes)).values())


def new_run(case, threads, device="cpu", batches=2):
    """A Run of the case on random sequences, `batches` an epoch, its State, and draws(step)."""
    r, N, L = np.random.default_rng(0), case.N, case.L
    x, y = r.integers(0, 256, (batches * N, case.T, case.D), np.uint8), r.integers(0, CLASSES, batches * N)
    models = {"aux": case.what} if case.what in config.CHOICES["aux"] else {"model": case.what, "aux": "none"}
    given = {"task": "mnist", **models, "bptt": case.bptt, "aux_length": L, "batch_size": N}
    given |= {"hidden": case.H, "feed_start": case.own, "feed_end": case.own, "pretrain_epochs": 0}
    given |= {"epochs": 10**6, "valid": 0, "threads": threads, "device": device, "quiet": True}
    cfg = config.build(given, threads)
    task = types.SimpleNamespace(x_train=x, y_train=y, x_test=x[:1], y_test=y[:1], classes=CLASSES, tokens=None)
    with tempfile.TemporaryDirectory() as out:  # nothing is saved after step 0
        run = set_up(cfg, task, out)
        state = new_state(run)
    return run, state, lambda step: model.draw(cfg.seed, step, cfg.aux, 1, L, case.T, N, run.shapes, case.own)


@contextlib.contextmanager
def our_step(case, threads):
    run, state, draws = new_run(case, threads)
    with run.open_shards() as split:

        def step():
            count = operations(case, draws(state.step))
            train_step(run, split, state)
            return count

        yield step, lambda: peaks(split.workers, threads)


@contextlib.contextmanager
def their_step(case, threads):
    import torch

    from .torch_step import Step

    torch.set_num_threads(threads)
    run, state, draws = new_run(case, threads)
    masks = model.draw(0, 0, "none", 1, case.L, case.T, case.N, run.shapes, dropconnect=run.cfg.dropconnect).masks
    theirs = Step(state.params, {name: mask.astype("float32") for name, mask in masks.items()}, case.fold)

    def step():
        now = draws(state.step)
        state.step += 1
        x = torch.tensor(run.task.x_train[: case.N]).float().transpose(0, 1) / 255  # [T, N, D]
        theirs.train(x, torch.tensor(run.task.y_train[: case.N]), case.L, case.K, now.r_anchors, now.p_anchors)
        return operations(case, now)

    yield step, peak


@functools.lru_cache
def lstm_inputs(T, D, H, n):
    """A layer's inputs, states, weights and the gradient of its last h, for n sequences."""
    r = np.random.default_rng(0)
    shapes = (T, D, n), (4 * H, D), (4 * H, H), (4 * H, 1)
    x, *weights = (0.1 * r.standard_normal(shape, "float32") for shape in shapes)
    return x, np.zeros((H, n), "float32"), weights, np.ones((H, n), "float32")


def lstm(case, n):
    """Forward and backward of a layer on n sequences: dWx, dWh, db."""
    x, zeros, weights, dh_last = lstm_inputs(case.T, case.D, case.H, n)
    cut = case.T - case.K
    _, _, cache = lstm_forward(x[cut:], *lstm_advance(x[:cut], zeros, zeros, *weights), *weights)
    return lstm_backward(None, dh_last, None, cache)[3:]


@contextlib.contextmanager
def our_lstm(case, threads):
    parts = [(case, len(part)) for part in np.array_split(np.arange(case.N), min(case.N, threads))]
    with shards.workers(threads) as run:

        def step():
            _ = [sum(shares) for shares in zip(*run(lstm, parts))]  # dWx, dWh, db of the batch
            return operations(case)

        yield step, lambda: peaks(run, threads)


@contextlib.contextmanager
def their_lstm(case, threads):
    import torch

    torch.set_num_threads(threads)
    layer, x, cut = torch.nn.LSTM(case.D, case.H), torch.rand(case.T, case.N, case.D), case.T - case.K

    def step():
        layer.zero_grad()
        with torch.no_grad():
            state = layer(x[:cut])[1] if cut else None
        layer(x[cut:], state)[0][-1].sum().backward()
        return operations(case)

    yield step, peak


@functools.lru_cache
def square():
    return np.ones((2, SGEMM, SGEMM), "float32")


def products():
    """Four products of large matrices."""
    a, out = square()
    for _ in range(4):
        np.matmul(a, a, out=out)


@contextlib.contextmanager
def sgemm(_, threads):
    with shards.workers(threads) as run:
        yield lambda: [run(products, [()] * threads), 4 * 2 * SGEMM**3 * threads][1], peak


PROGRAMS = {"lstm": {"ours": our_lstm, "pytorch": their_lstm}, "step": {"ours": our_step, "pytorch": their_step}}


def child(program, case, threads):
    """Answer every line on standard input with [seconds, operations, bytes of memory since the start]."""
    case = Case(**case)
    start = sgemm if program == "sgemm" else PROGRAMS["lstm" if case.what == "lstm" else "step"][program]
    with start(case, threads) as (step, memory):
        before = memory()
        print("ready", flush=True)
        for _ in sys.stdin:
            began = time.perf_counter()
            count = step()
            print(json.dumps([time.perf_counter() - began, count, memory() - before]), flush=True)


# --- in the parent ---


class Child:
    """A program that is asked for a step now and then."""

    def __init__(self, program, case, threads):
        self.name = f"{program} ({case.what}, {case.T} steps, truncation {case.bptt})"
        given = json.dumps([program, dataclasses.asdict(case), threads])
        command = [sys.executable, "-m", "minaux.bench.cpu", given]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=-1, stdout=-1, stderr=-1, text=True)

    def __enter__(self):
        self.answer()  # ready
        self.step()  # the first step is slower: not counted
        return self

    def __exit__(self, *_):
        self.process.communicate()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            errors = re.findall(r"^[\w.]*(?:Error|Exception): (.*)", self.process.communicate()[1], re.MULTILINE)
            why = errors[-1] if errors else "killed, for lack of memory perhaps"
            raise config.UserError(f"bench: {self.name} ended: {why}")
        return line

    def step(self):
        with contextlib.suppress(BrokenPipeError):  # then it has ended, and `answer` says why
            print(file=self.process.stdin, flush=True)
        return json.loads(self.answer())


def measure(case, threads, rounds, pytorch):
    """The case's row of figures."""
    names = ["sgemm", "ours"] + ["pytorch"] * (pytorch and case.own == 0)
    with contextlib.ExitStack() as stack:
        children = {name: stack.enter_context(Child(name, case, threads)) for name in names}
        found = [{name: running.step() for name, running in children.items()} for _ in range(rounds)]
    row = dataclasses.asdict(case)
    for name in names:
        seconds, counts, memory = zip(*(answers[name] for answers in found))
        row[f"{name}_s"] = statistics.median(seconds)
        row[f"{name}_gflops"] = statistics.median(n / s / 1e9 for n, s in zip(counts, seconds))
        row[f"{name}_mb"] = max(memory) / 1e6
    row["sequences_per_second"] = case.N / row["ours_s"]
    row["of_sgemm"] = statistics.median(a["ours"][1] / a["ours"][0] * a["sgemm"][0] / a["sgemm"][1] for a in found)
    if "pytorch" in names:
        row["speedup"] = statistics.median(a["pytorch"][0] / a["ours"][0] for a in found)
    return row


def has_pytorch():
    return importlib.util.find_spec("torch") is not None


def machine(threads, rounds):
    """What the figures depend on."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    cpu = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else [platform.processor()]
    about = {"cpu": cpu[0] if cpu else platform.machine(), "threads": threads, "system": platform.system()}
    about |= {"rounds": rounds, "python": platform.python_version(), "numpy": np.__version__}
    return {**about, "pytorch": importlib.metadata.version("torch") if has_pytorch() else None}


def bench(threads, rounds=5, lengths=LENGTHS):
    """Yields the row of each case."""
    pytorch = has_pytorch()
    todo = [case for case in cases(lengths) if pytorch or not case.fold]
    for case in tqdm(todo, "bench", leave=False, disable=None):
        yield measure(case, threads, rounds, pytorch)


OURS = {"seq/s": 6, "GFLOP/s": 8, "of sgemm": 9, "ms": 6, "MB": 6}
THEIRS = {"PyTorch ms": 10, "MB": 6, "speed-up": 9}


def head(machine):
    """The lines above the table."""
    yield ", ".join(f"{name} {value}" for name, value in machine.items() if value)
    if not machine["pytorch"]:
        yield "PyTorch is not installed: nothing to compare with"
    columns = [*OURS.items(), *(THEIRS.items() if machine["pytorch"] else ())]
    yield f"{'':29}{'steps':>6}{'bptt':>5}" + "".join(f"{name:>{width}}" for name, width in columns)


def line(row):
    """A row of the table."""
    what = "LSTM alone" if row["what"] == "lstm" else f"training step, {row['what']}"
    what += ", own outputs" if row["own"] else ", folded" if row["fold"] else ""
    what += f", {row['N']} x {row['D']}" if row["D"] > 1 else ""
    figures = [f"{row['sequences_per_second']:.0f}", f"{row['ours_gflops']:.0f}", f"{100 * row['of_sgemm']:.0f} %"]
    figures += [f"{1e3 * row['ours_s']:.0f}", f"{row['ours_mb']:.0f}"]
    if "pytorch_s" in row:
        figures += [f"{1e3 * row['pytorch_s']:.0f}", f"{row['pytorch_mb']:.0f}", f"{row['speedup']:.2f}"]
    widths = [*OURS.values(), *THEIRS.values()]
    columns = "".join(f"{figure:>{width}}" for figure, width in zip(figures, widths))
    return f"{what:29}{row['T']:>6}{row['bptt']:>5}{columns}"


if __name__ == "__main__":
    child(*json.loads(sys.argv[1]))
