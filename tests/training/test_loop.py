"""What a run's options come to in a batch, and in the step that follows it."""

import itertools
import types

import numpy as np
import pytest

from minaux import initial, model
from minaux.training import config
from minaux.training.loop import batch_of_step, train, train_step
from minaux.training.run import load, new_state, saved_state, set_up
from tests.conftest import rows
from tests.training.test_run import options, toy

T, N = 20, 10  # N sequences, in one batch


def one_batch(out, step=0, **given):
    """The run of one batch a step, its initial state, and `batch_of_step`."""
    given = {"aux": "rp", "pretrain_epochs": 0, "valid": 0, "batch_size": N, "dtype": "float64", **given}
    run = set_up(options(**given), toy(N, T), out)
    state = new_state(run)
    with run.open_shards() as shards:
        return run, state, batch_of_step(run, shards, state.params, step)


def test_a_batch_is_what_the_options_say(tmp_path):
    """Its gradient is that of model.py, given each option by hand."""
    given = {"bptt": 3, "aux_bptt": 7, "anchors": 2, "aux_weight": 0.7, "dropconnect": 0.5, "seed": 5}
    run, state, (losses, grads, _, n) = one_batch(tmp_path, step=1, **given, feed_start=0.5, feed_end=0.5)
    batch, shapes = run.shuffled.rows(1, 0), initial.parameter_shapes(initial.Sizes(1, 4, 3), "rp")
    x = run.task.x_train[batch].transpose(1, 2, 0) / 255
    draws = model.draw(5, 1, "rp", 2, 4, T, N, shapes, own_probability=0.5, dropconnect=0.5)
    assert len(draws.r_anchors) == len(draws.p_anchors) == 2 and draws.masks and not draws.truth.all()
    expected = model.loss_and_grads(state.params, x, run.task.y_train[batch], draws, K=3, aux_K=7, aux_weight=0.7)
    assert n == N and losses == pytest.approx(expected.losses)
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, expected.grads[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_dropped_weights_and_gradients_are_of_the_runs_dtype(tmp_path, monkeypatch):
    seen, right = [], model.classify
    monkeypatch.setattr(model, "classify", lambda *args: seen.append(args[3]) or right(*args))
    _, _, (_, grads, _, _) = one_batch(tmp_path, dropconnect=0.5, dtype="float32")
    assert {mask.dtype.name for mask in seen[0].values()} == {"float32"} and len(seen[0]) == 2
    assert {grad.dtype.name for grad in grads.values()} == {"float32"}


def test_pretraining_has_no_use_for_labels(tmp_path, monkeypatch):
    monkeypatch.setattr(model, "classify", lambda *args: pytest.fail("classified"))
    _, _, (losses, grads, row, _) = one_batch(tmp_path, pretrain_epochs=1)
    assert losses["supervised"] == 0 and row["loss_supervised"] is None and losses["r"] > 0 < losses["p"]
    assert not any(name.startswith("classifier") for name in grads)


def test_a_run_that_makes_activations_again_has_the_same_bits(tmp_path, monkeypatch):
    found, again, steps = [], [], model.Again.steps
    monkeypatch.setattr(model.Again, "steps", lambda self, t0, t1: again.append(t1 - t0) or steps(self, t0, t1))
    for every in 0, 8:
        assert not again
        run = set_up(
            options(aux="rp", bptt="full", checkpoint_every=every, valid=0), toy(N, T), tmp_path / f"{every}"
        )
        state = new_state(run)
        train(run, state)
        found.append(state.params)
    assert max(again) == 8, "at most so many steps at a time"
    assert all((w == found[1][name]).all() for name, w in found[0].items())


@pytest.mark.parametrize("clip", [0, 0.01, 1e9])
def test_the_step_is_by_the_clipped_gradient(tmp_path, clip):
    """RMSProp's averages after one step are a tenth of its squares. (Its norm hardly changes the weights' step.)"""
    run, state, (_, grads, _, _) = one_batch(tmp_path, clip=clip)
    norm = np.sqrt(sum((grad**2).sum() for grad in grads.values()))
    with run.open_shards() as shards:
        train_step(run, shards, state)
    squares = 10 * sum(v.sum() for v in state.v.values())
    assert squares == pytest.approx(min(norm, clip or np.inf) ** 2) and norm > 0.01


def test_the_learning_rate_is_the_schedules(tmp_path):
    """From v = 0 a weight moves by lr · g / (√0.1 |g|), and half-way down the cosine lr is half of 0.01."""
    run, state, (_, grads, _, _) = one_batch(tmp_path, step=1, lr=0.01, lr_schedule="cosine", epochs=2)
    state.step, before = 1, state.params["main.Wh"].copy()
    with run.open_shards() as shards:
        train_step(run, shards, state)
    moved = before - state.params["main.Wh"]
    np.testing.assert_allclose(
        moved, 0.005 * np.sign(grads["main.Wh"]) / np.sqrt(0.1), rtol=0.02
    )  # 1e-8 beside |g|


def test_the_initial_memories_are_of_the_sequences_length(tmp_path):
    run = set_up(options(forget_bias="loguniform", seed=3, valid=0), toy(T=T), tmp_path)
    expected = initial.init_params(initial.Sizes(1, 4, 3), "none", T, 3, "loguniform", "float32")
    found = new_state(run).params
    assert found.keys() == expected.keys() and all((found[name] == w).all() for name, w in expected.items())


def test_the_clock_counts_training_over_all_calls_and_the_budget_this_ones(tmp_path, monkeypatch):
    """A clock that moves by a second each time it is read."""
    ticks = itertools.count()
    clock = types.SimpleNamespace(monotonic=lambda: float(next(ticks)))
    monkeypatch.setattr("minaux.training.loop.time", clock)
    monkeypatch.setattr("minaux.training.loop.ROW_EVERY", 1)

    def run_of(budget):
        return set_up(config.resumed(run.directory.read_config(), {"budget": budget}), run.task, tmp_path)

    run = set_up(options(epochs=40, valid=0, batch_size=N, budget=30.0), toy(N, T), tmp_path)
    first = train(run, new_state(run))
    second = train(run_of(30.0), saved_state(run_of(30.0)))
    assert 0 < first["steps"] and second["steps"] == 2 * first["steps"], "as many in the same time"
    assert 30 <= first["elapsed_s"] < 40 and second["elapsed_s"] == 2 * first["elapsed_s"]
    assert not second["complete"] and load(run).elapsed_s == second["elapsed_s"]
    seconds = [row["elapsed_s"] for row in rows(tmp_path) if row["kind"] == "train"]
    assert seconds == sorted(seconds) and len(seconds) == second["steps"]
