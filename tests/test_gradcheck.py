"""The checker is tested with planted mistakes: each must fail it, and the right gradient must pass."""

import pathlib
import re

import numpy as np
import pytest

from minaux import lstm, model, windows
from minaux.gradcheck import assert_gradients, check_model, worst_errors


def cube(args):
    return (args["w"] ** 3).sum(), None


def test_the_readmes_example_runs_and_can_fail():
    readme = (pathlib.Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(
        r"```python\n(.*?assert_gradients.*?)```", readme.split("## Checking gradients")[1], re.DOTALL
    )
    exec(code, {})
    with pytest.raises(AssertionError, match="gradients differ"):
        exec(code.replace("1 - np.tanh", "1.001 - np.tanh"), {})


def test_right_gradient_passes():
    w = np.random.default_rng(0).standard_normal((3, 2))
    assert_gradients(worst_errors(cube, {"w": w}, {"w": 3 * w**2}, seed=0))


def test_scale_error_of_a_twentieth_percent_fails_and_is_named():
    w = np.random.default_rng(0).standard_normal((3, 2))
    errors = worst_errors(cube, {"w": w}, {"w": 3.0015 * w**2}, seed=0)
    with pytest.raises(AssertionError, match=r"w at (index|a random direction).*numeric"):
        assert_gradients(errors)


def test_nan_gradient_fails():
    with pytest.raises(AssertionError):
        assert_gradients(worst_errors(cube, {"w": np.ones(3)}, {"w": np.full(3, np.nan)}, seed=0))


def test_wrong_single_entry_is_found_by_the_direction():
    w = np.ones(1000)
    grad = 3 * w**2
    grad[123] += 1
    with pytest.raises(AssertionError, match="random direction"):
        assert_gradients(worst_errors(cube, {"w": w}, {"w": grad}, seed=0))


def test_a_difference_across_a_kink_is_drawn_again():
    w = np.array([0.3, 4e-6, 0.7])  # the middle one is nearer to relu's kink than the checker's step

    def relu(args):
        return np.maximum(args["w"], 0).sum(), args["w"] > 0

    def unaware(args):
        return relu(args)[0], None

    right = {"w": np.ones(3)}
    assert_gradients(worst_errors(relu, {"w": w}, right, seed=0, coordinates=20))
    with pytest.raises(AssertionError):
        assert_gradients(worst_errors(unaware, {"w": w}, right, seed=0, coordinates=20))
    with pytest.raises(AssertionError, match="kink"):
        worst_errors(relu, {"w": w[1:2]}, {"w": np.ones(1)}, seed=0)


@pytest.mark.parametrize("aux", ["none", "r", "p", "rp"])
@pytest.mark.parametrize("K", [5, "full"])
def test_model_passes(aux, K):
    assert_gradients(check_model(aux, K))


def scaled(backward, n, factor):
    """`backward` with a scale error in its n-th gradient."""

    def wrong(*args):
        grads = list(backward(*args))
        grads[n] = grads[n] * factor
        return tuple(grads)

    return wrong


def without_dc(dh, dh_last, dc_last, cache, dweights=None):
    """Drops the cell's gradient between steps, by going back one step at a time and forgetting dc."""
    dx, dweights = [], [0, 0, 0]
    for t in reversed(range(len(cache.gates))):
        grads = backward(None if dh is None else dh[t : t + 1], dh_last, None, cache.steps(t, t + 1))
        dx.append(grads[0])
        dh_last = grads[1]
        dweights = [total + d for total, d in zip(dweights, grads[3:])]
    return np.concatenate(dx[::-1]), dh_last, grads[2], *dweights


backward = lstm.lstm_backward


def swapped_gates(dh, dh_last, dc_last, cache, dweights=None):
    """Takes the output gate's block for the candidate's."""
    H = cache.c.shape[1]
    rows = np.r_[3 * H : 4 * H, H : 3 * H, :H]
    return backward(dh, dh_last, dc_last, cache._replace(gates=cache.gates[:, rows]))


MUTATIONS = {
    "scale of dWh": ("none", model, "lstm_backward", scaled(backward, 4, 1.0005)),
    "scale of db": ("none", model, "lstm_backward", scaled(backward, 5, 1.0005)),
    "dc dropped between steps": ("none", model, "lstm_backward", without_dc),
    "gates swapped": ("none", model, "lstm_backward", swapped_gates),
    "supervised window too long": ("none", windows, "supervised_span", lambda T, K: (T - K - 1, T)),
    "supervised window too short": ("none", windows, "supervised_span", lambda T, K: (T - K + 1, T)),
    "r window too long": ("r", windows, "r_span", lambda a, K: (a - K, a + 1)),
    "r window too short": ("r", windows, "r_span", lambda a, K: (a - K + 2, a + 1)),
    "p goes too far back": ("p", windows, "p_lead", lambda a, K: (max(a - K - 1, 0), a)),
    "p stops at the anchor": ("p", windows, "p_lead", lambda a, K: (a, a)),
    "dc of r dropped at the anchor": ("r", model, "reconstruct", None),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_planted_mistake_fails(name, monkeypatch):
    aux, module, function, wrong = MUTATIONS[name]
    if wrong is None:

        def wrong(*args, original=model.reconstruct):
            return original(*args)._replace(dc=None)

    assert_gradients(check_model(aux, 5, seed=3))
    monkeypatch.setattr(module, function, wrong)
    with pytest.raises(AssertionError, match="main"):
        assert_gradients(check_model(aux, 5, seed=3))
