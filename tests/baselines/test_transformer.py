"""The Transformer: its equations, its gradients, its blocks, its memory, and that it trains."""

import io
import json
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import datasets
from minaux import arrays, initial
from minaux.baselines import transformer
from minaux.baselines.transformer import HEADS, LAYERS, encoder_widths, init_params, parameter_shapes
from minaux.gradcheck import check_gradients
from minaux.initial import Sizes
from minaux.model import draw
from minaux.training import config
from minaux.training.config import UserError
from minaux.training.loop import train
from minaux.training.run import new_state, set_up
from tests.conftest import assert_same_arrays
from tests.gpu import standin
from tests.strategies import padding, random_batch, seeds, small


def problem(seed, T, D, H, N, tokens=False, padded=False):
    r = np.random.default_rng(seed)
    shapes = parameter_shapes(Sizes(D, H, 3, tokens))
    params = {name: 0.5 * r.standard_normal(shape) for name, shape in shapes.items()}
    x, y = random_batch(r, T, D, N, tokens)
    mask = padding(T, N, r.integers(1, T + 1, N)) if padded else None
    return params, x, y, draw(seed, 0, "none", 1, 2, T, N, shapes, dropconnect=0.3), mask


def sinusoids(steps, E):
    """The last step is at 0, the one before at 1, ..."""
    s = np.zeros((steps, E))
    for t in range(steps):
        for i in range(0, E, 2):
            s[t, i : i + 2] = np.sin((steps - 1 - t) / 10000 ** (i / E)), np.cos((steps - 1 - t) / 10000 ** (i / E))
    return s


def by_the_book(params, x, mask):
    """The encoder's output `[E, N]`: one sequence after the other, without its padding, one head after the other,
    with the whole matrix of weights; and the signs inside the ReLUs."""
    means, kinks = [], []

    def linear(v, name):
        W, b = (params[".".join(name).replace(".W", f".{kind}")] for kind in "Wb")
        return np.array([W @ row + b for row in v])

    def norm(v, name):
        rows = [(row - row.mean()) / np.sqrt(row.var() + 1e-5) for row in v]
        return params[f"{name}.gain"] * rows + params[f"{name}.bias"]

    for n in range(x.shape[-1]):
        v = x[..., n] if mask is None else x[mask[:, n] > 0, ..., n]
        h = params["main.We"].T[v] if v.ndim == 1 else linear(v, ("main", "We"))
        h = h + sinusoids(len(v), h.shape[1])
        for layer in (f"layer{i}" for i in range(LAYERS)):
            y = norm(h, f"{layer}.norm1")
            q, k, v = (np.split(linear(y, (layer, f"W{c}")), HEADS, axis=1) for c in "qkv")
            heads = []
            for head in range(HEADS):
                p = np.exp(q[head] @ k[head].T / np.sqrt(q[head].shape[1]))
                heads.append(p / p.sum(1, keepdims=True) @ v[head])
            h = h + linear(np.concatenate(heads, axis=1), (layer, "Wo"))
            z = linear(norm(h, f"{layer}.norm2"), (layer, "W1"))
            kinks.append((z > 0).ravel())
            h = h + linear(np.maximum(z, 0), (layer, "W2"))
        means.append(norm(h, "norm").mean(0))
    return np.transpose(means), kinks


def loss_by_the_book(params, x, y, draws, mask, batch_size):
    h, kinks = by_the_book(params, x, mask)
    for layer in "12":
        W = params[f"classifier.W{layer}"] * draws.masks.get(f"classifier.W{layer}", 1)
        h = W @ h + params[f"classifier.b{layer}"]
        kinks.append((h > 0).ravel())
        h = np.maximum(h, 0)
    scores = params["classifier.W3"] @ h + params["classifier.b3"]
    logp = scores - np.log(np.exp(scores).sum(0))
    return -logp[y, range(len(y))].sum() / batch_size, kinks


