"""A run's fixed facts, set up from its options and data, and its state: new, saved, restored."""

import dataclasses
from types import ModuleType
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from .. import arrays, initial, model
from ..baselines import irnn, transformer, urnn
from . import batches, checks, shards
from .checkpoint import RunDirectory, State
from .config import Config, UserError

# name: what has loss_and_grads, what has parameter_shapes and init_params
MODELS = {
    "lstm": (model, initial),
    "irnn": (irnn, irnn),
    "urnn": (urnn, urnn),
    "transformer": (transformer, transformer),
}
VALIDATION_SEED = 0  # the same split whatever --seed is


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What stays the same from a run's first batch to its last; `set_up` makes it, a `State` is what changes."""

    cfg: Config
    task: Any  # see datasets.Task
    directory: RunDirectory
    echo: Any  # prints a line
    xp: ModuleType  # numpy or cupy
    device: str  # "cpu" or "gpu"
    model: ModuleType  # its loss_and_grads takes a shard
    sizes: initial.Sizes
    shapes: dict  # of the parameters, by name
    lengths: Any  # [n] of the training sequences
    T: int  # steps of the longest sequence
    K: int  # truncation of the supervised loss
    aux_K: int  # ... and of the auxiliary losses
    train_rows: Any
    valid_rows: Any
    test_rows: Any
    mean: Any  # of the training inputs, for the auxiliary report
    shuffled: batches.Shuffled  # the rows of each batch
    labelled: batches.Shuffled  # the same of those whose labels are used; `shuffled` itself if all are
    pretrain_steps: int
    total_steps: int  # pretraining included

    def epoch(self, step):
        """`step` batches as whole epochs, and batches into the next one. An epoch of pretraining goes through all
        training sequences, one of joint training through those with labels."""
        if step < self.pretrain_steps:
            return divmod(step, self.shuffled.steps_per_epoch)
        epochs, batch = divmod(step - self.pretrain_steps, self.labelled.steps_per_epoch)
        return self.cfg.pretrain_epochs + epochs, batch

    def epochs_of_joint_training(self, step):
        """How many of them are whole after `step` batches."""
        return max(self.epoch(step)[0] - self.cfg.pretrain_epochs, 0)

    @property
    def parameters(self):
        """How many numbers are trained."""
        return sum(int(np.prod(shape)) for shape in self.shapes.values())

    def sequences(self, split):
        """x, y and the rows of them that belong to the "valid" or "test" split."""
        task = self.task
        if split == "test":
            return task.x_test, task.y_test, self.test_rows
        return task.x_train, task.y_train, self.valid_rows

    def draws(self, number, aux, x, lengths, **more):
        """The Draws of batch `number`, x `[N, T, D]` or `[N, T]`; `more` of `model.draw`'s options."""
        cfg = self.cfg
        sizes = cfg.anchors, cfg.aux_length, x.shape[1], len(x), self.shapes
        return model.draw(cfg.seed, number, aux, *sizes, shortest=lengths.min(), **more)

    def open_shards(self):
        """Within: the `Shards` that batches of this run go through."""
        gpu = self.device == "gpu"
        return shards.open_shards(self.cfg.shards, self.cfg.dtype, 1 if gpu else self.cfg.threads, gpu)

    def write_row(self, state, **row):
        """Add a row to metrics.jsonl."""
        epochs, batch = self.epoch(state.step)
        self.directory.write_row(
            **row, epoch=epochs + (batch > 0), step=state.step, elapsed_s=round(state.elapsed_s, 2)
        )

    def diverged(self, what):
        """The UserError for numbers that are not finite."""
        kept = f"{self.directory.checkpoint} keeps the last good weights"
        remedy = "try a lower --lr" + " or --aux-weight" * (self.cfg.aux_weight > 1)
        size = checks.largest(self.task) or 0
        if size > checks.USUAL[1]:
            remedy = f"x holds numbers up to {size:.3g}: {checks.SCALE}"
        return UserError(f"{what}: stopped, {kept}; {remedy}")


# --- setting up ---


