"""READ FIRST. The whole algorithm: an LSTM classifier, helped by auxiliary losses, under truncated BPTT.

    main LSTM      x[0] ... x[T-1]  ->  h[0] ... h[T-1]                 "main"
    classifier     h[T-1] -> class, the supervised loss                 "classifier"
    r decoder      h[a], c[a] -> the inputs just before the anchor a    "r"   reconstructs
    p auxiliary    h[a] ... -> the inputs that come next                "p"   predicts

T steps, N sequences (the columns of every matrix), D numbers a step, H hidden units, L a segment's length,
K the truncation. Parameters and gradients are flat dicts with the same keys ("main.Wh"). Inputs may also be
tokens, and sequences of unlike length padded on the left under a mask: skip both on a first reading.
"""

from typing import Any, NamedTuple

from . import windows
from .arrays import ANCHORS, DROPCONNECT, EVALUATION, FEEDING, array_module, rng
from .auxiliary import predict, reconstruct
from .lstm import add_layer_grads, layer_weights, lstm_advance, lstm_backward_of_each, lstm_forward
from .ops import mlp_backward, mlp_forward, softmax_cross_entropy_backward, softmax_cross_entropy_forward


class Draws(NamedTuple):
    """All the randomness of a batch, drawn before the batch is split into shards."""

    L: int = 0
    r_anchors: tuple = ()
    p_anchors: tuple = ()
    masks: dict = {}  # DropConnect: parameter name -> 0 or 1/(1-p), the parameter's shape
    truth: Any = None  # [anchors, L-1, N] bool: where r's decoder is fed the truth (None: everywhere)


class Result(NamedTuple):
    """One batch's, or one shard's share of it: shares add up."""

    losses: dict  # "supervised", "r", "p", not multiplied by aux_weight
    grads: dict  # of the parameters that this phase trains
    dWh: dict  # main.Wh's gradient [4H, H] from the "supervised" and from the "auxiliary" losses, for their norms
    fed: list  # what r's decoder read, an array [L-1, D, N] an anchor, to replay it in gradient checks


def loss_and_grads(params, x, y, draws, K, aux_K, aux_weight=1.0, batch_size=None, mask=None, every=0):
    """The losses and gradients of a batch: L = L_supervised + aux_weight · L_auxiliary.

    x `[T, D, N]` numbers, or tokens `[T, N]`; y `[N]` labels, or None in pretraining, where the auxiliary loss is
    alone and the classifier is left out; K, aux_K the truncations of the supervised and auxiliary losses: T or
    more is full BPTT, at 0 no gradient of that loss enters the main LSTM (and an auxiliary head runs uncut).
    Where x is a shard, `batch_size` is the whole batch's N, by which every loss is divided. `mask` and `every`:
    see `main_forward`.
    """
    T, N, L = len(x), x.shape[-1], draws.L
    batch_size, channels = batch_size or N, 1 if x.ndim == 2 else x.shape[1]
    trained = [name for name in params if y is not None or not name.startswith("classifier")]
    zeros = array_module(x).zeros_like
    from_labels, from_auxiliary = ({k: zeros(params[k]) for k in trained} for _ in range(2))  # the gradients
    losses, fed = {"supervised": 0.0, "r": 0.0, "p": 0.0}, []

    # One forward pass serves all losses; it keeps only what some backward sweep below will visit.
    keep = windows.kept_spans(T, K, aux_K, L, draws.r_anchors, draws.p_anchors, supervised=y is not None)
    main = main_forward(params, x, keep, mask, to_the_end=y is not None, every=every)

    sweeps = []  # back through the main LSTM: one for the labels, for each anchor of r, for each window of p
    if y is not None:  # supervised: classify from h[T-1]
        losses["supervised"], dh = classify(params, main.last, y, draws.masks, 1 / batch_size, from_labels)
        if K > 0:  # else the labels train the classifier alone
            sweeps.append(Sweep(windows.supervised_span(T, K), from_labels, dh_last=dh))  # dh [H, N], of h[T-1]

    for n, a in enumerate(draws.r_anchors):  # r: reconstruct x[a-L+1] ... x[a-1] from the state after a
        scale = 1 / (batch_size * (L - 1) * channels * len(draws.r_anchors))
        truth = None if draws.truth is None else draws.truth[n]  # [L-1, N]
        r = reconstruct(params, x, a, L, aux_K, *main.state(a), scale, truth, from_auxiliary)
        losses["r"] += r.loss
        fed.append(r.fed)
        if aux_K > 0:  # r.dh, r.dc [H, N], of the state after a
            sweeps.append(Sweep(windows.r_span(a, aux_K), from_auxiliary, dh_last=r.dh, dc_last=r.dc))

    for a in draws.p_anchors:  # p: predict x[a+1] ... x[a+L] from the states after a ... a+L-1
        scale = 1 / (batch_size * L * channels * len(draws.p_anchors))
        h = main.steps(a, a + L).h[1:]  # [L, H, N], after steps a ... a+L-1
        for t0, t1, loss, dh, _ in predict(params, x, a, L, aux_K, h, scale, from_auxiliary):  # dh [t1-t0, H, N]
            losses["p"] += loss
            # The first window's gradient goes on before the anchor; later ones are cut.
            start = windows.p_lead(a, aux_K)[0] if t0 == 0 else a + t0
            if aux_K > 0:
                sweeps.append(Sweep((start, a + t1), from_auxiliary, dh))
    run_sweeps(main, sweeps)

    for name in trained:
        from_auxiliary[name] *= aux_weight
    dWh = {"supervised": from_labels["main.Wh"], "auxiliary": from_auxiliary["main.Wh"]}
    return Result(losses, {k: from_labels[k] + from_auxiliary[k] for k in trained}, dWh, fed)


