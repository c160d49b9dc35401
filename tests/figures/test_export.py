"""`export`: PyTorch, given the file alone, gets our logits and our auxiliary outputs."""

import json
import textwrap
import types

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from minaux.auxiliary import predict, reconstruct
from minaux.figures import export
from minaux.figures.export import names
from minaux.model import main_forward
from minaux.ops import mlp_forward
from tests.conftest import ROOT, SMALL, arrays
from tests.strategies import random_batch, random_model

T, L, H, N = 9, 4, 5, 3


def in_torch(weights, D, classes, tokens):
    """The modules that export.py names, with these weights."""
    torch = pytest.importorskip("torch")
    nn = torch.nn

    def mlp(outputs):
        return nn.Sequential(
            nn.Linear(H, 2 * H), nn.ReLU(), nn.Linear(2 * H, 2 * H), nn.ReLU(), nn.Linear(2 * H, outputs)
        )

    def part(**modules):
        return nn.ModuleDict(modules)

    def embedding():
        return nn.Embedding(D, H) if tokens else nn.Linear(D, H)

    model = part(
        main=part(embedding=embedding(), lstm=nn.LSTM(H, H)),
        classifier=mlp(classes),
        r=part(embedding=embedding(), lstm=nn.LSTM(H, H, 2), head=mlp(D)),
        p=part(lstm=nn.LSTM(H, H, 2), head=mlp(D)),
    ).double()
    model.load_state_dict({name: torch.tensor(w) for name, w in weights.items()})  # strict: all names, all shapes
    return model


@pytest.mark.parametrize("tokens", [False, True])
def test_pytorch_gets_the_same_outputs(tokens):
    torch = pytest.importorskip("torch")
    D = 6 if tokens else 2
    r = np.random.default_rng(0)
    params = random_model(r, "rp", D, H, tokens)
    x, _ = random_batch(r, T, D, N, tokens)
    model = in_torch(names(params), D, 3, tokens)
    theirs = torch.tensor(x if tokens else np.ascontiguousarray(x.swapaxes(1, 2)))  # [T, N], [T, N, D]

    def agree(mine, other):
        np.testing.assert_allclose(mine, other.detach().numpy().swapaxes(-1, -2), rtol=1e-10, atol=1e-12)

    main = main_forward(params, x, [(0, T)])
    h, (_, c) = model["main"]["lstm"](model["main"]["embedding"](theirs))
    agree(mlp_forward(main.last, params, "classifier")[0], model["classifier"](h[-1]))

    a, zeros = T - 1, torch.zeros(1, N, H).double()
    state = torch.cat([h[a:], zeros]), torch.cat([c, zeros])
    decoded, _ = model["r"]["lstm"](model["r"]["embedding"](theirs[a - L : a - 1]), state)
    agree(reconstruct(params, x, a, L, 0, *main.state(a), 1.0).y, model["r"]["head"](decoded))

    decoded, _ = model["p"]["lstm"](h[2 : 2 + L])
    [(_, _, _, _, y)] = predict(params, x, 2, L, 0, main.steps(2, 2 + L).h[1:], 1.0)
    agree(np.concatenate(y), model["p"]["head"](decoded))


def test_the_command_writes_the_best_weights(invoke, tmp_path):
    run, out = tmp_path / "run", tmp_path / "weights.safetensors"
    invoke("train", *SMALL, "--quiet", "--out", run)
    ended = invoke("export", run, "--out", out)
    assert ended.status == 0 and "weights.safetensors is written" in ended.stdout
    best = {name.split("/")[1]: a for name, a in arrays(run).items() if name.startswith("best/")}
    written, expected = load_file(out), names(best)
    assert written.keys() == expected.keys()
    assert all((written[k] == expected[k]).all() and written[k].dtype == np.float32 for k in expected)
    with safe_open(out, "np") as file:
        about = types.SimpleNamespace(**json.loads(file.metadata()["minaux"]))
    assert (about.task, about.aux, about.hidden) == ("mnist", "r", 3)


def documented_lines():
    """The lines of docs/tasks.md that load the file, which export.py has as well."""
    blocks = [part.split("```")[0] for part in (ROOT / "docs" / "tasks.md").read_text().split("```python\n")[1:]]
    [code] = [block for block in blocks if "load_file" in block]
    assert textwrap.indent(code, "    ") in export.__doc__
    return code


def test_the_documented_lines_are_those_of_the_code():
    assert "load_state_dict" in documented_lines()


@pytest.mark.parametrize("tokens", [False, True])
def test_the_documented_lines_classify_in_pytorch(tmp_path, monkeypatch, tokens):
    torch = pytest.importorskip("torch")
    r, code = np.random.default_rng(0), documented_lines()
    D = 6 if tokens else 2
    params = {name: w.astype("float32") for name, w in random_model(r, "rp", D, H, tokens).items()}
    x, _ = random_batch(r, T, D, N, tokens)
    x = x if tokens else x.astype("float32")
    monkeypatch.chdir(tmp_path)
    save_file(names(params), "weights.safetensors")
    if tokens:  # as the text below them says
        code = code.replace("(H, D)", "(V, H)").replace("nn.Linear(D, H)", "nn.Embedding(V, H)")
    found = {"x": torch.tensor(x if tokens else np.ascontiguousarray(x.swapaxes(1, 2)))}
    exec(code, found)
    mine, _ = mlp_forward(main_forward(params, x, [(0, T)]).last, params, "classifier")
    np.testing.assert_allclose(found["logits"].detach().numpy(), mine.T, rtol=1e-4, atol=1e-6)


def test_no_run_no_file(invoke, tmp_path):
    ended = invoke("export", tmp_path, "--out", tmp_path / "a.safetensors")
    assert ended.status == 1 and ended.stderr.count("\n") == 1 and "holds no run" in ended.stderr
    assert not (tmp_path / "a.safetensors").exists()


def test_no_other_file_is_overwritten(invoke, tmp_path):
    (tmp_path / "checkpoint.npz").write_text("weights")
    ended = invoke("export", tmp_path, "--out", tmp_path / "checkpoint.npz")
    assert ended.status == 1 and "does not end in .safetensors" in ended.stderr
    assert (tmp_path / "checkpoint.npz").read_text() == "weights"
