"""Every forward/backward pair against finite differences, with loss = sum(out · w)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minaux import ops
from minaux.gradcheck import check_gradients
from tests.strategies import seeds, small


def check_pair(forward, backward, args, seed):
    """Check `backward` on sum(out · w) for random w; `args` name -> array, in the order of forward's."""
    out, cache = forward(*args.values())
    w = np.random.default_rng(seed).standard_normal(np.shape(out))
    grads = backward(w, cache)
    grads = dict(zip(args, grads if isinstance(grads, tuple) else (grads,)))
    check_gradients(lambda a: (forward(*a.values())[0] * w).sum(), args, grads, seed)


@given(seeds, small, small, small)
def test_linear(seed, n_in, n_out, N):
    r = np.random.default_rng(seed)
    args = {"x": r.random((n_in, N)), "W": r.random((n_out, n_in)), "b": r.random((n_out, 1))}
    check_pair(ops.linear_forward, ops.linear_backward, args, seed)


@given(seeds, small, small)
def test_relu(seed, n, N):
    z = np.random.default_rng(seed).standard_normal((n, N))
    z += np.where(z > 0, 0.01, -0.01)  # away from the kink
    check_pair(lambda z: ops.relu_forward(z.copy()), ops.relu_backward, {"z": z}, seed)


@given(seeds, small, small)
def test_dropconnect(seed, n, m):
    r = np.random.default_rng(seed)
    mask = (r.random((n, m)) < 0.5) * 2.0
    check_pair(lambda W: ops.dropconnect_forward(W, mask), ops.dropconnect_backward, {"W": r.random((n, m))}, seed)


@given(seeds, small, small, small, st.booleans())
def test_embedding_folds_into_the_gates(seed, D, E, H, tokens):
    r = np.random.default_rng(seed)
    args = {"We": r.random((E, D)), "be": r.random((E, 1)), "Wx": r.random((4 * H, E)), "b": r.random((4 * H, 1))}
    if tokens:
        args["be"] = None
    (A, bias), cache = ops.embedding_forward(*args.values())
    x = r.random((D, 3))
    embedded = args["We"] @ x + (0 if tokens else args["be"])
    np.testing.assert_allclose(A @ x + bias, args["Wx"] @ embedded + args["b"], rtol=1e-12)

    wA, wb = r.standard_normal(A.shape), r.standard_normal(bias.shape)
    grads = dict(zip(args, ops.embedding_backward((wA, wb), cache)))

    def loss(a):
        (A, bias), _ = ops.embedding_forward(*a.values())
        return (A * wA).sum() + (bias * wb).sum()

    check_gradients(loss, args, {k: g for k, g in grads.items() if g is not None}, seed)


@given(seeds, small, small, st.booleans())
def test_mlp(seed, H, N, drop):
    r = np.random.default_rng(seed)
    shapes = {
        "W1": (2 * H, H),
        "W2": (2 * H, 2 * H),
        "W3": (3, 2 * H),
        "b1": (2 * H, 1),
        "b2": (2 * H, 1),
        "b3": (3, 1),
    }
    params = {f"head.{k}": r.standard_normal(shape) for k, shape in shapes.items()}
    masks = {k: (r.random(params[k].shape) < 0.5) * 2.0 for k in ("head.W1", "head.W2")} if drop else None
    x, w = r.standard_normal((H, N)), r.standard_normal((3, N))

    def loss(args):
        y, inputs = ops.mlp_forward(args["x"], args, "head", masks)
        return (y * w).sum(), [relu > 0 for relu in inputs[1:]]

    grads = {k: np.zeros_like(p) for k, p in params.items()}
    _, inputs = ops.mlp_forward(x, params, "head", masks)
    grads["x"] = ops.mlp_backward(w, inputs, params, grads, "head", masks)
    check_gradients(loss, {**params, "x": x}, grads, seed)


@given(seeds, small, small)
def test_mse(seed, D, N):
    r = np.random.default_rng(seed)
    y, target = r.random((D, N)), r.random((D, N))
    loss, cache = ops.mse_forward(y, target, 0.25)
    assert loss == pytest.approx(0.25 * sum((a - b) ** 2 for a, b in zip(y.ravel(), target.ravel())))
    grads = {"y": ops.mse_backward(cache)}
    check_gradients(lambda a: ops.mse_forward(a["y"], target, 0.25)[0], {"y": y}, grads, seed)


@given(seeds, st.integers(2, 5), small)
def test_softmax_cross_entropy(seed, C, N):
    r = np.random.default_rng(seed)
    logits, labels = 3 * r.standard_normal((C, N)), r.integers(0, C, N)
    loss, cache = ops.softmax_cross_entropy_forward(logits, labels, 0.5)
    p = np.exp(logits) / np.exp(logits).sum(0)
    assert loss == pytest.approx(-0.5 * sum(np.log(p[label, n]) for n, label in enumerate(labels)))
    grads = {"logits": ops.softmax_cross_entropy_backward(cache)}

    def f(a):
        return ops.softmax_cross_entropy_forward(a["logits"], labels, 0.5)[0]

    check_gradients(f, {"logits": logits}, grads, seed)


def test_softmax_cross_entropy_of_huge_logits_is_finite():
    logits = np.array([[1e4, -1e4], [0.0, 0.0]], np.float32)
    loss, cache = ops.softmax_cross_entropy_forward(logits, np.array([1, 0]), 1.0)
    assert loss == 2e4 and np.isfinite(ops.softmax_cross_entropy_backward(cache)).all()
