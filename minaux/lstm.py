"""The LSTM: one step, a sequence, and back-propagation through time.

Equations (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000):

    z[t] = Wh h[t-1] + Wx x[t] + b                 [4H, N]   pre-activations
    i, f, o = σ(z_i), σ(z_f), σ(z_o)               [H, N]    input, forget and output gate
    g = tanh(z_g)                                  [H, N]    candidate
    c[t] = f * c[t-1] + i * g                      [H, N]    cell state
    h[t] = o * tanh(c[t])                          [H, N]    hidden state

Gate contract: z, Wx `[4H, D]`, Wh `[4H, H]` and b `[4H, 1]` are four blocks of H rows, in the order
i, f, g, o (PyTorch's and cuDNN's).

Three rewritings make this fast and leave the equations as they are:
  * z[t] = W s[t] with W = [Wh | b | Wx] and s[t] = [h[t-1]; 1; x[t]]: one product a step forward, one
    backward, and one for the gradients of all three weights.
  * σ(z) = ½ + ½ tanh(z/2): with the rows i, f, o of W halved beforehand, one tanh serves all four gates.
  * In here the blocks of rows stand in the order o, i, f, g, with c[t-1] after them: the three σ are one
    block, and so are the pairs (i, f) and (g, c) whose products make c[t].

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


class LSTMCache(NamedTuple):
    """What back-propagation needs of S consecutive steps. Filled once, never changed after."""

    s: Any  # [S+1, H+1+D, N] h[t-1]; 1; x[t] (slot 0 has the initial h, slot S the last h and no x)
    gates: Any  # [S+1, 5H, N] activated o, i, f, g; c[t-1] (slot 0 has the initial c, slot S the last c alone)
    W: Any  # [4H, H+1+D]     Wh | b | Wx, rows o, i, f, g; Wh | b for tokens
    W_half: Any  # the same with the rows of o, i, f halved
    Wx_half: Any  # [4H, V]   for tokens, else None
    tokens: Any  # [S, N]     for tokens, else None
    mask: Any  # [S, N]       or None

    @property
    def h(self):
        """The states `[S+1, H, N]`, the initial one in slot 0."""
        return self.s[:, : self.gates.shape[1] // 5]

    @property
    def c(self):
        """As h, the cell states."""
        return self.gates[:, self.gates.shape[1] // 5 * 4 :]

    @property
    def inputs(self):
        """What was read: `[S, D, N]`, or tokens `[S, N]`."""
        return self.s[:-1, self.h.shape[1] + 1 :] if self.tokens is None else self.tokens

    def steps(self, t0, t1):
        """The cache of steps t0 ... t1-1 alone, as views."""
        tokens, mask = (a if a is None else a[t0:t1] for a in (self.tokens, self.mask))
        return self._replace(s=self.s[t0 : t1 + 1], gates=self.gates[t0 : t1 + 1], tokens=tokens, mask=mask)


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
    s = xp.empty((S + 1, W.shape[1], N), dtype)
    gates = xp.empty((S + 1, 5 * H, N), dtype)
    s[0, :H], s[:, H], gates[0, 4 * H :] = h0, 1, c0
    ids = xp.empty((S, N), "int64") if tokens else None
    return LSTMCache(s, gates, W, W * half, Wx * half if tokens else None, ids, mask)


def lstm_cell(cache, s, gates, h_next, c_next, token=None):
    """The equations above for one step: writes the gates o, i, f, g, `h_next [H, N]` and `c_next [H, N]`.

    `s [H+1+D, N]` is [h; 1; x], `gates [5H, N]` has c at its end; h_next and c_next may be where h and c stand.
    """
    xp, H = array_module(s), len(h_next)
    z = cache.W_half @ s  # z = Wh h + Wx x + b (the rows of o, i, f halved)
    if token is not None:
        z += cache.Wx_half[:, token]
    xp.tanh(z, out=gates[: 4 * H])
    oif = gates[: 3 * H]
    oif *= 0.5  # σ(z) = ½ + ½ tanh(z/2)
    oif += 0.5
    ig_fc = gates[H : 3 * H] * gates[3 * H :]
    xp.add(ig_fc[:H], ig_fc[H:], out=c_next)  # c[t] = f * c[t-1] + i * g
    xp.tanh(c_next, out=h_next)  # h[t] = o * tanh(c[t])
    h_next *= gates[:H]


def lstm_step(t, x_t, cache):
    """Step t of a begun sequence: x_t `[D, N]` (or tokens `[N]`) to h[t] `[H, N]`, which stays in the cache."""
    if isinstance(cache, kernels.KernelCache):
        return kernels.lstm_step(t, x_t, cache)
    H, token = cache.gates.shape[1] // 5, None
    if cache.tokens is None:
        cache.s[t, H + 1 :] = x_t
    else:
        cache.tokens[t] = token = x_t
    h_next, c_next = cache.s[t + 1, :H], cache.gates[t + 1, 4 * H :]
    lstm_cell(cache, cache.s[t], cache.gates[t], h_next, c_next, token)
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
    cache = lstm_begin(0, h0, c0, Wx, Wh, b, tokens)
    s, gates = cache.s[0], cache.gates[0]
    h, c = s[:H], gates[4 * H :]
    for t in range(len(x)):
        if not tokens:
            s[H + 1 :] = x[t]
        lstm_cell(cache, s, gates, h, c, x[t] if tokens else None)
        if mask is not None:
            h *= mask[t]
            c *= mask[t]
    return h, c


# Steps side by side in one product where none waits for another: more of them leave a core's cache (measured).
TOGETHER = 8


def lstm_backward(dh, dh_last, dc_last, cache, dweights=None):
    """Back-propagation through the cached steps.

    dh `[S, H, N]` holds the gradients that enter each h[t] from outside (None: none do); dh_last, dc_last
    `[H, N]` enter the last state besides (None: zero); `dweights` are dWx, dWh, db to add to (None: zeros).
    Returns dx `[S, D, N]` (None for tokens), dh0, dc0 `[H, N]`, dWx, dWh, db.
    """
    if isinstance(cache, kernels.KernelCache):
        return kernels.lstm_backward(dh, dh_last, dc_last, cache, dweights)
    s, gates, W, tokens = cache.s, cache.gates, cache.W, cache.tokens
    xp, S, H, N, dtype = array_module(s), len(s) - 1, len(W) // 4, s.shape[2], s.dtype
    dh_t = xp.zeros_like(s[0, :H]) if dh_last is None else dh_last  # [H, N]
    dc = xp.zeros_like(s[0, :H]) if dc_last is None else dc_last.copy()  # [H, N]
    dx = None if tokens is not None else xp.empty((S, W.shape[1] - H - 1, N), dtype)
    V = 0 if tokens is None else cache.Wx_half.shape[1]
    dW = xp.zeros((4 * H, W.shape[1] + V), dtype)  # of [Wh | b | Wx], rows o, i, f, g
    if dweights is not None:
        dW[:] = xp.roll(xp.concatenate([dweights[1], dweights[2], dweights[0]], axis=1), H, axis=0)
    WhT = xp.ascontiguousarray(W[:, :H].T)
    dh_before, dz, tanh_c, dc_t = (xp.empty((n, N), dtype) for n in (H, 4 * H, H, H))
    dz_oif, dz_o, dz_if, dz_g = dz[: 3 * H], dz[:H], dz[H : 3 * H], dz[3 * H :]  # views
    dz_ifg = dz[H:].reshape(3, H, N)
    dzs = xp.empty((4 * H, TOGETHER, N), dtype)
    for t in reversed(range(S)):
        o, i, f, g, _ = gates[t].reshape(5, H, N)  # [H, N] each
        oif, gc = gates[t, : 3 * H], gates[t, 3 * H :]
        if dh is not None:
            dh_t = dh_t + dh[t]
        if cache.mask is not None:  # h, c = mask * h, mask * c
            dh_t = dh_t * cache.mask[t]
            dc *= cache.mask[t]
        xp.tanh(gates[t + 1, 4 * H :], out=tanh_c)
        xp.multiply(s[t + 1, :H], tanh_c, out=dc_t)  # h[t] = o * tanh(c[t]): dc += dh * o * (1 - tanh²),
        xp.subtract(o, dc_t, out=dc_t)  # which is dh * (o - h[t] * tanh)
        dc_t *= dh_t
        dc += dc_t
        xp.subtract(1, oif, out=dz_oif)  # o, i, f = σ(z): first dz is σ' = σ (1 - σ)
        dz_oif *= oif
        xp.multiply(g, g, out=dz_g)  # g = tanh(z): and tanh' = 1 - tanh²
        xp.subtract(1, dz_g, out=dz_g)
        dz_o *= tanh_c  # h[t] = o * tanh(c[t]): do = dh * tanh(c[t])
        dz_o *= dh_t
        dz_if *= gc  # c[t] = f * c[t-1] + i * g: di, df = dc * g, dc * c[t-1]; dg = dc * i
        dz_g *= i
        dz_ifg *= dc
        dc *= f
        dh_t = xp.matmul(WhT, dz, out=dh_before)  # z[t] = W s[t], s[t] = [h[t-1]; 1; x[t]]
        dzs[:, t % TOGETHER] = dz
        if t % TOGETHER == 0:  # no step waits for dW and dx: several steps side by side
            n = min(TOGETHER, S - t)
            ss, dz_n = s[t : t + n].swapaxes(0, 1), dzs[:, :n].reshape(4 * H, n * N)
            if tokens is None:
                dx[t : t + n] = (W[:, H + 1 :].T @ dz_n).reshape(-1, n, N).swapaxes(0, 1)
            else:  # a token's x is one-hot
                ss = xp.concatenate([ss, tokens[t : t + n] == xp.arange(V)[:, None, None]], dtype=dtype)
            dW += dz_n @ ss.reshape(-1, n * N).T
    dW = xp.roll(dW, -H, axis=0)  # rows i, f, g, o again
    return dx, dh_t, dc, dW[:, H + 1 :], dW[:, :H], dW[:, H : H + 1]


def layer_weights(params, name):
    """The layer's (Wx, Wh, b) out of `params`, its input embedding, if it has one, folded into Wx and b;
    and what `add_layer_grads` needs to unfold it."""
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
