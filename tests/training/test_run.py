"""Learning, the optimiser, schedules, and what a run does with its data."""

import dataclasses
import json
import math
import os
import types

import numpy as np
import pytest
from threadpoolctl import threadpool_info

import datasets
from minaux import arrays, optim
from minaux.initial import init_params as initial_params
from minaux.model import Draws
from minaux.training import config, report
from minaux.training.checkpoint import State
from minaux.training.evaluation import evaluate_rows
from minaux.training.loop import batch_of_step, train, train_step
from minaux.training.run import Run, new_state, save, saved_state, set_up
from minaux.training.shards import Shards


def toy(n=20, T=6, seed=0):
    """n random sequences of T steps, trained and tested on."""
    r = np.random.default_rng(seed)
    x, y = r.integers(0, 256, (n, T, 1)).astype(np.uint8), r.integers(0, 3, n)
    return datasets.Task(x, y, x, y, classes=3)


def options(**given):
    defaults = {"task": "mnist", "hidden": 4, "bptt": 5, "aux_length": 4, "epochs": 2, "quiet": True, "threads": 1}
    return config.build({**defaults, **given}, cores=1)


@pytest.mark.parametrize("aux", ["none", "r", "p"])
def test_a_small_model_overfits_20_examples(aux, tmp_path):
    digits = datasets.load("mnist", size=14)
    x = digits.x_train[:20].reshape(20, 14, 14)[:, 3:12:2, 3:12:2].reshape(20, 25, 1)  # 5x5 points of each digit
    y = digits.y_train[:20]
    task = datasets.Task(x, y, x, y, classes=10)
    pretrain = 0 if aux == "none" else 10
    cfg = options(
        aux=aux,
        hidden=32,
        bptt=20,
        aux_length=8,
        pretrain_epochs=pretrain,
        epochs=200,
        batch_size=20,
        lr=2e-3,
        forget_bias=1.0,
        lr_schedule="cosine",
        dropconnect=0.0,
        valid=0,
    )
    run = set_up(cfg, task, tmp_path / "run")
    assert train(run, new_state(run))["test_accuracy"] == 1.0


def test_pretraining_leaves_the_classifier_and_its_averages_alone_and_trains_the_rest(tmp_path):
    run = set_up(options(aux="r", pretrain_epochs=1, epochs=1, valid=0), toy(), tmp_path / "run")
    state = new_state(run)
    before = {name: w.copy() for name, w in state.params.items()}
    with run.open_shards() as shards:
        row, n = train_step(run, shards, state)
    assert row["phase"] == "pretrain" and n == 20
    for name, w in state.params.items():
        trained = not name.startswith("classifier")
        assert (w != before[name]).any() == trained and state.v[name].any() == trained, name


def test_rmsprop_by_hand():
    params, v = (
        {"w": np.array([1.0]), "untouched": np.array([5.0])},
        {"w": np.array([0.4]), "untouched": np.array([2.0])},
    )
    optim.rmsprop(params, {"w": np.array([2.0])}, v, lr=0.1)
    assert v["w"][0] == pytest.approx(0.9 * 0.4 + 0.1 * 4)
    assert params["w"][0] == pytest.approx(1 - 0.1 * 2 / (math.sqrt(0.76) + 1e-8))
    assert params["untouched"][0] == 5 and v["untouched"][0] == 2


def test_clipping_by_the_global_norm():
    grads = {"a": np.array([3.0]), "b": np.array([0.0, 4.0])}
    norm = optim.global_norm(grads)
    assert norm == 5
    optim.clip(grads, norm, 6)
    assert grads["a"][0] == 3
    optim.clip(grads, norm, 0)
    assert grads["a"][0] == 3
    optim.clip(grads, norm, 1)
    assert grads["a"][0] == pytest.approx(0.6) and grads["b"][1] == pytest.approx(0.8)
    assert math.isnan(optim.global_norm({"a": np.array([np.nan]), "b": np.ones(2)}))


