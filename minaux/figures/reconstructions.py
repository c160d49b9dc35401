"""Pictures of what the auxiliary heads answer, beside the truth and a rival that does not know the sequence."""

import math
import os

import numpy as np

from ..training import evaluation
from ..training.checkpoint import write_whole
from ..training.config import UserError
from . import plots
from .names import short_names, write_name

SAME_ORDER = "The segment in full contrast, the rest of the picture faded."
IN_TIME = "Each square is the segment alone, its steps in the order of time, line by line; blue is beyond its end."
NUMBERS = "A line for each channel, against the step."
DRAWN = 6  # sequences


def reconstruction(run):
    """What the heads of a `Run` answer on the first test sequences: a figure (with r the losses are means over
    256 of them), or for tokens a text. r's decoder reads its own outputs but at its first step. The run has an
    auxiliary loss."""
    n = 256 if "r" in run.cfg.aux and not run.task.tokens else DRAWN
    x, answers, step = evaluation.answers(run, n)  # [n, T, D], of tokens [n, T]
    some = 4 // len({answer.kind for answer in answers})  # of each kind
    answers = [a for kind in "rp" for a in [answer for answer in answers if answer.kind == kind][:some]]
    [name] = short_names([run.directory.path]).values()
    name = f"{name}: weights after batch {step:,} on {run.cfg.task}'s first {len(x)} test sequences"
    if run.task.tokens:
        return texts(name, x, answers, run.task.tokens)
    return figure_of(name, x, answers, run.task.order, run.mean)


def checked_out(out, tokens):
    """The file to write; by default a picture, and none for `tokens`, whose text is printed. Raises UserError if
    its ending is of another kind."""
    if not tokens:
        out = out or "reconstruction.png"
        plots.picture_kind(out)
    elif out and os.path.splitext(out)[1].lower() not in ("", ".txt"):
        raise UserError(f"--out: the segments are text, and {out} does not end in .txt")
    return out


def save(found, out):
    """Write a figure or a text, whole or not at all."""
    if isinstance(found, str):
        write_whole(out, f"{found}\n".encode())
    else:
        plots.save(found, out)


def figure_of(name, x, answers, order, mean):
    """For each answer a line of axes with the truth, one with the answer and one with its rival, of the first
    sequences of x `[n, T, D]`; and of r, over all of them, the error against the distance from the anchor.
    `order [T]` says which pixel of its picture each step is, None if there are no pictures; `mean [T, D]`."""
    from matplotlib.figure import Figure

    in_order = order is not None and (order == np.arange(len(order))).all()
    n, r_answers = min(DRAWN, len(x)), [answer for answer in answers if answer.kind == "r"]
    heights = [(1.42 if order is not None else 1.2) * 3 + 0.6] * len(answers) + [2.8] * bool(r_answers)
    figure = Figure(figsize=(max(1.4 * n + 1, 6), sum(heights) + 0.6), layout="constrained")
    title = figure.suptitle("", fontsize="medium")
    write_name(title, name)
    parts = np.atleast_1d(figure.subfigures(len(heights), height_ratios=heights))
    if r_answers:
        draw_distances(parts[-1].subplots(), x, r_answers, mean)
    for part, answer in zip(parts, answers):
        part.suptitle(heading(answer), fontsize="small")
        grid = part.subplots(3, n, squeeze=False, sharex=True, sharey=True)
        for line, (words, y) in zip(grid, shown(x, answer)):
            line[0].set_ylabel(words, fontsize="small")
            for axes, whole, values in zip(line, x, y):
                if order is None:
                    draw_numbers(axes, values, answer.first)
                else:
                    pixels = picture(whole, values, answer.first, order) if in_order else in_time(values)
                    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1)
                    axes.set(xticks=[], yticks=[], facecolor="#bcd5ea")
        part.supxlabel(NUMBERS if order is None else SAME_ORDER if in_order else IN_TIME, fontsize="small")
    return figure


