"""The paper's analyses: grids of runs, and what they come to, as a table and a picture.

truncation  accuracy against the truncation, down to 1 and 0 ("little to no back-propagation"): at 0 no
            supervised gradient enters the LSTM, an auxiliary loss alone trains it
labels      accuracy against the number of labels, where the auxiliary loss has all sequences
curves      training loss and accuracy of none, r and p, for what the auxiliary loss does to optimisation and
            to generalisation
anchors     r with more anchors and shorter segments
length      accuracy, time and memory against the length of the sequences, of pictures that are scaled to four sizes
cost        time and memory of a training step against the length of the sequences
"""

import json
import os
from typing import NamedTuple

from ..training import config
from ..training.checkpoint import (
    Held,
    RunDirectory,
    check_directory,
    read_json,
    read_result,
    read_rows,
    write_whole,
)
from ..training.config import UserError
from . import plots
from .names import MODELS
from .plots import COLORS, LINES, MARKERS

AUX = tuple(MODELS)  # none, r, p
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
    "length": [{"aux": aux, "size": size} for aux in AUX for size in (16, 32, 64, 128)],
}


def runs(name, out, quarter=False, seeds=(0,)):
    """[(directory, options)] of a grid's runs, each of them with all `seeds`; `quarter`: of sequences a quarter as
    long."""
    found = []
    for options in GRIDS[name]:
        if quarter:  # 1 stays 1
            lengths = {
                k: max(v // 4, min(v, 1)) for k, v in options.items() if k in ("bptt", "aux_bptt", "aux_length")
            }
            options = {**options, **lengths}
        directory = os.path.join(out, "-".join(f"{option}-{value}" for option, value in options.items()))
        for seed in seeds:
            run = directory if seed == seeds[0] else f"{directory}-seed{seed}", {**options, "seed": seed}
            if run not in found:  # a quarter of 3 is 1, too
                found.append(run)
    return found


def run_grid(name, out, given, seeds, cores, train, tell):
    """Run what is not finished yet of the grid `name`, in the directory `out`; returns its table, which is written
    there with the picture, or None if other processes are still at work on some runs: the last one writes it.

    Each run is made with so many `seeds`, from the given one on. `given` are the options of `train` for all runs;
    train(directory, options) trains one, or goes on with it, and raises Held if another process does; tell(line)
    hears which. Raises UserError for what cannot be before anything is run.
    """
    if "task" not in given:
        raise UserError("--task is needed: for example --task pmnist")
    if name == "length" and given["task"] != "dogs":
        raise UserError(
            "--task: `analyse length` scales pictures to four sizes, as only dogs can be: give --task dogs"
        )
    for option in NOT_MEASURED if name == "length" else ():
        if option in given:
            raise UserError(
                f"{config.option(option)}: `analyse length` measures training steps without it: leave it out"
            )
    for option in GRIDS[name][0]:
        if option in given:
            raise UserError(f"{config.option(option)} is what the grid sets: leave it out")
    first = given.get("seed", 0)
    grid = runs(name, out, given.get("size") == 14, range(first, first + seeds))
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
    if name == "length":
        try:
            with RunDirectory(out).held():
                rows = measured(out, length_steps(grid), tell)
        except Held:
            tell("another process measures the training steps: it writes the table")
            return None
        return write(out, *length_summary(grid, rows))
    return write(out, *summary(name, grid))


def whole(given, options):
    """A run's options of `train`; a plain LSTM has nothing to pretrain."""
    return {**given, **options, **({"pretrain_epochs": 0} if options["aux"] == "none" else {})}


def cost(out, processes, tell):
    """Measure what is not measured yet of the costs, in so many processes; returns their table, which is written
    in the directory `out` with the picture. tell(line) hears what is measured."""
    from ..bench import cpu as bench

    note(out, {"analysis": "cost"})
    return write(out, *cost_summary(measured(out, [(*case, processes) for case in bench.costs()], tell)))


def measured(out, cases, tell):
    """The rows that `bench` measures of training steps, [(name, Case, processes)], kept in `out`/rows.json."""
    from ..bench import cpu as bench

    path = os.path.join(out, "rows.json")
    rows = read_json(path) if os.path.exists(path) else []
    for name, case, processes in cases:
        if (name, case.T) not in [(row["name"], row["T"]) for row in rows]:
            tell(f"measuring a step: {name}, {case.T:,} steps a sequence")
            rows.append({"name": name, **bench.measure(case, processes, 3, pytorch=False)})
            write_whole(path, json.dumps(rows).encode())
    return rows


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


class Point(NamedTuple):
    """What a grid's runs with the same options came to, one for each seed."""

    options: dict  # without the seed
    runs: list  # directories
    accuracies: list  # on the test, in percent
    losses: list  # the training loss, a mean of the last rows
    star: str  # "*" if one has not come to its end


def points_of(grid):
    """The Points of runs, [(directory, options)], which are finished."""
    groups = []
    for run, options in grid:
        options = {option: value for option, value in options.items() if option != "seed"}
        if not groups or groups[-1][0] != options:
            groups.append((options, []))
        groups[-1][1].append(run)
    points = []
    for options, found in groups:
        accuracies, losses, stars = zip(*map(row, found))
        points.append(Point(options, found, list(accuracies), list(losses), max(stars)))
    return points


def row(run):
    """What a run came to: its test accuracy in percent, its training loss, and "*" if it is not complete."""
    result = read_result(run)
    losses = [r["loss_supervised"] for r in read_rows(run) if r["kind"] == "train"]
    losses = [loss for loss in losses if loss is not None] or [float("nan")]
    star = "" if result["complete"] else "*"
    return 100 * result["test_accuracy"], plots.running_mean(losses)[-1], star


def summary(name, grid):
    """(the table in Markdown, the figure) of a grid's runs, [(directory, options)], which are finished. Runs that
    differ in their seeds alone share a row."""
    points = points_of(grid)
    lines = markdown(
        [*points[0].options, "test accuracy, %", "training loss at the end"],
        [[*p.options.values(), accuracy(p), f"{sum(p.losses) / len(p.losses):.3f}"] for p in points],
        f"The training loss is a mean of the last {plots.MEAN} rows; {SIGNS}",
    )
    return lines, FIGURES[name](points)


SIGNS = "of several seeds the mean (lowest to highest) stands; * the run has not come to its end."


def accuracy(point):
    y = point.accuracies
    return f"{sum(y) / len(y):.1f}" + (f" ({min(y):.1f} to {max(y):.1f})" if len(y) > 1 else "") + point.star


def markdown(heads, rows, below):
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join([*(f"| {' | '.join(map(str, cells))} |" for cells in lines), "", below])


def truncation_figure(points):
    return accuracy_figure(
        points, "bptt", "K, steps that the labels' gradient goes back (at 0 it trains the classifier alone)"
    )


def labels_figure(points):
    return accuracy_figure(points, "limit_labels", "labels")


def accuracy_figure(points, option, xlabel):
    figure, axes = one_panel(xlabel)
    draw_accuracies(axes, points, lambda options: options[option])
    return figure


def draw_accuracies(axes, points, x):
    """A curve for each of AUX against x(options), one value beside the next; a dot for each seed."""
    values = list(dict.fromkeys(x(point.options) for point in points))
    for n, aux in enumerate(AUX):
        some = [(values.index(x(p.options)), p.accuracies) for p in points if p.options["aux"] == aux]
        places, accuracies = zip(*some)
        axes.plot(places, [sum(y) / len(y) for y in accuracies], label=MODELS[aux], **style(n))
        for place, y in some:
            if len(y) > 1:
                axes.plot([place] * len(y), y, color=COLORS[n], linestyle="", marker=".", alpha=0.6)
    if any(len(p.runs) > 1 for p in points):
        axes.plot([], [], color="dimgray", linestyle="", marker=".", label="each seed")
    axes.set_xticks(range(len(values)), [f"{value:,}" for value in values])
    axes.set(ylabel="test accuracy, %", ylim=(0, 100))
    axes.legend()


def curves_figure(points):
    """Optimisation: training loss and accuracy against the batches with labels, pretraining left out.
    Generalisation: the evaluated loss against the training loss of the same epoch, a mark for each."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(13.2, 4.4), layout="constrained")
    training, accuracies, generalisation = figure.subplots(1, 3)
    curves = [(AUX.index(point.options["aux"]), plots.read(run)) for point in points for run in point.runs]
    split = "valid" if any(curve.validated("accuracy") for _, curve in curves) else "test"
    names = {}
    for n, curve in curves:
        steps, losses = plots.unzip(curve.trained(plots.SUPERVISED, "joint"))
        steps = [step - curve.pretrained for step in steps]
        look = {"color": COLORS[n], "linestyle": LINES[n]}
        names[MODELS[AUX[n]]] = Line2D([], [], **style(n))
        training.plot(steps, plots.running_mean(losses), linewidth=0.8, **look)
        evaluated = epochs(curve, split)
        if evaluated:
            ends, percent, here, there = zip(*evaluated)
            accuracies.plot(ends, percent, **style(n))
            generalisation.plot(here, there, **style(n))
    word = "validation" if split == "valid" else "test"
    training.set(title="Training loss, running mean", xlabel="batches with labels", ylabel="nats")
    training.set_ylim(bottom=0)
    accuracies.set(title=f"{word.capitalize()} accuracy", xlabel="batches with labels", ylabel="%")
    accuracies.set(xlim=training.get_xlim(), ylim=(0, 100))
    generalisation.set(title="Generalisation, a mark an epoch", xlabel="training loss, mean of the epoch")
    generalisation.set(ylabel=f"{word} loss after it", xlim=(0, None), ylim=(0, None))
    end = min(generalisation.get_xlim()[1], generalisation.get_ylim()[1])
    [names["both losses alike"]] = generalisation.plot([0, end], [0, end], color="dimgray", linewidth=0.8, zorder=1)
    for axes in figure.axes:
        axes.grid(alpha=0.25)
    figure.legend(names.values(), names, loc="outside upper center", ncols=4, frameon=False)
    return figure


def epochs(curve, split):
    """[(batches with labels, accuracy in percent, the epoch's training loss, loss)] of a run's evaluations on a
    split in joint training; of the test the last."""
    found = [row for row in curve.rows if row.get("split") == split and row["step"] > curve.pretrained]
    points = []
    for row in found if split == "valid" else found[-1:]:
        losses = [
            r["loss_supervised"] for r in curve.rows if r.get("phase") == "joint" and r["epoch"] == row["epoch"]
        ]
        if losses:
            mean = sum(losses) / len(losses)
            points.append((row["step"] - curve.pretrained, 100 * row["accuracy"], mean, row["loss_supervised"]))
    return points


def anchors_figure(points):
    figure, axes = one_panel("anchors × segment length, steps")
    labels = [f"{point.options['anchors']} × {point.options['aux_length']}" for point in points]
    for x, point in enumerate(points):
        axes.plot([x] * len(point.runs), point.accuracies, **{**style(0), "linestyle": ""})
    axes.set_xticks(range(len(labels)), labels)
    axes.set(ylabel="test accuracy, %", ylim=(0, 100))
    return figure


FIGURES = {
    "truncation": truncation_figure,
    "labels": labels_figure,
    "curves": curves_figure,
    "anchors": anchors_figure,
}
# What decides the time and memory of a training step, and `bench` does not vary.
NOT_MEASURED = ("anchors", "aux_bptt", "checkpoint_every", "device", "dtype")


def length_steps(grid):
    """[(name, Case, processes)] of a training step of each run, in three channels as the pictures have them, on one
    process."""
    from ..bench.cpu import Case

    steps = {}
    for run, _ in grid:
        cfg = config.read(os.path.join(run, "config.json"))
        own = cfg.feed_end if cfg.aux == "r" else 0.0
        sizes = {"N": cfg.batch_size, "H": cfg.hidden, "L": cfg.aux_length, "D": 3}
        steps[cfg.aux, cfg.size] = (MODELS[cfg.aux], Case(cfg.aux, cfg.size**2, cfg.bptt, own, **sizes), 1)
    return list(steps.values())


def length_summary(grid, rows):
    """(the table in Markdown, the figure): accuracy against the length, and the `rows` that `bench` measured."""
    from matplotlib.figure import Figure

    points, figure = points_of(grid), Figure(figsize=(14.4, 4.4), layout="constrained")
    panel, seconds, memory = figure.subplots(1, 3)
    draw_accuracies(panel, points, lambda options: options["size"] ** 2)
    panel.set(title="Accuracy", xlabel="steps of a sequence")
    panel.grid(alpha=0.25)
    draw_costs(seconds, memory, rows)
    cells, costs = [], {(row["name"], row["T"]): row for row in rows}
    for point in points:
        aux, size = point.options["aux"], point.options["size"]
        minutes = sum(read_result(run)["elapsed_s"] for run in point.runs) / len(point.runs) / 60
        cost = costs[MODELS[aux], size**2]
        cells.append([aux, size, f"{size**2:,}", accuracy(point), f"{minutes:.1f}"])
        cells[-1] += [f"{1e3 * cost['ours_s']:.0f}", f"{cost['ours_mb']:.0f}"]
    heads = ["aux", "size", "steps", "test accuracy, %", "minutes of training", "ms a step", "MB a step"]
    below = f"ms and MB are of a training step on one process, as `bench` measures it; {SIGNS}"
    return markdown(heads, cells, below), figure


def cost_summary(rows):
    """(the table in Markdown, the figure) of the rows that `bench` measured: seconds and peak memory of a step."""
    from matplotlib.figure import Figure

    lines = ["| training step | sequence length | ms | peak memory, MB |", "|---|---|---|---|"]
    for name in dict.fromkeys(row["name"] for row in rows):
        some = sorted((row["T"], row["ours_s"], row["ours_mb"]) for row in rows if row["name"] == name)
        lines += [f"| {name} | {T:,} | {1e3 * s:.0f} | {mb:.0f} |" for T, s, mb in some]
    figure = Figure(figsize=(10.4, 4.4), layout="constrained")
    draw_costs(*figure.subplots(1, 2), rows)
    return "\n".join(lines), figure


def draw_costs(seconds, memory, rows):
    """Time and memory of a training step against the length, a line for each name, in two panels."""
    from matplotlib.ticker import LogLocator

    for n, name in enumerate(dict.fromkeys(row["name"] for row in rows)):
        some = sorted((row["T"], row["ours_s"], row["ours_mb"]) for row in rows if row["name"] == name)
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
    low, high = min(row["ours_mb"] for row in rows), max(row["ours_mb"] for row in rows)
    memory.set_ylim(low / 2, 2 * high)  # what hardly grows shall look so


def style(n):
    return {"color": COLORS[n % 5], "linestyle": LINES[n % 4], "marker": MARKERS[n % 4], "markersize": 5}


def one_panel(xlabel):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(xlabel)
    axes.grid(alpha=0.25)
    return figure, axes
