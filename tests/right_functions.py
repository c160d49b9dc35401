"""Random functions whose gradients are right, over twelve orders of magnitude, to see how sure the checker is.

`python -m tests.right_functions 10000` checks so many, plants mistakes and prints what was found: ten minutes.
Each function below draws one: (f, args, grads) for `check_gradients`.
"""

import collections
import math
import sys

import numpy as np

from minaux.gradcheck import RELATIVE, gradient_errors

ELEMENTWISE = [  # a function and its derivative
    (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    (np.sin, np.cos),
    (np.exp, np.exp),
    (np.square, lambda z: 2 * z),
    (lambda z: z**3, lambda z: 3 * z**2),
    (lambda z: 1 / (1 + z * z), lambda z: -2 * z / (1 + z * z) ** 2),
    (lambda z: z, np.ones_like),
]


def any_size(rng):
    return 10.0 ** rng.uniform(-6, 6)


def entries(rng):
    """sum(r φ(w / s)), w of size s."""
    s, c, n, (phi, derivative) = any_size(rng), any_size(rng), rng.integers(1, 200), ELEMENTWISE[rng.integers(7)]
    w, r = s * rng.standard_normal(n), c * rng.standard_normal(n)
    return lambda a: (r * phi(a["w"] / s)).sum(), {"w": w}, {"w": r * derivative(w / s) / s}


def mixed_entries(rng):
    """As `entries`, but twelve orders of magnitude in one array."""
    n, c = rng.integers(2, 50), any_size(rng)
    s = 10.0 ** rng.uniform(-6, 6, n)
    w, r = s * rng.standard_normal(n), c * rng.standard_normal(n)
    return lambda a: (r * np.sin(a["w"] / s)).sum(), {"w": w}, {"w": r * np.cos(w / s) / s}


def squares(rng):
    """sum(w²) / 2 of up to 300·300 entries."""
    w = any_size(rng) * rng.standard_normal(int(10 ** rng.uniform(0, math.log10(90_000))))
    return lambda a: (a["w"] ** 2).sum() / 2, {"w": w}, {"w": w}


def product(rng):
    n, m, k = rng.integers(1, 12, 3)
    W, x = any_size(rng) * rng.standard_normal((n, m)), any_size(rng) * rng.standard_normal((m, k))
    r = rng.standard_normal((n, k))
    return lambda a: (a["W"] @ a["x"] * r).sum(), {"W": W, "x": x}, {"W": r @ x.T, "x": W.T @ r}


def tanh_layer(rng):
    """The squared error of a layer, W and x of sizes s and 1/s."""
    s, c, (n, m, k) = any_size(rng), any_size(rng), rng.integers(1, 12, 3)
    args = {"W": s * rng.standard_normal((n, m)), "x": rng.standard_normal((m, k)) / s}
    args["b"], y = rng.standard_normal((n, 1)), rng.standard_normal((n, k))

    def forward(a):
        return np.tanh(a["W"] @ a["x"] + a["b"])

    h = forward(args)
    dz = c * (h - y) * (1 - h * h)
    grads = {"W": dz @ args["x"].T, "x": args["W"].T @ dz, "b": dz.sum(1, keepdims=True)}
    return lambda a: c * ((forward(a) - y) ** 2).sum() / 2, args, grads


def classifier(rng):
    """Softmax cross-entropy, from flat to saturated."""
    C, m, k = rng.integers(2, 12, 3)
    W, x, y = (
        10.0 ** rng.uniform(-6, 3) * rng.standard_normal((C, m)),
        rng.standard_normal((m, k)),
        rng.integers(0, C, k),
    )

    def loss(a):
        z = a["W"] @ a["x"]
        z = z - z.max(0)
        return (np.log(np.exp(z).sum(0)) - z[y, range(k)]).sum()

    z = W @ x
    p = np.exp(z - z.max(0))
    dz = p / p.sum(0)
    dz[y, range(k)] -= 1
    return loss, {"W": W, "x": x}, {"W": dz @ x.T, "x": W.T @ dz}


def recurrence(rng):
    """The last state of h = tanh(W h + U x), in which gradients vanish or not."""
    n, T = rng.integers(1, 6), rng.integers(2, 60)
    args = {"W": rng.uniform(0.2, 1.2) * rng.standard_normal((n, n)), "U": rng.standard_normal((n, n))}
    args["x"] = 10.0 ** rng.uniform(-2, 2) * rng.standard_normal((T, n, 2))
    args["h"], r = rng.standard_normal((n, 2)), any_size(rng) * rng.standard_normal((n, 2))

    def states(a):
        hs = [a["h"]]
        for x in a["x"]:
            hs.append(np.tanh(a["W"] @ hs[-1] + a["U"] @ x))
        return hs

    hs, dh, grads = states(args), r, {name: np.zeros_like(value) for name, value in args.items()}
    for t in reversed(range(T)):
        dz = dh * (1 - hs[t + 1] ** 2)
        grads["W"] += dz @ hs[t].T
        grads["U"] += dz @ args["x"][t].T
        grads["x"][t], dh = args["U"].T @ dz, args["W"].T @ dz
    return lambda a: (states(a)[-1] * r).sum(), args, {**grads, "h": dh}


def relus(rng):
    """Two layers of ReLUs, with their kinks."""
    n, m, k = rng.integers(1, 8, 3)
    W, V = any_size(rng) * rng.standard_normal((n, m)), rng.standard_normal((3, n))
    x, r = rng.standard_normal((m, k)), rng.standard_normal((3, k))

    def f(a):
        z = a["W"] @ x
        return (a["V"] @ np.maximum(z, 0) * r).sum(), z > 0

    z = W @ x
    return f, {"W": W, "V": V}, {"W": ((V.T @ r) * (z > 0)) @ x.T, "V": r @ np.maximum(z, 0).T}


def relus_that_tell_no_kinks(rng):
    f, args, grads = relus(rng)
    return lambda a: f(a)[0], args, grads


def rounded(rng):
    """A loss that is computed in float32, or that loses a large constant again: its own size does not show it."""
    f, args, grads = [entries, tanh_layer, product][rng.integers(3)](rng)
    if rng.random() < 0.5:
        return lambda a: float(np.float32(f(a))), args, grads
    B = abs(f(args)) * 10.0 ** rng.uniform(0, 10)
    return lambda a: f(a) + B - B, args, grads


FAMILIES = [entries, mixed_entries, squares, product, tanh_layer, classifier, recurrence]
FAMILIES += [relus, relus_that_tell_no_kinks, rounded]
ALONE = mixed_entries, relus_that_tell_no_kinks, rounded  # these get no constant: it would hide what they are about


def right_function(seed):
    """(family, orders, f, args, grads). Of the families that are not ALONE two in five get a constant part up to
    `orders` orders of magnitude larger than the loss, 12 at most; 0 is none."""
    rng = np.random.default_rng(seed)
    family, orders = FAMILIES[rng.integers(len(FAMILIES))], 0
    f, args, grads = family(rng)
    if family in ALONE or rng.random() < 0.6:
        return family, orders, f, args, grads
    orders, sign = rng.uniform(0, 12), rng.choice([-1.0, 1.0])
    loss = f(args)[0] if family is relus else f(args)
    B = sign * abs(loss) * 10.0**orders
    with_constant = (lambda a: (f(a)[0] + B, f(a)[1])) if family is relus else lambda a: f(a) + B
    return family, orders, with_constant, args, grads


def with_one_wrong_entry(n, size, seed):
    """(f, args, grads): n entries of like size, one of whose gradients is off by `size` of the rest's."""
    rng = np.random.default_rng(seed)
    w, s, c = rng.uniform(1, 2, n) * rng.choice([-1.0, 1.0], n), any_size(rng), any_size(rng)
    grad = c * w / s
    grad[rng.integers(n)] += size * math.sqrt((grad**2).mean())
    return lambda a: c * ((a["w"] / s) ** 2).sum() / 2, {"w": s * w}, {"w": grad}


def least_found(n, size):
    """The probability, from `check_gradients`, that the directions find such an entry."""
    directions = min(2 + n // 40_000, 10)
    return 1 - math.erfc(size / (2 * RELATIVE * math.sqrt(n)) / math.sqrt(2)) ** directions


def main(count):
    alarms, gradients, planted, found = 0, 0, collections.Counter(), collections.Counter()
    for seed in range(count):
        family, orders, f, args, grads = right_function(seed)
        errors = gradient_errors(f, args, grads, seed)
        gradients += len(errors)
        for error in errors:
            if error.wrong:
                alarms += 1
                print(f"false alarm: seed {seed}, {family.__name__}, {orders:.1f} orders: {error}")
        for name in grads:
            if np.any(grads[name]):
                row = (
                    f"{family.__name__}, constant 10^{3 * math.floor(orders / 3)} times and more"
                    if orders
                    else family.__name__
                )
                planted[row] += 1
                [error] = gradient_errors(f, args, {name: 1.001 * grads[name]}, seed)
                found[row] += error.wrong
    print(f"{count} functions, {gradients} gradients, {alarms} false alarms")
    print("found, of gradients that are off by 0.1 %:")
    for row in sorted(planted):
        print(f"  {row:55}{found[row]:6} of {planted[row]:6}")
    print("found, of single entries off by a share of the others' size, by the directions alone; derived:")
    for n, size, checks in (
        (100, 1e-5, 1000),
        (10_000, 1e-4, 1000),
        (10_000, 1e-3, 1000),
        (90_000, 1e-4, 500),
        (90_000, 3e-4, 500),
        (90_000, 1e-3, 500),
        (1_000_000, 1e-3, 50),
    ):
        problems = (with_one_wrong_entry(n, size, seed) for seed in range(checks))
        hits = sum(gradient_errors(*p, seed, coordinates=0)[0].wrong for seed, p in enumerate(problems))
        print(f"  {n:8} entries, {size:g}: {hits / checks:.3f} of {checks}, at least {least_found(n, size):.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
