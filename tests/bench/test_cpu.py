"""What `cli.py bench` counts, and what it does with what it timed; no figure of time is judged."""

import json
import os

import numpy as np
import pytest

from minaux.bench import cpu as bench
from minaux.bench.cpu import Case, Child, measure, operations, peak, peaks, program
from minaux.model import Draws
from minaux.training.config import UserError
from minaux.training.processes import processes

TINY = {"N": 6, "H": 4, "L": 9}


def test_operations_of_the_lstm_are_three_products_a_step():
    """10 steps forward, the last 3 backward: (10 + 2 · 3) · 2 · [4H, H+1] [H+1, N]."""
    assert operations(Case("lstm", 10, 3, N=6, H=4)) == (10 + 2 * 3) * 2 * 16 * 5 * 6


def test_operations_of_a_step_count_every_sweep_and_head():
    classifier = 3 * 2 * 6 * (4 * 8 + 8 * 8 + 8 * 10)
    product, deep = 2 * 16 * 5 * 6, 2 * 16 * 8 * 6  # of a layer that reads one number, and one that reads H
    head = 3 * 2 * 6 * (4 * 8 + 8 * 8 + 8 * 1)
    none = (40 + 2 * 10) * product + classifier
    assert operations(Case("none", 40, 10, **TINY), Draws()) == none
    r = 2 * 10 * product + 8 * (3 * product + 3 * deep + head)  # 8 targets
    assert operations(Case("r", 40, 10, **TINY), Draws(9, [20], [])) == none + r
    p = 2 * (9 + 10) * product + 9 * (6 * deep + head)  # the window, and the 10 steps before it
    assert operations(Case("p", 40, 10, **TINY), Draws(9, [], [20])) == none + p


def test_operations_of_the_transformer_grow_with_the_square_of_the_length():
    short, long = (operations(Case("transformer", T, "full", N=6, H=16)) for T in (100, 200))
    layer = 2 * (4 * 12 * 12 + 2 * 12 * 21) + 2 * 2 * 100 * 12  # of a step, in widths 12 and 21
    assert short == 3 * 100 * 6 * (2 * 12 + 2 * layer) and 2 < long / short < 4


def test_operations_of_the_recurrent_baselines():
    assert operations(Case("irnn", 40, "full", **TINY)) == 3 * 40 * 2 * TINY["H"] * (TINY["H"] + 1) * TINY["N"]
    assert operations(Case("urnn", 40, "full", N=2, H=4)) == 6 * 40 * 5 * 16 * 4 * 2


@pytest.mark.parametrize(
    "what, bptt, own",
    [
        ("lstm", 10, 0),
        ("none", "full", 0),
        ("r", 10, 1),
        ("p", 10, 0),
        ("transformer", "full", 0),
        ("irnn", "full", 0),
        ("urnn", "full", 0),
    ],
)
def test_a_case_is_measured(what, bptt, own):
    row = measure(Case(what, 40, bptt, own, **TINY), threads=2, rounds=2, pytorch=False)
    assert row["ours_s"] > 0 and row["sgemm_s"] > 0 and row["ours_mb"] >= 0
    assert row["sequences_per_second"] == pytest.approx(6 / row["ours_s"])
    assert row["of_sgemm"] > 0 and "tuned_s" not in row and "pytorch_s" not in row


def test_more_threads_than_sequences():
    assert measure(Case("lstm", 9, 5, N=2, H=3), threads=3, rounds=1, pytorch=False)["ours_s"] > 0


def test_memory_is_that_of_each_process_once():
    with processes(3) as workers:
        assert len(set(workers.run(os.getpid, (), [()] * 3))) == 3
        each = workers.run(peak, (), [()] * 3)
        assert min(each) > 2**20 and peaks(workers, 3) == pytest.approx(sum(each), rel=0.02)


def test_pytorch_is_timed_beside_it():
    pytest.importorskip("torch")
    row = measure(Case("r", 40, 10, **TINY), threads=1, rounds=1, pytorch=True)
    for name in "tuned", "pytorch":
        assert row[f"speedup_{name}"] == pytest.approx(row[f"{name}_s"] / row["ours_s"])
        assert row[f"{name}_gflops"] * row[f"speedup_{name}"] == pytest.approx(row["ours_gflops"])  # the same work
    names = [name for name in row if name.startswith("speedup")]
    assert names == ["speedup_tuned", "speedup_pytorch"]  # the tuned one leads


@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="no /proc")
@pytest.mark.parametrize("name, kept", [("ours", False), ("tuned", True), ("pytorch", False)])
def test_the_tuned_one_alone_is_started_with_kept_memory(name, kept, monkeypatch):
    """Whatever this process was started with."""
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "1")
    running, text = Child(name, Case("none", 40, 10, **TINY), 1), ""
    while not text:  # for a moment yet
        with open(f"/proc/{running.process.pid}/environ") as file:
            text = file.read()
    found = [variable for variable in text.split("\0") if variable.startswith("MALLOC_")]
    running.process.kill()
    running.process.communicate()
    assert sorted(found) == ["MALLOC_MMAP_MAX_=0", "MALLOC_TRIM_THRESHOLD_=2147483647"] * kept


