"""RMSProp, clipping by global norm, and schedules. `rmsprop` and `clip` work in place on flat dicts of arrays."""

import math

from .arrays import array_module

DECAY, EPSILON = 0.9, 1e-8


def rmsprop(params, grads, v, lr):
    """v ← 0.9 v + 0.1 g²; w ← w - lr · g / (√v + 1e-8) (Tieleman & Hinton 2012).

    Parameters without a gradient, those that this phase does not train, keep their w and v.
    """
    for name, g in grads.items():
        v[name] *= DECAY
        v[name] += (1 - DECAY) * g * g
        params[name] -= lr * g / (array_module(g).sqrt(v[name]) + EPSILON)


def global_norm(grads):
    """The Euclidean norm of all gradients together, float64 on their device; NaN or infinite if any of them is."""
    total = sum((g.astype("float64") ** 2).sum() for g in grads.values())
    return array_module(total).sqrt(total)


def clip(grads, norm, limit):
    """Scale the gradients, whose global norm is `norm`, so that it is at most `limit` (0: leave them)."""
    if limit:
        factor = limit / array_module(norm).maximum(norm, limit)
        for g in grads.values():
            g *= factor.astype(g.dtype)


def learning_rate(lr, schedule, step, steps):
    """The rate of `step` (from 0): "constant", or "cosine" from lr to 0 over `steps`, where it stays."""
    if schedule == "constant":
        return lr
    return lr * 0.5 * (1 + math.cos(math.pi * min(step / max(steps, 1), 1)))


def own_probability(start, end, step, steps):
    """Scheduled sampling's probability of own output: linear from `start` to `end` over `steps`, then `end`."""
    return start + (end - start) * min(step / max(steps, 1), 1)