def logits(params, x, mask=None):
    """The scores of the classes `[classes, N]`, of x `[T, D, N]` or tokens `[T, N]`, without DropConnect."""
    return mlp_forward(main_forward(params, x, [], mask).last, params, "classifier")[0]


def classify(params, h, y, masks, scale, grads):
    """The supervised loss of the labels y `[N]`, given the last state h `[H, N]`, and dh; adds into `grads`."""
    scores, cache = mlp_forward(h, params, "classifier", masks)  # [classes, N]
    loss, loss_cache = softmax_cross_entropy_forward(scores, y, scale)
    dscores = softmax_cross_entropy_backward(loss_cache)  # [classes, N]
    return loss, mlp_backward(dscores, cache, params, grads, "classifier", masks)


class Sweep(NamedTuple):
    """Back-propagation of one loss through the main LSTM's steps of `span`, and no further: that is the cut."""

    span: tuple  # (t0, t1): steps t0 ... t1-1
    grads: dict  # is added to
    dh: Any = None  # [n, H, N] enters the last n h of the span
    dh_last: Any = None  # [H, N] enters the last h
    dc_last: Any = None  # [H, N] enters the last c


def run_sweeps(main, sweeps):
    """Back through the main LSTM. Where their spans overlap they go side by side, but each loss has its own columns
    and ends at its own cut: none rides past it in another's window."""
    begins = [s.span[1] - (0 if s.dh is None else len(s.dh)) for s in sweeps]  # of dh
    # Between two of these the same sweeps are active, and each has a dh for all steps or for none.
    boundaries = sorted({*begins, *(t for s in sweeps for t in s.span)}, reverse=True)
    states = [(s.dh_last, s.dc_last, None) for s in sweeps]  # dh, dc, (dWx, dWh, db) so far
    for t1, t0 in zip(boundaries, boundaries[1:]):
        active = [n for n, s in enumerate(sweeps) if s.span[0] <= t0 and t1 <= s.span[1]]
        for part in reversed(windows.consecutive(t1 - t0, main.every)) if active else ():
            start, end = t0 + part[0], t0 + part[1]
            incoming = []
            for n in active:
                dh = sweeps[n].dh[start - begins[n] : end - begins[n]] if start >= begins[n] else None
                incoming.append((dh, *states[n]))
            found = lstm_backward_of_each(incoming, main.steps(start, end), need_dx=False)
            for n, (_, dh, dc, *dweights) in zip(active, found):
                states[n] = dh, dc, dweights
    for s, (_, _, dweights) in zip(sweeps, states):
        add_layer_grads(s.grads, "main", *dweights, main.embedding)


class Main(NamedTuple):
    """What `main_forward` kept of the main LSTM."""

    parts: list  # (t0, t1, steps): steps(s0, s1) is the LSTMCache of steps t0+s0 ... t0+s1-1
    last: Any  # [H, N] the last h that was computed
    embedding: Any  # what unfolds the gradients of its input embedding
    every: int  # how many steps are kept at a time; 0: all

    def steps(self, t0, t1):
        """The cache of steps t0 ... t1-1, which lie in one of the parts."""
        for start, end, steps in self.parts:
            if start <= t0 and t1 <= end:
                return steps(t0 - start, t1 - start)
        raise LookupError(f"steps {t0} ... {t1 - 1} were not kept")

    def state(self, t):
        """h, c `[H, N]` after step t."""
        cache = self.steps(t, t + 1)
        return cache.h[1], cache.c[1]


