"""A run's directory: config.json, metrics.jsonl, checkpoint.npz, result.json, each written whole or not at
all (metrics.jsonl by whole lines). And `write_whole` and `check_out`, for other files too."""

import contextlib
import dataclasses
import fcntl
import glob
import hashlib
import io
import json
import math
import os
import platform
import secrets

import numpy as np

from . import config
from .config import UserError


@dataclasses.dataclass
class State:
    """All that a resumed run needs: parameters, RMSProp's averages, the best weights, and where it stands."""

    params: dict
    v: dict
    best: dict | None = None  # the parameters with the best validation accuracy so far
    best_accuracy: float | None = None
    best_step: int | None = None
    step: int = 0  # batches trained on
    evaluated: int = 0  # the step of the last validation
    elapsed_s: float = 0.0

    @property
    def tested(self):
        """(the weights to test and use, their step): the best on validation, without validation the last."""
        return (self.best, self.best_step) if self.best else (self.params, self.step)


def check_directory(path):
    """Raise UserError if there can be no directory of that name."""
    if not path:
        raise UserError("--out: the name is empty, choose a directory")
    if os.path.lexists(path) and not os.path.isdir(path):
        kind = "a link to nothing" if os.path.islink(path) else "a file"
        raise UserError(f"--out: {path} is {kind}, choose a directory")


def check_out(out, example):
    """Raise UserError if no file can be written to the name `out`: before the work, not after it."""
    folder = os.path.dirname(out)
    if not out:
        raise UserError(f"--out: the name is empty, give a file's, like {example}")
    if os.path.isdir(out) or not os.path.basename(out):
        raise UserError(f"--out: {out} is a directory, name a file in it, like {os.path.join(out, example)}")
    if folder and not os.path.isdir(folder):
        raise UserError(f"--out: there is no directory {folder}: make it, or name a file elsewhere")


class Held(UserError):
    """Another process writes in the run directory."""


