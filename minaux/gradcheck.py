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
from .model import between, draw, loss_and_grads
from .ops import mlp_forward, softmax_cross_entropy_forward
from .windows import cut

STEP, RELATIVE = 2.0**-17, 1e-6
SAFETY, LEVELS, SMALLER = 64, 20, 6  # of measured steps: see check_gradients
REDRAWS = 50
EPS = np.finfo(float).eps


class GradientError(AssertionError):
    """A line for each gradient that is wrong or could not be checked: its name, the place and both values."""


class Error(NamedTuple):
    """The worst disagreement of one argument, or the first that is wrong."""

    name: str
    where: str = ""  # an entry, or a random direction; "" if nothing could be compared
    analytic: float = math.nan
    numeric: float = math.nan
    rounding: float = 0.0  # what rounding and truncation may add to |a-n|; 0 where RELATIVE was enough
    note: str = ""  # why nothing could be compared, or a likely cause other than a wrong gradient

    @property
    def relative(self):
        """At most RELATIVE just where |a-n| ≤ RELATIVE max(|a|, |n|) + rounding."""
        if self.analytic == self.numeric:
            return 0.0
        size = max(abs(self.analytic), abs(self.numeric))
        error = abs(self.analytic - self.numeric) / (size + self.rounding / RELATIVE)
        return error if np.isfinite(error) else np.inf

    @property
    def wrong(self):
        return self.relative > RELATIVE

    def __str__(self):
        values = f" {self.where}: yours {self.analytic!r}, numeric {self.numeric!r}" if self.where else ""
        return f"{self.name}{values}" + (f": {self.note}" if self.note else "")


def check_gradients(f, args, grads, seed=0, coordinates=3):
    """Compare `grads` with central differences of f, for each argument along random directions and at
    `coordinates` random entries. Returns one `Error` an argument, the worst.

    f(args) returns the loss, or (loss, kinks). args and grads are dicts, name -> array; what has an entry in
    grads is checked. It may be Python numbers, lists, integers or float32: f gets float64 arrays. Arguments
    without an entry may be anything; arrays of floats become float64. f gets fresh copies each time and may
    change them.

    kinks: an array of bools or integers, or a list of arrays, that says which branches f took: z > 0 for a ReLU,
    argmax for a maximum. No step is used that changes them; where none is left, another place is drawn.

    Raises GradientError if a gradient is wrong, None, not finite or of another shape than its argument, or if
    there are kinks everywhere; ValueError if grads is empty or names what args lacks, an argument is not finite,
    or the loss is not one finite number, the same each time; TypeError if an argument, the loss or kinks have an
    unfit type. A float32 loss is unfit: compute it in float64.

    The step. n(h) = (f(w + h d) - f(w - h d)) / 2h misses the slope by truncation, f''' h²/6, and by rounding,
    η/h with η ≥ ε |f|, ε = 2.2e-16. Where f changes over the argument's scale s, its largest |w|, their sum is
    least near h = ε^(1/3) s, about STEP s. If |a-n| ≤ RELATIVE max(|a|, |n|) there, the gradient a is right.

    The tolerance. Else rounding is measured, with steps that rise by fours, from 4^-LEVELS of the entry's own
    size to s or more, but less than 4 s. Were n(h) the slope, h' n(h) would be half the change of f over each
    smaller step ±h', but for rounding. The largest miss, or ε |f| if that is more, is η, and n(h) is trusted to
    SAFETY η/h. That covers truncation, too: n(h/4) has a sixteenth of it, so η/h shows at least 15/64 of it. To
    show at h alone, rounding would have to hide from SMALLER smaller steps or more. Where η/h rises again, or
    n(h) leaves what was trusted at a smaller step, f bends too much. The n(h) before that decides: a may be off
    by RELATIVE max(|a|, |n|) + SAFETY η/h, and by 8 ε √n times the largest of its n entries, ε that of its own
    dtype. `Error.rounding` has the last two. So a loss with a large constant part hides more, but raises no
    false alarm. Not judged is what moves the loss by less than SAFETY times what it rounds.

    The directions. Their entries are ±1/2 to ±3/2, so none hides a wrong entry; there are two, and one more for
    each 40,000 entries, at most ten. One wrong entry, off by e, is always found at a checked entry. A direction
    finds it unless RELATIVE |a| > e/2. |a| is about ‖grad‖ |z| with a standard normal z, so each direction
    misses it with probability P(|z| > e / (2 RELATIVE ‖grad‖)) at most. Of n gradients alike in size, one that is
    off by 0.1 % is missed if |z| > 500/√n: by both directions of 10,000 entries in less than one of 10^12
    checks, by the four of 90,000 in one of 10^4, by the ten of a million in one of 100. (Where rounding was
    measured, e/2 must exceed it as well.)
    """
    errors = gradient_errors(f, args, grads, seed, coordinates)
    wrong = [str(error) for error in errors if error.wrong]
    if wrong:
        raise GradientError("\n".join(["gradients differ:", *wrong]))
    return errors