def main_forward(params, x, keep, mask=None, to_the_end=True, every=0):
    """Run the main LSTM from zeros, keeping the activations of the disjoint spans `keep`; to step T-1, or no
    further than the last span.

    x `[T, D, N]`, or tokens `[T, N]`; `mask [T, N]` is 0 at padded steps. `every` n > 0 keeps only the state at
    every n-th step of the spans, and runs those steps again when sweeps ask for them (Chen et al. 2016): with n
    about √T full BPTT takes memory for about √T steps instead of T, and one to two forward passes more. The
    gradients are the same.
    """
    weights, embedding = layer_weights(params, "main")
    xp = array_module(x)
    h = c = xp.zeros((weights[1].shape[1], x.shape[-1]), weights[1].dtype)  # [H, N]
    spans = [*keep, (len(x), len(x))] if to_the_end else keep  # an empty last span: advance to step T-1
    parts, t = [], 0
    for t0, t1 in spans:
        h, c = lstm_advance(x[t:t0], h, c, *weights, between(mask, t, t0))
        if t1 > t0 and every:
            again = Again(x[t0:t1], between(mask, t0, t1), weights, every, [(h, c)])
            for s0, s1 in windows.consecutive(t1 - t0, every):
                h, c = lstm_advance(again.x[s0:s1], h, c, *weights, between(again.mask, s0, s1))
                again.states.append((h.copy(), c.copy()))  # they are views of larger arrays
            parts.append((t0, t1, again.steps))
        elif t1 > t0:
            hs, cs, cache = lstm_forward(x[t0:t1], h, c, *weights, between(mask, t0, t1))
            h, c = hs[-1], cs[-1]
            parts.append((t0, t1, cache.steps))
        t = t1
    return Main(parts, h, embedding, every)


class Again(NamedTuple):
    """A part of `Main` whose activations are not kept but made again."""

    x: Any  # [S, D, N], or tokens [S, N]
    mask: Any  # [S, N], or None
    weights: tuple  # Wx, Wh, b
    every: int
    states: list  # (h, c), each [H, N], before every n-th step

    def steps(self, s0, s1):
        """The LSTMCache of steps s0 ... s1-1 of the part."""
        n = s0 // self.every
        begin = n * self.every
        _, _, cache = lstm_forward(self.x[begin:s1], *self.states[n], *self.weights, between(self.mask, begin, s1))
        return cache.steps(s0 - begin, s1 - begin)


def between(mask, t0, t1):
    """The mask `[T, N]` of steps t0 ... t1-1; None stays None."""
    return None if mask is None else mask[t0:t1]


def draw(
    seed, step, aux, n, L, T, N, shapes, *, own_probability=0.0, dropconnect=0.0, shortest=None, evaluation=False
):
    """Draw the `Draws` of a batch of N sequences of T steps on the host, from `rng(seed, stream, step)`.

    n anchors for each of `aux`, with segments of L steps; `shapes` of the parameters; `own_probability` that a step
    of r's decoder is fed its own output; `dropconnect` the probability that a weight of the classifier's hidden
    layers is dropped; `shortest` the shortest sequence's length. `evaluation`: other anchors, no DropConnect, and
    no coins.
    """
    L = windows.fit_length(L, shortest or T)
    stream = EVALUATION if evaluation else ANCHORS
    anchors = {
        kind: tuple(windows.draw_anchors(rng(seed, stream, 2 * step + s), kind, n, T, L, shortest))
        for s, kind in enumerate("rp")  # r draws from even steps of the stream, p from odd ones
        if kind in aux  # neither is in "none"
    }
    masks, truth = {}, None
    if not evaluation:
        generator = rng(seed, DROPCONNECT, step)
        for name in ("classifier.W1", "classifier.W2") if dropconnect else ():
            masks[name] = (generator.random(shapes[name]) >= dropconnect) / (1 - dropconnect)
        if "r" in anchors and own_probability > 0:
            truth = rng(seed, FEEDING, step).random((n, L - 1, N)) >= own_probability
            truth[:, 0] = True
    return Draws(L, anchors.get("r", ()), anchors.get("p", ()), masks, truth)
