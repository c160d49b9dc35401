"""What README.md, docs/ and results/ name exists: functions in backticks, paths, links and their headings."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

import cli
from minaux.figures import table
from minaux.training import config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "results").glob("**/*.md"))]
FOLDERS = ("minaux", "tests", "datasets", "docs", "results", ".ci")  # a path in backticks starts with one of them

FILES = [p.relative_to(ROOT).with_suffix("").parts for p in ROOT.glob("minaux/**/*.py") if p.name != "__init__.py"]
ROOMS = {parts[1] for parts in FILES if len(parts) > 2}
MODULES = {
    ".".join(parts[n:]): ".".join(parts) for parts in FILES for n in range(1, len(parts))
}  # "training.run", "run"


def code_spans(text):
    """What stands in single backticks outside fenced blocks."""
    return re.findall(r"`([^`\n]+)`", without_blocks(text))


def without_blocks(text):
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def missing_names(text):
    """Of names such as `lstm.lstm_cell`, `training.run` and `minaux.training.run.Run` those that lead nowhere. What
    starts with no module or room of minaux, `nn.LSTM`, is none of ours, and `config.json` is a file."""
    missing = []
    for span in code_spans(text):
        name = re.fullmatch(r"([\w.]+)(\(.*\))?", span)
        if name is None or re.search(r"\.(py|cu|md|json|jsonl|npz|png|svg|safetensors)$", span):
            continue
        first, *rest = name[1].split(".")
        ours = first == "minaux"
        parts = rest if ours else [first, *rest]
        if not parts or not ours and (len(parts) < 2 or parts[0] not in ROOMS | MODULES.keys()):
            continue
        n = 2 if parts[0] in ROOMS else 1  # `minaux.training` is a room, and no module
        module = MODULES.get(".".join(parts[:n]))
        if len(parts) >= n and (module is None or not has_attribute(module, parts[n:])):
            missing.append(span)
    return missing


def has_attribute(module, names):
    """Whether `module` has names[0], which has names[1], and so on. A class has the fields that it declares."""
    if not names:
        return True
    try:
        thing = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "minaux").startswith("minaux"):
            raise
        return True  # it needs a package that is not installed here (torch, cupy)
    for name in names:
        if not hasattr(thing, name) and name not in getattr(thing, "__annotations__", ()):
            return False
        thing = getattr(thing, name, None)
    return True


def missing_paths(text):
    """Of paths such as `minaux/lstm.py` those that are not there; * stands for anything. What is fetched or built
    into datasets/data may be missing."""
    paths = [s for s in code_spans(text) if re.fullmatch(r"[\w.*/-]+", s) and s.partition("/")[0] in FOLDERS]
    return [p for p in paths if "/" in p and not p.startswith("datasets/data/") and not any(ROOT.glob(p))]


def missing_links(text, page):
    """Of the links to files and headings those that lead nowhere."""
    text, missing = without_blocks(text), []
    for link in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset|href)="([^"]+)"', text):
        path, _, heading = link.partition("#")
        file = page.parent / path if path else page
        on_the_web = re.match(r"\w+:", link)
        if not on_the_web and (not file.exists() or heading and heading not in anchors(file)):
            missing.append(link)
    return missing


def anchors(file):
    """What GitHub makes of a page's headings, to link to."""
    titles = re.findall(r"^#+ (.*)$", without_blocks(file.read_text("utf8")), re.M)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page):
    text = page.read_text("utf8")
    assert missing_names(text) == []
    assert missing_paths(text) == []
    assert missing_links(text, page) == []


def test_wrong_names_are_found():
    right = ["lstm.lstm_cell", "lstm.lstm_cell(cache, s)", "lstm.LSTMCache.steps", "model.Draws.L", "training.run"]
    right += [
        "minaux.training.processes.processes",
        "minaux.lstm",
        "minaux.training",
        "minaux",
        "nn.LSTM",
        "config.json",
    ]
    wrong = ["lstm.lstm_sell", "lstm.lstm_sell(x)", "lstm.LSTMCache.stops", "training.lstm", "training.run.Runs"]
    wrong += ["minaux.nothing", "minaux.nothing.at_all"]
    assert missing_names(" ".join(f"`{name}`" for name in right + wrong)) == wrong


def test_wrong_paths_are_found():
    right, wrong = (
        ["minaux/lstm.py", "minaux/*.py", "tests/", "w/o", "h/c"],
        ["minaux/sltm.py", "tests/no/", "docs/*.no"],
    )
    assert missing_paths(" ".join(f"`{path}`" for path in right + wrong)) == wrong


def test_wrong_links_are_found():
    text = "[a](minaux/lstm.py) [b](README.md#minaux) [c](https://arxiv.org) [d](README.md#nowhere) ![e](no.svg)"
    assert missing_links(text, ROOT / "README.md") == ["README.md#nowhere", "no.svg"]


def missing_imports(code):
    """Of what a program takes out of minaux, and out of minaux's modules, the names that are not there."""
    nodes, modules, missing = [*ast.walk(ast.parse(code))], {}, []
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "minaux":
            for name in node.names:
                path = f"{node.module}.{name.name}"
                if path.partition(".")[2] in MODULES:
                    modules[name.asname or name.name] = path
                elif not has_attribute(node.module, [name.name]):
                    missing.append(path)
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            if not has_attribute(modules[node.value.id], [node.attr]):
                missing.append(f"{node.value.id}.{node.attr}")
    return missing


@pytest.mark.parametrize("program", [*ROOT.glob("results/**/*.py")], ids=lambda path: path.stem)
def test_what_a_recorded_program_uses_exists(program):
    assert missing_imports(program.read_text("utf8")) == []


def test_missing_imports_are_found():
    code = (
        "from minaux.figures import plots as p, summeries\nfrom minaux.lstm import lstm_cell, sell\np.plot, p.plat"
    )
    assert missing_imports(code) == ["minaux.figures.summeries", "minaux.lstm.sell", "p.plat"]


RUNS = ROOT / "results" / "runs"
ROWS = (RUNS / "README.md").read_text("utf8")
RECORDED = re.findall(r"^\| ([\w-]+) \| `python cli.py train ([^`]+)` \|", ROWS, re.M)


@pytest.mark.parametrize("run, command", RECORDED, ids=[run for run, _ in RECORDED])
def test_a_recorded_run_has_its_command(run, command):
    """The command gives, with the defaults of today, the options that the run was made with."""
    now = config.build(cli.train_options(shlex.split(command)), 2)
    then = config.read(RUNS / run / "config.json")
    then.size = then.size or now.size  # an older run lacks it
    now.valid = then.valid if now.valid is None else now.valid  # its default depends on the data
    assert table.other_settings(now) == table.other_settings(then)
    assert [getattr(now, name) for name in table.COLUMNS] == [getattr(then, name) for name in table.COLUMNS]


def test_every_recorded_run_has_a_command():
    assert {run for run, _ in RECORDED} == {folder.name for folder in RUNS.iterdir() if folder.is_dir()}
