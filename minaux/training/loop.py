"""Training. Pretraining minimises the auxiliary loss alone; then joint training minimises
L_supervised + aux_weight · L_auxiliary."""

import contextlib
import time

import numpy as np
from tqdm import tqdm

from .. import optim
from ..arrays import wait_for
from . import batches, evaluation, report
from .run import save
from .shards import added
from .stop import Stopped, listening

ROW_EVERY, SAVE_EVERY_S = 10, 60


def train(run, state):
    """Train from `state` to the end or until the budget is spent, test, and write result.json.

    Returns result.json's contents. Raises Stopped after a signal (with everything saved), UserError if
    the loss is not finite or a worker ends, OSError if a file cannot be written.
    """
    with run.open_shards() as shards, listening() as stop:
        if not run.cfg.quiet:
            run.echo(report.introduction(run, state))
            if state.step < run.total_steps:
                run.echo(f"this should take about {report.duration(estimate(run, shards, state, stop))}")
        train_steps(run, shards, state, stop)
        result = evaluation.test(run, shards, state, stop)
        run.directory.write_json("result.json", result)
        return result


def train_steps(run, shards, state, stop):
    """The loop: at an epoch's end validate, save when due, stop when asked or done, else train a batch."""
    cfg, began, earlier = run.cfg, time.monotonic(), state.elapsed_s
    saved, saved_at = (state.step, state.evaluated), began
    sequences, seconds = 0, 0.0  # trained on since the last row, evaluation excluded
    with progress_bar(run, state) as bar:
        while True:
            epoch_ends = run.epoch(state.step)[1] == 0
            over = state.step >= run.total_steps
            over |= cfg.budget is not None and time.monotonic() - began >= cfg.budget
            if epoch_ends and state.evaluated < state.step and not stop.is_set():
                with contextlib.suppress(Stopped):  # then the resumed run validates
                    if len(run.valid_rows):
                        evaluation.validate(run, shards, state, stop)
                    state.evaluated = state.step
            now = time.monotonic()
            state.elapsed_s = earlier + now - began
            due = epoch_ends or over or stop.is_set() or now - saved_at >= SAVE_EVERY_S
            if due and saved != (state.step, state.evaluated):
                save(run, state)
                saved, saved_at = (state.step, state.evaluated), now
            stop.check()
            if over:
                return
            bar.set_description("pretrain" if state.step < run.pretrain_steps else "joint", refresh=False)
            now = time.monotonic()
            row, n = train_step(run, shards, state, stop)
            seconds += time.monotonic() - now
            sequences += n
            rate = sequences / seconds
            if row is not None:
                bar.set_postfix_str(report.progress(row, rate), refresh=False)
            if row_is_due(run, state.step):
                state.elapsed_s = earlier + time.monotonic() - began
                run.write_row(state, kind="train", **row, sequences_per_second=round(rate, 1))
                sequences, seconds = 0, 0.0
            bar.update()


def train_step(run, shards, state, stop=None):
    """One update of `state`, in place. Returns the batch's row and number of sequences. A signal before the update
    has `state` saved, where there is a Stop.

    Raises UserError if the loss or a gradient is not finite. A GPU is not waited for until a row is due: the
    batches between have None for theirs. What is not finite spreads to all later losses.
    """
    cfg, step = run.cfg, state.step
    with stop.saving(lambda: save(run, state)) if stop else contextlib.nullcontext():
        losses, grads, row, n = batch_of_step(run, shards, state.params, step)
    norm = optim.global_norm(grads)
    if run.device == "cpu" or row_is_due(run, step + 1):
        row = {name: value if value is None or name == "phase" else float(value) for name, value in row.items()}
        if not np.isfinite([float(norm), *map(float, losses.values())]).all():
            raise run.diverged(f"the loss or its gradient is not finite in batch {step + 1:,}")
    else:
        row = None
    optim.clip(grads, norm, cfg.clip)
    lr = optim.learning_rate(cfg.lr, cfg.lr_schedule, step, cfg.schedule_steps["lr"])
    optim.rmsprop(state.params, grads, state.v, lr)
    state.step += 1
    return row, n


