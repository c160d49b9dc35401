"""The LSTM: one step, a sequence, and back-propagation through time.

Equations (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000):

    z[t] = Wh h[t-1] + Wx x[t] + b                 [4H, N]   pre-activations
    i, f, o = σ(z_i), σ(z_f), σ(z_o)               [H, N]    input, forget and output gate
    g = tanh(z_g)                                  [H, N]    candidate
    c[t] = f * c[t-1] + i * g                      [H, N]    cell state
    h[t] = o * tanh(c[t])                          [H, N]    hidden state

Gate contract: z, Wx `[4H, D]`, Wh `[4H, H]` and b `[4H, 1]` are four blocks of H rows, in the order
i, f, g, o (PyTorch's and cuDNN's).

Two rewritings make this fast and leave the equations as they are:
  * z[t] = W s[t] with W = [Wh | Wx | b] and s[t] = [h[t-1]; x[t]; 1]: one product a step forward, one
    backward, and one for the gradients of all three weights.
  * σ(z) = ½ + ½ tanh(z/2): with the rows i, f, o of W halved beforehand, one tanh serves all four gates.

Inputs are numbers, `[S, D, N]`, or tokens, integers `[S, N]`: a token picks its column of Wx, which is the
product with a one-hot vector, and x has no rows in s. `mask [S, N]` is 0 at a padded step, where h and c
are set to zero: a left-padded sequence starts from zeros when its first step comes.

Truncated BPTT needs no code here: run `lstm_backward` on the steps that a gradient may visit,
`cache.steps(t0, t1)`, and drop the dh0 and dc0 it returns. That is the cut.
"""

from typing import Any, NamedTuple

from .arrays import array_module
from .ops import embedding_backward, embedding_forward


class LSTMCache(NamedTuple):
    """What back-propagation needs of S consecutive steps. Filled once, never changed after."""

    s: Any  # [S+1, H+D+1, N] h[t-1]; x[t]; 1 (slot 0 has the initial h, slot S the last h and no x)
    c: Any  # [S+1, H, N]     c[t-1] (slot 0 has the initial c)
    gates: Any  # [S, 4H, N]  activated i, f, g, o
    W: Any  # [4H, H+D+1]     Wh | Wx | b; Wh | b for tokens
    W_half: Any  # the same with the rows of i, f, o halved
    Wx_half: Any  # [4H, V]   for tokens, else None
    tokens: Any  # [S, N]     for tokens, else None
    mask: Any  # [S, N]       or None

    @property
    def h(self):
        """The states `[S+1, H, N]`, the initial one in slot 0."""
        return self.s[:, : self.c.shape[1]]

    def steps(self, t0, t1):
        """The cache of steps t0 ... t1-1 alone, as views."""
        tokens, mask = (a if a is None else a[t0:t1] for a in (self.tokens, self.mask))
        return self._replace(
            s=self.s[t0 : t1 + 1], c=self.c[t0 : t1 + 1], gates=self.gates[t0:t1], tokens=tokens, mask=mask
        )


def lstm_begin(S, h0, c0, Wx, Wh, b, tokens=False, mask=None):
    """The empty cache of S steps from the state h0, c0 `[H, N]`; `lstm_step` fills it step by step."""
    xp, (H, N), dtype = array_module(h0), h0.shape, h0.dtype
    W = xp.concatenate([Wh, b] if tokens else [Wh, Wx, b], axis=1)
    half = xp.full((4 * H, 1), 0.5, dtype)
    half[2 * H : 3 * H] = 1  # g is a tanh already
    s = xp.empty((S + 1, W.shape[1], N), dtype)
    c = xp.empty((S + 1, H, N), dtype)
    s[0, :H], c[0], s[:, -1] = h0, c0, 1
    gates = xp.empty((S, 4 * H, N), dtype)
    ids = xp.empty((S, N), "int64") if tokens else None
    return LSTMCache(s, c, gates, W, W * half, Wx * half if tokens else None, ids, mask)


def lstm_cell(cache, s, c, gates, h_next, c_next, token=None):
    """The equations above for one step: writes `gates [4H, N]`, `h_next [H, N]`, `c_next [H, N]`.

    `s [H+D+1, N]` is [h; x; 1], `c [H, N]`; h_next and c_next may be where h and c stand.
    """
    xp, H = array_module(c), len(c)
    xp.matmul(cache.W_half, s, out=gates)  # z = Wh h + Wx x + b (the rows of i, f, o halved)
    if token is not None:
        gates += cache.Wx_half[:, token]
    xp.tanh(gates, out=gates)
    for block in gates[: 2 * H], gates[3 * H :]:  # i, f and o: σ(z) = ½ + ½ tanh(z/2)
        block *= 0.5
        block += 0.5
    i, f, g, o = gates.reshape(4, H, -1)
    xp.multiply(f, c, out=c_next)  # c[t] = f * c[t-1] + i * g
    c_next += i * g
    xp.tanh(c_next, out=h_next)  # h[t] = o * tanh(c[t])
    h_next *= o


