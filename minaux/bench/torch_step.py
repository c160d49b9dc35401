"""A training step as one would write it in PyTorch, for `cli.py bench` to time beside ours.

nn.LSTM, autograd and RMSprop; nothing is recorded (no_grad) outside the spans that gradients visit; one
forward pass of the main LSTM, in chunks that end where a span begins or ends, and each loss goes back through
the chunks of its own span. Same losses and gradients as ours (tests/test_torch.py). It knows one anchor for
each loss, the truth always fed, and segments no longer than the truncation.
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

    def __init__(self, params, dropconnect_masks=(), fold=False):
        """`fold`: fold the main LSTM's input embedding into its weights, as ours does."""
        self.p = {name: torch.tensor(value, requires_grad=True) for name, value in params.items()}
        self.masks = {name: torch.tensor(mask) for name, mask in dict(dropconnect_masks).items()}
        self.H, self.fold, dtype = params["main.Wh"].shape[1], fold, self.p["main.Wh"].dtype
        D = params["main.We"].shape[1]
        self.main_lstm = torch.nn.LSTM(D if fold else self.H, self.H, dtype=dtype)
        self.two_layers = torch.nn.LSTM(self.H, self.H, 2, dtype=dtype)
        self.optimiser = torch.optim.RMSprop(self.p.values(), lr=1e-3, alpha=0.9, eps=1e-8)

    def weights(self, name, layer=0):
        p = self.p
        names = (f"{kind}_l{layer}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        return dict(
            zip(
                names, (p[f"{name}.Wx"], p[f"{name}.Wh"], *p[f"{name}.b"].T, torch.zeros_like(p[f"{name}.b"][:, 0]))
            )
        )

    def main(self, x, state):
        """x `[S, N, D]` to the states h `[S, N, H]`, and the last (h, c)."""
        p, weights = self.p, self.weights("main")
        if self.fold:
            weights["weight_ih_l0"] = p["main.Wx"] @ p["main.We"]
            weights["bias_ih_l0"] = (p["main.Wx"] @ p["main.be"] + p["main.b"])[:, 0]
        else:
            x = F.linear(x, p["main.We"], p["main.be"][:, 0])
        return torch.func.functional_call(self.main_lstm, weights, (x, state))

    def mlp(self, name, v):
        for n in "123":
            W = self.p[f"{name}.W{n}"] * self.masks.get(f"{name}.W{n}", 1)
            v = F.linear(v, W, self.p[f"{name}.b{n}"][:, 0])
            v = v if n == "3" else v.relu()
        return v

    def auxiliary(self, name, inputs, state):
        weights = {**self.weights(f"{name}.bottom"), **self.weights(f"{name}.top", 1)}
        return self.mlp(f"{name}.head", torch.func.functional_call(self.two_layers, weights, (inputs, state))[0])

    def backward(self, x, y, L, K, r_anchors=(), p_anchors=()):
        """Losses; their gradients are in the parameters then. x `[T, N, D]`, y `[N]`."""
        T, N, _ = x.shape
        zeros = torch.zeros(1, N, self.H, dtype=x.dtype)
        spans = [windows.supervised_span(T, K), *(windows.r_span(a, K) for a in r_anchors)]
        spans += [span for a in p_anchors for span in (windows.p_lead(a, K), (a, a + L))]
        edges = sorted({0, T, *(t for span in spans for t in span)})
        chunks, state = [], (zeros, zeros)
        for t0, t1 in zip(edges, edges[1:]):
            kept = any(start <= t0 and t1 <= end for start, end in spans)
            entry = [s.detach().requires_grad_(kept) for s in state]
            with torch.set_grad_enabled(kept):
                out, state = self.main(x[t0:t1], entry)
            chunks.append(Chunk(t0, t1, entry, out, state))

        def sweep(span, dout, dlast):
            """Back through the chunks of `span`: dout `[S, N, H]` enters each h (None: nothing does), dlast
            = (dh, dc) the last state. Returns them for the state before the span."""
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

        after = {chunk.t1 - 1: chunk.last for chunk in chunks}  # the states after these steps
        h = after[T - 1][0][0].detach().requires_grad_()
        losses = [F.cross_entropy(self.mlp("classifier", h), y)]
        losses[0].backward()
        sweep(windows.supervised_span(T, K), None, (h.grad[None], zeros))
        for a in r_anchors:
            h, c = (s.detach().requires_grad_() for s in after[a])
            embedded = F.linear(x[a - L : a - 1], self.p["r.bottom.We"], self.p["r.bottom.be"][:, 0])
            answers = self.auxiliary("r", embedded, (torch.cat([h, zeros]), torch.cat([c, zeros])))
            losses.append(F.mse_loss(answers, x[a - L + 1 : a]))
            losses[-1].backward()
            sweep(windows.r_span(a, K), None, (h.grad, c.grad))
        for a in p_anchors:
            inputs = torch.cat([c.out.detach() for c in chunks if a <= c.t0 and c.t1 <= a + L]).requires_grad_()
            both = torch.cat([zeros, zeros])
            losses.append(F.mse_loss(self.auxiliary("p", inputs, (both, both)), x[a + 1 : a + L + 1]))
            losses[-1].backward()
            before = sweep((a, a + L), inputs.grad, (zeros, zeros))
            sweep(windows.p_lead(a, K), None, before)
        return [loss.item() for loss in losses]

    def train(self, *batch):
        """One update, on a batch as `backward` takes it."""
        self.optimiser.zero_grad()
        losses = self.backward(*batch)
        torch.nn.utils.clip_grad_norm_(self.p.values(), 1.0)
        self.optimiser.step()
        return losses
