"""Worker processes of this machine, and the memory that they share with this one.

Threads would share one interpreter lock, and an LSTM's step takes it some twenty times: they would wait for each
other. Processes share nothing, so what a worker needs goes through a pipe, and the arrays in it through memory that
both see: written once, read where they lie. That costs a call 0.1 ms and the time to copy its arrays.
"""

import contextlib
import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from multiprocessing.connection import Connection

from threadpoolctl import threadpool_limits

from ..arrays import keep_freed_memory
from .stop import SIGNALS

FEWER = "to go on with fewer --threads gives the same bits with fewer processes, in less memory"
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # so that no others are started


class WorkerError(Exception):
    """A worker ended, or something else than the function failed there."""


class Memory:
    """Bytes that two processes see. One of them writes, the other reads, in turn."""

    def __init__(self, fd=None):
        if fd is None:
            with contextlib.ExitStack() as stack:  # memfd: no folder that might be full or not writable
                made = getattr(os, "memfd_create", None)
                fd = made("minaux", 0) if made else os.dup(stack.enter_context(tempfile.TemporaryFile()).fileno())
        self.fd, self.bytes = fd, memoryview(b"")

    def first(self, size):
        """The first `size` bytes; the memory grows where it has less."""
        if len(self.bytes) < size:
            if os.fstat(self.fd).st_size < size:
                os.truncate(self.fd, size + size // 4)
            # What was mapped before stays where it is as long as an array lies there.
            self.bytes = memoryview(mmap.mmap(self.fd, os.fstat(self.fd).st_size))
        return self.bytes[:size]

    def write(self, thing):
        """Write the arrays of `thing` here. Returns what `read` needs to make it again: short bytes."""
        return pack(thing, self.first)

    def read(self, written):
        """What was written, its arrays where they lie: to be read only, and until the next `write`."""
        return unpack(written, self.first)


def pack(thing, first):
    """Write the arrays of `thing` into the memory first(size). Returns what `unpack` needs: short bytes."""
    buffers = []
    rest = pickle.dumps(thing, 5, buffer_callback=buffers.append)
    buffers = [buffer.raw() for buffer in buffers]
    ends = [0]
    for buffer in buffers:
        ends.append(ends[-1] + -(-len(buffer) // 64) * 64)  # each begins a cache line
    view = first(ends[-1])
    for begin, buffer in zip(ends, buffers):
        view[begin : begin + len(buffer)] = buffer
    return pickle.dumps((rest, [(begin, len(buffer)) for begin, buffer in zip(ends, buffers)], ends[-1]))


def unpack(packed, first):
    """What was packed, its arrays where they lie in first(size), to be read only."""
    rest, places, size = pickle.loads(packed)
    view = first(size).toreadonly()
    return pickle.loads(rest, buffers=[view[begin : begin + size] for begin, size in places])


def python(code):
    """The command that runs `code` with the modules of this process, and none out of the current folder."""
    return [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"]


class Worker:
    """Another process, and the memory for what it reads, its own and everybody's, and for what it answers."""

    def __init__(self, common):
        self.task, self.answer = Memory(), Memory()
        mine, its = socket.socketpair()
        fds = its.fileno(), common.fd, self.task.fd, self.answer.fd
        command, env = python(f"from {__name__} import serve; serve{fds}"), {**os.environ, **ONE_THREAD}
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # they are for the run; a worker inherits that
        try:
            self.process = subprocess.Popen(command, env=env, pass_fds=fds, stdin=subprocess.DEVNULL)
        except OSError:
            mine.close(), os.close(self.task.fd), os.close(self.answer.fd)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            its.close()
        self.pipe = Connection(mine.detach())

    def begin(self, common, task):
        with self.ended_told():
            self.pipe.send_bytes(common)
            self.pipe.send_bytes(self.task.write(task))

    def result(self):
        with self.ended_told():
            done, answer = self.answer.read(self.pipe.recv_bytes())
        if not done:
            raise answer[0] from WorkerError(answer[1])
        return answer

    @contextlib.contextmanager
    def ended_told(self):
        try:
            yield
        except (EOFError, ConnectionError):
            status = self.process.wait()
            how = f"signal {-status}" if status < 0 else f"status {status}"
            how += ", for lack of memory perhaps" * (status == -signal.SIGKILL)
            raise WorkerError(f"worker process {self.process.pid} ended with {how}; {FEWER}") from None

    def end(self):
        self.process.kill()
        self.process.wait()
        self.pipe.close()
        for memory in self.task, self.answer:
            os.close(memory.fd)


class Processes:
    """This process and n - 1 workers, each with one BLAS thread."""

    def __init__(self, n):
        self.n, self.common, self.workers = n, Memory(), []

    def run(self, function, common, parts):
        """[function(*common, *part) for part in parts], each process working on every n-th of them.

        Workers import `function`. What they answer is to be read only, and until the next call. Raises what the
        function raises, and WorkerError if a worker cannot be started or ends.
        """
        shares = [parts[i :: self.n] for i in range(max(1, min(self.n, len(parts))))]
        while len(self.workers) < len(shares) - 1:
            try:
                self.workers.append(Worker(self.common))
            except OSError as error:
                raise WorkerError(f"no worker process can be started ({error.strerror}); {FEWER}") from None
        if self.workers:
            written = self.common.write((function, common))
        for worker, share in zip(self.workers, shares[1:]):
            worker.begin(written, share)
        results = [None] * len(parts)
        results[:: self.n] = [function(*common, *part) for part in shares[0]]
        for i, (worker, _) in enumerate(zip(self.workers, shares[1:]), 1):
            results[i :: self.n] = worker.result()
        return results


@contextlib.contextmanager
def processes(n):
    """Within: so many `Processes`. Raises WorkerError there if one of them dies."""
    keep_freed_memory()
    some = Processes(n)
    try:
        with threadpool_limits(1):
            yield some
    finally:
        for worker in some.workers:
            worker.end()
        os.close(some.common.fd)


def portable(error):
    """The exception, or one with its words where it cannot be sent to another process."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(repr(error))


def serve(pipe, common, task, answer):
    """What a worker does until the pipe is closed, given file descriptors."""
    keep_freed_memory()
    threadpool_limits(1)
    pipe, common, task, answer = Connection(pipe), Memory(common), Memory(task), Memory(answer)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            written = pipe.recv_bytes(), pipe.recv_bytes()
            try:
                function, first = common.read(written[0])
                result = True, [function(*first, *part) for part in task.read(written[1])]
            except Exception as error:
                result = False, (portable(error), traceback.format_exc())
            pipe.send_bytes(answer.write(result))
