"""Accuracy, and the auxiliary report: whether an auxiliary loss shows memory."""

from ..arrays import array_module
from ..auxiliary import predict, reconstruct
from ..model import main_forward
from ..ops import mlp_forward, mse_forward, softmax_cross_entropy_forward
from ..windows import kept_spans

WINDOW = 50  # steps a head runs at a time: the losses do not depend on it, the memory does


def evaluate(params, x, y, draws, mean=None, mask=None, logits=None):
    """Sums over the N sequences, without dropout or gradients: "correct", "loss_supervised", and the
    auxiliary report: each head's loss, its `baselines` on the same targets (given their `mean`), and for
    r "r_swap_gap", by how much the loss from another sequence's state (the neighbour's) is larger, summed
    over "r_pairs" sequences: all, or none where N = 1. The decoder is fed its own outputs only.
    `logits(params, x, mask)` are the scores of a model that is no LSTM, and has no auxiliary loss.
    """
    T, N, L = len(x), x.shape[-1], draws.L
    if logits is None:
        main = main_forward(params, x, kept_spans(T, 0, 0, L, draws.r_anchors, draws.p_anchors), mask)
    scores = logits(params, x, mask) if logits else mlp_forward(main.last, params, "classifier")[0]
    sums = {"correct": (scores.argmax(0) == y).sum()}
    sums["loss_supervised"], _ = softmax_cross_entropy_forward(scores, y, 1.0)

    def add(name, loss):
        sums[name] = sums.get(name, 0) + loss

    xp, channels = array_module(x), 1 if x.ndim == 2 else x.shape[1]
    for a in draws.r_anchors:
        scale = 1 / ((L - 1) * channels * len(draws.r_anchors))
        truth = own_only(x, L)
        h, c = main.state(a)  # [H, N]
        loss = reconstruct(params, x, a, L, WINDOW, h, c, scale, truth).loss
        add("r_loss", loss)
        if N > 1:
            other = xp.roll(h, 1, axis=1), xp.roll(c, 1, axis=1)
            add("r_swap_gap", reconstruct(params, x, a, L, WINDOW, *other, scale, truth).loss - loss)
            sums["r_pairs"] = N
        if mean is not None:
            for name, loss in baselines(x, a - L + 1, a - 1, mean, scale).items():
                add(f"r_{name}", loss)
    for a in draws.p_anchors:
        scale = 1 / (L * channels * len(draws.p_anchors))
        h = main.steps(a, a + L).h[1:]  # [L, H, N]
        add("p_loss", sum(loss for _, _, loss, _, _ in predict(params, x, a, L, WINDOW, h, scale)))
        if mean is not None:
            for name, loss in baselines(x, a + 1, a + L, mean, scale).items():
                add(f"p_{name}", loss)
    return sums


def outputs(params, x, y, draws, mask=None):
    """What the auxiliary heads answer at each anchor, r's decoder fed its own outputs only: ("r" or "p", the step
    of the first target, the answers `[., D, N]`, of tokens the scores `[., V, N]`)."""
    L, found = draws.L, []
    main = main_forward(params, x, kept_spans(len(x), 0, 0, L, draws.r_anchors, draws.p_anchors), mask)
    for a in draws.r_anchors:
        found.append(("r", a - L + 1, reconstruct(params, x, a, L, WINDOW, *main.state(a), 1.0, own_only(x, L)).y))
    for a in draws.p_anchors:
        windows = predict(params, x, a, L, WINDOW, main.steps(a, a + L).h[1:], 1.0)
        found.append(("p", a + 1, array_module(x).concatenate([block for *_, y in windows for block in y])))
    return found


def own_only(x, L):
    """The coins `[L-1, N]` of a decoder that reads the truth at its first step alone."""
    truth = array_module(x).zeros((L - 1, x.shape[-1]), bool)
    truth[0] = True
    return truth


def baselines(x, first, last, mean, scale):
    """The losses, on the targets x[first] ... x[last], of predictors with no memory. An auxiliary loss that is
    not below them shows no memory.

    Pixels `[_, D, N]`: a constant (each channel's mean), the per-position mean (`mean [T, D]`), and copying the
    last value. Tokens `[_, N]`: a constant, their frequencies (`mean [V]` their logarithms).
    """
    if x.ndim == 2:
        return {"constant": -scale * mean[x[first : last + 1]].sum()}
    targets, position_mean = x[first : last + 1], mean[first : last + 1, :, None]
    guesses = {"constant": mean.mean(0)[:, None], "position_mean": position_mean, "copy": x[first - 1 : last]}
    return {name: mse_forward(guess, targets, scale)[0] for name, guess in guesses.items()}
