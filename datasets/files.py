"""The files that tasks are read from: downloads, checksums, and archives read without unpacking them."""

import contextlib
import os
import pathlib
import tarfile
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from .task import DataError, Incomplete, brief

TIMEOUT_S = 30
ALIKE = {".jpg": (".jpg", ".jpeg")}


class File(NamedTuple):
    """A packed file, or what it unpacks to."""

    name: str
    size: int | None  # bytes, if only one number is right
    sha256: str | None
    urls: tuple[str, ...]  # mirrors, in the order to try them
    unpacked: str = ""  # what it unpacks to, for messages
    names: Callable = lambda folder: {}  # {path inside it that is read: bytes, or None as above}


def read(folder, archive):
    """Yield (name, place, bytes) for each of the names in `archive` (a File); `place` is for messages.

    They come from folder/archive.name if that is there, in its own order, once its SHA-256 is right; otherwise
    from the unpacked files in `folder`, with or without the archive's top folder. Raises Incomplete where
    both are missing, DataError for a wrong or damaged archive.
    """
    path = folder / archive.name
    if path.exists():
        verify(path, archive)
        yield from members(path, archive.names(folder))
        return
    there, fault = survey(folder, archive)
    if fault:
        raise Incomplete(f"{fault}: " + (f"restore it, or get {archive.name}" if there else "get it"))
    for name, file in there.items():
        yield name, file, file.read_bytes()


def survey(folder, file):
    """({name: path}, fault): what is in `folder` of `file` (a File), packed or unpacked, and what is missing or of
    the wrong size, in words, or None. Looks at names and sizes alone."""
    packed, there, faults = folder / file.name, {}, []
    try:
        sizes = {file.name: file.size} if packed.exists() else file.names(folder)
    except DataError as error:  # the list of names is at fault
        whole = folder / file.unpacked
        return {file.unpacked: whole} if whole.exists() else {}, str(error)
    for name, size in sizes.items():
        path = place(folder, name)
        if not path.exists():
            faults.append(f"{path} is missing")
            continue
        if path.is_dir():
            faults.append(f"{path} is a folder, not the file")
            continue
        there[name], has = path, path.stat().st_size
        if size not in (None, has):
            faults.append(f"{path} has {has:,} bytes, not {size:,}")
    if not there and not any((folder / name.partition("/")[0]).exists() for name in sizes):
        faults = [f"{folder} has neither {file.name} nor {file.unpacked}"]
    return there, faults[0] if faults else None


def place(folder, name):
    """Where `name`, a path inside an archive, is in `folder` or should be: with or without the top folder, and with
    its ending as cameras and other systems have it."""
    top, _, below = name.partition("/")
    whole, bare = folder / name, folder / (below or name)
    for path in whole, bare:
        if path.exists():
            return path
        for ending in endings(path.suffix):
            if path.with_suffix(ending).exists():
                return path.with_suffix(ending)
    return whole if (folder / top).exists() else bare


def endings(suffix):
    """How the ending of a file may be written: in capitals or not, and .jpeg for .jpg."""
    small = suffix.lower()
    return [write(one) for one in ALIKE.get(small, (small,)) for write in (str, str.upper, str.title)]


def stamps(folder, archive, names):
    """`[n, 2]` the size and the time of the last change (ns) of each of the n files that `read` would yield for
    `names`: in a packed `archive` (a File) its own, and of a file that is missing zeros."""
    packed, found = folder / archive.name, np.zeros((len(names), 2), np.int64)
    if packed.exists():
        names = [archive.name] * len(names)
    for i, name in enumerate(names):
        with contextlib.suppress(FileNotFoundError):
            status = place(folder, name).stat()
            found[i] = status.st_size, status.st_mtime_ns
    return found


def verify(path, file):
    """Raise DataError unless what is at `path` is `file` (a File), by its SHA-256."""
    import pooch

    if pooch.file_hash(str(path)) != file.sha256:
        raise DataError(f"{path} is not the original (its SHA-256 is another): delete it and fetch it again")


def members(path, names):
    """Yield (name, place, bytes) for each of `names` in the tar file at `path`, in its order.

    Raises DataError for a file that is damaged, lacks one of them, or holds a path that leaves its folder.
    """
    wanted = set(names)
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                name = inside(member.name, path)
                if name in wanted and member.isreg():
                    wanted.remove(name)
                    yield name, f"{path}: {name}", tar.extractfile(member).read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # the disk's fault, not the archive's
            raise
        raise DataError(f"{path} cannot be read ({brief(error)}): delete it and fetch it again") from None
    if wanted:
        raise DataError(f"{path} lacks {min(wanted)}: delete it and fetch it again")


def inside(name, place):
    """The path `name` that `place` gives, without a leading "./". Raises DataError if it leaves its folder."""
    path = pathlib.PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{place} holds the path {name}, which leaves its folder: do not trust it, fetch it again")
    return str(path)


def fetch(file, folder, tell):
    """Download `file` (a File) into `folder` from the first mirror that has it. Returns whether it is there now.

    A file that is there already, or all that it unpacks to, is left alone; a wrong one is replaced once the right
    one has come. Of a download that fails nothing stays. tell(line) hears how it went.
    """
    import pooch
    import requests

    path = folder / file.name
    if path.exists() and pooch.file_hash(str(path)) == file.sha256:
        tell(f"{path} is there already")
        return True
    if not path.exists() and not survey(folder, file)[1]:
        tell(f"{folder} has {file.unpacked} already, unpacked")
        return True
    pooch.get_logger().setLevel("WARNING")
    for url in file.urls:
        with tqdm(total=file.size, desc=file.name, unit="B", unit_scale=True, leave=False, disable=None) as bar:
            as_it_is = {"Accept-Encoding": "identity"}  # some servers call a .tgz gzip's encoding of a .tar
            download = pooch.HTTPDownloader(bar, chunk_size=1 << 16, timeout=TIMEOUT_S, headers=as_it_is)
            try:
                pooch.retrieve(url, f"sha256:{file.sha256}", file.name, folder, downloader=download)
            except requests.HTTPError as error:
                reason = f"status {error.response.status_code}"
            except requests.Timeout:
                reason = f"no answer within {TIMEOUT_S} s"
            except requests.exceptions.ProxyError:
                reason = "no connection to the proxy"
            except requests.ConnectionError:
                reason = "no connection"
            except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
                reason = f"the address or the proxy's is wrong ({brief(error)})"
            except requests.RequestException as error:
                reason = f"the download broke off ({type(error).__name__})"
            except OSError as error:  # of a temporary file, or pooch's own in place of it
                number = error.errno or getattr(error.__cause__, "errno", None)
                if not number:
                    raise
                raise OSError(number, os.strerror(number), str(path)) from error
            except ValueError:  # below requests' own errors, some of which are ValueErrors too
                reason = "another file than the original (its SHA-256 is another)"
            else:
                umask = os.umask(0)
                os.umask(umask)
                path.chmod(0o666 & ~umask)  # pooch's temporary files are for their owner alone
                tell(f"{path} is there now")
                return True
        tell(f"{url}: {reason}")
    return False
