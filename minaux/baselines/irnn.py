"""The iRNN (Le, Jaitly & Hinton 2015), a baseline: a recurrent network of ReLUs that starts as the identity.

    h[t] = max(Wh h[t-1] + Wx x[t] + b, 0)         [H, N], Wh at first the identity, b zero

There is no input embedding: Wx `[H, D]` takes the numbers as they are, of tokens a column each. The classifier is
the LSTM's. There is no auxiliary loss: its decoders start from an LSTM's two states.
"""

import numpy as np

from ..arrays import array_module
from ..initial import initial_linear, mlp_shapes, parameter_rng
from ..model import between, classify
from ..ops import mlp_forward
from ..windows import supervised_span
from . import supervised_result


def parameter_shapes(sizes, aux="none"):
    """As `initial.parameter_shapes`."""
    D, H, classes, _ = sizes
    shapes = {"main.Wx": (H, D), "main.Wh": (H, H), "main.b": (H, 1)}
    return {**shapes, **mlp_shapes("classifier", H, H, classes)}


def init_params(sizes, aux="none", T=None, seed=0, forget_bias=None, dtype="float32"):
    """As `initial.init_params`: Wh the identity, Wx N(0, 0.3²). T and `forget_bias` are not used."""
    params = {}
    for name, shape in parameter_shapes(sizes, aux).items():
        r = parameter_rng(seed, name)
        if name == "main.Wh":
            w = np.eye(sizes.H)
        elif name == "main.Wx":
            w = 0.3 * r.standard_normal(shape)  # Le et al. have 0.001, with which it learns far later
        else:
            w = initial_linear(r, name.split(".")[-1], shape)
        params[name] = w.astype(dtype)
    return params


def irnn_forward(x, h, Wx, Wh, b, mask=None):
    """S steps over x `[S, D, N]` (tokens `[S, N]`) from h `[H, N]`: the states `[S+1, H, N]`, h in slot 0."""
    xp = array_module(h)
    hs = xp.empty((len(x) + 1, *h.shape), h.dtype)
    hs[0] = h
    for t in range(len(x)):
        step(x[t], hs[t], hs[t + 1], Wx, Wh, b, None if mask is None else mask[t])
    return hs


def irnn_advance(x, h, Wx, Wh, b, mask=None):
    """The last state of `irnn_forward`, with nothing else kept."""
    h = h.copy()
    for t in range(len(x)):
        step(x[t], h, h, Wx, Wh, b, None if mask is None else mask[t])
    return h


def step(x_t, h, h_next, Wx, Wh, b, mask_t):
    """The equation for one step, into h_next; at padded steps zero."""
    z = Wh @ h
    z += Wx[:, x_t] if x_t.ndim == 1 else Wx @ x_t
    z += b
    array_module(h).maximum(z, 0, out=h_next)
    if mask_t is not None:
        h_next *= mask_t


def irnn_backward(dh, x, hs, Wx, Wh):
    """Back through the steps of `hs` from dh `[H, N]`, the gradient of the last state. Returns dWx, dWh, db and dh
    of the first state."""
    xp = array_module(hs)
    dWx, dWh, db = xp.zeros_like(Wx), xp.zeros_like(Wh), xp.zeros_like(Wh[:, :1])
    for t in reversed(range(len(x))):
        dz = dh * (hs[t + 1] > 0)  # h[t] = max(z, 0), and 0 at padded steps
        inputs = x[t] if x.ndim == 3 else (x[t] == xp.arange(Wx.shape[1])[:, None]).astype(dz.dtype)
        dWx += dz @ inputs.T
        dWh += dz @ hs[t].T
        db += dz.sum(1, keepdims=True)
        dh = Wh.T @ dz  # z = Wh h[t-1] + ...
    return dWx, dWh, db, dh


def weights(params):
    return params["main.Wx"], params["main.Wh"], params["main.b"]


def logits(params, x, mask=None):
    """The scores of the classes `[classes, N]`, without DropConnect."""
    Wh = params["main.Wh"]
    h = irnn_advance(x, array_module(x).zeros((len(Wh), x.shape[-1]), Wh.dtype), *weights(params), mask)
    return mlp_forward(h, params, "classifier")[0]


def loss_and_grads(params, x, y, draws, K, aux_K=0, aux_weight=1.0, batch_size=None, mask=None):
    """As `model.loss_and_grads`, of the supervised loss alone: truncated at K, the state before step T-K is a
    constant; at K = 0 the classifier alone is trained."""
    xp, t0 = array_module(x), supervised_span(len(x), K)[0]
    zeros = xp.zeros((len(params["main.Wh"]), x.shape[-1]), params["main.Wh"].dtype)
    h = irnn_advance(x[:t0], zeros, *weights(params), between(mask, 0, t0))
    hs = irnn_forward(x[t0:], h, *weights(params), between(mask, t0, len(x)))
    grads = {name: xp.zeros_like(w) for name, w in params.items()}
    loss, dh = classify(params, hs[-1], y, draws.masks, 1 / (batch_size or x.shape[-1]), grads)
    if K > 0:
        *dweights, _ = irnn_backward(dh, x[t0:], hs, params["main.Wx"], params["main.Wh"])
        grads["main.Wx"], grads["main.Wh"], grads["main.b"] = dweights
    return supervised_result(loss, grads, "main.Wh")
