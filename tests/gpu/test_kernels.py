"""The GPU path: on a GPU where there is one, and on every machine with a C++ compiler on a stand-in for CuPy."""

import re
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest

import datasets
from minaux import lstm
from minaux.arrays import free_memory
from minaux.gpu import kernels
from minaux.initial import Sizes, parameter_shapes
from minaux.model import draw, loss_and_grads
from minaux.training import config, loop
from minaux.training.evaluation import evaluate
from minaux.training.run import new_state, set_up
from tests.conftest import arrays, rows
from tests.gpu import standin
from tests.strategies import padding, random_batch


@pytest.fixture(params=["standin", pytest.param("gpu", marks=pytest.mark.gpu)])
def xp(request, monkeypatch):
    """CuPy, or what stands in for it."""
    if request.param == "standin":
        if standin.COMPILER is None:
            pytest.skip("no C++ compiler")  # lstm.cu runs on the CPU by one
        monkeypatch.setitem(sys.modules, "cupy", standin.cupy())
    import cupy

    return cupy


def to_device(xp, values):
    return {name: a if a is None else xp.asarray(a) for name, a in values.items()}


def problem(S, D, H, N, tokens=False, padded=False, dtype="float32", seed=0):
    """The arguments of `lstm_forward`, and the gradients that enter its states."""
    r = np.random.default_rng(seed)
    args = {"x": r.integers(0, D, (S, N)) if tokens else r.standard_normal((S, D, N))}
    args |= {"h0": r.standard_normal((H, N)), "c0": r.standard_normal((H, N))}
    args |= {"Wx": r.standard_normal((4 * H, D)), "Wh": r.standard_normal((4 * H, H)) / np.sqrt(H)}
    args |= {"b": r.standard_normal((4 * H, 1)), "mask": None}
    if padded:
        args["mask"] = (np.arange(S)[:, None] >= r.integers(0, S + 1, N)).astype("float64")
    grads = {"dh": r.standard_normal((S, H, N)), "dh_last": r.standard_normal((H, N))}
    grads |= {"dc_last": r.standard_normal((H, N))}
    narrow = {k: a if a is None or a.dtype == int else a.astype(dtype) for k, a in {**args, **grads}.items()}
    return {k: narrow[k] for k in args}, {k: narrow[k] for k in grads}


def wide(values):
    return {k: a if a is None or a.dtype == int else a.astype("float64") for k, a in values.items()}


def agree(mine, reference, rtol):
    """The device's array is the reference's up to rtol of its largest value."""
    assert (mine is None) == (reference is None)
    if mine is not None:
        assert mine.shape == reference.shape
        np.testing.assert_allclose(mine.get(), reference, rtol=0, atol=rtol * max(np.abs(reference).max(), 1))


