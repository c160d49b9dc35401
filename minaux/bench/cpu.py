"""What `cli.py bench` does: time our training steps and PyTorch's in turn, each in processes of its own.

PyTorch is timed twice: tuned, as a process that keeps freed memory, which ours does for itself; and as it comes.
Both programs have our initial weights, and the same inputs, losses and gradients.
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

from .. import initial, model, windows
from ..baselines.transformer import LAYERS, encoder_widths
from ..lstm import layer_weights, lstm_advance, lstm_backward, lstm_forward
from ..training import config
from ..training.loop import train_step
from ..training.processes import processes, python
from ..training.run import new_state, set_up

CLASSES = 10
LENGTHS = (784, 1024, 4096, 16384)
LR = 1e-3
# For PyTorch tuned, before it starts: glibc then keeps freed arrays, as `arrays.keep_freed_memory` has it for ours.
KEEP_FREED_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "2147483647"}
SGEMM = 1024  # rows and columns of the matrices that give the rate of sgemm


@dataclasses.dataclass
class Case:
    """Something to time."""

    what: str  # "lstm": a layer alone, forward and backward; whole training steps: "none", "r", "p" or a baseline
    T: int
    bptt: int | str  # 300, or "full"
    own: float = 0.0  # probability that r's decoder is fed its own output
    fold: bool = False  # PyTorch too has the input embeddings folded into the LSTMs' weights
    N: int = 128  # sequences, hidden units, steps of an auxiliary segment
    H: int = 128
    L: int = 300
    D: int = 1  # numbers a step

    @property
    def K(self):
        return self.T if self.bptt == "full" else self.bptt


def cases(lengths):
    """All of them: sequences below 1,024 steps in many ways, longer ones in batches of 32 and 16."""
    return [case for T in lengths for case in (thorough(T) if T < 1024 else longer(T))]


def thorough(T):
    """Batches of 128 and 32, segments of 600 (or what fits) and 100, truncated and full."""
    long = min(600, T - 1)
    found = [Case("lstm", T, bptt, N=N) for N in (128, 32) for bptt in (300, "full")]
    found += [Case("none", T, bptt, N=N) for N in (128, 32) for bptt in (300, "full")]
    found += [Case(aux, T, 300, N=N, L=L) for N, L in ((128, long), (128, 100), (32, 100)) for aux in "rp"]
    found += [Case(aux, T, "full", L=100) for aux in "rp"] + [Case("r", T, 300, own=1.0, L=long)]
    return found + [Case("none", T, 300, fold=True), *(Case(aux, T, 300, fold=True, L=long) for aux in "rp")]


def longer(T):
    """What grows with the length, and what does not; full BPTT up to 4,096 steps."""
    found = [Case(aux, T, 300, N=32, L=100) for aux in ("none", "r", "p")]
    found += [Case("none", T, "full", N=32)] if T <= 4096 else []
    # Pictures of 32 x 32 and 128 x 128 in three channels, as CIFAR-10's and dogs: the same memory is wanted.
    return found + ([Case("r", T, 300, N=16, D=3)] if T in (1024, 16384) else [])


def chosen(cases, what=(), batch_sizes=()):
    """The cases of what a user asked for: all, where nothing was. Raises UserError if there are none."""
    cases = [case for case in cases if not what or case.what in what]
    found = [case for case in cases if not batch_sizes or case.N in batch_sizes]
    if not cases:
        raise config.UserError(
            f"bench: no case --case {what[0]} with these --steps or on these ranks; leave it out"
        )
    if not found:
        sizes = ", ".join(map(str, sorted({case.N for case in cases})))
        raise config.UserError(f"bench: no case with this --batch-size; there are {sizes}")
    return found


def costs():
    """[(name, Case)] of `cli.py analyse cost`: batches of 16."""
    found = []
    for T in 256, 1024, 4096, 16384:
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


def peaks(workers, n):
    """The sum of the n processes' peaks: each gets one of n parts."""
    return sum(workers.run(peak, (), [()] * n))


