"""The Transformer (Vaswani et al. 2017), a baseline: an encoder that sees all steps at once, about as large as the
LSTM.

    h = x We' + be + s                              [N, T, E]         s[t]: sines and cosines of T-1-t
    in each layer:
      y = norm1(h)                                  [N, T, E]
      q, k, v = y Wq' + bq, y Wk' + bk, y Wv' + bv  [N, heads, T, d]  E = heads d
      p = softmax(q k' / √d)                        [N, heads, T, T]  over the keys that are no padding
      h = h + (p v) Wo' + bo                        [N, T, E]         the heads side by side
      h = h + max(norm2(h) W1' + b1, 0) W2' + b2    [N, T, E]         [N, T, F] between
    m = mean over t of norm(h)                      [N, E]            over the steps that are no padding

    norm(h) = gain (h - mean) / √(variance + ε) + bias                mean and variance of the last axis

W' is W transposed: weights are `[out, in]` as elsewhere, but sequences are rows here, `[N, T, E]`, not columns. The
norm comes before each part, not after it (Xiong et al. 2020); it is layer normalisation (Ba et al. 2016). There is
no dropout but the classifier's DropConnect; the classifier is the LSTM's, on m.

Positions are counted from the end, for what is padded is padded in front: padding changes nothing. There is no
truncation, and no auxiliary loss: its decoders start from an LSTM's two states.

p is never there as a whole: it is made in blocks of queries, and once more in the backward pass, from the
logarithm of each row's sum (Rabe & Staats 2021; Dao et al. 2022).
"""

import math

import numpy as np

from ..arrays import array_module, on_gpu
from ..initial import initial_linear, mlp_shapes, parameter_rng
from ..model import classify
from ..ops import mlp_forward, relu_backward, relu_forward
from . import supervised_result

LAYERS, HEADS = 2, 4
EPSILON = 1e-5  # of the norms
CPU_BLOCK, GPU_BLOCK = 2**17, 2**26  # numbers of p at a time: they stay in a core's cache; they fill a GPU


