"""The uRNN: its equations, its gradients, its norms, planted mistakes, and that it trains."""

import pathlib
import sys
import tracemalloc
import types

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import datasets
from minaux.baselines import urnn
from minaux.gradcheck import GradientError, check_gradients
from minaux.initial import Sizes
from minaux.model import Draws
from minaux.training import config
from minaux.training.config import UserError
from minaux.training.loop import train
from minaux.training.run import new_state, set_up
from tests.conftest import tiny
from tests.gpu import standin
from tests.strategies import padding, random_batch, seeds, small, steps


def problem(seed, T, D, H, N, tokens=False, padded=False):
    r = np.random.default_rng(seed)
    params = {k: r.standard_normal(s) for k, s in urnn.parameter_shapes(Sizes(D, H, 3, tokens)).items()}
    params["main.Wx"] *= 2
    params["main.b"] = r.uniform(-1, 0.2, params["main.b"].shape)  # some units are off
    x, y = random_batch(r, T, D, N, tokens)
    return params, x, y, padding(T, N, r.integers(1, T + 1, N)) if padded else None


def as_complex(pairs):
    return pairs[..., 0] + 1j * pairs[..., 1]


def unitary(params):
    """W = D3 R2 F⁻¹ D2 Π R1 F D1 as a matrix, factor by factor."""
    n = params["main.theta"].shape[1]
    D1, D2, D3 = (np.diag(np.exp(1j * theta)) for theta in params["main.theta"])
    R1, R2 = (np.eye(n) - 2 * np.outer(v, v.conj()) / np.vdot(v, v) for v in as_complex(params["main.reflection"]))
    F = np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n)
    P = np.eye(n)[urnn.permutation(n)]
    return D3 @ R2 @ np.linalg.inv(F) @ D2 @ P @ R1 @ F @ D1


def states(params, x, h, mask):
    """The equations at the top of urnn.py, a column for each sequence: the last state, and all |z| and units on."""
    W, Wx, b = unitary(params), as_complex(params["main.Wx"]), params["main.b"][:, None]
    moduli, on = [], []
    for t in range(len(x)):
        z = W @ h + Wx @ (x[t] if x.ndim == 3 else np.eye(Wx.shape[1])[:, x[t]])
        r = np.sqrt(abs(z) ** 2 + urnn.EPSILON)
        moduli.append(r)
        on.append(r + b > 0)
        h = np.maximum(r + b, 0) * z / r
        if mask is not None:
            h = np.where(mask[t] > 0, h, as_complex(params["main.h0"])[:, None])
    return h, moduli, on


def loss_by_the_book(params, x, y, h, mask, batch_size):
    """The loss from the state h (None: h0) on, the smallest |z|, and which units are on."""
    h = np.tile(as_complex(params["main.h0"])[:, None], x.shape[-1]) if h is None else h
    h, moduli, on = states(params, x, h, mask)
    pairs = np.stack([h.real, h.imag], axis=1).reshape(-1, len(y))
    scores = params["classifier.W"] @ pairs + params["classifier.b"]
    logp = scores - np.log(np.exp(scores).sum(0))
    return -logp[y, range(len(y))].sum() / batch_size, np.min(moduli, initial=1.0), on


def check_all(module, seed, T, D, H, N, tokens=False, padded=False, K=99):
    """Loss and gradients of `module`, against differences of the loss with the state before step T-K constant, but
    for h0 of a sequence that begins there. False if some |z| is so small that its phase turns too fast."""
    params, x, y, mask = problem(seed, T, D, H, N, tokens, padded)
    cut = max(T - K, 0)
    before, after = (None, None) if mask is None else (mask[:cut], mask[cut:])
    entry = np.tile(as_complex(params["main.h0"])[:, None], N)
    entry = states(params, x[:cut], entry, before)[0] if cut else None

    def loss(p):
        h = entry
        if cut and mask is not None:
            h = np.where(mask[cut - 1] > 0, h, as_complex(p["main.h0"])[:, None])
        return loss_by_the_book(p, x[cut:], y, h, after, N + 1)[::2]

    _, smallest, _ = loss_by_the_book(params, x[cut:], y, entry, after, N + 1)
    if smallest < 0.1:
        return False
    result = module.loss_and_grads(params, x, y, Draws(), K, mask=mask, batch_size=N + 1)
    assert float(result.losses["supervised"]) == pytest.approx(loss(params)[0], rel=1e-10)
    check_gradients(loss, params, result.grads, seed)
    assert result.grads.keys() == params.keys()
    return True