def test_schedules():
    assert [optim.own_probability(0.2, 1.0, step, 4) for step in range(6)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 1, 1]
    )
    assert optim.learning_rate(0.1, "constant", 7, 10) == 0.1
    rates = [optim.learning_rate(0.1, "cosine", step, 10) for step in (0, 5, 10, 15)]
    assert rates == pytest.approx([0.1, 0.05, 0, 0])


@pytest.mark.parametrize(("pretrain", "fed"), [(2, [1, 0.75, 0.5, 0.25, 0, 0]), (0, [1, 0.75, 0.5, 0.25])])
def test_feeding_fades_over_pretraining_or_over_all_steps_without_it(pretrain, fed, tmp_path, monkeypatch):
    monkeypatch.setattr("minaux.training.loop.ROW_EVERY", 1)
    cfg = options(aux="r", pretrain_epochs=pretrain, epochs=2 if not pretrain else 1, valid=0, batch_size=10)
    run = set_up(cfg, toy(), tmp_path / "run")
    train(run, new_state(run))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["fed_truth"] for row in rows if row["kind"] == "train"] == pytest.approx(fed)


def test_split_is_by_a_fixed_seed_and_keeps_the_last_partial_batch(tmp_path):
    task = toy(n=107)
    run, other = (set_up(options(seed=s, batch_size=10), task, tmp_path) for s in (0, 1))
    assert len(run.valid_rows) == 10 and len(run.train_rows) == 97 and run.shuffled.steps_per_epoch == 10
    assert sorted([*run.valid_rows, *run.train_rows]) == list(range(107))
    assert (run.valid_rows == other.valid_rows).all()
    limited = set_up(options(limit_train=50, limit_test=4), task, tmp_path)
    assert max([*limited.train_rows, *limited.valid_rows]) == 49
    assert len(limited.valid_rows) == 4 and len(limited.train_rows) == 45 and len(limited.test_rows) == 4
    assert len(set_up(options(valid=0), task, tmp_path).train_rows) == 107


def test_a_limited_validation_takes_rows_from_everywhere(tmp_path):
    """The lowest ones would be of the first class, where the rows are sorted by class."""
    valid = set_up(options(valid=50, limit_test=10), toy(n=100), tmp_path).valid_rows
    assert len(valid) == 10 and (np.diff(valid) > 0).all() and valid.max() >= 50


def test_a_run_goes_on_with_as_many_data_as_it_began_with(tmp_path):
    run = set_up(options(), toy(n=20), tmp_path)
    state = new_state(run)
    saved = run.directory.read_config()
    assert saved.data == {"train": 20, "test": 20, "classes": 3, "tokens": None, "bytes": True, "fingerprint": None}
    for other, says in (
        (toy(n=21), "train 21, not 20, test 21, not 20;"),
        (toy()._replace(classes=4), "classes 4, not 3;"),
    ):
        with pytest.raises(config.UserError, match=f"the data differ from this run's: {says} check --data-dir"):
            set_up(saved, other, tmp_path)
    run.cfg.data = None  # as in a run from before they were noted
    save(run, state)
    known = {name: value for name, value in dataclasses.asdict(run.cfg).items() if name != "data"}
    run.directory.write_json("config.json", known)
    assert saved_state(set_up(run.directory.read_config(), toy(n=20), tmp_path)).step == 0


def test_an_epoch_sees_every_training_sequence_once_in_a_new_order(tmp_path, monkeypatch):
    run = set_up(options(batch_size=10, dropconnect=0.0), toy(n=107), tmp_path / "run")
    state, seen, each = new_state(run), [], Shards.each

    def spy(shards, function, params, x, *rest, **options):
        seen.append(x[:, :, 0])
        return each(shards, function, params, x, *rest, **options)

    monkeypatch.setattr(Shards, "each", spy)
    with run.open_shards() as shards:
        for step in range(20):
            batch_of_step(run, shards, state.params, step)
    first, second = np.concatenate(seen[:10]), np.concatenate(seen[10:])
    assert (
        sorted(map(bytes, first))
        == sorted(map(bytes, second))
        == sorted(map(bytes, run.task.x_train[run.train_rows, :, 0]))
    )
    assert (first != second).any() and len(seen[9]) == 7


