"""Curves of finished and unfinished runs. Matplotlib is imported where it is used."""

import io
import math
import os
from typing import Any, NamedTuple

from ..training import config
from ..training.checkpoint import check_out, read_rows, write_whole
from ..training.config import UserError
from .names import readable, short_names, write_name

# Of the runs' lines: Okabe and Ito's, which the color-blind tell apart; and told apart without colours too.
COLORS = ("black", "#d55e00", "#0072b2", "#009e73", "#cc79a7")
LINES, MARKERS = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1))), "os^D"


HOLLOW = {"markersize": 10, "fillstyle": "none", "linestyle": "", "zorder": 3}
MEAN = 10  # rows, of training's losses


class Curve(NamedTuple):
    """A run as it is drawn."""

    name: str
    cfg: Any
    rows: list  # of metrics.jsonl
    look: dict  # its lines'

    @property
    def pretrained(self):
        """The last step of pretraining, 0 where there is none."""
        return max((row["step"] for row in self.rows if row.get("phase") == "pretrain"), default=0)

    @property
    def fed_until(self):
        """The step from which r's decoder reads its own outputs only, but for its first input; None before."""
        fed = [(row["step"], row.get("fed_truth")) for row in self.rows if row["kind"] == "train"]
        return next((step for step, share in fed if share == 0), None) if "r" in self.cfg.aux else None

    def validated(self, name):
        """[(step, value)] on validation. Pretraining leaves the classifier as it is: nothing is said of it then."""
        rows = [row for row in self.rows if row.get("split") == "valid" and row.get(name) is not None]
        about_labels = name in ("accuracy", "loss_supervised")
        return [(row["step"], row[name]) for row in rows if not about_labels or row["step"] > self.pretrained]

    def tested(self, name):
        """The same of the last test, in a list: at the step whose weights were tested, the best on validation."""
        rows = [row for row in self.rows if row.get("split") == "test"][-1:]
        valid = [(-accuracy, step) for step, accuracy in self.validated("accuracy")]
        return [(min(valid)[1] if valid else row["step"], row[name]) for row in rows if row.get(name) is not None]

    def trained(self, panel, phase):
        """[(step, loss)] in training. r's and p's sum says nothing of either."""
        if panel.training is None or panel.auxiliary not in (None, self.cfg.aux):
            return []
        rows = [row for row in self.rows if row.get("phase") == phase]
        return [(row["step"], row[panel.training]) for row in rows if row.get(panel.training) is not None]


class Panel(NamedTuple):
    """What is drawn of each run in one of the figure's panels."""

    name: str  # of an evaluation's number
    title: str
    unit: str
    training: str | None = None  # name of a training row's number
    auxiliary: str | None = None  # "r" or "p", whose loss it is


SUPERVISED = Panel("loss_supervised", "Supervised loss", "nats", "loss_supervised")
PANELS = (
    Panel("accuracy", "Accuracy", "%"),
    SUPERVISED,
    Panel("r_loss", "r: loss of the reconstruction", "squared error (text: nats)", "loss_auxiliary", "r"),
    Panel("r_swap_gap", "r: swap gap", "loss from another's state, minus own"),
    Panel("p_loss", "p: loss of the prediction", "squared error (text: nats)", "loss_auxiliary", "p"),
)


def running_mean(values, n=MEAN):
    """Each value's mean with up to n - 1 before it."""
    return [sum(values[max(i - n + 1, 0) : i + 1]) / min(n, i + 1) for i in range(len(values))]


def plot(runs, tell=None):
    """The figure of the runs' curves against the batches trained on: a panel for each of `PANELS` that some run has
    something for. tell(line) hears of what is no run; without it UserError is raised."""
    from matplotlib.figure import Figure

    found = readable(runs, read, tell)
    names = short_names(found)
    curves = [curve._replace(name=names[run], look=look(n)) for n, (run, curve) in enumerate(found.items())]
    panels = [panel for panel in PANELS if any(has_line(curve, panel) for curve in curves)]
    if not panels:
        raise UserError(f"there is nothing to draw yet of {', '.join(names.values())}: no batch is noted")
    columns = len(panels) if len(panels) < 4 else math.ceil(len(panels) / 2)
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(max(4 * columns, 6), 3.3 * lines + 0.6), layout="constrained")
    for n, panel in enumerate(panels):
        draw(figure.add_subplot(lines, columns, n + 1), panel, curves)
    for axes in figure.axes[-columns:]:
        axes.set_xlabel("batches")
    legends(figure, curves)
    return figure


