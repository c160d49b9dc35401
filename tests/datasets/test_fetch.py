"""`data list`, `fetch` and `check`; archives; what a user without the files is told. No network: a local server."""

import gzip
import hashlib
import http.server
import io
import os
import random
import re
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading

import pytest
import requests

import datasets
from datasets import DataError
from datasets.files import File, inside, members
from tests.conftest import ROOT

DATA = random.Random(0).randbytes(300_000)
CUT, MISSING = object(), object()  # the connection ends half way; status 404


@pytest.fixture
def server(monkeypatch):
    """A server on this machine. pages: {path: bytes, CUT or MISSING}; asked: the paths it was asked for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            page = server.pages[self.path]
            server.asked.append(self.path)
            self.send_response(404 if page is MISSING else 200)
            if self.path.endswith(".tgz") and "gzip" in self.headers["Accept-Encoding"]:
                self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(0 if page is MISSING else len(DATA if page is CUT else page)))
            self.end_headers()
            if page is not MISSING:
                self.wfile.write(DATA[: len(DATA) // 2] if page is CUT else page)

        def log_message(self, *_):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.pages, server.asked = {}, []
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=[0.01]).start()
        yield server
        server.shutdown()


@pytest.fixture
def refusing():
    """The address of a port where nobody listens."""
    with socket.socket() as taken:  # bound, but not listening
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def offer(monkeypatch):
    """offer(*files) makes them cifar10's."""

    def offered(*files):
        monkeypatch.setitem(datasets.TASKS, "cifar10", datasets.TASKS["cifar10"]._replace(files=files))

    return offered


def file(*urls, name="a.tar", data=DATA):
    return File(name, len(data), hashlib.sha256(data).hexdigest(), urls)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_file_is_fetched(server, offer, invoke, tmp_path):
    server.pages["/a.tar"] = DATA
    offer(file(server.url + "/a.tar"))
    ended = invoke("data", "fetch", "cifar10", "--data-dir", tmp_path / "new")
    assert ended.status == 0 and f"{tmp_path / 'new' / 'a.tar'} is there now" in ended.stdout
    assert contents(tmp_path / "new") == {"a.tar": DATA}


def test_an_archive_is_not_unpacked_on_the_way(server, offer, invoke, tmp_path):
    server.pages["/a.tgz"] = data = gzip.compress(DATA)
    offer(file(server.url + "/a.tgz", name="a.tgz", data=data))
    assert invoke("data", "fetch", "cifar10", "--data-dir", tmp_path).status == 0
    assert contents(tmp_path) == {"a.tgz": data}


def test_a_file_may_be_read_by_whom_the_umask_lets(server, offer, invoke, tmp_path):
    server.pages["/a.tar"] = DATA
    offer(file(server.url + "/a.tar"))
    before = os.umask(0o027)
    try:
        assert invoke("data", "fetch", "cifar10", "--data-dir", tmp_path).status == 0
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert (tmp_path / "a.tar").stat().st_mode & 0o777 == 0o640


def test_the_next_mirror_is_tried(server, refusing, offer, invoke, tmp_path):
    server.pages.update({"/wrong": DATA[::-1], "/none": MISSING, "/cut": CUT, "/right": DATA, "/idle": DATA})
    urls = [refusing + "/x", *(f"{server.url}/{name}" for name in ("wrong", "none", "cut", "right", "idle"))]
    offer(file(*urls))
    ended = invoke("data", "fetch", "cifar10", "--data-dir", tmp_path)
    assert ended.status == 0 and contents(tmp_path) == {"a.tar": DATA}
    assert server.asked == ["/wrong", "/none", "/cut", "/right"]
    reasons = ["no connection", r".*SHA-256.*", "status 404", r".*broke off.*"]
    told = ended.stdout.splitlines()
    assert all(re.fullmatch(f"{re.escape(url)}: {reason}", line) for url, reason, line in zip(urls, reasons, told))
    assert told[4] == f"{tmp_path / 'a.tar'} is there now" and len(told) == 5


@pytest.mark.parametrize("page", [DATA[::-1], CUT, MISSING], ids=["wrong", "cut", "missing"])
def test_nothing_stays_of_a_download_that_fails(page, server, offer, invoke, tmp_path):
    server.pages["/a"] = page
    offer(file(server.url + "/a"))
    assert invoke("data", "fetch", "cifar10", "--data-dir", tmp_path).status == 1
    assert server.asked == ["/a"] and contents(tmp_path) == {}


