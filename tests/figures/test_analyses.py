"""`analyse`: small grids that go on where they stopped, and end with a table and a picture."""

import contextlib
import json
import subprocess
import sys

import pytest
from PIL import Image

import cli
from minaux.bench import cpu as bench
from minaux.bench.cpu import Case
from minaux.figures import analyses, summaries
from minaux.training.checkpoint import RunDirectory
from minaux.training.config import UserError
from tests.conftest import ROOT, SMALL, write_run
from tests.datasets.test_dogs import save_list


@pytest.fixture(autouse=True)
def small_grids(monkeypatch):
    grid = [
        {"aux": aux, "bptt": K, "aux_bptt": 28} for aux in ("none", "r", "p") for K in (0, 20)
    ]  # 0, 5 at size 14
    monkeypatch.setitem(analyses.GRIDS, "truncation", grid)


def options(*dropped):
    """Options of `train` that every run of a grid can have."""
    words = " ".join(map(str, SMALL)).replace("--aux r ", "").replace("--pretrain-epochs 1", "")
    for flag in dropped:
        words = words.replace(flag, "")
    return [*words.split(), "--quiet"]


def test_a_grid_ends_with_a_table_and_a_picture_and_goes_on_where_it_stopped(invoke, tmp_path):
    out = tmp_path / "grid"
    command = ["analyse", "truncation", "--out", out, *options("--bptt 10"), "--pretrain-epochs", 1]
    ended = invoke(*command)
    assert ended.status == 0, ended.stderr
    table = (out / "table.md").read_text().splitlines()
    assert [line.split(" | ")[:2] for line in table[2:8]] == [
        [f"| {aux}", K] for aux in ("none", "r", "p") for K in ("0", "5")
    ]
    result = json.loads((out / "aux-r-bptt-5-aux_bptt-7" / "result.json").read_text())
    assert result["bptt"] == 5 and f"{100 * result['test_accuracy']:.1f}" in table[5]
    with Image.open(out / "picture.png") as picture:
        assert picture.width > 800
    times = {path: path.stat().st_mtime_ns for path in out.glob("*/checkpoint.npz")}
    (out / "aux-p-bptt-0-aux_bptt-7" / "result.json").unlink()
    again = invoke(*command)
    assert again.status == 0 and again.stdout.count("run 5 of 6") == 1 and "aux-p-bptt-0" in again.stdout
    assert (out / "table.md").read_text().splitlines() == table
    assert [path.parent.name for path, t in times.items() if path.stat().st_mtime_ns != t] in (
        [],
        ["aux-p-bptt-0-aux_bptt-7"],
    )


def test_other_options_in_the_same_directory_are_refused(invoke, tmp_path):
    out = tmp_path / "grid"
    assert invoke("analyse", "curves", "--out", out, *options()).status == 0
    ended = invoke("analyse", "curves", "--out", out, *options(), "--lr", 0.1)
    assert ended.status == 1 and ended.stderr.count("\n") == 1
    assert "is of an analysis with lr by default, not 0.1" in ended.stderr
    again = invoke("analyse", "curves", "--out", out, *reversed_pairs(options()))
    assert again.status == 0 and "run 1" not in again.stdout
    (out / "options.json").write_text("{")
    assert "is damaged" in invoke("analyse", "curves", "--out", out, *options()).stderr


def reversed_pairs(words):
    """The same options in another order, --quiet left out."""
    pairs = list(zip(words[:-1:2], words[1:-1:2]))
    return [word for pair in reversed(pairs) for word in pair]


def test_what_the_grid_sets_is_refused(invoke, tmp_path):
    ended = invoke("analyse", "truncation", "--out", tmp_path / "x", "--task", "mnist", "--bptt", 0)
    assert ended.status == 1 and "--bptt is what the grid sets" in ended.stderr and not (tmp_path / "x").exists()


