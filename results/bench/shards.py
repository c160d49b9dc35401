"""What narrow shards and many of them cost: microseconds of a step of the LSTM alone by the number of columns, and
milliseconds that a batch of r takes besides computing by the number of workers.

PYTHONPATH=. OPENBLAS_NUM_THREADS=1 python results/bench/shards.py > results/bench/shards.json
"""

import json
import statistics
import time

import numpy as np

from minaux.bench.cpu import Case, machine, new_run
from minaux.bench.ranks import nothing
from minaux.initial import Sizes, init_params
from minaux.lstm import layer_weights, lstm_advance, lstm_backward, lstm_forward
from minaux.training.processes import processes
from minaux.training.shards import Shards

ROUNDS, T, H = 20, 784, 128


def seconds(work, *args):
    """The median of the rounds; the first is slower and does not count."""
    times = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        work(*args)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


weights, _ = layer_weights(init_params(Sizes(1, H, 10), "none", T, forget_bias="loguniform"), "main")
columns = {}
for N in 4, 8, 16, 32, 64, 128:
    x = np.random.default_rng(0).random((T, 1, N), "float32")
    h0 = np.zeros((H, N), "float32")
    _, _, cache = lstm_forward(x, h0, h0, *weights)
    found = {
        "forward, nothing kept": seconds(lstm_advance, x, h0, h0, *weights),
        "forward, kept": seconds(lstm_forward, x, h0, h0, *weights),
        "backward": seconds(lstm_backward, None, h0 + 1, None, cache),
    }
    columns[N] = {name: round(1e6 * s / T, 2) for name, s in found.items()}

run, state, draws = new_run(Case("r", T, 300, N=128), 1)
batch = run.task.x_train[:128], run.task.y_train[:128], draws(0)
workers = {}
for n in 0, 1, 2, 4, 8:
    with processes(n + 1) as some:
        shards = Shards(n + 1, "float32", some)
        workers[n] = round(1e3 * seconds(shards.loss_and_grads, nothing, state.params, *batch), 2)
print(json.dumps({"machine": machine(1, ROUNDS), "columns, us a step": columns, "workers, ms": workers}, indent=1))
