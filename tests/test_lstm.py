"""The LSTM against its equations written out, and against finite differences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minaux import plain
from minaux.gradcheck import check_gradients
from minaux.lstm import add_layer_grads, layer_weights, lstm_advance, lstm_backward, lstm_forward
from tests.strategies import padding, seeds, small, steps


def problem(seed, S, D, H, N, tokens=False):
    r = np.random.default_rng(seed)
    weights = {"Wx": (4 * H, D), "Wh": (4 * H, H), "b": (4 * H, 1)}
    args = {"h0": r.standard_normal((H, N)), "c0": r.standard_normal((H, N))}
    args.update({k: r.standard_normal(shape) for k, shape in weights.items()})
    x = r.integers(0, D, (S, N)) if tokens else r.standard_normal((S, D, N))
    return x, args, r


def by_the_book(x, args, mask=None):
    """The states h, c `[S+1, H, N]` as plain.py has them: tokens as one-hot vectors, a sequence that is padded in
    front as the zeros there, and from zeros on without them."""
    if x.ndim == 2:
        x = (x[:, None] == np.arange(args["Wx"].shape[1])[:, None]).astype(float)
    if mask is None:
        h, c, _ = plain.lstm_forward(x, *args.values())
        return np.array(h), np.array(c)
    h, c = (np.zeros((len(x) + 1, *args["h0"].shape)) for _ in "hc")
    for n, padded in enumerate((len(x) - mask.sum(0)).astype(int)):
        alone = {**args, "h0": args["h0"][:, [n]], "c0": args["c0"][:, [n]]}
        h[0, :, n], c[0, :, n] = args["h0"][:, n], args["c0"][:, n]
        if padded:
            alone.update(h0=0 * alone["h0"], c0=0 * alone["c0"])
        for whole, part in zip((h, c), by_the_book(x[padded:, :, [n]], alone)):
            whole[padded + 1 :, :, n] = part[1:, :, 0]
    return h, c


@given(seeds, steps, small, small, small, st.booleans(), st.booleans())
def test_forward_is_the_equations(seed, S, D, H, N, tokens, padded):
    x, args, r = problem(seed, S, D, H, N, tokens)
    mask = padding(S, N, r.integers(1, S + 1, N)) if padded else None
    h, c, _ = lstm_forward(x, *args.values(), mask)
    expected = by_the_book(x, args, mask)
    np.testing.assert_allclose(h, expected[0], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(c, expected[1], rtol=1e-12, atol=1e-14)
    last = lstm_advance(x, *args.values(), mask)
    assert (last[0] == h[-1]).all() and (last[1] == c[-1]).all()


def test_no_steps_leave_the_state_as_it_is():
    x, args, _ = problem(0, 0, 2, 3, 2)
    h, c = lstm_advance(x, *args.values())
    assert (h == args["h0"]).all() and (c == args["c0"]).all()


@given(seeds, st.integers(1, 20), small, small, small)
def test_backward_is_the_chain_rule_on_the_equations(seed, S, D, H, N):
    """More steps than stand side by side in one product, too."""
    x, args, r = problem(seed, S, D, H, N)
    dh, Wx, Wh = r.standard_normal((S, H, N)), args["Wx"], args["Wh"]
    _, _, cache = lstm_forward(x, *args.values())
    expected = plain.lstm_backward(dh, x, *plain.lstm_forward(x, *args.values()), Wx, Wh)
    for mine, its in zip(lstm_backward(dh, None, None, cache), expected):
        np.testing.assert_allclose(mine, its, rtol=0, atol=1e-12 * max(1, abs(its).max()))


@given(seeds, steps, small, small, small, st.booleans(), st.booleans())
def test_backward(seed, S, D, H, N, tokens, padded):
    x, args, r = problem(seed, S, D, H, N, tokens)
    mask = padding(S, N, r.integers(1, S + 1, N)) if padded else None
    w, w_last, v_last = r.standard_normal((S, H, N)), r.standard_normal((H, N)), r.standard_normal((H, N))

    def loss(a):
        inputs = x if tokens else a["x"]
        h, c, _ = lstm_forward(inputs, a["h0"], a["c0"], a["Wx"], a["Wh"], a["b"], mask)
        return (h[1:] * w).sum() + (h[-1] * w_last).sum() + (c[-1] * v_last).sum()

    _, _, cache = lstm_forward(x, *args.values(), mask)
    seen = cache.s[:-1], cache.h, cache.c, cache.gates, w, w_last, v_last
    before = [a.copy() for a in seen]
    dx, *rest = lstm_backward(w, w_last, v_last, cache)
    grads = dict(zip(args, rest))
    if tokens:
        assert dx is None
    else:
        args, grads = {**args, "x": x}, {**grads, "x": dx}
    check_gradients(loss, args, grads, seed)
    for old, new in zip(before, seen):
        assert (old == new).all()  # a sweep never changes the cache, or what it was given


@given(seeds, st.integers(2, 8), st.data())
def test_sweeps_over_parts_of_the_cache_chain_to_the_whole(seed, S, data):
    t = data.draw(st.integers(0, S))
    x, args, r = problem(seed, S, 2, 3, 2)
    dh = r.standard_normal((S, 3, 2))
    _, _, cache = lstm_forward(x, *args.values())
    whole = lstm_backward(dh, None, None, cache)
    late = lstm_backward(dh[t:], None, None, cache.steps(t, S))
    early = lstm_backward(dh[:t], late[1], late[2], cache.steps(0, t))
    np.testing.assert_allclose(np.concatenate([early[0], late[0]]), whole[0], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(early[1], whole[1], rtol=1e-10, atol=1e-12)
    for a, b, total in zip(early[3:], late[3:], whole[3:]):
        np.testing.assert_allclose(a + b, total, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("tokens", [False, True])
def test_padding_changes_nothing(tokens):
    """A left-padded sequence has the states and gradients that it has alone."""
    x, args, r = problem(3, 7, 3, 2, 2, tokens)
    zeros = {"h0": np.zeros((2, 2)), "c0": np.zeros((2, 2))}
    mask = padding(7, 2, [4, 7])
    dh = r.standard_normal((2, 2))
    h, _, cache = lstm_forward(x, *{**args, **zeros}.values(), mask)
    alone = {k: a[:, :1] if k in zeros else a for k, a in {**args, **zeros}.items()}
    h1, _, cache1 = lstm_forward(x[3:, ..., :1], *alone.values())
    np.testing.assert_allclose(h[4:, :, :1], h1[1:], rtol=1e-12)
    first = dh * [[1, 0]]  # a loss of the short sequence alone
    for padded, bare in zip(
        lstm_backward(None, first, None, cache)[3:], lstm_backward(None, dh[:, :1], None, cache1)[3:]
    ):
        np.testing.assert_allclose(padded, bare, rtol=1e-12, atol=1e-15)


def test_float32_stays_float32():
    x, args, _ = problem(0, 4, 2, 3, 2)
    _, _, cache = lstm_forward(x.astype("f"), *(a.astype("f") for a in args.values()))
    grads = lstm_backward(np.ones((4, 3, 2), "f"), None, None, cache)
    assert {g.dtype for g in grads} == {np.dtype("float32")}


def test_layer_without_an_embedding_is_its_weights():
    params = {"top.Wx": np.ones((4, 2)), "top.Wh": np.ones((4, 1)), "top.b": np.ones((4, 1))}
    weights, embedding = layer_weights(params, "top")
    assert embedding is None and all(w is p for w, p in zip(weights, params.values()))
    grads = {name: np.zeros_like(w) for name, w in params.items()}
    add_layer_grads(grads, "top", *(2 * w for w in weights), None)
    assert all((g == 2).all() for g in grads.values())