@pytest.mark.parametrize(
    "lengths, aux_length, segments, targets",
    [
        ((9, 9), 5, "5", "3 of 4 targets"),
        ((9, 9), 50, "8 (shortened from 50)", "0 of 7 targets"),
        ((6, 9), 5, "5", "3 of 4 targets"),
        ((3, 9), 5, "up to 5", "3 of 4 targets of the longest segments"),
        ((3, 9), 50, "up to 8 (shortened from 50)", "0 of 7 targets of the longest segments"),
    ],
)
def test_segments_that_the_shortest_sequence_shortens_are_told(lengths, aux_length, segments, targets, tmp_path):
    x, y = [np.zeros(n, np.uint8) for n in (*lengths, 9)], np.zeros(3, int)
    task = datasets.Task(x, y, [np.zeros(20, np.uint8)], y[:1], classes=2, tokens=4)
    run = set_up(options(aux="r", bptt=4, aux_length=aux_length), task, tmp_path)
    told = report.introduction(run, State({}, {})).splitlines()
    assert f"auxiliary loss: truncation 4, segments of {segments}" in told
    assert f"direct credit: r's gradient gets to the step that read the target for {targets}" in told


def test_it_tells_of_the_sequences_that_are_used(tmp_path):
    texts = [np.arange(n) % 5 for n in (4, 6, 9, 200)]
    task = datasets.Task(texts, np.zeros(4, int), texts, np.zeros(4, int), classes=2, tokens=5)
    run = set_up(options(aux="r", aux_length=50, valid=0), task, tmp_path)
    told = report.introduction(dataclasses.replace(run, train_rows=np.array([0, 2])), State({}, {}))
    assert " 4 to 9 steps a sequence" in told and "segments of up to 8 (shortened from 50)" in told


@pytest.mark.parametrize(
    "step, says",
    [
        (0, "2 epochs, 4 batches of 10 to go, on 1 thread; writing"),
        (3, "going on after batch 3: 2 epochs, 1 batches of 10 to go, on 1 thread; writing"),
        (4, "going on after batch 4: 2 epochs, all are done, it is tested again; writing"),
    ],
)
def test_a_run_says_where_it_goes_on(tmp_path, step, says):
    run = set_up(options(batch_size=10, valid=0), toy(), tmp_path)
    assert report.introduction(run, State({}, {}, step=step)).splitlines()[-1].startswith(says)


def test_the_best_validation_weights_are_tested(tmp_path, monkeypatch):
    task = toy(n=60)
    run = set_up(options(epochs=4, lr=0.05), task, tmp_path / "run")
    accuracies = iter([0.3, 0.9, 0.9, 0.1])
    weights, tested = [], []

    def evaluate(run, shards, params, x, y, rows, stop):
        if rows is run.valid_rows:
            weights.append(params["main.Wh"].copy())
            return {"accuracy": next(accuracies), "loss_supervised": 1.0}
        tested.append(params["main.Wh"])
        return {"accuracy": 0.5, "loss_supervised": 1.0}

    monkeypatch.setattr("minaux.training.evaluation.evaluate_rows", evaluate)
    result = train(run, new_state(run))
    assert result["valid_accuracy"] == 0.9 and result["test_accuracy"] == 0.5
    assert (tested[0] == weights[1]).all() and (tested[0] != weights[3]).any()


def test_without_validation_the_last_weights_are_tested(tmp_path):
    run = set_up(options(valid=0), toy(), tmp_path / "run")
    state = new_state(run)
    result = train(run, state)
    assert state.best is None and result["valid_accuracy"] is None and result["complete"]
    with run.open_shards() as shards:
        again = evaluate_rows(run, shards, state.params, *run.sequences("test"))
    assert result["test_accuracy"] == again["accuracy"]


