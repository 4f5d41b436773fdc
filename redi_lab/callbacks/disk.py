"""Writing checkpoints so that they survive: whole or not at all, also where the disk is full or the power fails."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from redi_lab.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MARGIN = 1 << 20  # bytes for what is small: JSON, tokenizer, directory entries


@contextmanager
def writing(folder: Path, num_bytes: int, what: str, partial: Path) -> Iterator[None]:
    """Guard the writing of a checkpoint.

    Args:
        folder: on the disk in question; is made.
        num_bytes: how much will be written, about.
        what: for the message.
        partial: what is being written, removed if it fails.

    Raises:
        UserError: there is no room, or it ran out.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < num_bytes + _MARGIN:
            raise OSError(errno.ENOSPC, "No space left on device")
        yield
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not is_disk_full(error):
            raise
        raise UserError(
            f"{folder}: the disk is full (or a quota reached): {what} needs {as_size(num_bytes + _MARGIN)},"
            f" {as_size(shutil.disk_usage(folder).free)} are free; make room and run the same command again,"
            " which goes on from the last state that was saved"
        ) from error


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_disk_full(error: BaseException) -> bool:
    """Whether writing failed for want of room. safetensors tells the number in its text alone."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return isinstance(error, SafetensorError) and any(f"os error {number})" in str(error) for number in _FULL)


def as_size(num_bytes: int) -> str:
    """1234567 is "1.2 MB"."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