def test_a_run_is_no_place_for_an_analysis(invoke, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    ended = invoke("analyse", "curves", "--out", tmp_path, *options())
    assert ended.status == 1 and "holds a run" in ended.stderr and len(list(tmp_path.iterdir())) == 1


def test_an_analysis_that_is_stopped_says_how_it_goes_on(invoke, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise SystemExit(130)

    monkeypatch.setattr(cli, "train_in", stopped)
    ended = invoke("analyse", "curves", "--out", tmp_path / "x", *options())
    assert ended.status == 130 and "the same `analyse` command goes on" in ended.stderr


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (UserError("the loss is not finite"), "the loss is not finite"),
        (
            MemoryError("no room"),
            "out of memory (no room): free some, or train with a smaller --hidden or --batch-size",
        ),
        (OSError(28, "No space left on device", "file"), "file: No space left on device"),
    ],
)
def test_a_run_that_fails_does_not_hold_up_the_others(invoke, tmp_path, monkeypatch, error, says):
    """Twice: whoever goes on meets it first. Another process holds one of them at first."""
    right, out = cli.train_in, tmp_path / "grid"

    def train(run, resume, given):
        if given["aux"] == "none":
            raise error
        right(run, resume, given)

    monkeypatch.setattr(cli, "train_in", train)
    held = RunDirectory(analyses.runs("curves", out, quarter=True)[2][0]).held()
    for done, other in (1, held), (1, contextlib.nullcontext()), (0, contextlib.nullcontext()):
        with other:
            ended = invoke("analyse", "curves", "--out", out, *options())
        assert ended.status == 1 and f"it failed: {says}" in ended.stdout
        assert ended.stdout.count("test accuracy ") == done and not (out / "table.md").exists()
        assert ended.stderr == f"Error: 1 of 3 runs failed, so there is no table; the first: {says}\n"
        assert "writes the table" not in ended.stdout
    monkeypatch.undo()
    assert invoke("analyse", "curves", "--out", out, *options()).status == 0 and (out / "table.md").exists()


def test_lengths_are_a_quarter_for_pictures_of_14():
    found = [(o["anchors"], o["aux_length"]) for _, o in analyses.runs("anchors", "x", quarter=True)]
    assert found == [(1, 75), (1, 25), (1, 12), (2, 37), (4, 18), (8, 12)]


def test_a_bad_option_of_train_is_told_as_there(invoke, tmp_path):
    out = tmp_path / "grid"
    for bad, word in (["--task", "mnist", "--lr", "-1"], "--lr"), ([], "--task is needed"), (["--lx", 1], "--lx"):
        ended = invoke("analyse", "anchors", "--out", out, *bad)
        assert ended.status != 0 and word in ended.stderr and not out.exists()
    ended = invoke("analyse", "curves", "--out", out, "--task", "mnist", "--model", "irnn")
    assert ended.status == 1 and "--model: the grid compares" in ended.stderr and not out.exists()


def test_more_labels_than_there_are_is_told_before_anything_runs(invoke, tmp_path, monkeypatch):
    grid = [{"aux": "none", "limit_labels": n, "epochs": 1} for n in (20, 10_000, 40)]
    monkeypatch.setitem(analyses.GRIDS, "labels", grid)
    out = tmp_path / "grid"
    ended = invoke("analyse", "labels", "--out", out, *options("--epochs 1"))
    assert ended.status == 1 and "--limit-labels: 10000 is more than the" in ended.stderr
    assert "(--limit-train, --valid); the grid goes up to 10,000 labels" in ended.stderr and not out.exists()


def test_an_analysis_goes_on_with_other_threads_and_devices(invoke, tmp_path):
    out, command = (
        tmp_path / "grid",
        ["analyse", "curves", "--out", tmp_path / "grid", *options("--threads 1", "--device cpu")],
    )
    assert invoke(*command, "--threads", 1, "--device", "cpu").status == 0
    (out / "aux-p" / "result.json").unlink()
    noted = json.loads((out / "options.json").read_text())
    (out / "options.json").write_text(json.dumps({**noted, "threads": 1}))  # as it was noted once
    ended = invoke(*command, "--threads", 2)
    assert ended.status == 0 and ended.stdout.count("run 3 of 3") == 1, ended.stderr


def drawn(monkeypatch, name, accuracies, **options):
    """The axes of the grid's figure, and what its lines go through by their names, if the runs came to this."""
    grid = analyses.runs(name, "x", **options)
    found = {run: accuracy for (run, _), accuracy in zip(grid, accuracies, strict=True)}
    monkeypatch.setattr(summaries, "outcome", lambda run: (found[run], 1.0, ""))
    axes = summaries.FIGURES[name](summaries.points_of(grid)).axes[0]
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    return axes, {name: y for name, y in lines.items() if not name.startswith("_")}


