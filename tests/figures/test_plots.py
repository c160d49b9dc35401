"""`plot`, from what runs leave behind."""

import json
import os
import shutil

import pytest
from PIL import Image

from minaux.figures import names, plots
from tests.conftest import write_run

DATA = {"train": 60_000, "test": 10_000, "classes": 4, "tokens": None}


def rows(aux="none", valid=True):
    """A run's rows: pretraining up to step 10, where there is an auxiliary loss, and then two of joint training."""
    loss = None if aux == "none" else 0.5
    train = [
        {"kind": "train", "phase": "pretrain", "step": 10, "loss_supervised": None, "loss_auxiliary": 0.7},
        {"kind": "train", "phase": "joint", "step": 20, "loss_supervised": 2.0, "loss_auxiliary": loss},
        {"kind": "train", "phase": "joint", "step": 30, "loss_supervised": 1.0, "loss_auxiliary": loss},
    ]
    train = [{**row, "fed_truth": 0.2 if row["step"] < 20 else 0.0} for row in train]
    found = {"kind": "eval", "split": "valid", "loss_supervised": 1.5}
    for kind in aux.replace("none", ""):
        found |= {f"{kind}_loss": 0.4, f"{kind}_constant": 0.3, f"{kind}_copy": 0.2}
    if "r" in aux:
        found |= {"r_swap_gap": 0.1}
    joint = [{**found, "step": 20, "accuracy": 0.5}, {**found, "step": 30, "accuracy": 0.45}]
    evals = [{**found, "step": 10, "accuracy": 0.25}] * (aux != "none") + joint
    test = {**found, "split": "test", "step": 30, "accuracy": 0.4}
    return [*(train if aux != "none" else train[1:]), *evals * valid, test]


@pytest.fixture
def runs(tmp_path):
    return [
        write_run(tmp_path / "plain", rows(), options={"data": DATA}),
        write_run(tmp_path / "r", rows("r"), aux="r", options={"data": DATA, "pretrain_epochs": 1}),
    ]


def panels(*runs):
    """The figure, and its axes by their titles."""
    figure = plots.plot([str(run) for run in runs])
    return figure, {axes.get_title(): axes for axes in figure.axes}


def drawn(axes):
    """[(colour, mark or "None", points)] of the lines that are not empty and stand for numbers of a run."""
    lines = [line for line in axes.lines if line.get_transform() == axes.transData and line.get_xydata().size]
    return [(line.get_color(), line.get_marker(), line.get_xydata().tolist()) for line in lines]


def across(axes):
    """The heights of the lines that go from side to side."""
    return [line.get_ydata()[0] for line in axes.lines if line.get_transform() == axes.get_yaxis_transform()]


def legend(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_curves_are_the_rows(runs):
    figure, found = panels(*runs)
    assert list(found) == ["Accuracy", "Supervised loss", "r: loss of the reconstruction", "r: swap gap"]
    black, other = plots.COLORS[:2]
    accuracy = drawn(found["Accuracy"])
    assert (black, "o", [[20, 50], [30, 45]]) in accuracy
    assert (other, "s", [[20, 50], [30, 45]]) in accuracy  # not step 10: the classifier was untrained
    assert (black, "o", [[20, 40]]) in accuracy  # the test, at the weights that it tested
    assert (black, "None", [[20, 2], [30, 1]]) in drawn(found["Supervised loss"])
    r = drawn(found["r: loss of the reconstruction"])
    assert (other, "None", [[20, 0.5], [30, 0.5]]) in r and (other, ".", [[10, 0.7]]) in r
    assert (other, "s", [[10, 0.4], [20, 0.4], [30, 0.4]]) in r  # validation's, in pretraining too
    assert (other, "s", [[10, 0.1], [20, 0.1], [30, 0.1]]) in drawn(found["r: swap gap"])
    assert legend(figure)[:2] == ["plain: 40.0 % on test", "r: 40.0 % on test"]
    for axes in found.values():
        assert axes.get_ylabel() and axes.get_xlabel() == "batches" or axes in list(found.values())[:2]
        dotted = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]
        assert dotted == [10] and "pretraining ends" in legend(figure)


