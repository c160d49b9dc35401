"""The whole model: gradients, truncation, shards, padding, initial values."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minaux import model
from minaux.gradcheck import check_gradients, frozen_loss, record
from minaux.initial import Sizes, init_params, parameter_shapes
from minaux.lstm import lstm_backward_of_each, lstm_forward
from minaux.model import Draws, draw, loss_and_grads
from minaux.training.evaluation import evaluate
from tests.strategies import padding, problems, random_batch, random_model


@settings(max_examples=120)
@given(problems())
def test_gradients_are_those_of_the_loss_with_the_states_at_every_cut_frozen(problem):
    seed, given = problem
    result = loss_and_grads(**given)
    params, y = given["params"], given["y"]
    recorded = record(params, given["x"], given["draws"], given["aux_K"], result.fed, given["mask"])

    def loss(args):
        return frozen_loss(args, recorded, **{k: v for k, v in given.items() if k != "params"}, fed=result.fed)

    total = result.losses["supervised"] + 0.7 * (result.losses["r"] + result.losses["p"])
    assert loss(params)[0] == pytest.approx(total, rel=1e-10)
    assert set(result.grads) == {k for k in params if y is not None or not k.startswith("classifier")}
    check_gradients(loss, params, result.grads, seed, coordinates=2)


# Every step has a token of its own, so column t of the table's gradient shows whether a gradient got to step t.
T = 20


def steps_reached(aux, K, aux_K, L=8, r_anchors=(), p_anchors=(), pretraining=False):
    params = random_model(np.random.default_rng(0), aux, D=T, H=3, tokens=True)
    x, y = np.arange(T)[:, None], None if pretraining else np.array([1])
    draws = Draws(L, r_anchors, p_anchors)
    grads = loss_and_grads(params, x, y, draws, K, aux_K).grads
    reached = np.flatnonzero(grads["main.We"].any(0)).tolist()
    assert bool(reached) == bool(grads["main.Wh"].any())
    return reached


@pytest.mark.parametrize(("K", "first"), [(1, 19), (5, 15), (20, 0), (99, 0)])
def test_supervised_gradient_reaches_the_last_K_steps_and_no_further(K, first):
    assert steps_reached("none", K, K) == list(range(first, T))


def test_supervised_gradient_at_K_0_reaches_none():
    assert steps_reached("none", 0, 5) == []


@pytest.mark.parametrize(("aux_K", "first"), [(1, 12), (5, 8), (12, 1), (99, 0)])
def test_r_trains_the_main_lstm_through_the_anchor_and_K_steps_no_further(aux_K, first):
    assert steps_reached("r", 5, aux_K, r_anchors=(12,), pretraining=True) == list(range(first, 13))


@pytest.mark.parametrize(("aux_K", "first"), [(1, 9), (3, 7), (8, 2), (99, 0)])
def test_p_trains_the_states_it_reads_and_K_steps_before_them_no_further(aux_K, first):
    assert steps_reached("p", 5, aux_K, p_anchors=(10,), pretraining=True) == list(range(first, 18))


def test_auxiliary_losses_at_K_0_train_their_heads_alone():
    params = random_model(np.random.default_rng(0), "rp", D=2, H=3)
    x, _ = random_batch(np.random.default_rng(1), T, 2, 2)
    grads = loss_and_grads(params, x, None, Draws(8, (12,), (3,)), 5, 0).grads
    for name, g in grads.items():
        assert g.any() != name.startswith("main"), name


def test_each_loss_keeps_to_its_own_span_in_joint_training():
    """r's gradient stops at its own cut even where the supervised window goes on, and the other way round."""
    both = steps_reached("r", 4, 3, r_anchors=(10,))
    assert both == [8, 9, 10] + [16, 17, 18, 19]
    params = random_model(np.random.default_rng(0), "r", D=2, H=3)
    x, y = random_batch(np.random.default_rng(1), T, 2, 2)
    draws = Draws(8, (17,))  # its span ends inside the supervised one
    joint = loss_and_grads(params, x, y, draws, 10, 5)
    alone = loss_and_grads(params, x, y, Draws(), 10, 5).grads, loss_and_grads(params, x, None, draws, 10, 5).grads
    for name, g in joint.grads.items():
        np.testing.assert_allclose(g, alone[0][name] + alone[1].get(name, 0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(joint.dWh["supervised"], alone[0]["main.Wh"], rtol=1e-9)
    np.testing.assert_allclose(joint.dWh["auxiliary"], alone[1]["main.Wh"], rtol=1e-9)


def test_truncation_at_T_or_more_is_full_bptt_through_the_same_code():
    params = random_model(np.random.default_rng(0), "rp", D=2, H=3)
    x, y = random_batch(np.random.default_rng(1), T, 2, 2)
    a, b = (loss_and_grads(params, x, y, Draws(8, (12,), (3,)), K, K) for K in (T, 1000))
    assert all((a.grads[k] == b.grads[k]).all() for k in params)


def test_only_steps_that_a_gradient_or_state_needs_are_run(monkeypatch):
    kept, swept = [], []
    monkeypatch.setattr(model, "lstm_forward", lambda x, *rest: kept.append(len(x)) or lstm_forward(x, *rest))

    def spy(losses, cache, need_dx):
        swept.append((len(losses), len(cache.gates)))
        return lstm_backward_of_each(losses, cache, need_dx)

    monkeypatch.setattr(model, "lstm_backward_of_each", spy)
    params = random_model(np.random.default_rng(0), "r", D=2, H=3)
    x, y = random_batch(np.random.default_rng(1), T, 2, 2)
    main = model.main_forward(params, x, [(5, 8)], to_the_end=False)
    assert kept == [3] and main.parts[-1][1] == 8
    kept.clear()
    loss_and_grads(params, x, y, Draws(8, (12,)), 4, 3)
    assert kept == [3, 4] and swept == [(1, 4), (1, 3)]
    swept.clear()  # the labels' last 8 steps; r's 10 ... 12; p's 6 ... 11, which goes on to 3
    params = random_model(np.random.default_rng(0), "rp", D=2, H=3)
    loss_and_grads(params, x, y, Draws(6, (12,), (6,)), 8, 3)
    assert sum(n * steps for n, steps in swept) == 8 + 3 + 6 + 3 and max(n for n, _ in swept) > 1


@given(problems(), st.integers(1, 3))
def test_shards_add_up_to_the_batch(problem, cut):
    _, given = problem
    N = given["x"].shape[-1]
    cut = min(cut, N)
    whole, parts, draws = loss_and_grads(**given), [], given["draws"]
    for cols in slice(0, cut), slice(cut, N):
        if cols.start == cols.stop:
            continue
        shard = {k: None if given[k] is None else given[k][..., cols] for k in ("x", "y", "mask")}
        truth = None if draws.truth is None else draws.truth[..., cols]
        parts.append(loss_and_grads(**{**given, **shard, "draws": draws._replace(truth=truth)}))
    for name, g in whole.grads.items():
        np.testing.assert_allclose(sum(p.grads[name] for p in parts), g, rtol=1e-9, atol=1e-12)
    for name, loss in whole.losses.items():
        assert sum(p.losses[name] for p in parts) == pytest.approx(loss)
    for kind in whole.dWh:
        np.testing.assert_allclose(sum(p.dWh[kind] for p in parts), whole.dWh[kind], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tokens", [False, True])
def test_padding_changes_nothing(tokens):
    """Each left-padded sequence has the loss and gradients that it has alone, anchors counted from the end."""
    r = np.random.default_rng(2)
    params = random_model(r, "rp", D=3, H=3, tokens=tokens)
    lengths = [9, 12, 7]
    x, y = random_batch(r, 12, 3, 3, tokens)
    draws = draw(4, 0, "rp", 1, 4, 12, 3, {}, own_probability=0.5, shortest=7)
    batch = loss_and_grads(params, x, y, draws, 5, 4, mask=padding(12, 3, lengths))
    total = {name: 0 for name in params}
    for n, length in enumerate(lengths):
        skip = 12 - length
        alone = draws._replace(
            r_anchors=tuple(a - skip for a in draws.r_anchors),
            p_anchors=tuple(a - skip for a in draws.p_anchors),
            truth=draws.truth[..., n : n + 1],
        )
        result = loss_and_grads(params, x[skip:, ..., n : n + 1], y[n : n + 1], alone, 5, 4, batch_size=3)
        total = {name: total[name] + g for name, g in result.grads.items()}
    for name, g in batch.grads.items():
        np.testing.assert_allclose(g, total[name], rtol=1e-9, atol=1e-12)


def test_evaluation_gets_accuracy_and_loss_without_dropconnect():
    r = np.random.default_rng(2)
    params = random_model(r, "none", D=2, H=3)
    x, y = random_batch(r, 6, 2, 50)
    sums = evaluate(params, x, y, Draws(masks={"classifier.W1": np.zeros((6, 3))}))
    single = [evaluate(params, x[..., [n]], y[[n]], Draws())["correct"] for n in range(50)]
    assert sums["correct"] == sum(single) and 0 < sum(single) < 50
    assert sums["loss_supervised"] == pytest.approx(
        50 * loss_and_grads(params, x, y, Draws(), 6, 6).losses["supervised"]
    )


@pytest.mark.parametrize("aux", ["none", "r", "p"])
def test_memory_does_not_grow_with_the_sequence_and_hardly_with_the_segment(aux):
    params = {k: w.astype("f") for k, w in random_model(np.random.default_rng(0), aux, D=1, H=16).items()}

    def peak(T, L, K=20):
        x, y = random_batch(np.random.default_rng(1), T, 1, 16)
        draws = Draws(L, (T - 1,) if aux == "r" else (), (K,) if aux == "p" else ())
        tracemalloc.start()
        loss_and_grads(params, x.astype("f"), y, draws, K, K)
        size = tracemalloc.get_traced_memory()[1] - x.nbytes / 2
        tracemalloc.stop()
        return size

    peak(100, 40)  # what a process allocates once and keeps
    assert peak(1000, 40) < 1.1 * peak(100, 40)
    if aux == "r":  # p keeps the main states that it reads
        assert peak(1000, 41) < 1.08 * peak(1000, 21)  # two windows against one
        assert peak(1000, 401) < 1.3 * peak(1000, 21)  # what grows is the outputs


# --- activations made again ---


@given(problems(), st.sampled_from([8, 16]))
def test_steps_made_again_give_the_same_bits(problem, every):
    _, args = problem
    repeat = 3  # longer than 8 steps
    args["x"] = np.concatenate([args["x"]] * repeat)
    args["mask"] = None
    T = len(args["x"])
    for K in T, args["K"]:
        args["K"] = args["aux_K"] = K
        kept, again = loss_and_grads(**args), loss_and_grads(**args, every=every)
        assert kept.losses == again.losses
        for name, grad in kept.grads.items():
            assert (grad == again.grads[name]).all(), name


def test_padded_steps_made_again_give_the_same_bits():
    r = np.random.default_rng(0)
    params = random_model(r, "rp", D=5, H=3, tokens=True)
    x, y = random_batch(r, 40, 5, 4, tokens=True)
    shapes, how = {k: w.shape for k, w in params.items()}, {"own_probability": 0.5, "dropconnect": 0.3}
    draws = draw(0, 0, "rp", 2, 6, 40, 4, shapes, **how, shortest=20)
    mask = padding(40, 4, [20, 33, 40, 27])
    kept, again = (loss_and_grads(params, x, y, draws, 40, 40, mask=mask, every=n) for n in (0, 8))
    assert all((grad == again.grads[name]).all() for name, grad in kept.grads.items())


def test_steps_made_again_take_little_memory():
    params = {k: w.astype("f") for k, w in random_model(np.random.default_rng(0), "none", D=1, H=32).items()}
    x, y = random_batch(np.random.default_rng(1), 1024, 1, 16)
    peaks = []
    for every in 0, 32:
        tracemalloc.start()
        loss_and_grads(params, x.astype("f"), y, Draws(), 1024, 1024, every=every)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] / 8


# --- initial values and draws ---


def test_initial_weights_are_what_the_docs_say():
    params = init_params(Sizes(1, 32, 10), "rp", T=784, seed=3)
    for name, w in params.items():
        kind = name.split(".")[-1]
        assert w.dtype == np.float32
        if kind == "Wh":
            for gate in w.reshape(4, 32, 32):
                np.testing.assert_allclose(gate @ gate.T, np.eye(32), atol=1e-5)
        elif kind == "b":
            assert (w.reshape(4, 32) == [[0], [1], [0], [0]]).all()  # forget gate: 1
        elif kind.startswith("b"):
            assert not w.any()
        else:
            fan_out = 32 if kind == "Wx" else w.shape[0]
            limit = np.sqrt(6 / (fan_out + w.shape[1]))
            assert 0.8 * limit < abs(w).max() <= np.float32(limit), name


def test_embedding_table_is_standard_normal():
    table = init_params(Sizes(200, 64, 4, tokens=True), "r", T=50)["main.We"]
    assert table.shape == (64, 200) and table.std() == pytest.approx(1, abs=0.03)


def test_chrono_biases():
    b = init_params(Sizes(1, 500, 10), "none", T=784, forget_bias="chrono")["main.b"].reshape(4, 500)
    assert (b[0] == -b[1]).all() and not b[2:].any()
    assert 0 <= b[1].min() < 1 and np.log(700) < b[1].max() <= np.log(783)
    assert np.exp(b[1]).mean() == pytest.approx(784 / 2, rel=0.1)  # exp(b_f) is uniform


def test_loguniform_biases():
    b = init_params(Sizes(1, 500, 10), "none", T=784, forget_bias="loguniform")["main.b"].reshape(4, 500)
    assert (b[0] == -b[1]).all() and not b[2:].any()
    assert 0 <= b[1].min() < 0.1 and 6.5 < b[1].max() <= np.log(783)
    assert b[1].mean() == pytest.approx(np.log(783) / 2, rel=0.1)  # b_f is uniform


@pytest.mark.parametrize("spread", ["chrono", "loguniform"])
def test_spread_biases_of_the_shortest_sequences(spread):
    assert not init_params(Sizes(1, 5, 10), "none", T=1, forget_bias=spread)["main.b"].any()


def test_all_kinds_of_model_start_from_the_same_main_lstm():
    models = [init_params(Sizes(1, 8, 10), aux, T=784, seed=5) for aux in ("none", "r", "p", "rp")]
    assert [sorted(m) for m in models] == [
        sorted(parameter_shapes(Sizes(1, 8, 10), a)) for a in ("none", "r", "p", "rp")
    ]
    for name, w in models[0].items():
        assert all((m[name] == w).all() for m in models)
    assert (models[0]["main.Wx"] != init_params(Sizes(1, 8, 10), "none", T=784, seed=6)["main.Wx"]).all()
    assert (models[3]["r.top.Wx"] != models[3]["p.top.Wx"]).all()


def test_sizes_are_the_papers():
    shapes = parameter_shapes(Sizes(1, 128, 10), "r")
    assert shapes["main.We"] == (128, 1) and shapes["main.Wh"] == (512, 128)
    assert shapes["classifier.W1"] == (256, 128) and shapes["classifier.W2"] == (256, 256)
    assert shapes["classifier.W3"] == (10, 256) and shapes["r.head.W3"] == (1, 256)


def test_dropconnect_masks_are_drawn_for_each_batch_on_the_hidden_layers_weights():
    shapes = parameter_shapes(Sizes(1, 64, 10), "none")
    masks = draw(0, 3, "none", 1, 2, 9, 4, shapes, dropconnect=0.25).masks
    assert set(masks) == {"classifier.W1", "classifier.W2"}
    for name, mask in masks.items():
        assert mask.shape == shapes[name] and set(np.unique(mask)) == {0, 1 / 0.75}
        assert (mask == 0).mean() == pytest.approx(0.25, abs=0.02)
    other = draw(0, 4, "none", 1, 2, 9, 4, shapes, dropconnect=0.25).masks
    assert (other["classifier.W1"] != masks["classifier.W1"]).any()
    assert draw(0, 3, "none", 1, 2, 9, 4, shapes).masks == {}
