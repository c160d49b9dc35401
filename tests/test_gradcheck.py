"""The checker is tested with planted mistakes: each must fail it, and the right gradient must pass."""

import doctest
import math
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from minaux import gradcheck, lstm, model, windows
from minaux.gradcheck import GradientError, check_gradients, check_model, gradient_errors
from tests.right_functions import FAMILIES, least_found, right_function, with_one_wrong_entry

ROOT = pathlib.Path(__file__).parent.parent


def cube(args):
    return (args["w"] ** 3).sum()


def refused(kind, match, f=cube, args=None, grads=None):
    """check_gradients raises `kind` with one line that matches, after GradientError's first."""
    args = {"w": np.array([1.0, 2.0])} if args is None else args
    with pytest.raises(kind, match=match) as raised:
        check_gradients(f, args, {"w": np.array([3.0, 12.0])} if grads is None else grads)
    assert str(raised.value).removeprefix("gradients differ:\n").count("\n") == 0


# --- the examples ---


def readmes_examples():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return [code for code in blocks if "check_gradients" in code]


def test_the_readmes_example_runs_and_can_fail(monkeypatch):
    [code] = readmes_examples()
    calls = []

    def recorded(*args, **options):
        calls.append(args)
        return check_gradients(*args, **options)

    monkeypatch.setattr(gradcheck, "check_gradients", recorded)
    exec(code, {})
    [(f, args, grads, *_)] = calls
    for name in grads:
        with pytest.raises(GradientError, match=f"^gradients differ:\n{name} [^\n]*, numeric [^\n]*$"):
            check_gradients(f, args, {**grads, name: grads[name] * 1.0005})


def test_the_readmes_example_fails_without_asserts_too():
    """`python -O` drops them."""
    [code] = readmes_examples()
    wrong = code.replace("1 - np.tanh", "1.0005 - np.tanh")
    assert wrong != code
    for text, message in (code, ""), (wrong, "GradientError: gradients differ:\nw "):
        ended = subprocess.run([sys.executable, "-O", "-c", text], cwd=ROOT, capture_output=True, text=True)
        assert (ended.returncode != 0, message in ended.stderr) == (bool(message), True)
        assert bool(ended.stderr) == bool(message)


def test_the_docstrings_examples_run():
    ran = doctest.testmod(gradcheck)
    assert ran.attempted > 10 and ran.failed == 0


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("dz = r * (", "dz = 1.0005 * r * ("),
        ('["W"].T @ dz', '["W"].T @ r'),  # forgets the ReLU
        ("range(cut, len(x))", "range(cut + 1, len(x))"),  # goes back a step too few
        ("range(cut, len(x))", "range(cut - 1, len(x))"),  # a step too many
        ("range(cut, len(x))", "range(len(x))"),  # all the way: the full gradient
    ],
)
def test_the_docstrings_examples_can_fail(right, wrong):
    code = "".join(e.source for e in doctest.DocTestParser().get_examples(gradcheck.__doc__))
    assert code.count(right) == 1
    exec(code, {})
    with pytest.raises(GradientError, match="numeric"):
        exec(code.replace(right, wrong), {})


# --- right and wrong gradients ---


def test_right_gradients_pass_and_every_argument_has_an_error():
    rng = np.random.default_rng(0)
    args = {"w": rng.standard_normal((3, 2)), "v": rng.standard_normal(4)}
    errors = check_gradients(
        lambda a: (a["w"] ** 3).sum() * a["v"].sum(),
        args,
        {"w": 3 * args["w"] ** 2 * args["v"].sum(), "v": np.full(4, (args["w"] ** 3).sum())},
    )
    assert [e.name for e in errors] == ["w", "v"]
    assert all(e.relative < 1e-7 and e.analytic == pytest.approx(e.numeric, rel=1e-6) for e in errors)


def test_scale_error_of_a_twentieth_percent_fails_and_is_named():
    w = np.random.default_rng(0).standard_normal((3, 2))
    refused(
        GradientError,
        r"w (at index \(|along a random direction).*: yours .*, numeric",
        args={"w": w},
        grads={"w": 3.0015 * w**2},
    )


