"""Files and folders that appear whole or not at all, their digests, locks, and advice about full disks.

write_text(folder / "summary.json", text)
with replacing(folder / "map.png") as partial:
    figure.savefig(partial, format="png")
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import filelock

from redi_lab.errors import UserError

_CLOCK_TICK_NS = 20_000_000  # file systems stamp files with a clock that ticks every 10 ms at the slowest
_digests: dict[tuple[str, int, int, int], str] = {}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Libraries in Rust and sqlite say so in their text alone.
_FULL_TEXTS = ("database or disk is full", *(f"os error {number})" for number in _FULL))
_REMEDIES = {
    errno.ENAMETOOLONG: "give a shorter path (file systems allow 255 bytes for each part of it)",
    errno.EACCES: "change its permissions, or name another place",
    errno.EROFS: "name another place with paths.outputs_dir=DIR",
}
_MARGIN = 1 << 20  # bytes for what is small: JSON, tokenizer, directory entries


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the path on an error that has none: errors of writing do not say to which file."""
    try:
        yield
    except Exception as error:
        if getattr(error, "filename", None) is None:
            error.filename = str(path)  # type: ignore[attr-defined]
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the name of a file to write beside `path`, then put it in its place; after an error nothing is left."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path):
            yield partial
            os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(target: Path, num_bytes: int, what: str) -> Iterator[Path]:
    """Yield a new folder beside `target`, then put it in its place, flushed to disk; after an error nothing is left.

    Args:
        target: the folder; one of that name is replaced.
        num_bytes: about how much will be written.
        what: what that is, for the message.

    Raises:
        UserError: there is not enough room, or it ran out.
    """
    partial = partial_of(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(target.parent).free < num_bytes + _MARGIN:
            raise OSError(errno.ENOSPC, "No space left on device")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        for path in (*partial.iterdir(), partial):
            sync(path)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        sync(target.parent)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not is_disk_full(error):
            raise
        raise UserError(
            f"{target.parent}: the disk is full (or a quota reached): {what} needs {as_size(num_bytes + _MARGIN)},"
            f" {as_size(shutil.disk_usage(target.parent).free)} are free; make room and run the same command again,"
            " which goes on from the last state that was saved"
        ) from error


def partial_of(folder: Path) -> Path:
    """Where `replacing_folder` writes; after a kill it may still be there."""
    return folder.with_name(f".{folder.name}.partial")


@contextmanager
def appending(path: Path, *, is_synced: bool = True) -> Iterator[BinaryIO]:
    """Open a file to append to it; what is written inside is there as a whole or, after an error, not at all.

    `is_synced`: so that it survives a power cut.
    """
    before = path.stat().st_size if path.exists() else 0
    try:
        with naming(path), path.open("ab") as file:
            yield file
            file.flush()
            if is_synced:
                os.fsync(file.fileno())
    except Exception:
        if path.exists():
            os.truncate(path, before)
        raise


def write_text(path: Path, text: str, *, is_synced: bool = False) -> None:
    """Replace a text file, whole or not at all; `is_synced`: so that it survives a power cut."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")
        if is_synced:
            sync(partial)


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path, refusal: str) -> Iterator[None]:
    """Hold the lock of a file for the time of a block.

    Raises:
        UserError: another process holds it; `refusal` is the message.
    """
    lock = filelock.FileLock(path, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UserError(refusal) from None
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of this file."""
    if not path.exists():
        return False
    try:
        with filelock.FileLock(path, timeout=0):
            return False
    except filelock.Timeout:
        return True


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, is a lack of room."""
    while error is not None:
        if (isinstance(error, OSError) and error.errno in _FULL) or any(text in str(error) for text in _FULL_TEXTS):
            return True
        error = error.__cause__ or error.__context__
    return False


def explained(error: Exception, go_on: str = "give the same command again") -> UserError | None:
    """What a user can do about an error of the system; None for any other error, which may be a defect.

    Args:
        error: from the system or a library; see `naming`.
        go_on: what to do when there is room again.
    """
    path = getattr(error, "filename2", None) or getattr(error, "filename", None)  # of a copy, where to
    where = f"{path}: " if path else ""
    if isinstance(error, UserError):
        return None
    if is_disk_full(error):
        there = next(folder for folder in (*Path(path or ".").absolute().parents, Path("/")) if folder.is_dir())
        free = as_size(shutil.disk_usage(there).free)
        return UserError(f"{where}the disk is full (or a quota reached), {free} are free; make room, then {go_on}")
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        return UserError(f"{where}{error.strerror}; {_REMEDIES[error.errno]}")
    if isinstance(error, MemoryError):
        return UserError("there is not enough memory for this; give smaller input, or more memory")
    return None


def as_size(num_bytes: int) -> str:
    """1234567 is "1.2 MB"."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def file_digest(path: Path) -> str:
    """The sha256 (hexadecimal) of a file, read once as long as its path, size, time of change and inode stay."""
    found = path.stat()
    # A file written within the current tick could change again under the same time stamp: wait until it is over.
    while abs(time.time_ns() - found.st_mtime_ns) < _CLOCK_TICK_NS:
        time.sleep(_CLOCK_TICK_NS / 1e9)
        found = path.stat()
    key = (str(path.absolute()), found.st_size, found.st_mtime_ns, found.st_ino)
    if key not in _digests:
        with path.open("rb") as file:
            _digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _digests[key]
