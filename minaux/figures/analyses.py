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

from ..training import config
from ..training.checkpoint import Held, check_directory, read_json, read_result, read_rows, write_whole
from ..training.config import UserError
from . import plots
from .names import MODELS
from .plots import COLORS, LINES, MARKERS

AUX = tuple(MODELS)  # none, r, p
SPLITS = ("valid", "test")
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
        return write(out, *length_summary(grid, measured(out, length_steps(grid), tell)))
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


def row(run):
    """What a run came to: its test accuracy in percent, its training loss, and "*" if it is not complete."""
    result = read_result(run)
    losses = [r["loss_supervised"] for r in read_rows(run) if r["kind"] == "train"]
    losses = [loss for loss in losses if loss is not None] or [float("nan")]
    star = "" if result["complete"] else "*"
    return 100 * result["test_accuracy"], plots.running_mean(losses)[-1], star


def summary(name, grid):
    """(the table in Markdown, the figure) of a grid's runs, [(directory, options)], which are finished. Runs that
    differ in their seeds alone share a row, with their mean and range."""
    heads = [option for option in grid[0][1] if option != "seed"]
    lines = [
        f"| {' | '.join(heads)} | test accuracy, % | training loss at the end |",
        "|---" * (len(heads) + 2) + "|",
    ]
    points = by_seeds(grid)
    for options, found in points:
        accuracies, losses, stars = zip(*map(row, found))
        loss = sum(losses) / len(losses)
        cells = [*options.values(), mean_and_range(accuracies) + max(stars), f"{loss:.3f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", "The training loss is a mean over the last 10 rows; * the run has not come to its end."]
    return "\n".join(lines), FIGURES[name](points)


def by_seeds(grid):
    """[(options without the seed, [directory of each seed's run])]."""
    points = []
    for run, options in grid:
        options = {option: value for option, value in options.items() if option != "seed"}
        if not points or points[-1][0] != options:
            points.append((options, []))
        points[-1][1].append(run)
    return points


def mean_and_range(values):
    spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
    return f"{sum(values) / len(values):.1f}{spread}"


def truncation_figure(points):
    return accuracy_figure(
        points, "bptt", "truncation of the supervised loss, steps (at 0 it trains the classifier alone)"
    )


def labels_figure(points):
    return accuracy_figure(points, "limit_labels", "labels")


def accuracy_figure(points, option, xlabel):
    figure, axes = one_panel(xlabel)
    draw_accuracies(axes, points, option)
    axes.legend()
    return figure


def draw_accuracies(axes, points, option):
    """A curve for each of AUX against the values of an option, one beside the next; a dot for each seed."""
    values = list(dict.fromkeys(options[option] for options, _ in points))
    for n, aux in enumerate(AUX):
        some = [(values.index(o[option]), [row(run)[0] for run in found]) for o, found in points if o["aux"] == aux]
        places, accuracies = zip(*some)
        axes.plot(places, [sum(y) / len(y) for y in accuracies], label=MODELS[aux], **style(n))
        for x, y in some:
            axes.plot([x] * len(y), y, color=COLORS[n], linestyle="", marker=".", alpha=0.6)
    axes.set_xticks(range(len(values)), [f"{value:,}" for value in values])
    axes.set(ylabel="test accuracy, %", ylim=(0, 100))


