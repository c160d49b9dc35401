"""Gradients against central finite differences, and truncated gradients against a frozen loss.

`worst_errors` checks any function's gradients. To check one of your own:

    f = lambda args: (loss, None)              # args: name -> float64 array
    errors = worst_errors(f, args, grads, seed=0)
    assert_gradients(errors)

`frozen_loss` says what truncation means, in forward form: the loss as a function of the parameters where
the states at every cut are constants. Truncated gradients are its exact gradients, so finite differences
of it check every cut.
"""

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


class Error(NamedTuple):
    """The worst disagreement of one argument."""

    name: str
    where: str  # a coordinate, or "a random direction"
    analytic: float
    numeric: float

    @property
    def relative(self):
        """|a-n| / (max(|a|, |n|) + 0.01): at most RELATIVE just where |a-n| ≤ 1e-8 + 1e-6 max(|a|, |n|)."""
        size = max(abs(self.analytic), abs(self.numeric))
        error = abs(self.analytic - self.numeric) / (size + ABSOLUTE / RELATIVE)
        return error if np.isfinite(error) else np.inf


def worst_errors(f, args, grads, seed, coordinates=3):
    """Compare `grads` with differences of f, for each argument along a random unit direction and at a few
    coordinates. Returns one `Error` an argument, the worst.

    f(args) -> (loss, kinks), args and grads name -> float64 array; only what has an entry in grads is checked.
    Where `kinks` (the signs inside ReLUs, say) differ between the two ends of a difference, it spans a kink,
    and another place is drawn.
    """
    rng, errors = np.random.default_rng(seed), []
    for name, grad in grads.items():
        assert grad.shape == args[name].shape, f"{name}: a gradient {grad.shape} of an array {args[name].shape}"
        found = []
        for n in range(coordinates + 1):
            for _ in range(REDRAWS):
                direction = np.zeros(grad.shape)
                if n == 0:
                    where, direction = "a random direction", rng.standard_normal(grad.shape)
                    direction /= np.linalg.norm(direction)
                else:
                    index = tuple(int(rng.integers(size)) for size in grad.shape)
                    where, direction[index] = f"index {index}", 1.0
                ends = [f({**args, name: args[name] + sign * STEP * direction}) for sign in (1, -1)]
                if np.array_equal(ends[0][1], ends[1][1]):
                    break
            else:
                raise AssertionError(f"{name}: a kink within {STEP} in all of {REDRAWS} places")
            numeric = float(ends[0][0] - ends[1][0]) / (2 * STEP)
            found.append(Error(name, where, float((grad * direction).sum()), numeric))
        errors.append(max(found, key=lambda e: e.relative))
    return errors


def assert_gradients(errors):
    """Fail with every argument that is out of tolerance, its place and both values."""
    bad = [f"{e.name} at {e.where}: {e.analytic!r}, numeric {e.numeric!r}" for e in errors if e.relative > RELATIVE]
    assert not bad, "gradients differ:\n" + "\n".join(bad)


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

    if y is not None:
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
        for (t0, t1), state in zip(cut(L, aux_K), next(entries)):
            inputs = h[a + 1 + t0 : a + 1 + t1]
            if aux_K:
                lead = aux_K if t0 == 0 else 0
                inputs = main(a + t0 - lead, a + t1)[0][-(t1 - t0) :]
            window("p", inputs, x[a + 1 + t0 : a + 1 + t1], state, scale)
    return loss, np.concatenate([k.ravel() for k in kinks]) if kinks else None


def check_model(aux, K, seed=0, T=24, L=12, H=4, N=3, D=2):
    """`worst_errors` of a whole small model: classifier and auxiliary losses, two anchors, DropConnect and
    scheduled sampling, all truncated at K ("full": nowhere)."""
    rng = np.random.default_rng(seed)
    K = T if K == "full" else K
    shapes = parameter_shapes(Sizes(D, H, classes=3), aux)
    params = {name: 0.5 * rng.standard_normal(shape) for name, shape in shapes.items()}
    x, y = rng.random((T, D, N)), rng.integers(0, 3, N)
    draws = draw(seed, 0, aux, 2, L, T, N, shapes, own_probability=0.5, dropconnect=0.3)
    result = loss_and_grads(params, x, y, draws, K, K)
    recorded = record(params, x, draws, K, result.fed)
    return worst_errors(
        lambda p: frozen_loss(p, recorded, x, y, draws, K, K, fed=result.fed), params, result.grads, seed
    )
