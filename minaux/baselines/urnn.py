"""The uRNN (Arjovsky, Shah & Bengio 2016), a baseline: a recurrent network of complex numbers. Its matrix is
unitary, so that it neither shrinks nor stretches the state or the gradient.

    h[t] = modReLU(W h[t-1] + Wx x[t])          [n] complex      h[-1] = h0, a parameter
    W = D3 R2 F⁻¹ D2 Π R1 F D1                  [n, n]           section 3
      D = diag(exp(i θ))     R = I - 2 v v* / |v|²     F the Fourier transform     Π a fixed permutation
    modReLU(z) = max(|z| + b, 0) z / |z|                         section 4.2
    scores = U (Re h, Im h) + c                 [classes]        section 4.2, of the last h

Complex parameters are pairs of real ones, in a last axis of 2. dz stands for ∂L/∂Re z + i ∂L/∂Im z: for y = A x,
dx = A* dy.

States are rows here, `[N, n]`: the Fourier transforms go along the rows. n is 4 H: 128 hidden units give the
paper's 512 (section 5.3), and 16,394 parameters. For the LSTM's 233,226 n would be 7,288, and training slower
fourteen times.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

from ..arrays import array_module
from ..initial import glorot, initial_linear, parameter_rng
from ..model import between
from ..ops import (
    linear_backward,
    linear_forward,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
)
from ..windows import supervised_span
from . import supervised_result

EPSILON = 1e-10  # |z| is √(|z|² + ε): modReLU divides by it


def parameter_shapes(sizes, aux="none"):
    """As `initial.parameter_shapes`; Wx, reflection (v of R1 and R2) and h0 hold complex numbers."""
    n = 4 * sizes.H
    return {
        "main.Wx": (n, sizes.D, 2),
        "main.theta": (3, n),
        "main.reflection": (2, n, 2),
        "main.b": (n,),
        "main.h0": (n, 2),
        "classifier.W": (sizes.classes, 2 * n),  # Re and Im in turn
        "classifier.b": (sizes.classes, 1),
    }


def init_params(sizes, aux="none", T=None, seed=0, forget_bias=None, dtype="float32"):
    """As `initial.init_params`, by the paper's section 4.3. T and `forget_bias` are not used."""
    params, n = {}, 4 * sizes.H
    limits = {"theta": np.pi, "reflection": 1, "h0": np.sqrt(1.5 / n)}  # |h0|² is 1 on average
    for name, shape in parameter_shapes(sizes, aux).items():
        r, kind = parameter_rng(seed, name), name.split(".")[-1]
        if kind == "Wx":
            w = glorot(r, shape, n)
        elif kind in limits:
            w = r.uniform(-limits[kind], limits[kind], shape)
        else:
            w = initial_linear(r, kind, shape)
        params[name] = w.astype(dtype)
    return params


# --- complex numbers as pairs ---


def as_complex(pairs):
    """`[..., 2]` real as `[...]` complex, the same memory."""
    return pairs.view(np.result_type(pairs.dtype, "complex64"))[..., 0]


def as_pairs(z):
    """`[N, n]` complex as `[N, 2n]` real, Re and Im in turn, the same memory."""
    return z.view(z.real.dtype)


# --- the unitary matrix ---


class Factors(NamedTuple):
    """What W is made of, once a batch: `factors`."""

    d: Any  # [3, n] exp(i θ)
    w: Any  # [2, n] v / |v|
    plane: Any  # [2, 2, 2n] w and i w, as pairs
    length: Any  # [2, 1] |v|
    order: Any  # [n] Π takes entry order[k] to k
    back: Any  # [n] and its inverse


def factors(params):
    theta, v = params["main.theta"], as_complex(params["main.reflection"])
    xp = array_module(theta)
    length = xp.sqrt((abs(v) ** 2).sum(1, keepdims=True))
    w = v / length
    plane = as_pairs(xp.stack([w, 1j * w], axis=1))
    order = permutation(theta.shape[1])
    return Factors(xp.exp(1j * theta), w, plane, length, xp.asarray(order), xp.asarray(np.argsort(order)))


@functools.lru_cache
def permutation(n):
    """Π, the same for all seeds: it is no parameter, and no file holds it."""
    return np.random.RandomState(512).permutation(n)