@given(seeds, steps, small, st.integers(1, 2), st.integers(1, 3), st.booleans(), st.booleans(), st.integers(0, 9))
def test_gradients(seed, T, D, H, N, tokens, padded, K):
    assume(check_all(urnn, seed, T, D, H, N, tokens, padded, K))


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("as_pairs(2 * along", "as_pairs(along"),  # the reflection's factor 2
        ("along = y @ w.conj()", "along = y @ w"),  # a conjugate forgotten
        ('y = fft.ifft(y, norm="ortho")', "y = fft.ifft(y)"),  # the inverse transform's scale
        ('both = xp.fft.ifft(both, norm="ortho")', "both = xp.fft.ifft(both)"),
        ("d = f.d.conj()", "d = f.d"),
        ("product = y.conj()", "product = y.copy()"),
        ("dz -= z * ratio", "pass"),
        ("(dh * z.conj())", "(dh * z)"),
        ("take(f.back", "take(f.order"),
        ("dw += 2 *", "dw +="),
        (" - of_dy @ both[:N]", ""),
        ("sums.w - along * f.w", "sums.w"),
        ("/ f.length", ""),
        ("exp(1j * theta)", "exp(-1j * theta)"),
        ("if t0 == 0", "if True"),
    ],
)
def test_a_planted_mistake_is_found(right, wrong):
    source = pathlib.Path(urnn.__file__).read_text()
    assert right in source
    broken = types.ModuleType("minaux.baselines.broken")
    broken.__package__ = "minaux.baselines"
    exec(compile(source.replace(right, wrong), "broken", "exec"), vars(broken))
    assert check_all(urnn, 1, 6, 2, 2, 2, K=4)
    with pytest.raises((AssertionError, GradientError)):
        check_all(broken, 1, 6, 2, 2, 2, K=4)


@given(seeds, st.integers(1, 4))
def test_its_matrix_is_the_papers(seed, H):
    params, *_ = problem(seed, 3, 1, H, 1)
    W, rows = unitary(params), np.eye(4 * H, dtype=complex)
    np.testing.assert_allclose(urnn.unitary_forward(rows, urnn.factors(params)), W.T, atol=1e-12)
    np.testing.assert_allclose(W.conj().T @ W, np.eye(4 * H), atol=1e-12)


def test_the_norm_is_kept_over_16384_steps():
    """With biases of 0, as at the start, modReLU does nothing: state and gradient keep their norms, to rounding."""
    params = urnn.init_params(Sizes(1, 16, 3), dtype="float64")
    *main, h0 = urnn.weights(params)
    start = urnn.initial_state(h0, 1)
    norm = np.linalg.norm(start)
    end, _ = urnn.urnn_forward(np.zeros((16_384, 1, 1)), start, *main, h0, keep=False)
    assert np.linalg.norm(end) == pytest.approx(norm, rel=1e-11)
    x = np.zeros((1000, 1, 1))
    _, zs = urnn.urnn_forward(x, start, *main, h0)
    grads = {name: np.zeros_like(w) for name, w in params.items()}
    dh = urnn.urnn_backward(start, x, zs, *main[:3], None, grads)
    assert np.linalg.norm(dh) == pytest.approx(norm, rel=1e-11)


