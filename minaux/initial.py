"""The parameters: their names, shapes and initial values."""

import zlib
from typing import NamedTuple

import numpy as np

from .arrays import WEIGHTS, rng

LAYERS, HEADS = 2, 4  # of the Transformer


class Sizes(NamedTuple):
    """What the shapes of the parameters follow from."""

    D: int  # numbers a step, or V, the number of different tokens
    H: int  # hidden units, and the width of the input embedding
    classes: int
    tokens: bool = False
    model: str = "lstm"


def encoder_widths(H):
    """The widths E and F of the Transformer's layers and of their feed-forward parts."""
    # Two layers of 3/4 H rather than one of H, in which no step could look at what others have seen. With the
    # classifier 233,882 parameters for pMNIST at 128 hidden units, where the LSTM has 233,226.
    d = -(-3 * H // (4 * HEADS))
    return HEADS * d, 7 * d


def parameter_shapes(sizes, aux):
    """Name -> shape of every parameter; `aux` is "none", "r", "p" or "rp"."""
    D, H, classes, tokens, model = sizes
    shapes = {}

    def lstm(name, inputs, embedded):
        if embedded:
            shapes[f"{name}.We"] = (H, inputs)
            if not tokens:
                shapes[f"{name}.be"] = (H, 1)
            inputs = H
        shapes.update({f"{name}.Wx": (4 * H, inputs), f"{name}.Wh": (4 * H, H), f"{name}.b": (4 * H, 1)})

    def mlp(name, outputs, inputs=H):  # hidden layers twice as wide as the LSTM: 256 on 128 in the paper
        for layer, (n, m) in enumerate([(2 * H, inputs), (2 * H, 2 * H), (outputs, 2 * H)], start=1):
            shapes.update({f"{name}.W{layer}": (n, m), f"{name}.b{layer}": (n, 1)})

    if model == "transformer":
        E, F = encoder_widths(H)
        shapes.update({"main.We": (E, D)} if tokens else {"main.We": (E, D), "main.be": (E,)})
        for n in range(LAYERS):
            for name, out, inputs in [*((c, E, E) for c in "qkvo"), ("1", F, E), ("2", E, F)]:
                shapes.update({f"layer{n}.W{name}": (out, inputs), f"layer{n}.b{name}": (out,)})
        for norm in [*(f"layer{n}.norm{m}" for n in range(LAYERS) for m in (1, 2)), "norm"]:
            shapes.update({f"{norm}.gain": (E,), f"{norm}.bias": (E,)})
        mlp("classifier", classes, inputs=E)
        return shapes
    if model == "irnn":
        shapes.update({"main.Wx": (H, D), "main.Wh": (H, H), "main.b": (H, 1)})
    else:
        lstm("main", D, embedded=True)
    mlp("classifier", classes)
    for kind in aux if aux != "none" else ():
        lstm(f"{kind}.bottom", D if kind == "r" else H, embedded=kind == "r")
        lstm(f"{kind}.top", H, embedded=False)
        mlp(f"{kind}.head", D)
    return shapes


def init_params(sizes, aux, T, seed=0, forget_bias=1.0, dtype="float32"):
    """Initial weights, on the host: Glorot uniform (each gate a layer of its own), Wh orthogonal by gate,
    token tables N(0, 1), biases 0 but the forget gates': `forget_bias`, or "chrono" for
    b_f = log U[1, T-1], b_i = -b_f (Tallec & Ollivier 2018), or "loguniform" for b_f = U[0, log(T-1)], b_i = -b_f:
    a unit's memory lasts about exp(b_f) steps, hundreds for most units with chrono, as often few or tens with
    loguniform. An iRNN's Wh is the identity, its Wx N(0, 0.001²);
    a Transformer's We is N(0, 1) for numbers too, so that they weigh about as much as positions; its gains are 1.

    Every parameter has a stream of its own, so none, r and p start from the same main LSTM.
    """
    params = {}
    for name, shape in parameter_shapes(sizes, aux).items():
        r = rng(seed, WEIGHTS, zlib.crc32(name.encode()))
        H, kind = sizes.H, name.split(".")[-1]
        if sizes.model == "irnn" and name == "main.Wh":
            w = np.eye(H)
        elif sizes.model == "irnn" and name == "main.Wx":
            w = 0.001 * r.standard_normal(shape)
        elif kind == "Wh":
            w = np.concatenate([orthogonal(r, H) for _ in "ifgo"])
        elif kind == "We" and (sizes.tokens or sizes.model == "transformer"):
            w = r.standard_normal(shape)
        elif kind.startswith("W"):
            fan_out = H if kind == "Wx" else shape[0]
            limit = np.sqrt(6 / (fan_out + shape[1]))
            w = r.uniform(-limit, limit, shape)
        else:
            w = np.full(shape, 1.0 if kind == "gain" else 0.0)
            if sizes.model != "lstm":
                pass  # no gates
            elif kind == "b" and forget_bias in ("chrono", "loguniform"):
                longest = max(T - 1, 1)
                chrono = forget_bias == "chrono"
                w[H : 2 * H, 0] = np.log(r.uniform(1, longest, H)) if chrono else r.uniform(0, np.log(longest), H)
                w[:H] = -w[H : 2 * H]
            elif kind == "b":
                w[H : 2 * H] = forget_bias
        params[name] = w.astype(dtype)
    return params


def orthogonal(r, H):
    """A random orthogonal `[H, H]`, uniform: QR with the signs of R's diagonal (Mezzadri 2007)."""
    q, upper = np.linalg.qr(r.standard_normal((H, H)))
    return q * np.sign(np.diag(upper))
