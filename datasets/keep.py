"""What takes long to make is kept in a file."""

import errno
import os

import numpy as np

from .task import DataError, brief


def save(path, records):
    """Write the file whole or not at all."""
    for left in path.parent.glob(f"{path.name}.*.tmp"):
        if not running(int(left.suffixes[-2][1:])):  # killed while it wrote
            left.unlink(missing_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            np.save(file, records)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:  # NumPy's, of a full disk, has no number
        number = error.errno or errno.ENOSPC
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def running(pid):
    try:
        os.kill(pid, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return True


def read(path):
    """The records in it, mapped into memory. Raises DataError if it is damaged."""
    try:
        return np.asarray(np.lib.format.open_memmap(path, mode="r"))
    except Exception as error:  # a damaged file raises nearly anything
        raise DataError(f"{path} is damaged ({brief(error)}): delete it, it is made anew") from None
