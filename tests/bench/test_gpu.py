"""`cli.py bench --device gpu` on the stand-in for CuPy; its figures mean nothing there."""

import json
import sys

import pytest

from minaux import lstm
from minaux.bench import gpu as bench_gpu
from minaux.bench.cpu import Case
from minaux.gpu import kernels
from tests.gpu import standin

TINY = {"N": 3, "H": 4, "L": 5}


@pytest.fixture
def small(monkeypatch):
    if standin.COMPILER is None:
        pytest.skip("no C++ compiler")  # lstm.cu runs on the CPU by one
    monkeypatch.setitem(sys.modules, "cupy", standin.cupy())
    monkeypatch.setattr(bench_gpu, "has_pytorch", lambda: False)
    monkeypatch.setattr(bench_gpu, "SGEMM", 64)
    monkeypatch.setattr(bench_gpu, "COPY", 2**10)
    monkeypatch.setattr(bench_gpu, "STEPS", 3)
    monkeypatch.setattr(
        bench_gpu, "cases", lambda lengths: [Case("lstm", 12, "full", **TINY), Case("r", 12, 5, own=1.0, **TINY)]
    )


def test_the_command_times_every_path(small, invoke):
    report = json.loads(invoke("bench", "--device", "gpu", "--rounds", 2, "--json").stdout)
    assert [(row["what"], row["path"]) for row in report["rows"]] == [
        ("lstm", "ours"),
        ("lstm", "a kernel a step"),
        ("lstm", "op by op"),
        ("r", "ours"),
    ]
    for row in report["rows"]:
        assert row["s"] > 0 and row["gflops"] > 0 and row["sequences_per_second"] == pytest.approx(3 / row["s"])
    assert report["rows"][0]["speedup"] == 1 and report["machine"]["gpu"] == "stand-in"
    table = invoke("bench", "--device", "gpu", "--rounds", 1).stdout.splitlines()
    assert table[2].startswith("LSTM alone   ") and table[5].startswith("training step, r, own outputs   ")
    assert len(table) == 6 and all(len(line) <= 110 for line in table[1:])


def test_the_paths_are_what_they_are_called(small, monkeypatch):
    """One kernel for all steps; a kernel a step; none of ours."""
    case = Case("lstm", 9, "full", N=2, H=128)
    programs = bench_gpu.layers(sys.modules["cupy"], case)
    for path, expected in {"ours": 2, "a kernel a step": 18, "op by op": 0}.items():
        standin.launches.clear()
        programs[path]()
        assert len(standin.launches) == expected, path
    assert kernels.whole_windows(standin.empty((1, 1, 128), "float32")) and lstm.on_gpu(standin.empty(1))


def test_without_a_gpu_there_is_one_clear_line(invoke, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    ended = invoke("bench", "--device", "gpu")
    assert ended.status == 1 and ended.stdout == "" and ended.stderr.count("\n") == 1