def test_the_curves_show_optimisation_and_generalisation(tmp_path):
    """The training loss against batches with labels, and the validation loss against the epoch's training loss."""

    def train(step, loss, phase="joint"):
        return {"kind": "train", "phase": phase, "epoch": step // 20 + 1, "step": step, "loss_supervised": loss}

    def evaluated(step, loss, split="valid"):
        row = {"kind": "eval", "split": split, "epoch": step // 20 + 1, "step": step, "accuracy": 0.5}
        return {**row, "loss_supervised": loss}

    def panels(*runs):
        """What the lines of each panel go through, and the titles."""
        points = [summaries.Point({"aux": aux}, [tmp_path / name], [], [], "") for name, aux in runs]
        figure = summaries.curves_figure(points)
        words = [text.get_text() for text in figure.legends[0].get_texts()]
        assert words == [*(f"{aux}-LSTM" for _, aux in runs), "both losses alike"]
        titles = [axes.get_title() for axes in figure.axes]
        return [[line.get_xydata().tolist() for line in axes.lines] for axes in figure.axes], titles

    rows = [train(10, None, "pretrain"), evaluated(10, 9.0)]  # before the classifier is trained
    rows += [train(20, 4.0), train(30, 2.0), evaluated(30, 3.5), train(40, 1.0), train(50, 0.5), evaluated(50, 1.5)]
    write_run(tmp_path / "r", rows, {"aux": "r"}, test_accuracy=0.5, complete=True)
    (loss, accuracy, generalisation), titles = panels(("r", "r"))
    assert loss == [[[10, 4.0], [20, 3.0], [30, 7 / 3], [40, 7.5 / 4]]]  # running means
    assert accuracy == [[[20, 50.0], [40, 50.0]]]
    assert [[3.0, 3.5], [0.75, 1.5]] in generalisation and titles[1] == "Validation accuracy"
    # Without validation, the last test stands at the training loss of its epoch, if a row tells that.
    trained = [row for row in rows if row.get("split") is None]
    tested = [*trained, evaluated(30, 9.0, "test"), evaluated(50, 1.25, "test")]
    write_run(tmp_path / "t", tested, {"aux": "r"}, test_accuracy=0.5, complete=True)
    (_, accuracy, generalisation), titles = panels(("t", "r"))
    assert accuracy == [[[40, 50.0]]] and [[0.75, 1.25]] in generalisation and titles[1] == "Test accuracy"
    write_run(
        tmp_path / "b", [*trained, evaluated(60, 1.25, "test")], {"aux": "r"}, test_accuracy=0.5, complete=False
    )
    assert panels(("b", "r"))[0][1] == []
    # A budget spent in pretraining leaves nothing to draw; beside a run with validation its test is not drawn.
    write_run(
        tmp_path / "p", rows[:2] + [evaluated(10, 9.0, "test")], {"aux": "p"}, test_accuracy=0.1, complete=False
    )
    (loss, accuracy, _), titles = panels(("r", "r"), ("p", "p"))
    assert [len(line) for line in loss] == [4, 0] and [len(line) for line in accuracy] == [2]
    assert titles[1] == "Validation accuracy"


def ticks(axes):
    return [label.get_text() for label in axes.get_xticklabels()]


def test_anchors_are_drawn_against_lengths(monkeypatch):
    axes, _ = drawn(monkeypatch, "anchors", [1, 2, 3, 4, 5, 6])
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[n, n + 1]] for n in range(6)]
    assert ticks(axes)[0] == "1 × 300" and len(ticks(axes)) == 6 and "%" in axes.get_ylabel()


def test_the_truncation_picture_has_a_line_for_each_loss(monkeypatch):
    axes, lines = drawn(monkeypatch, "truncation", [10, 20, 30, 40, 50, 60])
    assert ticks(axes) == ["0", "20"] and lines == {"LSTM": [10, 20], "r-LSTM": [30, 40], "p-LSTM": [50, 60]}