def test_without_a_network_each_file_is_told(refusing, server, offer, invoke, tmp_path):
    server.pages["/here"] = DATA
    lost = refusing + "/lost", refusing + "/gone"
    offer(file(*lost, name="lost.tar"), file(server.url + "/here"), file(refusing + "/too", name="too.tar"))
    ended = invoke("data", "fetch", "cifar10", "--data-dir", tmp_path)
    assert ended.status == 1 and contents(tmp_path) == {"a.tar": DATA}
    assert ended.stderr.splitlines() == [
        f"Error: cifar10 could not be downloaded; put by hand into {tmp_path}",
        f"  lost.tar (300,000 bytes) from {lost[0]} or {lost[1]}",
        f"  too.tar (300,000 bytes) from {refusing}/too",
    ]


def test_a_right_file_is_left_alone(server, offer, invoke, tmp_path):
    offer(file(server.url + "/a.tar"))
    (tmp_path / "a.tar").write_bytes(DATA)
    ended = invoke("data", "fetch", "cifar10", "--data-dir", tmp_path)
    assert ended.status == 0 and "is there already" in ended.stdout and server.asked == []


def test_a_wrong_file_is_replaced_by_the_right_one_only(server, offer, invoke, tmp_path):
    (tmp_path / "a.tar").write_bytes(b"half")
    server.pages.update({"/wrong": DATA[::-1], "/right": DATA})
    offer(file(server.url + "/wrong"))
    assert invoke("data", "fetch", "cifar10", "--data-dir", tmp_path).status == 1
    assert contents(tmp_path) == {"a.tar": b"half"}
    offer(file(server.url + "/right"))
    assert invoke("data", "fetch", "cifar10", "--data-dir", tmp_path).status == 0
    assert contents(tmp_path) == {"a.tar": DATA}


@pytest.mark.parametrize(
    "proxy, reason",
    [
        ("http://", r"the address or the proxy's is wrong \(.*proxy.*\)"),
        ("http://127.0.0.1:port", r"the address or the proxy's is wrong \(.*127.0.0.1:port.*\)"),
        ("unknown://127.0.0.1", r"the address or the proxy's is wrong \(.*unknown.*\)"),
        (None, "no connection to the proxy"),
    ],
)
def test_a_proxy_that_does_not_work_is_told(proxy, reason, refusing, offer, invoke, tmp_path, monkeypatch):
    for name in "NO_PROXY", "no_proxy":
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", proxy or refusing)
    offer(file("http://minaux.invalid/a"))
    ended = invoke("data", "fetch", "cifar10", "--data-dir", tmp_path)
    assert ended.status == 1 and re.fullmatch(f"http://minaux.invalid/a: {reason}\n", ended.stdout)
    assert contents(tmp_path) == {}


def test_a_full_disk_is_told_with_the_file(server, offer, invoke, tmp_path, monkeypatch):
    def full(response, chunk_size):
        with response:
            yield response.raw.read(1000)
            raise OSError(28, "No space left on device")  # as writing does, without the file's name

    server.pages["/a.tar"] = DATA
    offer(file(server.url + "/a.tar"))
    monkeypatch.setattr(requests.Response, "iter_content", full)
    ended = invoke("data", "fetch", "cifar10", "--data-dir", tmp_path)
    assert ended.status == 1 and ended.stderr == f"Error: {tmp_path / 'a.tar'}: No space left on device\n"
    assert contents(tmp_path) == {}


def test_ctrl_c_leaves_nothing(server, offer, invoke, tmp_path, monkeypatch):
    def interrupted(response, chunk_size):
        with response:
            yield response.raw.read(1000)
            assert [len(data) for data in contents(tmp_path).values()] == [1000]
            raise KeyboardInterrupt

    server.pages["/a.tar"] = DATA
    offer(file(server.url + "/a.tar"))
    monkeypatch.setattr(requests.Response, "iter_content", interrupted)
    assert invoke("data", "fetch", "cifar10", "--data-dir", tmp_path).status == 130
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("name", ["mnist", "pmnist", "npz"])
def test_what_has_no_download_says_so(name, invoke, tmp_path):
    ended = invoke("data", "fetch", name)
    assert ended.status == 0 and f"nothing to download: {name} is" in ended.stdout
    ended = invoke("data", "fetch", name, "--data-dir", tmp_path)
    says = f"Error: nothing to download: {name} is .*; leave --data-dir out\n"
    assert ended.status == 1 and re.fullmatch(says, ended.stderr)


