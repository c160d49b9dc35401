"""The LSTM on the GPU: lstm.py's functions, with the same arguments and results, by the kernels in lstm.cu.

On the GPU the numbers of one sequence's step lie together: arrays are `[S, N, rows]`, and what is taken and
returned here as `[S, rows, N]` is best a transposed view of such a one (any other is copied).

128 units in float32 run whole windows of steps in one kernel. Other widths and float64 take a product and
one elementwise kernel a step.
"""

import functools
import pathlib
from typing import Any, NamedTuple

import numpy as np

from ..arrays import array_module
from ..windows import consecutive

CHUNK = 400  # steps whose input parts, and gradients dz, are there at a time: 105 MB each for 128 sequences
THREADS, SHARED = 256, 2 * 8 * 256 * 16  # of lstm_forward and lstm_backward: threads, bytes a block
DECODERS, MOST_CHANNELS = 2, 1024  # of decode: sequences a block


class KernelCache(NamedTuple):
    """What back-propagation needs of S consecutive steps, as `LSTMCache`."""

    x: Any  # [S, N, D]       or tokens [S, N]
    hs: Any  # [S+1, N, H]    slot 0 has the initial h
    cs: Any  # [S+1, N, H]
    gates: Any  # [S, N, 4H]  activated i, f, g, o
    Wx: Any  # [4H, D]
    Wh: Any  # [4H, H]
    b: Any  # [4H, 1]
    mask: Any  # [S, N]       or None

    @property
    def h(self):
        """The states `[S+1, H, N]`, the initial one in slot 0."""
        return self.hs.swapaxes(1, 2)

    @property
    def c(self):
        """As h, the cell states."""
        return self.cs.swapaxes(1, 2)

    @property
    def inputs(self):
        """What was read: `[S, D, N]`, or tokens `[S, N]`."""
        return self.x if self.x.ndim == 2 else self.x.swapaxes(1, 2)

    def steps(self, t0, t1):
        """The cache of steps t0 ... t1-1 alone, as views."""
        x, gates, mask = (a if a is None else a[t0:t1] for a in (self.x, self.gates, self.mask))
        return self._replace(x=x, hs=self.hs[t0 : t1 + 1], cs=self.cs[t0 : t1 + 1], gates=gates, mask=mask)


@functools.cache
def module(xp, real):
    path = pathlib.Path(__file__).with_name("lstm.cu")
    return xp.RawModule(code=path.read_text(encoding="utf-8"), options=("-std=c++17", f"-DREAL={real}"))


@functools.cache
def function(xp, real, name, shared):
    kernel = module(xp, real).get_function(name)
    if shared > 48 * 1024:  # what a block may have without asking
        kernel.max_dynamic_shared_size_bytes = shared
    return kernel


def launch(name, blocks, threads, *args, shared=0):
    """Start the kernel `name`; `args` are integers, arrays, which must be contiguous, or None."""
    arrays = [a for a in args if a is not None and not isinstance(a, int)]
    assert all(a.flags.c_contiguous for a in arrays), name
    real = "double" if arrays[0].dtype == "float64" else "float"
    args = [np.int32(a) if isinstance(a, int) else np.uintp(0) if a is None else a for a in args]
    function(array_module(arrays[0]), real, name, shared)((blocks,), (threads,), tuple(args), shared_mem=shared)


def whole_windows(hs):
    """Whether one kernel can run these units over a whole window."""
    return hs.shape[-1] == 128 and hs.dtype == "float32"


def by_sequence(a):
    """`[S, rows, N]` -> contiguous `[S, N, rows]`; tokens stay `[S, N]`."""
    return array_module(a).ascontiguousarray(a if a.ndim == 2 else a.swapaxes(1, 2))


