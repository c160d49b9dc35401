"""A run's options: defaults, presets, what is allowed, and their file config.json."""

import dataclasses
import json
import math
import os

from .. import __version__


class UserError(Exception):
    """Something the user can mend; its text is one line that says what is wrong and what to do."""


class Newer(UserError):
    """A file of a version that knows more than this one."""


# What each preset sets, beneath the options the user gives. `quick` is what learned most in half an hour
# (results/trials/notes.md, 7 and 8); `paper` is the paper's protocol.
PRESETS = {
    "quick": {"pretrain_epochs": 1, "epochs": 8, "aux_length": 100},
    "paper": {"pretrain_epochs": 20, "epochs": 100, "aux_length": 600, "valid": 0},
}
# What else `quick` sets for the LSTM.
QUICK_LSTM = {
    "forget_bias": "loguniform",
    "lr": 3e-3,
    "lr_schedule": "cosine",
    "batch_size": 32,
    "dropconnect": 0.0,
}
# What the baselines set, with either preset: settings at which they learn (results/trials/notes.md, 10).
BASELINE = {"bptt": "full", "batch_size": 32, "dropconnect": 0.0, "lr": 3e-4, "lr_schedule": "cosine"}
BASELINES = {
    "irnn": BASELINE,
    "urnn": BASELINE,
    "transformer": {**BASELINE, "batch_size": 16, "lr": 5e-4},
}
# What some tasks set, beneath the options the user gives.
TASKS = {"mnist": {"size": 28}, "pmnist": {"size": 28}, "dogs": {"size": 128}, "dbpedia": {"max_length": 512}}
# `--resume` takes all other options from the run's config.json.
CHANGEABLE = ("epochs", "budget", "quiet", "data_dir", "threads", "device")
# Columns a shard should have: at 4 twice the processes would save a third of the time only (docs/speed.md).
NARROWEST = 8


@dataclasses.dataclass
class Config:
    """Every option of `train` (see `cli.py train --help`), in Python's names."""

    task: str
    aux: str = "none"
    model: str = "lstm"
    bptt: int | str = 300  # steps, or "full"
    aux_bptt: int | str = 300
    aux_length: int = 300
    checkpoint_every: int = 0
    anchors: int = 1
    aux_weight: float = 1.0
    feed_start: float = 0.0
    feed_end: float = 1.0
    forget_bias: float | str = 1.0  # or a word
    pretrain_epochs: int = 0
    epochs: int = 0
    batch_size: int = 128
    hidden: int = 128
    lr: float = 1e-3
    lr_schedule: str = "constant"
    clip: float = 1.0
    dropconnect: float = 0.5
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"
    threads: int = 1
    limit_train: int | None = None
    limit_labels: int | None = None
    limit_test: int | None = None
    valid: int | None = None  # None: min(5000, a tenth of the training set)
    size: int | None = None
    max_length: int | None = None
    data_dir: str | None = None
    budget: float | None = None  # seconds
    preset: str = "quick"
    quiet: bool = False
    version: str = __version__
    permutation: str | None = None  # of the steps: how to make it
    shards: int | None = None  # parts a batch is split into: the threads a run begins with; 1 on a GPU
    schedule_steps: dict | None = None  # {"feed": n, "lr": n}, fixed when the run starts
    data: dict | None = None  # what they were when the run began: see run.note_data

    def steps(self, name, T):
        """`bptt` or `aux_bptt` as a number of steps, T for "full"."""
        return T if getattr(self, name) == "full" else min(getattr(self, name), T)