def test_folders_made_for_a_download_that_fails_are_removed(refusing, server, offer, invoke, tmp_path):
    (tmp_path / "mine").mkdir()
    folder = tmp_path / "mine" / "new" / "newer"
    offer(file(refusing + "/lost"))
    assert invoke("data", "fetch", "cifar10", "--data-dir", folder).status == 1
    assert contents(tmp_path / "mine") == {}
    server.pages["/here"] = DATA
    offer(file(refusing + "/lost", name="lost.tar"), file(server.url + "/here"))
    assert invoke("data", "fetch", "cifar10", "--data-dir", folder).status == 1
    assert contents(folder) == {"a.tar": DATA}


def test_a_folder_that_cannot_be_made_is_named(refusing, offer, invoke, tmp_path):
    offer(file(refusing + "/lost"))
    (tmp_path / "file").write_bytes(b"")
    path = tmp_path / "file" / "new"
    ended = invoke("data", "fetch", "cifar10", "--data-dir", path)
    says = f"Error: {path} cannot be made (Not a directory): choose another --data-dir\n"
    assert ended.status == 1 and ended.stderr == says


def test_a_folder_that_cannot_be_written_is_told_with_the_file(refusing, offer, invoke, tmp_path, monkeypatch):
    def forbidden(dir, **_):
        raise PermissionError(13, "Permission denied", f"{dir}/tmpx3f9a")

    offer(file(refusing + "/lost"))
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", forbidden)
    ended = invoke("data", "fetch", "cifar10", "--data-dir", tmp_path)
    assert ended.status == 1 and ended.stderr == f"Error: {tmp_path / 'a.tar'}: Permission denied\n"


@pytest.mark.parametrize("name", ["mnist", "cifar10", "dogs", "dbpedia"])
def test_a_wrong_data_dir_is_told(name, invoke, tmp_path):
    path, none = tmp_path / "file", tmp_path / "none"
    path.write_bytes(b"")
    for command in ("train", "--task"), ("data", "check"), *([("data", "fetch")] if name != "mnist" else []):
        ended = invoke(*command, name, "--data-dir", path)
        names = ", ".join(file.name for file in datasets.TASKS[name].files)
        says = f"{path} is a file; --data-dir is the folder that holds {names}, packed or unpacked"
        assert ended.status == 1 and ended.stderr == f"Error: {says}\n"
    ended = invoke("data", "check", name, "--data-dir", none)
    get = (
        "leave it out" if name == "mnist" else f"get {name} with: python cli.py data fetch {name} --data-dir {none}"
    )
    assert ended.status == 1
    assert ended.stderr == f"Error: there is no folder {none}: correct --data-dir, or {get}\n"
    for where, says in (path, "is a file"), (none, "does not exist"):
        ended = invoke("data", "list", "--data-dir", where)
        assert ended.status == 2 and says in ended.stderr


def test_the_list_tells_what_is_there(invoke, tmp_path, monkeypatch):
    for name in "cifar10", "dogs", "dbpedia":
        monkeypatch.setitem(datasets.TASKS, name, datasets.TASKS[name]._replace(folder=tmp_path / name))
    (tmp_path / "dogs").mkdir()
    for archive in datasets.dogs.FILES:
        with open(tmp_path / "dogs" / archive.name, "wb") as sparse:
            sparse.truncate(archive.size)
    ended = invoke("data", "list")
    lines = {line.split()[0]: line for line in ended.stdout.splitlines()}
    assert ended.status == 0 and tuple(lines) == datasets.NAMES
    assert "4 files, 11.4 MB, in" in lines["mnist"]
    assert f"2 files, 794.1 MB, in {tmp_path / 'dogs'}" in lines["dogs"]
    assert "not there; 170.1 MB by: python cli.py data fetch cifar10" in lines["cifar10"]
    assert "--task npz --data-dir FILE" in lines["npz"]
    ended = invoke("data", "list", "--data-dir", tmp_path)
    assert "mnist    not there\n" in ended.stdout and ended.status == 0
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(b"")
    says = f"mnist    incomplete: {tmp_path} has neither train-images-idx3-ubyte.gz nor train-images-idx3-ubyte\n"
    assert says in invoke("data", "list", "--data-dir", tmp_path).stdout


@pytest.mark.parametrize("name", ["cifar10", "dogs", "dbpedia"])
@pytest.mark.parametrize("command", [("train", "--task"), ("data", "check")])
def test_missing_data_ends_with_the_command_that_gets_it(name, command, invoke, tmp_path, monkeypatch):
    monkeypatch.setitem(datasets.TASKS, name, datasets.TASKS[name]._replace(folder=tmp_path / "default"))
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    for folder, options, suffix in (
        (tmp_path / "default", [], ""),
        (elsewhere, ["--data-dir", elsewhere], f" --data-dir '{elsewhere}'"),
    ):
        ended = invoke(*command, name, *options)
        assert ended.status == 1 and ended.stderr.startswith(f"Error: {folder} has neither ")
        assert ended.stderr.endswith(f": get it with: python cli.py data fetch {name}{suffix}\n")
        assert ended.stderr.count("\n") == 1


