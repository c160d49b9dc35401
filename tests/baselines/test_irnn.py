"""The iRNN: its equation, its gradients, its start, and that it trains."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import datasets
from minaux.baselines import irnn
from minaux.gradcheck import check_gradients
from minaux.initial import Sizes
from minaux.model import Draws, draw
from minaux.training import config
from minaux.training.loop import train
from minaux.training.run import new_state, set_up
from tests.conftest import tiny
from tests.gpu import standin
from tests.strategies import padding, random_batch, seeds, small, steps


def problem(seed, T, D, H, N, tokens, padded):
    r = np.random.default_rng(seed)
    shapes = irnn.parameter_shapes(Sizes(D, H, 3, tokens))
    params = {name: 0.7 * r.standard_normal(shape) for name, shape in shapes.items()}
    x, y = random_batch(r, T, D, N, tokens)
    mask = padding(T, N, r.integers(1, T + 1, N)) if padded else None
    return params, x, y, draw(seed, 0, "none", 1, 2, T, N, shapes, dropconnect=0.3), mask


def states(params, x, h, mask):
    """The equation at the top of irnn.py, step by step: the states, and the signs inside the ReLUs."""
    kinks = []
    for t in range(len(x)):
        inputs = x[t] if x.ndim == 3 else np.eye(params["main.Wx"].shape[1])[:, x[t]]
        z = params["main.Wh"] @ h + params["main.Wx"] @ inputs + params["main.b"]
        kinks.append(z > 0)
        h = np.maximum(z, 0) * (1 if mask is None else mask[t])
    return h, kinks


@given(seeds, steps, small, small, small, st.booleans(), st.booleans(), st.integers(0, 9))
def test_gradients(seed, T, D, H, N, tokens, padded, K):
    """Against differences of the loss with the state before step T-K held constant."""
    params, x, y, draws, mask = problem(seed, T, D, H, N, tokens, padded)
    result = irnn.loss_and_grads(params, x, y, draws, K, mask=mask, batch_size=N + 1)
    cut = max(T - K, 0)
    zeros = np.zeros((H, N))
    entry, _ = states(params, x[:cut], zeros, None if mask is None else mask[:cut])

    def loss(p):
        h, kinks = states(p, x[cut:], entry, None if mask is None else mask[cut:])
        for layer in "12":
            W = p[f"classifier.W{layer}"] * draws.masks[f"classifier.W{layer}"]
            h = W @ h + p[f"classifier.b{layer}"]
            kinks.append(h > 0)
            h = np.maximum(h, 0)
        scores = p["classifier.W3"] @ h + p["classifier.b3"]
        logp = scores - np.log(np.exp(scores).sum(0))
        return -logp[y, range(N)].sum() / (N + 1), kinks

    assert float(result.losses["supervised"]) == pytest.approx(loss(params)[0], rel=1e-12)
    check_gradients(loss, params, result.grads, seed)
    assert result.grads.keys() == params.keys()


def test_scores_are_those_of_training_without_dropconnect():
    params, x, y, draws, mask = problem(3, 7, 2, 4, 5, False, True)
    scores = irnn.logits(params, x, mask)
    logp = scores - np.log(np.exp(scores).sum(0))
    loss = irnn.loss_and_grads(params, x, y, draws._replace(masks={}), 3, mask=mask).losses["supervised"]
    assert loss == pytest.approx(-logp[y, range(5)].mean(), rel=1e-12)


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("where", ["standin", pytest.param("gpu", marks=pytest.mark.gpu)])
def test_a_gpu_gives_the_same(where, tokens, monkeypatch):
    if where == "standin":
        monkeypatch.setitem(sys.modules, "cupy", standin.cupy())
    import cupy

    params, x, y, _, mask = problem(7, 9, 3, 4, 5, tokens, padded=True)
    expected, scores = irnn.loss_and_grads(params, x, y, Draws(), 6, mask=mask), irnn.logits(params, x, mask)
    params = {name: cupy.asarray(w) for name, w in params.items()}
    x, y, mask = map(cupy.asarray, (x, y, mask))
    standin.transfers.clear()
    found, mine = irnn.loss_and_grads(params, x, y, Draws(), 6, mask=mask), irnn.logits(params, x, mask)
    assert standin.transfers == []  # nothing comes back to the host, or waits for it
    np.testing.assert_allclose(mine.get(), scores, rtol=1e-9)
    for name, grad in expected.grads.items():
        np.testing.assert_allclose(found.grads[name].get(), grad, rtol=1e-9, atol=1e-12)


def test_it_starts_as_the_identity():
    params = irnn.init_params(Sizes(3, 64, 10))
    assert (params["main.Wh"] == np.eye(64)).all() and not params["main.b"].any()
    assert 0.24 < params["main.Wx"].std() < 0.36 and params["main.Wx"].shape == (64, 3)


def test_it_learns(tmp_path):
    r = np.random.default_rng(0)
    y = r.integers(0, 3, 120)
    x = r.integers(0, 60, (120, 12, 1)) + 80 * y[:, None, None]
    task = datasets.Task(x.astype(np.uint8), y, x.astype(np.uint8), y, classes=3)
    given = {"task": "mnist", "model": "irnn", "hidden": 16, "lr": 3e-3, "epochs": 30, "batch_size": 20}
    run = set_up(config.build({**given, "valid": 0, "threads": 2, "quiet": True}, 2), task, tmp_path / "run")
    result = train(run, new_state(run))
    assert result["model"] == "irnn" and result["test_accuracy"] > 0.9


@pytest.mark.parametrize("tokens", [False, True])
def test_the_command_trains_and_tests_it(invoke, tmp_path, tokens):
    r = np.random.default_rng(0)
    x = r.integers(0, 5, (40, 12)) if tokens else r.random((40, 12, 2))
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(40) % 2)
    ended = invoke(*tiny("npz", tmp_path / "x.npz", "none", tmp_path / "run"), "--model", "irnn")
    assert ended.status == 0, ended.stderr
    assert invoke("evaluate", tmp_path / "run", "--json").status == 0
    assert "only LSTMs" in invoke("export", tmp_path / "run", "--out", tmp_path / "w.safetensors").stderr
    refused = invoke(*tiny("npz", tmp_path / "x.npz", "r", tmp_path / "other"), "--model", "irnn")
    assert refused.status == 1 and "has no auxiliary loss" in refused.stderr
