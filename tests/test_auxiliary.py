"""What r and p read and answer, on the paper's example; scheduled sampling; the rivals."""

import numpy as np
import pytest
from hypothesis import given

from minaux import auxiliary
from minaux.auxiliary import predict, reconstruct, window_forward
from minaux.gradcheck import run_main
from minaux.lstm import layer_weights, lstm_forward
from minaux.model import Draws, draw, loss_and_grads
from minaux.training.evaluation import evaluate, rivals
from tests.strategies import random_batch, random_model, seeds

A, B, C, D, E, F, G, H, I = range(9)


@pytest.fixture
def windows_run(monkeypatch):
    """Every window that runs, as (name, inputs, targets, initial state)."""
    seen = []

    def spy(params, name, x, targets, state, *rest):
        seen.append((name, np.array(x), np.array(targets), state))
        return window_forward(params, name, x, targets, state, *rest)

    monkeypatch.setattr(auxiliary, "window_forward", spy)
    return seen


def paper_example(aux):
    """The sequence A B C D E F G H I, of which the paper's figure shows anchor F."""
    params = random_model(np.random.default_rng(0), aux, D=9, H=2, tokens=True)
    x = np.arange(9)[:, None]
    h, c, _ = run_main(params, x, None, 0, 9, None)
    return params, x, h[1:], c[1:]  # h[t] after step t


def test_r_at_anchor_F_reads_BCD_and_answers_CDE_from_the_state_after_F(windows_run):
    params, x, h, c = paper_example("r")
    loss_and_grads(params, x, None, Draws(L=4, r_anchors=(F,)), 9, 9)
    [(name, inputs, targets, state)] = windows_run
    assert name == "r"
    assert inputs.ravel().tolist() == [B, C, D]
    assert targets.ravel().tolist() == [C, D, E]
    np.testing.assert_array_equal(state[0], (h[F], c[F]))
    assert not np.any(state[1])


def test_p_at_anchor_F_reads_the_states_FGH_and_answers_GHI(windows_run):
    params, x, h, c = paper_example("p")
    loss_and_grads(params, x, None, Draws(L=3, p_anchors=(F,)), 9, 9)
    [(name, inputs, targets, state)] = windows_run
    assert name == "p"
    np.testing.assert_array_equal(inputs, h[[F, G, H]])
    assert targets.ravel().tolist() == [G, H, I]
    assert not np.any(state)


def test_windows_carry_the_state_on(windows_run):
    params, x, _, _ = paper_example("rp")
    one = loss_and_grads(params, x, None, Draws(5, (F,), (C,)), 9, 9)
    whole = list(windows_run)
    windows_run.clear()
    two = loss_and_grads(params, x, None, Draws(5, (F,), (C,)), 9, 2)
    assert [len(inputs) for _, inputs, _, _ in windows_run] == [2, 2, 2, 2, 1]
    assert [n for n, *_ in windows_run] == ["r", "r", "p", "p", "p"]
    for name, _, targets, _ in whole:
        parts = [t for n, _, t, _ in windows_run if n == name]
        np.testing.assert_array_equal(np.concatenate(parts), targets)
    assert one.losses == pytest.approx(two.losses)  # cuts change gradients, not losses


@pytest.mark.parametrize("tokens", [False, True])
def test_scheduled_sampling_feeds_truth_or_own_output_by_the_coins(tokens):
    r = np.random.default_rng(1)
    params = random_model(r, "r", D=3, H=4, tokens=tokens)
    x, _ = random_batch(r, 9, 3, 5, tokens)
    h, c = r.standard_normal((2, 4, 5))
    truth = r.random((6, 5)) < 0.5
    truth[0] = True
    for K in 6, 4, 1:  # the previous output crosses a window's border, too
        result = reconstruct(params, x, 8, 7, K, h, c, 1.0, truth)
        own = result.y.argmax(1) if tokens else result.y
        segment = x[1:8]
        assert (result.fed[0] == segment[0]).all()
        for t in range(1, 6):
            expected = np.where(truth[t], segment[t], own[t - 1])
            np.testing.assert_array_equal(result.fed[t], expected)
    assert not truth[1:].all() and (result.fed[1:] != segment[1:-1]).any()


@given(seeds)
def test_replaying_what_was_fed_gives_the_same_bits(seed):
    r = np.random.default_rng(seed)
    params = random_model(r, "r", D=2, H=3)
    x, _ = random_batch(r, 10, 2, 3)
    shapes = {name: w.shape for name, w in params.items()}
    draws = draw(seed, 0, "r", 1, 6, 10, 3, shapes, own_probability=0.7)
    sampled = loss_and_grads(params, x, None, draws, 4, 4)
    a = draws.r_anchors[0]
    h, c, _ = run_main(params, x, None, 0, a + 1, None)
    replay = x.copy()
    replay[a - 6 : a - 1] = sampled.fed[0]  # as if the sequence itself had been what was fed
    grads = {name: np.zeros_like(w) for name, w in params.items()}
    window = window_forward(
        params, "r", replay[a - 6 : a - 1][:4], x[a - 5 : a][:4], ((h[-1], c[-1]), zero(h)), 1.0
    )
    result = reconstruct(params, x, a, 6, 4, h[-1], c[-1], 1.0, draws.truth[0], grads)
    np.testing.assert_array_equal(np.concatenate(window.y), result.y[:4])
    np.testing.assert_array_equal(result.fed, sampled.fed[0])


