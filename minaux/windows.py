"""Where gradients may go, in whole numbers: anchors, segments, spans of truncated back-propagation.

A span (t0, t1) holds the steps t0 ... t1-1. K is a truncation length, L a segment's length, a an anchor;
`h[a]` is the main LSTM's state after step a. docs/choices.md lists what the paper leaves open.
"""


def fit_length(L, shortest):
    """The segment's length, shortened to what the shortest sequence of the batch has room for."""
    return int(min(L, shortest - 1))  # NumPy's integers would make float32 gradients float64


def anchor_range(kind, T, L, shortest=None):
    """The anchors (first, last) that leave room for a segment of L in the shortest sequence.

    Sequences end together at step T-1, so the shortest one starts at step T - shortest.
    """
    start = T - (shortest or T)
    return (start + L, T - 1) if kind == "r" else (start, T - 1 - L)


def draw_anchors(rng, kind, n, T, L, shortest=None):
    """n anchors, uniform over `anchor_range`; the same for every sequence of the batch."""
    first, last = anchor_range(kind, T, L, shortest)
    return [int(a) for a in rng.integers(first, last + 1, size=n)]


def consecutive(length, n):
    """`length` steps, n at a time (all at once if n is 0)."""
    n = n or length or 1
    return [(t0, min(t0 + n, length)) for t0 in range(0, length, n)]


def cut(length, K):
    """The windows of an auxiliary head, K consecutive steps each (one window if K is 0): the state is carried from
    each to the next, the gradient is not."""
    return consecutive(length, K)


def supervised_span(T, K):
    """The last K steps."""
    return max(T - K, 0), T


def r_span(a, K):
    """The K steps that end with the anchor: a-K+1 ... a."""
    return max(a - K + 1, 0), a + 1


def p_lead(a, K):
    """The K steps before the anchor, a-K ... a-1: the first window's gradient goes on through them."""
    return max(a - K, 0), a


def merge(spans):
    """The union of spans as disjoint ones, in order; spans that touch become one."""
    merged = []
    for t0, t1 in sorted(spans):
        if merged and t0 <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(t1, merged[-1][1]))
        else:
            merged.append((t0, t1))
    return merged


def kept_spans(T, K, aux_K, L, r_anchors=(), p_anchors=(), supervised=True):
    """The disjoint spans whose activations some backward sweep will visit (or some head read)."""
    spans = [supervised_span(T, K)] if supervised and K else []
    spans += [r_span(a, max(aux_K, 1)) for a in r_anchors]  # at aux_K = 0 for the state after a alone
    spans += [(p_lead(a, aux_K)[0], a + L) for a in p_anchors]
    return merge(spans)


def direct_credit(L, K):
    """How many of r's L-1 targets x[a-L+1] ... x[a-1] get a gradient that reaches the step that read them.

    Only the decoder's first window (targets 0 ... K-1) reaches the main LSTM, and there only the steps
    a-K+1 ... a, which read targets L-K and later.
    """
    return max(0, min(K, L - 1) - max(L - K, 0))