def test_every_wrong_argument_is_named_with_its_place_and_both_values():
    args, right = {"u": 2.0, "v": 3.0, "w": 4.0}, {"u": 12.0, "v": 8.0, "w": 6.0}
    with pytest.raises(GradientError) as raised:
        check_gradients(lambda a: a["u"] * a["v"] * a["w"] / 1, args, {**right, "u": 12.5, "w": 6.5})
    first, u, w = str(raised.value).split("\n")
    assert first == "gradients differ:"
    assert re.fullmatch(r"u .*: yours -?12\.5, numeric -?(12\.0|11\.9999)\d*", u)
    assert re.fullmatch(r"w .*: yours -?6\.5, numeric -?(6\.0|5\.9999)\d*", w)


# --- how sure it is: `python -m tests.right_functions 10000` is the whole measure ---


def test_right_gradients_raise_no_alarm_over_twelve_orders_of_magnitude():
    seen = set()
    for seed in range(300):
        family, orders, f, args, grads = right_function(seed)
        seen.add((family, orders > 0))
        for error in gradient_errors(f, args, grads, seed):
            assert not error.wrong, (seed, family.__name__, orders, error)
    assert len(seen) == 2 * len(FAMILIES) - 3  # with a constant part and without; three get none


def test_half_the_squares_of_300_by_300_raise_no_alarm():
    for seed in range(20):
        w = np.random.default_rng(seed).standard_normal((300, 300))
        check_gradients(lambda args: (args["w"] ** 2).sum() / 2, {"w": w}, {"w": w}, seed)