@settings(max_examples=25)
@given(
    seeds,
    st.integers(3, 7),
    small,
    st.sampled_from([1, 6, 11]),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 30, 100, 2**18]),
)
def test_gradients(seed, T, D, H, N, tokens, padded, block):
    """Against differences of the loss by the book."""
    params, x, y, draws, mask = problem(seed, T, D, H, N, tokens, padded)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer, "CPU_BLOCK", block)
        result = transformer.loss_and_grads(params, x, y, draws, T, mask=mask, batch_size=N + 1)

    def loss(p):
        return loss_by_the_book(p, x, y, draws, mask, N + 1)

    assert float(result.losses["supervised"]) == pytest.approx(loss(params)[0], rel=1e-12)
    check_gradients(loss, params, result.grads, seed, coordinates=2)
    assert result.grads.keys() == params.keys()


@given(seeds, st.integers(3, 20), small, st.integers(1, 24), small, st.booleans(), st.booleans())
def test_forward_is_that_by_the_book(seed, T, D, H, N, tokens, padded):
    params, x, y, draws, mask = problem(seed, T, D, H, N, tokens, padded)
    mine, _ = transformer.encoder_forward(params, x, mask)
    np.testing.assert_allclose(mine.T, by_the_book(params, x, mask)[0], rtol=1e-10, atol=1e-12)
    scores = transformer.logits(params, x, mask)
    logp = scores - np.log(np.exp(scores).sum(0))
    loss, _ = loss_by_the_book(params, x, y, draws._replace(masks={}), mask, N)
    assert loss == pytest.approx(-logp[y, range(N)].mean(), rel=1e-10)