@pytest.mark.parametrize("padded", [False, True])
def test_it_is_pytorchs(padded):
    """Autograd on complex tensors, in the order of the factors."""
    torch = pytest.importorskip("torch")
    T, D, N = 40, 2, 5
    params, x, y, mask = problem(4, T, D, 8, N, padded=padded)
    result = urnn.loss_and_grads(params, x, y, Draws(), T, mask=mask)
    leaves = {name: torch.tensor(w, requires_grad=True) for name, w in params.items()}
    d = torch.exp(1j * leaves["main.theta"])
    Wx, v, h0 = (torch.view_as_complex(leaves[f"main.{name}"]) for name in ("Wx", "reflection", "h0"))

    def reflected(h, v):
        return h - 2 * (h @ v.conj())[:, None] * v / torch.vdot(v, v)

    h = h0.expand(N, -1)
    for t in range(T):
        z = reflected(torch.fft.fft(d[0] * h), v[0])[:, urnn.permutation(32)]
        z = d[2] * reflected(torch.fft.ifft(d[1] * z), v[1]) + torch.tensor(x[t].T + 0j) @ Wx.T
        r = (z.abs() ** 2 + urnn.EPSILON).sqrt()
        new = (r + leaves["main.b"]).relu() * z / r
        h = new if mask is None else torch.where(torch.tensor(mask[t][:, None] > 0), new, h0)
    scores = torch.view_as_real(h).flatten(1) @ leaves["classifier.W"].T + leaves["classifier.b"][:, 0]
    loss = torch.nn.functional.cross_entropy(scores, torch.tensor(y))
    loss.backward()
    assert float(result.losses["supervised"]) == pytest.approx(loss.item(), rel=1e-10)
    for name, leaf in leaves.items():
        np.testing.assert_allclose(result.grads[name], leaf.grad.numpy(), rtol=1e-8, atol=1e-10, err_msg=name)


def test_a_sequence_of_as_many_steps_as_the_truncation_gets_what_it_gets_alone():
    params, x, y, _ = problem(0, 10, 1, 2, 3)
    lengths = np.array([5, 6, 7])
    mask = (np.arange(10)[:, None] >= 10 - lengths).astype(x.dtype)
    together = urnn.loss_and_grads(params, x, y, Draws(), 6, mask=mask)
    alone = [
        urnn.loss_and_grads(params, x[10 - T :, :, n : n + 1], y[n : n + 1], Draws(), 6, batch_size=3).grads
        for n, T in enumerate(lengths)
    ]
    for name, grad in together.grads.items():
        np.testing.assert_allclose(grad, sum(g[name] for g in alone), atol=1e-12, err_msg=name)


def test_scores_are_those_of_training():
    params, x, y, mask = problem(3, 7, 2, 4, 5, padded=True)
    scores = urnn.logits(params, x, mask)
    logp = scores - np.log(np.exp(scores).sum(0))
    loss = urnn.loss_and_grads(params, x, y, Draws(), 3, mask=mask).losses["supervised"]
    assert loss == pytest.approx(-logp[y, range(5)].mean(), rel=1e-12)


