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

import functools
import json
import math
import os

from ..training import config
from ..training.checkpoint import (
    Held,
    RunDirectory,
    check_directory,
    read_json,
    write_whole,
)
from ..training.config import UserError
from . import plots, summaries
from .names import LSTMS
from .summaries import AUX

GRIDS = {  # name: the options of each run; at --size 14 lengths are a quarter, as the sequences are
    # The auxiliary loss' own truncation stays where it is: this is about the supervised one.
    "truncation": [{"aux": aux, "bptt": K, "aux_bptt": 300} for aux in AUX for K in (0, 1, 3, 10, 30, 100, 300)],
    # Fewer labels, more epochs: at least 1,600 batches of 32. Fewer would meet what a cosine leaves of the learning
    # rate after an epoch of pretraining on all of MNIST (results/trials/notes.md, 13).
    "labels": [
        {"aux": aux, "limit_labels": n, "epochs": epochs}
        for aux in AUX
        for n, epochs in ((100, 400), (300, 160), (1000, 50), (3000, 18), (10_000, 10))
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
            pair = directory if seed == seeds[0] else f"{directory}-seed{seed}", {**options, "seed": seed}
            if pair not in found:  # a quarter of 3 is 1, too
                found.append(pair)
    return found


def run_grid(name, out, given, seeds, cores, check, train, tell):
    """Run what is not finished yet of the grid `name`, in the directory `out`; returns its table, which is written
    there with the picture, or None if other processes are still at work on some runs: the last one writes it.

    Each run is made with so many `seeds`, from the given one on. `given` are the options of `train` for all runs;
    check(options) raises UserError if no such run can be; train(directory, options) trains one, or goes on with it,
    and raises Held if another process does; tell(line) hears which. Raises UserError for what cannot be before
    anything is run, and after all runs if one of them failed, by numbers that are not finite or a full disk, say.
    """
    check_given(name, given)
    first = given.get("seed", 0)
    grid = runs(name, out, given.get("size") == 14, range(first, first + seeds))
    for _, options in grid:
        config.build(whole(given, options), cores)
    todo = unfinished(grid)
    if todo:  # the one that asks for the most labels
        options = max((options for _, options in todo), key=lambda o: o.get("limit_labels", 0))
        try:
            check(whole(given, options))
        except UserError as error:
            what = f"; the grid goes up to {options['limit_labels']:,} labels" if name == "labels" else ""
            raise UserError(f"{error}{what}") from None
    note(out, {"analysis": name, **given})
    failed = []
    while todo:
        held = []
        for directory, options in todo:
            tell(f"run {grid.index((directory, options)) + 1} of {len(grid)}: {directory}")
            try:
                train(directory, whole(given, options))
            except Held:
                tell("another process is at work on it")
                held.append((directory, options))
            except UserError as error:
                tell(f"it failed: {error}")
                failed.append(error)
        if len(held) == len(todo):
            break
        todo = unfinished(held)
    if failed:
        raise UserError(f"{len(failed)} of {len(grid)} runs failed, so there is no table; the first: {failed[0]}")
    if todo:
        tell(f"other processes are at work on {len(todo)} of {len(grid)} runs: the last one writes the table")
        return None
    if name == "length":
        return write_costs(out, length_steps(grid), 1, functools.partial(summaries.length_summary, grid), tell)
    return write(out, *summaries.summary(name, grid))


def check_given(name, given):
    """Raise UserError for options of `train` that do not go together with the analysis."""
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
    if given.get("model", "lstm") != "lstm":
        raise UserError("--model: the grid compares auxiliary losses, which the LSTM alone has: leave it out")
    for option in GRIDS[name][0]:
        if option in given:
            raise UserError(f"{config.option(option)} is what the grid sets: leave it out")


def whole(given, options):
    """A run's options of `train`; a plain LSTM has nothing to pretrain."""
    return {**given, **options, **({"pretrain_epochs": 0} if options["aux"] == "none" else {})}


def cost(out, processes, tell):
    """Measure what is not measured yet of the costs, in so many processes; returns their table, which is written
    in the directory `out` with the picture, or None if another process measures them. tell(line) hears what is
    measured. Raises UserError as `write_costs` does."""
    from ..bench import cpu as bench

    note(out, {"analysis": "cost"})
    return write_costs(out, bench.costs(), processes, summaries.cost_summary, tell)


def write_costs(out, cases, processes, summarise, tell):
    """Have `bench` measure training steps, [(name, Case)], and keep the rows in `out`/rows.json; writes what
    summarise(rows) makes of them. Two processes would disturb each other: the second one leaves it.

    Raises UserError if the rows are damaged or of another number of processes, or if a measurement fails.
    """
    from ..bench import cpu as bench

    path = os.path.join(out, "rows.json")
    try:
        with RunDirectory(out).held():
            rows = read_costs(path) if os.path.exists(path) else []
            for row in rows:
                if row.get("processes", processes) != processes:
                    what = f"on {row['processes']} processes, not {processes}"
                    raise UserError(f"{path} was measured {what}: choose another --out")
            for name, case in cases:
                if (name, case.T) not in [(row["name"], row["T"]) for row in rows]:
                    tell(f"measuring a training step: {name}, {case.T:,} steps a sequence")
                    found = bench.measure(case, processes, 3, pytorch=False)
                    rows.append({"name": name, "processes": processes, **found})
                    write_whole(path, json.dumps(rows).encode())
            return write(out, *summarise(rows))
    except Held:
        tell("another process measures the training steps: it writes the table")
        return None


def read_costs(path):
    """The rows of rows.json. Raises UserError if it is damaged."""
    rows = read_json(path)
    numbers = ("T", "N", "ours_s", "ours_mb")
    try:
        if isinstance(rows, list) and all(
            isinstance(row["name"], str) and all(0 <= row[k] < math.inf for k in numbers) for row in rows
        ):
            return rows
    except (TypeError, KeyError):
        pass
    raise UserError(f"{path} is damaged: delete it, and the training steps are measured again")


FREE = ("quiet", "data_dir", "threads", "device")  # options that may differ when an analysis goes on


def note(out, options):
    """Note in `out` what is run there. Raises UserError if it is something else's directory."""
    check_directory(out)
    options = {name: value for name, value in options.items() if name not in FREE}
    noted = os.path.join(out, "options.json")
    if os.path.exists(os.path.join(out, "config.json")):
        raise UserError(f"{out} holds a run: choose another --out")
    if os.path.exists(noted):
        was = read_json(noted)
        was = was if isinstance(was, dict) else {}
        for name in [*was, *options]:
            if was.get(name) != options.get(name) and name not in FREE:
                what = f"{name} {was.get(name, 'by default')}, not {options.get(name, 'by default')}"
                raise UserError(f"{out} is of an analysis with {what}: choose another --out")
    os.makedirs(out, exist_ok=True)
    write_whole(noted, json.dumps(options).encode())


def write(out, text, figure):
    """Write table.md and picture.png; returns the table."""
    write_whole(os.path.join(out, "table.md"), f"{text}\n".encode())
    plots.save(figure, os.path.join(out, "picture.png"))
    return text


def unfinished(grid):
    """Those of [(directory, options)] that are not finished."""
    return [(directory, options) for directory, options in grid if not finished(directory)]


def finished(directory):
    """Whether the run has been tested, at its end or at the end of its budget."""
    return os.path.exists(os.path.join(directory, "result.json"))


# What decides the time and memory of a training step, and `bench` does not vary.
NOT_MEASURED = ("anchors", "aux_bptt", "checkpoint_every", "device", "dtype")


def length_steps(grid):
    """[(name, Case)] of a training step of each run, in three channels as the pictures have them."""
    from ..bench.cpu import Case

    steps = {}
    for directory, _ in grid:
        cfg = config.read(os.path.join(directory, "config.json"))
        own = cfg.feed_end if cfg.aux == "r" else 0.0
        sizes = {"N": cfg.batch_size, "H": cfg.hidden, "L": cfg.aux_length, "D": 3}
        steps[cfg.aux, cfg.size] = (LSTMS[cfg.aux], Case(cfg.aux, cfg.size**2, cfg.bptt, own, **sizes))
    return list(steps.values())