def unitary_forward(h, f):
    """W h for each row of h `[N, n]`."""
    fft = array_module(h).fft
    y = fft.fft(h * f.d[0], norm="ortho")  # F, scaled to be unitary
    reflect(y, f.w[0], f.plane[0])
    y = y.take(f.order, axis=1)
    y *= f.d[1]
    y = fft.ifft(y, norm="ortho")
    reflect(y, f.w[1], f.plane[1])
    y *= f.d[2]
    return y


def reflect(y, w, plane):
    """y = R y in place for each row of y `[N, n]`, given w = v / |v|. Returns w* y `[N]`."""
    along = y @ w.conj()
    pairs = as_pairs(y)
    pairs -= as_pairs(2 * along[:, None]) @ plane  # along w, as a real product, which is quicker
    return along


class Sums(NamedTuple):
    """The gradients of the factors, summed over steps."""

    d: Any  # [3, N, n] of θ: its imaginary part
    w: Any  # [2, n] of v / |v|, but for what lies along v


def unitary_backward(y, dy, f, sums):
    """dh `[N, n]` of y = W h, from y and dy `[N, n]`; adds into `sums`.

    W is unitary: W* takes y back to h, and dy to dh. So both go back together, factor by factor, and of the forward
    pass only y is kept.
    """
    xp, N = array_module(y), len(y)
    both = xp.concatenate([y, dy])  # [2N, n]
    d = f.d.conj()
    both = diagonal_backward(both, d[2], sums.d[2])
    reflection_backward(both, f.w[1], f.plane[1], sums.w[1])
    both = xp.fft.fft(both, norm="ortho")
    both = diagonal_backward(both, d[1], sums.d[1])
    both = both.take(f.back, axis=1)
    reflection_backward(both, f.w[0], f.plane[0], sums.w[0])
    both = xp.fft.ifft(both, norm="ortho")
    both = diagonal_backward(both, d[0], sums.d[0])
    return both[N:]


def diagonal_backward(both, d, dtheta):
    """x and dx of y = exp(iθ) x, in place of y and dy, given d = exp(-iθ)."""
    y, dy = both[: len(dtheta)], both[len(dtheta) :]
    product = y.conj()
    product *= dy
    dtheta += product  # dθ = Im(dy y*): exp(iθ) x moves by i y
    both *= d
    return both


def reflection_backward(both, w, plane, dw):
    """x and dx of y = R x, in place of y and dy, for R is R* and its own inverse. Adds into dw `[n]`, for
    w = v / |v|; what of it lies along w is not kept."""
    N = len(both) // 2
    along = reflect(both, w, plane)
    of_y, of_dy = along[:N].conj(), along[N:].conj()  # w* x is -w* y
    dw += 2 * (of_y @ both[N:] - of_dy @ both[:N])  # y = x - 2 w (w* x)


def factors_backward(f, sums, grads):
    """Sets the gradients of theta and reflection."""
    grads["main.theta"][:] = sums.d.sum(1).imag
    # w = v / |v| moves only across v; and turning v's phase moves nothing
    along = (f.w.conj() * sums.w).sum(1, keepdims=True)
    as_complex(grads["main.reflection"])[:] = (sums.w - along * f.w) / f.length


# --- the sequence ---


def modulus(z):
    """|z| `[N, n]`, never 0."""
    r = abs(z)
    r *= r
    r += EPSILON
    return array_module(z).sqrt(r, out=r)


def modrelu_forward(z, b):
    """max(|z| + b, 0) z / |z| of z `[N, n]`, b `[n]`."""
    scale = b / modulus(z)
    scale += 1
    return z * array_module(z).maximum(scale, 0, out=scale)


def modrelu_backward(dh, z, b, db):
    """dz `[N, n]`; adds into db `[N, n]`."""
    r = modulus(z)
    ratio = b / r
    scale = ratio + 1
    on = scale > 0
    scale *= on
    radial = (dh * z.conj()).real / r  # of dh, along z
    radial *= on
    db += radial  # h = (|z| + b) z / |z|
    ratio *= radial
    ratio /= r
    dz = dh * scale  # h = scale z
    dz -= z * ratio  # scale = 1 + b / |z|
    return dz


def inputs(x_t, V):
    """Wx x[t] `[N, n]` of numbers x_t `[D, N]` or tokens `[N]`; V `[D, n]` is Wx transposed."""
    if x_t.ndim == 1:
        return V[x_t]
    return x_t[0][:, None] * V[0] if len(x_t) == 1 else x_t.T @ V  # the same, and quicker


