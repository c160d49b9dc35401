"""Ranks of MPI: rank 0 runs the program, the others work on shards for it, on this machine or on others.

Parameters go out in one broadcast of one flat buffer, and gradients come back by one gather into another.
`mpiexec -n 4 python cli.py train ...` starts four.
"""

import contextlib
import os
import platform
import signal
import sys
import traceback

from .config import UserError
from .processes import WorkerError, pack, portable, processes, unpack
from .stop import SIGNALS

# What the programs that start ranks tell each of them: how many there are.
SIZES = "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"
NUMBERS = "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"  # ... and its number on its host


def started():
    """How many ranks were started, by what the environment says; processes that a rank starts see it, too."""
    return int(next((os.environ[name] for name in SIZES if name in os.environ), 1))


def size():
    """How many ranks work on this program; 1 without `run_program`, as in other programs that use minaux."""
    return started() if Ranks.listen else 1


def communicator():
    """The communicator of all ranks. Raises UserError without mpi4py."""
    try:
        from mpi4py import MPI
    except ImportError as error:
        why = " ".join(str(error).split())
        raise UserError(f"mpiexec needs mpi4py ({why}): pip install -r requirements-mpi.txt") from None
    if MPI.COMM_WORLD.size != started():
        raise UserError(
            f"mpiexec started {started()} ranks, and mpi4py sees {MPI.COMM_WORLD.size}: are both of one MPI?"
        )
    return MPI.COMM_WORLD


def run_program(program):
    """Run the program: here, or where there are ranks on rank 0, while the others work for it. It may exit."""
    if started() == 1:
        return program()
    try:
        comm = communicator()
    except UserError as error:
        first = os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK", "0")) == "0"
        sys.exit(
            f"Error: {error}" if first else 0
        )  # the first that fails ends the others, before they have told it
    if comm.rank:
        return serve(comm)
    Ranks.listen = True
    try:
        program()
    except BaseException as end:
        if Ranks.busy:  # they do not hear that it is over
            if not isinstance(end, SystemExit):
                traceback.print_exc()
            sys.stdout.flush(), sys.stderr.flush()
            comm.Abort(getattr(end, "code", 1))
        raise
    finally:
        Ranks.listen = False
        comm.bcast(None)


class Buffer:
    """Memory that grows."""

    def __init__(self):
        self.bytes = self.used = memoryview(bytearray(64))

    def first(self, size):
        if len(self.bytes) < size:
            self.bytes = memoryview(bytearray(size + size // 4))
        self.used = self.bytes[:size]
        return self.used


class Ranks:
    """All ranks, each with its processes; the interface of `Processes`."""

    listen = False  # whether the others wait for calls
    busy = False  # ... for the end of one

    def __init__(self, comm, mine, gpu):
        self.comm, self.mine, self.gpu, self.n = comm, mine, gpu, comm.size * mine.n
        self.common, self.answers = Buffer(), Buffer()

    def run(self, function, common, parts):
        """[function(*common, *part) for part in parts], each rank working on every R-th of them.

        Ranks import `function`. What they answer is to be read only, and until the next call.
        """
        comm, results = self.comm, [None] * len(parts)
        shares = [parts[rank :: comm.size] for rank in range(comm.size)]
        Ranks.busy = True
        broadcast(comm, (self.mine.n, self.gpu, pack((function, common), self.common.first)), self.common)
        comm.scatter(shares)
        results[:: comm.size] = self.mine.run(function, common, shares[0])
        all_are_done(comm)
        sizes, packed = zip(*comm.gather((0, None)))
        begins = [sum(sizes[:rank]) for rank in range(comm.size)]
        everything = self.answers.first(sum(sizes))
        comm.Gatherv(b"", [everything, (sizes, begins)])
        Ranks.busy = False
        for rank in range(1, comm.size):
            done, answer = unpack(packed[rank], lambda size, n=begins[rank]: everything[n : n + size])
            if not done:
                error, host, text = answer
                raise WorkerError(f"rank {rank} on {host} failed ({error!r})") from WorkerError(text)
            results[rank :: comm.size] = answer
        return results


def all_are_done(comm):
    """Wait for the other ranks where signals are heard meanwhile, as they are not within a call of MPI."""
    request = comm.Ibarrier()
    while not request.Test():
        os.sched_yield()


def broadcast(comm, head, buffer):
    """Send or receive (head, the buffer's bytes that it speaks of)."""
    head, size = comm.bcast((head, len(buffer.used)) if comm.rank == 0 else None) or (None, 0)
    if head is not None:
        comm.Bcast(buffer.first(size))
    return head


@contextlib.contextmanager
def ranks(threads, gpu=False):
    """Within: the `Ranks`, each with so many processes, or with its GPU. Raises WorkerError there if one of them
    fails."""
    with processes(threads) as mine:
        yield Ranks(communicator(), mine, gpu)


def take_gpu():
    """Let this rank compute on the GPU of its number on its host."""
    import cupy

    number = int(next((os.environ[name] for name in NUMBERS if name in os.environ), 0))
    cupy.cuda.Device(number % cupy.cuda.runtime.getDeviceCount()).use()


def serve(comm):
    """What the other ranks do until rank 0 ends."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # they are for rank 0 alone
    common, answer, mine, threads = Buffer(), Buffer(), None, 0
    with contextlib.ExitStack() as stack:
        while (head := broadcast(comm, None, common)) is not None:
            (n, gpu, packed), share = head, comm.scatter(None)
            try:
                if gpu:
                    take_gpu()
                if n != threads:
                    stack.close()
                    mine, threads = stack.enter_context(processes(n)), n
                function, first = unpack(packed, common.first)
                result = True, mine.run(function, first, share)
            except Exception as error:
                result = False, (portable(error), platform.node(), traceback.format_exc())
            packed = pack(result, answer.first)
            comm.Ibarrier().Wait()
            comm.gather((len(answer.used), packed))
            comm.Gatherv(answer.used, None)
