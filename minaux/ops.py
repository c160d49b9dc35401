"""Forward/backward pairs of everything that is not the LSTM.

Columns are sequences: a batch is `[features, N]`. `op_forward(...) -> (out, cache)`, `op_backward(dout,
cache) -> gradients in the order of the forward's arguments`. A loss is multiplied by `scale`, which makes
it a mean: its owner knows of what.
"""

from .arrays import array_module


def linear_forward(x, W, b):
    """y = W x + b, with x `[in, N]`, W `[out, in]`, b `[out, 1]`; y `[out, N]`."""
    y = W @ x
    y += b
    return y, (x, W)


def linear_backward(dy, cache):
    """dx `[in, N]`, dW `[out, in]`, db `[out, 1]` from dy `[out, N]`."""
    x, W = cache
    dx = W.T @ dy if len(W) > 1 else W.T * dy  # the same, and quicker: a column times a row
    return dx, dy @ x.T, dy.sum(1, keepdims=True)  # y = W x + b


def relu_forward(z):
    """y = max(z, 0), and y is the cache. Overwrites z."""
    y = array_module(z).maximum(z, 0, out=z)
    return y, y


def relu_backward(dy, y):
    """dz from dy: y = max(z, 0)."""
    return dy * (y > 0)


def dropconnect_forward(W, mask):
    """DropConnect (Wan et al. 2013): some weights are 0 for a batch; `mask` holds 0 or 1/(1-p), or is None."""
    return (W if mask is None else W * mask), mask


def dropconnect_backward(dW, mask):
    """The gradient of the whole W from the masked one's: W * mask."""
    return dW if mask is None else dW * mask


def embedding_forward(We, be, Wx, b):
    """Fold an input embedding into the gates: Wx (We x + be) + b = (Wx We) x + (Wx be + b).

    It has no nonlinearity behind it, so the folded pair `[4H, D]`, `[4H, 1]` serves all steps of a batch.
    For tokens We `[E, V]` is the table and be is None: Wx We holds every token's part of the gates.
    """
    bias = b if be is None else Wx @ be + b
    return (Wx @ We, bias), (We, be, Wx)


def embedding_backward(dfolded, cache):
    """dWe, dbe, dWx, db from the gradients of the folded pair (the chain rule; dbe is None for tokens)."""
    dA, dbias = dfolded
    We, be, Wx = cache
    dWe, dWx = Wx.T @ dA, dA @ We.T  # A = Wx We
    if be is None:
        return dWe, None, dWx, dbias
    return dWe, Wx.T @ dbias, dWx + dbias @ be.T, dbias  # bias = Wx be + b


def mlp_forward(x, params, name, masks=None):
    """Two hidden layers with ReLU, and a linear output: the classifier, and the auxiliary heads.

    x `[H, N]`; weights `name.W1 [2H, H]`, `name.W2 [2H, 2H]`, `name.W3 [out, 2H]` with biases b1, b2,
    b3; `masks` are DropConnect's, by parameter name. The cache holds the inputs of the three layers, columns alone:
    auxiliary.py puts those of several steps side by side.
    """
    inputs = []
    for layer in "123":
        inputs.append(x)
        W, _ = dropconnect_forward(params[f"{name}.W{layer}"], (masks or {}).get(f"{name}.W{layer}"))
        x, _ = linear_forward(x, W, params[f"{name}.b{layer}"])
        if layer != "3":
            x, _ = relu_forward(x)
    return x, inputs


def mlp_backward(dy, inputs, params, grads, name, masks=None):
    """Returns dx `[H, N]`; adds the weights' gradients into `grads`."""
    for layer, x in zip("321", reversed(inputs)):
        W, mask = dropconnect_forward(params[f"{name}.W{layer}"], (masks or {}).get(f"{name}.W{layer}"))
        dx, dW, db = linear_backward(dy, (x, W))
        grads[f"{name}.W{layer}"] += dropconnect_backward(dW, mask)
        grads[f"{name}.b{layer}"] += db
        dy = dx if layer == "1" else relu_backward(dx, x)  # x is the output of the ReLU before
    return dy


def mse_forward(y, target, scale):
    """scale · Σ (y - target)², y and target `[D, N]`: the pixels' auxiliary loss."""
    error = y - target
    return scale * (error * error).sum(), (error, scale)


def mse_backward(cache):
    """dy `[D, N]`: scale · Σ (y - target)²."""
    error, scale = cache
    return 2 * scale * error


def softmax_cross_entropy_forward(logits, labels, scale):
    """-scale · Σ log softmax(logits)[label]; logits `[C, N]`, labels `[N]` integers."""
    xp = array_module(logits)
    logp = logits - logits.max(0)
    logp -= xp.log(xp.exp(logp).sum(0))
    onehot = labels == xp.arange(len(logp))[:, None]  # [C, N]
    return -scale * (logp * onehot).sum(), (logp, onehot, scale)


def softmax_cross_entropy_backward(cache):
    """dlogits `[C, N]`: scale · (softmax - one-hot)."""
    logp, onehot, scale = cache
    return scale * (array_module(logp).exp(logp) - onehot)