def zero(h):
    return np.zeros_like(h[-1]), np.zeros_like(h[-1])


def test_coins_follow_the_probability_and_the_first_is_the_truth():
    truth = draw(0, 0, "r", 2, 200, 784, 64, {}, own_probability=0.25).truth
    assert truth.shape == (2, 199, 64) and truth[:, 0].all()
    assert truth[:, 1:].mean() == pytest.approx(0.75, abs=0.02)
    other = draw(0, 1, "r", 2, 200, 784, 64, {}, own_probability=0.25).truth
    assert (truth[0] != truth[1]).any() and (truth != other).any()  # other coins for each anchor and batch
    assert draw(0, 0, "r", 2, 200, 784, 64, {}, own_probability=0.0).truth is None
    assert not draw(0, 0, "r", 2, 200, 784, 64, {}, own_probability=1.0).truth[:, 1:].any()


def test_heads_have_two_layers_and_all_parameters_get_gradients():
    params, x, *_ = paper_example("rp")
    grads = loss_and_grads(params, x, np.array([1]), Draws(4, (F,), (C,)), 9, 9).grads
    assert grads.keys() == params.keys()
    for name in params:  # the output biases above all
        assert np.any(grads[name] != 0), name
    assert {"r.bottom.Wh", "r.top.Wh", "p.bottom.Wh", "p.top.Wh"} <= params.keys()


def test_p_reads_states_and_its_layers_are_the_lstm():
    params, x, h, _ = paper_example("p")
    zeros = np.zeros((2, 1))
    [(_, _, _, _, ys)] = predict(params, x, F, 3, 9, h[F:I], 1.0)
    h1, _, _ = lstm_forward(h[F:I], zeros, zeros, *layer_weights(params, "p.bottom")[0])
    h2, _, _ = lstm_forward(h1[1:], zeros, zeros, *layer_weights(params, "p.top")[0])
    relu = np.maximum(params["p.head.W1"] @ h2[3] + params["p.head.b1"], 0)
    relu = np.maximum(params["p.head.W2"] @ relu + params["p.head.b2"], 0)
    np.testing.assert_allclose(ys[-1][-1], params["p.head.W3"] @ relu + params["p.head.b3"], rtol=1e-12)


def test_rivals_by_hand():
    x = np.array([0.0, 1.0, 0.5, 0.0])[:, None, None]
    mean = np.array([0.0, 0.5, 0.5, 0.4])[:, None]
    scale = 1 / 2
    losses = rivals(x, 1, 2, mean, scale)
    assert losses["copy"] == pytest.approx((1.0**2 + 0.5**2) / 2)
    assert losses["position_mean"] == pytest.approx((0.5**2 + 0) / 2)
    assert losses["constant"] == pytest.approx((0.65**2 + 0.15**2) / 2)


def test_evaluation_reports_own_feeding_the_neighbours_state_and_rivals_on_the_same_segments():
    r = np.random.default_rng(5)
    params = random_model(r, "rp", D=1, H=3)
    x, y = random_batch(r, 12, 1, 4)
    draws, mean = Draws(5, (7, 9), (2,)), np.full((12, 1), 0.5)
    sums = evaluate(params, x, y, draws, mean)
    h, c, _ = run_main(params, x, None, 0, 12, None)
    never = np.zeros((4, 4), bool)
    never[0] = True
    r_loss = swapped = copy = 0
    for a in 7, 9:
        state = h[a + 1], c[a + 1]
        other = [np.stack([s[:, n - 1] for n in range(4)], 1) for s in state]
        r_loss += reconstruct(params, x, a, 5, 3, *state, 1 / 8, never).loss
        swapped += reconstruct(params, x, a, 5, 3, *other, 1 / 8, never).loss
        copy += ((x[a - 4 : a] - x[a - 5 : a - 1]) ** 2).sum() / 8
    assert sums["r_loss"] == pytest.approx(r_loss)
    assert sums["r_swap_gap"] == pytest.approx(swapped - r_loss) and sums["r_pairs"] == 4
    assert "r_swap_gap" not in evaluate(params, x[..., :1], y[:1], draws, mean)
    assert sums["r_copy"] == pytest.approx(copy)
    assert sums["p_copy"] == pytest.approx(((x[3:8] - x[2:7]) ** 2).sum() / 5)
    assert sums["p_constant"] == sums["p_position_mean"] == pytest.approx(((x[3:8] - 0.5) ** 2).sum() / 5)
    logits = loss_and_grads(params, x, y, Draws(), 12, 12).losses["supervised"]
    assert sums["loss_supervised"] == pytest.approx(4 * logits)
