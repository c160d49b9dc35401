"""The LSTM: one step, a sequence, and back-propagation through time.

Equations (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000):

    z[t] = Wh h[t-1] + Wx x[t] + b                 [4H, N]   pre-activations
    i, f, o = σ(z_i), σ(z_f), σ(z_o)               [H, N]    input, forget and output gate
    g = tanh(z_g)                                  [H, N]    candidate
    c[t] = f * c[t-1] + i * g                      [H, N]    cell state
    h[t] = o * tanh(c[t])                          [H, N]    hidden state

Gate contract: Wx `[4H, D]`, Wh `[4H, H]` and b `[4H, 1]` that come in, and their gradients that go out, are
four blocks of H rows, in the order i, f, g, o (PyTorch's and cuDNN's).

Five rewritings make this fast and leave the equations as they are (docs/algorithm.md, section 4):
  * z[t] = W s[t] with W = [Wh | b | Wx] and s[t] = [h[t-1]; 1; x[t]]: one product a step forward, one
    backward, and one for the gradients of all three weights.
  * σ(z) = ½ + ½ tanh(z/2): with the rows i, f, o of W halved beforehand, one tanh serves all four gates.
    In here the blocks of rows stand in the order o, i, f, g: the three σ are one block, and so are the three
    whose gradients come from dc.
  * `slopes`: what dh and dc are multiplied with is known after the forward pass, and taken for several steps
    at once.
  * No step waits for dW and dx: those of several steps are one product (`side_by_side`).
  * h[t] is written straight into its place in s[t+1]: no copies.

Inputs are numbers, `[S, D, N]`, or tokens, integers `[S, N]`: a token picks its column of Wx, which is the
product with a one-hot vector, and x has no rows in s. `mask [S, N]` is 0 at a padded step, where h and c
are set to zero: a left-padded sequence starts from zeros when its first step comes.

Truncated BPTT needs no code here: run `lstm_backward` on the steps that a gradient may visit,
`cache.steps(t0, t1)`, and drop the dh0 and dc0 it returns. That is the cut.
"""

from typing import Any, NamedTuple

from .arrays import array_module, on_gpu
from .gpu import kernels
from .ops import embedding_backward, embedding_forward
from .windows import consecutive


class LSTMCache(NamedTuple):
    """What back-propagation needs of S consecutive steps. Filled once, never changed after."""

    s: Any  # [S+1, H+1+D, N] h[t-1]; 1; x[t] (slot S has the last h, and no x)
    c: Any  # [S+1, H, N]     c[t-1] (slot S has the last c)
    gates: Any  # [S, 4H, N]  activated o, i, f, g
    W: Any  # [4H, H+1+D]     Wh | b | Wx, rows o, i, f, g; Wh | b for tokens
    W_half: Any  # the same with the rows of o, i, f halved
    Wx_half: Any  # [4H, V]   for tokens, else None
    tokens: Any  # [S, N]     for tokens, else None
    mask: Any  # [S, N]       or None

    @property
    def h(self):
        """The states `[S+1, H, N]`, the initial one in slot 0."""
        return self.s[:, : self.c.shape[1]]

    @property
    def inputs(self):
        """What was read: `[S, D, N]`, or tokens `[S, N]`."""
        return self.s[:-1, self.c.shape[1] + 1 :] if self.tokens is None else self.tokens

    def steps(self, t0, t1):
        """The cache of steps t0 ... t1-1 alone, as views."""
        gates, tokens, mask = (a if a is None else a[t0:t1] for a in (self.gates, self.tokens, self.mask))
        return self._replace(s=self.s[t0 : t1 + 1], c=self.c[t0 : t1 + 1], gates=gates, tokens=tokens, mask=mask)