def draw_distances(axes, x, answers, mean):
    """What the states at r's anchors remember: the squared error against the distance of the target from the
    anchor, over all sequences and anchors."""
    L1 = answers[0].y.shape[1]
    errors = {"its own state": [], answers[0].rival: [], "position mean": []}
    for answer in answers:
        steps = slice(answer.first, answer.first + L1)
        for found, y in zip(errors.values(), (answer.y, answer.rival_y, mean[steps])):
            found.append(((y - x[:, steps]) ** 2).mean((0, 2)))
    for n, (words, error) in enumerate(errors.items()):
        look = {"color": plots.COLORS[n], "linestyle": plots.LINES[n], "marker": "." if L1 == 1 else ""}
        axes.plot(range(L1, 0, -1), np.mean(error, 0), label=words, **look)
    top = 1.25 * max(np.mean(error, 0).max() for error in errors.values())  # room for the legend
    axes.set(xlabel="steps before the anchor", ylabel="squared error", ylim=(0, top or 1))
    axes.set_title("r: the error against the distance from the anchor", fontsize="small")
    axes.grid(alpha=0.25)
    axes.legend(fontsize="small", loc="upper center", ncols=3)


def heading(answer):
    """What is answered, from what."""
    first, last = answer.first, answer.first + answer.y.shape[1] - 1
    if answer.kind == "r":
        return f"r, anchor {answer.anchor}: steps {first} to {last}, from the state after step {answer.anchor}"
    return f"p, anchor {answer.anchor}: steps {first} to {last}, each from the state before it"


def shown(x, answer):
    """[(words, `[n, ., D]` or `[n, .]`)] of the truth, the answer and its rival."""
    verb = {"r": "reconstructed", "p": "predicted"}[answer.kind]
    return [
        ("true", x[:, answer.first : answer.first + answer.y.shape[1]]),
        (f"{verb}\nloss {answer.loss:.4f}", answer.y),
        (f"{answer.rival}\nloss {answer.rival_loss:.4f}", answer.rival_y),
    ]


def draw_numbers(axes, values, first):
    for n, channel in enumerate(values.T):
        look = {"color": plots.COLORS[n % 5], "linestyle": plots.LINES[n % 4], "linewidth": 1}
        axes.plot(range(first, first + len(channel)), channel, **look)
    axes.tick_params(labelsize="x-small")


def picture(x, values, first, order):
    """The sequence x `[T, D]` as a square picture, `[s, s]` or `[s, s, D]`, with the `values` from step `first` on,
    and faded outside of them."""
    pixels = 0.35 + 0.2 * x
    pixels[first : first + len(values)] = values.clip(0, 1)
    out = np.empty_like(pixels)
    out[order] = pixels
    return squared(out)


def in_time(values):
    """The values `[., D]` line by line in a square that has room for them, with holes in the end."""
    side = math.ceil(math.sqrt(len(values)))
    out = np.full((side * side, values.shape[1]), np.nan)
    out[: len(values)] = values.clip(0, 1)
    return squared(out)


def squared(pixels):
    side = math.isqrt(len(pixels))
    return pixels.reshape(side, side, *pixels.shape[1:] if pixels.shape[1] > 1 else ())


def texts(name, x, answers, vocabulary):
    """True segments, answers and rivals below each other, as lines of text; tokens that are no bytes as numbers."""
    lines = [name, ""]
    for answer in answers:
        words, ys = zip(*shown(x, answer))
        losses = ", ".join(word.replace("\n", ": ") for word in words[1:])
        lines += [heading(answer), losses, ""]
        width = max(len(answer.rival), 13)
        for one in zip(*ys):
            lines += [f"{word.split(chr(10))[0]:>{width}}  {signs(y, vocabulary)}" for word, y in zip(words, one)]
            lines.append("")
    return "\n".join(lines)


def signs(tokens, vocabulary):
    """A sign for each byte, or numbers of one width, so that the lines can be compared."""
    if vocabulary == 256:
        return "".join(chr(token) if 32 <= token < 127 else "." for token in tokens)
    return " ".join(f"{token:{len(str(vocabulary - 1))}}" for token in tokens)