@pytest.mark.parametrize("where", ["standin", pytest.param("gpu", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("tokens", [False, True])
def test_a_gpu_gives_the_same(where, tokens, monkeypatch):
    if where == "standin":
        monkeypatch.setitem(sys.modules, "cupy", standin.cupy())
    import cupy

    params, x, y, mask = problem(7, 9, 3, 4, 4, tokens, padded=True)
    expected = urnn.loss_and_grads(params, x, y, Draws(), 9, mask=mask)
    scores = urnn.logits(params, x, mask)
    params = {name: cupy.asarray(w) for name, w in params.items()}
    x, y, mask = map(cupy.asarray, (x, y, mask))
    standin.transfers.clear()
    found = urnn.loss_and_grads(params, x, y, Draws(), 9, mask=mask)
    mine = urnn.logits(params, x, mask)
    assert standin.transfers == []  # nothing comes back to the host, or waits for it
    np.testing.assert_allclose(mine.get(), scores, rtol=1e-9)
    for name, grad in expected.grads.items():
        np.testing.assert_allclose(found.grads[name].get(), grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tokens", [False, True])
def test_float32_stays_float32(tokens):
    params, x, y, mask = problem(5, 6, 3, 4, 5, tokens, padded=True)
    expected = urnn.loss_and_grads(params, x, y, Draws(), 6, mask=mask)
    narrow = {name: w.astype("f4") for name, w in params.items()}
    x, mask = x if tokens else x.astype("f4"), mask.astype("f4")
    found = urnn.loss_and_grads(narrow, x, y, Draws(), 6, mask=mask)
    assert urnn.logits(narrow, x, mask).dtype == found.losses["supervised"].dtype == np.float32
    for name, grad in expected.grads.items():
        assert found.grads[name].dtype == np.float32
        np.testing.assert_allclose(found.grads[name], grad, atol=1e-4 * max(np.abs(grad).max(), 0.1), err_msg=name)


def test_memory_grows_with_the_truncation_alone():
    """A z is kept for each step of the window."""
    params = urnn.init_params(Sizes(1, 16, 3))
    r, peaks = np.random.default_rng(0), {}
    for T, K in (100, 100), (200, 100), (200, 200):
        x, y = r.random((T, 1, 8)).astype("f4"), r.integers(0, 3, 8)
        urnn.loss_and_grads(params, x, y, Draws(), K)
        tracemalloc.start()
        urnn.loss_and_grads(params, x, y, Draws(), K)
        peaks[T, K] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    one = 8 * 8 * 64  # bytes
    assert peaks[200, 100] == pytest.approx(peaks[100, 100], rel=0.02)
    assert peaks[200, 200] - peaks[200, 100] == pytest.approx(100 * one, rel=0.1)


def test_it_starts_as_the_paper_says():
    params = urnn.init_params(Sizes(1, 128, 10))
    assert sum(w.size for w in params.values()) == 16_394  # with the paper's 512 complex units
    assert not params["main.b"].any() and not params["classifier.b"].any()
    ends = {"theta": np.pi, "reflection": 1, "h0": np.sqrt(1.5 / 512), "Wx": np.sqrt(6 / 513)}
    for name, end in ends.items():
        assert 0.97 * end < np.abs(params[f"main.{name}"]).max() <= np.float32(end)
    assert 0.8 < (params["main.h0"] ** 2).sum() < 1.2
    assert sorted(urnn.permutation(512)) == list(range(512))


def test_it_learns(tmp_path):
    r = np.random.default_rng(0)
    y = r.integers(0, 3, 120)
    x = r.integers(0, 60, (120, 12, 1)) + 80 * y[:, None, None]
    task = datasets.Task(x.astype(np.uint8), y, x.astype(np.uint8), y, classes=3)
    given = {"task": "mnist", "model": "urnn", "hidden": 8, "epochs": 30, "batch_size": 20, "lr": 3e-3}
    run = set_up(config.build({**given, "valid": 0, "threads": 2, "quiet": True}, 2), task, tmp_path / "run")
    result = train(run, new_state(run))
    assert (result["model"], result["bptt"]) == ("urnn", "full") and result["test_accuracy"] > 0.9


@pytest.mark.parametrize("tokens", [False, True])
def test_the_command_trains_and_tests_it(invoke, tmp_path, tokens):
    r = np.random.default_rng(0)
    x = r.integers(0, 5, (40, 12)) if tokens else r.random((40, 12, 2))
    lengths = {"lengths": r.integers(3, 13, 40)} if tokens else {}
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(40) % 2, **lengths)
    ended = invoke(*tiny("npz", tmp_path / "x.npz", "none", tmp_path / "run"), "--model", "urnn")
    assert ended.status == 0, ended.stderr
    assert invoke("evaluate", tmp_path / "run", "--json").status == 0
    refused = invoke(*tiny("npz", tmp_path / "x.npz", "r", tmp_path / "other"), "--model", "urnn")
    assert refused.status == 1 and "has no auxiliary loss" in refused.stderr


def test_dropconnect_is_refused():
    assert config.build({"task": "mnist", "model": "urnn", "preset": "paper"}, 1).dropconnect == 0
    with pytest.raises(UserError, match="--dropconnect: the urnn's classifier has no hidden layers"):
        config.build({"task": "mnist", "model": "urnn", "dropconnect": 0.5}, 1)
