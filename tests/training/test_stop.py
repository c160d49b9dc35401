"""Signals, locks, and standard streams that cannot be written."""

import codecs
import errno
import fcntl
import json
import os
import pathlib
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from minaux.training import output
from minaux.training.checkpoint import Held, RunDirectory, write_whole
from minaux.training.config import UserError
from tests.conftest import ROOT, SMALL, assert_same_run


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU], ids=lambda s: s.name
)
def test_a_signal_saves_and_says_how_to_go_on(sabotage, invoke, finished, tmp_path, number):
    for n, where in enumerate(
        [
            "at_call(3, loop, 'train_step', send)",
            "at_call(15, loop, 'train_step', send)",
            "at_call(2, evaluation, 'validate', lambda: at_call(1, evaluation, 'evaluate', send))",
            "at_call(1, evaluation, 'test', lambda: at_call(1, evaluation, 'evaluate', send))",
        ]
    ):
        run = tmp_path / str(n)
        send = f"send = lambda: os.kill(os.getpid(), {int(number)})"  # nohup may have had it ignored
        ended = sabotage(
            f"signal.signal({int(number)}, signal.SIG_DFL); {send}; {where}",
            "train",
            *SMALL,
            "--quiet",
            "--out",
            run,
        )
        assert ended.status == 128 + number and "Traceback" not in ended.stderr
        assert f"({number.name})" in ended.stderr and "go on with: python cli.py train --resume" in ended.stderr
        assert invoke("train", "--resume", "--quiet", "--out", run).status == 0
        assert_same_run(run, finished)


def test_nohup_keeps_a_run_from_stopping(sabotage, finished, tmp_path):
    """It starts a program with SIGHUP ignored."""
    code = "signal.signal(signal.SIGHUP, signal.SIG_IGN); send = lambda: os.kill(os.getpid(), signal.SIGHUP)"
    ended = sabotage(f"{code}; at_call(3, loop, 'train_step', send)", "train", *SMALL, "--quiet", "--out", tmp_path)
    assert (ended.status, ended.stderr) == (0, "")
    assert_same_run(tmp_path, finished)


def test_ctrl_c_at_a_script_leaves_its_background_alone(tmp_path):
    """There a shell starts programs with SIGINT ignored."""
    shell = (
        f"{sys.executable} {ROOT / 'cli.py'} train {' '.join(SMALL)} --epochs 40 --quiet --out run & echo $!; wait"
    )
    with subprocess.Popen(["bash", "-c", shell], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as script:
        program = int(script.stdout.readline())
        while not (tmp_path / "run/metrics.jsonl").exists():
            assert script.poll() is None
            time.sleep(0.01)
        os.kill(program, signal.SIGINT)
        script.communicate()
    assert json.loads((tmp_path / "run/result.json").read_text())["complete"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGCONT"])
def test_a_signal_in_a_batch_saves_at_once(sabotage, invoke, finished, tmp_path, name):
    """Whoever sent it may kill the run before the batch ends: here it dies in its 15th, after the signal."""
    send = f"send = lambda: (os.kill(os.getpid(), signal.{name}), kill())"
    ended = sabotage(
        f"{send}; at_call(15, loop, 'batch_of_step', send)", "train", *SMALL, "--quiet", "--out", tmp_path
    )
    assert ended.status == -signal.SIGKILL
    assert json.loads(invoke("evaluate", tmp_path, "--json", "--device", "cpu").stdout)["step"] == 14
    assert invoke("train", "--resume", "--quiet", "--out", tmp_path).status == 0
    assert_same_run(tmp_path, finished)


CLI = f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'cli.py'))}"  # for a shell


def start(*args, **options):
    """cli.py in a process, on the real MNIST."""
    return subprocess.Popen([sys.executable, ROOT / "cli.py", *map(str, args)], **options)


