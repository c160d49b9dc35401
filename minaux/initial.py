"""The LSTM's parameters, with classifier and auxiliary heads: their names, shapes and initial values."""

import zlib
from typing import NamedTuple

import numpy as np

from .arrays import WEIGHTS, rng


class Sizes(NamedTuple):
    """What the shapes of the parameters follow from."""

    D: int  # numbers a step, or V, the number of different tokens
    H: int  # hidden units, and the width of the input embedding
    classes: int
    tokens: bool = False


def parameter_shapes(sizes, aux):
    """Name -> shape of every parameter; `aux` is "none", "r", "p" or "rp"."""
    D, H, classes, tokens = sizes
    embedding = {"We": (H, D)} if tokens else {"We": (H, D), "be": (H, 1)}
    layer = {"Wx": (4 * H, H), "Wh": (4 * H, H), "b": (4 * H, 1)}
    shapes = within("main", {**embedding, **layer})
    shapes |= mlp_shapes("classifier", H, H, classes)
    for kind in aux if aux != "none" else ():
        shapes |= within(f"{kind}.bottom", {**(embedding if kind == "r" else {}), **layer})
        shapes |= within(f"{kind}.top", layer)
        shapes |= mlp_shapes(f"{kind}.head", H, H, D)
    return shapes


def mlp_shapes(name, H, inputs, outputs):
    """The shapes of a classifier or head: hidden layers twice as wide as the LSTM, 256 on 128 in the paper."""
    layers = enumerate([(2 * H, inputs), (2 * H, 2 * H), (outputs, 2 * H)], start=1)
    return within(name, {k: v for i, (n, m) in layers for k, v in ((f"W{i}", (n, m)), (f"b{i}", (n, 1)))})


def within(name, shapes):
    """{"Wx": ...} as {"name.Wx": ...}."""
    return {f"{name}.{key}": shape for key, shape in shapes.items()}


def init_params(sizes, aux, T, seed=0, forget_bias=1.0, dtype="float32"):
    """Initial weights, on the host: Glorot uniform (each gate a layer of its own), Wh orthogonal by gate,
    token tables N(0, 1), biases 0 but for the gates' (see `gate_biases`).

    Every parameter has a stream of its own, so none, r and p start from the same main LSTM.
    """
    params, H = {}, sizes.H
    for name, shape in parameter_shapes(sizes, aux).items():
        r, kind = parameter_rng(seed, name), name.split(".")[-1]
        if kind == "Wh":
            w = np.concatenate([orthogonal(r, H) for _ in "ifgo"])
        elif kind == "Wx":
            w = glorot(r, shape, fan_out=H)
        elif kind == "We" and sizes.tokens:
            w = r.standard_normal(shape)
        elif kind == "b":
            w = gate_biases(r, H, T, forget_bias)
        else:
            w = initial_linear(r, kind, shape)
        params[name] = w.astype(dtype)
    return params


def parameter_rng(seed, name):
    """The generator of a parameter's initial value."""
    return rng(seed, WEIGHTS, zlib.crc32(name.encode()))


def initial_linear(r, kind, shape):
    """The initial value of a linear layer's weight (kind W...: Glorot's) or bias (kind b...: 0)."""
    return glorot(r, shape, shape[0]) if kind.startswith("W") else np.zeros(shape)


def glorot(r, shape, fan_out):
    """Uniform weights `[., fan_in]` (Glorot & Bengio 2010)."""
    limit = np.sqrt(6 / (fan_out + shape[1]))
    return r.uniform(-limit, limit, shape)


def gate_biases(r, H, T, forget_bias):
    """b `[4H, 1]`: 0 but the forget gates' `forget_bias`, or one of two words:

    "chrono"      b_f = log U[1, T-1], b_i = -b_f (Tallec & Ollivier 2018)
    "loguniform"  b_f = U[0, log(T-1)], b_i = -b_f

    A unit's memory lasts about exp(b_f) steps: hundreds for most units with chrono, as often few or tens with
    loguniform.
    """
    b, longest = np.zeros((4 * H, 1)), max(T - 1, 1)
    if forget_bias == "chrono":
        b[H : 2 * H, 0] = np.log(r.uniform(1, longest, H))
        b[:H] = -b[H : 2 * H]
    elif forget_bias == "loguniform":
        b[H : 2 * H, 0] = r.uniform(0, np.log(longest), H)
        b[:H] = -b[H : 2 * H]
    else:
        b[H : 2 * H] = forget_bias
    return b


def orthogonal(r, H):
    """A random orthogonal `[H, H]`, uniform: QR with the signs of R's diagonal (Mezzadri 2007)."""
    q, upper = np.linalg.qr(r.standard_normal((H, H)))
    return q * np.sign(np.diag(upper))