def curves_figure(points):
    """Optimisation: training loss and accuracy against the batches with labels, pretraining left out.
    Generalisation: the validation loss against the training loss of the same epoch, a mark for each."""
    from matplotlib.figure import Figure

    figure, evaluated = Figure(figsize=(13.2, 4.4), layout="constrained"), "validation"
    training, accuracy, generalisation = figure.subplots(1, 3)
    for options, found in points:
        n = AUX.index(options["aux"])
        for run in found:
            steps, losses, epochs, evaluated = of_labels(read_rows(run))
            training.plot(steps, plots.running_mean(losses), color=COLORS[n], linestyle=LINES[n], linewidth=0.8)
            ends, percent, here, there = zip(*epochs)
            accuracy.plot(ends, percent, **style(n))
            generalisation.plot(here, there, **style(n), label=MODELS[options["aux"]] if run == found[0] else None)
    training.set(title="Training loss", xlabel="batches with labels", ylabel="nats")
    training.set_ylim(bottom=0)
    accuracy.set(title=f"{evaluated.capitalize()} accuracy", xlabel="batches with labels", ylabel="%")
    accuracy.set(xlim=training.get_xlim(), ylim=(0, 100))
    generalisation.axline((0, 0), slope=1, color="dimgray", linewidth=0.8)
    generalisation.set(title="Generalisation, a mark an epoch", xlabel="training loss", ylabel=f"{evaluated} loss")
    generalisation.set(xlim=(0, None), ylim=(0, None))
    for axes in figure.axes:
        axes.grid(alpha=0.25)
    figure.legend(*generalisation.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def of_labels(rows):
    """(batches, training losses, epochs, split) of a run's rows in joint training: batches are counted from its
    start; for each epoch (its last batch, accuracy in percent, mean training loss, loss) on validation, or the
    split "test" where there was none."""
    start = max((row["step"] for row in rows if row.get("phase") == "pretrain"), default=0)
    trained = [(row["step"], row["loss_supervised"]) for row in rows if row.get("phase") == "joint"]
    found = {split: [row for row in rows if row.get("split") == split and row["step"] > start] for split in SPLITS}
    evals, split = (found["valid"], "validation") if found["valid"] else (found["test"][-1:], "test")
    begins, epochs = [start, *(row["step"] for row in evals)], []
    for begin, row in zip(begins, evals):
        losses = [loss for step, loss in trained if begin < step <= row["step"]]
        mean = sum(losses) / len(losses) if losses else float("nan")  # not every batch has a row
        epochs.append((row["step"] - start, 100 * row["accuracy"], mean, row["loss_supervised"]))
    steps, losses = zip(*trained)
    return [step - start for step in steps], losses, epochs, split


def anchors_figure(points):
    figure, axes = one_panel("anchors × segment length, steps")
    labels = [f"{options['anchors']} × {options['aux_length']}" for options, _ in points]
    for x, (_, found) in enumerate(points):
        axes.plot([x] * len(found), [row(run)[0] for run in found], **{**style(0), "linestyle": ""})
    axes.set_xticks(range(len(labels)), labels)
    axes.set(ylabel="test accuracy, %", ylim=(0, 100))
    return figure


FIGURES = {
    "truncation": truncation_figure,
    "labels": labels_figure,
    "curves": curves_figure,
    "anchors": anchors_figure,
}


def length_steps(grid):
    """[(name, Case, processes)] of a training step of each run, in three channels as the pictures have them."""
    from ..bench.cpu import Case

    steps = {}
    for run, _ in grid:
        cfg = config.read(os.path.join(run, "config.json"))
        sizes = {"N": cfg.batch_size, "H": cfg.hidden, "L": cfg.aux_length, "D": 3}
        steps[cfg.aux, cfg.size] = (cfg.aux, Case(cfg.aux, cfg.size**2, cfg.bptt, **sizes), cfg.threads)
    return list(steps.values())


def length_summary(grid, rows):
    """(the table in Markdown, the figure): `summary` against the length, and the `rows` that `bench` measured."""
    from matplotlib.figure import Figure

    points, figure = by_seeds(grid), Figure(figsize=(14.4, 4.4), layout="constrained")
    accuracy, seconds, memory = figure.subplots(1, 3)
    draw_accuracies(accuracy, points, "size")
    accuracy.set(title="Accuracy", xlabel="steps of a sequence")
    accuracy.set_xticks(
        accuracy.get_xticks(), [f"{size**2:,}" for size in dict.fromkeys(o["size"] for o, _ in points)]
    )
    accuracy.grid(alpha=0.25)
    draw_costs(seconds, memory, rows)
    lines = [
        "| aux | size | steps | test accuracy, % | minutes of training | ms a step | MB a step |",
        "|---" * 7 + "|",
    ]
    for options, found in points:
        aux, size = options["aux"], options["size"]
        accuracies, _, stars = zip(*map(row, found))
        minutes = sum(read_result(run)["elapsed_s"] for run in found) / len(found) / 60
        [cost] = [row for row in rows if (row["name"], row["T"]) == (aux, size**2)]
        cells = [aux, size, f"{size**2:,}", mean_and_range(accuracies) + max(stars), f"{minutes:.1f}"]
        cells += [f"{1e3 * cost['ours_s']:.0f}", f"{cost['ours_mb']:.0f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", "ms and MB are of a training step alone, measured by `bench`; * the run has not come to its end."]
    return "\n".join(lines), figure


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


def style(n):
    return {"color": COLORS[n % 5], "linestyle": LINES[n % 4], "marker": MARKERS[n % 4], "markersize": 5}


def one_panel(xlabel):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(xlabel)
    axes.grid(alpha=0.25)
    return figure, axes
