"""Shapes and seeds for Hypothesis; the values come from `default_rng(seed)`."""

import numpy as np
from hypothesis import strategies as st

from minaux.initial import Sizes, parameter_shapes
from minaux.model import draw

seeds = st.integers(0, 2**32 - 1)
small = st.integers(1, 4)
steps = st.integers(3, 8)


def random_model(rng, aux, D, H, tokens=False):
    """Parameters of a small model with 3 classes, name -> float64 array."""
    shapes = parameter_shapes(Sizes(D, H, 3, tokens), aux)
    return {name: 0.5 * rng.standard_normal(shape) for name, shape in shapes.items()}


def random_batch(rng, T, D, N, tokens=False):
    """x `[T, D, N]`, or `[T, N]` tokens below D, and y `[N]`."""
    return rng.integers(0, D, (T, N)) if tokens else rng.random((T, D, N)), rng.integers(0, 3, N)


def padding(T, N, lengths):
    """The mask `[T, N]` of left-padded sequences of these lengths."""
    return (np.arange(T)[:, None] >= T - np.asarray(lengths)).astype(float)


@st.composite
def problems(draw_from):
    """A whole small training problem: its seed, and a dict of what `loss_and_grads` takes."""
    seed, kind = draw_from(seeds), draw_from(st.sampled_from(["none", "r", "p", "rp"]))
    T, N, H, D = draw_from(st.integers(3, 12)), draw_from(small), draw_from(small), draw_from(small)
    tokens, padded, pretraining = draw_from(st.booleans()), draw_from(st.booleans()), draw_from(st.booleans())
    shortest = draw_from(st.integers(3, T)) if padded else T
    K, aux_K = draw_from(st.integers(0, T + 2)), draw_from(st.integers(0, T + 2))
    L, anchors = draw_from(st.integers(2, T)), draw_from(st.integers(1, 2))
    rng = np.random.default_rng(seed)
    params = random_model(rng, kind, D, H, tokens)
    x, y = random_batch(rng, T, D, N, tokens)
    shapes = {name: w.shape for name, w in params.items()}
    how = {"own_probability": 0.5, "dropconnect": 0.3, "shortest": shortest}
    draws = draw(seed, 0, kind, anchors, L, T, N, shapes, **how)
    lengths = rng.integers(shortest, T + 1, N)
    lengths[0] = shortest
    return seed, {
        "params": params,
        "x": x,
        "y": None if pretraining and kind != "none" else y,
        "draws": draws,
        "K": K,
        "aux_K": aux_K,
        "aux_weight": 0.7,
        "batch_size": N + 1,
        "mask": padding(T, N, lengths) if padded else None,
    }
