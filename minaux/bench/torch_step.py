"""A training step as one would write it in PyTorch, for `cli.py bench` to time beside ours.

nn.LSTM, autograd and RMSprop; nothing is recorded (no_grad) outside the spans that gradients visit; one
forward pass of the main LSTM, in chunks that end where a span or a window begins or ends, and each loss goes
back through the chunks of its own span. Same losses and gradients as ours (tests/test_torch.py). It knows one
anchor for each loss, the truth always fed, and no DropConnect.
"""

from typing import Any, NamedTuple

import torch

from .. import windows

F = torch.nn.functional


class Chunk(NamedTuple):
    """Steps t0 ... t1-1 of the main LSTM; h and c are `[1, N, H]`."""

    t0: int
    t1: int
    entry: Any  # (h, c) before it, a leaf of the graph
    out: Any  # [t1-t0, N, H]
    last: Any  # (h, c) after it


class Step:
    """The model's parameters (ours, by our names) in PyTorch, and `train` on a batch."""

    def __init__(self, params, fold=False, lr=1e-3):
        """`fold`: fold the input embeddings into the LSTMs' weights, as ours does."""
        self.p = {name: torch.tensor(value, requires_grad=True) for name, value in params.items()}
        self.H, self.fold, dtype = params["main.Wh"].shape[1], fold, self.p["main.Wh"].dtype
        D = params["main.We"].shape[1] if fold else self.H
        self.lstms = {  # how many numbers a layer reads a step; the weights come from `p`
            "main": torch.nn.LSTM(D, self.H, dtype=dtype),
            "r": torch.nn.LSTM(D, self.H, 2, dtype=dtype),
            "p": torch.nn.LSTM(self.H, self.H, 2, dtype=dtype),
        }
        self.optimiser = torch.optim.RMSprop(self.p.values(), lr=lr, alpha=0.9, eps=1e-8)

    def lstm(self, which, layers, x, state):
        """The LSTM `which` with the weights of `layers` on x `[S, N, .]`: h `[S, N, H]`, and the last (h, c)."""
        p, weights = self.p, {}
        for n, name in enumerate(layers):
            Wx, b = p[f"{name}.Wx"], p[f"{name}.b"]
            if f"{name}.We" in p and self.fold:
                Wx, b = Wx @ p[f"{name}.We"], Wx @ p[f"{name}.be"] + b
            elif f"{name}.We" in p:
                x = F.linear(x, p[f"{name}.We"], p[f"{name}.be"][:, 0])
            weights |= lstm_weights(Wx, p[f"{name}.Wh"], b, n)
        return torch.func.functional_call(self.lstms[which], weights, (x, state))

    def mlp(self, name, v):
        for n in "123":
            v = F.linear(v, self.p[f"{name}.W{n}"], self.p[f"{name}.b{n}"][:, 0])
            v = v if n == "3" else v.relu()
        return v

    def forward(self, x, spans):
        """The main LSTM over x `[T, N, D]`: its chunks, recorded within the spans."""
        T, N, _ = x.shape
        edges = sorted({0, T, *(t for span in spans for t in span)})
        chunks, state = [], [torch.zeros(1, N, self.H, dtype=x.dtype)] * 2
        for t0, t1 in zip(edges, edges[1:]):
            kept = any(start <= t0 and t1 <= end for start, end in spans)
            entry = [s.detach().requires_grad_(kept) for s in state]
            with torch.set_grad_enabled(kept):
                out, state = self.lstm("main", ["main"], x[t0:t1], entry)
            chunks.append(Chunk(t0, t1, entry, out, state))
        return chunks

    def window(self, name, inputs, targets, state, share):
        """A window of an auxiliary head, with `share` of the loss's steps: adds its gradients; returns its part of
        the loss, and the state that it leaves (h, c), a constant to the next window."""
        h, state = self.lstm(name, [f"{name}.bottom", f"{name}.top"], inputs, state)
        loss = share * F.mse_loss(self.mlp(f"{name}.head", h), targets)
        loss.backward()
        return loss.item(), [s.detach() for s in state]

    def classify(self, chunks, y, K):
        """The supervised loss; adds its gradients, as the next two do."""
        h = chunks[-1].last[0][0].detach().requires_grad_()
        loss = F.cross_entropy(self.mlp("classifier", h), y)
        loss.backward()
        sweep(chunks, windows.supervised_span(chunks[-1].t1, K), None, (h.grad[None], torch.zeros_like(h)[None]))
        return loss.item()

    def reconstruct(self, chunks, x, a, L, K):
        """r's loss."""
        h, c = (s.detach().requires_grad_() for s in next(chunk.last for chunk in chunks if chunk.t1 == a + 1))
        state, total, segment = [torch.cat([s, torch.zeros_like(s)]) for s in (h, c)], 0.0, x[a - L : a]
        for t0, t1 in windows.cut(L - 1, K):
            inputs, targets, share = segment[t0:t1], segment[t0 + 1 : t1 + 1], (t1 - t0) / (L - 1)
            loss, state = self.window("r", inputs, targets, state, share)
            total += loss
        sweep(chunks, windows.r_span(a, K), None, (h.grad, c.grad))
        return total

    def predict(self, chunks, x, a, L, K):
        """p's loss."""
        zeros, total = torch.zeros_like(chunks[0].entry[0]), 0.0
        state = [torch.cat([zeros, zeros])] * 2
        for t0, t1 in windows.cut(L, K):
            start, end = a + t0, a + t1
            h = torch.cat([c.out.detach() for c in chunks if start <= c.t0 and c.t1 <= end]).requires_grad_()
            loss, state = self.window("p", h, x[start + 1 : end + 1], state, (t1 - t0) / L)
            total += loss
            before = sweep(chunks, (start, end), h.grad, (zeros, zeros))
            if t0 == 0:
                sweep(chunks, windows.p_lead(a, K), None, before)
        return total

    def backward(self, x, y, L, K, r_anchors=(), p_anchors=()):
        """Losses; their gradients are in the parameters then. x `[T, N, D]`, y `[N]`."""
        spans = [windows.supervised_span(len(x), K), *(windows.r_span(a, K) for a in r_anchors)]
        for a in p_anchors:
            spans += [windows.p_lead(a, K), *((a + t0, a + t1) for t0, t1 in windows.cut(L, K))]
        chunks = self.forward(x, spans)
        losses = [self.classify(chunks, y, K)]
        losses += [self.reconstruct(chunks, x, a, L, K) for a in r_anchors]
        return losses + [self.predict(chunks, x, a, L, K) for a in p_anchors]

    def train(self, *batch):
        """One update, on a batch as `backward` takes it."""
        self.optimiser.zero_grad()
        losses = self.backward(*batch)
        torch.nn.utils.clip_grad_norm_(self.p.values(), 1.0)
        self.optimiser.step()
        return losses


def lstm_weights(Wx, Wh, b, layer=0):
    """Our three weights of a layer as nn.LSTM names them; it has two biases."""
    found = {"weight_ih": Wx, "weight_hh": Wh, "bias_ih": b[:, 0], "bias_hh": torch.zeros_like(b[:, 0])}
    return {f"{name}_l{layer}": value for name, value in found.items()}


def sweep(chunks, span, dout, dlast):
    """Back through the chunks of `span`: dout `[S, N, H]` enters each h (None: nothing does), dlast = (dh, dc)
    the last state. Returns them for the state before the span."""
    t0, t1 = span
    for chunk in reversed([chunk for chunk in chunks if t0 <= chunk.t0 and chunk.t1 <= t1]):
        ends, grads = [*chunk.last], [*dlast]
        if dout is not None:
            ends, grads = [*ends, chunk.out], [*grads, dout[chunk.t0 - t0 : chunk.t1 - t0]]
        torch.autograd.backward(ends, grads, retain_graph=True)
        dlast = [s.grad for s in chunk.entry]
        for s in chunk.entry:
            s.grad = None
    return dlast
