"""A second oracle: the whole model in PyTorch, its truncated gradients by autograd.

`oracle` follows the description of the algorithm, not our code: step by step, with no spans and nothing
folded, and a `detach` marked CUT wherever a gradient ends. Skipped where PyTorch is not installed.
"""

import numpy as np
import pytest

from minaux.initial import Sizes, parameter_shapes
from minaux.lstm import lstm_backward, lstm_forward
from minaux.model import Draws, loss_and_grads

torch = pytest.importorskip("torch")
torch_step = pytest.importorskip("minaux.bench.torch_step")
F = torch.nn.functional
torch.set_num_threads(1)


def oracle(params, x, y, draws, K, aux_K, aux_weight, batch_size):
    """Dicts of the losses, all gradients and main.Wh's by loss; and what r's decoder read `[steps, (D,) N]`.

    Rows are sequences here: x becomes `[T, N, D]` (tokens: `[T, N]`), a state is (h, c), each `[N, H]`.
    """
    tokens, T, N, L = x.ndim == 2, len(x), x.shape[-1], draws.L
    x = torch.tensor(x if tokens else x.transpose(0, 2, 1))
    p = {name: torch.tensor(value, requires_grad=True) for name, value in params.items()}
    H = p["main.Wh"].shape[1]
    zeros = torch.zeros(2, N, H, dtype=torch.float64).unbind()
    lstm_cell = torch.nn.LSTMCell(H, H, dtype=torch.float64)  # all layers read H numbers a step

    def embed(name, v):
        We = p[f"{name}.We"]
        return F.embedding(v, We.T) if tokens else F.linear(v, We, p[f"{name}.be"][:, 0])

    def cell(name, v, state):
        Wx, Wh, b = p[f"{name}.Wx"], p[f"{name}.Wh"], p[f"{name}.b"][:, 0]
        weights = {"weight_ih": Wx, "weight_hh": Wh, "bias_ih": b, "bias_hh": torch.zeros_like(b)}
        return torch.func.functional_call(lstm_cell, weights, (v, state))

    def mlp(name, v, masks):
        for n in "123":
            W = p[f"{name}.W{n}"] * torch.tensor(masks.get(f"{name}.W{n}", 1.0))
            v = F.linear(v, W, p[f"{name}.b{n}"][:, 0])
            v = v if n == "3" else v.relu()
        return v

    def auxiliary(name, v, bottom, top, target):
        """One step of a head: the states of its two layers, its output, and the step's loss."""
        bottom = cell(f"{name}.bottom", v, bottom)
        top = cell(f"{name}.top", bottom[0], top)
        out = mlp(f"{name}.head", top[0], {})
        loss = F.cross_entropy if tokens else F.mse_loss
        return bottom, top, out, loss(out, target, reduction="sum") / (1 if tokens else x.shape[2])

    def main(state, t0, t1):
        for t in range(t0, t1):
            state = cell("main", embed("main", x[t]), state)
        return state

    def detach(state):
        return state[0].detach(), state[1].detach()

    def main_state(t, K):
        """The main LSTM's state after step t, as a function of the parameters at the K steps up to t."""
        start = max(t + 1 - K, 0)
        return main(detach(main(zeros, 0, start)), start, t + 1)  # CUT before step t+1-K

    losses = {name: torch.zeros((), dtype=torch.float64) for name in ("supervised", "r", "p")}
    if y is not None:
        logits = mlp("classifier", main_state(T - 1, K)[0], draws.masks)
        losses["supervised"] = F.cross_entropy(logits, torch.tensor(y), reduction="sum") / batch_size

    fed = []
    for n, a in enumerate(draws.r_anchors):
        bottom, top, own = main_state(a, aux_K), zeros, None
        for s in range(L - 1):
            if aux_K and s and s % aux_K == 0:
                bottom, top = detach(bottom), detach(top)  # CUT between the decoder's windows
            v = x[a - L + s]
            if s and draws.truth is not None:
                coin = torch.tensor(draws.truth[n, s])
                v = torch.where(coin if tokens else coin[:, None], v, own)
            fed.append(v.numpy().T)
            bottom, top, out, loss = auxiliary("r", embed("r.bottom", v), bottom, top, x[a - L + s + 1])
            own = out.argmax(1) if tokens else out.detach()  # CUT: what is fed is a constant
            losses["r"] = losses["r"] + loss / (batch_size * (L - 1) * len(draws.r_anchors))

    for a in draws.p_anchors:
        state, bottom, top = main_state(a - 1, aux_K), zeros, zeros
        for s in range(L):
            if aux_K and s and s % aux_K == 0:  # CUT between windows, in the main and the auxiliary LSTM
                state, bottom, top = detach(state), detach(bottom), detach(top)
            state = main(state, a + s, a + s + 1)
            if aux_K == 0:
                state = detach(state)  # CUT: main states are constants
            bottom, top, _, loss = auxiliary("p", state[0], bottom, top, x[a + s + 1])
            losses["p"] = losses["p"] + loss / (batch_size * L * len(draws.p_anchors))

    def gradients(loss):
        loss = loss + 0 * p["main.b"].sum()  # a loss that is not there has gradients: zeros
        grads = torch.autograd.grad(loss, list(p.values()), retain_graph=True, materialize_grads=True)
        return dict(zip(p, grads))

    supervised, aux = gradients(losses["supervised"]), gradients(aux_weight * (losses["r"] + losses["p"]))
    grads = {k: supervised[k] + aux[k] for k in p if y is not None or not k.startswith("classifier")}
    losses = {name: loss.detach() for name, loss in losses.items()}
    return losses, grads, {"supervised": supervised["main.Wh"], "auxiliary": aux["main.Wh"]}, fed