def lstm_begin(S, h0, c0, Wx, Wh, b, tokens=False, mask=None):
    """The empty cache of S steps from the state h0, c0 `[H, N]`; `lstm_step` fills it step by step."""
    if on_gpu(h0):
        return kernels.lstm_begin(S, h0, c0, Wx, Wh, b, tokens, mask)
    xp, (H, N), dtype = array_module(h0), h0.shape, h0.dtype
    half = xp.full((4 * H, 1), 0.5, dtype)
    half[3 * H :] = 1  # g is a tanh already
    Wx = xp.roll(Wx, H, axis=0)  # rows o, i, f, g
    W = xp.roll(xp.concatenate([Wh, b], axis=1), H, axis=0)
    W = W if tokens else xp.concatenate([W, Wx], axis=1)
    s, c = xp.empty((S + 1, W.shape[1], N), dtype), xp.empty((S + 1, H, N), dtype)
    s[0, :H], s[:, H], c[0] = h0, 1, c0
    ids = xp.empty((S, N), "int64") if tokens else None
    gates = xp.empty((S, 4 * H, N), dtype)
    return LSTMCache(s, c, gates, W, W * half, Wx * half if tokens else None, ids, mask)


def lstm_cell(cache, s, c, gates, h_next, c_next, token=None):
    """The equations above for one step, from s `[H+1+D, N]` = [h; 1; x] and c `[H, N]`: writes the gates o, i, f, g
    `[4H, N]`, h_next and c_next `[H, N]`, which may be where h and c stand."""
    xp, H = array_module(s), len(c)
    z = cache.W_half @ s  # z[t] = W s[t] (the rows of o, i, f halved)
    if token is not None:
        z += cache.Wx_half[:, token]
    xp.tanh(z, out=gates)
    σ = gates[: 3 * H]  # o, i, f
    σ *= 0.5  # σ(z) = ½ + ½ tanh(z/2)
    σ += 0.5
    xp.multiply(gates[2 * H : 3 * H], c, out=c_next)  # c[t] = f * c[t-1] + i * g
    c_next += gates[H : 2 * H] * gates[3 * H :]
    xp.tanh(c_next, out=h_next)  # h[t] = o * tanh(c[t])
    h_next *= gates[:H]


def lstm_step(t, x_t, cache):
    """Step t of a begun sequence: x_t `[D, N]` (or tokens `[N]`) to h[t] `[H, N]`, which stays in the cache."""
    if isinstance(cache, kernels.KernelCache):
        return kernels.lstm_step(t, x_t, cache)
    H, token = cache.c.shape[1], None
    if cache.tokens is None:
        cache.s[t, H + 1 :] = x_t
    else:
        cache.tokens[t] = token = x_t
    h_next, c_next = cache.s[t + 1, :H], cache.c[t + 1]
    lstm_cell(cache, cache.s[t], cache.c[t], cache.gates[t], h_next, c_next, token)
    if cache.mask is not None:
        h_next *= cache.mask[t]
        c_next *= cache.mask[t]
    return h_next


def lstm_forward(x, h0, c0, Wx, Wh, b, mask=None):
    """A sequence of S steps, all kept.

    x `[S, D, N]` or tokens `[S, N]`; h0, c0 `[H, N]`; Wx `[4H, D]` (tokens: `[4H, V]`); Wh `[4H, H]`;
    b `[4H, 1]`. Returns the states h `[S+1, H, N]`, c `[S+1, H, N]` (slot 0 the initial ones) and the cache.
    """
    if on_gpu(h0):
        return kernels.lstm_forward(x, h0, c0, Wx, Wh, b, mask)
    cache = lstm_begin(len(x), h0, c0, Wx, Wh, b, x.ndim == 2, mask)
    for t in range(len(x)):
        lstm_step(t, x[t], cache)
    return cache.h, cache.c, cache


def lstm_advance(x, h0, c0, Wx, Wh, b, mask=None):
    """The last state (h `[H, N]`, c `[H, N]`) of `lstm_forward`, with nothing else kept on the way."""
    if on_gpu(h0):
        return kernels.lstm_advance(x, h0, c0, Wx, Wh, b, mask)
    H, tokens = len(h0), x.ndim == 2
    cache = lstm_begin(1, h0, c0, Wx, Wh, b, tokens)  # as scratch: its one slot is written over at every step
    s, c, gates = cache.s[0], cache.c[0], cache.gates[0]
    h = s[:H]
    for t in range(len(x)):
        if not tokens:
            s[H + 1 :] = x[t]
        lstm_cell(cache, s, c, gates, h, c, x[t] if tokens else None)
        if mask is not None:
            h *= mask[t]
            c *= mask[t]
    return h, c