def new_run(case, threads, device="cpu", batches=2):
    """A Run of the case on random sequences, `batches` an epoch, its State, and draws(step)."""
    r, N, L = np.random.default_rng(0), case.N, case.L
    x, y = r.integers(0, 256, (batches * N, case.T, case.D), np.uint8), r.integers(0, CLASSES, batches * N)
    models = {"aux": case.what} if case.what in config.CHOICES["aux"] else {"model": case.what, "aux": "none"}
    given = {"task": "mnist", **models, "bptt": case.bptt, "aux_length": L, "batch_size": N}
    given |= {"hidden": case.H, "feed_start": case.own, "feed_end": case.own, "pretrain_epochs": 0}
    given |= {"epochs": 10**6, "valid": 0, "threads": threads, "device": device, "quiet": True}
    given |= {"dropconnect": 0.0, "lr": LR, "lr_schedule": "constant"}
    if "model" in models:  # on random sequences a baseline may not learn, but it must not diverge
        given["lr"] = 1e-9
    else:  # where all gates soon forget, gradients fade to denormals: slow on some processors
        given["forget_bias"] = "loguniform"
    cfg = config.build(given, threads)
    task = types.SimpleNamespace(
        x_train=x, y_train=y, x_test=x[:1], y_test=y[:1], classes=CLASSES, tokens=None, fingerprint=None
    )
    with tempfile.TemporaryDirectory() as out:  # nothing is saved after step 0
        run = set_up(cfg, task, out)
        state = new_state(run)

    def draws(step):
        return model.draw(cfg.seed, step, cfg.aux, 1, L, case.T, N, run.shapes, own_probability=case.own)

    return run, state, draws


# A program yields (step, memory): step() works once and returns (its operations, what it found), memory() is the
# most memory so far. What was found is for the tests: ours and PyTorch's are alike.


@contextlib.contextmanager
def our_step(case, threads):
    run, state, draws = new_run(case, threads)
    with run.open_shards() as split:

        def step():
            count = operations(case, draws(state.step))
            row, _ = train_step(run, split, state)
            return count, [row["loss_supervised"], row["loss_auxiliary"]][: 1 + (run.cfg.aux != "none")]

        yield step, lambda: peaks(split.workers, threads)


@contextlib.contextmanager
def their_step(case, threads):
    import torch

    from .torch_step import Step

    torch.set_num_threads(threads)
    run, state, draws = new_run(case, threads)
    theirs = Step(state.params, case.fold, LR)

    def step():
        rows, now = run.shuffled.rows(*run.epoch(state.step)), draws(state.step)
        state.step += 1
        x = torch.tensor(run.task.x_train[rows]).transpose(0, 1).float().contiguous() / 255  # [T, N, D]
        y = torch.tensor(run.task.y_train[rows])
        return operations(case, now), theirs.train(x, y, case.L, case.K, now.r_anchors, now.p_anchors)

    yield step, peak


@functools.lru_cache
def lstm_inputs(T, D, H, N, begin=0, end=None):
    """Of a layer on N sequences: the inputs, states and gradients of the last h of columns begin ... end-1, and the
    weights, as in a training step."""
    x = np.random.default_rng(0).random((T, D, N), "float32")[:, :, begin:end]
    params = initial.init_params(initial.Sizes(D, H, CLASSES), "none", T, forget_bias="loguniform")
    zeros = np.zeros((H, x.shape[2]), "float32")
    return np.ascontiguousarray(x), zeros, list(layer_weights(params, "main")[0]), zeros + 1


def lstm(case, begin, end):
    """Forward and backward of a layer on some columns: dWx, dWh, db."""
    x, zeros, weights, dh_last = lstm_inputs(case.T, case.D, case.H, case.N, begin, end)
    cut = case.T - case.K
    _, _, cache = lstm_forward(x[cut:], *lstm_advance(x[:cut], zeros, zeros, *weights), *weights)
    return lstm_backward(None, dh_last, None, cache)[3:]


@contextlib.contextmanager
def our_lstm(case, threads):
    ends = np.linspace(0, case.N, min(case.N, threads) + 1).astype(int).tolist()
    with processes(threads) as workers:

        def step():
            shares = workers.run(lstm, (case,), list(zip(ends, ends[1:])))
            return operations(case), [sum(share) for share in zip(*shares)]  # dWx, dWh, db of the batch

        yield step, lambda: peaks(workers, threads)


@contextlib.contextmanager
def their_lstm(case, threads):
    import torch

    from .torch_step import lstm_weights

    torch.set_num_threads(threads)
    x, _, weights, _ = lstm_inputs(case.T, case.D, case.H, case.N)
    layer, x, cut = torch.nn.LSTM(case.D, case.H), torch.tensor(x).mT.contiguous(), case.T - case.K
    layer.load_state_dict(lstm_weights(*map(torch.tensor, weights)))

    def step():
        layer.zero_grad()
        with torch.no_grad():
            state = layer(x[:cut])[1] if cut else None
        layer(x[cut:], state)[0][-1].sum().backward()
        return operations(case), [layer.weight_ih_l0.grad, layer.weight_hh_l0.grad, layer.bias_ih_l0.grad[:, None]]

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
    with processes(threads) as workers:
        yield lambda: (4 * 2 * SGEMM**3 * threads, workers.run(products, (), [()] * threads)), peak