def gradient_errors(f, args, grads, seed=0, coordinates=3):
    """As `check_gradients`, but returns wrong gradients too: see `Error.wrong`."""
    if not callable(f):
        raise TypeError(f"f must be a function of args, not {type(f).__name__}")
    if not (isinstance(args, Mapping) and isinstance(grads, Mapping)):
        raise TypeError("args and grads must be dicts, name -> array")
    if not isinstance(coordinates, int | np.integer) or coordinates < 0:
        raise ValueError(f"coordinates must be a whole number, 0 or more, not {coordinates!r}")
    if not grads:
        raise ValueError("grads is empty: nothing to check")
    if unknown := [name for name in grads if name not in args]:
        raise ValueError(f"grads has {unknown}, but args only {list(args)}")
    args = {name: _as_float64(name, value, name in grads) for name, value in args.items()}
    centre, (again, _) = _call(f, args), _call(f, args)
    loss = centre[0]
    if not math.isfinite(loss):
        raise ValueError(f"the loss of args is {loss}: it has no differences")
    if not abs(again - loss) <= 1e-6 * abs(loss):
        raise ValueError(f"f returns {loss}, then {again} for the same args: draw its random numbers beforehand")
    rng = _tried(np.random.default_rng, "seed", seed)
    return [_argument_error(f, args, centre, name, grad, rng, coordinates) for name, grad in grads.items()]


def _tried(step, name, value):
    """step(value), or a TypeError that names it."""
    try:
        return step(value)
    except Exception as error:  # a list of unequal lengths, a GPU's tensor; an open file
        what = {np.asarray: "read as an array", copy.deepcopy: "copied for each call"}.get(step, "used")
        raise TypeError(f"{name} cannot be {what}: {error}") from error


def _as_float64(name, value, checked):
    if not checked and not (isinstance(value, np.ndarray) and value.dtype.kind == "f"):
        return value  # tokens, say
    array = _tried(np.asarray, name, value)
    if array.dtype.kind not in "iuf":
        what = "is None" if value is None else f"has dtype {array.dtype}"
        raise TypeError(f"{name} {what}: only real numbers have gradients here")
    if checked and not np.isfinite(array).all():
        raise ValueError(f"{name} has entries that are not finite: there are no differences")
    return array.astype(np.float64)


def _call(f, args):
    """f's (loss, kinks) for copies of args: a float, and one flat array."""
    result = f({name: _tried(copy.deepcopy, name, value) for name, value in args.items()})
    loss, kinks = result if isinstance(result, tuple) and len(result) == 2 else (result, [])
    if isinstance(loss, tuple) or _tried(np.asarray, "the loss", loss).dtype.kind not in "iuf":
        what = "a tuple" if isinstance(loss, tuple) else f"a loss of dtype {np.asarray(loss).dtype}"
        raise TypeError(f"f must return a real number, or (loss, kinks), not {what}")
    loss = np.asarray(loss)
    if loss.dtype in (np.float16, np.float32):
        raise TypeError(f"the loss is {loss.dtype}, too coarse for differences: let f compute in float64")
    if loss.size != 1:
        raise ValueError(f"the loss must be one number, but has shape {loss.shape}: weight it at random and sum")
    kinks = kinks if isinstance(kinks, list | tuple) else [] if kinks is None else [kinks]
    kinks = np.concatenate([np.zeros(0, bool), *(_tried(np.asarray, "kinks", k).ravel() for k in kinks)])
    if kinks.dtype.kind not in "biu":
        raise TypeError(f"kinks must be bools or integers, z > 0 say, not {kinks.dtype}")
    return float(loss.item()), kinks


