"""The paper's analyses: grids of runs, and what they come to, as a table and a picture.

truncation  accuracy against the truncation, down to 1 and 0 ("little to no back-propagation"): at 0 no
            supervised gradient enters the LSTM, an auxiliary loss alone trains it
labels      accuracy against the number of labels, where the auxiliary loss has all sequences
curves      training loss and accuracy of none, r and p, for what the auxiliary loss does to optimisation and
            to generalisation
anchors     r with more anchors and shorter segments
cost        time and memory of a training step against the length of the sequences
"""

import json
import os

from ..training import config
from ..training.checkpoint import Held, check_directory, read_json, read_result, read_rows, write_whole
from ..training.config import UserError
from . import plots
from .plots import COLORS, LINES, MARKERS

AUX = ("none", "r", "p")
GRIDS = {  # name: the options of each run; at --size 14 lengths are a quarter, as the sequences are
    # The auxiliary loss' own truncation stays where it is: this is about the supervised one.
    "truncation": [{"aux": aux, "bptt": K, "aux_bptt": 300} for aux in AUX for K in (0, 1, 3, 10, 30, 100, 300)],
    # Fewer labels, more epochs, and fewer batches in all: 384, 600, 960, 1,692 and 3,130 of 32.
    "labels": [
        {"aux": aux, "limit_labels": n, "epochs": epochs}
        for aux in AUX
        for n, epochs in ((100, 96), (300, 60), (1000, 30), (3000, 18), (10_000, 10))
    ],
    "curves": [{"aux": aux} for aux in AUX],
    "anchors": [
        {"aux": "r", "anchors": n, "aux_length": L}
        for n, L in ((1, 300), (1, 100), (1, 50), (2, 150), (4, 75), (8, 50))
    ],
}


