"""Accuracy, and the auxiliary report: whether an auxiliary loss shows memory. First of a shard, then of a run."""

from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from ..arrays import array_module, to_host
from ..auxiliary import predict, reconstruct
from ..model import main_forward
from ..ops import mlp_forward, mse_forward, softmax_cross_entropy_forward
from ..windows import kept_spans
from . import batches, report
from .run import load, save

WINDOW = 50  # steps a head runs at a time: the losses do not depend on it, the memory does
BLOCK = 64  # sequences a process tests at a time: from there on a column takes no less time (docs/speed.md)


# --- of a shard, on its device ---


def evaluate(params, x, y, draws, mean=None, mask=None, logits=None):
    """Sums over the N sequences, without dropout or gradients: "correct", "loss_supervised", and the
    auxiliary report: each head's loss, its `rivals` on the same targets (given their `mean`), and for
    r "r_swap_gap", by how much the loss from another sequence's state (the neighbour's) is larger, summed
    over "r_pairs" sequences: all, or none where N = 1. The decoder reads the truth at its first step, then its own
    outputs.
    `logits(params, x, mask)` are the scores of a model that is no LSTM, and has no auxiliary loss.
    """
    T, N, L = len(x), x.shape[-1], draws.L
    if logits is None:
        main = main_forward(params, x, kept_spans(T, 0, 0, L, draws.r_anchors, draws.p_anchors), mask)
    scores = logits(params, x, mask) if logits else mlp_forward(main.last, params, "classifier")[0]
    sums = {"correct": (scores.argmax(0) == y).sum()}
    sums["loss_supervised"], _ = softmax_cross_entropy_forward(scores, y, 1.0)

    def add(name, loss):
        sums[name] = sums.get(name, 0) + loss

    xp, channels = array_module(x), 1 if x.ndim == 2 else x.shape[1]
    for a in draws.r_anchors:
        scale = 1 / ((L - 1) * channels * len(draws.r_anchors))
        truth = own_only(x, L)
        h, c = main.state(a)  # [H, N]
        loss = reconstruct(params, x, a, L, WINDOW, h, c, scale, truth).loss
        add("r_loss", loss)
        if N > 1:
            other = xp.roll(h, 1, axis=1), xp.roll(c, 1, axis=1)
            add("r_swap_gap", reconstruct(params, x, a, L, WINDOW, *other, scale, truth).loss - loss)
            sums["r_pairs"] = N
        if mean is not None:
            for name, loss in rivals(x, a - L + 1, a - 1, mean, scale).items():
                add(f"r_{name}", loss)
    for a in draws.p_anchors:
        scale = 1 / (L * channels * len(draws.p_anchors))
        h = main.steps(a, a + L).h[1:]  # [L, H, N]
        add("p_loss", sum(loss for _, _, loss, _, _ in predict(params, x, a, L, WINDOW, h, scale)))
        if mean is not None:
            for name, loss in rivals(x, a + 1, a + L, mean, scale).items():
                add(f"p_{name}", loss)
    return sums


class Answer(NamedTuple):
    """What an auxiliary head answers at an anchor, and a rival that does not know the sequence. Answers are
    `[., D, N]`, of tokens the scores `[., V, N]`; losses are means over the sequences."""

    kind: str  # "r" or "p"
    anchor: int
    first: int  # the step of the first target
    y: Any
    loss: float
    rival: str  # what it is
    rival_y: Any
    rival_loss: float


