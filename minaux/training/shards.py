"""A batch in shards: the one place that splits it, runs the shards at the same time, and adds up what they find.

Each shard of sequences is worked on by itself, and the gradients are summed in the order of the shards, whichever
was ready first: a run's bits depend on the number of shards, not on who computed them. Nothing else knows of
workers: here they are processes of this machine.

Threads would share one interpreter lock, and an LSTM's step takes it some twenty times: they would wait for each
other. Processes share nothing: parameters go out and gradients come back with every batch, a few megabytes.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from ..arrays import array_module, keep_freed_memory
from .batches import scaled
from .config import UserError


class Shards(NamedTuple):
    """How a batch is split: into n shards, or one a sequence where there are fewer."""

    n: int
    dtype: str  # of the numbers that a shard gets
    workers: Any  # see `workers` below

    def loss_and_grads(self, function, *batch, **options):
        """The whole batch's Result, given a model's loss_and_grads as `function`; the rest as in `each`."""
        total, *others = self.each(function, *batch, **options)
        for other in others:  # in the order of the shards
            for mine, its in (total.losses, other.losses), (total.grads, other.grads), (total.dWh, other.dWh):
                for name in its:
                    mine[name] = mine[name] + its[name]
        return total

    def each(self, function, params, x, y, draws, lengths=None, **options):
        """[function(params, x, y, draws, **options) of each shard], given the batch's x `[N, T, D]` or `[N, T]`,
        y `[N]`, draws and `lengths [N]` (None: all T) on the host."""
        N, dtype, parts = len(x), self.dtype, []
        padding = None if lengths is None or (lengths == x.shape[1]).all() else x.shape[1] - lengths
        draws = draws._replace(masks={name: mask.astype(dtype) for name, mask in draws.masks.items()})
        ends = np.linspace(0, N, min(self.n, N) + 1).astype(int)
        for columns in map(slice, ends, ends[1:]):
            truth = None if draws.truth is None else draws.truth[:, :, columns]
            mine = x[columns], None if y is None else y[columns], draws._replace(truth=truth), dtype
            parts.append((function, params, *mine, None if padding is None else padding[columns], options))
        return self.workers(on_shard, parts)


def on_shard(function, params, x, y, draws, dtype, padding, options):
    """function(params, x, y, draws, **options) on one shard: x `[n, T, D]` or `[n, T]` on the host becomes
    `[T, D, n]` numbers or `[T, n]` tokens on the device of `params`; `padding [n]` (or None) is how many steps
    at the front are none of the sequence's."""
    xp = array_module(next(iter(params.values())))
    steps = x.swapaxes(0, 1)  # [T, n, D] or [T, n], which is how they lie on a GPU
    if x.ndim == 3 and xp is np:
        steps = steps.swapaxes(1, 2)  # [T, D, n]
    steps = xp.asarray(np.ascontiguousarray(steps))  # while they are bytes
    steps = scaled(steps, dtype) if x.ndim == 3 else steps.astype("int64")
    if x.ndim == 3 and xp is not np:
        steps = steps.swapaxes(1, 2)
    if padding is not None:
        options = {**options, "mask": xp.asarray((np.arange(len(steps))[:, None] >= padding).astype(dtype))}
    masks = {name: xp.asarray(mask) for name, mask in draws.masks.items()}
    draws = draws._replace(masks=masks, truth=None if draws.truth is None else xp.asarray(draws.truth))
    with quietly():  # this may be another process
        return function(params, steps, None if y is None else xp.asarray(y), draws, **options)


@contextlib.contextmanager
def open_shards(n, dtype, processes):
    """Within: the Shards, with so many processes to work on them. Raises UserError if one of them dies."""
    try:
        with quietly(), workers(processes) as run:
            yield Shards(n, dtype, run)
    except BrokenProcessPool:
        raise UserError("a worker process died, for lack of memory perhaps; try fewer --threads") from None


def quietly():
    """Within: no warnings of overflow. What is not finite is found, and told, by whoever reads the losses."""
    return np.errstate(over="ignore", invalid="ignore")


@contextlib.contextmanager
def workers(n):
    """Within: run(function, parts) is [function(*part) for part in parts], at most n parts at the same time,
    each with one BLAS thread: n - 1 in other processes, where `function` must be one that can be imported,
    and the first in this one. Raises BrokenProcessPool if one of them dies."""
    # Not a fork of this process, whose threads might hold locks, but of a clean one that has imported this.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["minaux.training.loop"])
    pool = None
    if n > 1:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for this process; workers inherit that
        forkserver.ensure_running()
        signal.signal(signal.SIGINT, before)
        pool = ProcessPoolExecutor(n - 1, context, begin_worker)

    def run(function, parts):
        if pool is None:
            return [function(*part) for part in parts]
        first, *others = parts
        futures = [pool.submit(function, *part) for part in others]
        return [function(*first), *(future.result() for future in futures)]

    keep_freed_memory()
    with pool or contextlib.nullcontext(), threadpool_limits(1):
        yield run


def begin_worker():
    """What a worker does first."""
    keep_freed_memory()
    threadpool_limits(1)
    threading.Thread(target=end_with, args=[multiprocessing.parent_process()], daemon=True).start()


def end_with(process):
    """End this process when `process` has: a worker whose run was killed would wait for work for ever."""
    process.join()
    os._exit(1)