def run(x, hs, cs, gates, Wx, Wh, b, mask):
    """Steps over x `[S, N, D]` (tokens `[S, N]`) from slot 0 of hs, cs `[., N, H]`: to the slots 1 ... S and
    gates `[S, N, 4H]`; without gates to slot 0 alone."""
    xp, (_, N, H), WxT = array_module(x), hs.shape, Wx.T
    if x.ndim == 2:
        WxT = xp.ascontiguousarray(WxT)
    windows = whole_windows(hs) and len(x) > 1  # the kernel would load all of Wh for one step
    for t0, t1 in consecutive(len(x), CHUNK):
        zx = WxT[x[t0:t1]] if x.ndim == 2 else (x[t0:t1].reshape(-1, x.shape[2]) @ WxT).reshape(-1, N, 4 * H)
        step = t1 - t0 if windows else 1
        for t in range(t0, t1, step):
            old, new = (t, t + 1) if gates is not None else (0, 0)
            zx_t = zx[t - t0 : t - t0 + step]
            mask_t, gates_t = (a if a is None else a[t : t + step] for a in (mask, gates))
            if windows:
                args = zx_t, Wh, b, mask_t, hs[old:], cs[old:], gates_t
                launch("lstm_forward", N, THREADS, step, N, *args, shared=SHARED)
            else:
                args = hs[old] @ Wh.T, zx_t, b, mask_t, cs[old], hs[new], cs[new], gates_t
                launch("cell_forward", -(-N * H // THREADS), THREADS, N, H, *args)


def begin(x, h0, c0, Wx, Wh, b, mask):
    """The cache of steps over x `[S, N, D]` (tokens `[S, N]`), for `run`."""
    xp, (H, N), S = array_module(h0), h0.shape, len(x)
    hs, cs = xp.empty((S + 1, N, H), h0.dtype), xp.empty((S + 1, N, H), h0.dtype)
    hs[0], cs[0] = h0.T, c0.T
    Wh, b, mask = (a if a is None else xp.ascontiguousarray(a) for a in (Wh, b, mask))
    return KernelCache(x, hs, cs, xp.empty((S, N, 4 * H), h0.dtype), Wx, Wh, b, mask)


def lstm_begin(S, h0, c0, Wx, Wh, b, tokens=False, mask=None):
    xp, N = array_module(h0), h0.shape[1]
    x = xp.empty((S, N), "int64") if tokens else xp.empty((S, N, Wx.shape[1]), h0.dtype)
    return begin(x, h0, c0, Wx, Wh, b, mask)


def lstm_step(t, x_t, cache):
    cache.x[t] = x_t.T
    one = cache.steps(t, t + 1)
    run(one.x, one.hs, one.cs, one.gates, one.Wx, one.Wh, one.b, one.mask)
    return one.h[1]


def lstm_forward(x, h0, c0, Wx, Wh, b, mask=None):
    cache = begin(by_sequence(x), h0, c0, Wx, Wh, b, mask)
    run(*cache)
    return cache.h, cache.c, cache


def lstm_advance(x, h0, c0, Wx, Wh, b, mask=None):
    xp = array_module(h0)
    hs, cs = h0.T.copy()[None], c0.T.copy()[None]
    Wh, b, mask = (a if a is None else xp.ascontiguousarray(a) for a in (Wh, b, mask))
    for t0, t1 in consecutive(len(x), CHUNK):
        run(by_sequence(x[t0:t1]), hs, cs, None, Wx, Wh, b, mask if mask is None else mask[t0:t1])
    return hs[0].T, cs[0].T


def lstm_backward(dh, dh_last, dc_last, cache, dweights=None, need_dx=True):
    x, hs, cs, gates, Wx, Wh, _, mask = cache
    xp, (S, N, H), tokens = array_module(hs), (len(gates), *hs.shape[1:]), x.ndim == 2
    dh_t, dc = (xp.zeros_like(hs[0]) if a is None else a.T.copy() for a in (dh_last, dc_last))  # [N, H]
    dh = None if dh is None else by_sequence(dh)
    WhT = xp.ascontiguousarray(Wh.T)
    dx = xp.empty_like(x) if need_dx and not tokens else None
    dWx, dWh, db = dweights or (xp.zeros_like(Wx), xp.zeros_like(Wh), xp.zeros((4 * H, 1), Wh.dtype))
    for t0, t1 in reversed(consecutive(S, CHUNK)):
        dz = xp.empty((t1 - t0, N, 4 * H), hs.dtype)
        step = t1 - t0 if whole_windows(hs) else 1
        for t in reversed(range(t0, t1, step)):
            dz_t, mask_t, dh_in = (
                a if a is None else a[t - start : t - start + step] for a, start in ((dz, t0), (mask, 0), (dh, 0))
            )
            if whole_windows(hs):
                args = WhT, gates[t : t + step], cs[t:], mask_t, dh_in, dh_t, dc, dz_t
                launch("lstm_backward", N, THREADS, step, N, *args, shared=SHARED)
            else:
                args = gates[t], cs[t], cs[t + 1], mask_t, dh_t, dh_in, dc, dz_t
                launch("cell_backward", -(-N * H // THREADS), THREADS, N, H, *args)
                dh_t = dz_t[0] @ Wh
        dz = dz.reshape(-1, 4 * H)  # columns side by side, as their transposes
        some = (x[t0:t1, :, None] == xp.arange(Wx.shape[1])).astype(dz.dtype) if tokens else x[t0:t1]
        dWx += dz.T @ some.reshape(-1, Wx.shape[1])
        dWh += dz.T @ hs[t0:t1].reshape(-1, H)
        db += dz.T @ xp.ones((len(dz), 1), dz.dtype)  # CuPy's sum over the first axis is far slower
        if dx is not None:
            dx[t0:t1] = (dz @ Wx).reshape(-1, N, Wx.shape[1])
    return None if dx is None else dx.swapaxes(1, 2), dh_t.T, dc.T, dWx, dWh, db


def decodes(x, h):
    """Whether `decode` can run over x `[S, D, N]` (tokens: no) from the state h `[H, N]`."""
    return whole_windows(h.T) and x.ndim == 3 and x.shape[1] <= MOST_CHANNELS


def decode(x, truth, own, bottom, top, head):
    """r's decoder over S steps, reading x `[S, D, N]` where `truth [S, N]`, else its own previous output (at
    first `own [D, N]`): the loop of `auxiliary.run_on_own_outputs` in one kernel.

    bottom and top are the arguments (h0, c0, Wx, Wh, b) of either layer, head those of the MLP: W1, b1, W2,
    b2, W3, b3. Returns the caches of both layers, the outputs `[D, S N]`, steps side by side, and the MLP's
    cache.
    """
    xp, (S, D, N) = array_module(x), x.shape
    x, truth, own = by_sequence(x), xp.ascontiguousarray(truth), own.T.copy()
    bottom = begin(xp.empty_like(x), *bottom, None)
    top = begin(bottom.hs[1:], *top, None)
    W1, hb1, W2, hb2, W3, hb3 = (xp.ascontiguousarray(w.T if n in (0, 2) else w) for n, w in enumerate(head))
    relu1, relu2 = (xp.empty((S, N, len(b)), x.dtype) for b in (hb1, hb2))
    y = xp.empty_like(x)
    WT = [xp.ascontiguousarray(w) for w in (bottom.Wx.T, bottom.Wh.T, xp.concatenate([top.Wh, top.Wx], axis=1).T)]
    layer1 = WT[0], WT[1], bottom.b, bottom.hs, bottom.cs, bottom.gates
    layer2 = WT[2], top.b, top.hs, top.cs, top.gates
    mlp = W1, hb1, relu1, W2, hb2, relu2, W3, hb3
    shared = 4 * D * DECODERS
    blocks = -(-N // DECODERS)
    launch("decode", blocks, 512, S, N, D, x, truth, own, bottom.x, *layer1, *layer2, *mlp, y, shared=shared)
    columns = [a.reshape(S * N, -1).T for a in (top.hs[1:], relu1, relu2)]
    return bottom, top, y.reshape(S * N, D).T, columns
