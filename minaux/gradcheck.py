"""Check gradients against finite differences, ours and anybody's; and say what a truncated gradient is.

A layer of your own. Its loss is sum(y · r) with a random r, so that no mistake in dy hides behind ones:

>>> import numpy as np
>>> from minaux.gradcheck import check_gradients
>>> rng = np.random.default_rng(0)
>>> args = {"W": rng.standard_normal((3, 4)), "x": rng.standard_normal((4, 5))}
>>> r = rng.standard_normal((3, 5))
>>> def loss(args):
...     z = args["W"] @ args["x"]
...     return (np.maximum(z, 0) * r).sum(), z > 0  # y = relu(z); and which side of their kinks the ReLUs are on
>>> dz = r * (args["W"] @ args["x"] > 0)
>>> grads = {"W": dz @ args["x"].T, "x": args["W"].T @ dz}  # what you derived by hand
>>> errors = check_gradients(loss, args, grads)  # raises GradientError if one is wrong

A recurrence h[t+1] = tanh(w h[t] + x[t]) with loss h[T], truncated at K. The gradient goes back K steps. It is
the exact gradient of another loss: the one whose state at the cut is a constant. That loss has differences:

>>> def states(w, h, x):
...     hs = [h]
...     for x_t in x:
...         hs.append(np.tanh(w * hs[-1] + x_t))
...     return hs
>>> w, x, K = 0.9, rng.standard_normal(6), 3
>>> hs, cut = states(w, 0.0, x), len(x) - K
>>> dw, dh = 0.0, 1.0
>>> for t in reversed(range(cut, len(x))):
...     dz = dh * (1 - hs[t + 1] ** 2)
...     dw, dh = dw + dz * hs[t], dz * w
>>> errors = check_gradients(lambda args: states(args["w"], hs[cut], x[cut:])[-1], {"w": w}, {"w": dw})

`frozen_loss` is that loss for the whole model, with all its cuts; `record` runs ahead for the constants.
"""

import copy
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from .auxiliary import window_forward
from .initial import Sizes, parameter_shapes
from .lstm import layer_weights, lstm_forward
from .model import draw, loss_and_grads
from .ops import mlp_forward, softmax_cross_entropy_forward
from .windows import cut

STEP, ABSOLUTE, RELATIVE = 1e-5, 1e-8, 1e-6
REDRAWS = 50


class GradientError(AssertionError):
    """A line for each gradient that is wrong or could not be checked: its name, the place and both values."""


class Error(NamedTuple):
    """The worst disagreement of one argument."""

    name: str
    where: str = ""  # an index, or "a random direction"; "" if nothing could be compared
    analytic: float = math.nan
    numeric: float = math.nan
    note: str = ""  # why nothing could be compared, or a likely cause other than a wrong gradient

    @property
    def relative(self):
        """|a-n| / (max(|a|, |n|) + 0.01): at most RELATIVE just where |a-n| ≤ 1e-8 + 1e-6 max(|a|, |n|)."""
        size = max(abs(self.analytic), abs(self.numeric))
        error = abs(self.analytic - self.numeric) / (size + ABSOLUTE / RELATIVE)
        return error if np.isfinite(error) else np.inf

    @property
    def wrong(self):
        return self.relative > RELATIVE

    def __str__(self):
        values = f" at {self.where}: {self.analytic!r}, numeric {self.numeric!r}" if self.where else ""
        return f"{self.name}{values}" + (f": {self.note}" if self.note else "")


def check_gradients(f, args, grads, seed=0, coordinates=3):
    """Compare `grads` with central differences of f, for each argument along a random unit direction and at
    `coordinates` random entries. Returns one `Error` an argument, the worst.

    f(args) returns the loss, or (loss, kinks). args and grads are dicts, name -> array; what has an entry in
    grads is checked. It may be Python numbers, integers or float32: f gets float64 arrays. Arguments without an
    entry may be anything; arrays of floats become float64. f gets fresh copies each time and may change them.

    kinks: an array of bools or integers, or a list of arrays, that says which branches f took: z > 0 for a ReLU,
    argmax for a maximum. Where they differ between the ends of a difference, another place is drawn.

    Raises GradientError if a gradient is wrong, None, not finite or of another shape than its argument, or if
    there are kinks everywhere; ValueError if grads is empty or names what args lacks, or the loss is not one
    finite number, the same each time; TypeError if arguments, loss or kinks have an unfit type. A float32 loss is
    unfit: it is too coarse for these differences.
    """
    errors = gradient_errors(f, args, grads, seed, coordinates)
    wrong = [str(error) for error in errors if error.wrong]
    if wrong:
        raise GradientError("\n".join(["gradients differ:", *wrong]))
    return errors