def runs(name, out, quarter=False):
    """[(directory, options)] of a grid's runs; `quarter`: of sequences a quarter as long."""
    found = []
    for options in GRIDS[name]:
        if quarter:  # 1 stays 1
            lengths = {
                k: max(v // 4, min(v, 1)) for k, v in options.items() if k in ("bptt", "aux_bptt", "aux_length")
            }
            options = {**options, **lengths}
        directory = "-".join(f"{option}-{value}" for option, value in options.items())
        if (os.path.join(out, directory), options) not in found:  # a quarter of 3 is 1, too
            found.append((os.path.join(out, directory), options))
    return found


def run_grid(name, out, given, cores, train, tell):
    """Run what is not finished yet of the grid `name`, in the directory `out`; returns its table, which is written
    there with the picture, or None if other processes are still at work on some runs: the last one writes it.

    `given` are the options of `train` for all runs; train(directory, options) trains one, or goes on with it;
    and raises Held if another process does; tell(line) hears which. Raises UserError for what cannot be before
    anything is run.
    """
    if "task" not in given:
        raise UserError("--task is needed: for example --task pmnist")
    grid = runs(name, out, quarter=given.get("size") == 14)
    for option in grid[0][1]:
        if option in given:
            raise UserError(f"{config.option(option)} is what the grid sets: leave it out")
    for _, options in grid:
        config.build(whole(given, options), cores)
    note(out, {"analysis": name, **{k: v for k, v in given.items() if k not in ("quiet", "data_dir")}})
    todo = [run for run in grid if not finished(run[0])]
    while todo:
        held = []
        for directory, options in todo:
            tell(f"run {grid.index((directory, options)) + 1} of {len(grid)}: {directory}")
            try:
                train(directory, whole(given, options))
            except Held:
                tell("another process is at work on it")
                held.append((directory, options))
        if len(held) == len(todo):
            tell(f"other processes are at work on {len(held)} of {len(grid)} runs: the last one writes the table")
            return None
        todo = [run for run in held if not finished(run[0])]
    return write(out, *summary(name, grid))


def whole(given, options):
    """A run's options of `train`; a plain LSTM has nothing to pretrain."""
    return {**given, **options, **({"pretrain_epochs": 0} if options["aux"] == "none" else {})}


def cost(out, processes, tell):
    """Measure what is not measured yet of the costs, in so many processes; returns their table, which is written
    in the directory `out` with the picture. tell(line) hears what is measured."""
    from ..bench import cpu as bench

    note(out, {"analysis": "cost"})
    path = os.path.join(out, "rows.json")
    rows = read_json(path) if os.path.exists(path) else []
    for name, case in bench.costs():
        if (name, case.T) not in [(row["name"], row["T"]) for row in rows]:
            tell(f"{name}, {case.T:,} steps")
            rows.append({"name": name, **bench.measure(case, processes, 3, pytorch=False)})
            write_whole(path, json.dumps(rows).encode())
    return write(out, *cost_summary(rows))


def note(out, options):
    """Note in `out` what is run there. Raises UserError if it is something else's directory."""
    check_directory(out)
    noted = os.path.join(out, "options.json")
    if os.path.exists(os.path.join(out, "config.json")):
        raise UserError(f"{out} holds a run: choose another --out")
    if os.path.exists(noted):
        was = read_json(noted)
        was = was if isinstance(was, dict) else {}
        for name in [*was, *options]:
            if was.get(name) != options.get(name):
                what = f"{name} {was.get(name, 'by default')}, not {options.get(name, 'by default')}"
                raise UserError(f"{out} is of an analysis with {what}: choose another --out")
    os.makedirs(out, exist_ok=True)
    write_whole(noted, json.dumps(options).encode())


def write(out, text, figure):
    """Write table.md and picture.png; returns the table."""
    write_whole(os.path.join(out, "table.md"), f"{text}\n".encode())
    plots.save(figure, os.path.join(out, "picture.png"))
    return text


def finished(run):
    """Whether the run has been tested, at its end or at the end of its budget."""
    return os.path.exists(os.path.join(run, "result.json"))


def row(run):
    """What a run came to: its test accuracy in percent, its training loss, and "*" if it is not complete."""
    result = read_result(run)
    losses = [r["loss_supervised"] for r in read_rows(run) if r["kind"] == "train"]
    losses = [loss for loss in losses if loss is not None] or [float("nan")]
    star = "" if result["complete"] else "*"
    return 100 * result["test_accuracy"], plots.running_mean(losses)[-1], star


def summary(name, grid):
    """(the table in Markdown, the figure) of a grid's runs, [(directory, options)], which are finished."""
    found = {run: row(run) for run, _ in grid}
    heads = list(grid[0][1])
    lines = [
        f"| {' | '.join(heads)} | test accuracy, % | training loss at the end |",
        "|---" * (len(heads) + 2) + "|",
    ]
    for run, options in grid:
        accuracy, loss, star = found[run]
        lines.append(f"| {' | '.join(map(str, options.values()))} | {accuracy:.1f}{star} | {loss:.3f} |")
    lines += ["", "The training loss is a mean over the last 10 rows; * the run has not come to its end."]
    return "\n".join(lines), FIGURES[name](grid, [accuracy for accuracy, _, _ in found.values()])


def truncation_figure(grid, accuracies):
    return accuracy_figure(
        grid, accuracies, "bptt", "truncation of the supervised loss, steps (at 0 it trains the classifier alone)"
    )


def labels_figure(grid, accuracies):
    return accuracy_figure(grid, accuracies, "limit_labels", "labels")


def accuracy_figure(grid, accuracies, option, xlabel):
    """A curve for each of AUX against the values of an option, one beside the next."""
    figure, axes = one_panel(xlabel)
    for n, aux in enumerate(AUX):
        some = [(options[option], y) for (_, options), y in zip(grid, accuracies) if options["aux"] == aux]
        values, y = zip(*some)
        axes.plot(range(len(y)), y, label=aux, **style(n))
    axes.set_xticks(range(len(y)), [f"{value:,}" for value in values])
    axes.set(ylabel="test accuracy, %", ylim=(0, 100))
    axes.legend(title="auxiliary loss")
    return figure


def curves_figure(grid, _):
    return plots.plot([run for run, _ in grid])


def anchors_figure(grid, accuracies):
    figure, axes = one_panel("anchors × segment length, steps")
    labels = [f"{options['anchors']} × {options['aux_length']}" for _, options in grid]
    axes.plot(range(len(labels)), accuracies, **{**style(0), "linestyle": ""})
    axes.set_xticks(range(len(labels)), labels)
    axes.set(ylabel="test accuracy, %", ylim=(0, 100))
    return figure


FIGURES = {
    "truncation": truncation_figure,
    "labels": labels_figure,
    "curves": curves_figure,
    "anchors": anchors_figure,
}


def cost_summary(rows):
    """(the table in Markdown, the figure) of the rows that `bench` measured: seconds and peak memory of a step."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    lines = ["| training step | sequence length | ms | peak memory, MB |", "|---|---|---|---|"]
    figure = Figure(figsize=(10.4, 4.4), layout="constrained")
    seconds, memory = figure.subplots(1, 2)
    for n, name in enumerate(dict.fromkeys(row["name"] for row in rows)):
        some = sorted((row["T"], row["ours_s"], row["ours_mb"]) for row in rows if row["name"] == name)
        lines += [f"| {name} | {T:,} | {1e3 * s:.0f} | {mb:.0f} |" for T, s, mb in some]
        lengths, times, sizes = zip(*some)
        seconds.plot(lengths, times, label=name, **style(n))
        memory.plot(lengths, sizes, label=name, **style(n))
    seconds.set(title="Time of a training step", ylabel="seconds")
    memory.set(title="Peak memory, above what the program starts with", ylabel="MB")
    for axes in seconds, memory:
        axes.set(xlabel="steps of a sequence", xscale="log", yscale="log")
        lengths = sorted({row["T"] for row in rows})
        axes.set_xticks(lengths, [f"{T:,}" for T in lengths])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.grid(alpha=0.25)
        axes.legend(fontsize="small")
    return "\n".join(lines), figure


def style(n):
    return {"color": COLORS[n % 5], "linestyle": LINES[n % 4], "marker": MARKERS[n % 4], "markersize": 5}


def one_panel(xlabel):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(xlabel)
    axes.grid(alpha=0.25)
    return figure, axes