def outputs(params, x, y, draws, mean, mask=None):
    """The heads' `Answer`s; r's decoder reads the truth at its first step, then its own outputs. r's rival starts
    from the state of another sequence, the neighbour's; p's (and r's of a single sequence) is the `guess`."""
    xp, L, N, found = array_module(x), draws.L, x.shape[-1], []
    channels = 1 if x.ndim == 2 else x.shape[1]
    main = main_forward(params, x, kept_spans(len(x), 0, 0, L, draws.r_anchors, draws.p_anchors), mask)
    for a in draws.r_anchors:
        scale, state = 1 / ((L - 1) * channels * N), main.state(a)
        states = state, [xp.roll(s, 1, axis=1) for s in state]
        own, other = (reconstruct(params, x, a, L, WINDOW, *hc, scale, own_only(x, L)) for hc in states)
        rival = ("another's state", other.y, other.loss) if N > 1 else guess(x, a - L + 1, a - 1, mean, scale)
        found.append(Answer("r", a, a - L + 1, own.y, own.loss, *rival))
    for a in draws.p_anchors:
        scale = 1 / (L * channels * N)
        windows = list(predict(params, x, a, L, WINDOW, main.steps(a, a + L).h[1:], scale))
        answered = xp.concatenate([block for *_, y in windows for block in y])
        loss = sum(loss for _, _, loss, *_ in windows)
        found.append(Answer("p", a, a + 1, answered, loss, *guess(x, a + 1, a + L, mean, scale)))
    return found


def guess(x, first, last, mean, scale):
    """(name, answers, loss) of the best of the `rivals` that sees nothing of a sequence: the mean of each
    position, of tokens the most frequent one."""
    xp, steps, N = array_module(x), last + 1 - first, x.shape[-1]
    name = "constant" if x.ndim == 2 else "position_mean"
    rows = xp.tile(mean, (steps, 1)) if x.ndim == 2 else mean[first : last + 1]
    loss = rivals(x, first, last, mean, scale)[name]
    return name.replace("_", " "), xp.repeat(rows[:, :, None], N, axis=2), loss


def own_only(x, L):
    """The coins `[L-1, N]` of a decoder that reads the truth at its first step alone."""
    truth = array_module(x).zeros((L - 1, x.shape[-1]), bool)
    truth[0] = True
    return truth


def rivals(x, first, last, mean, scale):
    """The losses, on the targets x[first] ... x[last], of rivals without memory. An auxiliary loss that is
    not below them shows no memory.

    Pixels `[_, D, N]`: a constant (each channel's mean), the per-position mean (`mean [T, D]`), and copying the
    last value. Tokens `[_, N]`: a constant, their frequencies (`mean [V]` their logarithms).
    """
    if x.ndim == 2:
        return {"constant": -scale * mean[x[first : last + 1]].sum()}
    targets, position_mean = x[first : last + 1], mean[first : last + 1, :, None]
    guesses = {"constant": mean.mean(0)[:, None], "position_mean": position_mean, "copy": x[first - 1 : last]}
    return {name: mse_forward(guess, targets, scale)[0] for name, guess in guesses.items()}


# --- of a run ---


def evaluate_rows(run, shards, params, x, y, rows, stop=None):
    """Accuracy, supervised loss and the auxiliary report on these `rows` of x and y, shortest first.

    The rows go in blocks of `BLOCK` sequences, each with its own anchors, the same in every evaluation: the result
    does not depend on --batch-size and --threads. Raises Stopped if the Stop `stop` is set.
    """
    sums, lengths = {}, batches.lengths_of(x)
    blocks, n = in_blocks(run.cfg, run.model, rows, lengths), shards.at_once
    logits = None if run.cfg.model == "lstm" else run.model.logits
    for first in tqdm(range(0, len(blocks), n), "evaluating", leave=False, disable=run.cfg.quiet or None):
        if stop is not None:
            stop.check()
        parts = []
        for number, some in enumerate(blocks[first : first + n], first):
            inputs = batches.take(x, some)
            draws = run.draws(number, run.cfg.aux, inputs, lengths[some], evaluation=True)
            parts.append((inputs, y[some], draws, lengths[some]))
        for part in shards.run(evaluate, params, parts, mean=run.mean, logits=logits):
            for name, value in part.items():
                sums[name] = sums.get(name, 0.0) + float(value)
    counts = {"r_swap_gap": sums.pop("r_pairs", 0)}  # the others are over all
    means = {name: value / counts.get(name, len(rows)) for name, value in sums.items()}
    return {"accuracy": means.pop("correct"), **means}