def assert_close(name, ours, theirs):
    """Within 1e-10 of the largest entry; where all are zero, zero."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, name
    worst, largest = abs(ours - theirs).max(), abs(theirs).max()
    assert worst <= 1e-10 * largest, f"{name}: off by {worst}, largest entry {largest}"


def assert_same(ours, theirs):
    """Two triples (losses, grads, dWh) of dicts."""
    for mine, its in zip(ours, theirs, strict=True):
        assert set(mine) == set(its)
        for name in its:
            assert_close(name, mine[name], its[name])


def problem(seed, aux="rp", D=2, tokens=False, T=9, N=3, H=3, L=4, anchors=2, coins=True, drop=True, start=0):
    """A random batch: parameters, x, y, and Draws with anchors that fit into the steps from `start` on."""
    rng = np.random.default_rng(seed)
    shapes = parameter_shapes(Sizes(D, H, 3, tokens), aux)
    params = {name: 0.7 * rng.standard_normal(shape) for name, shape in shapes.items()}
    x = rng.integers(0, D, (T, N)) if tokens else rng.random((T, D, N))
    r = rng.integers(start + L, T, anchors).tolist() if "r" in aux else []
    p = rng.integers(start, T - L, anchors).tolist() if "p" in aux else []
    masks = {f"classifier.{W}": rng.integers(0, 2, (2 * H, n)) * 2.0 for W, n in (("W1", H), ("W2", 2 * H)) if drop}
    truth = rng.random((anchors, L - 1, N)) < 0.5
    truth[:, 0] = True
    return params, x, rng.integers(0, 3, N), Draws(L, r, p, masks, truth if coins else None)


def alone(x, y, draws, part, start=0):
    """The sequences `part` (a slice) of a batch, without the steps before `start`."""
    r, p = ([a - start for a in anchors] for anchors in (draws.r_anchors, draws.p_anchors))
    draws = draws._replace(r_anchors=r, p_anchors=p, truth=None if draws.truth is None else draws.truth[..., part])
    return x[start:, ..., part], None if y is None else y[part], draws


def add(triples):
    """The sum of triples (losses, grads, dWh) of dicts."""
    return [{name: sum(d[name] for d in dicts) for name in dicts[0]} for dicts in zip(*triples)]


def check(params, x, y, draws, K, aux_K, aux_weight=1.0, batch_size=None, starts=None):
    """Compare with the oracle. Where `starts` says at which step each sequence starts, `loss_and_grads`
    gets them as a padded batch, and the oracle one by one, unpadded."""
    parts, mask, options = [(slice(None), 0)], None, (K, aux_K, aux_weight, batch_size or x.shape[-1])
    if starts is not None:
        parts = [(slice(n, n + 1), start) for n, start in enumerate(starts)]
        mask = (np.arange(len(x))[:, None] >= starts).astype(float)
    *theirs, fed = zip(*(oracle(params, *alone(x, y, draws, *part), *options) for part in parts))
    result = loss_and_grads(params, x, y, draws, K, aux_K, aux_weight, batch_size, mask)
    assert_same((result.losses, result.grads, result.dWh), add(zip(*theirs)))
    if draws.r_anchors:
        assert_close("fed", np.concatenate(result.fed), np.concatenate(fed, axis=-1))


@pytest.mark.parametrize("L", [2, 4, 8])
@pytest.mark.parametrize("K, aux_K", [(4, 0), (0, 1), (1, 2), (2, 3), (9, 4), (8, 8), (3, 9), (20, 20)])
@pytest.mark.parametrize("D, tokens", [(1, False), (2, False), (5, True)])
def test_every_truncation(D, tokens, K, aux_K, L):
    """T = 9; r and p, two anchors each, scheduled sampling and DropConnect."""
    check(*problem(10 * K + L, D=D, tokens=tokens, L=L), K, aux_K)


@pytest.mark.parametrize("seed", range(80))
def test_any_batch(seed):
    whole = np.random.default_rng(seed).integers
    aux, T, N, tokens, padded = ["none", "r", "p", "rp"][seed % 4], whole(5, 12), whole(1, 4), whole(2), whole(2)
    start = whole(T // 2) if padded else 0
    sizes = {"T": T, "N": N, "D": whole(1, 5), "H": whole(1, 5), "L": whole(2, T - start), "start": start}
    options = {"tokens": tokens, "anchors": whole(1, 4), "coins": whole(2), "drop": whole(2)}
    params, x, y, draws = problem(seed, aux, **sizes, **options)
    y = None if aux != "none" and whole(2) else y  # pretraining
    starts = whole(start + 1, size=N) if padded else None
    check(params, x, y, draws, whole(T + 2), whole(T + 2), whole(4) / 2, [None, 7][whole(2)], starts)


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("K, aux_K", [(0, 0), (2, 1), (3, 2), (7, 4), (12, 12)])
def test_padded_sequences_get_what_they_get_alone(tokens, K, aux_K):
    check(*problem(K, D=4, tokens=tokens, T=12, N=4, start=5), K, aux_K, starts=[0, 3, 5, 5])


@pytest.mark.parametrize("tokens", [False, True])
def test_shards_add_to_the_batch(tokens):
    params, x, y, draws = problem(1, D=4, tokens=tokens, N=5)
    shards = [alone(x, y, draws, part) for part in (slice(0, 2), slice(2, 5))]
    results = [loss_and_grads(params, *shard, 3, 2, 0.5, batch_size=5) for shard in shards]
    ours = add([(result.losses, result.grads, result.dWh) for result in results])
    assert_same(ours, oracle(params, x, y, draws, 3, 2, 0.5, 5)[:3])


@pytest.mark.parametrize("S, D, H, N", [(1, 1, 1, 1), (3, 1, 2, 1), (5, 3, 1, 2), (6, 4, 3, 5)])
def test_lstm_is_torchs(S, D, H, N):
    rng = np.random.default_rng(S)
    shapes = [(S, D, N), (H, N), (H, N), (4 * H, D), (4 * H, H), (4 * H, 1)]  # x, h0, c0, Wx, Wh, b
    x, *args = (rng.standard_normal(shape) for shape in shapes)
    leaves = tx, h0, c0, Wx, Wh, b = [torch.tensor(a, requires_grad=True) for a in (x, *args)]
    names = "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"
    weights = dict(zip(names, (Wx, Wh, b[:, 0], torch.zeros(4 * H, dtype=torch.float64))))
    inputs = tx.mT, (h0.T[None].contiguous(), c0.T[None].contiguous())
    out, (h_last, c_last) = torch.func.functional_call(torch.nn.LSTM(D, H, dtype=torch.float64), weights, inputs)
    theirs = out.mT, h_last[0].T, c_last[0].T

    h, c, cache = lstm_forward(x, *args)
    for name, mine, its in zip(("h", "h_last", "c_last"), (h[1:], h[-1], c[-1]), theirs):
        assert_close(name, mine, its.detach())
    dh, dh_last, dc_last = douts = [rng.standard_normal(its.shape) for its in theirs]
    loss = sum((its * torch.tensor(dout)).sum() for its, dout in zip(theirs, douts))
    ours, theirs = lstm_backward(dh, dh_last, dc_last, cache), torch.autograd.grad(loss, leaves)
    for name, mine, its in zip(("dx", "dh0", "dc0", "dWx", "dWh", "db"), ours, theirs):
        assert_close(name, mine, its)


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("K", [2, 5, 7, 30])
@pytest.mark.parametrize(
    "aux, anchor", [("none", None), *(("r", a) for a in (5, 17, 29)), *(("p", a) for a in (0, 12, 24))]
)
def test_the_step_that_bench_times_beside_ours_has_our_losses_and_gradients(aux, anchor, K, fold):
    """30 steps; the auxiliary span before, across and within the supervised one; at K = 2 in windows."""
    params, x, y, _ = problem(K, aux, T=30, anchors=0)
    anchors = [(anchor,) if kind == aux else () for kind in "rp"]
    ours = loss_and_grads(params, x, y, Draws(5, *anchors), K, K)
    step = torch_step.Step(params, fold)
    losses = step.backward(torch.tensor(x.transpose(0, 2, 1)), torch.tensor(y), 5, K, *anchors)
    assert losses == pytest.approx([loss for loss in ours.losses.values() if loss], rel=1e-12)
    for name, p in step.p.items():
        assert_close(name, ours.grads[name], p.grad)