def program(name, case):
    """What `name`, of a `Child`, does on the case."""
    if name == "sgemm":
        return sgemm
    theirs = name != "ours"
    return [our_lstm, their_lstm][theirs] if case.what == "lstm" else [our_step, their_step][theirs]


def child(name, case, threads):
    """Answer every line on standard input with [seconds, operations, bytes of memory since the start]."""
    case = Case(**case)
    with program(name, case)(case, threads) as (step, memory):
        before = memory()
        print("ready", flush=True)
        for _ in sys.stdin:
            began = time.perf_counter()
            count, _ = step()
            print(json.dumps([time.perf_counter() - began, count, memory() - before]), flush=True)


# --- in the parent ---


class Child:
    """A program that is asked for a step now and then: "sgemm", "ours", "tuned" and "pytorch" (as it comes)."""

    def __init__(self, name, case, threads):
        self.name = f"{name} ({case.what}, {case.T} steps, truncation {case.bptt})"
        command = python(f"from {__name__} import child; child{name, dataclasses.asdict(case), threads}")
        env = {k: v for k, v in os.environ.items() if k not in KEEP_FREED_MEMORY}
        env |= KEEP_FREED_MEMORY if name == "tuned" else {}
        self.process = subprocess.Popen(command, env=env, stdin=-1, stdout=-1, stderr=-1, text=True)

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
    theirs = ["tuned", "pytorch"] if pytorch and case.own == 0 else []
    names = ["sgemm", "ours", *theirs]
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
    for name in theirs:
        row[f"speedup_{name}"] = statistics.median(a[name][0] / a["ours"][0] for a in found)
    return row


def has_pytorch():
    return importlib.util.find_spec("torch") is not None


def machine(threads, rounds):
    """What the figures depend on."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    cpu = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else [platform.processor()]
    about = {"cpu": cpu[0] if cpu else platform.machine(), "threads": threads, "system": platform.system()}
    about |= {
        "load": round(os.getloadavg()[0], 1),
        "rounds": rounds,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    return {**about, "pytorch": importlib.metadata.version("torch") if has_pytorch() else None}


def bench(threads, cases, rounds=5):
    """Yields the row of each case."""
    pytorch = has_pytorch()
    todo = [case for case in cases if pytorch or not case.fold]
    for case in tqdm(todo, "bench", leave=False, disable=None):
        yield measure(case, threads, rounds, pytorch)


WHAT = {"": 22, "steps": 6, "bptt": 5, "batch": 6, "segment": 8}
OURS = {"seq/s": 6, "of sgemm": 9, "ms": 6, "MB": 6}
THEIRS = {"ms": 6, "MB": 6, "speed-up": 9}


def head(machine):
    """The lines above the table."""
    yield ", ".join(f"{name} {value}" for name, value in machine.items() if value)
    if not machine["pytorch"]:
        yield "PyTorch is not installed: nothing to compare with"
    elif machine.get("load", 0) > 1:
        yield "Other programs are running (load): they slow PyTorch's threads more than our processes"
    groups = {"": WHAT, "ours": OURS}
    groups |= {"PyTorch tuned": THEIRS, "PyTorch as it comes": THEIRS} if machine["pytorch"] else {}
    yield "".join(f"{name:>{sum(widths.values())}}" for name, widths in groups.items())
    yield "".join(f"{name:>{width}}" for widths in groups.values() for name, width in widths.items())


def line(row):
    """A row of the table."""
    what = "LSTM alone" if row["what"] == "lstm" else f"step, {row['what']}"
    what += ", own outputs" if row["own"] else ", folded" if row["fold"] else ""
    what += f", {row['D']} channels" if row["D"] > 1 else ""
    segment = row["L"] if row["what"] in ("r", "p") else ""
    what = f"{what:{WHAT['']}}{row['T']:>6}{row['bptt']:>5}{row['N']:>6}{segment:>8}"
    figures = [f"{row['sequences_per_second']:.0f}", f"{100 * row['of_sgemm']:.0f} %"]
    figures += [f"{1e3 * row['ours_s']:.0f}", f"{row['ours_mb']:.0f}"]
    for name in ("tuned", "pytorch") if "pytorch_s" in row else ():
        figures += [f"{1e3 * row[f'{name}_s']:.0f}", f"{row[f'{name}_mb']:.0f}", f"{row[f'speedup_{name}']:.2f}"]
    widths = [*OURS.values(), *THEIRS.values(), *THEIRS.values()]
    return what + "".join(f"{figure:>{width}}" for figure, width in zip(figures, widths))