def read(run):
    return Curve(run, config.read(os.path.join(run, "config.json")), read_rows(run), look(0))


def look(n):
    return {"color": COLORS[n % 5], "linestyle": LINES[n % 4], "marker": MARKERS[n % 4]}


def has_line(curve, panel):
    """Whether there is more than a mark for the test."""
    trained = curve.trained(panel, "pretrain") + curve.trained(panel, "joint")
    return bool(trained or curve.validated(panel.name))


def draw(axes, panel, curves):
    """Thin lines in training, marks and lines on validation, a large hollow mark for the last test."""
    factor, evaluated = 100 if panel.name == "accuracy" else 1, []
    for curve in curves:
        plain = {"color": curve.look["color"], "linestyle": curve.look["linestyle"]}
        for phase in "pretrain", "joint":  # no mean is over both
            steps, losses = unzip(curve.trained(panel, phase))
            few = {"marker": ".", "markersize": 3} if len(losses) == 1 else {}
            mean = running_mean(losses, min(MEAN, 1 + len(losses) // 10))
            axes.plot(steps, mean, linewidth=0.7, alpha=0.55, **plain, **few)
        steps, values = unzip(curve.validated(panel.name))
        axes.plot(steps, [factor * v for v in values], linewidth=1.4, markersize=4.5, **curve.look)
        last, tested = unzip(curve.tested(panel.name))
        axes.plot(last, [factor * v for v in tested], **{**curve.look, **HOLLOW})
        evaluated += [*values, *tested]
        if curve.pretrained:
            axes.axvline(curve.pretrained, color=curve.look["color"], linestyle=":", linewidth=0.8)
        if panel.auxiliary == "r" and curve.fed_until is not None:
            above = {"transform": axes.get_xaxis_transform(), "clip_on": False, "linestyle": ""}
            axes.plot(curve.fed_until, 1.035, color=curve.look["color"], marker="v", markersize=6, **above)
    end = max([row["step"] for curve in curves for row in curve.rows] + [1])
    axes.set_title(panel.title, fontsize=11, pad=14)
    axes.set(ylabel=panel.unit, xlim=(-0.03 * end, 1.04 * end))  # no mark is cut at the frame
    axes.locator_params("x", nbins=5)  # large numbers do not run together
    axes.grid(alpha=0.25)
    references(axes, panel, curves, evaluated)


def tens(percent):
    """The tens below and above these percentages: on an axis between them a few points are seen."""
    low = min(math.floor(min(percent) / 10), 9)
    return 10 * low, 10 * max(math.ceil(max(percent) / 10), low + 1)


def unzip(points):
    return zip(*points) if points else ((), ())


def references(axes, panel, curves, evaluated):
    """The lines that a panel's curves are to be read against, and its range."""
    lines = []  # (height, name, colour, linestyle)
    counts = {n for curve in curves if (n := (curve.cfg.data or {}).get("classes"))}
    if panel.name == "accuracy":
        low, high = tens([100 * value for value in evaluated])
        axes.set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))
        lines = [(100 / n, "chance", "dimgray", "-") for n in counts if low <= 100 / n <= high]
    elif panel.name == "r_swap_gap":
        lines = [(0, "no memory", "dimgray", "-")]
    elif panel.auxiliary:
        lines = rivals(panel.auxiliary, curves)
    heights = [height for height, *_ in lines]
    if panel.name == "loss_supervised":  # one batch may be far above, as may the first ones below
        heights = [math.log(n) for n in counts]
    if panel.training and evaluated:
        top = 1.15 * max(evaluated + heights)
        axes.set_ylim(-0.05 * top, top)
    for height, _, color, linestyle in lines:
        axes.axhline(height, color=color, linestyle=linestyle, linewidth=0.8, zorder=1)
    low, high = axes.get_ylim()
    beside = -math.inf  # the names stand right of the frame, each clear of the one below
    for height, name, color, _ in sorted(lines):
        beside = max(height, beside + 0.07 * (high - low))
        place = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "annotation_clip": False}
        axes.annotate(name, (1, beside), xycoords=axes.get_yaxis_transform(), color=color, fontsize=8, **place)