def inputs(params, x, y, draws):
    return x, y


def test_inputs_are_scaled_to_one_and_columns_are_sequences(tmp_path):
    run = set_up(options(threads=2), toy(n=5), tmp_path)
    x, y, seen = run.task.x_train, run.task.y_train, []
    with run.open_shards() as shards:
        seen = shards.each(inputs, {"w": np.zeros(1)}, x, y, Draws())
    assert [part[0].shape for part in seen] == [(6, 1, 2), (6, 1, 3)]
    assert all(part[0].flags.c_contiguous and part[0].dtype == np.float32 for part in seen)
    joined = np.concatenate([part[0] for part in seen], axis=2)
    np.testing.assert_allclose(joined, x.transpose(1, 2, 0) / 255, rtol=1e-6)
    assert (np.concatenate([part[1] for part in seen]) == y).all()


def test_the_mean_of_the_rivals_is_the_training_sets(tmp_path):
    run = set_up(options(), toy(n=50), tmp_path)
    np.testing.assert_allclose(run.mean, run.task.x_train[run.train_rows].mean(0) / 255, rtol=1e-6)


def test_streams_of_random_numbers_are_stateless_and_apart():
    def first(*key):
        return arrays.rng(*key).random()

    assert first(0, 1, 2) == first(0, 1, 2)
    assert len({first(0, 1, 2), first(1, 1, 2), first(0, 2, 2), first(0, 1, 3)}) == 4


def test_array_module_and_cpu_backend():
    assert arrays.array_module(np.zeros(1)) is np
    assert arrays.backend("cpu") == (np, "cpu")
    a = np.ones(2)
    assert arrays.to_host(a) is a


def test_the_swap_gap_is_a_mean_over_the_sequences_that_have_a_neighbour(tmp_path, monkeypatch):
    """Three sequences in blocks of two: the last one is alone, and has no gap."""
    run = set_up(options(aux="r", pretrain_epochs=1), toy(n=30), tmp_path)

    def sums(params, x, y, draws, mean, logits):
        gap = {"r_swap_gap": 0.5, "r_pairs": 2} if len(y) == 2 else {}
        return {"correct": 1, "loss_supervised": 3.0, "r_loss": len(y) * 0.1, **gap}

    monkeypatch.setattr("minaux.training.evaluation.evaluate", sums)
    monkeypatch.setattr("minaux.training.evaluation.BLOCK", 2)
    with run.open_shards() as shards:
        report = evaluate_rows(run, shards, {"w": np.zeros(1)}, run.task.x_test, run.task.y_test, np.arange(3))
    assert report == pytest.approx({"accuracy": 2 / 3, "loss_supervised": 2.0, "r_loss": 0.1, "r_swap_gap": 0.25})


def test_the_auxiliary_weight_scales_the_auxiliary_gradient_alone(tmp_path):
    norms = {}
    for weight in 0.0, 1.0, 2.0:
        run = set_up(options(aux="p", pretrain_epochs=0, aux_weight=weight), toy(), tmp_path / str(weight))
        state = new_state(run)
        with run.open_shards() as shards:
            _, _, row, _ = batch_of_step(run, shards, state.params, 0)
        norms[weight] = row["grad_norm_auxiliary"]
        assert row["grad_norm_supervised"] > 0 and row["loss_auxiliary"] > 0
    assert norms[0.0] == 0 and norms[2.0] == pytest.approx(2 * norms[1.0], rel=1e-5) and norms[1.0] > 0


def test_pretraining_has_no_use_for_the_auxiliary_weight(tmp_path):
    grads = []
    for weight in 0.0, 1.0:
        run = set_up(options(aux="r", pretrain_epochs=1, aux_weight=weight), toy(), tmp_path / str(weight))
        with run.open_shards() as shards:
            grads.append(batch_of_step(run, shards, new_state(run).params, 0)[1])
    assert all((grads[0][name] == grads[1][name]).all() for name in grads[0])
    assert grads[0]["main.Wh"].any()


