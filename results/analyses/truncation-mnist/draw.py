"""Draw the truncation's picture with a second line for the plain LSTM: a learning rate of 0.001 instead of 0.003.

PYTHONPATH=. python results/analyses/truncation-mnist/draw.py      (in the project's folder)
"""

from pathlib import Path

from minaux.figures import analyses, plots, summaries

HERE = Path(__file__).parent

grid = [run for run in analyses.runs("truncation", HERE, seeds=(0, 1, 2)) if analyses.finished(run[0])]
points = summaries.points_of(grid)
figure = summaries.truncation_figure(points)
[axes] = figure.axes
lengths = list(dict.fromkeys(point.options["bptt"] for point in points))
slower = {K: HERE.parents[1] / "trials" / f"12-none-bptt-{K}-lr1" for K in lengths}
some = [(lengths.index(K), summaries.outcome(run)[0]) for K, run in slower.items() if analyses.finished(run)]
axes.plot(*zip(*some), color="gray", linestyle=":", marker="o", markersize=4, label="LSTM, learning rate 0.001")
axes.lines[0].set_label("LSTM (learning rate 0.003, as r and p)")
axes.set_title("MNIST, 3 epochs with labels, r and p after one of pretraining", fontsize=11)
lines = {line.get_label(): line for line in axes.get_legend_handles_labels()[0]}
lines["K = 10: each of three seeds"] = lines.pop("each seed")
first = sorted(lines, key=lambda name: not name.startswith("LSTM"))
axes.legend([lines[name] for name in first], first, loc="lower right", fontsize="small")
plots.save(figure, HERE / "both-rates.png")