def encoder_widths(H):
    """The widths E and F of the layers and of their feed-forward parts."""
    # Two layers of 3/4 H rather than one of H, in which no step could look at what others have seen. With the
    # classifier 233,882 parameters for pMNIST at 128 hidden units, where the LSTM has 233,226.
    d = -(-3 * H // (4 * HEADS))
    return HEADS * d, 7 * d


def parameter_shapes(sizes, aux="none"):
    """As `initial.parameter_shapes`."""
    E, F = encoder_widths(sizes.H)
    shapes = {"main.We": (E, sizes.D)} if sizes.tokens else {"main.We": (E, sizes.D), "main.be": (E,)}
    for n in range(LAYERS):
        for name, out, inputs in [*((c, E, E) for c in "qkvo"), ("1", F, E), ("2", E, F)]:
            shapes |= {f"layer{n}.W{name}": (out, inputs), f"layer{n}.b{name}": (out,)}
    for norm in [*(f"layer{n}.norm{m}" for n in range(LAYERS) for m in (1, 2)), "norm"]:
        shapes |= {f"{norm}.gain": (E,), f"{norm}.bias": (E,)}
    return {**shapes, **mlp_shapes("classifier", sizes.H, E, sizes.classes)}


def init_params(sizes, aux="none", T=None, seed=0, forget_bias=None, dtype="float32"):
    """As `initial.init_params`: gains 1, and We N(0, 1) for numbers too, so that they weigh about as much as
    positions. T and `forget_bias` are not used."""
    params = {}
    for name, shape in parameter_shapes(sizes, aux).items():
        r, kind = parameter_rng(seed, name), name.split(".")[-1]
        if kind == "We":
            w = r.standard_normal(shape)
        elif kind == "gain":
            w = np.ones(shape)
        else:
            w = initial_linear(r, kind, shape)
        params[name] = w.astype(dtype)
    return params


def linear_forward(x, params, layer, name):
    """y = x W' + b over the last axis, with W, b of `layer`: x `[N, T, in]`, y `[N, T, out]`."""
    y = x @ params[f"{layer}.W{name}"].T
    y += params[f"{layer}.b{name}"]
    return y


def linear_backward(dy, x, params, grads, layer, name):
    """Returns dx `[N, T, in]`; adds the weights' gradients into `grads`."""
    rows = dy.reshape(-1, dy.shape[-1])  # [N·T, out]
    grads[f"{layer}.W{name}"] += rows.T @ x.reshape(-1, x.shape[-1])  # y = x W' + b
    grads[f"{layer}.b{name}"] += rows.sum(0)
    return dy @ params[f"{layer}.W{name}"]


def norm_forward(x, params, name):
    """Layer normalisation over the last axis: y `[N, T, E]`, and the cache: x̂ = (x - mean) / deviation, and
    1 / deviation `[N, T, 1]`."""
    xhat = x - x.mean(-1, keepdims=True)
    inverse = 1 / array_module(x).sqrt((xhat * xhat).mean(-1, keepdims=True) + EPSILON)
    xhat *= inverse
    return norm_output(xhat, params, name), (xhat, inverse)


def norm_output(xhat, params, name):
    """y = gain x̂ + bias, which is cheaper to make again than to keep."""
    y = xhat * params[f"{name}.gain"]
    y += params[f"{name}.bias"]
    return y


def norm_backward(dy, cache, params, grads, name):
    """Returns dx `[N, T, E]`; adds the gradients of gain and bias into `grads`."""
    xhat, inverse = cache
    grads[f"{name}.gain"] += (dy * xhat).sum((0, 1))  # y = gain x̂ + bias
    grads[f"{name}.bias"] += dy.sum((0, 1))
    dx = dy * params[f"{name}.gain"]
    along = (dx * xhat).mean(-1, keepdims=True)
    dx -= dx.mean(-1, keepdims=True)  # x̂ = (x - mean) / deviation: the mean moves with every x,
    dx -= xhat * along  # and so does the deviation
    dx *= inverse
    return dx


def blocks(q):
    """The blocks of queries q `[N, heads, T, d]` whose weights are made at a time: slices of the sequences and of
    the steps, as many as a block holds, and at least one of each."""
    N, heads, T, _ = q.shape
    size = (GPU_BLOCK if on_gpu(q) else CPU_BLOCK) // (heads * T)  # queries, of all heads
    steps = min(max(size, 1), T)
    sequences = max(size // T, 1)
    for n in range(0, N, sequences):
        for t in range(0, T, steps):
            yield slice(n, n + sequences), slice(t, t + steps)


def attention_forward(q, k, v, hide):
    """softmax(q k' / √d) v `[N, heads, T, d]` and the log-sums `[N, heads, T, 1]` of the softmax, from q, k, v
    `[N, heads, T, d]`; `hide [N, 1, 1, T]` (or None) is -∞ at keys that are padding, else 0."""
    xp, q = array_module(q), q * (1 / math.sqrt(q.shape[-1]))
    out, logsum = xp.empty_like(q), xp.empty((*q.shape[:3], 1), q.dtype)
    keys, values = columns(k), columns(v, 1)
    no_overflow = not on_gpu(q) and longest(q) * longest(k) < 60  # |q k'| ≤ |q| |k|; a GPU need not wait for it
    for n, t in blocks(q):
        p = products(q[n, :, t], keys[n], None if hide is None else hide[n])
        top = 0 if no_overflow else p.max(-1, keepdims=True)
        if not no_overflow:
            p -= top  # so that exp cannot overflow
        xp.exp(p, out=p)
        sums = p @ values[n].swapaxes(2, 3)  # of p v and, in the last column, of p
        total = sums[..., -1:]
        out[n, :, t] = sums[..., :-1] / total
        logsum[n, :, t] = top + xp.log(total)
    return out, logsum


def columns(a, *row):
    """a `[N, heads, T, d]` as `[N, heads, d, T]`, which products with p are quickest with; under it perhaps a row
    more, a number or `[N, heads, 1, T]`: the product then sums p, or adds a number to each of its rows, and saves a
    pass over p."""
    N, heads, T, d = a.shape
    wide = array_module(a).empty((N, heads, d + len(row), T), a.dtype)
    wide[:, :, :d] = a.swapaxes(2, 3)
    if row:
        wide[:, :, d:] = row[0]
    return wide


def longest(a):
    """The length of the longest row."""
    return math.sqrt((a * a).sum(-1).max())


def products(q, keys, hide):
    """q k' `[n, heads, t, T]` of q `[n, heads, t, d]` and keys `[n, heads, d, T]`, -∞ where keys are hidden."""
    s = q @ keys
    if hide is not None:
        s += hide
    return s


def attention_backward(dout, q, k, v, hide, out, logsum):
    """dq, dk, dv `[N, heads, T, d]` from dout, with what `attention_forward` gave."""
    xp, d, scale = array_module(q), q.shape[-1], 1 / math.sqrt(q.shape[-1])
    mean = (dout * out).sum(-1, keepdims=True)  # Σ p dp over a query's keys, for out = p v
    queries, douts = columns(q * scale, -logsum.swapaxes(2, 3)), columns(dout, -mean.swapaxes(2, 3))
    keys, values = columns(k, 1), columns(v, 1)
    dq, dk, dv = xp.empty_like(q), xp.zeros_like(keys[:, :, :d]), xp.zeros_like(values[:, :, :d])
    for n, t in blocks(q):
        q_t, dout_t = queries[n, ..., t], douts[n, ..., t]  # [n, heads, d+1, t]
        p = products(q_t.swapaxes(2, 3), keys[n], None if hide is None else hide[n])
        xp.exp(p, out=p)  # p = exp(s - logsum)
        dv[n] += dout_t[:, :, :d] @ p  # out = p v
        ds = dout_t.swapaxes(2, 3) @ values[n]  # dp - mean
        ds *= p  # p = exp(s) / Σ exp(s)
        dq[n, :, t] = ds @ keys[n, :, :d].swapaxes(2, 3) * scale  # s = (q / √d) k'
        dk[n] += q_t[:, :, :d] @ ds
    return dq, dk.swapaxes(2, 3), dv.swapaxes(2, 3)


def split(y):
    """`[N, T, E]` as `[N, heads, T, d]`."""
    return y.reshape(*y.shape[:2], HEADS, -1).swapaxes(1, 2)


def join(heads):
    """`[N, heads, T, d]` as `[N, T, E]`."""
    N, _, T, _ = heads.shape
    return heads.swapaxes(1, 2).reshape(N, T, -1)


def self_attention_forward(h, params, layer, hide):
    """(p v) Wo' + bo `[N, T, E]` from h `[N, T, E]`, and the cache."""
    y, norm = norm_forward(h, params, f"{layer}.norm1")
    q, k, v = (split(linear_forward(y, params, layer, name)) for name in "qkv")
    heads, logsum = attention_forward(q, k, v, hide)
    return linear_forward(join(heads), params, layer, "o"), (norm, q, k, v, heads, logsum)


def self_attention_backward(dout, cache, params, grads, layer, hide):
    """Returns dh `[N, T, E]`; adds the weights' gradients into `grads`."""
    norm, q, k, v, heads, logsum = cache
    dheads = split(linear_backward(dout, join(heads), params, grads, layer, "o"))
    dqkv = attention_backward(dheads, q, k, v, hide, heads, logsum)
    y = norm_output(norm[0], params, f"{layer}.norm1")
    dy = sum(linear_backward(join(d), y, params, grads, layer, name) for name, d in zip("qkv", dqkv))
    return norm_backward(dy, norm, params, grads, f"{layer}.norm1")


def feed_forward_forward(h, params, layer):
    """max(norm2(h) W1' + b1, 0) W2' + b2 `[N, T, E]` from h `[N, T, E]`, and the cache."""
    y, norm = norm_forward(h, params, f"{layer}.norm2")
    hidden, _ = relu_forward(linear_forward(y, params, layer, "1"))
    return linear_forward(hidden, params, layer, "2"), (norm, hidden)


def feed_forward_backward(dout, cache, params, grads, layer):
    """Returns dh `[N, T, E]`; adds the weights' gradients into `grads`."""
    norm, hidden = cache
    dz = relu_backward(linear_backward(dout, hidden, params, grads, layer, "2"), hidden)
    y = norm_output(norm[0], params, f"{layer}.norm2")
    return norm_backward(linear_backward(dz, y, params, grads, layer, "1"), norm, params, grads, f"{layer}.norm2")


def positions(T, E, like):
    """s `[T, E]`, of the dtype of `like`: sin(w t) and cos(w t) in turn, for E/2 wavelengths 2π/w from 2π towards
    10,000·2π (Vaswani et al.), where t is T-1 at the first step and 0 at the last."""
    xp = array_module(like)
    t = xp.arange(T - 1, -1, -1, dtype="float64")[:, None]
    angles = t * 10000.0 ** (-xp.arange(0, E, 2, dtype="float64") / E)
    return xp.stack([xp.sin(angles), xp.cos(angles)], axis=2).reshape(T, E).astype(like.dtype)


def embedding_forward(x, params):
    """h `[N, T, E]` of x `[N, T, D]`, or of tokens `[N, T]`: a column of We each."""
    We = params["main.We"]
    h = We.T[x] if x.ndim == 2 else linear_forward(x, params, "main", "e")
    h += positions(x.shape[1], len(We), We)
    return h


def embedding_backward(dh, x, params, grads):
    """Adds the gradients of We, and be, into `grads`; a sequence of tokens at a time, as its one-hot matrix."""
    if x.ndim == 3:
        linear_backward(dh, x, params, grads, "main", "e")
        return
    tokens = array_module(x).arange(params["main.We"].shape[1])
    for n in range(len(x)):
        grads["main.We"] += dh[n].T @ (x[n][:, None] == tokens).astype(dh.dtype)  # h = We'[x]


def encoder_forward(params, x, mask=None, keep=True):
    """m `[N, E]`, and what `encoder_backward` needs (None unless `keep`), from x `[T, D, N]` or `[T, N]`."""
    xp, dtype = array_module(x), params["main.We"].dtype
    x = xp.ascontiguousarray(xp.moveaxis(x, -1, 0))  # [N, T, D] or [N, T]: sequences are rows from here on
    real = xp.ones(x.shape[:2], dtype) if mask is None else xp.ascontiguousarray(mask.T).astype(dtype)
    share = (real / real.sum(1, keepdims=True))[:, :, None]  # [N, T, 1], of each step in the mean
    hide = None if mask is None else xp.where(real > 0, 0.0, -math.inf).astype(dtype)[:, None, None]
    h, caches = embedding_forward(x, params), []
    for n in range(LAYERS):
        out, attention = self_attention_forward(h, params, f"layer{n}", hide)
        h += out
        out, feed_forward = feed_forward_forward(h, params, f"layer{n}")
        h += out
        if keep:
            caches += [attention, feed_forward]
        del out, attention, feed_forward
    y, norm = norm_forward(h, params, "norm")
    y *= share
    return y.sum(1), (x, share, hide, caches, norm) if keep else None


def encoder_backward(dm, cache, params, grads):
    """Adds the gradients of the encoder's weights into `grads`, from dm `[N, E]`; uses the cache up."""
    x, share, hide, caches, norm = cache
    dh = norm_backward(share * dm[:, None], norm, params, grads, "norm")  # m = Σ share norm(h)
    for n in reversed(range(LAYERS)):
        dh += feed_forward_backward(dh, caches.pop(), params, grads, f"layer{n}")  # h = h + max(norm2(h) ...
        dh += self_attention_backward(dh, caches.pop(), params, grads, f"layer{n}", hide)  # h = h + (p v) ...
    embedding_backward(dh, x, params, grads)


def logits(params, x, mask=None):
    """The scores of the classes `[classes, N]`, without DropConnect, from x `[T, D, N]` or tokens `[T, N]`."""
    m, _ = encoder_forward(params, x, mask, keep=False)
    return mlp_forward(m.T, params, "classifier")[0]


def loss_and_grads(params, x, y, draws, K, aux_K=0, aux_weight=1.0, batch_size=None, mask=None):
    """As `model.loss_and_grads`, of the supervised loss alone, and never truncated: K, aux_K and aux_weight are not
    used. The gradient that stands for the others where norms are reported is that of layer0.Wv.
    """
    xp = array_module(x)
    m, encoder = encoder_forward(params, x, mask)
    grads = {name: xp.zeros_like(w) for name, w in params.items()}
    loss, dm = classify(params, m.T, y, draws.masks, 1 / (batch_size or x.shape[-1]), grads)
    encoder_backward(dm.T, encoder, params, grads)
    return supervised_result(loss, grads, "layer0.Wv")


def needed_bytes(T, N, sizes, dtype="float32", shards=1, gpu=False):
    """The memory that `loss_and_grads` of N sequences of T steps needs at its peak, in all shards together: what is
    kept of each step for the backward pass, what is in flight there, and blocks of p."""
    E, F = encoder_widths(sizes.H)
    layer = (2 * (E + 1), 4 * E, HEADS, F)  # norm1, norm2; q, k, v, heads; logsum; hidden
    end = E + 1  # the last norm
    flight = 10 * E  # in the last layer's attention: dh, dheads, four arrays of columns, dq, dk, dv and a product
    numbers = T * N * (LAYERS * sum(layer) + end + flight)
    block = max(GPU_BLOCK if gpu else CPU_BLOCK, HEADS * T)
    item = np.dtype(dtype).itemsize
    inputs = T * N * (16 if sizes.tokens else sizes.D * (1 + 2 * item))  # with a copy, sequences as rows
    return item * (numbers + 2 * shards * block) + inputs
