"""The paper's Table 2 with runs' results beside it: what `cli.py table` prints."""

import os

from ..training import config
from ..training.checkpoint import read_result
from ..training.config import UserError
from .plots import short_names

# The paper's Table 2: test accuracy in percent.
TASKS = {"mnist": "MNIST", "pmnist": "pMNIST", "cifar10": "CIFAR10"}
TABLE_2 = {  # model: (which runs are of it, the figures on MNIST, pMNIST, CIFAR10)
    "iRNN": (("irnn", "none", "full"), (97.0, 82.0, None)),
    "uRNN": (("urnn", "none", "full"), (95.1, 91.4, None)),
    "LSTM, full BPTT": (("lstm", "none", "full"), (98.3, 89.4, 58.8)),
    "LSTM, truncated 300": (("lstm", "none", 300), (11.3, 88.8, 49.0)),
    "Transformer": (("transformer", "none", "full"), (98.9, 97.9, 62.2)),
    "r-LSTM, truncated 300": (("lstm", "r", 300), (96.4, 92.8, 65.9)),
    "p-LSTM, truncated 300": (("lstm", "p", 300), (95.4, 92.5, 64.7)),
    "r-LSTM, full BPTT": (("lstm", "r", "full"), (98.4, 95.2, 72.2)),
    "p-LSTM, full BPTT": (("lstm", "p", "full"), (98.0, 92.8, 67.6)),
}
AUXILIARY = ("aux_length", "anchors", "aux_weight", "feed_start", "feed_end")  # without the loss they do nothing
# Runs of one row that differ in any of these get rows of their own.
SETTINGS = (
    *("forget_bias", "pretrain_epochs", "epochs", *AUXILIARY),
    *("batch_size", "lr", "lr_schedule", "clip", "dropconnect", "valid"),
)
NOTE = "Ours: test accuracy in percent, the mean over the runs below, n seeds; * not all of them ran to their end."


def table_2(runs):
    """The paper's Table 2 with the runs' test accuracies beside it, in Markdown; under it which runs they are from,
    and which runs stand in no row. Raises UserError if none has been tested."""
    tested = [run for run in runs if os.path.exists(os.path.join(run, "result.json"))]
    results, names = [read_result(run) for run in tested], short_names(runs)
    if not results:
        raise UserError(f"none of these has been tested: {', '.join(runs)}")
    lines, sources, used = [], [], set()
    for model, (which, paper) in TABLE_2.items():
        mine = [r for r in results if r["task"] in TASKS and which == (r["model"], r["aux"], r["bptt"])]
        mine = [r for r in mine if as_in_the_paper(r)]
        used.update(r["run"] for r in mine)
        figures = ["–" if figure is None else f"{figure:.1f}" for figure in paper]
        groups = by_settings(mine)
        if len(groups) != 1:  # the paper's figures belong to none of several settings: they stand by themselves
            groups = [("", []), *groups]
        for settings, alike in groups:
            cells, label = [], f"{model}: {settings}" if settings else model
            for task, figure in zip(TASKS, figures):
                some = [r for r in alike if r["task"] == task]
                cells += [figure, ours(some)]
                if some:
                    sources.append(f"- {label}, {TASKS[task]}: {', '.join(names[r['run']] for r in some)}")
            lines.append(f"| {label} | {' | '.join(cells)} |")
            figures = [""] * len(TASKS)  # the paper's stand in a model's first row
    left = {
        "in no row (another task, size, part of the data or truncation)": [
            run for run in tested if run not in used
        ],
        "not tested yet, or no run": [run for run in runs if run not in tested],
    }
    sources += [f"- {heading}: {', '.join(names[run] for run in some)}" for heading, some in left.items() if some]
    heads = " | ".join(f"{task}, paper | ours" for task in TASKS.values())
    rule = "|---" * (2 * len(TASKS) + 1) + "|"
    return "\n".join([f"| test accuracy, % | {heads} |", rule, *lines, "", NOTE, "", *sources])


def as_in_the_paper(result):
    """Whether a run is of the whole task at the paper's sizes, and tested on all of it."""
    path = os.path.join(result["run"], "config.json")
    cfg = config.read(path)
    sizes = cfg.size in (None, 28) and cfg.hidden == 128 and cfg.limit_train is None
    return sizes and result["test_examples"] == 10_000 and (cfg.aux == "none" or cfg.aux_bptt == cfg.bptt)


def by_settings(results):
    """[(settings, results)]: those that differ in no more than the task and the seed together, under the options in
    which they differ from others, in words."""
    options = {r["run"]: vars(config.read(os.path.join(r["run"], "config.json"))) for r in results}
    varied = [name for name in SETTINGS if len({o[name] for o in options.values()}) > 1]
    if all(r["aux"] == "none" for r in results):
        varied = [name for name in varied if name not in AUXILIARY]
    groups = {}
    for r in results:
        words = [f"{name.replace('_', ' ')} {options[r['run']][name]}" for name in varied]
        groups.setdefault(", ".join(words), []).append(r)
    return list(groups.items())


def ours(results):
    """A cell: the mean accuracy, how many seeds, and whether any run is incomplete."""
    if not results:
        return ""
    mean = 100 * sum(r["test_accuracy"] for r in results) / len(results)
    star = "" if all(r["complete"] for r in results) else "*"
    return f"{mean:.1f}{star} (n = {len({r['seed'] for r in results})})"
