"""Writing checkpoints so that they survive: whole or not at all, also where the disk is full or the power fails."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redi_lab.errors import UserError
from redi_lab.files import as_size, is_disk_full

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
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not is_disk_full(error):
            raise
        raise UserError(
            f"{folder}: the disk is full (or a quota reached): {what} needs {as_size(num_bytes + _MARGIN)},"
            f" {as_size(shutil.disk_usage(folder).free)} are free; make room and run the same command again,"
            " which goes on from the last state that was saved"
        ) from error