def step(x_t, h, V, f, b, h0, mask_t):
    """z and h `[N, n]` of a step, from the h before; where it is padding, h is h0."""
    z = unitary_forward(h, f)
    z += inputs(x_t, V)
    h = modrelu_forward(z, b)
    return z, h if mask_t is None else array_module(h).where(mask_t[:, None] > 0, h, h0)


def weights(params):
    """V `[D, n]`, the Factors, b `[n]`, h0 `[n]`."""
    V = array_module(params["main.Wx"]).ascontiguousarray(as_complex(params["main.Wx"]).T)
    return V, factors(params), params["main.b"], as_complex(params["main.h0"])


def urnn_forward(x, h, V, f, b, h0, mask=None, keep=True):
    """S steps over x `[S, D, N]` (tokens `[S, N]`) from h `[N, n]`: the last h, and all z `[S, N, n]` (None unless
    `keep`)."""
    zs = array_module(h).empty((len(x), *h.shape), h.dtype) if keep else None
    for t in range(len(x)):
        z, h = step(x[t], h, V, f, b, h0, None if mask is None else mask[t])
        if keep:
            zs[t] = z
    return h, zs


def urnn_backward(dh, x, zs, V, f, b, mask, grads):
    """Back through the steps of `zs` from dh `[N, n]`, the gradient of the last h. Sets the gradients of Wx, theta,
    reflection and b, adds into h0's, and returns dh of the h before the first step."""
    xp = array_module(dh)
    sums = Sums(xp.zeros((3, *dh.shape), dh.dtype), xp.zeros_like(f.w))
    db, dV, tokens = xp.zeros(dh.shape, b.dtype), xp.zeros_like(V), xp.arange(len(V))[:, None]
    for t in reversed(range(len(x))):
        if mask is not None:  # h[t] = h0 at padded steps
            as_complex(grads["main.h0"])[:] += (1 - mask[t]) @ dh
            dh = dh * mask[t][:, None]
        dz = modrelu_backward(dh, zs[t], b, db)
        numbers = x[t] if x.ndim == 3 else (x[t] == tokens).astype(b.dtype)
        as_pairs(dV)[:] += numbers @ as_pairs(dz)
        dh = unitary_backward(zs[t] - inputs(x[t], V), dz, f, sums)  # z = W h[t-1] + Wx x
    factors_backward(f, sums, grads)
    as_complex(grads["main.Wx"])[:] = dV.T
    grads["main.b"][:] = db.sum(0)
    return dh


def initial_state(h0, N):
    return array_module(h0).zeros((N, 1), h0.dtype) + h0


def logits(params, x, mask=None):
    """The scores of the classes `[classes, N]`."""
    *main, h0 = weights(params)
    h, _ = urnn_forward(x, initial_state(h0, x.shape[-1]), *main, h0, mask, keep=False)
    return linear_forward(as_pairs(h).T, params["classifier.W"], params["classifier.b"])[0]


def loss_and_grads(params, x, y, draws, K, aux_K=0, aux_weight=1.0, batch_size=None, mask=None):
    """As `model.loss_and_grads`, of the supervised loss alone: truncated at K, the state before step T-K is a
    constant; at K = 0 the classifier alone is trained. The gradient that stands for the others where norms are
    reported is that of main.theta."""
    xp, t0 = array_module(x), supervised_span(len(x), K)[0]
    *main, h0 = weights(params)
    h, _ = urnn_forward(x[:t0], initial_state(h0, x.shape[-1]), *main, h0, between(mask, 0, t0), keep=False)
    h, zs = urnn_forward(x[t0:], h, *main, h0, between(mask, t0, len(x)))
    grads = {name: xp.zeros_like(w) for name, w in params.items()}
    scores, classifier = linear_forward(as_pairs(h).T, params["classifier.W"], params["classifier.b"])
    loss, cache = softmax_cross_entropy_forward(scores, y, 1 / (batch_size or x.shape[-1]))
    dpairs, grads["classifier.W"], grads["classifier.b"] = linear_backward(
        softmax_cross_entropy_backward(cache), classifier
    )
    if K > 0:
        dh = as_complex(xp.ascontiguousarray(dpairs.T).reshape(*h.shape, 2))
        dh = urnn_backward(dh, x[t0:], zs, *main, between(mask, t0, len(x)), grads)
        if t0 == 0:
            as_complex(grads["main.h0"])[:] += dh.sum(0)
        elif mask is not None:  # a sequence of K steps begins here
            as_complex(grads["main.h0"])[:] += (1 - mask[t0 - 1]) @ dh
    return supervised_result(loss, grads, "main.theta")