@pytest.mark.parametrize(
    "accuracies, low, high",
    [
        ([32, 38, 36, 43, 40, 42], 30, 50),
        ([0.5, 98, 10, 10, 10, 10], 0, 100),
        ([100] * 6, 90, 100),
        ([0] * 6, 0, 10),
        ([90] * 6, 90, 100),
    ],
)
def test_accuracies_are_drawn_between_the_tens_around_them(monkeypatch, accuracies, low, high):
    axes, _ = drawn(monkeypatch, "truncation", accuracies)
    bottom, top = axes.get_ylim()
    assert low - 1 <= bottom <= low and high <= top <= high + 1


def test_a_line_goes_through_the_mean_of_the_seeds_with_a_dot_for_each(monkeypatch):
    axes, lines = drawn(monkeypatch, "truncation", range(12), seeds=range(7, 9))
    assert ticks(axes) == ["0", "20"] and lines.pop("each seed") == []  # the dots' entry in the legend
    assert lines == {"LSTM": [0.5, 2.5], "r-LSTM": [4.5, 6.5], "p-LSTM": [8.5, 10.5]}
    dots = [(x, y) for line in axes.lines if line.get_marker() == "." for x, y in line.get_xydata().tolist()]
    assert dots == [
        (0, 0),
        (0, 1),
        (1, 2),
        (1, 3),
        (0, 4),
        (0, 5),
        (1, 6),
        (1, 7),
        (0, 8),
        (0, 9),
        (1, 10),
        (1, 11),
    ]


def test_more_seeds_add_runs_to_a_grid_and_its_rows_have_their_mean(invoke, tmp_path):
    out = tmp_path / "grid"
    assert invoke("analyse", "curves", "--out", out, *options(), "--seed", 3).status == 0
    again = invoke("analyse", "curves", "--out", out, *options(), "--seed", 3, "--seeds", 2)
    assert again.status == 0 and again.stdout.count("test accuracy ") == 3, again.stderr
    tested = {}
    for run in out.glob("aux-r*"):
        seed = json.loads((run / "config.json").read_text())["seed"]
        tested[run.name, seed] = 100 * json.loads((run / "result.json").read_text())["test_accuracy"]
    assert tested.keys() == {("aux-r", 3), ("aux-r-seed4", 4)}
    low, high = sorted(tested.values())
    row = f"| r | {sum(tested.values()) / 2:.1f} ({low:.1f} to {high:.1f}) |"
    assert row in (out / "table.md").read_text()


def test_the_labels_picture_has_a_line_for_each_loss(monkeypatch):
    axes, lines = drawn(monkeypatch, "labels", range(15))
    assert ticks(axes) == ["100", "300", "1,000", "3,000", "10,000"]
    assert list(lines.values()) == [[*range(5)], [*range(5, 10)], [*range(10, 15)]]
    grid = analyses.runs("labels", "x")
    batches = [options["epochs"] * -(-options["limit_labels"] // 32) for _, options in grid[:5]]
    assert batches == [1600, 1600, 1600, 1692, 3130]


def test_length_ends_with_accuracy_time_and_memory_against_the_length(invoke, tmp_path, monkeypatch):
    """On pictures in the layout of the dogs, at two small sizes."""
    folder = tmp_path / "dogs"
    for split, n in ("train", 6), ("test", 2):
        names = [f"{split}/{i}.jpg" for i in range(n)]
        (folder / "Images" / split).mkdir(parents=True)
        for i, name in enumerate(names):
            Image.new("RGB", (20, 30), (30 * i, 99, 9)).save(folder / "Images" / name)
        save_list(folder / f"{split}_list.mat", {name: i % 2 + 1 for i, name in enumerate(names)})
    monkeypatch.setitem(
        analyses.GRIDS, "length", [{"aux": a, "size": size} for a in analyses.AUX for size in (16, 17)]
    )
    out, small = (
        tmp_path / "length",
        "--task dogs --epochs 1 --pretrain-epochs 0 --valid 0 --hidden 3 --batch-size 4",
    )
    words = [*small.split(), "--data-dir", folder, "--bptt", 5, "--aux-length", 4, "--threads", 1, "--quiet"]
    ended = invoke("analyse", "length", "--out", out, *words)
    assert ended.status == 0 and ended.stdout.count("measuring a training step: ") == 6, ended.stderr
    rows = json.loads((out / "rows.json").read_text())
    asked = ("what", "T", "bptt", "N", "H", "L", "D", "own")
    assert {tuple(row[name] for name in asked) for row in rows} == {
        (aux, T, 5, 4, 3, 4, 3, float(aux == "r")) for aux in analyses.AUX for T in (256, 289)
    }
    lines = (out / "table.md").read_text().splitlines()
    assert [line.split(" | ")[:3] for line in lines[2:8]] == [
        [f"| {aux}", size, steps] for aux in analyses.AUX for size, steps in (("16", "256"), ("17", "289"))
    ]
    assert invoke("analyse", "length", "--out", out, *words).stdout.count("measuring") == 0
    with RunDirectory(out).held():
        assert "another process measures" in invoke("analyse", "length", "--out", out, *words).stdout
    ended = invoke("analyse", "length", "--out", tmp_path / "x", *words, "--anchors", 2)
    assert ended.status == 1 and "--anchors" in ended.stderr and not (tmp_path / "x").exists()
    ended = invoke("analyse", "length", "--out", tmp_path / "x", "--task", "mnist")
    assert ended.status == 1 and "give --task dogs" in ended.stderr and not (tmp_path / "x").exists()


def test_costs_are_measured_once(invoke, tmp_path, monkeypatch):
    tiny = [(name, Case("none", T, K, N=4, H=4)) for T in (20, 40) for name, K in (("full", "full"), ("short", 5))]
    monkeypatch.setattr(bench, "costs", lambda: tiny)
    ended = invoke("analyse", "cost", "--out", tmp_path)
    assert ended.status == 0 and ended.stdout.count("measuring a training step: ") == 4, ended.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["name"], row["T"]) for row in rows] == [("full", 20), ("short", 20), ("full", 40), ("short", 40)]
    assert (tmp_path / "table.md").read_text().count("| short |") == 2 and (tmp_path / "picture.png").exists()
    assert "measuring" not in invoke("analyse", "cost", "--out", tmp_path).stdout
    with RunDirectory(tmp_path).held():
        assert "another process measures" in invoke("analyse", "cost", "--out", tmp_path).stdout
    assert invoke("analyse", "cost", "--out", tmp_path / "x", "--lr", 1).status == 1


