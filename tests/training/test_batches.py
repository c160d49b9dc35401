"""Batches of sequences of unlike lengths: what is in them, and that padding changes nothing."""

import dataclasses
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets import Task
from minaux.training import batches, config
from minaux.training.evaluation import evaluate_rows, in_blocks
from minaux.training.loop import batch_of_step, train
from minaux.training.run import new_state, saved_state, set_up
from minaux.training.shards import Shards
from tests.strategies import seeds


def texts(n, longest, seed=0, shortest=3, V=5):
    r = np.random.default_rng(seed)
    return [r.integers(0, V, r.integers(shortest, longest + 1)).astype(np.uint8) for _ in range(n)]


def token_run(out, x, seed=0, **given):
    y = np.random.default_rng(seed).integers(0, 3, len(x))
    defaults = {"task": "npz", "aux": "rp", "hidden": 4, "bptt": 5, "aux_bptt": 4, "aux_length": 6, "epochs": 1}
    defaults |= {"pretrain_epochs": 0, "dtype": "float64", "threads": 1, "valid": 0, "quiet": True, "batch_size": 8}
    return set_up(config.build({**defaults, **given}, cores=1), Task(x, y, x, y, classes=3, tokens=5), out)


def test_short_sequences_get_zeros_in_front():
    x = [np.array([3, 4, 5]), np.array([1, 2, 3, 4]), np.array([7, 8, 9])]
    assert batches.take(x, [2, 1]).tolist() == [[0, 7, 8, 9], [1, 2, 3, 4]]
    assert batches.lengths_of(x).tolist() == [3, 4, 3]


def test_numbers_are_taken_as_they_are():
    x = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)
    assert (batches.take(x, [3, 0]) == x[[3, 0]]).all() and batches.lengths_of(x).tolist() == [3, 3, 3, 3]
    numbers = batches.scaled(x, "float32")
    assert numbers.dtype == np.float32 and numbers.max() == 23 / np.float32(255) and x.max() == 23
    assert (batches.scaled(x.astype("float64"), "float32") == x).all()
    seconds = 1.7e9 + np.arange(24.0).reshape(4, 3, 2)  # float32 would have one number for all
    assert (batches.scaled(seconds, "float64") == seconds).all()


def test_a_batch_holds_sequences_of_like_length_and_an_epoch_all_of_them(monkeypatch):
    monkeypatch.setattr(batches, "POOL", 5)
    lengths = np.random.default_rng(0).integers(3, 1000, 403)
    rows = np.arange(3, 403)
    first, second = (batches.of_an_epoch(np.random.default_rng(s), rows, lengths, 16) for s in (1, 2))
    assert sorted(np.concatenate(first)) == sorted(np.concatenate(second)) == rows.tolist()
    assert [len(b) for b in first].count(16) == 25 and first[0].tolist() != second[0].tolist()
    spread = np.mean([np.ptp(lengths[b]) for b in first])
    assert spread < 0.3 * np.ptp(lengths)  # a fifth, for five batches are sorted together
    assert np.corrcoef(np.arange(25), [lengths[b].mean() for b in first])[0, 1] ** 2 < 0.5  # not shortest first


def test_sequences_of_one_length_are_only_shuffled():
    rows = np.arange(10)
    order = np.random.default_rng(3).permutation(rows)
    found = batches.of_an_epoch(np.random.default_rng(3), rows, np.full(10, 7), 4)
    assert np.concatenate(found).tolist() == order.tolist() and [len(b) for b in found] == [4, 4, 2]


def test_the_mean_of_tokens_is_the_logarithm_of_their_frequencies():
    x = [np.array([0, 0, 1]), np.array([2, 2, 2, 2])]
    np.testing.assert_allclose(np.exp(batches.mean_of(x, [0], 3)), [3 / 6, 2 / 6, 1 / 6])
    np.testing.assert_allclose(np.exp(batches.mean_of(x, [0, 1], 3)), [3 / 10, 2 / 10, 5 / 10])


def test_the_mean_of_many_sequences_is_of_those_asked_for():
    """More than are summed at once."""
    x = np.random.default_rng(0).integers(0, 256, (2600, 3, 2)).astype(np.uint8)
    rows = np.arange(0, 2600, 2)
    np.testing.assert_allclose(batches.mean_of(x, rows), x[::2].mean(0) / 255, rtol=1e-12)