def test_check_counts_or_names_the_fault(invoke, tmp_path):
    ended = invoke("data", "check", "mnist")
    assert ended.status == 0
    counts = "60,000 training and 10,000 test sequences, 10 classes, 784 steps of 1 byte each"
    assert ended.stdout == f"mnist: {counts}\n"
    ended = invoke("data", "check", "mnist", "--data-dir", tmp_path)
    assert ended.status == 1 and re.fullmatch("Error: .*ubyte.gz is missing.*\n", ended.stderr)
    ended = invoke("data", "check", "npz")
    assert ended.status == 1 and re.fullmatch("Error: --data-dir: .*FILE\n", ended.stderr)


def test_options_a_task_does_not_take_are_refused():
    for name, options in {
        "cifar10": {"size": 16},
        "dbpedia": {"size": 16},
        "npz": {"size": 16},
        "mnist": {"max_length": 9},
        "dogs": {"max_length": 9},
    }.items():
        option = next(iter(options)).replace("_", "-")
        with pytest.raises(ValueError, match=f"--{option}: {name} does not take it"):
            datasets.load(name, **options)


def test_only_reading_the_files_needs_the_optional_libraries():
    code = "import sys; sys.modules.update(pooch=None, PIL=None, scipy=None, requests=None); import cli, datasets"
    code += "; print(len(datasets.load('mnist').y_test))"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "10000\n"), ended.stderr


@pytest.mark.parametrize(
    "library, name, files",
    [("pooch", "cifar10", ["cifar-10-binary.tar.gz"]), ("scipy.io", "dogs", datasets.dogs.SPLITS)],
)
def test_a_missing_library_is_named(library, name, files, invoke, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    for file in files:
        (tmp_path / file).write_bytes(b"")
    ended = invoke("data", "check", name, "--data-dir", tmp_path)
    assert ended.status == 1 and ended.stderr == f"Error: {library} is missing: pip install -r requirements.txt\n"


def archive(path, *names, mode="w", **info):
    with tarfile.open(path, mode) as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(DATA)
            for key, value in info.items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(DATA))
    return path


def test_an_archive_is_read_without_unpacking_it(tmp_path):
    path = archive(tmp_path / "a.tgz", "./top/b", "top/a", "top/c", mode="w:gz")
    found = list(members(path, ["top/a", "top/b"]))
    assert found == [(name, f"{path}: {name}", DATA) for name in ("top/b", "top/a")]
    assert [path.name for path in tmp_path.iterdir()] == ["a.tgz"]


@pytest.mark.parametrize("name", ["../evil", "top/../../evil", "/evil"])
def test_a_path_that_leaves_its_folder_is_named(name, tmp_path):
    path = archive(tmp_path / "a.tar", "top/a", name)
    with pytest.raises(DataError, match=f"{re.escape(str(path))} holds the path {re.escape(name)}, which leaves"):
        list(members(path, ["top/a", name]))
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]
    assert inside("./top/a", path) == "top/a"


def test_a_damaged_archive_is_named(tmp_path):
    whole = archive(tmp_path / "whole.tgz", "top/a", mode="w:gz").read_bytes()
    for data in whole[: len(whole) // 2], b"hello", b"":
        path = tmp_path / "a.tgz"
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"a.tgz cannot be read \(.*\): delete it and fetch it again"):
            list(members(path, ["top/a"]))


def test_a_disk_that_fails_is_no_damaged_archive(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(5, "Input/output error")

    path = archive(tmp_path / "a.tar", "top/a")
    monkeypatch.setattr(tarfile.ExFileObject, "read", fails)
    with pytest.raises(OSError, match="Input/output error"):
        list(members(path, ["top/a"]))


def test_what_an_archive_lacks_is_named(tmp_path):
    path = archive(tmp_path / "a.tar", "top/a")
    with pytest.raises(DataError, match="a.tar lacks top/b"):
        list(members(path, ["top/a", "top/b"]))
    link = archive(tmp_path / "link.tar", "top/a", type=tarfile.SYMTYPE, linkname="/etc/passwd", size=0)
    with pytest.raises(DataError, match="link.tar lacks top/a"):
        list(members(link, ["top/a"]))