def lstm_step(t, x_t, cache):
    """Step t of a begun sequence: x_t `[D, N]` (or tokens `[N]`) to h[t] `[H, N]`, which stays in the cache."""
    H, token = cache.c.shape[1], None
    if cache.tokens is None:
        cache.s[t, H:-1] = x_t
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
    cache = lstm_begin(len(x), h0, c0, Wx, Wh, b, x.ndim == 2, mask)
    for t in range(len(x)):
        lstm_step(t, x[t], cache)
    return cache.h, cache.c, cache


def lstm_advance(x, h0, c0, Wx, Wh, b, mask=None):
    """The last state (h `[H, N]`, c `[H, N]`) of `lstm_forward`, with nothing else kept on the way."""
    H, tokens = len(h0), x.ndim == 2
    cache = lstm_begin(1, h0, c0, Wx, Wh, b, tokens)
    s, c, gates = cache.s[0], cache.c[0], cache.gates[0]
    h = s[:H]
    for t in range(len(x)):
        if not tokens:
            s[H:-1] = x[t]
        lstm_cell(cache, s, c, gates, h, c, x[t] if tokens else None)
        if mask is not None:
            h *= mask[t]
            c *= mask[t]
    return h, c


def lstm_backward(dh, dh_last, dc_last, cache):
    """Back-propagation through the cached steps.

    dh `[S, H, N]` holds the gradients that enter each h[t] from outside (None: none do); dh_last, dc_last
    `[H, N]` enter the last state besides (None: zero). Returns dx `[S, D, N]` (None for tokens), dh0, dc0
    `[H, N]`, dWx, dWh, db.
    """
    s, c, gates, W = cache.s, cache.c, cache.gates, cache.W
    xp, tokens, S, (H, N) = array_module(c), cache.tokens is not None, len(gates), c.shape[1:]
    dh_t = xp.zeros_like(c[0]) if dh_last is None else dh_last  # [H, N]
    dc = xp.zeros_like(c[0]) if dc_last is None else dc_last.copy()  # [H, N]
    dW, dW_t = xp.zeros_like(W), xp.empty_like(W)  # [4H, H+D+1] the sum, and one step's part
    ds, dz, slope = (xp.empty((rows, N), c.dtype) for rows in (W.shape[1], 4 * H, 4 * H))
    dz_i, dz_f, dz_g, dz_o = dz.reshape(4, H, N)  # [H, N] each, views of dz
    dx = None if tokens else xp.empty((S, W.shape[1] - H - 1, N), c.dtype)
    dWx = xp.zeros_like(cache.Wx_half) if tokens else None  # [4H, V]
    for t in reversed(range(S)):
        i, f, g, o = gates[t].reshape(4, H, N)  # [H, N] each
        if dh is not None:
            dh_t = dh_t + dh[t]
        if cache.mask is not None:  # h, c = mask * h, mask * c
            dh_t = dh_t * cache.mask[t]
            dc *= cache.mask[t]
        tanh_c = xp.tanh(c[t + 1])  # [H, N]
        xp.multiply(dh_t, tanh_c, out=dz_o)  # h[t] = o * tanh(c[t]); dz holds di, df, dg, do at first
        dc += dh_t * o * (1 - tanh_c * tanh_c)
        xp.multiply(dc, g, out=dz_i)  # c[t] = f * c[t-1] + i * g
        xp.multiply(dc, c[t], out=dz_f)
        xp.multiply(dc, i, out=dz_g)
        dc *= f
        xp.subtract(1, gates[t], out=slope)  # i, f, o = σ(z): σ' = σ (1 - σ)   [4H, N]
        slope *= gates[t]
        xp.subtract(1, g * g, out=slope[2 * H : 3 * H])  # g = tanh(z): tanh' = 1 - tanh²
        dz *= slope
        xp.matmul(W.T, dz, out=ds)  # z[t] = W s[t]
        dW += xp.matmul(dz, s[t].T, out=dW_t)
        dh_t = ds[:H]  # s[t] = [h[t-1]; x[t]; 1]
        if tokens:  # one-hot product: a token's column collects the dz of the sequences that picked it
            dWx += dz @ (cache.tokens[t][:, None] == xp.arange(dWx.shape[1])).astype(dz.dtype)
        else:
            dx[t] = ds[H:-1]
    return dx, dh_t, dc, dWx if tokens else dW[:, H:-1], dW[:, :H], dW[:, -1:]


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