def batch_of_step(run, shards, params, step):
    """The batch of `step`: its losses and gradients, its row of metrics.jsonl, its number of sequences."""
    cfg, pretraining = run.cfg, step < run.pretrain_steps
    own = optim.own_probability(cfg.feed_start, cfg.feed_end, step, cfg.schedule_steps["feed"])
    options = {"K": run.K, "aux_K": run.aux_K, "aux_weight": 1.0 if pretraining else cfg.aux_weight}
    if cfg.checkpoint_every:
        options["every"] = cfg.checkpoint_every

    def of_batch(rows, aux, labels):
        x, y = batches.take(run.task.x_train, rows), run.task.y_train[rows] if labels else None
        lengths, dropconnect = run.lengths[rows], cfg.dropconnect if labels else 0
        draws = run.draws(step, aux, x, lengths, own_probability=own, dropconnect=dropconnect)
        work = run.model.loss_and_grads, params, x, y, draws, lengths
        return shards.loss_and_grads(*work, batch_size=len(rows), **options)

    if pretraining or run.labelled is run.shuffled or cfg.aux == "none":
        rows = (run.shuffled if pretraining else run.labelled).rows(*run.epoch(step))
        found, n = of_batch(rows, cfg.aux, labels=not pretraining), len(rows)
    else:  # few labels: the auxiliary loss has a batch of its own, out of all training sequences
        rows = run.labelled.rows(*run.epoch(step))
        others = run.shuffled.rows(*divmod(step, run.shuffled.steps_per_epoch))
        found = added(of_batch(rows, "none", labels=True), of_batch(others, cfg.aux, labels=False))
        n = len(rows) + len(others)
    losses = found.losses
    row = {
        "phase": "pretrain" if pretraining else "joint",
        "loss_supervised": None if pretraining else losses["supervised"],
        "loss_auxiliary": None if cfg.aux == "none" else losses["r"] + losses["p"],
        **{f"grad_norm_{kind}": optim.global_norm({"Wh": dWh}) for kind, dWh in found.dWh.items()},
        "fed_truth": 1 - own if "r" in cfg.aux else None,
    }
    return losses, found.grads, row, n  # losses and norms are still where the gradients are


def row_is_due(run, step):
    """Whether metrics.jsonl gets a row at this step."""
    return step % ROW_EVERY == 0 or run.epoch(step)[1] == 0


def progress_bar(run, state):
    shape = "{desc} {percentage:.0f}%|{bar}| {n}/{total} [{elapsed}<{remaining}{postfix}]"
    quiet = run.cfg.quiet or None  # None: no bar either where there is no terminal
    return tqdm(total=run.total_steps, initial=state.step, bar_format=shape, disable=quiet)


def estimate(run, shards, state, stop):
    """Seconds that the rest of the run should take, from a trial batch of each kind."""

    def elapsed(work, *args):
        wait_for(run.xp)
        began = time.monotonic()
        work(run, shards, *args)
        wait_for(run.xp)
        return time.monotonic() - began

    seconds = 0.0
    batch_of_step(run, shards, state.params, state.step)  # the first batch is slower: it makes the arrays
    for begin, end in (0, run.pretrain_steps), (run.pretrain_steps, run.total_steps):
        if state.step < end and not stop.is_set():
            begin = max(begin, state.step)
            seconds += (end - begin) * elapsed(batch_of_step, state.params, begin)
    x, y, rows = run.sequences("test")
    some = rows[: evaluation.BLOCK * shards.at_once]
    each = elapsed(evaluation.evaluate_rows, state.params, x, y, some, stop) / len(some)
    epochs = run.epoch(run.total_steps)[0] - run.epoch(state.step)[0]
    return seconds + each * (epochs * len(run.valid_rows) + len(run.test_rows))
