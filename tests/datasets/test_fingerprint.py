"""The digest that tells one set of data from another."""

import numpy as np
import pytest

from datasets import Task, fingerprint
from datasets.task import CHUNK

R = np.random.default_rng(0)
X, Y = R.integers(1, 100, (12, 5, 2)).astype("uint8"), np.arange(12) % 3
PIXELS = Task(X[:8], Y[:8], X[8:], Y[8:], classes=3)
TEXTS = [steps[:n] for steps, n in zip(R.integers(1, 100, (12, 9)).astype("int32"), 3 + np.arange(12) % 5)]
TOKENS = Task(TEXTS[:8], Y[:8], TEXTS[8:], Y[8:], classes=3, tokens=100)


def flipped(y):
    return np.where(y == 0, 1, np.where(y == 1, 0, y))


OTHERS = {
    "values": PIXELS._replace(x_train=PIXELS.x_train * 2),
    "one value": PIXELS._replace(x_test=np.where(np.arange(2) + np.arange(4)[:, None, None] > 3, 0, PIXELS.x_test)),
    "order": PIXELS._replace(x_train=PIXELS.x_train[::-1], y_train=PIXELS.y_train[::-1]),
    "labels": PIXELS._replace(y_train=flipped(PIXELS.y_train)),
    "labels of the test": PIXELS._replace(y_test=flipped(PIXELS.y_test)),
    "steps": PIXELS._replace(x_train=PIXELS.x_train[:, :4]),
    "shape": PIXELS._replace(x_train=PIXELS.x_train.reshape(8, 10, 1)),
    "type": PIXELS._replace(x_train=PIXELS.x_train.view("int8")),
    "steps in another order": PIXELS._replace(x_train=PIXELS.x_train[:, ::-1]),
    "the parts changed over": Task(*PIXELS[2:4], *PIXELS[:2], classes=3),
    "tokens": TOKENS,
    "a token": TOKENS._replace(x_train=[*TEXTS[:7], TEXTS[7] + 1]),
    "lengths": TOKENS._replace(x_train=[np.append(TEXTS[0], TEXTS[1][0]), TEXTS[1][1:], *TEXTS[2:8]]),
}


def test_other_data_have_another_fingerprint():
    found = [fingerprint(task) for task in (PIXELS, *OTHERS.values())]
    assert len(set(found)) == len(found)
    assert all(len(digits) == 16 and int(digits, 16) >= 0 for digits in found)


@pytest.mark.parametrize("task", [PIXELS, TOKENS], ids=["numbers", "tokens"])
def test_the_same_data_have_the_same_one(task):
    copies = [steps.copy() for steps in task.x_train]
    copy = task._replace(x_train=copies if task.tokens else np.array(copies), y_train=task.y_train.copy())
    assert fingerprint(copy) == fingerprint(task)


def test_the_layout_in_memory_does_not_matter(monkeypatch):
    """dogs maps pixels from a file, where other things lie between them; pmnist's steps lie in another order."""
    records = np.zeros(8, [("digest", "u1", 3), ("pixels", "u1", (5, 2))])
    records["pixels"] = PIXELS.x_train
    layouts = records["pixels"], np.asfortranarray(PIXELS.x_train)
    assert [fingerprint(PIXELS._replace(x_train=x)) for x in layouts] == [fingerprint(PIXELS)] * 2
    monkeypatch.setattr("datasets.task.CHUNK", 25)  # two sequences at a time
    assert CHUNK > 25 and fingerprint(PIXELS._replace(x_train=layouts[0])) == fingerprint(PIXELS)
