"""A trained model at work: classes of new sequences.

from minaux.training.predict import load_model
classify = load_model("runs/my-r")
probabilities = classify(x)  # [n, classes] of x [n, T, D], or of a list of tokens [T_i]
classes = probabilities.argmax(1)
"""

import functools

import numpy as np

from ..model import Draws
from . import batches
from .checkpoint import RunDirectory, write_whole
from .config import UserError
from .evaluation import in_blocks
from .run import MODELS
from .shards import open_shards


def load_model(path):
    """The best weights of the run in a directory as a function: x to the probabilities `[n, classes]`, with
    `threads` (1) processes at work.

    x is as the run's task has it: bytes or floats `[n, T]` or `[n, T, D]`; tokens `[n, T]`, or a list of them
    `[T_i]`. Raises UserError if there is no run, if its checkpoint is damaged, or if x is of another kind than the
    model learned from. From the first call on this process keeps freed memory (`arrays.keep_freed_memory`).
    """
    directory = RunDirectory(path)
    cfg = directory.read_config()
    params, _ = directory.load(cfg).tested
    return functools.partial(probabilities, cfg, params)


def probabilities(cfg, params, x, threads=1):
    """See `load_model`."""
    x = checked(cfg, params, x)
    model, lengths = MODELS[cfg.model][0], batches.lengths_of(x)
    blocks, found = in_blocks(cfg, model, np.arange(len(x)), lengths), []
    with open_shards(1, cfg.dtype, threads) as shards:
        for first in range(0, len(blocks), shards.at_once):
            some = blocks[first : first + shards.at_once]
            parts = [(batches.take(x, rows), None, Draws(), lengths[rows]) for rows in some]
            found.append(np.concatenate(shards.run(softmax, params, parts, logits=model.logits)))
    found = np.concatenate(found)
    if not np.isfinite(found).all():
        raise UserError(f"x holds numbers too large for the model in {cfg.dtype}: scale it as in training")
    return found[np.argsort(np.concatenate(blocks))]


def softmax(params, x, y, draws, logits, mask=None):
    """The probabilities `[N, classes]` of x `[T, D, N]` or `[T, N]`."""
    scores = logits(params, x, mask)  # [classes, N]
    p = np.exp(scores - scores.max(0))
    return (p / p.sum(0)).T


def write_csv(out, found, labels=None):
    """A row for each sequence, from the probabilities `found` `[n, classes]`: its class, its label where there are
    `labels` `[n]`, its probabilities."""
    known = {"class": found.argmax(1)} | ({} if labels is None else {"label": labels})
    rows = [[*known, *(f"p{n}" for n in range(found.shape[1]))]]
    rows += [[*one, *(f"{value:.6g}" for value in p)] for *one, p in zip(*known.values(), found)]
    write_whole(out, "".join(",".join(map(str, row)) + "\n" for row in rows).encode())


AS = {  # how to give what a model reads
    "bytes": "an array of uint8, 0 to 255 as in training",
    "floats": "an array of float32, scaled as in training",
    "tokens": "integers [n, T], numbered as in training",
}


def checked(cfg, params, x):
    """x as the model reads it. Raises UserError if it cannot."""
    first = params.get("main.We", params.get("main.Wx"))  # [F, D], of tokens [F, V]
    data, width, holds = cfg.data or {}, first.shape[1], kind(x)
    numbers = (("bytes",) if data["bytes"] else ("floats",)) if "bytes" in data else ("bytes", "floats")
    reads = ("tokens",) if data.get("tokens") else numbers
    if holds not in reads:
        raise UserError(f"x holds {holds}, but the model reads {' or '.join(reads)}: give it {AS[reads[0]]}")
    if not (len(x) if isinstance(x, list) else x.size):
        raise UserError("x holds no sequence")
    tokens = holds == "tokens"
    if not tokens and not np.isfinite(x).all():
        raise UserError("x holds numbers that are not finite")
    x = list(x) if tokens else x.reshape(*x.shape[:2], -1)
    for steps in x if tokens else ():
        if not (isinstance(steps, np.ndarray) and steps.ndim == 1 and steps.dtype.kind in "iu" and len(steps)):
            raise UserError("x holds a sequence that is no array [T] of integers, or an empty one")
        wrong = steps[(steps < 0) | (steps >= width)]
        if len(wrong):
            raise UserError(f"x has the token {wrong[0]}, but the model reads 0 to {width - 1}")
    if tokens:
        x = [steps.astype(np.int32, copy=False) for steps in x]  # of unlike types one could not hold another's
    if not tokens and x.shape[2] != width:
        raise UserError(f"x has {x.shape[2]} numbers a step, but the model reads {width}")
    return x


def kind(x):
    """What x holds, in a word. Raises UserError if it is nothing that a model reads."""
    if isinstance(x, list):
        return "tokens"
    if not isinstance(x, np.ndarray) or x.ndim not in (2, 3):
        raise UserError("x is neither an array [n, T] or [n, T, D] nor a list of tokens")
    if x.dtype == np.uint8:
        return "bytes"
    return "floats" if x.dtype.kind == "f" else "tokens" if x.dtype.kind in "iu" and x.ndim == 2 else str(x.dtype)
