"""Pictures of what the auxiliary heads answer, beside the truth."""

import math

import numpy as np

from ..training import evaluation


def reconstruction(run, n=6):
    """What the run's auxiliary heads answer on the first n test sequences, r's decoder fed its own outputs only:
    a figure, or for tokens a text. Raises UserError if the run has no auxiliary loss."""
    from matplotlib.figure import Figure

    x, answers = evaluation.answers(run, n)  # [n, T, D]; ("r" or "p", first step, [n, ., D]) each; tokens without D
    if run.task.tokens:
        return texts(x, answers, run.task.tokens)
    answers = answers[:4]  # anchors
    rows = [(kind, first, y, own) for kind, first, y in answers for own in (False, True)]
    pictures = run.task.order is not None
    figure = Figure(figsize=(1.9 * len(x), (1.9 if pictures else 1.5) * len(rows) + 0.4), layout="constrained")
    grid = figure.subplots(len(rows), len(x), squeeze=False)
    for axes, (kind, first, y, own) in zip(grid, rows):
        verb = {"r": "reconstructed", "p": "predicted"}[kind]
        steps = slice(first, first + y.shape[1])
        name = f"{kind}: {verb}" if own else f"{kind}: true"
        for one, true, answer in zip(axes, x, y):
            if pictures:
                whole = true.copy()
                if own:
                    whole[steps] = answer
                one.imshow(picture(whole, steps, run.task.order), cmap="gray", vmin=0, vmax=1)
                one.set(xticks=[], yticks=[])
            else:
                one.plot(range(steps.start, steps.stop), answer if own else true[steps], linewidth=0.9)
                one.set_ylim(float(x.min()), float(x.max()))
                one.tick_params(labelsize="x-small")
                one.set_xlabel("step", fontsize="small")
        axes[0].set_ylabel(name)
    if pictures:
        figure.suptitle("the segment in full contrast, the rest of the picture faded", fontsize="small")
    return figure


def picture(x, steps, order):
    """The steps x `[T, D]` as a square picture, `[s, s]` or `[s, s, D]`, faded outside of `steps`."""
    pixels = 0.35 + 0.2 * x
    pixels[steps] = x[steps].clip(0, 1)
    out = np.empty_like(pixels)
    out[order] = pixels
    side = math.isqrt(len(out))
    return out.reshape(side, side, -1).squeeze(2) if out.shape[1] == 1 else out.reshape(side, side, -1)


def texts(x, answers, vocabulary):
    """The true segments above the answers, as lines of text; tokens that are no bytes as numbers."""
    lines = []
    for kind, first, y in answers:
        for true, answer in zip(x, y):
            for name, tokens in ("true", true[first : first + len(answer)]), (kind, answer):
                if vocabulary == 256:  # a sign for each byte, so that the lines stay side by side
                    text = "".join(chr(token) if 32 <= token < 127 else "." for token in tokens)
                else:
                    text = " ".join(map(str, tokens))
                lines.append(f"{name:>4}  {text}")
            lines.append("")
    return "\n".join(lines)
