"""Signals that ask a run to stop: it saves, finishes the batch, saves that, and says how to go on."""

import contextlib
import signal
import sys

from tqdm import tqdm

from .config import UserError

# From a terminal; by `kill`, a scheduler or a shutdown; by a terminal that closes; ahead of a time limit (two).
SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU


class Stopped(Exception):
    """A signal, noticed between two batches; everything is saved."""

    def __init__(self, number):
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number  # of a process that ends by it


class Stop:
    """What a signal asks for. No lock is in it, which a second signal would wait for."""

    number = save = None  # of the signal that came; what to call then

    def is_set(self):
        return self.number is not None

    @contextlib.contextmanager
    def saving(self, save):
        """Within nothing changes, so a signal calls save() at once. Not all who send one wait for the batch:
        mpiexec kills its ranks a quarter of a second later."""
        self.save = save
        try:
            yield
        finally:
            self.save = None

    def check(self):
        """Raise Stopped if one came."""
        if self.is_set():
            raise Stopped(self.number)


@contextlib.contextmanager
def listening():
    """Within: a Stop that the first of `SIGNALS` sets, to stop after this batch; the same again stops at once."""
    stop, before = Stop(), {}

    def save(*_):
        if stop.save is not None:
            with contextlib.suppress(OSError, UserError):  # the run saves again, and tells what is wrong
                stop.save()

    def ask(number, _):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        stop.number = number
        save()
        again = "; Ctrl-C again stops at once" if number == signal.SIGINT else f" ({signal.Signals(number).name})"
        tqdm.write(f"stopping after this batch{again}", file=sys.stderr)

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            before[number] = signal.signal(number, ask)
    before[signal.SIGCONT] = signal.signal(signal.SIGCONT, save)  # mpiexec's first word, ¼ s before it kills
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