def together(N):
    """How many steps of N columns go side by side where none waits for another: more leave a core's cache."""
    return 8 if N <= 32 else 4 if N <= 64 else 2  # measured; --checkpoint-every is a multiple of each


def lstm_backward(dh, dh_last, dc_last, cache, dweights=None):
    """Back-propagation through the cached steps.

    dh `[S, H, N]` holds the gradients that enter each h[t] from outside (None: none do); dh_last, dc_last
    `[H, N]` those that enter the last h and c (None: zeros). Returns dx `[S, D, N]` (tokens: None), dh0, dc0
    `[H, N]`, dWx, dWh, db. If `dweights` is given, three such arrays, the returned three are the sums with it;
    its own arrays may be overwritten.
    """
    [found] = lstm_backward_of_each([(dh, dh_last, dc_last, dweights)], cache)
    return found


def lstm_backward_of_each(incoming, cache, need_dx=True):
    """The same for several losses, a (dh, dh_last, dc_last, dweights) each: a list of what `lstm_backward` returns.

    They go side by side, as columns: the slopes of the gates are taken once, and a step's product serves all.
    `need_dx` False: nobody needs dx, it is None.
    """
    if not isinstance(cache, LSTMCache):
        return [kernels.lstm_backward(*some[:3], cache, some[3], need_dx) for some in incoming]
    s, c, gates, W, tokens, mask = cache.s, cache.c, cache.gates, cache.W, cache.tokens, cache.mask
    xp, S, k, (H, N) = array_module(s), len(gates), len(incoming), c.shape[1:]
    dhs, dh_last, dc_last, dweights = zip(*incoming)
    need_dx = need_dx and tokens is None
    dx = xp.empty((S, W.shape[1] - H - 1, k * N), s.dtype) if need_dx else None
    dh_t, dc_t = (
        xp.concatenate([xp.zeros_like(c[0]) if a is None else a for a in d], 1) for d in (dh_last, dc_last)
    )
    dW = [rows_oifg(cache, some) for some in dweights]  # k times [4H, H+1+D]: of Wh | b | Wx
    WhT = xp.ascontiguousarray(W[:, :H].T)
    for t0, t1 in reversed(consecutive(S, together(N))):
        dh_dc, dz = (side(a, k) for a in slopes(cache, t0, t1))  # [t1-t0, H or 4H, k N]
        f = side(gates[t0:t1, 2 * H : 3 * H], k)  # [t1-t0, H, k N]
        for t in reversed(range(t1 - t0)):
            dz_o, dz_ifg = dz[t, :H], dz[t, H:].reshape(3, H, k * N)  # slopes still
            for n, dh in enumerate(dhs):
                if dh is not None:
                    dh_t[:, n * N : (n + 1) * N] += dh[t0 + t]
            if mask is not None:  # h, c = mask * h, mask * c
                dh_t *= side(mask[t0 + t], k)
                dc_t *= side(mask[t0 + t], k)
            dc_t += dh_dc[t] * dh_t  # h[t] = o * tanh(c[t])
            dz_o *= dh_t
            dz_ifg *= dc_t  # c[t] = f * c[t-1] + i * g
            dc_t *= f[t]
            xp.matmul(WhT, dz[t], out=dh_t)  # z[t] = W s[t], s[t] = [h[t-1]; 1; x[t]]
        # No step waits for dW and dx: several steps in one product.
        s_n = side_by_side(s[t0:t1])
        if need_dx:
            dx[t0:t1] = one_by_one(W[:, H + 1 :].T @ side_by_side(dz), k * N)
        if tokens is not None:  # a token's x is one-hot
            onehot = side_by_side(tokens[t0:t1]) == xp.arange(cache.Wx_half.shape[1])[:, None]
            s_n = xp.concatenate([s_n, onehot], dtype=s.dtype)
        for n in range(k):
            dW[n] += side_by_side(dz[:, :, n * N : (n + 1) * N]) @ s_n.T
    found = []
    for n in range(k):
        columns, dW_n = slice(n * N, (n + 1) * N), xp.roll(dW[n], -H, axis=0)  # rows i, f, g, o again
        dx_n = dx[:, :, columns] if need_dx else None
        found.append((dx_n, dh_t[:, columns], dc_t[:, columns], dW_n[:, H + 1 :], dW_n[:, :H], dW_n[:, H : H + 1]))
    return found


