"""Pictures of finished and unfinished runs. Matplotlib is imported where it is used."""

import io
import os

from ..training.checkpoint import read_rows, write_whole
from ..training.config import UserError
from .names import short_names

# Of the runs' lines: told apart without colours too.
COLORS = ("black", "tab:red", "tab:blue", "tab:green", "tab:purple")
LINES, MARKERS = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1))), "os^D"


def running_mean(values, n=10):
    """Each value's mean with up to n - 1 before it."""
    return [sum(values[max(i - n + 1, 0) : i + 1]) / min(n, i + 1) for i in range(len(values))]


def plot(runs):
    """The figure of the runs' curves: accuracy, supervised loss and, where there is one, auxiliary loss, against
    the batches trained on. Raises UserError for what is no run."""
    from matplotlib.figure import Figure

    names, rows = short_names(runs), {run: read_rows(run) for run in runs}
    auxiliary = [run for run in runs if any(row.get("loss_auxiliary") is not None for row in rows[run])]
    panels = 3 if auxiliary else 2
    figure = Figure(figsize=(5.2 * panels, 4.4), layout="constrained")
    accuracy, loss, *others = figure.subplots(1, panels)
    for n, run in enumerate(runs):
        style = {"color": COLORS[n % 5], "linestyle": LINES[n % 4], "linewidth": 1.1, "markersize": 4.5}
        line = {"label": names[run], "marker": MARKERS[n % 4], "style": style}
        draw_accuracy(accuracy, rows[run], **line)
        draw_loss(loss, rows[run], "loss_supervised", ["joint"], **line)
        if run in auxiliary:
            draw_loss(others[0], rows[run], "loss_auxiliary", ["joint", "pretrain"], **line)
        pretrained = [row["step"] for row in rows[run] if row.get("phase") == "pretrain"]
        for axes in (accuracy, loss, *others) if pretrained else ():
            axes.axvline(pretrained[-1], color=style["color"], linestyle=":", linewidth=0.8)
    for kind in "rp" if others else ():  # the first run that has the loss
        for run in [run for run in auxiliary if any(f"{kind}_constant" in row for row in rows[run])][:1]:
            whose = f"{kind} ({names[run]})" if len(auxiliary) > 1 else kind
            aside = 0.35 * (kind == "p")  # clear of r's names
            rivals(others[0], kind, whose, [row for row in rows[run] if row["kind"] == "eval"], aside)
    accuracy.set(title="Accuracy on validation, and on test (large, hollow)", ylabel="%", ylim=(0, 100))
    loss.set(title="Supervised loss in training", ylabel="nats, mean of up to 10 rows")
    for axes in others:
        axes.set(title="Auxiliary loss in training", ylabel="squared error (text: nats), mean of up to 10 rows")
    for axes in (accuracy, loss, *others):
        axes.set_xlabel("batches (pretraining ends at the dotted line)" if any_pretrained(rows) else "batches")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize="small")
    return figure


def draw_accuracy(axes, rows, label, marker, style):
    """A line of a run's validations, and a large hollow mark for its last test."""
    valid = [(row["step"], 100 * row["accuracy"]) for row in rows if row.get("split") == "valid"]
    axes.plot(*(zip(*valid) if valid else ((), ())), label=label, **style, marker=marker)
    large = {"color": style["color"], "marker": marker, "markersize": 11, "fillstyle": "none"}
    for row in [row for row in rows if row.get("split") == "test"][-1:]:
        axes.plot(row["step"], 100 * row["accuracy"], **large)


def draw_loss(axes, rows, name, phases, label, marker, style):
    """A line for each of the `phases`: no mean is over both. The first one has the label."""
    for text, phase in zip((label, None), phases):
        found = [(row["step"], row.get(name)) for row in rows if row.get("phase") == phase]
        points = [(x, y) for x, y in found if y is not None]
        x, y = zip(*points) if points else ((), ())
        few = {"marker": marker} if len(y) <= 10 else {}  # a line of one point would not be seen
        axes.plot(x, running_mean(y, min(10, 1 + len(y) // 10)), label=text, **style, **few)


def any_pretrained(rows):
    return any(row.get("phase") == "pretrain" for some in rows.values() for row in some)


def rivals(axes, kind, whose, evaluations, aside=0):
    """Lines for the predictors without memory, as the first evaluation has them, named `aside` of the axes'
    width from their edges."""
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5}
    style = {"transform": axes.get_yaxis_transform(), "color": "dimgray", "fontsize": "small", "bbox": box}
    # The first two are near each other, so their names stand at opposite ends.
    for name, beside in ("constant", "right"), ("position_mean", "left"), ("copy", "right"):
        found = [row[f"{kind}_{name}"] for row in evaluations if f"{kind}_{name}" in row]
        for loss in found[:1]:
            axes.axhline(loss, color="gray", linewidth=0.8)
            x = {"left": 0.01 + aside, "right": 0.99 - aside}[beside]
            axes.text(x, loss, f"{whose}: {name.replace('_', ' ')}", ha=beside, va="center", **style)


def save(figure, out):
    """Write the picture whole or not at all; its kind follows from the name's ending."""
    ending = os.path.splitext(out)[1].lstrip(".").lower() or "png"
    if ending not in ("png", "pdf", "svg"):
        raise UserError(f"--out: .{ending} is no kind of picture, choose .png, .pdf or .svg")
    picture = io.BytesIO()
    figure.savefig(picture, format=ending, dpi=150)
    write_whole(out, picture.getvalue())