@pytest.mark.parametrize("tokens", [False, True])
def test_padding_changes_nothing(tokens):
    """A batch's loss and gradients are the sums of its sequences' alone, whatever stands in the padding."""
    params, x, y, draws, _ = problem(1, 9, 3, 8, 4, tokens)
    lengths = [9, 1, 4, 6]
    mask = padding(9, 4, lengths)
    whole = transformer.loss_and_grads(params, x, y, draws, 9, mask=mask)
    other = np.where(mask[:, None] > 0, x, 7.0) if not tokens else np.where(mask > 0, x, 2)
    again = transformer.loss_and_grads(params, other, y, draws, 9, mask=mask)
    alone = [
        transformer.loss_and_grads(params, x[9 - L :, ..., [n]], y[[n]], draws, 9, batch_size=4)
        for n, L in enumerate(lengths)
    ]
    assert whole.losses["supervised"] == pytest.approx(sum(one.losses["supervised"] for one in alone), rel=1e-12)
    for name, grad in whole.grads.items():
        np.testing.assert_allclose(grad, sum(one.grads[name] for one in alone), rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(grad, again.grads[name])


@pytest.mark.parametrize("block", [1, 50, 4 * 13, 4 * 13 * 5, 4 * 13 * 13 * 2, 10**6])
def test_blocks_change_nothing(block, monkeypatch):
    params, x, y, draws, mask = problem(2, 13, 2, 8, 5, padded=True)
    expected = transformer.loss_and_grads(params, x, y, draws, 13, mask=mask)
    sizes = []
    make = transformer.products
    monkeypatch.setattr(transformer, "products", lambda *args: sizes.append(make(*args).size) or make(*args))
    monkeypatch.setattr(transformer, "CPU_BLOCK", block)
    found = transformer.loss_and_grads(params, x, y, draws, 13, mask=mask)
    assert found.losses["supervised"] == pytest.approx(expected.losses["supervised"], rel=1e-13)
    for name, grad in expected.grads.items():
        np.testing.assert_allclose(found.grads[name], grad, rtol=1e-10, atol=1e-14)
    assert max(sizes) <= max(block, 4 * 13) and sum(sizes) == 2 * LAYERS * 5 * 4 * 13 * 13


def test_float32_stays_float32_and_is_near(monkeypatch):
    params, x, y, draws, mask = problem(3, 12, 2, 16, 4, padded=True)
    expected = transformer.loss_and_grads(params, x, y, draws, 12, mask=mask)
    narrow = {name: w.astype("f4") for name, w in params.items()}
    draws = draws._replace(masks={name: w.astype("f4") for name, w in draws.masks.items()})
    dtypes, make = [], transformer.products
    monkeypatch.setattr(transformer, "products", lambda *args: dtypes.append(make(*args).dtype.name) or make(*args))
    found = transformer.loss_and_grads(narrow, x.astype("f4"), y, draws, 12, mask=mask.astype("f4"))
    assert set(dtypes) == {"float32"}
    assert {g.dtype.name for g in found.grads.values()} == {"float32"}
    assert found.losses["supervised"].dtype == transformer.logits(narrow, x.astype("f4")).dtype == np.float32
    _, cache = transformer.encoder_forward(narrow, x.astype("f4"), mask.astype("f4"))

    def all_arrays(c):
        return [c] if isinstance(c, np.ndarray) else [a for part in c for a in all_arrays(part)]

    assert {a.dtype.name for a in all_arrays(cache)} == {"float32"}
    for name, grad in expected.grads.items():
        np.testing.assert_allclose(found.grads[name], grad, atol=1e-4 * max(np.abs(grad).max(), 0.1))


def test_large_scores_are_no_trouble():
    r = np.random.default_rng(0)
    q, k, v = (r.standard_normal((2, 4, 6, 3)).astype("f4") for _ in range(3))
    hide = np.zeros((2, 1, 1, 6), "f4")
    hide[1, ..., :4] = -np.inf
    out, logsum = transformer.attention_forward(1000 * q, k, v, hide)  # a softmax of one: exp(1000) is none
    chosen = (q @ k.swapaxes(2, 3) + hide).argmax(-1)
    np.testing.assert_allclose(out, np.take_along_axis(v, chosen[..., None], axis=2), rtol=1e-3, atol=1e-3)
    for grad in transformer.attention_backward(v, 1000 * q, k, v, hide, out, logsum):
        assert np.isfinite(grad).all()
        assert grad.dtype == np.float32


@pytest.mark.parametrize("padded", [False, True])
def test_it_is_pytorchs(padded):
    """nn.TransformerEncoderLayer, and autograd."""
    torch = pytest.importorskip("torch")
    T, N, D, H = 10, 3, 2, 11
    E, F = encoder_widths(H)
    params, x, y, draws, mask = problem(5, T, D, H, N, padded=padded)
    result = transformer.loss_and_grads(params, x, y, draws, T, mask=mask)

    leaves = {name: torch.tensor(w, requires_grad=True) for name, w in params.items()}
    options = {"dropout": 0.0, "batch_first": True, "norm_first": True, "dtype": torch.float64}
    real = torch.tensor(np.ones((N, T)) if mask is None else mask.T.copy())
    h = torch.tensor(x.transpose(2, 0, 1)) @ leaves["main.We"].T + leaves["main.be"]
    h = h + torch.stack([torch.tensor(sinusoids(T, E))] * N)
    for n in range(LAYERS):
        mine = {name.split(".", 1)[1]: w for name, w in leaves.items() if name.startswith(f"layer{n}.")}
        state = {
            "self_attn.in_proj_weight": torch.cat([mine[f"W{c}"] for c in "qkv"]),
            "self_attn.in_proj_bias": torch.cat([mine[f"b{c}"] for c in "qkv"]),
            "self_attn.out_proj.weight": mine["Wo"],
            "self_attn.out_proj.bias": mine["bo"],
        }
        for m in "12":
            state |= {f"linear{m}.weight": mine[f"W{m}"], f"linear{m}.bias": mine[f"b{m}"]}
            state |= {f"norm{m}.weight": mine[f"norm{m}.gain"], f"norm{m}.bias": mine[f"norm{m}.bias"]}
        layer = torch.nn.TransformerEncoderLayer(E, HEADS, F, **options)
        h = torch.func.functional_call(layer, state, (h,), {"src_key_padding_mask": real == 0})
    h = torch.nn.functional.layer_norm(h, (E,), leaves["norm.gain"], leaves["norm.bias"])
    h = (h * real[:, :, None]).sum(1) / real.sum(1, keepdim=True)
    for layer in "123":
        W = leaves[f"classifier.W{layer}"] * torch.tensor(draws.masks.get(f"classifier.W{layer}", 1.0))
        h = torch.nn.functional.linear(h, W, leaves[f"classifier.b{layer}"][:, 0])
        h = h if layer == "3" else h.relu()
    loss = torch.nn.functional.cross_entropy(h, torch.tensor(y))
    loss.backward()
    assert float(result.losses["supervised"]) == pytest.approx(loss.item(), rel=1e-12)
    for name, leaf in leaves.items():
        np.testing.assert_allclose(result.grads[name], leaf.grad.numpy(), rtol=1e-8, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("where", ["standin", pytest.param("gpu", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("tokens", [False, True])
def test_a_gpu_gives_the_same(where, tokens, monkeypatch):
    if where == "standin":
        monkeypatch.setitem(sys.modules, "cupy", standin.cupy())
    import cupy

    monkeypatch.setattr(transformer, "GPU_BLOCK", 100)
    params, x, y, draws, mask = problem(7, 9, 3, 8, 4, tokens, padded=True)
    expected = transformer.loss_and_grads(params, x, y, draws, 9, mask=mask)
    scores = transformer.logits(params, x, mask)
    params = {name: cupy.asarray(w) for name, w in params.items()}
    draws = draws._replace(masks={name: cupy.asarray(w) for name, w in draws.masks.items()})
    x, y, mask = map(cupy.asarray, (x, y, mask))
    standin.transfers.clear()
    found = transformer.loss_and_grads(params, x, y, draws, 9, mask=mask)
    mine = transformer.logits(params, x, mask)
    assert standin.transfers == []  # nothing comes back to the host, or waits for it
    np.testing.assert_allclose(mine.get(), scores, rtol=1e-9)
    for name, grad in expected.grads.items():
        np.testing.assert_allclose(found.grads[name].get(), grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("T, H, N", [(512, 16, 2), (128, 64, 16)])
def test_memory(T, H, N, monkeypatch):
    """What it says it needs is about what it takes; the whole matrix of weights is never there."""
    monkeypatch.setattr(transformer, "CPU_BLOCK", 2**14)
    sizes = Sizes(1, H, 3)
    params = init_params(sizes)
    shapes = {name: w.shape for name, w in params.items()}
    r = np.random.default_rng(0)
    batch = params, r.random((T, 1, N)).astype("f4"), r.integers(0, 3, N), draw(0, 0, "none", 1, 2, T, N, shapes), T
    transformer.loss_and_grads(*batch)
    tracemalloc.start()
    transformer.loss_and_grads(*batch)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.75 * peak < transformer.needed_bytes(T, N, sizes) < 1.5 * peak
    if T == 512:
        assert peak < 0.5 * 4 * N * HEADS * T * T  # of one layer's, were it whole


def test_memory_is_asked_for_beforehand(tmp_path, monkeypatch, invoke):
    sizes = Sizes(1, 128, 10)
    assert transformer.needed_bytes(784, 128, sizes) < transformer.needed_bytes(1024, 128, sizes) < 2e9
    assert transformer.needed_bytes(784, 128, sizes, "float64") > 1.9 * transformer.needed_bytes(784, 128, sizes)
    options = (
        "--task mnist --size 14 --hidden 4 --batch-size 5 --epochs 0 --limit-test 5 --threads 1 --quiet".split()
    )
    command = ["train", *options, "--model", "transformer", "--device", "cpu", "--out", tmp_path / "run"]
    needed = transformer.needed_bytes(196, 5, Sizes(1, 4, 10))
    monkeypatch.setattr(arrays, "free_memory", lambda xp: needed - 1)
    for _ in range(2):
        refused = invoke(*command)
        assert refused.status == 1 and refused.stderr.count("\n") == 1
        assert f"5 sequences of 196 steps needs {needed:,} bytes" in refused.stderr
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(arrays, "free_memory", lambda xp: needed)
    assert invoke(*command).status == 0
    assert invoke("train", "--resume", "--out", tmp_path / "run").status == 0
    monkeypatch.setattr(arrays, "free_memory", lambda xp: 0)
    assert invoke("train", "--resume", "--out", tmp_path / "run").status == 1
    assert invoke("evaluate", tmp_path / "run").status == 0  # needs less, and nothing is lost if it fails
    assert invoke(*command[:-1], tmp_path / "lstm", "--model", "lstm").status == 0
    monkeypatch.setattr(arrays, "free_memory", lambda xp: None)  # unknown
    assert invoke("train", "--resume", "--out", tmp_path / "run").status == 0


@pytest.mark.parametrize(
    ("told", "free"), [("MemTotal: 99 kB\nMemAvailable:  7 kB\n", 7168), ("MemTotal: 99 kB\n", None)]
)
def test_free_memory_is_what_linux_tells(monkeypatch, told, free):
    monkeypatch.setattr("builtins.open", lambda path: {"/proc/meminfo": io.StringIO(told)}[path])
    assert arrays.free_memory(np) == free


def test_it_is_about_as_large_as_the_lstm():
    mine, lstm = (
        sum(int(np.prod(shape)) for shape in model.parameter_shapes(Sizes(1, 128, 10), "none").values())
        for model in (transformer, initial)
    )
    assert (mine, lstm) == (233_882, 233_226)


def test_it_starts_as_it_should():
    params = init_params(Sizes(50, 128, 10, tokens=True))
    assert "main.be" not in params
    numbers = init_params(Sizes(50, 128, 10))
    for embedding in params["main.We"], numbers["main.We"]:
        assert 0.98 < embedding.std() < 1.02
    for name, w in params.items():
        kind = name.split(".")[-1]
        if kind == "gain":
            assert (w == 1).all()
        elif kind.startswith("b"):
            assert not w.any()
        elif kind != "We":
            limit = np.sqrt(6 / sum(w.shape))
            assert 0.97 * limit < np.abs(w).max() <= limit


def test_it_learns(tmp_path):
    """Which of two marked steps is brighter: no step tells that alone."""
    r = np.random.default_rng(0)
    x = r.integers(0, 256, (400, 10, 1))
    y = (x[:, 2, 0] > x[:, 7, 0]).astype(int)
    task = datasets.Task(x.astype(np.uint8), y, x.astype(np.uint8), y, classes=2)
    given = {"task": "mnist", "model": "transformer", "hidden": 16, "dropconnect": 0.0, "lr": 3e-3, "epochs": 30}
    given |= {"batch_size": 20, "valid": 0, "threads": 2, "quiet": True}
    run = set_up(config.build(given, 2), task, tmp_path / "run")
    result = train(run, new_state(run))
    assert (result["model"], result["bptt"]) == ("transformer", "full") and result["test_accuracy"] > 0.9


@pytest.mark.parametrize("tokens", [False, True])
def test_the_command_trains_tests_and_resumes_it(invoke, tmp_path, tokens):
    r = np.random.default_rng(0)
    x = r.integers(0, 5, (40, 12)) if tokens else r.random((40, 12, 2))
    lengths = {"lengths": r.integers(3, 13, 40)} if tokens else {}
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(40) % 2, **lengths)
    options = "--task npz --model transformer --hidden 3 --batch-size 6 --threads 2 --device cpu".split()
    command = ["train", *options, "--data-dir", tmp_path / "x.npz", "--lr-schedule", "constant"]
    ended = invoke(*command, "--epochs", 1, "--out", tmp_path / "run")
    assert ended.status == 0, ended.stderr
    assert "Transformer on npz" in ended.stdout and "truncation" not in ended.stdout
    assert invoke("train", "--resume", "--epochs", 2, "--out", tmp_path / "run").status == 0
    assert invoke(*command, "--epochs", 2, "--quiet", "--out", tmp_path / "whole").status == 0
    assert_same_arrays(tmp_path / "run", tmp_path / "whole")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    again = json.loads(invoke("evaluate", tmp_path / "run", "--json").stdout.splitlines()[-1])
    assert again["test_accuracy"] == result["test_accuracy"] and result["bptt"] == "full"
    assert "only LSTMs" in invoke("export", tmp_path / "run", "--out", tmp_path / "w.safetensors").stderr
    for other, words in [("--aux", "r"), "has no auxiliary loss"], [("--bptt", 8), "--bptt: the transformer"]:
        refused = invoke(*command, *other, "--out", tmp_path / "other")
        assert refused.status == 1 and words in refused.stderr and refused.stderr.count("\n") == 1


def test_truncation_is_refused():
    given = {"task": "mnist", "size": 14, "model": "transformer"}
    assert config.build(given, 1).bptt == config.build({**given, "bptt": "full"}, 1).bptt == "full"
    with pytest.raises(UserError, match="--bptt: the transformer sees all steps"):
        config.build({**given, "bptt": 300}, 1)