def process(params, x, y, draws):
    return os.getpid(), [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_each_shard_has_a_process_with_one_blas_thread(tmp_path):
    run = set_up(options(threads=3), toy(), tmp_path)
    with run.open_shards() as shards:
        found = shards.each(process, {"w": np.zeros(1)}, run.task.x_test, run.task.y_test, Draws())
    pids, counts = zip(*found)
    assert len(set(pids)) == 3 and pids[0] == os.getpid()
    assert all(counts) and all(n == 1 for count in counts for n in count)


def test_initial_weights_do_not_depend_on_the_number_of_blas_threads(tmp_path, monkeypatch):
    run, seen = set_up(options(), toy(), tmp_path / "run"), []
    monkeypatch.setattr(
        "minaux.initial.init_params", lambda *args: seen.extend(threadpool_info()) or initial_params(*args)
    )
    new_state(run)
    assert seen and all(pool["num_threads"] == 1 for pool in seen if pool["user_api"] == "blas")


def test_evaluation_has_anchors_of_its_own_the_same_every_time(tmp_path, monkeypatch):
    run, seen = set_up(options(aux="r", pretrain_epochs=1, batch_size=4), toy(T=40), tmp_path / "run"), []
    state, each = new_state(run), Shards.run

    def spy(shards, function, params, parts, *rest, **options):
        seen.extend(draws.r_anchors for _, _, draws, _ in parts)
        return each(shards, function, params, parts, *rest, **options)

    monkeypatch.setattr(Shards, "run", spy)
    monkeypatch.setattr("minaux.training.evaluation.BLOCK", 4)
    with run.open_shards() as shards:
        for step in range(5):
            batch_of_step(run, shards, state.params, step)
        for _ in range(2):
            evaluate_rows(run, shards, state.params, *run.sequences("test"))
    assert seen[5:10] == seen[10:15] != seen[:5] and len(set(seen[5:10])) > 1


def test_an_evaluation_has_the_same_bits_whatever_the_batches_and_threads(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr("minaux.training.evaluation.BLOCK", 4)
    for n, (size, threads) in enumerate([(2, 1), (5, 3), (20, 2)]):
        cfg = options(aux="rp", pretrain_epochs=1, batch_size=size, threads=threads)
        run = set_up(cfg, toy(n=30), tmp_path / str(n))
        state = new_state(run)
        with run.open_shards() as shards:
            found.append(evaluate_rows(run, shards, state.params, *run.sequences("test")))
    assert found[0] == found[1] == found[2] and found[0]["r_swap_gap"] != 0


@pytest.mark.parametrize("model", ["lstm", "irnn", "urnn", "transformer"])
def test_shards_add_up_to_the_batch(tmp_path, model):
    found = []
    for threads in 1, 3:
        kind = {"model": model, "bptt": "full"} if model != "lstm" else {"aux": "rp", "pretrain_epochs": 0}
        run = set_up(options(**kind, dtype="float64", threads=threads), toy(), tmp_path / str(threads))
        state = new_state(run)
        with run.open_shards() as shards:
            found.append(batch_of_step(run, shards, state.params, 0)[1])
    for name, grad in found[0].items():
        np.testing.assert_allclose(found[1][name], grad, rtol=1e-9, atol=1e-12)


def test_speed_counts_the_sequences_of_a_partial_batch(tmp_path, monkeypatch):
    run, rows = set_up(options(valid=0, batch_size=19, epochs=1), toy(), tmp_path / "run"), []
    ticks = iter(range(1000))
    clock = types.SimpleNamespace(monotonic=lambda: float(next(ticks)))
    monkeypatch.setattr("minaux.training.loop.time", clock)
    monkeypatch.setattr("minaux.training.loop.ROW_EVERY", 1)
    monkeypatch.setattr(Run, "write_row", lambda run, state, **row: rows.append(row))
    train(run, new_state(run))
    assert [row["sequences_per_second"] for row in rows if row["kind"] == "train"] == [19, 1]