def rows_oifg(cache, dweights):
    """dWx, dWh, db, or zeros for None, as one new array: of [Wh | b | Wx] with rows o, i, f, g."""
    xp, H = array_module(cache.W), cache.c.shape[1]
    if dweights is not None:
        return xp.roll(xp.concatenate([dweights[1], dweights[2], dweights[0]], axis=1), H, axis=0)
    V = 0 if cache.tokens is None else cache.Wx_half.shape[1]
    return xp.zeros((4 * H, cache.W.shape[1] + V), cache.W.dtype)


def side(a, k):
    """`[..., N]` k times side by side: `[..., k N]`."""
    return a if k == 1 else array_module(a).concatenate([a] * k, axis=-1)


def slopes(cache, t0, t1):
    """What the gradients of steps t0 ... t1-1 are multiplied with, for all of them at once.

    `dh_dc [t1-t0, H, N]` is ∂h[t]/∂c[t]: dh times it enters dc. `dz [t1-t0, 4H, N]`, rows o, i, f, g: dh times the
    first block, and dc times the three others, are the gradients of the pre-activations.
    """
    gates, c_before, c, h = cache.gates[t0:t1], cache.c[t0:t1], cache.c[t0 + 1 : t1 + 1], cache.h[t0 + 1 : t1 + 1]
    xp, H = array_module(c), c.shape[1]
    o, i, f, g = (gates[:, n * H : (n + 1) * H] for n in range(4))
    tanh_c, dz = xp.tanh(c), xp.empty_like(gates)
    dz_o, dz_i, dz_f, dz_g = (dz[:, n * H : (n + 1) * H] for n in range(4))
    xp.subtract(1, gates[:, : 3 * H], out=dz[:, : 3 * H])  # σ' = σ (1 - σ)
    dz[:, : 3 * H] *= gates[:, : 3 * H]
    xp.multiply(g, g, out=dz_g)  # tanh' = 1 - tanh²
    xp.subtract(1, dz_g, out=dz_g)
    dz_o *= tanh_c  # h[t] = o * tanh(c[t])
    dz_i *= g  # c[t] = f * c[t-1] + i * g
    dz_f *= c_before
    dz_g *= i
    return o - h * tanh_c, dz  # o (1 - tanh²) = o - h tanh


def side_by_side(a):
    """`[S, rows, N]` -> `[rows, S N]`, a step's columns beside the next one's; tokens `[S, N]` -> `[S N]`."""
    return a.swapaxes(0, -2).reshape(*a.shape[1:-1], -1)


def one_by_one(a, N):
    """The reverse: `[rows, S N]` -> `[S, rows, N]`."""
    return a.reshape(len(a), -1, N).swapaxes(0, 1)


def layer_weights(params, name):
    """The layer's (Wx, Wh, b) out of `params`, and what `add_layer_grads` needs to unfold it: an input embedding We
    `[H, D]`, if it has one, is folded into Wx and b, so that Wx `[4H, H]` becomes `[4H, D]`."""
    Wx, Wh, b = (params[f"{name}.{w}"] for w in ("Wx", "Wh", "b"))
    if f"{name}.We" not in params:
        return (Wx, Wh, b), None
    (A, bias), cache = embedding_forward(params[f"{name}.We"], params.get(f"{name}.be"), Wx, b)
    return (A, Wh, bias), cache


def add_layer_grads(grads, name, dWx, dWh, db, embedding):
    """Add the gradients of `layer_weights` into `grads`, through the embedding where there is one."""
    if embedding is not None:
        dWe, dbe, dWx, db = embedding_backward((dWx, db), embedding)
        grads[f"{name}.We"] += dWe
        if dbe is not None:
            grads[f"{name}.be"] += dbe
    grads[f"{name}.Wx"] += dWx
    grads[f"{name}.Wh"] += dWh
    grads[f"{name}.b"] += db
