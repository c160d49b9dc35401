"""Training: two phases, shards, evaluation, resume.

Unsupervised pretraining minimises the auxiliary loss alone; then joint training minimises L_supervised +
aux_weight · L_auxiliary. A batch is split into shards of sequences, one a process, and their gradients are
summed in a fixed order: a run's bits depend on the number of shards, not on the machine's load.
"""

import contextlib
import dataclasses
import signal
import sys
import time
from concurrent.futures.process import BrokenProcessPool

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from .. import arrays, initial, model, optim
from ..baselines import irnn, transformer
from . import batches, evaluation, report, shards
from .checkpoint import RunDirectory, State
from .config import UserError

MODELS = {"lstm": model, "irnn": irnn, "transformer": transformer}
VALIDATION_SEED = 0  # the same split whatever --seed is
ROW_EVERY, SAVE_EVERY_S = 10, 60


class Stopped(Exception):
    """Ctrl-C, noticed between two batches; everything is saved."""


class Run:
    """One run: a Config, a Task (see datasets), a directory, and the State that `train` advances."""

    def __init__(self, cfg, task, out, echo=print, device=None):
        self.cfg, self.task, self.directory, self.echo = cfg, task, RunDirectory(out), echo
        try:
            self.xp, self.device = arrays.backend(device or cfg.device)
        except RuntimeError as error:
            raise UserError(str(error)) from None
        self.lengths = batches.lengths_of(task.x_train)
        self.T = max(self.lengths.max(), batches.lengths_of(task.x_test).max())  # of the longest sequence
        self.K, self.aux_K = cfg.steps("bptt", self.T), cfg.steps("aux_bptt", self.T)
        D = task.tokens or task.x_train.shape[2]
        self.model = MODELS[cfg.model]
        self.sizes = initial.Sizes(D, cfg.hidden, task.classes, bool(task.tokens), cfg.model)
        self.shapes = initial.parameter_shapes(self.sizes, cfg.aux)
        self.check_data()
        self.split()
        self.epoch = None, []  # the last epoch's number, and the rows of its batches
        self.steps_per_epoch = -(-len(self.train_rows) // cfg.batch_size)
        self.pretrain_steps = cfg.pretrain_epochs * self.steps_per_epoch
        self.total_steps = self.pretrain_steps + cfg.epochs * self.steps_per_epoch
        if cfg.shards is None:  # a new run; a resumed one keeps what it began with
            cfg.shards = cfg.threads if self.device == "cpu" else 1
            cfg.schedule_steps = {"feed": self.pretrain_steps or self.total_steps, "lr": self.total_steps}
        self.stop = False

    def check_data(self):
        """Note how many data a new run has. Raises UserError if a saved run's were others."""
        cfg, task = self.cfg, self.task
        counts = {
            "train": len(task.y_train),
            "test": len(task.y_test),
            "classes": task.classes,
            "tokens": task.tokens,
        }
        if cfg.shards is None:  # a new run
            cfg.data = counts
        elif cfg.data not in (None, counts):  # None: a run from before they were noted
            was = {name: cfg.data.get(name) for name in counts}
            others = [f"{name} {n}, not {was[name]}" for name, n in counts.items() if n != was[name]]
            raise UserError(f"the data differ from this run's: {', '.join(others)}; check --data-dir")

    def check_memory(self):
        """Raises UserError if a batch of the longest sequences needs more memory than there is."""
        if not hasattr(self.model, "needed_bytes"):
            return
        T, N = int(self.lengths[self.train_rows].max()), min(self.cfg.batch_size, len(self.train_rows))
        needed = self.model.needed_bytes(T, N, self.sizes, self.cfg.dtype, self.cfg.shards, self.device == "gpu")
        free = arrays.free_memory(self.xp)
        if free is not None and needed > free:
            what = f"a batch of {N} sequences of {T} steps needs {needed:,} bytes of memory"
            raise UserError(f"{what}, and {free:,} are free; try a smaller --batch-size or --hidden")

    def split(self):
        """Draw the validation rows; take the training inputs' mean for the auxiliary report."""
        cfg, task = self.cfg, self.task
        n = min(cfg.limit_train or len(task.y_train), len(task.y_train))
        valid = min(5000, n // 10) if cfg.valid is None else cfg.valid
        if valid >= n:
            raise UserError(f"--valid: {valid} leaves none of the {n} training sequences to train on")
        cfg.valid = valid
        order = np.random.default_rng(VALIDATION_SEED).permutation(n)
        self.train_rows, self.valid_rows = np.sort(order[valid:]), np.sort(order[:valid][: cfg.limit_test])
        self.test_rows = np.arange(len(task.y_test))[: cfg.limit_test]
        self.mean = self.xp.asarray(batches.mean_of(task.x_train, self.train_rows, task.tokens).astype(cfg.dtype))

    def parameters(self):
        """How many numbers are trained."""
        return sum(int(np.prod(shape)) for shape in self.shapes.values())

    def new_state(self):
        """The State at step 0, with its files. Raises UserError if the directory holds a run already."""
        cfg = self.cfg
        self.check_memory()
        with threadpool_limits(1), np.errstate(over="ignore"):  # BLAS threads would change the bits
            params = initial.init_params(self.sizes, cfg.aux, self.T, cfg.seed, cfg.forget_bias, cfg.dtype)
        if not all(np.isfinite(w).all() for w in params.values()):
            raise UserError(f"--forget-bias: {cfg.forget_bias} is not finite in {cfg.dtype}, choose a smaller one")
        v = {name: np.zeros_like(w) for name, w in params.items()}
        state = self.to_device(State(params, v))
        self.directory.create(cfg)
        self.save(state)
        return state

    def saved_state(self):
        """The State to resume from. Raises UserError if the checkpoint is damaged or another run's."""
        self.check_memory()
        state = self.directory.load(self.cfg, self.shapes)
        if self.total_steps < state.step:
            done = -(-max(state.step - self.pretrain_steps, 0) // self.steps_per_epoch)
            raise UserError(f"--epochs: {self.cfg.epochs} is less than the {done} this run has begun; give more")
        self.directory.drop_rows(lambda row: row["step"] > state.step)
        self.directory.write_json("config.json", dataclasses.asdict(self.cfg))  # --epochs may be new
        return self.to_device(state)

    def to_device(self, state):
        groups = {name: getattr(state, name) for name in ("params", "v", "best")}
        on_device = {k: g and {name: self.xp.asarray(a) for name, a in g.items()} for k, g in groups.items()}
        return dataclasses.replace(state, **on_device)

    # --- one batch ---

    def in_shards(self, function, params, x, y, draws, lengths=None, **options):
        """[function(params, x, y, draws, **options) for each shard], given the batch's x `[n, T, D]` or
        `[n, T]`, y `[n]`, draws and `lengths [n]` (None: all T) on the host."""
        n, dtype, parts = len(x), self.cfg.dtype, []
        padding = None if lengths is None or (lengths == x.shape[1]).all() else x.shape[1] - lengths
        draws = draws._replace(masks={name: mask.astype(dtype) for name, mask in draws.masks.items()})
        ends = np.linspace(0, n, min(self.cfg.shards, n) + 1).astype(int)
        for columns in map(slice, ends, ends[1:]):
            truth = None if draws.truth is None else draws.truth[:, :, columns]
            mine = x[columns], None if y is None else y[columns], draws._replace(truth=truth), dtype
            parts.append((function, params, *mine, None if padding is None else padding[columns], options))
        return self.workers(batches.on_shard, parts)

    def loss_and_grads(self, state, step):
        """The batch of `step`: its losses and gradients, its row of metrics.jsonl, its number of sequences."""
        cfg, pretraining = self.cfg, step < self.pretrain_steps
        epoch, i = divmod(step, self.steps_per_epoch)
        if epoch != self.epoch[0]:
            order = arrays.rng(cfg.seed, arrays.ORDER, epoch)
            self.epoch = epoch, batches.of_an_epoch(order, self.train_rows, self.lengths, cfg.batch_size)
        rows = self.epoch[1][i]
        x, y = batches.take(self.task.x_train, rows), None if pretraining else self.task.y_train[rows]
        lengths = self.lengths[rows]
        own = optim.own_probability(cfg.feed_start, cfg.feed_end, step, cfg.schedule_steps["feed"])
        size = cfg.anchors, cfg.aux_length, x.shape[1], len(rows)
        dropconnect = 0 if pretraining else cfg.dropconnect
        draws = model.draw(cfg.seed, step, cfg.aux, *size, self.shapes, own, dropconnect, lengths.min())

        weight = 1.0 if pretraining else cfg.aux_weight
        options = {"K": self.K, "aux_K": self.aux_K, "aux_weight": weight, "batch_size": len(rows)}
        if cfg.checkpoint_every:
            options["every"] = cfg.checkpoint_every
        total, *others = self.in_shards(self.model.loss_and_grads, state.params, x, y, draws, lengths, **options)
        for other in others:  # in the order of the shards, whichever was ready first
            for mine, its in (total.losses, other.losses), (total.grads, other.grads), (total.dWh, other.dWh):
                for name in its:
                    mine[name] = mine[name] + its[name]
        losses = total.losses
        row = {
            "phase": "pretrain" if pretraining else "joint",
            "loss_supervised": None if pretraining else losses["supervised"],
            "loss_auxiliary": None if cfg.aux == "none" else losses["r"] + losses["p"],
            **{f"grad_norm_{kind}": optim.global_norm({"Wh": dWh}) for kind, dWh in total.dWh.items()},
            "fed_truth": 1 - own if "r" in cfg.aux else None,
        }
        return losses, total.grads, row, len(rows)  # losses and norms are still where the gradients are

    def train_step(self, state):
        """One update of `state`, in place. Returns the batch's row and number of sequences.

        Raises UserError if the loss or a gradient is not finite. A GPU is not waited for until a row is due: the
        batches between have None for theirs. What is not finite spreads to all later losses.
        """
        cfg, step = self.cfg, state.step
        losses, grads, row, n = self.loss_and_grads(state, step)
        norm = optim.global_norm(grads)
        if self.device == "cpu" or self.row_is_due(step + 1):
            row = {name: value if value is None or name == "phase" else float(value) for name, value in row.items()}
            if not np.isfinite([float(norm), *map(float, losses.values())]).all():
                self.fail(f"the loss or its gradient is not finite at step {step + 1}")
        else:
            row = None
        optim.clip(grads, norm, cfg.clip)
        lr = optim.learning_rate(cfg.lr, cfg.lr_schedule, step, cfg.schedule_steps["lr"])
        optim.rmsprop(state.params, grads, state.v, lr)
        state.step += 1
        return row, n

    def row_is_due(self, step):
        """Whether metrics.jsonl gets a row at this step."""
        return step % ROW_EVERY == 0 or step % self.steps_per_epoch == 0

    def fail(self, what):
        raise UserError(
            f"{what}: stopped, {self.directory.checkpoint} keeps the last good weights; try a lower --lr"
        )

    # --- evaluation ---

    def evaluate(self, params, x, y, rows):
        """Accuracy, supervised loss and the auxiliary report on these `rows` of x and y, shortest first.

        The anchors are the same in every evaluation. Raises Stopped after Ctrl-C.
        """
        cfg, sums, lengths = self.cfg, {}, batches.lengths_of(x)
        order = rows[np.argsort(lengths[rows], kind="stable")]
        starts = range(0, len(order), cfg.batch_size)
        for number, start in enumerate(tqdm(starts, "evaluating", leave=False, disable=cfg.quiet or None)):
            if self.stop:
                raise Stopped
            some = order[start : start + cfg.batch_size]
            inputs, shortest = batches.take(x, some), lengths[some].min()
            size = cfg.anchors, cfg.aux_length, inputs.shape[1], len(some), self.shapes
            draws = model.draw(cfg.seed, number, cfg.aux, *size, shortest=shortest, evaluation=True)
            batch = params, inputs, y[some], draws, lengths[some]
            logits = getattr(self.model, "logits", None)
            for part in self.in_shards(evaluation.evaluate, *batch, mean=self.mean, logits=logits):
                for name, value in part.items():
                    sums[name] = sums.get(name, 0.0) + float(value)
        counts = {"r_swap_gap": sums.pop("r_pairs", 0)}  # the others are over all
        means = {name: value / counts.get(name, len(rows)) for name, value in sums.items()}
        return {"accuracy": means.pop("correct"), **means}

    def evaluate_and_tell(self, state, params, split):
        rows = self.valid_rows if split == "valid" else self.test_rows
        x, y = (self.task.x_test, self.task.y_test) if split == "test" else (self.task.x_train, self.task.y_train)
        result = self.evaluate(params, x, y, rows)
        if not np.isfinite(list(result.values())).all():
            self.fail(f"the {split} loss is not finite at step {state.step}")
        # A run that is resumed may evaluate again at the same step.
        self.directory.drop_rows(lambda row: (row.get("split"), row["step"]) == (split, state.step))
        self.write_row(state, kind="eval", split=split, **result)
        if not self.cfg.quiet:
            phase = "pretraining" if state.step <= self.pretrain_steps else "joint training"
            step = state.best_step if split == "test" and state.best else state.step
            self.echo(report.evaluation(split, step, phase, result))
        return result

    def validate(self, state):
        """Validate, and keep the weights if they are the best so far (in joint training)."""
        accuracy = self.evaluate_and_tell(state, state.params, "valid")["accuracy"]
        if state.step > self.pretrain_steps and (state.best is None or accuracy > state.best_accuracy):
            state.best_accuracy, state.best_step = accuracy, state.step
            state.best = {name: w.copy() for name, w in state.params.items()}

    def test(self, state):
        """Test the best weights (the last ones, without validation). Returns what goes into result.json."""
        cfg = self.cfg
        accuracy = self.evaluate_and_tell(state, state.best or state.params, "test")["accuracy"]
        return {
            **{name: getattr(cfg, name) for name in ("task", "model", "aux", "bptt", "seed")},
            "test_accuracy": accuracy,
            "test_examples": len(self.test_rows),
            "valid_accuracy": state.best_accuracy,
            "epochs": max(state.step - self.pretrain_steps, 0) // self.steps_per_epoch,
            "steps": state.step,
            "parameters": self.parameters(),
            "elapsed_s": round(state.elapsed_s, 1),
            "device": self.device,
            "complete": state.step >= self.total_steps,
        }

    def evaluate_saved(self):
        """Test the checkpoint's best weights; writes nothing."""
        state = self.to_device(self.directory.load(self.cfg, self.shapes))
        with self.working():
            result = self.evaluate(state.best or state.params, self.task.x_test, self.task.y_test, self.test_rows)
        step = state.best_step if state.best else state.step
        examples = len(self.test_rows)
        return {"test_accuracy": result.pop("accuracy"), "test_examples": examples, "step": step, **result}

    def answers(self, n):
        """The first n test sequences, and what the auxiliary heads of the checkpoint's best weights answer on them
        (`plots.reconstruction`). Raises UserError if there is no auxiliary loss."""
        cfg = self.cfg
        if cfg.aux == "none":
            raise UserError(f"{self.directory.path} has no auxiliary loss: there is nothing to reconstruct")
        state = self.to_device(self.directory.load(cfg, self.shapes))
        rows, lengths = self.test_rows[:n], batches.lengths_of(self.task.x_test)
        x = batches.take(self.task.x_test, rows)
        size = cfg.anchors, cfg.aux_length, x.shape[1], len(rows), self.shapes
        draws = model.draw(cfg.seed, 0, cfg.aux, *size, shortest=lengths[rows].min(), evaluation=True)
        with self.working():
            found = self.in_shards(evaluation.outputs, state.best or state.params, x, None, draws, lengths[rows])
        joined = []
        for parts in zip(*found):
            y = np.concatenate([arrays.to_host(part[2]) for part in parts], axis=-1)  # [., D, n]
            joined.append((*parts[0][:2], np.moveaxis(y.argmax(1) if self.task.tokens else y, -1, 0)))
        return x if self.task.tokens else batches.scaled(x, cfg.dtype), joined

    # --- the whole ---

    def train(self, state):
        """Train from `state` to the end or until the budget is spent, test, and write result.json.

        Returns result.json's contents. Raises Stopped after Ctrl-C (with everything saved), UserError if
        the loss is not finite.
        """
        with self.working(), self.listening():
            if not self.cfg.quiet:
                self.echo(report.introduction(self, state))
                self.echo(f"this should take about {report.duration(report.estimate(self, state))}")
            self.train_steps(state)
            result = self.test(state)
            self.directory.write_json("result.json", result)
            return result

    def train_steps(self, state):
        """The loop: at an epoch's end validate, save when due, stop when asked or done, else train a batch."""
        cfg, began, earlier = self.cfg, time.monotonic(), state.elapsed_s
        saved, saved_at = (state.step, state.evaluated), began
        sequences, seconds = 0, 0.0  # trained on since the last row, evaluation excluded
        shape = "{desc} {percentage:.0f}%|{bar}| {n}/{total} [{elapsed}<{remaining}{postfix}]"
        quiet = cfg.quiet or None  # None: no bar either where there is no terminal
        with tqdm(total=self.total_steps, initial=state.step, bar_format=shape, disable=quiet) as bar:
            while True:
                epoch_ends = state.step % self.steps_per_epoch == 0
                over = state.step >= self.total_steps
                over |= cfg.budget is not None and time.monotonic() - began >= cfg.budget
                if epoch_ends and state.evaluated < state.step and not self.stop:
                    with contextlib.suppress(Stopped):  # then the resumed run validates
                        if len(self.valid_rows):
                            self.validate(state)
                        state.evaluated = state.step
                now = time.monotonic()
                state.elapsed_s = earlier + now - began
                due = epoch_ends or over or self.stop or now - saved_at >= SAVE_EVERY_S
                if due and saved != (state.step, state.evaluated):
                    self.save(state)
                    saved, saved_at = (state.step, state.evaluated), now
                if self.stop:
                    raise Stopped
                if over:
                    return
                bar.set_description("pretrain" if state.step < self.pretrain_steps else "joint", refresh=False)
                now = time.monotonic()
                row, n = self.train_step(state)
                seconds += time.monotonic() - now
                sequences += n
                rate = sequences / seconds
                if row is not None:
                    bar.set_postfix_str(report.progress(row, rate), refresh=False)
                if self.row_is_due(state.step):
                    state.elapsed_s = earlier + time.monotonic() - began
                    self.write_row(state, kind="train", **row, sequences_per_second=round(rate, 1))
                    sequences, seconds = 0, 0.0
                bar.update()

    @contextlib.contextmanager
    def working(self):
        """Within: the workers. Raises UserError if one of them dies."""
        processes = self.cfg.shards if self.device == "cpu" else 1
        quietly = np.errstate(over="ignore", invalid="ignore")  # what is not finite is found and told by `fail`
        try:
            with quietly, shards.workers(processes) as self.workers:
                yield
        except BrokenProcessPool:
            raise UserError("a worker process died, for lack of memory perhaps; try fewer --threads") from None

    @contextlib.contextmanager
    def listening(self):
        """Within: the first Ctrl-C asks to stop after this batch, the second stops at once."""

        def ask(*_):
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self.stop = True
            tqdm.write("stopping after this batch; Ctrl-C again stops at once", file=sys.stderr)

        before = signal.signal(signal.SIGINT, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def save(self, state):
        groups = {"params": state.params, "v": state.v, "best": state.best or {}}
        host = {name: {k: arrays.to_host(a) for k, a in group.items()} for name, group in groups.items()}
        if not all(np.isfinite(a).all() for a in host["params"].values()):
            self.fail(f"the weights are not finite after step {state.step}")
        self.directory.save(self.cfg, State(**{**vars(state), **host}))

    def write_row(self, state, **row):
        epoch = -(-state.step // self.steps_per_epoch)
        self.directory.write_row(**row, epoch=epoch, step=state.step, elapsed_s=round(state.elapsed_s, 2))
