"""The two auxiliary losses (r-LSTM and p-LSTM in the paper), on the main LSTM's own functions.

    r (reconstruct): a decoder starts from the main state after the anchor, (h[a], c[a]), reads the segment
        x[a-L] ... x[a-2] and answers with x[a-L+1] ... x[a-1].
    p (predict): an auxiliary LSTM starts from zeros, reads the main states h[a] ... h[a+L-1] and answers
        with the inputs that come next, x[a+1] ... x[a+L].

Both *heads* are two LSTM layers, `name.bottom` and `name.top`, and an MLP, whose weights are called
`name.head`, with `name` "r" or "p". They run in windows of K steps: the state is carried from window to
window, the gradient is cut between them, and each window is done with, backward too, before the next begins.

Pixels (x `[T, D, N]`) are answered by numbers under squared error, tokens (x `[T, N]`) by scores under
softmax cross-entropy.
"""

from typing import Any, NamedTuple

from .arrays import array_module, on_gpu
from .gpu import kernels
from .lstm import (
    add_layer_grads,
    layer_weights,
    lstm_backward,
    lstm_begin,
    lstm_forward,
    lstm_step,
    one_by_one,
    side_by_side,
    together,
)
from .ops import (
    mlp_backward,
    mlp_forward,
    mse_backward,
    mse_forward,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
)
from .windows import consecutive, cut


class Window(NamedTuple):
    """S steps of an auxiliary head."""

    loss: Any
    own: Any  # [D, N] the last output, as an input (tokens: [N])
    y: list  # the outputs, in blocks of some steps [., D, N]; for tokens [., V, N]
    bottom: Any  # LSTMCache, as top's; on the GPU KernelCache
    top: Any
    embedding: Any  # of bottom's inputs, for `add_layer_grads`; None if they have none
    mlps: list  # (t0, t1, cache, dy) of the MLP at steps t0 ... t1-1 side by side: dy [D, (t1-t0) N]

    @property
    def state(self):
        """((h, c), (h, c)) of bottom and top after the last step, each `[H, N]`; copies, to let the window go."""
        return tuple((layer.h[-1].copy(), layer.c[-1].copy()) for layer in (self.bottom, self.top))


def window_forward(params, name, x, targets, state, scale, truth=None, own=None):
    """Run head `name` over S steps from `state`, and sum its loss.

    x, targets `[S, D, N]`, or tokens `[S, N]`. Scheduled sampling (Bengio et al. 2015): where `truth [S, N]`
    is False, a step reads the head's own previous output instead of x (the window's first step: `own`).
    What is fed is a constant: no gradient passes through it.
    """
    weights, embedding = layer_weights(params, f"{name}.bottom")
    layer1 = (*state[0], *weights)  # h0, c0, Wx, Wh, b
    layer2 = (*state[1], *layer_weights(params, f"{name}.top")[0])
    if truth is None:
        bottom, top, answers = run_on_the_truth(x, layer1, layer2, params, f"{name}.head")
    elif on_gpu(x) and kernels.decodes(x, state[0][0]):
        mlp = [params[f"{name}.head.{w}"] for w in ("W1", "b1", "W2", "b2", "W3", "b3")]
        bottom, top, *answer = kernels.decode(x, truth, own, layer1, layer2, mlp)
        answers = [(0, len(x), *answer)]
    else:
        bottom, top, answers = run_on_own_outputs(x, truth, own, layer1, layer2, params, f"{name}.head")

    loss, ys, mlps = 0, [], []
    for t0, t1, y, cache in answers:
        some, dy = output_loss(y, side_by_side(targets[t0:t1]), scale)
        loss = loss + some
        ys.append(one_by_one(y, x.shape[-1]))
        mlps.append((t0, t1, cache, dy))
    return Window(loss, as_input(ys[-1][-1], targets), ys, bottom, top, embedding, mlps)


def run_on_the_truth(x, layer1, layer2, params, mlp):
    """Each layer over all steps before the next, as no step waits for an output: the caches of bottom and top, and
    [(t0, t1, y, cache)] of the MLP, which answers steps t0 ... t1-1 side by side."""
    _, _, bottom = lstm_forward(x, *layer1)
    _, _, top = lstm_forward(bottom.h[1:], *layer2)
    answers = []
    for t0, t1 in consecutive(len(x), 0 if on_gpu(x) else together(x.shape[-1])):
        answers.append((t0, t1, *mlp_forward(side_by_side(top.h[t0 + 1 : t1 + 1]), params, mlp)))
    return bottom, top, answers