def test_curves_stand_beside_what_they_are_to_beat(runs):
    _, found = panels(*runs)
    words = {title: [text.get_text() for text in axes.texts] for title, axes in found.items()}
    assert words["Accuracy"] == across(found["Accuracy"]) == []  # chance, 25 %, is far below
    assert words["r: swap gap"] == ["no memory"] and across(found["r: swap gap"]) == [0]
    r = "r: loss of the reconstruction"
    assert words[r] == ["copy", "constant"] and sorted(across(found[r])) == [0.2, 0.3]
    for axes in found.values():  # no name hides a curve: all are right of the frame
        assert all(text.xy[0] == 1 and text.get_position()[0] > 0 for text in axes.texts)


def test_rivals_that_differ_have_their_runs_colours(tmp_path):
    others = [{**row, "r_copy": 0.05} if "r_copy" in row else row for row in rows("r")]
    runs = [write_run(tmp_path / "a", rows("r"), aux="r"), write_run(tmp_path / "b", others, aux="r")]
    axes = panels(*runs)[1]["r: loss of the reconstruction"]
    named = [(text.get_text(), text.get_color()) for text in axes.texts]
    assert named == [("copy", plots.COLORS[1]), ("copy", plots.COLORS[0])]


def test_where_truth_ends_is_marked(runs):
    figure, found = panels(*runs)
    marks = [line for line in found["r: loss of the reconstruction"].lines if line.get_marker() == "v"]
    assert [line.get_xdata() for line in marks] == [[20]] and not marks[0].get_clip_on()
    assert "from here r reads its own outputs after its first input" in legend(figure)
    assert "from here r reads its own outputs after its first input" not in legend(panels(runs[0])[0])


def test_the_sum_of_two_losses_is_not_drawn_beside_either(tmp_path):
    _, found = panels(write_run(tmp_path / "rp", rows("rp"), aux="rp"))
    for title in "r: loss of the reconstruction", "p: loss of the prediction":
        assert drawn(found[title]) and {mark for _, mark, _ in drawn(found[title])} == {"o"}


def test_without_validation_no_panel_is_empty(tmp_path):
    run = write_run(tmp_path / "r", rows("r", valid=False), aux="r")
    figure, found = panels(run)
    assert list(found) == ["Supervised loss", "r: loss of the reconstruction"]
    assert legend(figure)[0] == "r: 40.0 % on test" and "validation" not in legend(figure)
    assert "test" in legend(figure)  # not of the best weights: of the last
    assert (plots.COLORS[0], "o", [[30, 1.5]]) in drawn(found["Supervised loss"])  # the last weights were tested


def test_no_mark_is_cut_at_the_frame(tmp_path):
    evals = [{**row, "accuracy": 1.0} if "accuracy" in row else row for row in rows()]
    figure, found = panels(write_run(tmp_path / "a", evals))
    figure.canvas.draw()
    for axes in found.values():
        frame = axes.get_window_extent()
        for line in axes.lines:
            if line.get_marker() == "o":
                reach = line.get_markersize() / 2 * figure.dpi / 72
                for x, y in line.get_transform().transform(line.get_xydata()):
                    assert frame.x0 + reach <= x <= frame.x1 - reach and frame.y0 + reach <= y <= frame.y1 - reach


@pytest.mark.parametrize("lowest, low, chance", [(0.45, 40, []), (0.24, 20, ["chance"])])
def test_the_accuracies_fill_their_panel(tmp_path, lowest, low, chance):
    found = [{**row, "accuracy": lowest} if row.get("accuracy") == 0.45 else row for row in rows()]
    [accuracy, *_] = panels(write_run(tmp_path / "run", found, options={"data": DATA}))[1].values()
    bottom, top = accuracy.get_ylim()
    assert low - 3 < bottom < low and 50 < top < 53  # 24, or 40, to 50 %
    assert [text.get_text() for text in accuracy.texts] == chance


