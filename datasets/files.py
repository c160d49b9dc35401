"""The files that tasks are read from: downloads, checksums, and archives read without unpacking them."""

import os
import pathlib
import tarfile
import zlib
from typing import NamedTuple

from tqdm import tqdm

from .task import DataError, brief

TIMEOUT_S = 30


class File(NamedTuple):
    """A file that can be downloaded."""

    name: str
    size: int  # bytes
    sha256: str
    urls: tuple[str, ...]  # mirrors, in the order to try them


def read(folder, archive, names):
    """Yield (name, place, bytes) for each of `names`, paths inside `archive` (a File); `place` is for messages.

    They come from folder/archive.name if that is there, in its own order, once its SHA-256 is right; otherwise
    from the unpacked files in `folder`, with or without the archive's top folder. Raises FileNotFoundError where
    both are missing, DataError for a wrong or damaged archive.
    """
    path = folder / archive.name
    if path.exists():
        verify(path, archive)
        yield from members(path, names)
        return
    for name in names:
        below_top = name.partition("/")[2] or name
        file = folder / name if (folder / name).exists() else folder / below_top
        if not file.exists():
            raise FileNotFoundError(f"{folder} has neither {archive.name} nor {name}")
        yield name, file, file.read_bytes()


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

    A file that is there already is left alone; a wrong one is replaced once the right one has come. Of a download
    that fails nothing stays. tell(line) hears how it went.
    """
    import pooch
    import requests

    path = folder / file.name
    if path.exists() and pooch.file_hash(str(path)) == file.sha256:
        tell(f"{path} is there already")
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
            except OSError as error:
                if error.filename or not error.errno:  # pooch's own text names the folder
                    raise
                raise OSError(error.errno, error.strerror, str(path)) from error
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
