"""Write pictures of CIFAR-10 in the layout of Stanford Dogs, so that `analyse length` can scale them to any size.

PYTHONPATH=. python results/analyses/length/cifar10_as_dogs.py CIFAR-10 FOLDER      (in the project's folder)
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

import datasets


def write(split, x, y, folder):
    """The pictures x `[n, 1024, 3]` of classes y below folder/Images, and folder/SPLIT_list.mat."""
    names = np.array([f"{label}/{split}-{i}.png" for i, label in enumerate(y)], object)
    for name, pixels in zip(names, x):
        path = folder / "Images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.reshape(32, 32, 3)).save(path)
    savemat(folder / f"{split}_list.mat", {"file_list": names[:, None], "labels": 1.0 + y[:, None]})


def main(cifar10, folder, train=8000, test=2000):
    task = datasets.load("cifar10", data_dir=cifar10)
    write("train", task.x_train[:train], task.y_train[:train], Path(folder))
    write("test", task.x_test[:test], task.y_test[:test], Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