def test_a_transformer_is_evaluated_in_blocks_no_larger_than_a_batch(tmp_path):
    """Its memory grows with them."""
    for model, sizes in ("transformer", [3] * 6 + [2]), ("lstm", [20]):
        aux = {"aux": "none", "bptt": "full"}
        run = token_run(tmp_path / model, texts(20, 9), model=model, batch_size=3, **aux)
        blocks = in_blocks(run.cfg, run.model, np.arange(20), run.lengths)
        assert [len(block) for block in blocks] == sizes


@given(seeds, st.integers(2, 6), st.sampled_from(["none", "r", "p", "rp"]))
def test_padding_changes_nothing(tmp_path_factory, seed, n, aux):
    """A batch's losses and gradients are the sums of those that its sequences get alone, with the batch's
    anchors counted from the end."""
    x = texts(n, 14, seed, shortest=4)
    run = token_run(tmp_path_factory.mktemp("run") / "run", x, aux=aux, feed_start=0.5, feed_end=0.5)
    state = new_state(run)
    T, seen, each = max(map(len, x)), [], Shards.each

    def spy(shards, function, params, inputs, y, draws, lengths, **options):
        seen.append((function, params, inputs, y, draws, options))
        return each(shards, function, params, inputs, y, draws, lengths, **options)

    with mock.patch.object(Shards, "each", spy), run.open_shards() as shards:
        losses, grads, _, _ = batch_of_step(run, shards, state.params, 0)
        function, params, inputs, y, draws, options = seen[0]
        alone = []
        for column, row in enumerate(run.shuffled.rows(0, 0)):
            start = T - len(x[row])
            mine = draws._replace(
                r_anchors=[a - start for a in draws.r_anchors],
                p_anchors=[a - start for a in draws.p_anchors],
                truth=None if draws.truth is None else draws.truth[:, :, [column]],
            )
            tokens = x[row][:, None].astype("int64")
            alone.append(function(params, tokens, y[[column]], mine, **options))
    for name, loss in losses.items():
        assert loss == pytest.approx(sum(result.losses[name] for result in alone), rel=1e-9, abs=1e-12)
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, sum(result.grads[name] for result in alone), rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("threads", [2, 3])
def test_shards_of_a_padded_batch_add_up_to_it(tmp_path, threads):
    found = []
    for shards in (1, threads):
        run = token_run(tmp_path / f"{shards} of {threads}", texts(8, 20), threads=shards)
        state = new_state(run)
        with run.open_shards() as shards:
            found.append(batch_of_step(run, shards, state.params, 0)[1])
    for name, grad in found[0].items():
        np.testing.assert_allclose(found[1][name], grad, rtol=1e-9, atol=1e-12)


def test_texts_are_learned_and_their_auxiliary_losses_fall(tmp_path):
    """Class and text go together: the class is the token that comes most often."""
    r = np.random.default_rng(0)
    y = r.integers(0, 3, 60)
    x = [
        np.where(r.random(length) < 0.8, label, r.integers(0, 5, length))
        for label, length in zip(y, r.integers(5, 30, 60))
    ]
    run = token_run(tmp_path / "run", x, epochs=15, pretrain_epochs=2, lr=0.01, hidden=8, dropconnect=0.0, bptt=30)
    run = dataclasses.replace(run, task=run.task._replace(y_train=y, y_test=y))
    result = train(run, new_state(run))
    assert result["test_accuracy"] > 0.9
    with run.open_shards() as shards:
        report = evaluate_rows(run, shards, saved_state(run).params, *run.sequences("test"))
    assert report["p_loss"] < report["p_constant"] and report["r_loss"] < report["r_constant"]


def test_an_evaluation_of_texts_does_not_depend_on_the_blocks(tmp_path, monkeypatch):
    x, found = texts(20, 30), []
    for size, block in (3, 20), (20, 3):
        monkeypatch.setattr("minaux.training.evaluation.BLOCK", block)
        run = token_run(tmp_path / str(size), x, aux="none", batch_size=size)
        state = new_state(run)
        with run.open_shards() as shards:
            found.append(evaluate_rows(run, shards, state.params, x, run.task.y_test, np.arange(20)))
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_floats_are_taken_as_they_are(tmp_path):
    x, y = np.random.default_rng(0).standard_normal((6, 5, 2)).astype("float32"), np.arange(6) % 2
    run = set_up(
        config.build({"task": "npz", "epochs": 1, "bptt": 5, "valid": 0, "quiet": True}, 1),
        Task(x, y, x, y, classes=2),
        tmp_path / "run",
    )
    np.testing.assert_allclose(run.mean, x.mean(0), rtol=1e-5)
    assert train(run, new_state(run))["complete"]
