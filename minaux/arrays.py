"""NumPy or CuPy, transfers between host and device, random generators, memory."""

import ctypes
import sys

import numpy as np

# Streams of random numbers: `rng(seed, stream, step)` is the same whatever was drawn before.
WEIGHTS, ORDER, ANCHORS, DROPCONNECT, FEEDING, EVALUATION = range(6)


def rng(seed, stream, step=0):
    """The stateless generator of a stream at a step: nothing to save, nothing to restore."""
    return np.random.default_rng([seed, stream, step])


def on_gpu(a):
    """Whether the array (or NumPy's scalar) `a` is on the GPU."""
    return not isinstance(a, (np.ndarray, np.generic))


def array_module(a):
    """The module that `a` belongs to: numpy, or cupy (which is then imported already)."""
    return sys.modules["cupy"] if on_gpu(a) else np


def backend(device):
    """The array module for `device` ("auto", "cpu" or "gpu") and the name of the device it means.

    Raises RuntimeError, in one line, if "gpu" is asked for and there is none to be had.
    """
    if device == "cpu":
        return np, "cpu"
    try:
        import cupy

        a = cupy.ones((2, 2), "float32")  # a driver, the compiler or cuBLAS may be missing though CuPy is there
        (a @ a).get()
        return cupy, "gpu"
    except Exception as error:
        if device == "auto":
            return np, "cpu"
        why = (
            "CuPy is not installed"
            if isinstance(error, ImportError)
            else f"CuPy found no usable GPU ({' '.join(str(error).split())[:100]})"
        )
        raise RuntimeError(f"--device gpu: {why}; see requirements-gpu.txt, or use --device cpu") from error


def to_host(a):
    """A NumPy array with the values of `a`."""
    return a.get() if on_gpu(a) else a


def wait_for(xp):
    """Until the device has done what it was given: a GPU works while Python goes on."""
    if xp is not np:
        xp.cuda.Device().synchronize()


def free_memory(xp):
    """The bytes of memory that are free, of the GPU's or the machine's; None where that is unknown.

    What the system keeps of files counts as free, for it gives it back: hence /proc, sysconf leaves it out.
    """
    if xp is not np:
        return xp.cuda.Device().mem_info[0] + xp.get_default_memory_pool().free_bytes()  # CuPy keeps freed arrays
    try:
        with open("/proc/meminfo") as file:
            kilobytes = dict(line.split()[:2] for line in file)
        return 1024 * int(kilobytes["MemAvailable:"])
    except (OSError, ValueError, KeyError):
        return None


def keep_freed_memory():
    """Keep freed arrays with the process instead of handing them back to the system.

    Every batch makes the same large arrays anew. By default glibc returns each to the system when it is
    freed, and the next one pays in page faults, full BPTT's large ones most.
    Does nothing where the C library is another.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
