"""Draw none, r and p against the batches with labels: training loss, validation accuracy, generalisation.

PYTHONPATH=. python results/runs/draw.py      (in the project's folder)
"""

from pathlib import Path

from minaux.figures import plots, summaries

HERE = Path(__file__).parent
RUNS = {  # the highest loss, and the accuracies, between which most is seen
    "mnist-{}-full": (0.7, (90, 100)),
    "pmnist-{}-full": (1, (80, 100)),
    "mnist-{}-20epochs": (1, (80, 100)),
    "pmnist-{}-20epochs": (1, (80, 100)),
    "cifar10-{}-quick": (2, (35, 65)),
}

for name, (loss, accuracies) in RUNS.items():
    runs = {aux: HERE / name.format(aux) for aux in summaries.AUX}
    points = [summaries.Point({"aux": aux}, [run], [], [], "") for aux, run in runs.items()]
    figure = summaries.curves_figure(points)
    figure.axes[0].set_ylim(0, loss)
    figure.axes[1].set_ylim(accuracies)
    plots.save(figure, runs["p"] / "against-labels.png")