def gradient_errors(f, args, grads, seed=0, coordinates=3):
    """As `check_gradients`, but returns wrong gradients too: see `Error.wrong`."""
    if not (isinstance(args, Mapping) and isinstance(grads, Mapping)):
        raise TypeError("args and grads must be dicts, name -> array")
    if not grads:
        raise ValueError("grads is empty: nothing to check")
    if unknown := [name for name in grads if name not in args]:
        raise ValueError(f"grads has {unknown}, but args only {list(args)}")
    args = {name: _as_float64(name, value, name in grads) for name, value in args.items()}
    (loss, _), (again, _) = _call(f, args), _call(f, args)
    if not math.isfinite(loss):
        raise ValueError(f"the loss of args is {loss}: it has no differences")
    if not abs(again - loss) <= 1e-10 * max(1, abs(loss)):
        raise ValueError(f"f returns {loss}, then {again} for the same args: draw its random numbers beforehand")
    rng, errors = np.random.default_rng(seed), []
    for name, grad in grads.items():
        given, grad, shape = grad, np.asarray(grad), args[name].shape
        if grad.dtype.kind not in "iuf":
            errors.append(Error(name, note=f"the gradient is {'None' if given is None else grad.dtype}"))
        elif grad.shape != shape:
            errors.append(Error(name, note=f"the gradient has shape {grad.shape}, the argument {shape}"))
        elif grad.size == 0:
            errors.append(Error(name, "no entry", 0.0, 0.0))
        else:
            found = [_error_at(f, args, name, grad, loss, rng, n == 0) for n in range(coordinates + 1)]
            errors.append(max(found, key=lambda e: e.relative))
    return errors


def _as_float64(name, value, checked):
    if not checked and not (isinstance(value, np.ndarray) and value.dtype.kind == "f"):
        return value  # tokens, say
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} has dtype {array.dtype}: only real numbers have gradients here")
    return array.astype(np.float64)


def _call(f, args):
    """f's (loss, kinks) for copies of args: a float, and one flat array."""
    result = f({name: copy.deepcopy(value) for name, value in args.items()})
    loss, kinks = result if isinstance(result, tuple) and len(result) == 2 else (result, [])
    if isinstance(loss, tuple) or np.asarray(loss).dtype.kind not in "iuf":
        what = "a tuple" if isinstance(loss, tuple) else f"a loss of dtype {np.asarray(loss).dtype}"
        raise TypeError(f"f must return a real number, or (loss, kinks), not {what}")
    loss = np.asarray(loss)
    if loss.dtype in (np.float16, np.float32):
        raise TypeError(f"the loss is {loss.dtype}, too coarse for a step of {STEP}: let f compute in float64")
    if loss.size != 1:
        raise ValueError(f"the loss must be one number, but has shape {loss.shape}: weight it at random and sum")
    kinks = kinks if isinstance(kinks, list | tuple) else [] if kinks is None else [kinks]
    kinks = np.concatenate([np.zeros(0, bool), *map(np.ravel, kinks)])
    if kinks.dtype.kind not in "biu":
        raise TypeError(f"kinks must be bools or integers, z > 0 say, not {kinks.dtype}")
    return float(loss.item()), kinks


def _error_at(f, args, name, grad, loss, rng, anywhere):
    """The error at one place, drawn again until no kink is near; `loss` is that of args."""
    for _ in range(REDRAWS):
        where, direction = _draw(rng, grad, anywhere)
        ends = [{**args, name: np.asarray(args[name] + sign * STEP * direction)} for sign in (1, -1)]
        (up, kinks), (down, other_kinks) = (_call(f, end) for end in ends)
        if np.array_equal(kinks, other_kinks):
            break
    else:
        return Error(name, note=f"a kink within {STEP} in all of {REDRAWS} places")
    on = direction != 0
    error = Error(name, where, float((grad[on] * direction[on]).sum()), (up - down) / (2 * STEP))
    return error._replace(note=_likely_cause(error, grad.dtype, up, loss, down)) if error.wrong else error


def _draw(rng, grad, anywhere):
    """A place and its unit direction: any, or along one entry; the first that is not finite, if any."""
    bad = np.argwhere(~np.isfinite(grad))
    if anywhere and not len(bad):
        direction = np.asarray(rng.standard_normal(grad.shape))
        return "a random direction", direction / np.linalg.norm(direction)
    index = tuple(map(int, bad[0] if len(bad) else [rng.integers(size) for size in grad.shape]))
    direction = np.zeros(grad.shape)
    direction[index] = 1.0
    return f"index {index}", direction


def _likely_cause(error, dtype, up, loss, down):
    """What may have made the error other than a wrong gradient, or ""."""
    difference = abs(error.analytic - error.numeric)
    float32 = up != down and all((math.frexp(end)[0] * 2**24).is_integer() for end in (up, down))
    rounding = math.ulp(loss) * (2**29 if float32 else 1) / STEP
    if difference < 10 * rounding:
        return f"a loss of {loss:.3g} {'in float32 ' if float32 else ''}may be too coarse for a step of {STEP}"
    if dtype in (np.float16, np.float32) and error.relative < 1e-4:
        return f"the gradient is {dtype}: compute it in float64"
    kink = difference <= abs(up - 2 * loss + down) / STEP  # the one-sided differences lie that far apart
    return "a kink may be near: let f return (loss, kinks)" if kink else ""


