"""Workers: one process for each shard of a batch.

Threads would share one interpreter lock, and an LSTM's step takes it some twenty times: they would wait for each
other. Processes share nothing: parameters go out and gradients come back with every batch, a few megabytes.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver

from threadpoolctl import threadpool_limits

from ..arrays import keep_freed_memory


@contextlib.contextmanager
def workers(n):
    """Within: run(function, parts) is [function(*part) for part in parts], at most n parts at the same time,
    each with one BLAS thread: n - 1 in other processes, where `function` must be one that can be imported,
    and the first in this one. Raises BrokenProcessPool if one of them dies."""
    # Not a fork of this process, whose threads might hold locks, but of a clean one that has imported this.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["minaux.training.run"])
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