def set_up(cfg, task, out, echo=print, device=None):
    """The Run of these options and data in the directory `out`; `cfg` gets noted what the data decide of a new run.
    `device` is where to look at a run, wherever it was trained.

    Raises UserError if there is no such device, the split leaves nothing to train on, or a saved run's data were
    others.
    """
    xp, device = noted_device(cfg) if device is None else backend(device)
    lengths = batches.lengths_of(task.x_train)
    T = max(lengths.max(), batches.lengths_of(task.x_test).max())
    D = task.tokens or task.x_train.shape[2]
    sizes = initial.Sizes(D, cfg.hidden, task.classes, bool(task.tokens))
    note_data(cfg, task)
    train_rows, valid_rows, test_rows = split(cfg, task)
    shuffled = labelled = batches.Shuffled(cfg.seed, train_rows, lengths, cfg.batch_size)
    labelled_rows = with_labels(cfg, task.y_train, train_rows)
    if 0 < len(labelled_rows) < len(train_rows):
        labelled = batches.Shuffled(cfg.seed, labelled_rows, lengths, cfg.batch_size)
    pretrain_steps = cfg.pretrain_epochs * shuffled.steps_per_epoch
    total_steps = pretrain_steps + cfg.epochs * labelled.steps_per_epoch
    if cfg.shards is None:  # a new run; a resumed one keeps what it began with
        cfg.shards = min(shards.at_work(cfg.threads if device == "cpu" else 1), cfg.batch_size)
        cfg.schedule_steps = {"feed": pretrain_steps or total_steps, "lr": total_steps}
    with np.errstate(over="ignore"):  # of numbers that `checks` will refuse
        mean = batches.mean_of(task.x_train, train_rows, task.tokens).astype(cfg.dtype)
    return Run(
        cfg=cfg,
        task=task,
        directory=RunDirectory(out),
        echo=echo,
        xp=xp,
        device=device,
        model=MODELS[cfg.model][0],
        sizes=sizes,
        shapes=MODELS[cfg.model][1].parameter_shapes(sizes, cfg.aux),
        lengths=lengths,
        T=T,
        K=cfg.steps("bptt", T),
        aux_K=cfg.steps("aux_bptt", T),
        train_rows=train_rows,
        valid_rows=valid_rows,
        test_rows=test_rows,
        mean=xp.asarray(mean),
        shuffled=shuffled,
        labelled=labelled,
        pretrain_steps=pretrain_steps,
        total_steps=total_steps,
    )


def backend(device):
    """As `arrays.backend`, but for a UserError."""
    try:
        return arrays.backend(device)
    except RuntimeError as error:
        raise UserError(str(error)) from None


def noted_device(cfg):
    """The backend to train on; what "auto" found is noted in `cfg`: it may find another when the run goes on."""
    xp, cfg.device = backend(cfg.device)
    return xp, cfg.device


def note_data(cfg, task):
    """Note how many data a new run has, and their fingerprint. Raises UserError if a saved run's were others."""
    counts = {
        "train": len(task.y_train),
        "test": len(task.y_test),
        "classes": task.classes,
        "tokens": task.tokens,
        "bytes": bool(not task.tokens and task.x_train.dtype == np.uint8),
        "fingerprint": task.fingerprint,
    }
    if cfg.shards is None:  # a new run
        cfg.data = counts
    was = cfg.data or {}  # a run from before they were noted has none, or some
    others = {name: n for name, n in counts.items() if n != was.get(name, n)}
    if others.keys() == {"fingerprint"}:
        what = "as many, but other values or another order"
        raise UserError(f"the data differ from this run's: {what}; restore the file, or check --data-dir")
    if others:
        others.pop("fingerprint", None)
        others = ", ".join(f"{name} {n}, not {was[name]}" for name, n in others.items())
        raise UserError(f"the data differ from this run's: {others}; check --data-dir")


