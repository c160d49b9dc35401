"""What `cli.py demo` shows: with gradients cut early, an auxiliary loss teaches the LSTM what labels cannot."""

import os

from ..training.checkpoint import read_result
from . import plots
from .analyses import finished, note
from .names import LSTMS

# MNIST at 14x14, 196 steps, the labels' gradient cut after 3 of them (results/trials/notes.md, 9).
OPTIONS = {
    "task": "mnist",
    "size": 14,
    "limit_train": 11_000,
    "valid": 1_000,
    "bptt": 3,
    "aux_bptt": 75,
    "aux_length": 25,
    "epochs": 3,
}


def runs(out, seed):
    """[(directory, options of `train`)] of the three runs, alike but for the auxiliary loss."""
    return [
        (
            os.path.join(out, LSTMS[aux]),
            {**OPTIONS, "aux": aux, "pretrain_epochs": int(aux != "none"), "seed": seed},
        )
        for aux in LSTMS
    ]


def demo(out, seed, train, reconstruct, tell):
    """Train what is not trained yet, then say what each run came to, and draw their curves and reconstructions.

    train(directory, options) trains a run or goes on with it, reconstruct(directory, file) draws its segments, and
    tell(line) prints.
    """
    note(out, {"analysis": "demo", "seed": seed})
    found = runs(out, seed)
    for n, (directory, options) in enumerate(found):
        if not finished(directory):
            tell(f"\n{n + 1} of {len(found)}: {LSTMS[options['aux']]}")
            train(directory, options)
    tell("\nMNIST at 14x14, 10,000 images, 3 epochs with labels each; their gradient goes back 3 of 196 steps:")
    for directory, options in found:
        result = read_result(directory)
        name, accuracy, seconds = LSTMS[options["aux"]], result["test_accuracy"], result["elapsed_s"]
        tell(f"{name:8}{accuracy:6.1%} of the test images, after {seconds:.0f} s")
    curves = os.path.join(out, "curves.png")
    plots.save(plots.plot([directory for directory, _ in found]), curves)
    pictures = [os.path.join(out, f"{aux}.png") for aux in "rp"]
    for aux, picture in zip("rp", pictures):
        reconstruct(os.path.join(out, LSTMS[aux]), picture)
    tell(f"\n{curves}: how they learned; {' and '.join(pictures)}: what r remembers and what p expects")