def in_blocks(cfg, model, rows, lengths):
    """The rows of sequences of such lengths in blocks, shortest first."""
    order = rows[np.argsort(lengths[rows], kind="stable")]
    # A model whose memory grows with the steps has room for a batch; it has no anchors.
    size = min(BLOCK, cfg.batch_size) if hasattr(model, "needed_bytes") else BLOCK
    return [order[start : start + size] for start in range(0, len(order), size)]


def evaluate_and_tell(run, shards, state, params, split, stop):
    """`evaluate_rows` on a split, as a row of metrics.jsonl and in words."""
    result = evaluate_rows(run, shards, params, *run.sequences(split), stop)
    if not np.isfinite(list(result.values())).all():
        raise run.diverged(f"the {split} loss is not finite after batch {state.step:,}")
    # A run that is resumed may evaluate again at the same step.
    run.directory.drop_rows(lambda row: (row.get("split"), row["step"]) == (split, state.step))
    run.write_row(state, kind="eval", split=split, **result)
    if not run.cfg.quiet:
        phase = "pretraining" if state.step <= run.pretrain_steps else "joint training"
        step = state.tested[1] if split == "test" else state.step
        run.echo(report.evaluation(split, step, phase, result))
    return result


def validate(run, shards, state, stop):
    """Validate, and keep the weights if they are the best so far (in joint training)."""
    with stop.saving(lambda: save(run, state)):
        accuracy = evaluate_and_tell(run, shards, state, state.params, "valid", stop)["accuracy"]
    if state.step > run.pretrain_steps and (state.best is None or accuracy > state.best_accuracy):
        state.best_accuracy, state.best_step = accuracy, state.step
        state.best = {name: w.copy() for name, w in state.params.items()}


def test(run, shards, state, stop):
    """Test the best weights (the last ones, without validation). Returns what goes into result.json."""
    accuracy = evaluate_and_tell(run, shards, state, state.tested[0], "test", stop)["accuracy"]
    return {
        **{name: getattr(run.cfg, name) for name in ("task", "model", "aux", "bptt", "seed")},
        "test_accuracy": accuracy,
        "test_examples": len(run.test_rows),
        "valid_accuracy": state.best_accuracy,
        "epochs": run.epochs_of_joint_training(state.step),
        "steps": state.step,
        "parameters": run.parameters,
        "elapsed_s": round(state.elapsed_s, 1),
        "device": run.device,
        "complete": state.step >= run.total_steps,
    }


def evaluate_saved(run):
    """Test the checkpoint's best weights; writes nothing."""
    params, step = load(run).tested
    with run.open_shards() as shards:
        result = evaluate_rows(run, shards, params, *run.sequences("test"))
    accuracy, examples = result.pop("accuracy"), len(run.test_rows)
    return {"test_accuracy": accuracy, "test_examples": examples, "step": step, **result}


def answers(run, n):
    """For `reconstruction` to draw: the first n test sequences; the `Answer`s of the checkpoint's best weights,
    `[n, ., D]`, of tokens `[n, .]`; the step of these weights."""
    (params, step), tokens = load(run).tested, run.task.tokens
    rows = run.test_rows[:n]
    x, lengths = batches.take(run.task.x_test, rows), batches.lengths_of(run.task.x_test)[rows]
    draws = run.draws(0, run.cfg.aux, x, lengths, evaluation=True)
    batch = x, None, draws, lengths  # in one part, for each to have a neighbour
    with run.open_shards() as shards:
        [found] = shards.run(outputs, params, [batch], mean=run.mean)

    def rows_first(y):
        return np.moveaxis(to_host(y).argmax(1) if tokens else to_host(y), -1, 0)

    found = [a._replace(y=rows_first(a.y), rival_y=rows_first(a.rival_y)) for a in found]
    return x if tokens else batches.scaled(x, run.cfg.dtype), found, step
