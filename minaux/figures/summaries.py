"""What an analysis' runs came to: a table in Markdown and a figure."""

from typing import NamedTuple

from ..training.checkpoint import read_result, read_rows
from . import plots
from .names import LSTMS, mean_and_range
from .plots import COLORS, LINES

AUX = tuple(LSTMS)


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
        accuracies, losses, stars = zip(*map(outcome, found))
        points.append(Point(options, found, list(accuracies), list(losses), max(stars)))
    return points


def outcome(run):
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
    return mean_and_range(point.accuracies) + point.star


def markdown(heads, rows, below=None):
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(
        [*(f"| {' | '.join(map(str, cells))} |" for cells in lines), *([] if below is None else ["", below])]
    )


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
        axes.plot(places, [sum(y) / len(y) for y in accuracies], label=LSTMS[aux], **style(n))
        for place, y in some:
            if len(y) > 1:
                axes.plot([place] * len(y), y, color=COLORS[n], linestyle="", marker=".", alpha=0.6)
    if any(len(p.runs) > 1 for p in points):
        axes.plot([], [], color="dimgray", linestyle="", marker=".", label="each seed")
    axes.set_xticks(range(len(values)), [f"{value:,}" for value in values])
    low, high = plots.tens([y for point in points for y in point.accuracies])
    axes.set(ylabel="test accuracy, %", ylim=(low - 0.3, high + 0.3))
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
        names[LSTMS[AUX[n]]] = Line2D([], [], **style(n))
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
        if losses:  # a budget may be spent before the epoch's first row
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
        cost = costs[LSTMS[aux], size**2]
        cells.append([aux, size, f"{size**2:,}", accuracy(point), f"{minutes:.1f}"])
        cells[-1] += [f"{1e3 * cost['ours_s']:.0f}", f"{cost['ours_mb']:.0f}"]
    heads = ["aux", "size", "steps of a sequence", "test accuracy, %", "minutes of the run"]
    heads += ["ms a training step", "MB of it"]
    below = f"ms and MB are of a training step on one process, as `bench` measures it; {SIGNS}"
    return markdown(heads, cells, below), figure


def cost_summary(rows):
    """(the table in Markdown, the figure) of `bench`'s rows: seconds and peak memory of a training step."""
    from matplotlib.figure import Figure

    heads = ["training step", "sequence length", "ms", "peak memory, MB"]
    cells = [(name, f"{T:,}", f"{1e3 * s:.0f}", f"{mb:.0f}") for name, some in by_name(rows) for T, s, mb in some]
    figure = Figure(figsize=(10.4, 4.4), layout="constrained")
    draw_costs(*figure.subplots(1, 2), rows)
    return markdown(heads, cells), figure


def by_name(rows):
    """[(name, [(T, seconds, MB)], shortest sequences first)] of the rows that `bench` measured."""
    names = dict.fromkeys(row["name"] for row in rows)
    return [
        (name, sorted((row["T"], row["ours_s"], row["ours_mb"]) for row in rows if row["name"] == name))
        for name in names
    ]


def draw_costs(seconds, memory, rows):
    """Time and memory of a training step against the length, a line for each name, in two panels."""
    from matplotlib.ticker import LogLocator

    for n, (name, some) in enumerate(by_name(rows)):
        lengths, times, sizes = zip(*some)
        seconds.plot(lengths, times, label=name, **style(n))
        memory.plot(lengths, sizes, label=name, **style(n))
    what = f"a training step on {rows[0]['N']} sequences"
    seconds.set(title=f"Time of {what}", ylabel="seconds")
    memory.set(title=f"Memory of {what}", ylabel="MB above the program's own, at most")
    for axes in seconds, memory:
        axes.set(xlabel="steps of a sequence", xscale="log", yscale="log")
        lengths = sorted({row["T"] for row in rows})
        axes.set_xticks(lengths, [f"{T:,}" for T in lengths])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.grid(alpha=0.25)
        axes.legend(fontsize="small")
    low, high = min(row["ours_mb"] for row in rows), max(row["ours_mb"] for row in rows)
    memory.set_ylim(low / 2, 2 * high)  # what hardly grows shall look so


def style(n):
    return {**plots.look(n), "markersize": 5}


def one_panel(xlabel):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(xlabel)
    axes.grid(alpha=0.25)
    return figure, axes