NOT_FINITE = '[{"name": "full", "T": 20, "N": 4, "ours_s": Infinity, "ours_mb": 1}]'


@pytest.mark.parametrize("wrong", ["{}", "[1]", '[{"name": "full"}]', '[{"name": "full", "T": "20"}]', NOT_FINITE])
def test_damaged_rows_are_told_and_measured_again(invoke, tmp_path, monkeypatch, wrong):
    monkeypatch.setattr(bench, "costs", lambda: [("full", Case("none", 20, "full", N=4, H=4))])
    (tmp_path / "rows.json").write_text(wrong)
    ended = invoke("analyse", "cost", "--out", tmp_path)
    assert ended.status == 1 and ended.stderr.count("\n") == 1
    assert f"{tmp_path / 'rows.json'} is damaged: delete it" in ended.stderr
    (tmp_path / "rows.json").unlink()
    assert invoke("analyse", "cost", "--out", tmp_path).status == 0


def test_costs_of_other_processes_are_not_mixed(invoke, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "costs", lambda: [("full", Case("none", 20, "full", N=4, H=4))])
    monkeypatch.setattr(cli, "cores", lambda: 1)
    assert invoke("analyse", "cost", "--out", tmp_path).status == 0
    monkeypatch.setattr(cli, "cores", lambda: 2)
    ended = invoke("analyse", "cost", "--out", tmp_path)
    assert ended.status == 1 and "was measured on 1 processes, not 2: choose another --out" in ended.stderr


def test_a_grids_table_has_accuracies_training_losses_and_what_is_not_finished(tmp_path):
    grid = []
    for aux, seed, accuracy, losses, complete in (
        ("none", 0, 0.5, [9.0, *[2.0] * 9, 4.0], True),  # the mean of the last ten rows
        ("none", 1, 0.7, [1.0], False),
        ("r", 0, 0.25, [0.5], True),
    ):
        rows = [{"kind": "train", "phase": "pretrain", "step": 1, "loss_supervised": None}]
        rows += [{"kind": "train", "phase": "joint", "step": 2, "loss_supervised": loss} for loss in losses]
        run = write_run(tmp_path / f"{aux}{seed}", rows, test_accuracy=accuracy, complete=complete)
        grid.append((run, {"aux": aux, "seed": seed}))
    table, _ = summaries.summary("curves", grid)
    assert table.splitlines()[2:4] == ["| none | 60.0 (50.0 to 70.0)* | 1.600 |", "| r | 25.0 | 0.500 |"]