def build(given, cores):
    """The Config of the options a user gave (a dict without the ones left out), completed by the preset. Without an
    auxiliary loss there is nothing to pretrain with, whatever was given.

    Raises UserError for values and combinations that cannot be.
    """
    preset = {"preset": "quick", **given}["preset"]
    defaults = {"bptt": 300, "threads": min(cores, 256), **PRESETS[preset]}
    defaults |= TASKS.get(given.get("task"), {})
    if given.get("size") == 14 and given.get("task") in ("mnist", "pmnist"):  # a quarter of the steps
        defaults.update(bptt=75, aux_length=defaults["aux_length"] // 4)
    model = given.get("model", "lstm")
    if preset == "quick" and model == "lstm":
        defaults |= QUICK_LSTM
    defaults |= BASELINES.get(model, {})
    defaults["aux_bptt"] = given.get("bptt", defaults["bptt"]) or defaults["bptt"]
    config = Config(**{**defaults, **given})
    if config.aux == "none" and config.pretrain_epochs > 0:  # one set of options serves none, r and p
        config.pretrain_epochs = 0
    check(config)
    if "threads" not in given:
        config.threads = max(1, min(config.threads, config.batch_size // NARROWEST))
    return config


LARGEST = 10**307  # for numbers without a bound of their own: what a float can hold
# The smallest and largest value of each number; the help shows those that do not go without saying.
RANGES = {
    "bptt": (0, None),
    "aux_bptt": (0, None),
    "aux_length": (2, None),
    "checkpoint_every": (0, None),
    "anchors": (1, 10_000),
    "aux_weight": (0, None),
    "feed_start": (0, 1),
    "feed_end": (0, 1),
    "forget_bias": (None, None),
    "pretrain_epochs": (0, 10**9),
    "epochs": (0, 10**9),
    "batch_size": (1, 10**6),
    "hidden": (1, 65_536),
    "lr": (0, None),
    "clip": (0, None),
    "dropconnect": (0, 1),
    "seed": (0, 2**63 - 1),
    "threads": (1, 256),
    "limit_train": (1, None),
    "limit_labels": (2, None),
    "limit_test": (1, None),
    "valid": (0, None),
    "size": (1, None),
    "max_length": (3, None),
    "budget": (0, None),
}
WORDS = {"bptt": ("full",), "aux_bptt": ("full",), "forget_bias": ("chrono", "loguniform")}  # instead of a number
CHOICES = {
    "aux": ("none", "r", "p", "rp"),
    "model": ("lstm", "irnn", "urnn", "transformer"),
    "lr_schedule": ("constant", "cosine"),
    "device": ("auto", "cpu", "gpu"),
    "dtype": ("float32", "float64"),
    "preset": tuple(PRESETS),
}


def option(name):
    return "--" + name.replace("_", "-")


def check(config):
    """Raise UserError if a value is of a wrong type, out of range, or at odds with another."""
    for field in dataclasses.fields(config):
        name, value = field.name, getattr(config, field.name)
        kinds = field.type | int if isinstance(1.0, field.type) else field.type  # 1 will do for 1.0
        if not isinstance(value, kinds) or isinstance(value, bool) != (field.type is bool):
            raise UserError(f"{option(name)}: {value!r} is of a wrong type")
        if name in CHOICES and value not in CHOICES[name]:
            raise UserError(f"{option(name)}: {value!r} is not one of {', '.join(CHOICES[name])}")
        if name in RANGES and isinstance(value, (int, float)):
            low, high = RANGES[name]
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{option(name)}: {value} is not a finite number")
            if low is not None and value < low or value > (LARGEST if high is None else high):
                span = f"at least {low}" if high is None else f"from {low} to {high}"
                raise UserError(f"{option(name)}: {value} is out of range, it must be {span}")
        elif name in RANGES and value is not None and value not in WORDS.get(name, ()):
            raise UserError(f"{option(name)}: {value!r} is neither a number nor a word it knows")
    for name in ("train", "test", "classes", "tokens"):
        n = (config.data or {}).get(name)
        if n is not None and not (type(n) is int and n >= 0):
            raise UserError(f"data: {name} is {n!r}, no count")
    if config.lr == 0:
        raise UserError("--lr: 0 would train nothing, it must be above 0")
    if config.dropconnect == 1:
        raise UserError("--dropconnect: 1 would drop every weight, it must be below 1")
    if config.model != "lstm" and config.aux != "none":
        raise UserError(f"--aux: the {config.model} has no auxiliary loss; leave it out, or choose --model lstm")
    if config.model == "transformer" and config.bptt != "full":
        raise UserError("--bptt: the transformer sees all steps at once, nothing is truncated; leave it out")
    if config.model == "urnn" and config.dropconnect:
        raise UserError("--dropconnect: the urnn's classifier has no hidden layers; leave it out")
    if config.checkpoint_every % 8:
        raise UserError(f"--checkpoint-every: {config.checkpoint_every} is no multiple of 8; choose one near √T")
    if config.model != "lstm" and config.forget_bias != 1:
        raise UserError(f"--forget-bias: the {config.model} has no forget gates; leave it out")
    if config.model != "lstm" and config.checkpoint_every:
        raise UserError(f"--checkpoint-every: the {config.model} does not take it; leave it out")
    if config.aux == "none" and config.pretrain_epochs:
        otherwise = "" if config.model != "lstm" else ", or choose --aux r, p or rp"
        raise UserError(f"--pretrain-epochs: there is no auxiliary loss to pretrain with; leave it out{otherwise}")


def read(path):
    """The Config in a run's config.json. Raises UserError if it is not one."""
    try:
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
        newer = values.get("version", __version__) != __version__
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(Config)})
        whose = f"was written by minaux {values.get('version')}, this is {__version__}"
        if unknown and newer:
            raise Newer(f"{path} {whose}, which does not know {', '.join(unknown)}; use that version")
        config = Config(**values)
        try:
            check(config)
        except UserError as error:
            if newer:
                raise Newer(f"{path} {whose}, which cannot read it ({error}); use that version") from None
            raise
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is missing: restore it, if {os.path.dirname(path)} is a run") from None
    except Newer:
        raise
    except (ValueError, TypeError, AttributeError, RecursionError, UserError) as error:
        raise UserError(f"{path} is damaged ({error}); restore it or start a new run") from None
    return config


def resumed(saved, given):
    """The Config to go on with: `saved`, with what `given` may change. Raises UserError if it asks for more."""
    without = ("pretrain_epochs",) if saved.aux == "none" else ()  # it was taken as 0
    for name, value in given.items():
        if name not in (*CHANGEABLE, *without) and value != getattr(saved, name):
            what = f"{option(name)} {value} differs from this run's {getattr(saved, name)}"
            raise UserError(f"{what}; leave it out, or choose another --out")
    changes = {name: given[name] for name in CHANGEABLE if name in given}
    config = dataclasses.replace(saved, **{"budget": None, "quiet": False, **changes})
    check(config)
    return config