def rivals(kind, curves):
    """[(loss, name, colour, linestyle)] of the predictors without memory. Where they differ between runs (other
    data or segments), each run has the lowest of its own, the one to beat, in its colour."""
    groups = []  # [({name: loss}, curve)], of those that differ
    for curve in curves:
        losses = {}
        for name in "constant", "position_mean", "copy":
            points = curve.validated(f"{kind}_{name}") or curve.tested(f"{kind}_{name}")
            losses |= {name.replace("_", " "): loss for _, loss in points[:1]}
        if losses and not any(alike(losses, others) for others, _ in groups):
            groups.append((losses, curve))
    if len(groups) < 2:
        return [(loss, name, "dimgray", "-") for losses, _ in groups for name, loss in losses.items()]
    lowest = [(min((loss, name) for name, loss in losses.items()), curve.look) for losses, curve in groups]
    return [(*found, look["color"], look["linestyle"]) for found, look in lowest]


def alike(losses, others):
    """Whether two runs' rivals are the same, to within what other anchors make of them."""
    return losses.keys() == others.keys() and all(
        abs(losses[name] - others[name]) < 0.05 * others[name] for name in losses
    )


def legends(figure, curves):
    """The runs' names and what they came to, above; what the signs mean, below."""
    from matplotlib.lines import Line2D

    words = [name_and_test(curve) for curve in curves]
    handles = [Line2D([], [], markersize=4.5, **curve.look) for curve in curves]
    width = beside_each_other(words, figure)
    # The names come after the legend: it would leave out those that begin with an underscore.
    runs = figure.legend(handles, [""] * len(words), loc="outside upper center", ncols=width, frameon=False)
    for text, name in zip(runs.get_texts(), words):
        write_name(text, name)
    figure.set_figheight(figure.get_figheight() + 0.22 * math.ceil(len(words) / width))
    signs = {f"training, mean of up to {MEAN} rows": {"linewidth": 0.7}}
    if any(curve.validated("accuracy") for curve in curves):
        signs["validation"] = {"marker": "o", "linewidth": 1.4}
    if any(curve.tested("accuracy") for curve in curves):
        best = ", of the best weights" if "validation" in signs else ""
        signs[f"test{best}"] = {"marker": "o", **HOLLOW}
    if any(curve.pretrained for curve in curves):
        signs["pretraining ends"] = {"linestyle": ":"}
    if any(curve.fed_until is not None for curve in curves):
        signs["from here r reads its own outputs after its first input"] = {"marker": "v", "linestyle": ""}
    shown = [Line2D([], [], **{"color": "dimgray", "markersize": 5, **sign}) for sign in signs.values()]
    place = {"loc": "outside lower center", "frameon": False, "fontsize": "small"}
    figure.legend(shown, signs, ncols=beside_each_other(signs, figure), **place)


def name_and_test(curve):
    return "".join([curve.name, *(f": {100 * accuracy:.1f} % on test" for _, accuracy in curve.tested("accuracy"))])


def beside_each_other(words, figure):
    """How many such entries of a legend have room."""
    return max(1, min(len(words), int(12 * figure.get_figwidth() / (max(map(len, words)) + 6))))


def picture_kind(out):
    """What the name's ending says. Raises UserError if no picture can be written there."""
    check_out(out, "curves.png")
    ending = os.path.splitext(out)[1].lstrip(".").lower() or "png"
    if ending not in ("png", "pdf", "svg"):
        raise UserError(f"--out: .{ending} is no kind of picture, choose .png, .pdf or .svg")
    return ending


def save(figure, out):
    """Write the picture whole or not at all; its kind follows from the name's ending."""
    kind, picture = picture_kind(out), io.BytesIO()
    figure.savefig(picture, format=kind, dpi=150)
    write_whole(out, picture.getvalue())