def run_on_own_outputs(x, truth, own, layer1, layer2, params, mlp):
    """Step by step through both layers and the MLP, as a step may read the output before it. Returns the same."""
    xp = array_module(x)
    bottom = lstm_begin(len(x), *layer1, tokens=x.ndim == 2)
    top = lstm_begin(len(x), *layer2)
    answers = []
    for t0, t1 in consecutive(len(x), together(x.shape[-1])):
        steps = []
        for t in range(t0, t1):
            h = lstm_step(t, xp.where(truth[t], x[t], own), bottom)
            h = lstm_step(t, h, top)
            y, cache = mlp_forward(h, params, mlp)
            own = as_input(y, x)
            steps.append([y, *cache])
        y, *cache = (xp.concatenate(arrays, axis=1) for arrays in zip(*steps))
        answers.append((t0, t1, y, cache))
    return bottom, top, answers


def as_input(y, x):
    """An output y as the next step reads it: numbers `[D, N]` as they are; of scores the best token."""
    return y.argmax(0) if x.ndim == 2 else y


def output_loss(y, target, scale):
    """The loss of outputs y, and dy: squared error for pixels, target `[D, n]`; cross-entropy for tokens, `[n]`."""
    if target.ndim == 2:
        loss, cache = mse_forward(y, target, scale)
        return loss, mse_backward(cache)
    loss, cache = softmax_cross_entropy_forward(y, target, scale)
    return loss, softmax_cross_entropy_backward(cache)


def window_backward(window, params, grads, name):
    """Add the window's gradients into `grads`. Returns dx `[S, D, N]`, and dh, dc `[H, N]` of the bottom
    layer's initial state."""
    dh = array_module(window.top.h).empty_like(window.top.h[1:])  # [S, H, N]
    for t0, t1, cache, dy in window.mlps:
        dh[t0:t1] = one_by_one(mlp_backward(dy, cache, params, grads, f"{name}.head"), dh.shape[2])
    dh, _, _, *dweights = lstm_backward(dh, None, None, window.top)  # dh [S, H, N], now of bottom's h
    add_layer_grads(grads, f"{name}.top", *dweights, None)
    dx, dh0, dc0, *dweights = lstm_backward(dh, None, None, window.bottom)
    add_layer_grads(grads, f"{name}.bottom", *dweights, window.embedding)
    return dx, dh0, dc0


class Reconstruction(NamedTuple):
    """What `reconstruct` returns."""

    loss: Any
    dh: Any  # [H, N] the gradient that reaches the main LSTM's h[a]; None without a backward pass
    dc: Any  # [H, N]                                          c[a]
    y: Any  # [L-1, D, N] the outputs (tokens: the scores [L-1, V, N])
    fed: Any  # [L-1, D, N] what the decoder read (tokens: [L-1, N])


def reconstruct(params, x, a, L, K, h, c, scale, truth=None, grads=None):
    """r: decode x[a-L+1] ... x[a-1] from the main state h, c `[H, N]` after step a.

    `truth [L-1, N]` says where the truth is fed (None: everywhere), truth[0] must be True. Adds gradients
    into `grads` unless that is None. K = 0 runs uncut.
    """
    xp = array_module(h)
    segment = x[a - L : a]  # the decoder reads all but the last of it, and answers with all but the first
    inputs, targets = segment[:-1], segment[1:]  # [L-1, D, N]
    state = (h, c), (xp.zeros_like(h), xp.zeros_like(c))
    loss, dh, dc, ys, fed, own = 0, None, None, [], [], inputs[0]  # own is not read: truth[0] is True
    for t0, t1 in cut(L - 1, K):
        coins = None if truth is None else truth[t0:t1]
        window = window_forward(params, "r", inputs[t0:t1], targets[t0:t1], state, scale, coins, own)
        loss = loss + window.loss
        if grads is not None:
            _, dh0, dc0 = window_backward(window, params, grads, "r")
            if t0 == 0:  # later windows start from a state that is a constant to them: cut
                dh, dc = dh0, dc0
        state, own = window.state, window.own
        ys += window.y
        fed.append(window.bottom.inputs.copy())
        del window  # or it would stay while the next one runs
    return Reconstruction(loss, dh, dc, xp.concatenate(ys), xp.concatenate(fed))


def predict(params, x, a, L, K, h, scale, grads=None):
    """p: from the main states h `[L, H, N]` after steps a ... a+L-1, answer with x[a+1] ... x[a+L].

    Yields, window by window, (t0, t1, loss, dh `[t1-t0, H, N]`, y): the window reads the states after steps
    a+t0 ... a+t1-1, dh is the gradient that enters them (None without a backward pass), y the outputs in blocks.
    """
    xp = array_module(h)
    zeros = xp.zeros_like(h[0])
    state = (zeros, zeros), (zeros, zeros)
    for t0, t1 in cut(L, K):
        window = window_forward(params, "p", h[t0:t1], x[a + 1 + t0 : a + 1 + t1], state, scale)
        dh = None if grads is None else window_backward(window, params, grads, "p")[0]
        yield t0, t1, window.loss, dh, window.y
        state = window.state  # carried, and a constant to the next window: cut
        del window, dh  # or they would stay while the next one runs
