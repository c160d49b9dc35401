"""A stand-in for CuPy where there is no GPU: arrays that refuse to mix with NumPy's, and minaux/gpu/lstm.cu's
kernels compiled for the host (emulator.cpp).

As on a GPU, nothing goes from host to device or back but by `asarray` and `get`, or `float` and the like.
`transfers` lists what came back to the host, `launches` the kernels that were started.
"""

import ctypes
import functools
import operator
import pathlib
import shutil
import subprocess
import tempfile
import time
import types

import numpy as np

COMPILER = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
ROOT = pathlib.Path(__file__).parent.parent.parent

transfers, launches = [], []
seed = 0  # of the order in which a block's threads run


def unwrap(a):
    if isinstance(a, Array):
        return a.host
    if isinstance(a, np.ndarray):
        raise TypeError("a host array among the device's")
    if isinstance(a, (tuple, list)):
        return type(a)(map(unwrap, a))
    return a


def wrap(a):
    if isinstance(a, (np.ndarray, np.generic)):
        return Array(np.asarray(a))
    return type(a)(map(wrap, a)) if isinstance(a, (tuple, list)) else a


def on_device(function):
    """`function` of NumPy's with the device's arrays."""

    def call(*args, **kwargs):
        kwargs = {name: unwrap(value) for name, value in kwargs.items()}
        result = function(*map(unwrap, args), **kwargs)
        return wrap(result)

    return call


class Array:
    __array_ufunc__ = None  # NumPy's functions and operators refuse it

    def __init__(self, host):
        self.host = host

    def __array__(self, *_, **__):
        raise TypeError("a device array where NumPy wants one of the host's")

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self.host, name)
        return on_device(value) if callable(value) else wrap(value) if isinstance(value, np.ndarray) else value

    def __getitem__(self, index):
        return wrap(self.host[unwrap(index)])

    def __setitem__(self, index, value):
        self.host[unwrap(index)] = unwrap(value)

    def __len__(self):
        return len(self.host)

    def __iter__(self):
        return map(wrap, self.host)

    def to_host(self):
        transfers.append(self.host.shape)
        return self.host.copy()

    get = to_host

    def __float__(self):
        return float(self.to_host())

    def __int__(self):
        return int(self.to_host())

    def __bool__(self):
        return bool(self.to_host())

    def __index__(self):
        return operator.index(self.to_host())


def in_place(function):
    def call(self, other):
        function(self.host, unwrap(other))
        return self

    return call


def method(function):
    return lambda *operands: function(*operands)


def reflected(function):
    return lambda self, other: function(other, self)


for name in "add sub mul truediv matmul pow eq ne lt le gt ge and or".split():
    function = on_device(getattr(operator, f"__{name}__"))
    setattr(Array, f"__{name}__", method(function))
    setattr(Array, f"__r{name}__", reflected(function))
for name in "iadd isub imul itruediv".split():
    setattr(Array, f"__{name}__", in_place(getattr(operator, name)))
for name in "neg invert abs".split():
    setattr(Array, f"__{name}__", method(on_device(getattr(operator, name))))


def asarray(a, dtype=None):
    return Array(np.array(unwrap(a) if isinstance(a, Array) else a, dtype))


def empty(shape, dtype="float64"):
    """Full of what shows when it is used."""
    return Array(np.full(shape, np.nan if np.dtype(dtype).kind == "f" else 99, dtype))


@functools.cache
def library(options):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="minaux-kernels-"))
    warnings = "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"
    sources = (
        "-I",
        ROOT / "minaux" / "gpu",
        "-o",
        folder / "kernels.so",
        pathlib.Path(__file__).with_name("emulator.cpp"),
    )
    subprocess.run([COMPILER, "-O2", "-shared", "-fPIC", *warnings, *options, *sources], check=True)
    compiled = ctypes.CDLL(str(folder / "kernels.so"))
    shutil.rmtree(folder)
    return compiled


class RawModule:
    def __init__(self, code, options):
        assert code == (ROOT / "minaux" / "gpu" / "lstm.cu").read_text()
        self.library = library(options)

    def get_function(self, name):
        return Kernel(getattr(self.library, f"run_{name}"), name)


class Kernel:
    max_dynamic_shared_size_bytes = 48 * 1024

    def __init__(self, function, name):
        self.function, self.name = function, name
        function.restype = ctypes.c_bool

    def __call__(self, grid, block, args, *, shared_mem=0):
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        launches.append(self.name)
        values = []
        for a in args:
            if isinstance(a, Array):
                assert a.host.flags.c_contiguous
                values.append(ctypes.c_void_p(a.host.ctypes.data))
            else:
                values.append({np.int32: ctypes.c_int, np.uintp: ctypes.c_void_p}[type(a)](a.item()))
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        assert self.function(pointers, *grid, *block, shared_mem, seed), f"{self.name}: its threads wait for ever"


class Event:
    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        pass


def cupy():
    """The module to put in CuPy's place in `sys.modules`."""
    module = types.ModuleType("cupy")
    module.asarray, module.empty, module.RawModule, module.__version__ = asarray, empty, RawModule, "stand-in"
    module.empty_like = lambda a: empty(a.shape, a.dtype)
    module.fft = types.SimpleNamespace(fft=on_device(np.fft.fft), ifft=on_device(np.fft.ifft))
    module.cuda = types.SimpleNamespace(
        Device=lambda: types.SimpleNamespace(synchronize=lambda: None, mem_info=(2**40, 2**40)),
        Event=Event,
        get_elapsed_time=lambda begin, end: 1e3 * (end.at - begin.at),
        runtime=types.SimpleNamespace(getDeviceProperties=lambda device: {"name": b"stand-in"}),
    )
    module.get_default_memory_pool = lambda: types.SimpleNamespace(free_bytes=lambda: 0)
    module.__getattr__ = lambda name: on_device(getattr(np, name))
    return module
