"""Where a study is kept: a sqlite file, a PostgreSQL database, or a journal file for network file systems.

    with study_lock(url):
        storage = open_storage(url)

All that decides who runs what (planning, claiming, giving up on a dead worker) happens under `study_lock`. Optuna's
claim relies on SELECT … FOR UPDATE, which sqlite does not have, and its tables are created without a lock.
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import filelock
import optuna
import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import get_lock_file

from redi_lab.errors import UserError, in_short
from redi_lab.files import appending
from redi_lab.redaction import redact

_LOG = logging.getLogger(__name__)
_FILES = ("sqlite:///", "journal:///")
_DATABASE = "postgresql"
_LOCK = 0x7265_6469_6C61_62  # of all studies of a database
_BUSY_SECONDS = 60.0
_AWAY_SECONDS, _RETRY_SECONDS = 600.0, 10.0
_REACHED: set[str] = set()  # databases that this process has reached: one that never was is a mistake of the user


def check_storage(url: str) -> None:
    """Check a storage URL without connecting.

    Raises:
        UserError: its kind is unknown, a file's path is relative, or the database driver is missing.
    """
    kind = url.partition("://")[0]
    if f"{kind}:///" in _FILES:
        path = _file(url)
        if path is None or not path.is_absolute():
            raise UserError(f"sweep.storage={url}: give the file an absolute path: {kind}:////absolute/path")
    elif kind.partition("+")[0] == _DATABASE:
        try:
            sqlalchemy.make_url(_with_driver(url)).get_dialect().import_dbapi()
        except (ImportError, sqlalchemy.exc.ArgumentError) as error:
            remedy = "pip install 'redi-lab[postgres]'"
            raise UserError(f"sweep.storage={redact(url)}: its driver is not installed: {remedy}") from error
    else:
        raise UserError(f"sweep.storage={redact(url)}: must begin with sqlite:///, journal:/// or postgresql://")


def open_storage(url: str) -> BaseStorage:
    """Open, and on first use create, the storage; hold `study_lock` meanwhile.

    Raises:
        UserError: the file or the database cannot be reached.
    """
    path = _file(url)
    waits = {"connect_args": {"timeout": _BUSY_SECONDS}} if path is not None else {"pool_pre_ping": True}
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            if url.startswith("journal"):
                return JournalStorage(_WholeLines(str(path)))
        storage = RDBStorage(_with_driver(url), engine_kwargs=waits)
    except (OSError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise UserError(f"sweep.storage={redact(url)}: cannot be opened ({in_short(error)})") from error
    if path is None:
        _REACHED.add(url)
        _outlast_restarts(storage.engine, url)
    return storage


@final
class _WholeLines(JournalFileBackend):
    """Optuna's journal; where the disk is full, that would leave half a line, behind which nobody can read on."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add lines, all of them or none."""
        with get_lock_file(self._lock), appending(Path(self._file_path)) as file:
            file.write("".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode())


@contextmanager
def study_lock(url: str) -> Iterator[None]:
    """The one lock of a study, across processes and, for databases and shared file systems, across machines.

    It dies with its holder: a file lock with the process, a database's advisory lock with the connection.

    Raises:
        UserError: the database cannot be reached.
    """
    path = _file(url)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{path}.claims.lock"):
            yield
        return
    engine = sqlalchemy.create_engine(_with_driver(url), poolclass=sqlalchemy.pool.NullPool)
    if url in _REACHED:
        _outlast_restarts(engine, url)
    try:
        connection = engine.connect()
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise UserError(f"sweep.storage={redact(url)}: cannot be reached ({in_short(error)})") from error
    with connection:
        connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({_LOCK})"))
        yield  # closing the connection releases the lock


def _outlast_restarts(engine: sqlalchemy.Engine, url: str) -> None:
    """Let a database that was reached before be away for a while: trainings wait at their next measurement."""

    def connect(dialect: Any, _: object, arguments: Any, options: Any) -> Any:
        deadline = time.monotonic() + _AWAY_SECONDS
        while True:
            try:
                return dialect.connect(*arguments, **options)
            except dialect.loaded_dbapi.OperationalError as error:
                if time.monotonic() > deadline:
                    raise
                _LOG.warning("sweep.storage=%s is away (%s); trying again", redact(url), in_short(error))
                time.sleep(_RETRY_SECONDS)

    sqlalchemy.event.listen(engine, "do_connect", connect)


def quieten_optuna() -> None:
    """Leave the screen to the progress bar; Optuna logs every trial and calls stable parts experimental."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def _with_driver(url: str) -> str:
    """Name the driver of the extra `postgres` unless another is named: SQLAlchemy's default depends on its version."""
    return url.replace("postgresql://", "postgresql+psycopg2://", 1)


def _file(url: str) -> Path | None:
    return next((Path(url.removeprefix(prefix)) for prefix in _FILES if url.startswith(prefix)), None)
