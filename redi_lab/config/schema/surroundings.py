"""The groups logger, launcher, paths and debug: where runs are tracked, worked on and written."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Annotated, Self

from pydantic import model_validator

from redi_lab.config.schema.base import Positive, Settings, Text, allowed
from redi_lab.errors import UserError

_STORES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "file", "databricks")


def _is_store(uri: str) -> bool:
    kind = uri.partition("://")[0].partition("+")[0]
    is_absolute = kind != "sqlite" or uri.startswith("sqlite:////")
    return uri == "databricks" or ("://" in uri and kind in _STORES and is_absolute)


_Store = Annotated[
    Text, allowed(_is_store, "sqlite:////absolute/path/mlflow.db or http://HOST:PORT of an MLflow server")
]
_Address = Annotated[Text, allowed(lambda text: re.fullmatch(r"[^\s/]+:\d+", text), "HOST:PORT")]
_Folder = Annotated[Text, allowed(bool, "a folder")]


class LoggerConfig(Settings):
    """Where runs are tracked."""

    tracking_uri: _Store | None
    experiment_name: Annotated[Text, allowed(str.strip, "a name")]
    flush_seconds: Positive


class LauncherConfig(Settings):
    """Where independent pieces of work run: on this machine, or on the Ray cluster at an address."""

    address: _Address | None

    @model_validator(mode="after")
    def _check_installed(self) -> Self:
        if self.address is not None and find_spec("ray") is None:
            raise UserError("launcher=ray: Ray is not installed in this environment; pip install 'redi-lab[ray]'")
        return self


class PathsConfig(Settings):
    """Where things are written."""

    outputs_dir: _Folder
    output_dir: _Folder
    cache_dir: _Folder


class DebugConfig(Settings):
    """How mistakes are shown."""

    traceback: bool
