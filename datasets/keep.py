"""What takes long to make is kept in a file: beside the data, or in the user's cache where they are read-only."""

import errno
import hashlib
import os
import pathlib
import shutil
import tempfile

import numpy as np

from .task import DataError, brief


def elsewhere(folder):
    """Where files are kept that `folder` cannot take: a folder of its own in the user's cache."""
    import pooch

    whole = os.fsencode(folder.resolve())
    return pathlib.Path(pooch.os_cache("minaux")) / f"{folder.name}-{hashlib.sha256(whole).hexdigest()[:8]}"


def make_room(path, size):
    """Make the folder of `path`. Raises DataError unless `size` bytes can be written there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        text = f"the scaled pictures cannot be kept beside the data, nor in {path.parent} ({error.strerror})"
        raise DataError(f"{text}: set XDG_CACHE_HOME to a folder that can take them") from None
    if size > free:
        text = f"the scaled pictures need {size:,} bytes, and {path.parent} has {free:,} free"
        raise DataError(f"{text}: make room there, or choose a smaller --size")


def writable(folder):
    """Whether files can be made in it. Permissions do not tell: the whole disk may be read-only."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


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
    except PermissionError:
        raise
    except Exception as error:  # a damaged file raises nearly anything
        raise DataError(f"{path} is damaged ({brief(error)}): delete it, it is made anew") from None