@pytest.mark.parametrize("constant, error", [(0, 1e-5), (1e4, 1e-5), (1e7, 1e-3)])
@pytest.mark.parametrize("loss_size", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_a_wrong_entry_is_found_at_any_size_of_argument_and_loss(size, loss_size, constant, error):
    w = np.array([1.0, -2.0, 3.0])

    def f(args):
        return loss_size * (np.sin(args["w"] / size).sum() + constant)

    right = loss_size / size * np.cos(w)
    check_gradients(f, {"w": size * w}, {"w": right})
    for n in range(3):
        wrong = right.copy()
        wrong[n] *= 1 + error
        refused(GradientError, "^gradients differ:\nw ", f, {"w": size * w}, {"w": wrong})


@pytest.mark.parametrize(
    "n, size, checks", [(100, 1e-5, 300), (10_000, 1e-4, 300), (10_000, 1e-3, 100), (90_000, 1e-3, 20)]
)
def test_one_wrong_entry_among_many_is_found_as_often_as_derived(n, size, checks):
    found = 0
    for seed in range(checks):
        f, args, grads = with_one_wrong_entry(n, size, seed)
        [error] = gradient_errors(f, args, grads, seed, coordinates=0)
        assert error.where == "along a random direction"
        found += error.wrong
    assert found >= math.floor(checks * least_found(n, size))


def test_two_wrong_entries_do_not_hide_each_other():
    w = np.linspace(1, 2, 50)
    for seed in range(30):
        i, j = np.random.default_rng(seed).choice(50, 2, replace=False)
        wrong = w.copy()
        wrong[i], wrong[j] = wrong[i] + 1e-3, wrong[j] - 1e-3
        [error] = gradient_errors(lambda a: (a["w"] ** 2).sum() / 2, {"w": w}, {"w": wrong}, seed, coordinates=0)
        assert error.wrong


def test_a_loss_that_is_rounded_inside_raises_no_alarm_and_hides_only_what_it_must():
    w = np.random.default_rng(0).standard_normal(5)
    for f in lambda a: float(np.float32(cube(a))), lambda a: cube(a) + 1e8 - 1e8:
        check_gradients(f, {"w": w}, {"w": 3 * w**2})
        refused(GradientError, "w .*numeric", f, {"w": w}, {"w": 3 * w**2 * 1.01})


def test_gradients_that_are_rounded_to_float32_raise_no_alarm():
    for seed in range(100):
        w = np.random.default_rng(seed).standard_normal(1000)
        check_gradients(lambda args: (args["w"] ** 2).sum() / 2, {"w": w}, {"w": w.astype(np.float32)}, seed)


def test_where_the_loss_is_not_defined_smaller_steps_are_taken():
    args, right = {"w": np.array([1e-9, 1.0]), "v": 1.0}, {"w": np.array([1e9, 1.0]), "v": 1.0}
    check_gradients(lambda a: np.log(a["w"]).sum() + a["v"], args, right)
    check_gradients(lambda a: sum(map(math.log, a["w"])) + math.log(a["v"]), args, right)  # ValueError below 0
    refused(
        GradientError, "^gradients differ:\nw ", lambda a: np.log(a["w"]).sum(), args, {"w": np.array([1e9, 1.001])}
    )


@pytest.mark.parametrize(
    "grad, message",
    [
        (None, "^w: the gradient is None$"),
        ([3.0, np.nan], r"w at index \(1,\): yours nan, numeric 1[12]\."),
        ([np.inf, 12.0], r"w at index \(0,\): yours inf, numeric [23]\."),
        ([[3.0, 12.0]], r"^w: the gradient has shape \(1, 2\), the argument \(2,\)$"),
        (3.0, r"^w: the gradient has shape \(\), the argument \(2,\)$"),
        ([3.0 + 0j, 12.0], "^w: the gradient is complex128$"),
        (["3", "12"], "^w: the gradient is <U"),
    ],
)
def test_what_is_no_gradient_fails_and_is_named(grad, message):
    with pytest.raises(GradientError) as raised:
        check_gradients(cube, {"w": np.array([1.0, 2.0])}, {"w": grad if grad is None else np.array(grad)})
    assert re.search(message, str(raised.value).removeprefix("gradients differ:\n"))


# --- what people bring ---


@pytest.mark.parametrize(
    "w",
    [
        np.array([1.5, -2.0], np.float32),
        np.array([1, -2]),
        np.array([3, 4], np.uint8),
        np.array([1.5, 2.5], np.float16),
        [1.0, 2.0],
        np.array(1.5),
        np.array(3),
        1.5,
        2,
        np.float32(1.5),
        np.zeros((0, 3)),
        np.ones((3, 4, 2))[:, ::2].T,
    ],
    ids=repr,
)
def test_numbers_of_any_kind_are_checked_in_float64(w):
    seen = []

    def f(args):
        seen.append(args["w"])
        return cube(args)

    grad = 3 * np.asarray(w, float) ** 2
    [error] = check_gradients(f, {"w": w}, {"w": grad})
    assert not error.wrong and all(a.dtype == np.float64 and isinstance(a, np.ndarray) for a in seen)
    check_gradients(f, {"w": w}, {"w": grad.tolist() if grad.ndim < 2 else grad})
    if grad.size:
        refused(GradientError, "numeric", f, {"w": w}, {"w": 1.0005 * grad})


def test_arguments_that_are_not_checked_stay_as_they_are_but_for_float32():
    tokens, names = np.array([0, 1, 1]), ["a", "b"]

    def f(args):
        assert args["tokens"].dtype == tokens.dtype and args["names"] == names and args["nothing"] is None
        assert args["x"].dtype == np.float64
        return (args["w"][args["tokens"]] * args["x"]).sum()

    args = {"w": np.ones(2), "tokens": tokens, "names": names, "nothing": None, "x": np.ones(3, np.float32)}
    check_gradients(f, args, {"w": np.array([1.0, 2.0])})
    refused(GradientError, "^gradients differ:\nw ", f, args, {"w": np.array([1.0, 2.1])})


def test_a_function_may_change_its_arguments():
    args = {"w": np.array([1.0, 2.0]), "x": np.ones(2, int), "list": [1.0]}

    def f(args):
        loss = cube(args) * args["x"][0] * args["list"].pop()
        args["w"] *= 7
        args["x"][:] = 7
        del args["list"]
        return loss

    check_gradients(f, args, {"w": 3 * args["w"] ** 2})
    assert (args["w"] == [1, 2]).all() and (args["x"] == 1).all() and args["list"] == [1.0]


@pytest.mark.parametrize(
    "loss", [np.array, lambda x: np.array([x]), lambda x: np.array([[x]]), lambda x: [x], float, np.longdouble]
)
def test_a_loss_may_be_an_array_of_one_number(loss):
    check_gradients(lambda args: loss(cube(args)), {"w": np.array([1.0, 2.0])}, {"w": np.array([3.0, 12.0])})


@pytest.mark.parametrize(
    "kind, match, loss",
    [
        (ValueError, r"must be one number, but has shape \(2,\)", lambda w: w**3),
        (ValueError, r"must be one number, but has shape \(0,\)", lambda w: w[:0]),
        (ValueError, "the loss of args is nan", lambda w: w.sum() * np.nan),
        (ValueError, "the loss of args is inf", lambda w: w.sum() + np.inf),
        (TypeError, "not a loss of dtype complex128", lambda w: w.sum() * 1j),
        (TypeError, "not a loss of dtype object", lambda w: None),
        (TypeError, "not a loss of dtype bool", lambda w: w.sum() > 0),
        (TypeError, "or \\(loss, kinks\\), not a tuple", lambda w: (w.sum(), w > 0, w)),
        (TypeError, "the loss is float32, too coarse", lambda w: w.astype(np.float32).sum()),
        (TypeError, "kinks must be bools or integers.* not float64", lambda w: (w.sum(), w)),
        (TypeError, "kinks must be bools or integers.* not object", lambda w: (w.sum(), {"w": w})),
        (TypeError, "^the loss cannot be read as an array: ", lambda w: [[1.0, 2.0], [3.0]]),
    ],
)
def test_what_is_no_loss_is_refused_in_a_line(kind, match, loss):
    refused(kind, match, lambda args: loss(args["w"]))


def test_a_loss_that_is_nan_beside_args_fails():
    def f(args):
        return np.nan if args["w"] > 1 else args["w"]

    refused(GradientError, "w .* numeric nan", f, {"w": 1.0}, {"w": 1.0})


def test_a_function_with_random_numbers_of_its_own_is_refused():
    rng = np.random.default_rng(0)
    refused(ValueError, "for the same args: draw its random numbers beforehand", lambda args: rng.random())


def test_wrong_questions_are_refused_in_a_line():
    w = np.ones(2)
    refused(ValueError, r"grads has \['b'\], but args only \['w'\]", grads={"w": 3 * w, "b": w})
    refused(ValueError, "grads is empty", grads={})
    refused(TypeError, "must be dicts", args=[w], grads=[w])
    refused(TypeError, "must be dicts", grads=w)
    refused(TypeError, "w has dtype complex128", args={"w": w + 1j})
    refused(TypeError, "w has dtype bool", args={"w": w > 0})
    refused(TypeError, "^w is None: only real numbers", args={"w": None})
    refused(TypeError, "^w has dtype <U", args={"w": ["1", "2"]})
    refused(TypeError, "^w cannot be read as an array: ", args={"w": [[1.0, 2.0], [3.0]]})
    refused(TypeError, "^the gradient of w cannot be read as an array: ", grads={"w": [[1.0, 2.0], [3.0]]})
    refused(TypeError, "^lines cannot be copied for each call: ", args={"w": w, "lines": (n for n in w)})
    refused(ValueError, "^w has entries that are not finite", args={"w": [1.0, np.nan]})
    refused(ValueError, "^w has entries that are not finite", args={"w": [1.0, np.inf]})
    refused(TypeError, "^f must be a function of args, not float$", f=1.0)
    for coordinates in -1, 1.5, None:
        with pytest.raises(ValueError, match="^coordinates must be a whole number, 0 or more, not"):
            check_gradients(cube, {"w": w}, {"w": 3 * w}, coordinates=coordinates)
    for seed in -1, "a":
        with pytest.raises(TypeError, match="^seed cannot be used: "):
            check_gradients(cube, {"w": w}, {"w": 3 * w}, seed)


# --- kinks, and other likely causes ---


def relu(args):
    return np.maximum(args["w"], 0).sum(), args["w"] > 0


def test_near_a_kink_smaller_steps_are_taken_and_at_a_kink_there_is_no_gradient():
    w = np.array([0.3, 4e-6, 0.7])  # the middle one is nearer to relu's kink than the checker's first step
    right, wrong = {"w": np.ones(3)}, {"w": np.array([1, 1.001, 1])}
    for f in relu, lambda args: relu(args)[0]:
        check_gradients(f, {"w": w}, right)
        refused(GradientError, "^gradients differ:\nw .*, numeric", f, {"w": w}, wrong)
    every = "^gradients differ:\nw: a kink at every step, in all of"
    refused(GradientError, f"{every} 52 places$", relu, {"w": [0.0, 0.3, 0.7]}, right)
    refused(GradientError, f"{every} 1 places$", relu, {"w": [0.0]}, {"w": [1.0]})


@pytest.mark.parametrize("form", [list, tuple, np.array, lambda k: 1 * k, lambda k: [k[:1], k[1:, None]]])
def test_kinks_may_be_arrays_or_lists_of_arrays(form):
    w, right = np.array([0.3, 4e-6, 0.7]), {"w": np.ones(3)}
    check_gradients(lambda args: (relu(args)[0], form(args["w"] > 0)), {"w": w}, right, coordinates=20)


@pytest.mark.parametrize("constant, slope", [(1e12, 1.0), (-1e12, 1.0), (1.0, 1e-13)])
def test_a_forgotten_gradient_is_found_where_the_usual_step_does_not_move_the_loss(constant, slope):
    def f(args):
        return constant + slope * args["w"].sum()

    args = {"w": np.array([1.0, 2.0, 0.5])}
    check_gradients(f, args, {"w": np.full(3, slope)})
    refused(GradientError, "^gradients differ:\nw .*: yours 0.0, numeric", f, args, {"w": np.zeros(3)})
    check_gradients(lambda args: constant, args, {"w": np.zeros(3)})


def test_no_kinks_at_all_may_be_none_or_an_empty_list():
    for none in None, [], ():
        check_gradients(lambda args, none=none: (cube(args), none), {"w": np.ones(2)}, {"w": 3 * np.ones(2)})


def causes(f, w, grad):
    """The note of the failure, which must come."""
    with pytest.raises(GradientError) as raised:
        check_gradients(f, {"w": w}, {"w": grad})
    return str(raised.value).partition("numeric ")[2].partition(": ")[2]


def test_a_failure_names_its_likely_cause():
    w = np.random.default_rng(0).standard_normal(5)
    assert causes(lambda a: np.abs(a["w"]).sum(), 0 * w, 0 * w + 1).startswith("a kink may be near")
    rounded = (3 * w**2 * (1 + 2e-5)).astype(np.float32)
    assert causes(cube, w, rounded) == "the gradient is float32: compute it in float64"
    assert causes(lambda a: 600.0, w, 0 * w + 1) == ""
    for mistake in 1.0005 * 3 * w**2, -3 * w**2, 0 * w, (1.0005 * 3 * w**2).astype(np.float32):
        assert causes(cube, w, mistake) == ""  # it is the gradient


# --- the model, and planted mistakes ---


@pytest.mark.parametrize("aux", ["none", "r", "p", "rp"])
@pytest.mark.parametrize("K", [5, "full"])
def test_model_passes(aux, K):
    assert not any(e.wrong for e in check_model(aux, K))


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


def of_each(backward):
    """Sweeps one after the other by `backward`."""
    return lambda losses, cache, need_dx: [backward(*loss[:3], cache, loss[3]) for loss in losses]


MUTATIONS = {
    "scale of dWh": ("none", model, "lstm_backward_of_each", of_each(scaled(backward, 4, 1.0005))),
    "scale of db": ("none", model, "lstm_backward_of_each", of_each(scaled(backward, 5, 1.0005))),
    "dc dropped between steps": ("none", model, "lstm_backward_of_each", of_each(without_dc)),
    "gates swapped": ("none", model, "lstm_backward_of_each", of_each(swapped_gates)),
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

    assert not any(e.wrong for e in check_model(aux, 5, seed=3))
    monkeypatch.setattr(module, function, wrong)
    assert any(e.wrong and e.name.startswith("main") for e in check_model(aux, 5, seed=3))
