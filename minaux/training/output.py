"""Standard output and error: any name is shown as it is, and no output can stop a run."""

import codecs
import contextlib
import os
import sys


def show_all():
    """Let both streams take any text: names that are not UTF-8 as the bytes that they are, and letters that a
    terminal has not as numbers. A stream that was closed before the program began takes text to nowhere."""
    codecs.register_error("shown", shown)
    for name, number in ("stdout", 1), ("stderr", 2):
        stream = getattr(sys, name)
        if stream is None:
            to_nowhere(number)  # or the next file would get this number
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))
        else:
            stream.reconfigure(errors="shown")


def shown(error):
    """What to write for a letter that the stream's encoding has not (see codecs.register_error)."""
    letter = error.object[error.start]
    if "\udc80" <= letter <= "\udcff":  # a byte that was not UTF-8: see os.fsdecode
        return bytes([ord(letter) - 0xDC00]), error.start + 1
    return letter.encode("ascii", "backslashreplace").decode(), error.start + 1


@contextlib.contextmanager
def unstoppable():
    """Within: what cannot be written (a closed terminal or pipe, a full disk) is lost, and raises nothing."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(Lossy, before)
    try:
        yield
    finally:
        for stream in sys.stdout, sys.stderr:
            stream.flush()
        sys.stdout, sys.stderr = before


class Lossy:
    """A stream that loses what it cannot write."""

    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        return self.or_lose(self.stream.write, text)

    def flush(self):
        self.or_lose(self.stream.flush)

    def or_lose(self, function, *args):
        try:
            return function(*args)
        except OSError:
            to_nowhere(self.stream.fileno())  # what waits in its buffer too
        return len(args[0]) if args else None


def to_nowhere(number):
    """Let the file descriptor write to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
