"""What takes long to make is kept in a file: beside the data, or in the user's cache where they are read-only."""

import contextlib
import errno
import hashlib
import os
import pathlib
import platform
import re
import secrets
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
    start = f"{path.name}.{host()}"
    for left in path.parent.glob(f"{start}.*.*.tmp"):  # other hosts' processes cannot be seen from here
        if not running(int(left.suffixes[-3][1:])):  # killed while it wrote
            left.unlink(missing_ok=True)
    temporary = path.with_name(f"{start}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
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


def host():
    """The name of this computer, as a part of a file's name without dots. On Linux with the number of the set of
    processes that can be seen from here: containers of one name have sets of their own."""
    name = re.sub(r"\W", "-", platform.node())
    with contextlib.suppress(OSError):
        name += f"-{os.stat('/proc/self/ns/pid').st_ino}"
    return name


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