def split(cfg, task):
    """The training, validation and test rows, each in rising order; notes in `cfg` how many are for validation,
    which takes sequences with labels only."""
    n = min(cfg.limit_train or len(task.y_train), len(task.y_train))
    order = np.random.default_rng(VALIDATION_SEED).permutation(n)
    labelled = order[task.y_train[order] >= 0]
    valid = min(5000, len(labelled) // 10) if cfg.valid is None else cfg.valid
    if valid >= n:
        raise UserError(f"--valid: {valid} leaves none of the {n} training sequences to train on")
    if valid > len(labelled):
        raise UserError(f"--valid: {valid} is more than the {len(labelled)} training sequences that have labels")
    cfg.valid = valid
    test_rows = np.arange(len(task.y_test))[: cfg.limit_test]
    return np.setdiff1d(order, labelled[:valid]), np.sort(labelled[:valid][: cfg.limit_test]), test_rows


def with_labels(cfg, y, train_rows):
    """The training rows whose labels are used, in rising order: where a label is -1 there is none, and
    --limit-labels takes the first n, of each class alike. Raises UserError if there are not so many."""
    rows = train_rows[y[train_rows] >= 0]
    if cfg.limit_labels is None:
        if cfg.epochs and not len(rows):
            raise UserError("no training sequence has a label (y is -1): pretraining alone can be had, --epochs 0")
        return rows
    if cfg.limit_labels > len(rows):
        raise UserError(
            f"--limit-labels: {cfg.limit_labels} is more than the {len(rows)} training sequences that have a label"
            "; ask for fewer, or use more of them (--limit-train, --valid)"
        )
    nth = np.empty(len(rows), int)  # in its class
    for k in np.unique(y[rows]):
        of_class = y[rows] == k
        nth[of_class] = np.arange(of_class.sum())
    return np.sort(rows[np.lexsort((y[rows], nth))[: cfg.limit_labels]])


# --- the state ---


def new_state(run):
    """The State before the first batch, with its files; what the user should know of the data is told. Raises
    UserError if the directory holds a run already, or nothing can be learned from the data."""
    cfg = run.cfg
    check_memory(run)
    for line in checks.notes(run):
        if not cfg.quiet:
            run.echo(line)
    with threadpool_limits(1), np.errstate(over="ignore"):  # BLAS threads would change the bits
        params = MODELS[cfg.model][1].init_params(run.sizes, cfg.aux, run.T, cfg.seed, cfg.forget_bias, cfg.dtype)
    if not all(np.isfinite(w).all() for w in params.values()):
        raise UserError(f"--forget-bias: {cfg.forget_bias} is not finite in {cfg.dtype}, choose a smaller one")
    state = to_device(run, State(params, {name: np.zeros_like(w) for name, w in params.items()}))
    run.directory.create(cfg)
    save(run, state)
    return state


def saved_state(run):
    """The State to resume from. Raises UserError if the checkpoint is damaged or another run's."""
    check_memory(run)
    state = run.directory.load(run.cfg, run.shapes)
    if run.total_steps < state.step:
        done = run.epochs_of_joint_training(state.step) + (run.epoch(state.step)[1] > 0)
        raise UserError(f"--epochs: {run.cfg.epochs} is less than the {done} this run has begun; give more")
    run.directory.drop_rows(lambda row: row["step"] > state.step)
    before = run.directory.read_config()
    run.directory.write_json("config.json", dataclasses.asdict(run.cfg))
    if run.cfg.epochs != before.epochs:
        run.directory.remove("result.json")  # of the shorter run
    return to_device(run, state)


def load(run):
    """The State in the checkpoint, to look at: nothing is written."""
    return to_device(run, run.directory.load(run.cfg, run.shapes))


def save(run, state):
    """Write the checkpoint. Raises UserError, and writes nothing, if the weights are not finite."""
    groups = {"params": state.params, "v": state.v, "best": state.best or {}}
    host = {name: {k: arrays.to_host(a) for k, a in group.items()} for name, group in groups.items()}
    if not all(np.isfinite(a).all() for a in host["params"].values()):
        raise run.diverged(f"the weights are not finite after batch {state.step:,}")
    run.directory.save(run.cfg, State(**{**vars(state), **host}))


def to_device(run, state):
    """The State with its arrays on the run's device."""
    groups = {name: getattr(state, name) for name in ("params", "v", "best")}
    on_device = {k: g and {name: run.xp.asarray(a) for name, a in g.items()} for k, g in groups.items()}
    return dataclasses.replace(state, **on_device)


def check_memory(run):
    """Raises UserError if a batch of the longest sequences needs more memory than there is."""
    cfg = run.cfg
    if not hasattr(run.model, "needed_bytes"):
        return
    T, N = int(run.lengths[run.train_rows].max()), min(cfg.batch_size, len(run.train_rows))
    needed = run.model.needed_bytes(T, N, run.sizes, cfg.dtype, cfg.shards, run.device == "gpu")
    free = arrays.free_memory(run.xp)
    if free is not None and needed > free:
        what = f"a batch of {N} sequences of {T} steps needs {needed:,} bytes of memory"
        raise UserError(f"{what}, and {free:,} are free; try a smaller --batch-size or --hidden")
