"""The checker is tested with planted mistakes: each must fail it, and the right gradient must pass."""

import doctest
import pathlib
import re

import numpy as np
import pytest

from minaux import gradcheck, lstm, model, windows
from minaux.gradcheck import GradientError, check_gradients, check_model


def cube(args):
    return (args["w"] ** 3).sum()


def refused(kind, match, f=cube, args=None, grads=None):
    """check_gradients raises `kind` with one line that matches, after GradientError's first."""
    args = {"w": np.array([1.0, 2.0])} if args is None else args
    with pytest.raises(kind, match=match) as raised:
        check_gradients(f, args, {"w": np.array([3.0, 12.0])} if grads is None else grads)
    assert str(raised.value).removeprefix("gradients differ:\n").count("\n") == 0


# --- the examples ---


def test_the_readmes_example_runs_and_can_fail(monkeypatch):
    readme = (pathlib.Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    [code] = [c for c in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "check_gradients" in c]
    calls = []

    def recorded(*args, **options):
        calls.append(args)
        return check_gradients(*args, **options)

    monkeypatch.setattr(gradcheck, "check_gradients", recorded)
    exec(code, {})
    [(f, args, grads, *_)] = calls
    for name in grads:
        with pytest.raises(GradientError, match=f"^gradients differ:\n{name} at [^\n]*$"):
            check_gradients(f, args, {**grads, name: grads[name] * 1.0005})


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
        GradientError, r"w at (index \(|a random direction).*, numeric", args={"w": w}, grads={"w": 3.0015 * w**2}
    )


def test_every_wrong_argument_is_named_with_its_place_and_both_values():
    args, right = {"u": 2.0, "v": 3.0, "w": 4.0}, {"u": 12.0, "v": 8.0, "w": 6.0}
    with pytest.raises(GradientError) as raised:
        check_gradients(lambda a: a["u"] * a["v"] * a["w"] / 1, args, {**right, "u": 12.5, "w": 6.5})
    first, u, w = str(raised.value).split("\n")
    assert first == "gradients differ:"
    assert re.fullmatch(r"u at .*: -?12\.5, numeric -?(12\.0000|11\.9999)\d*", u)
    assert re.fullmatch(r"w at .*: -?6\.5, numeric -?(6\.0000|5\.9999)\d*", w)


def test_wrong_single_entry_is_found_by_the_direction():
    w = np.ones(1000)
    grad = 3 * w**2
    grad[123] += 1
    refused(GradientError, "w at a random direction", args={"w": w}, grads={"w": grad})


@pytest.mark.parametrize(
    "grad, message",
    [
        (None, "^w: the gradient is None$"),
        ([3.0, np.nan], r"w at index \(1,\): nan, numeric 1[12]\."),
        ([np.inf, 12.0], r"w at index \(0,\): inf, numeric [23]\."),
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
    refused(GradientError, "^gradients differ:\nw at", f, args, {"w": np.array([1.0, 2.1])})


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
    "loss", [np.array, lambda x: np.array([x]), lambda x: np.array([[x]]), float, np.longdouble]
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
    ],
)
def test_what_is_no_loss_is_refused_in_a_line(kind, match, loss):
    refused(kind, match, lambda args: loss(args["w"]))


def test_a_loss_that_is_nan_beside_args_fails():
    def f(args):
        return np.nan if args["w"] > 1 else args["w"]

    refused(GradientError, "w at .* numeric nan", f, {"w": 1.0}, {"w": 1.0})


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
    refused(TypeError, "w has dtype object", args={"w": None})


# --- kinks, and other likely causes ---


def relu(args):
    return np.maximum(args["w"], 0).sum(), args["w"] > 0


def test_a_difference_across_a_kink_is_drawn_again():
    w = np.array([0.3, 4e-6, 0.7])  # the middle one is nearer to relu's kink than the checker's step
    right = {"w": np.ones(3)}
    check_gradients(relu, {"w": w}, right, coordinates=20)
    with pytest.raises(GradientError, match=r"w at index \(1,\): 1.0, numeric 0.(7|6999).*: a kink may be near"):
        check_gradients(lambda args: relu(args)[0], {"w": w}, right, coordinates=20)
    refused(
        GradientError,
        "^gradients differ:\nw: a kink within 1e-05 in all of 50 places$",
        relu,
        {"w": w[1:2]},
        {"w": [1.0]},
    )


@pytest.mark.parametrize("form", [list, tuple, np.array, lambda k: 1 * k, lambda k: [k[:1], k[1:, None]]])
def test_kinks_may_be_arrays_or_lists_of_arrays(form):
    w, right = np.array([0.3, 4e-6, 0.7]), {"w": np.ones(3)}
    check_gradients(lambda args: (relu(args)[0], form(args["w"] > 0)), {"w": w}, right, coordinates=20)


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
    assert "float32 may be too coarse" in causes(lambda a: float(np.float32(cube(a))), w, 3 * w**2)
    assert "may be too coarse" in causes(lambda a: cube(a) + 1e8, w, 3 * w**2)
    assert causes(lambda a: np.abs(a["w"]).sum(), 0 * w, 0 * w + 1).startswith("a kink may be near")
    rounded = (3 * w**2 * (1 + 2e-6)).astype(np.float32)
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
    return lambda losses, cache, inputs: [backward(*loss[:3], cache, loss[3]) for loss in losses]


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