CASES = {
    "128 units": (dict(S=7, D=3, H=128, N=3), 1e-5),
    "one step": (dict(S=1, D=1, H=128, N=2), 1e-5),
    "padded": (dict(S=6, D=2, H=128, N=4, padded=True), 1e-5),
    "tokens": (dict(S=5, D=7, H=128, N=3, tokens=True, padded=True), 1e-5),
    "other widths": (dict(S=6, D=3, H=37, N=5, padded=True), 1e-5),
    "float64": (dict(S=6, D=3, H=128, N=3, dtype="float64"), 1e-12),
    "float64 tokens": (dict(S=5, D=6, H=20, N=4, tokens=True, dtype="float64"), 1e-12),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def test_the_lstm_is_that_of_the_cpu(xp, case, monkeypatch):
    monkeypatch.setattr(kernels, "CHUNK", 4)  # so that a window is more than one
    sizes, rtol = case
    args, grads = problem(**sizes)
    h, c, cache = lstm.lstm_forward(**to_device(xp, args))
    reference = lstm.lstm_forward(**wide(args))
    agree(h, reference[0], rtol)
    agree(c, reference[1], rtol)
    last = lstm.lstm_advance(**to_device(xp, args))
    agree(last[0], reference[0][-1], rtol)
    agree(last[1], reference[1][-1], rtol)
    for names in ("dh", "dh_last", "dc_last"), ("dh_last",), ("dh",):
        given = {name: grads[name] if name in names else None for name in grads}
        found = lstm.lstm_backward(**to_device(xp, given), cache=cache)
        expected = lstm.lstm_backward(**wide(given), cache=reference[2])
        for mine, other in zip(found, expected):
            agree(mine, other, 2 * rtol)
        loss = to_device(xp, {**given, "dweights": None}).values()
        [(dx, *others)] = lstm.lstm_backward_of_each([tuple(loss)], cache, need_dx=False)
        assert dx is None and all((a == b).all() for a, b in zip(others, found[1:]))


@pytest.mark.parametrize("order", range(3))
def test_no_barrier_is_missing(order, monkeypatch):
    """The threads of a block may go on in any order."""
    if standin.COMPILER is None:
        pytest.skip("no C++ compiler")  # lstm.cu runs on the CPU by one
    monkeypatch.setitem(sys.modules, "cupy", standin.cupy())
    found = []
    for seed in 0, order + 1:
        monkeypatch.setattr(standin, "seed", seed)
        args, grads = problem(S=5, D=2, H=128, N=2)
        h, _, cache = lstm.lstm_forward(**to_device(sys.modules["cupy"], args))
        found.append([h, *lstm.lstm_backward(**to_device(sys.modules["cupy"], grads), cache=cache)])
        given, options = device_batch(sys.modules["cupy"], *batch("r", 128, tokens=False))
        found[-1] += loss_and_grads(*given, **options).grads.values()  # r's decoder, too
    assert all((a.get() == b.get()).all() for a, b in zip(*found))


def batch(kind, H, tokens, T=11, D=2, N=5, padded=False):
    """What `loss_and_grads` takes, in float64; r's decoder is fed its own output here and there."""
    r = np.random.default_rng(1)
    D = 6 if tokens else D
    shapes = parameter_shapes(Sizes(D, H, 3, tokens), kind)
    params = {name: r.standard_normal(shape) / np.sqrt(shape[-1]) for name, shape in shapes.items()}
    x, y = random_batch(r, T, D, N, tokens)
    lengths = r.integers(7, T + 1, N) if padded else np.full(N, T)
    draws = draw(0, 0, kind, 2, 5, T, N, shapes, own_probability=0.5, dropconnect=0.3, shortest=min(lengths))
    mask = padding(T, N, lengths) if padded else None
    return params, x, y, draws, {"K": 4, "aux_K": 3, "aux_weight": 0.7, "mask": mask}


def device_batch(xp, params, x, y, draws, options):
    def narrow(a):
        return xp.asarray(a.astype("float32") if a.dtype == "float64" else a)

    masks = {name: narrow(mask) for name, mask in draws.masks.items()}
    draws = draws._replace(masks=masks, truth=None if draws.truth is None else narrow(draws.truth))
    mask = None if options["mask"] is None else narrow(options["mask"])
    params = {name: narrow(w) for name, w in params.items()}
    return (params, narrow(x), narrow(y), draws), {**options, "mask": mask}


@pytest.mark.parametrize("tokens, padded", [(False, False), (True, True)])
@pytest.mark.parametrize("H", [128, 20])
def test_a_batch_s_losses_and_gradients_are_those_of_the_cpu(xp, H, tokens, padded, monkeypatch):
    launched, launch = [], kernels.launch
    monkeypatch.setattr(
        kernels, "launch", lambda name, *args, **kw: launched.append(name) or launch(name, *args, **kw)
    )
    args = batch("rp", H, tokens, padded=padded)
    given, options = device_batch(xp, *args)
    standin.transfers.clear()
    result = loss_and_grads(*given, **options)
    assert standin.transfers == []  # nothing comes back to the host, or waits for it
    if H == 128:  # a kernel takes many steps; but text is fed its own outputs step by step
        assert {*launched} == {"lstm_forward", "lstm_backward", "cell_forward" if tokens else "decode"}
    else:
        assert {*launched} == {"cell_forward", "cell_backward"}
    reference = loss_and_grads(*args[:4], **args[4])
    for name, loss in result.losses.items():
        assert float(loss) == pytest.approx(reference.losses[name], rel=1e-5)
    for name, grad in result.grads.items():
        agree(grad, reference.grads[name], 1e-4)


def test_activations_are_made_again_on_the_gpu_too(xp):
    args = batch("rp", 128, tokens=False)
    given, options = device_batch(xp, *args)
    kept, again = (loss_and_grads(*given, **options, every=every) for every in (0, 8))
    for name, grad in again.grads.items():
        agree(grad, kept.grads[name].get(), 1e-5)


def test_evaluation_is_that_of_the_cpu(xp):
    params, x, y, draws, options = args = batch("rp", 128, False)
    (params, *others), _ = device_batch(xp, *args)
    mean = np.random.default_rng(0).random((11, 2))
    sums = evaluate(params, *others, mean=xp.asarray(mean.astype("float32")))
    reference = evaluate(args[0], x, y, draws, mean=mean)
    assert {k: float(v) for k, v in sums.items()} == pytest.approx(reference, rel=1e-4, abs=1e-5)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("real", ["float", "double"])
def test_the_source_compiles_for_gpus(tmp_path, architecture, real):
    """Also all of a thread's numbers fit its registers: others would go to slow memory."""
    options = (
        "-std=c++17",
        "-ftz=true",
        f"-DREAL={real}",
        f"-arch={architecture}",
        "-cubin",
        "-o",
        tmp_path / "cubin",
    )
    strict = "-Werror", "all-warnings", "-Xptxas", "-v"
    command = "nvcc", *strict, *options, standin.ROOT / "minaux" / "gpu" / "lstm.cu"
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    spilled = [int(n) for n in re.findall(r"(\d+) bytes spill stores", told.stderr)]
    assert spilled == [0] * 5


@pytest.mark.gpu
@pytest.mark.parametrize("real", ["float", "double"])
def test_nothing_spills_as_cupy_compiles_it(real):
    """CuPy has a compiler of its own, NVRTC."""
    import cupy

    names = "lstm_forward", "lstm_backward", "cell_forward", "cell_backward", "decode"
    assert [kernels.function(cupy, real, name, 0).local_size_bytes for name in names] == [0] * 5


def test_a_run_on_the_gpu_is_that_on_the_cpu_and_does_not_wait_for_every_batch(xp, tmp_path, monkeypatch):
    r = np.random.default_rng(0)
    x, y = r.integers(0, 256, (70, 8, 2)).astype(np.uint8), r.integers(0, 3, 70)
    task = datasets.Task(x, y, x, y, classes=3)
    given = {"task": "mnist", "aux": "rp", "hidden": 5, "bptt": 5, "aux_length": 4, "pretrain_epochs": 1}
    given |= {"epochs": 1, "batch_size": 6, "valid": 10, "quiet": True, "threads": 1}
    found, returned, step = {}, [], loop.train_step

    def spied(*args):
        before = len(standin.transfers)
        row, n = step(*args)
        returned.append((row is None, len(standin.transfers) - before))
        return row, n

    monkeypatch.setattr(loop, "train_step", spied)
    for device in "gpu", "cpu":
        run = set_up(config.build({**given, "device": device}, 1), task, tmp_path / device)
        found[device] = loop.train(run, new_state(run)), rows(tmp_path / device), arrays(tmp_path / device)
        if device == "gpu":
            assert [waited for free, waited in returned if free] == [0] * 18  # rows at steps 10 and 20
            returned.clear()
    (gpu, gpu_rows, gpu_arrays), (cpu, cpu_rows, cpu_arrays) = found["gpu"], found["cpu"]
    assert (gpu["device"], cpu["device"]) == ("gpu", "cpu") and gpu["steps"] == cpu["steps"]
    assert [row["step"] for row in gpu_rows] == [row["step"] for row in cpu_rows]
    for mine, other in zip(gpu_rows, cpu_rows):
        clocks = {"elapsed_s", "sequences_per_second"}
        mine, other = ({k: v for k, v in row.items() if k not in clocks} for row in (mine, other))
        numbers = {k: pytest.approx(v, rel=1e-2, abs=1e-4) if isinstance(v, float) else v for k, v in other.items()}
        assert mine == numbers
    for name in gpu_arrays:
        np.testing.assert_allclose(gpu_arrays[name], cpu_arrays[name], rtol=0.02, atol=2e-3)


def test_free_memory_of_a_gpu_counts_what_cupy_keeps():
    cupy = standin.cupy()
    cupy.cuda = types.SimpleNamespace(Device=lambda: types.SimpleNamespace(mem_info=(1000, 5000)))
    cupy.get_default_memory_pool = lambda: types.SimpleNamespace(free_bytes=lambda: 234)
    assert free_memory(cupy) == 1234


def test_without_a_gpu_there_is_one_clear_line(monkeypatch, invoke, tmp_path):
    class NoDriver:
        def __getattr__(self, name):
            raise RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")

    for module in None, NoDriver():
        monkeypatch.setitem(sys.modules, "cupy", module)
        ended = invoke("train", "--task", "mnist", "--size", 14, "--device", "gpu", "--out", tmp_path / "run")
        assert ended.status == 1 and ended.stderr.count("\n") == 1 and "--device gpu: CuPy" in ended.stderr
        assert not (tmp_path / "run").exists()