@pytest.mark.parametrize("bptt", [10, "full"])
@pytest.mark.parametrize("what", ["lstm", "none", "r", "p"])
def test_both_have_the_same_weights_and_inputs(what, bptt):
    """A layer's gradients; the losses of three steps, which gradients and optimiser lead to."""
    pytest.importorskip("torch")
    case = Case(what, 40, bptt, N=6, H=8, L=25)  # at 10 in windows
    with program("ours", case)(case, 2) as (ours, _), program("pytorch", case)(case, 1) as (theirs, _):
        for _ in range(3):
            (_, mine), (_, its) = ours(), theirs()
            assert len(mine) == len(its) == (3 if what == "lstm" else 1 if what == "none" else 2)
            for a, b in zip(mine, its):
                np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_all_cases_are_there():
    found = [(case.what, case.T, case.bptt, case.N, case.L) for case in bench.cases(bench.LENGTHS)]
    for N, L in (128, 600), (128, 100), (32, 100):
        assert {("r", 784, 300, N, L), ("p", 784, 300, N, L)} < {*found}
        assert {(what, 784, bptt, N, 300) for what in ("lstm", "none") for bptt in (300, "full")} < {*found}
    assert {(aux, T, 300) for aux in ("none", "r", "p") for T in (1024, 4096, 16384)} < {case[:3] for case in found}
    assert [c.T for c in bench.cases(bench.LENGTHS) if (c.what, c.N, c.D) == ("r", 16, 3)] == [1024, 16384]  # dogs
    assert {case.L for case in bench.cases([400])} == {100, 300, 399}  # what fits
    assert max(case.T for case in bench.cases(bench.LENGTHS) if case.bptt == "full") == 4096


def test_a_user_may_choose_some_cases(invoke, monkeypatch):
    cases = bench.cases([784])
    assert bench.chosen(cases) == cases
    some = bench.chosen(cases, ("r", "none"), (32,))
    assert [(case.what, case.bptt, case.N) for case in some] == [
        ("none", 300, 32),
        ("none", "full", 32),
        ("r", 300, 32),
    ]
    monkeypatch.setattr(bench, "measure", lambda *_: pytest.fail("measured"))
    ended = invoke("bench", "--case", "r", "--batch-size", 33)
    assert (
        ended.status == 1
        and ended.stderr == "Error: bench: no case with this --batch-size; there are 16, 32, 128\n"
    )


def test_a_case_that_is_not_there_is_named(invoke):
    ended = invoke("bench", "--case", "lstm", "--steps", 4096)
    assert ended.status == 1 and ended.stderr.startswith("Error: bench: no case --case lstm with these --steps")


def test_the_command_prints_a_table_or_json(invoke, monkeypatch):
    monkeypatch.setattr(bench, "cases", lambda lengths: [Case("none", T, 10, **TINY) for T in lengths])
    monkeypatch.setattr(bench, "has_pytorch", lambda: False)
    arguments = "bench", "--rounds", 1, "--threads", 1, "--steps", 302, "--steps", 400
    text = invoke(*arguments)
    assert text.status == 0 and "PyTorch is not installed" in text.stdout
    assert [line[:40].split() for line in text.stdout.splitlines()[4:]] == [
        ["step,", "none", "302", "10", "6"],
        ["step,", "none", "400", "10", "6"],
    ]
    report = json.loads(invoke(*arguments, "--json").stdout)
    assert [row["T"] for row in report["rows"]] == [302, 400] and report["machine"]["threads"] == 1


def test_a_row_of_the_table():
    row = {
        "what": "r",
        "T": 784,
        "bptt": 300,
        "own": 0.0,
        "fold": True,
        "N": 128,
        "L": 600,
        "D": 1,
        "of_sgemm": 0.807,
    }
    row |= {"sequences_per_second": 184.2, "ours_gflops": 146, "ours_s": 0.695, "ours_mb": 674}
    row |= {"tuned_s": 1.091, "tuned_mb": 1849, "speedup_tuned": 1.57}
    row |= {"pytorch_s": 1.291, "pytorch_mb": 849, "speedup_pytorch": 1.85}
    heads = list(bench.head({"cpu": "a", "pytorch": "2"}))
    assert heads[0] == "cpu a, pytorch 2" and len(heads) == 3
    assert "Other programs" in list(bench.head({"pytorch": "2", "load": 1.1}))[1]
    assert len(list(bench.head({"pytorch": "2", "load": 0.9}))) == 3
    assert heads[1].index("ours") < heads[1].index("PyTorch tuned") < heads[1].index("PyTorch as it comes")
    expected = "step, r, folded 784 300 128 600 184 81 % 695 674 1091 1849 1.57 1291 849 1.85"
    assert bench.line(row).split() == expected.split()
    assert len(bench.line(row)) == len(heads[1]) == len(heads[2]) <= 116
    assert bench.line({**row, "fold": False, "D": 3}).startswith("step, r, 3 channels   ")


def test_nothing_is_folded_where_there_is_no_pytorch(monkeypatch):
    monkeypatch.setattr(bench, "has_pytorch", lambda: False)
    monkeypatch.setattr(bench, "measure", lambda case, *_: case)
    found = list(bench.bench(1, bench.cases(bench.LENGTHS)))
    assert not any(case.fold for case in found) and len(found) > 20


def test_a_killed_program_is_an_error_of_one_line():
    with pytest.raises(UserError, match=r"^bench: ours \(none, .* ended: killed, for lack of memory perhaps$"):
        with Child("ours", Case("none", 40, 10, **TINY), 1) as running:
            running.process.kill()
            running.step()


def test_a_program_that_ends_is_an_error_of_one_line():
    with pytest.raises(UserError, match=r"^bench: ours \(r, 40 steps, truncation -1\) ended: .*--bptt.*$"):
        with Child("ours", Case("r", 40, -1, **TINY), 1):
            pass


@pytest.mark.parametrize("what", ["irnn", "urnn"])
def test_a_baseline_does_not_diverge_on_random_sequences(what):
    """At 1,024 steps the iRNN did at its second step, with the learning rate that is timed for the LSTM."""
    with bench.our_step(Case(what, 1024, "full", N=16, H=128), 1) as (step, _):
        assert all(np.isfinite(step()[1]).all() for _ in range(3))