COSTS = [
    {"name": "LSTM", "T": 289, "N": 4, "ours_s": 0.25, "ours_mb": 31.4},
    {"name": "LSTM", "T": 256, "N": 4, "ours_s": 0.0624, "ours_mb": 30.0},
    {"name": "r-LSTM", "T": 256, "N": 4, "ours_s": 0.125, "ours_mb": 65.0},
]


def panels_of(figure):
    """[{line's name: its points}] of each panel."""
    return [{line.get_label(): line.get_xydata().tolist() for line in axes.lines} for axes in figure.axes]


def test_costs_are_told_in_ms_and_mb_and_drawn_in_seconds():
    table, figure = summaries.cost_summary(COSTS)
    assert table.splitlines()[2:] == [
        "| LSTM | 256 | 62 | 30 |",
        "| LSTM | 289 | 250 | 31 |",
        "| r-LSTM | 256 | 125 | 65 |",
    ]
    seconds, memory = panels_of(figure)
    assert seconds == {"LSTM": [[256, 0.0624], [289, 0.25]], "r-LSTM": [[256, 0.125]]}
    assert memory == {"LSTM": [[256, 30.0], [289, 31.4]], "r-LSTM": [[256, 65.0]]}


def test_lengths_are_told_with_accuracy_minutes_and_costs(tmp_path):
    grid = [("none", 16, 0.5), ("none", 17, 0.75), ("r", 16, 0.875), ("p", 16, 0.25)]
    grid = [
        (write_run(tmp_path / f"{aux}{size}", test_accuracy=accuracy, elapsed_s=90.0), {"aux": aux, "size": size})
        for aux, size, accuracy in grid
    ]
    table, figure = summaries.length_summary(grid, [*COSTS, {**COSTS[2], "name": "p-LSTM"}])
    assert table.splitlines()[2:5] == [
        "| none | 16 | 256 | 50.0 | 1.5 | 62 | 30 |",
        "| none | 17 | 289 | 75.0 | 1.5 | 250 | 31 |",
        "| r | 16 | 256 | 87.5 | 1.5 | 125 | 65 |",
    ]
    accuracies, seconds, _ = panels_of(figure)
    assert accuracies == {"LSTM": [[0, 50], [1, 75]], "r-LSTM": [[0, 87.5]], "p-LSTM": [[0, 25]]}
    assert seconds["LSTM"] == [[256, 0.0624], [289, 0.25]]


def test_cost_cases_reach_16384_steps():
    found = {(name, case.T) for name, case in bench.costs()}
    assert {(name, 16384) for name in ("LSTM, truncated 300", "r-LSTM, truncated 300", "LSTM, full BPTT")} <= found
    assert ("Transformer", 4096) in found


def test_processes_started_together_divide_the_grid(tmp_path):
    """Each run is trained once, and the last process writes the table."""
    out, pipe = tmp_path / "grid", subprocess.PIPE
    command = [sys.executable, ROOT / "cli.py", "analyse", "curves", *options(), "--epochs", 6, "--out", out]
    command = list(map(str, command))
    together = [subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) for _ in range(3)]
    outs, errs = zip(*(process.communicate() for process in together))
    assert [process.returncode for process in together] == [0, 0, 0] and not any(errs), errs
    assert sum(text.count("test accuracy ") for text in outs) == 3  # one for each run
    assert "| none |" in (out / "table.md").read_text() and any("| none |" in text for text in outs)
    assert not [path for path in out.rglob("*") if path.name == "lock" or path.suffix == ".tmp"]


def test_a_run_that_another_process_holds_is_left_to_it(invoke, tmp_path):
    out = tmp_path / "grid"
    command = ["analyse", "curves", "--out", out, *options()]
    with RunDirectory(analyses.runs("curves", out, quarter=True)[1][0]).held():
        ended = invoke(*command)
        assert ended.status == 0 and "other processes are at work on 1 of 3 runs" in ended.stdout
        assert not (out / "table.md").exists()
    ended = invoke(*command)
    assert ended.status == 0 and (out / "table.md").exists() and ended.stdout.count("test accuracy ") == 1