def _argument_error(f, args, centre, name, given, rng, coordinates):
    """The worst `Error` of one argument, over its directions and entries, or the first that is wrong."""
    w, grad = args[name], _tried(np.asarray, f"the gradient of {name}", given)
    if grad.dtype.kind not in "iuf":
        return Error(name, note=f"the gradient is {'None' if given is None else grad.dtype}")
    if grad.shape != w.shape:
        return Error(name, note=f"the gradient has shape {grad.shape}, the argument {w.shape}")
    if grad.size == 0:
        return Error(name, "no entry", 0.0, 0.0)
    bad = np.flatnonzero(~np.isfinite(grad))[:1]
    directions = 0 if len(bad) or w.size == 1 else min(2 + w.size // 40_000, 10)
    entries = bad if len(bad) else rng.choice(w.size, min(w.size, coordinates + REDRAWS), replace=False)
    lines, errors = [None] * (directions + REDRAWS), []
    for places, wanted in (lines, directions), (entries, coordinates if directions else 1):
        found = []
        for entry in places:
            if len(found) == wanted:
                break
            if error := _error_at(f, args, centre, name, grad, *_direction(rng, w.shape, entry)):
                if error.wrong:
                    return error
                found.append(error)
        if wanted and not found:
            return Error(name, note=f"a kink at every step, in all of {len(places)} places")
        errors += found
    return max(errors, key=lambda e: e.relative)


def _direction(rng, shape, entry):
    """A place and its direction: along an entry, or (None) a random one."""
    if entry is None:
        return "along a random direction", rng.choice([-1.0, 1.0], shape) * rng.uniform(0.5, 1.5, shape)
    direction = np.zeros(shape)
    direction.flat[entry] = 1.0
    return f"at index {tuple(map(int, np.unravel_index(entry, shape)))}", direction


def _error_at(f, args, centre, name, grad, where, direction):
    """The `Error` at one place; None if there is a kink however small the step."""
    w, on = args[name], direction != 0

    def ends(h):
        """f beside args, (up, down): nan where it is not defined; None across a kink."""
        try:
            with np.errstate(all="ignore"):
                found = [_call(f, {**args, name: np.asarray(w + sign * h * direction)}) for sign in (1, -1)]
        except (ArithmeticError, ValueError):  # math.log(-1); a matrix without factors
            return math.nan, math.nan
        return [loss for loss, _ in found] if all(np.array_equal(k, centre[1]) for _, k in found) else None

    scale, own = float(abs(w).max()), abs(w[on & (w != 0)])
    scale = scale if scale > 1e-200 else 1.0
    error = Error(name, where, float((grad[on] * direction[on]).sum()))
    pair = ends(STEP * scale)
    if pair and pair[0] != pair[1]:
        quick = error._replace(numeric=float(pair[0] - pair[1]) / (2 * STEP * scale))
        if not quick.wrong:
            return quick
    elif pair and error.analytic == 0:  # flat, or less than it rounds? The largest step without a kink tells
        up, down = next(filter(None, map(ends, scale * 4.0 ** -np.arange(9))), pair)
        if up == down:
            return error._replace(numeric=0.0)
    finest = max(own.min(initial=scale) / scale, EPS) * 4.0**-LEVELS
    h, losses = [], []
    for step in scale * finest * 4.0 ** np.arange(1 - math.floor(math.log(finest, 4))):
        pair = ends(step)
        if pair is None or not np.isfinite(pair).all():
            break
        h, losses = [*h, step], [*losses, pair]
    if len(h) <= SMALLER:
        return None if pair is None else error._replace(note="the loss beside args is not finite")
    n, rounding, bend = _measured(np.array(h), *np.array(losses).T, centre[0])
    still = max((step for step, (up, down) in zip(h, losses) if up == down), default=0.0)
    if error.analytic == 0 and abs(n) * still > EPS * abs(centre[0]):  # f is flat here, and bends beyond
        return error._replace(numeric=0.0)
    error = error._replace(numeric=n)
    if not math.isfinite(error.analytic):
        return error
    float32 = grad.dtype.kind == "f" and grad.dtype != np.float64
    own_rounding = 8 * np.finfo(grad.dtype if float32 else np.float64).eps * math.sqrt(grad.size)
    error = error._replace(rounding=float(rounding + own_rounding * abs(grad).max()))
    if error.wrong and abs(error.analytic - n) <= bend:
        return error._replace(note="a kink may be near: let f return (loss, kinks)")
    if error.wrong and float32 and abs(error.analytic - n) < 1e-4 * abs(n):
        return error._replace(note=f"the gradient is {grad.dtype}: compute it in float64")
    return error


def _measured(h, up, down, centre):
    """The slope by the most trusted of the steps h, which rise by fours; how far off it may be; and how far apart
    the slopes of either side stay."""
    half, least = (up - down) / 2, EPS * (abs(centre) or 1.0)
    n = half / h
    best, trusted, low, high = SMALLER, math.inf, -math.inf, math.inf
    for j in range(SMALLER, len(h)):
        if half.any() and not half[: j + 1].any():
            continue  # the loss is too coarse for such steps
        rounding = SAFETY * max(abs(half[:j] - h[:j] * n[j]).max(), least) / h[j]
        low, high = max(low, n[j] - rounding), min(high, n[j] + rounding)
        if rounding > trusted or low > high:
            break  # f bends within such steps
        best, trusted = j, rounding
    return float(n[best]), trusted, (abs(up - 2 * centre + down) / h).min()


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
    """The states ((h, c), (h, c)), each `[H, N]`, of a head's two layers at the start of each window."""
    states = []
    for t0, t1 in cut(len(targets), K):
        states.append(state)
        state = window_forward(params, name, inputs[t0:t1], targets[t0:t1], state, 1.0).state
    return states


def run_main(params, x, state, t0, t1, mask):
    """h, c `[t1-t0+1, H, N]`, slot 0 before step t0, and the cache of steps t0 ... t1-1 of the main LSTM over x
    `[T, D, N]` or tokens `[T, N]`, from `state`, h and c `[H, N]` (None: zeros); `mask [T, N]` or None."""
    weights, _ = layer_weights(params, "main")
    zeros = np.zeros((weights[1].shape[1], x.shape[-1]))
    return lstm_forward(x[t0:t1], *(state or (zeros, zeros)), *weights, between(mask, t0, t1))


def frozen_loss(params, recorded, x, y, draws, K, aux_K, aux_weight=1.0, batch_size=None, mask=None, fed=()):
    """(loss, kinks): L_supervised + aux_weight · L_auxiliary with the `recorded` states at every cut held
    constant and the values `fed` to r's decoder replayed, `[L-1, D, N]` for each anchor. The rest is as in
    `model.loss_and_grads`; kinks are the signs of the ReLUs."""
    h, c, entries = recorded
    T, N, L = len(x), x.shape[-1], draws.L
    batch_size, channels = batch_size or N, 1 if x.ndim == 2 else x.shape[1]
    loss, kinks, entries = 0.0, [], iter(entries)

    # The spans are written out here, not taken from windows.py: an off-by-one there must show.
    def main(t0, t1):  # from the recorded state before step max(t0, 0), a constant
        t0 = max(t0, 0)
        return run_main(params, x, (h[t0], c[t0]), t0, t1, mask)

    def window(name, inputs, targets, state, scale):
        nonlocal loss
        w = window_forward(params, name, inputs, targets, state, scale)
        loss += aux_weight * w.loss
        kinks.extend(relu > 0 for _, _, mlp, _ in w.mlps for relu in mlp[1:])

    if y is not None:  # the supervised loss: the last K steps are live
        last = h[T] if K == 0 else main(T - K, T)[0][-1]
        logits, mlp = mlp_forward(last, params, "classifier", draws.masks)
        loss += softmax_cross_entropy_forward(logits, y, 1 / batch_size)[0]
        kinks.extend(relu > 0 for relu in mlp[1:])
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


def check_model(aux, K, seed=0):
    """`gradient_errors` of a whole small model: classifier and auxiliary losses, two anchors, DropConnect and
    scheduled sampling, all truncated at K ("full": nowhere)."""
    rng, T, L, H, N, D = np.random.default_rng(seed), 24, 12, 4, 3, 2
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
