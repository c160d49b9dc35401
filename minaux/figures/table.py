"""What runs came to, a row for each, and what the paper reports beside it: what `cli.py table` prints."""

import collections
import dataclasses
import os

from ..training import config, paper, report
from ..training.checkpoint import read_result
from .names import mean_and_range, printable, readable, short_names

TASKS = {"mnist": "MNIST", "pmnist": "pMNIST", "cifar10": "CIFAR-10", "dogs": "Dogs", "dbpedia": "DBpedia"}
HEADS = "run", "task", "model", "truncation", "other settings", "accuracy, %", "seeds", "paper"
# Options that have a column of their own, and such as change no figure.
COLUMNS = ("task", "size", "max_length", "limit_train", "limit_labels", "model", "aux", "bptt", "aux_bptt", "seed")
NO_MATTER = ("device", "threads", "budget", "checkpoint_every", "preset")
AUXILIARY = ("aux_length", "anchors", "aux_weight", "pretrain_epochs", "feed_start", "feed_end")


def table(runs, tell=None):
    """The runs in Markdown, a row for each; runs that differ in their seeds alone share one. tell(line) hears of
    what is no run; without it, and where nothing else is left, UserError is raised."""
    found = readable(runs, read, tell)
    names, settings = short_names(found), {run: other_settings(cfg) for run, (cfg, _) in found.items()}
    usual, varied, groups = usual_settings(settings.values()), {}, collections.defaultdict(list)
    times = collections.Counter()
    for run, (cfg, result) in found.items():
        unusual = {name: value for name, value in settings[run].items() if value != usual[name]}
        varied |= {name: usual[name] for name in unusual}
        data = str(cfg.data) if cfg.task == "npz" else ""  # another file of the same name
        key = (*what(cfg), in_words(unusual), data, result is None)
        times[key, cfg.seed] += 1
        groups[key, times[key, cfg.seed]].append(run)  # a run made twice is not two seeds
    rows = [HEADS]
    for ((*cells, _, _), _), some in sorted(groups.items(), key=lambda group: group[0][0][0].lower()):
        rows.append((named([names[run] for run in some]), *cells, *outcome([found[run] for run in some])))
    lines = aligned(rows)
    if varied:
        lines += ["", f"Where no other setting stands: {in_words(varied)}."]
    if any("*" in row[-3] for row in rows[1:]):
        lines += ["", "Where * stands, not all runs have come to their end."]
    return "\n".join(lines)


def in_words(settings):
    named = (f"{name.replace('_', ' ')} {f'{v:g}' if isinstance(v, float) else v}" for name, v in settings.items())
    return ", ".join(named) or "–"


def read(run):
    """A run's Config and its result, None before it is tested. Raises UserError for what is no run."""
    cfg = config.read(os.path.join(run, "config.json"))
    return cfg, read_result(run) if os.path.exists(os.path.join(run, "result.json")) else None


def other_settings(cfg):
    """{name: value} of the options that matter to the run's figures and have no column."""
    options, left_out = {*config.RANGES, *config.CHOICES}, {*COLUMNS, *NO_MATTER}
    if cfg.aux == "none":
        left_out.update(AUXILIARY)
    if "r" not in cfg.aux:
        left_out.update(("feed_start", "feed_end"))
    if cfg.model != "lstm":
        left_out.add("forget_bias")
    settings = dataclasses.asdict(cfg).items()
    return {name: value for name, value in settings if name in options - left_out and value is not None}


def usual_settings(settings):
    """{name: the value that most runs have}, the first one's of those as frequent."""
    counts = collections.defaultdict(collections.Counter)
    for some in settings:
        for name, value in some.items():
            counts[name][value] += 1
    return {name: count.most_common(1)[0][0] for name, count in counts.items()}


def what(cfg):
    """The cells of the task and how much of it, the model, and the truncation."""
    task = TASKS.get(cfg.task, cfg.task)
    if cfg.size and (cfg.task, cfg.size) not in (("mnist", 28), ("pmnist", 28)):
        task += f" {cfg.size}×{cfg.size}"
    if cfg.task == "npz" and cfg.data_dir:
        task += f" {printable(os.path.basename(cfg.data_dir))}"
    if cfg.max_length:
        task += f", {cfg.max_length} bytes"
    if cfg.limit_train:
        n = min(cfg.limit_train, (cfg.data or {}).get("train", cfg.limit_train)) - (cfg.valid or 0)
        task += f", {n:,} sequences"
    if cfg.limit_labels:
        task += f", {cfg.limit_labels:,} labels"
    cut = "–" if cfg.model == "transformer" else str(cfg.bptt)
    if cfg.aux != "none" and cfg.aux_bptt != cfg.bptt:
        cut += f" ({cfg.aux}: {cfg.aux_bptt})"
    return task, report.model_name(cfg), cut


def named(names):
    """The runs of a row: all of a few, of many the first."""
    return ", ".join(names) if len(names) < 4 else f"{names[0]}, and {len(names) - 1} more"


def outcome(found):
    """The last cells of a row's runs, (Config, result) each: accuracy, their mean and range; seeds; the paper's."""
    tested = [result for _, result in found if result is not None]
    percent = [100 * result["test_accuracy"] for result in tested]
    cell = mean_and_range(percent) if tested else "not tested yet"
    if not all(result["complete"] for result in tested):
        cell += " *"
    cfg = found[0][0]
    whole = cfg.limit_train is cfg.limit_labels is None and all(r["test_examples"] == 10_000 for r in tested)
    reported = paper.reported(cfg) if whole else None
    return cell, ", ".join(str(cfg.seed) for cfg, _ in found), "–" if reported is None else f"{reported:.1f}"


def aligned(rows):
    """The lines of a Markdown table, for people too."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths))} |" for row in rows]
    return [lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]]
