"""Files from elsewhere: fetched on first use, checked, and whole or not there at all."""

import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from torch.hub import download_url_to_file
from torchvision.datasets.utils import extract_archive

TIMEOUT = 15  # seconds without an answer before a source counts as unreachable


class Unreachable(RuntimeError):
    """A data set or weights that could not be downloaded; the message says what was tried and what to do."""


def fetched(folder: Path, fetch: Callable[[Path], object], title: str) -> Path:
    """`folder`, filled by `fetch` under a temporary name first, so that it exists whole or not at all.

    Raises Unreachable when `fetch` fails. (pooch, which downloads whole files, would unpack archives in place.)
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with impatient():
            fetch(temporary)
        with contextlib.suppress(OSError):  # another process may have been first
            os.replace(temporary, folder)
    except (OSError, RuntimeError) as error:
        if isinstance(error, Unreachable):
            raise
        raise Unreachable(
            f"{title} could not be downloaded ({reason(error)}); connect to a network, "
            "or use your own copy with DATASET=folder:PATH"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def download(url: str, sha256: str, folder: Path) -> Path:
    """A file from the network, by HTTPS, in the folder. Raises OSError, or RuntimeError for another SHA-256."""
    if not url.startswith("https://"):
        raise ValueError(f"{url} is not an HTTPS address; give one that is")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / url.rsplit("/", 1)[1]
    download_url_to_file(url, str(path), hash_prefix=sha256, progress=False)
    return path


def archive(url: str, sha256: str) -> Callable[[Path], None]:
    """What `fetched` can be given: download an archive, check it, and unpack it."""
    return lambda target: extract_archive(download(url, sha256, target), str(target), remove_finished=True)


def is_whole(path: Path, sha256: str) -> bool:
    """Whether the file is there and has this SHA-256."""
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def debian_package(name: str, target: Path) -> Path:
    """Download and unpack a Debian package into `target`, with package lists of its own if the system's are empty.

    Needs apt-get but no root. Raises OSError or SubprocessError.
    """
    target.mkdir(parents=True)

    def apt(*arguments: str) -> None:
        options = [f"-oAcquire::{scheme}::Timeout={TIMEOUT}" for scheme in ("http", "https")]
        command = ["apt-get", "-qq", *options, *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd=target, timeout=300)

    try:
        apt("download", name)
    except subprocess.CalledProcessError:
        private = [f"-oDir::State={target.resolve()}/state", f"-oDir::Cache={target.resolve()}/cache"]
        (target / "state/lists/partial").mkdir(parents=True)
        (target / "cache/archives/partial").mkdir(parents=True)
        apt(*private, "update")
        apt(*private, "download", name)
    package = next(target.glob(f"{name}_*.deb"))
    subprocess.run(["dpkg-deb", "-x", package, target], check=True, capture_output=True)
    return target


def reason(error: Exception) -> str:
    """An error's message in one short line."""
    return " ".join(str(error).split())[:160] or type(error).__name__


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    """Meanwhile a source that does not answer for TIMEOUT seconds raises an OSError."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
