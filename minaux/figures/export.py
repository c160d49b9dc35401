"""Weights for PyTorch, in a .safetensors file: what stands for the model there is

    main.embedding   nn.Linear(D, H), for tokens nn.Embedding(V, H)      main.lstm   nn.LSTM(H, H)
    classifier       nn.Sequential(Linear, ReLU, Linear, ReLU, Linear)
    r.embedding      as main's                                           r.lstm      nn.LSTM(H, H, 2)
    r.head, p.head   as the classifier                                   p.lstm      nn.LSTM(H, H, 2)

and each name is that of its `state_dict`: "main.lstm.weight_ih_l0". PyTorch's LSTM has two biases: ours and zero.
This loads them there, given numbers x `[T, N, D]` (docs/tasks.md says what changes for tokens):

    from safetensors.torch import load_file
    from torch import nn

    w = load_file("weights.safetensors")
    (H, D), (F, _), (C, _) = (w[f"{m}.weight"].shape for m in ("main.embedding", "classifier.0", "classifier.4"))
    main = nn.ModuleDict({"embedding": nn.Linear(D, H), "lstm": nn.LSTM(H, H)})
    classifier = nn.Sequential(nn.Linear(H, F), nn.ReLU(), nn.Linear(F, F), nn.ReLU(), nn.Linear(F, C))
    nn.ModuleDict({"main": main, "classifier": classifier}).load_state_dict(w, strict=False)  # r, p aside
    logits = classifier(main["lstm"](main["embedding"](x))[0][-1])  # [N, C] of x [T, N, D], a byte v as v/255
"""

import dataclasses
import json

import numpy as np

from ..training.checkpoint import RunDirectory, write_whole
from ..training.config import UserError


def names(params):
    """The parameters under PyTorch's names, in its shapes."""
    tokens, out = "main.be" not in params, {}
    for name, w in params.items():
        *owner, kind = name.split(".")
        where, layer = owner[0], {"bottom": 0, "top": 1}.get(owner[-1], 0)
        if kind == "We":  # an nn.Embedding has a row, not a column, for each token
            out[f"{where}.embedding.weight"] = w.T if tokens else w
        elif kind == "be":
            out[f"{where}.embedding.bias"] = w[:, 0]
        elif kind in ("Wx", "Wh"):
            out[f"{where}.lstm.weight_{'ih' if kind == 'Wx' else 'hh'}_l{layer}"] = w
        elif kind == "b":
            out[f"{where}.lstm.bias_ih_l{layer}"], out[f"{where}.lstm.bias_hh_l{layer}"] = w[:, 0], 0 * w[:, 0]
        else:  # W1, b1, ... W3, b3 are modules 0, 2 and 4 of the nn.Sequential
            place = f"{'.'.join(owner)}.{2 * int(kind[1]) - 2}"
            out[f"{place}.weight" if kind[0] == "W" else f"{place}.bias"] = w if kind[0] == "W" else w[:, 0]
    return {name: np.ascontiguousarray(w) for name, w in out.items()}


def export(run, out):
    """Write the run's best weights (without validation the last) to the file `out`, with its config as metadata.

    Raises UserError if there is no run, its files are damaged, or `out` ends otherwise than in .safetensors.
    """
    from safetensors.numpy import save

    if not out.endswith(".safetensors"):
        raise UserError(f"--out: {out} does not end in .safetensors, which is what is written")
    directory = RunDirectory(run)
    cfg = directory.read_config()
    if cfg.model != "lstm":
        raise UserError(f"{run} is of a model that is not exported, {cfg.model}: only LSTMs are")
    metadata = {"minaux": json.dumps({**dataclasses.asdict(cfg), "data_dir": None})}
    write_whole(out, save(names(directory.load(cfg).tested[0]), metadata))