class RunDirectory:
    """The files of one run, under `path`."""

    def __init__(self, path):
        self.path = str(path)
        self.checkpoint = self.file("checkpoint.npz")

    def file(self, name):
        return os.path.join(self.path, name)

    def remove(self, name):
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.file(name))

    @contextlib.contextmanager
    def held(self):
        """Within: the directory is there, and no other process writes in it. Raises Held if one does, UserError if
        there can be no such directory. The lock ends with its process (`flock`; NFS has it from version 4 on)."""
        check_directory(self.path)
        new = not os.path.isdir(self.path)
        os.makedirs(self.path, exist_ok=True)
        with open(self.file("lock"), "a+", encoding="utf-8") as lock:
            self.take(lock, new)
            try:
                for name in "checkpoint.npz", "config.json", "metrics.jsonl", "result.json":
                    for left in glob.glob(glob.escape(self.file(name)) + ".*.tmp"):  # by a process that was killed
                        os.remove(left)
                yield
            finally:
                self.leave(new)

    def leave(self, new):
        """Remove the lock, and a new directory in which no run began."""
        self.remove("lock")
        if new and os.path.isdir(self.path) and not os.listdir(self.path):
            os.rmdir(self.path)

    def take(self, lock, new):
        """Take the lock, an open file. Raises Held if another process has it, UserError if none can be had."""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(lock.name).st_ino != os.fstat(lock.fileno()).st_ino:
                raise FileNotFoundError  # who had it has just removed it
            lock.seek(0)
            lock.truncate()
            lock.write(f"process {os.getpid()} on {platform.node()}")
            lock.flush()
        except (BlockingIOError, FileNotFoundError):
            lock.seek(0)
            who = lock.read() or "another process"
            raise Held(f"{self.path} is being written by {who}: wait, or choose another --out") from None
        except OSError as error:
            self.leave(new)
            why = f"{self.path} cannot be locked ({error.strerror})"
            raise UserError(f"{why}: free some space, or choose an --out on another file system") from None

    def check_new(self):
        """Raise UserError if a run is here already (what has no checkpoint is none)."""
        if os.path.exists(self.checkpoint):
            raise UserError(
                f"{self.path} holds a run already: add --resume to go on with it, or choose another --out"
            )

    def create(self, cfg):
        """Write config.json, and remove what a run without a checkpoint left. Raises UserError if a run is here."""
        self.check_new()
        os.makedirs(self.path, exist_ok=True)
        self.remove("metrics.jsonl")
        self.remove("result.json")
        self.write_json("config.json", dataclasses.asdict(cfg))

    def read_config(self):
        """The Config of the run here. Raises UserError if there is no run, or config.json is damaged."""
        if not self.path:
            raise UserError("the run's name is empty: give its directory")
        if not os.path.exists(self.checkpoint):
            if os.path.exists(self.file("result.json")):
                why = "holds a run without its weights: restore checkpoint.npz, or train again with another --out"
            else:
                why = "holds no run (there is no checkpoint.npz in it): check the path"
            raise UserError(f"{self.path} {why}")
        return config.read(self.file("config.json"))

    def save(self, cfg, state):
        """Write the checkpoint: all of `state` (host arrays), and a copy of the config. Removes result.json, which
        is of a shorter run."""
        values = vars(state)
        groups = {name: values[name] or {} for name in ("params", "v", "best")}
        meta = {name: value for name, value in values.items() if name not in groups}
        arrays = {f"{group}/{name}": a for group, members in groups.items() for name, a in members.items()}
        arrays["meta"] = np.frombuffer(json.dumps({**meta, "config": dataclasses.asdict(cfg)}).encode(), np.uint8)
        arrays["sha256"] = np.frombuffer(digest(arrays), np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_whole(self.checkpoint, buffer.getvalue())
        self.remove("result.json")

    def load(self, cfg, shapes=None):
        """The State in the checkpoint, on the host. Nothing in the file can run code.

        Raises UserError if it is truncated or altered, or of another run than `cfg`, with parameters of
        other `shapes` (if they are given).
        """
        path, restore = self.checkpoint, "restore it from a copy, or start a new run"
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as members:
                arrays = {name: members[name] for name in members.files}
            if arrays.pop("sha256").tobytes() != digest(arrays):
                raise ValueError("its contents do not match their checksum")
            meta = json.loads(arrays.pop("meta").tobytes())
            saved, state = config.Config(**meta.pop("config")), State({}, {}, {}, **meta)
            for key, a in arrays.items():
                group, name = key.split("/")
                getattr(state, group)[name] = a
        except (FileNotFoundError, PermissionError):
            raise
        except MemoryError:  # or its sizes were altered
            raise UserError(f"{path} does not fit into memory: free some, or restore it from a copy") from None
        except Exception as error:  # a damaged .npz raises nearly anything
            reason = " ".join(str(error).split())[:100]
            raise UserError(f"{path} is damaged or no checkpoint ({reason}): {restore}") from None
        for name, value in dataclasses.asdict(cfg).items():
            if name not in config.CHANGEABLE and getattr(saved, name) != value:
                different = f"{name} is {getattr(saved, name)} in the one and {value} in the other"
                raise UserError(
                    f"{path} and config.json are of different runs: {different}; restore the one that was changed, "
                    "or start a new run"
                )
        for group in state.params, state.v, state.best:
            if (group or group is not state.best) and shapes not in (None, {k: a.shape for k, a in group.items()}):
                raise UserError(f"{path} does not hold the parameters of this run's model: {restore}")
        return dataclasses.replace(state, best=state.best or None)

    def write_json(self, name, value):
        write_whole(self.file(name), (json.dumps(value, indent=2) + "\n").encode())

    def write_row(self, **row):
        """Add a line to metrics.jsonl."""
        path = self.file("metrics.jsonl")
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from error

    def drop_rows(self, unwanted):
        """Drop the rows of metrics.jsonl for which unwanted(row) is true, and what a kill left unfinished."""
        path = self.file("metrics.jsonl")
        if not os.path.exists(path):
            return
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.readlines()
        kept = []
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                if not unwanted(json.loads(line)) and line.endswith("\n"):
                    kept.append(line)
        if kept != lines:
            write_whole(path, "".join(kept).encode())


NEEDED = {  # what all rows of a kind have
    "train": {"epoch", "phase", "loss_supervised"},
    "eval": {"epoch", "split", "accuracy", "loss_supervised"},
}


def read_rows(directory):
    """The rows of a run's metrics.jsonl. Raises UserError if it is missing or damaged."""
    path = os.path.join(directory, "metrics.jsonl")
    try:
        with open(path, encoding="utf-8") as file:
            rows = [json.loads(line) for line in file if line.endswith("\n")]  # a kill may cut the last one off
        if not all(row["step"] >= 0 and NEEDED[row["kind"]] <= row.keys() for row in rows):
            raise ValueError("a row is not whole")
        numbers = (v for row in rows for name, v in row.items() if name not in ("kind", "phase", "split"))
        if not all(v is None or isinstance(v, (int, float)) and math.isfinite(v) for v in numbers):
            raise ValueError("a value is no number, or not finite")
        whole = [row for row in rows if row.get("phase") != "pretrain"]
        if any(row[name] is None for row in whole for name in NEEDED[row["kind"]]):
            raise ValueError("a value is missing")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is missing: {directory} is no run, or has not begun") from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): restore it") from None
    return rows


def read_json(path):
    """What the JSON file holds. Raises UserError if it is damaged, FileNotFoundError if it is missing."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): restore it") from None


def read_result(directory):
    """A run's result.json. Raises UserError if it is missing or damaged."""
    path = os.path.join(directory, "result.json")
    try:
        result = read_json(path)
        numbers = ("test_accuracy", "test_examples", "seed", "elapsed_s")
        if not all(math.isfinite(result[name]) for name in numbers):
            raise ValueError("a number is not finite")
        named = {name: result[name] for name in ("task", "model", "aux", "bptt", "complete")}
        return {**result, **named, "run": directory}
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is missing: {directory} is no run, or has not been tested yet") from None
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path} is damaged ({error!r}): restore it") from None


def write_whole(path, data):
    """Write bytes to `path`: to a neighbour first, flushed to the disk, then renamed over it. A link stays one, and
    what is no file (a pipe, /dev/null) is written as it is."""
    target = os.path.realpath(path)
    temporary = f"{target}.{secrets.token_hex(8)}.tmp"  # others, elsewhere too, may write the same picture
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # of a pipe behind a link `target` is no name
            with open(path, "wb") as file:
                file.write(data)
            return
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)


def digest(arrays):
    """SHA-256 of the names, types, shapes and values of a dict of arrays."""
    sha = hashlib.sha256()
    for name, a in sorted(arrays.items()):
        sha.update(f"{name} {a.dtype} {a.shape}\n".encode() + np.ascontiguousarray(a).tobytes())
    return sha.digest()