def test_ctrl_c_at_any_moment_leaves_no_traceback():
    """Also while modules are imported. (Before Python has come to cli.py it is Python that answers.)"""
    r = random.Random(0)
    for _ in range(6):
        program = start("--version", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        maps = pathlib.Path(f"/proc/{program.pid}/maps")
        while maps.exists() and program.poll() is None and "numpy" not in maps.read_text():
            time.sleep(0.002)  # until cli.py's imports go on
        time.sleep(r.random() / 10)
        program.send_signal(signal.SIGINT)
        assert b"Traceback" not in program.communicate()[1]


def test_a_second_process_is_refused(sabotage, invoke, finished, tmp_path):
    run = tmp_path / "run"
    assert invoke("train", *SMALL, "--quiet", "--out", run).status == 0
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert "lock" not in before
    with RunDirectory(run).held():
        for options in ["--resume", "--epochs", 2], SMALL:
            ended = sabotage("", "train", *options, "--out", run)
            assert ended.status == 1 and ended.stderr.count("\n") == 1
            assert f"is being written by process {os.getpid()} on " in ended.stderr
        assert {p.name: p.read_bytes() for p in run.iterdir() if p.name != "lock"} == before
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_lock_ends_with_its_process_and_takes_what_a_kill_left(sabotage, tmp_path):
    run = tmp_path / "a [run]"
    assert sabotage("in_write(3, 'checkpoint.npz')", "train", *SMALL, "--out", run).status == -signal.SIGKILL
    (run / "mine.tmp").write_text("")
    left = [path.name for path in run.glob("checkpoint.npz.*.tmp")]
    assert left and (run / "lock").exists()
    with RunDirectory(run).held():
        assert sorted(p.name for p in run.glob("*.tmp")) == ["mine.tmp"]
        with pytest.raises(Held), RunDirectory(run).held():
            pass


def test_a_lock_that_was_just_removed_is_none(tmp_path, monkeypatch):
    """Opened before its holder removed it: to hold it would keep nobody out."""
    flock = fcntl.flock

    def late(file, how):
        os.remove(file.name)
        (tmp_path / "lock").write_text("")
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(Held), RunDirectory(tmp_path).held():
        pass


def test_where_nothing_can_be_locked(tmp_path, monkeypatch):
    def refused(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    says = r"run cannot be locked \(No locks available\): .* --out on another file system"
    with pytest.raises(UserError, match=says), RunDirectory(tmp_path / "run").held():
        pass
    assert not (tmp_path / "run").exists()


def test_a_lock_or_a_directory_that_was_removed_hides_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), RunDirectory(tmp_path / "run").held():
        (tmp_path / "run/lock").unlink()
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), RunDirectory(tmp_path / "run").held():
        shutil.rmtree(tmp_path / "run")
        raise ZeroDivisionError


def test_a_link_stays_and_a_pipe_is_written_to(tmp_path):
    (tmp_path / "real").mkdir()
    for link, to in ("a", "real/a"), ("b", "real/new"):
        (tmp_path / link).symlink_to(to)
    (tmp_path / "real/a").write_text("old")
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    for name in "a", "b", "pipe":
        write_whole(tmp_path / name, b"new")
    assert os.read(reader, 9) == b"new" and not (tmp_path / "pipe").is_file()
    os.close(reader)
    assert all((tmp_path / name).is_symlink() and (tmp_path / name).read_bytes() == b"new" for name in "ab")
    assert sorted(path.name for path in (tmp_path / "real").iterdir()) == ["a", "new"]


def test_a_pipe_behind_a_link_is_written_to(tmp_path):
    """As /dev/stdout is one."""
    shell = (
        f'{sys.executable} -c \'from minaux.training.checkpoint import write_whole as w; w("/dev/stdout", b"new")\''
    )
    ended = subprocess.run(["bash", "-c", f"{shell} | cat"], cwd=ROOT, capture_output=True)
    assert (ended.stdout, ended.stderr) == (b"new", b"")


def test_nothing_stays_of_a_file_whose_writing_is_stopped(tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "curves.png", b"new")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_a_run_directory(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for name, says in (tmp_path / "file", "is a file"), (tmp_path / "link", "is a link to nothing"), ("", "empty"):
        with pytest.raises(UserError, match=says), RunDirectory(name).held():
            pass


@pytest.mark.parametrize("how", ["2>&-", ">&-", ">&- 2>&-", ">/dev/full 2>&1", "| true", "2>&1 | true"])
def test_no_output_can_stop_a_run(tmp_path, how):
    if "/dev/full" in how and not os.path.exists("/dev/full"):
        how = ">&-"
    words = " ".join(SMALL)
    shell = f"set -o pipefail; {CLI} train {words} --out run {how}"
    ended = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, "Traceback" in ended.stderr) == (0, False), ended.stderr
    assert json.loads((tmp_path / "run/result.json").read_text())["complete"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("words", ["--help", "train --help", "--version", "table"])
def test_a_full_disk_is_told_in_one_line(finished, words):
    run = finished if words == "table" else ""
    ended = subprocess.run(["bash", "-c", f"{CLI} {words} {run} > /dev/full"], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (1, "Error: No space left on device\n")


def test_any_name_is_shown_as_it_is(tmp_path):
    name = os.fsdecode("rün-→".encode() + b"-\xff")
    for encoding in "utf-8", "ascii", "latin-1":
        run = tmp_path / f"{encoding}-{name}"
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        program = start(
            "train", *SMALL, "--out", run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
        out, err = program.communicate()
        assert program.returncode == 0 and b"Traceback" not in err, err
        assert encoding.encode() + b"-r" in out and (run / "result.json").exists()
        assert encoding != "utf-8" or os.fsencode(run) in out


def test_letters_that_a_stream_has_not():
    codecs.register_error("shown", output.shown)
    assert "a→ü".encode("ascii", "shown") == rb"a\u2192\xfc"
    for encoding in "utf-8", "ascii":
        assert os.fsdecode(b"a\xffb").encode(encoding, "shown") == b"a\xffb"