def test_one_batch_does_not_flatten_the_rest(tmp_path):
    spike = {"kind": "train", "phase": "joint", "step": 25, "loss_supervised": 1e12, "loss_auxiliary": None}
    run = write_run(tmp_path / "run", [*rows(), spike], options={"data": DATA})
    low, high = plots.plot([run]).axes[1].get_ylim()
    assert low < 0 and 1.5 < high < 3


def test_long_curves_are_running_means_of_one_phase(tmp_path):
    step = {"kind": "train", "loss_supervised": None}
    found = [{**step, "phase": "pretrain", "step": n, "loss_auxiliary": 100} for n in range(5)]
    joint = {**step, "phase": "joint", "loss_supervised": 1.0}
    found += [{**joint, "step": n, "loss_auxiliary": n % 2} for n in range(5, 35)]
    axes = panels(write_run(tmp_path / "p", found, aux="p"))[1]["p: loss of the prediction"]
    pretraining, joint = drawn(axes)[:2]
    assert len(joint[2]) == 30 and joint[1] == "None"
    assert [y for _, y in joint[2]][3:] == pytest.approx([0.5] * 27)  # of 4 rows each
    assert [y for _, y in pretraining[2]] == [100] * 5


def test_runs_are_told_apart_in_black_and_white(tmp_path):
    looks = [plots.look(n) for n in range(20)]
    assert len({(look["marker"], look["color"]) for look in looks}) == 20
    assert len({look["marker"] for look in looks[:4]}) == len({str(look["linestyle"]) for look in looks[:4]}) == 4


def test_runs_that_have_hardly_begun(tmp_path):
    pretraining = write_run(tmp_path / "pretraining", rows("r")[:1], aux="r")
    with open(pretraining / "metrics.jsonl", "a") as file:
        file.write('{"kind": "tr')  # killed while it wrote
    empty = write_run(tmp_path / "empty")
    figure, found = panels(pretraining, empty)
    assert list(found) == ["r: loss of the reconstruction"] and legend(figure)[:2] == ["pretraining", "empty"]
    with pytest.raises(plots.UserError, match="nothing to draw yet of empty"):
        plots.plot([str(empty)])


# --- names ---


def test_any_name_is_shown_as_it_is(invoke, tmp_path):
    given = [
        "x$^$",
        "$\\frac",
        "_hidden",
        "\N{GREEK SMALL LETTER ALPHA}",
        "\N{PRESCRIPTION TAKE}\N{TURNED AMPERSAND}",
    ]
    given += ["line\nend", b"\xff".decode("utf-8", "surrogateescape"), "\U0002a6d6"]
    runs = [write_run(tmp_path / name, rows()) for name in given]
    figure = plots.plot([str(run) for run in runs])
    texts = figure.legends[0].get_texts()[: len(given)]
    shown = [*given[:5], "line\\nend", "\\xff", "\\U0002a6d6"]
    assert [text.get_text().removesuffix(": 40.0 % on test") for text in texts] == shown
    figure.canvas.draw()  # pytest makes an error of the warning that a font lacks a character
    assert invoke("plot", *runs, "--out", tmp_path / "a.png").status == 0


def test_a_font_is_found_for_what_the_usual_one_lacks():
    families, missing = names.fonts("a\N{SCRIPT SMALL G}\U0002a6d6")
    assert families[0] == "DejaVu Sans" and len(families) == 2 and missing == {"\U0002a6d6"}


# --- the command ---


def test_the_command_writes_a_picture(invoke, runs, tmp_path):
    ended = invoke("plot", *runs, "--out", tmp_path / "a.png")
    assert ended.status == 0 and "a.png is written" in ended.stdout
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 1000 and len(picture.convert("L").getcolors()) > 50
    assert invoke("plot", *runs, "--out", tmp_path / "a.svg").status == 0
    assert "<svg" in (tmp_path / "a.svg").read_text()


