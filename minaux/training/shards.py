"""A batch in shards: the one place that splits it, runs the shards at the same time, and adds up what they find.

Each shard of sequences is worked on by itself, and the gradients are summed in the order of the shards, whichever
was ready first: a run's bits depend on the number of shards, not on who computed them. Training knows nothing of
workers: they are processes of this machine (processes.py), or ranks of MPI and their processes (ranks.py).
"""

import contextlib
import os
from typing import Any, NamedTuple

import numpy as np

from ..arrays import array_module
from . import ranks
from .batches import scaled
from .config import UserError
from .processes import WorkerError, processes
from .ranks import run_program as run_program  # for cli.py


class Shards(NamedTuple):
    """How a batch is split: into n shards, or one a sequence where there are fewer."""

    n: int
    dtype: str  # of the numbers that a shard gets
    workers: Any  # Processes or Ranks

    @property
    def at_once(self):
        """How many parts of `run` are worked on at a time."""
        return self.workers.n

    def loss_and_grads(self, function, *batch, **options):
        """The whole batch's Result, given a model's loss_and_grads as `function`; the rest as in `each`."""
        total, *others = self.each(function, *batch, **options)
        for other in others:  # in the order of the shards
            total = added(total, other)
        return total

    def each(self, function, params, x, y, draws, lengths=None, **options):
        """[function(params, x, y, draws, **options) of each shard], given the batch's x `[N, T, D]` or `[N, T]`,
        y `[N]` or None, draws, and `lengths [N]` (None: all T) on the host."""
        ends, parts = np.linspace(0, len(x), min(self.n, len(x)) + 1).astype(int), []
        for columns in map(slice, ends, ends[1:]):
            truth = None if draws.truth is None else draws.truth[:, :, columns]
            y_, lengths_ = (None if a is None else a[columns] for a in (y, lengths))
            parts.append((x[columns], y_, draws._replace(truth=truth, masks={}), lengths_))
        masks = {name: mask.astype(self.dtype) for name, mask in draws.masks.items()}
        return self.run(function, params, parts, masks, **options)

    def run(self, function, params, parts, masks=None, **options):
        """The same of parts of one's own: (x, y, draws, lengths), sequences as many and as long as they are."""
        return self.workers.run(on_shard, (function, params, masks or {}, self.dtype, options), parts)


def added(total, other):
    """Two Results in one. The first has all parameters; its dicts are written into, its arrays are not."""
    for mine, its in (total.losses, other.losses), (total.grads, other.grads), (total.dWh, other.dWh):
        for name in its:
            mine[name] = mine[name] + its[name]
    return total


def on_shard(function, params, masks, dtype, options, x, y, draws, lengths):
    """function(params, x, y, draws, **options) on one shard: x `[n, T, D]` or `[n, T]` on the host becomes
    `[T, D, n]` numbers or `[T, n]` tokens on the device of `params`. Of its T steps the last `lengths [n]` are the
    sequences' own."""
    xp = array_module(next(iter(params.values())))
    steps = x.swapaxes(0, 1)  # [T, n, D] or [T, n], which is how they lie on a GPU
    if x.ndim == 3 and xp is np:
        steps = steps.swapaxes(1, 2)  # [T, D, n]
    steps = xp.asarray(np.ascontiguousarray(steps))  # while they are bytes
    steps = scaled(steps, dtype) if x.ndim == 3 else steps.astype("int64")
    if x.ndim == 3 and xp is not np:
        steps = steps.swapaxes(1, 2)
    T = len(steps)
    if lengths is not None and (lengths < T).any():
        options = {**options, "mask": xp.asarray((np.arange(T)[:, None] >= T - lengths).astype(dtype))}
    masks = {name: xp.asarray(mask) for name, mask in masks.items()}
    draws = draws._replace(masks=masks, truth=None if draws.truth is None else xp.asarray(draws.truth))
    with quietly():  # this may be another process
        return function(params, steps, None if y is None else xp.asarray(y), draws, **options)


@contextlib.contextmanager
def open_shards(n, dtype, threads, gpu=False):
    """Within: the Shards, with so many processes to work on them, of each rank where there are several. Raises
    UserError if one of them cannot be started, or dies."""
    try:
        R = ranks.size()
        some = processes(threads) if R == 1 else ranks.ranks(min(threads, -(-n // R)), gpu)
        with quietly(), some as workers:
            yield Shards(n, dtype, workers)
    except WorkerError as error:
        raise UserError(str(error)) from None


def at_work(threads):
    """How many processes that is, on all ranks."""
    return ranks.size() * threads


def cores():
    """How many processes should be able to work at a time; of a rank of several, one."""
    if ranks.size() > 1:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quietly():
    """Within: no warnings of overflow. What is not finite is found, and told, by whoever reads the losses."""
    return np.errstate(over="ignore", invalid="ignore")