def record(params, x, draws, aux_K, fed, mask=None):
    """The states at which gradients may be cut, from an unperturbed forward pass over all T steps.

    Returns main h, c `[T+1, H, N]` (slot t: before step t) and, for each anchor, the auxiliary states at
    the window starts.
    """
    h, c, _ = run_main(params, x, None, 0, len(x), mask)
    zeros = np.zeros_like(h[0])
    entries = []
    for n, a in enumerate(draws.r_anchors):
        state = (h[a + 1], c[a + 1]), (zeros, zeros)
        entries.append(_window_states(params, "r", fed[n], x[a - draws.L + 1 : a], state, aux_K))
    for a in draws.p_anchors:
        state = (zeros, zeros), (zeros, zeros)
        inputs, targets = h[a + 1 : a + 1 + draws.L], x[a + 1 : a + 1 + draws.L]
        entries.append(_window_states(params, "p", inputs, targets, state, aux_K))
    return h, c, entries


def _window_states(params, name, inputs, targets, state, K):
    states = []
    for t0, t1 in cut(len(targets), K):
        states.append(state)
        state = window_forward(params, name, inputs[t0:t1], targets[t0:t1], state, 1.0).state
    return states


def run_main(params, x, state, t0, t1, mask):
    """Steps t0 ... t1-1 of the main LSTM from `state` (None: zeros)."""
    weights, _ = layer_weights(params, "main")
    zeros = np.zeros((weights[1].shape[1], x.shape[-1]))
    return lstm_forward(x[t0:t1], *(state or (zeros, zeros)), *weights, None if mask is None else mask[t0:t1])


def frozen_loss(params, recorded, x, y, draws, K, aux_K, aux_weight=1.0, batch_size=None, mask=None, fed=()):
    """(loss, kinks): L_supervised + aux_weight · L_auxiliary with the `recorded` states at every cut held
    constant and the values `fed` to r's decoder replayed."""
    h, c, entries = recorded
    T, N, L = len(x), x.shape[-1], draws.L
    batch_size, channels = batch_size or N, 1 if x.ndim == 2 else x.shape[1]
    loss, kinks, entries = 0.0, [], iter(entries)

    def main(t0, t1):  # from the recorded state before step max(t0, 0), a constant
        t0 = max(t0, 0)
        return run_main(params, x, (h[t0], c[t0]), t0, t1, mask)

    def window(name, inputs, targets, state, scale):
        nonlocal loss
        w = window_forward(params, name, inputs, targets, state, scale)
        loss += aux_weight * w.loss
        kinks.extend(relu > 0 for _, _, inputs, _ in w.heads for relu in inputs[1:])

    if y is not None:  # the supervised loss: the last K steps are live
        last = h[T] if K == 0 else main(T - K, T)[0][-1]
        logits, inputs = mlp_forward(last, params, "classifier", draws.masks)
        loss += softmax_cross_entropy_forward(logits, y, 1 / batch_size)[0]
        kinks.extend(relu > 0 for relu in inputs[1:])
    for n, a in enumerate(draws.r_anchors):
        scale = 1 / (batch_size * (L - 1) * channels * len(draws.r_anchors))
        targets = x[a - L + 1 : a]
        for (t0, t1), state in zip(cut(L - 1, aux_K), next(entries)):
            if t0 == 0 and aux_K:  # the first window starts from the main LSTM's live state
                hs, cs, _ = main(a - aux_K + 1, a + 1)
                state = (hs[-1], cs[-1]), state[1]
            window("r", fed[n][t0:t1], targets[t0:t1], state, scale)
    for a in draws.p_anchors:
        scale = 1 / (batch_size * L * channels * len(draws.p_anchors))
        for (t0, t1), state in zip(cut(L, aux_K), next(entries)):  # every later window starts from constants
            inputs = h[a + 1 + t0 : a + 1 + t1]
            if aux_K:  # else the main states are constants
                lead = aux_K if t0 == 0 else 0  # the first window's live steps begin before the anchor
                inputs = main(a + t0 - lead, a + t1)[0][-(t1 - t0) :]
            window("p", inputs, x[a + 1 + t0 : a + 1 + t1], state, scale)
    return loss, kinks


def check_model(aux, K, seed=0, T=24, L=12, H=4, N=3, D=2):
    """`gradient_errors` of a whole small model: classifier and auxiliary losses, two anchors, DropConnect and
    scheduled sampling, all truncated at K ("full": nowhere)."""
    rng = np.random.default_rng(seed)
    K = T if K == "full" else K
    shapes = parameter_shapes(Sizes(D, H, classes=3), aux)
    params = {name: 0.5 * rng.standard_normal(shape) for name, shape in shapes.items()}
    x, y = rng.random((T, D, N)), rng.integers(0, 3, N)
    draws = draw(seed, 0, aux, 2, L, T, N, shapes, own_probability=0.5, dropconnect=0.3)
    result = loss_and_grads(params, x, y, draws, K, K)
    recorded = record(params, x, draws, K, result.fed)
    return gradient_errors(
        lambda p: frozen_loss(p, recorded, x, y, draws, K, K, fed=result.fed), params, result.grads, seed
    )