def test_runs_whose_directories_have_one_name_are_told_by_their_paths():
    found = names.short_names(["a/run", "b/run/", "b/other"])
    assert list(found.values()) == ["a/run", "b/run/", "other"]


def edit(run, **changes):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, **changes}))


def row(n, *missing, **values):
    """Leave the n-th row alone in metrics.jsonl, with other values, or without some."""

    def damage(run):
        found = {"epoch": 1, **rows()[n], **values}
        line = json.dumps({name: value for name, value in found.items() if name not in missing})
        (run / "metrics.jsonl").write_text(f"{line}\n")

    return damage


DAMAGES = [
    (lambda run: (run / "metrics.jsonl").unlink(), "is no run"),
    (lambda run: (run / "metrics.jsonl").write_text("{\n"), "is damaged"),
    (lambda run: (run / "metrics.jsonl").write_text("[1]\n"), "is damaged"),
    (lambda run: (run / "metrics.jsonl").write_bytes(b"\xff"), "is damaged"),
    (lambda run: (run / "config.json").write_text("{"), "is damaged"),
    (row(0, loss_supervised="0.3"), "no number"),
    (row(0, elapsed_s=float("inf")), "not finite"),
    (row(0, "loss_supervised"), "a row is not whole"),
    (row(-1, accuracy=None), "a value is missing"),
    (row(0, loss_supervised=None), "a value is missing"),
    (lambda run: (run / "metrics.jsonl").write_text("[" * 100_000 + "\n"), "is damaged"),
    (lambda run: edit(run, data={"train": "54", "classes": 3}), "train is '54', no count"),
    (lambda run: (run / "config.json").unlink(), "is missing"),
    (lambda run: (shutil.rmtree(run), run.write_text("a picture beside the runs")), "is missing"),
]


@pytest.mark.parametrize("damage, word", DAMAGES)
def test_what_is_no_run_is_left_out(invoke, runs, tmp_path, damage, word):
    damage(runs[0])
    ended = invoke("plot", *runs, "--out", tmp_path / "a.png")
    assert ended.status == 0 and (tmp_path / "a.png").exists()
    assert ended.stderr.startswith("left out: ") and ended.stderr.count("\n") == 1 and word in ended.stderr


@pytest.mark.parametrize("data", [None, {"train": 54}, {"train": 54, "classes": 0}])
def test_without_the_number_of_classes_no_chance_is_drawn(invoke, runs, tmp_path, data):
    edit(runs[0], data={"train": 54, "classes": 2})
    _, before = panels(runs[0])
    edit(runs[0], data=data)
    _, after = panels(runs[0])
    assert across(before["Accuracy"]) == [50] and across(after["Accuracy"]) == []
    assert invoke("plot", runs[0], "--out", tmp_path / "a.png").status == 0


@pytest.mark.parametrize("damage, word", DAMAGES)
def test_no_run_no_picture(invoke, runs, tmp_path, damage, word):
    damage(runs[0])
    ended = invoke("plot", runs[0], "--out", tmp_path / "a.png")
    assert ended.status == 1 and ended.stderr.count("\n") == 1 and word in ended.stderr
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    "out, why",
    [
        ("", "the name is empty, give a file's, like curves.png"),
        ("a.txt", ".txt is no kind of picture"),
        (".", "is a directory"),
        (f"none{os.sep}", "is a directory"),
        ("none/a.png", "there is no directory none"),
    ],
)
def test_where_no_picture_can_be_it_is_said(invoke, runs, tmp_path, monkeypatch, out, why):
    monkeypatch.chdir(tmp_path)
    ended = invoke("plot", *runs, "--out", out)
    assert ended.status == 1 and why in ended.stderr and ended.stderr.count("\n") == 1
    assert len(list(tmp_path.iterdir())) == 2
