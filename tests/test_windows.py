"""Anchors, segments and spans: whole numbers, by hand and by Hypothesis."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from minaux import windows
from minaux.model import draw


def test_supervised_span():
    assert windows.supervised_span(784, 300) == (484, 784)
    assert windows.supervised_span(784, 784) == windows.supervised_span(784, 2000) == (0, 784)
    assert windows.supervised_span(784, 0) == (784, 784)


def test_r_span_ends_with_the_anchor():
    assert windows.r_span(9, 3) == (7, 10)  # steps 7, 8, 9
    assert windows.r_span(1, 3) == (0, 2)


def test_p_windows_by_hand():
    assert windows.cut(7, 3) == [(0, 3), (3, 6), (6, 7)]
    assert windows.cut(7, 0) == windows.cut(7, 99) == [(0, 7)]
    assert windows.p_lead(10, 3) == (7, 10)
    assert windows.p_lead(2, 3) == (0, 2)


def test_merge_by_hand():
    assert windows.merge([(5, 8), (0, 2), (7, 9), (2, 3)]) == [(0, 3), (5, 9)]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)), max_size=6))
def test_merge_covers_the_same_steps_and_no_two_touch(spans):
    spans = [(t0, t0 + n) for t0, n in spans]
    merged = windows.merge(spans)
    assert {t for span in merged for t in range(*span)} == {t for span in spans for t in range(*span)}
    assert all(a[1] < b[0] for a, b in zip(merged, merged[1:]))


@given(st.integers(1, 50), st.integers(0, 60))
def test_cut_tiles_the_segment_in_windows_of_at_most_K(length, K):
    spans = windows.cut(length, K)
    assert [t for span in spans for t in range(*span)] == list(range(length))
    assert all(t1 - t0 == (K or length) for t0, t1 in spans[:-1])
    assert 0 < spans[-1][1] - spans[-1][0] <= (K or length)


@given(st.integers(3, 40), st.data())
def test_anchors_leave_room_for_their_segment_and_reach_both_ends(T, data):
    shortest = data.draw(st.integers(3, T))
    L = windows.fit_length(data.draw(st.integers(2, 50)), shortest)
    assert L <= shortest - 1
    start = T - shortest
    assert windows.anchor_range("r", T, L, shortest) == (start + L, T - 1)  # x[a-L] is the first input
    assert windows.anchor_range("p", T, L, shortest) == (start, T - 1 - L)  # x[a+L] is the last target
    rng = np.random.default_rng(0)
    for kind in "rp":
        first, last = windows.anchor_range(kind, T, L, shortest)
        anchors = windows.draw_anchors(rng, kind, 2000, T, L, shortest)
        assert min(anchors) == first and max(anchors) == last


def test_anchors_are_drawn_afresh_for_every_batch_and_alike_for_a_seed():
    def anchors(seed, step):
        return draw(seed, step, "rp", 1, 300, 784, 4, {})

    steps = [anchors(0, step) for step in range(50)]
    assert len({d.r_anchors for d in steps}) > 40 and len({d.p_anchors for d in steps}) > 40
    assert anchors(0, 7) == steps[7] and anchors(1, 7) != steps[7]
    assert len(draw(0, 0, "r", 8, 50, 784, 4, {}).r_anchors) == 8


def test_a_segments_length_is_a_plain_int():
    """NumPy's int64 would make the loss's scale, and with it the backward pass, float64."""
    for shortest in 9, np.int64(9):
        assert type(draw(0, 0, "rp", 1, 300, 20, 4, {}, shortest=shortest).L) is int


def test_kept_spans_are_just_what_sweeps_visit():
    kept = windows.kept_spans(100, 10, 5, 20, r_anchors=(40, 42), p_anchors=(60,))
    assert kept == [(36, 43), (55, 80), (90, 100)]
    assert windows.kept_spans(100, 10, 5, 20, r_anchors=(40,), supervised=False) == [(36, 41)]
    assert windows.kept_spans(100, 0, 0, 20, r_anchors=(40,)) == [(40, 41)]
    assert windows.kept_spans(100, 0, 0, 20) == []


@given(st.integers(2, 40), st.integers(0, 60))
def test_direct_credit_counts_targets_whose_gradient_reaches_their_own_step(L, K):
    a = 100
    first_window = windows.cut(L - 1, K)[0] if K else (0, 0)
    reached = range(*windows.r_span(a, K)) if K else ()
    targets = [a - L + 1 + j for j in range(*first_window)]
    assert windows.direct_credit(L, K) == sum(t in reached for t in targets)


def test_direct_credit_of_the_papers_settings():
    assert windows.direct_credit(600, 300) == 0
    assert windows.direct_credit(300, 300) == 299
    assert windows.direct_credit(450, 300) == 2 * 300 - 450
