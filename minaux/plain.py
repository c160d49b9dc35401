"""The LSTM by the book: its equations, and the chain rule on them, line by line. lstm.py is the same made fast, and
the tests hold it to this.

    z[t] = Wh h[t-1] + Wx x[t] + b                 [4H, N]   pre-activations, in blocks z_i, z_f, z_g, z_o
    i, f, o = σ(z_i), σ(z_f), σ(z_o)               [H, N]    input, forget and output gate
    g = tanh(z_g)                                  [H, N]    candidate
    c[t] = f * c[t-1] + i * g                      [H, N]    cell state
    h[t] = o * tanh(c[t])                          [H, N]    hidden state
"""

import numpy as np


def lstm_forward(x, h0, c0, Wx, Wh, b):
    """S steps over x `[S, D, N]` from h0, c0 `[H, N]`. Returns the states h, c, lists of S+1 arrays `[H, N]`, the
    initial ones in front, and the gates, S tuples (i, f, g, o) of such arrays."""
    h, c, gates = [h0], [c0], []
    for t in range(len(x)):
        z_i, z_f, z_g, z_o = np.split(Wh @ h[-1] + Wx @ x[t] + b, 4)
        i, f, g, o = sigmoid(z_i), sigmoid(z_f), np.tanh(z_g), sigmoid(z_o)
        c.append(f * c[-1] + i * g)
        h.append(o * np.tanh(c[-1]))
        gates.append((i, f, g, o))
    return h, c, gates


def lstm_backward(dh, x, h, c, gates, Wx, Wh):
    """From dh `[S, H, N]`, the gradient that enters each step's h from outside, to dx `[S, D, N]`, dh0 and dc0
    `[H, N]`, dWx, dWh and db. Truncated at K: call it on the last K steps alone, and drop dh0 and dc0."""
    dx, dWx, dWh, db = np.zeros_like(x), np.zeros_like(Wx), np.zeros_like(Wh), np.zeros_like(Wh[:, :1])
    dh_t, dc_t = np.zeros_like(h[0]), np.zeros_like(c[0])  # from the steps after t
    for t in reversed(range(len(x))):
        i, f, g, o = gates[t]
        h_before, c_before, tanh_c = h[t], c[t], np.tanh(c[t + 1])  # the lists begin with the initial state
        dh_t = dh_t + dh[t]
        do = dh_t * tanh_c  # h[t] = o * tanh(c[t])
        dc_t = dc_t + dh_t * o * (1 - tanh_c**2)
        di, df, dg = dc_t * g, dc_t * c_before, dc_t * i  # c[t] = f * c[t-1] + i * g
        dz = np.concatenate([di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o)])  # σ', tanh'
        dWx, dWh, db = dWx + dz @ x[t].T, dWh + dz @ h_before.T, db + dz.sum(1, keepdims=True)
        dx[t] = Wx.T @ dz  # z[t] = Wh h[t-1] + Wx x[t] + b
        dh_t = Wh.T @ dz
        dc_t = dc_t * f  # c[t] = f * c[t-1] + i * g
    return dx, dh_t, dc_t, dWx, dWh, db


def sigmoid(z):
    return 1 / (1 + np.exp(-z))
