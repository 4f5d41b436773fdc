"""Local records alone, for `logger=none`: the same files as a tracked run has, and no store."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsFloat, final

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from redi_lab.files import write_text
from redi_lab.tracking.environment import environment_text
from redi_lab.tracking.journal import MetricsJournal
from redi_lab.tracking.state import METRICS_FILE


@final
class LocalLogger(Logger):
    """Writes metrics.jsonl, config.yaml and environment.txt into a folder.

    Args:
        output_dir: the folder.
    """

    def __init__(self, output_dir: Path) -> None:
        super().__init__()
        self._output_dir = output_dir
        output_dir.mkdir(parents=True, exist_ok=True)
        self._journal: MetricsJournal | None = None
        self._last_step = 0

    @property
    def name(self) -> str:
        """Of the kind of record."""
        return "local"

    @property
    def version(self) -> None:
        """There is no run id."""

    @property
    def save_dir(self) -> str:
        """The output folder."""
        return str(self._output_dir)

    @rank_zero_only  # type: ignore[misc, unused-ignore]
    def log_metrics(self, metrics: Mapping[str, SupportsFloat], step: int | None = None) -> None:
        """Append to the journal."""
        self._last_step = self._last_step if step is None else step
        if self._journal is None:
            self._journal = MetricsJournal(self._output_dir / METRICS_FILE)
        self._journal.append(metrics, self._last_step)

    @rank_zero_only  # type: ignore[misc, unused-ignore]
    def save(self) -> None:
        """Bring the metrics to the disk itself."""
        if self._journal is not None:
            self._journal.sync()

    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """config.yaml holds them."""

    @rank_zero_only  # type: ignore[misc, unused-ignore]
    def log_config(self, text: str) -> None:
        """Write config.yaml."""
        write_text(self._output_dir / "config.yaml", text)

    @rank_zero_only  # type: ignore[misc, unused-ignore]
    def log_environment(self) -> None:
        """Write environment.txt."""
        write_text(self._output_dir / "environment.txt", environment_text())

    def log_dataset(self, name: str, digest: str, source: str, num_rows: int, context: str = "training") -> None:
        """summary.json holds the digest."""

    def log_artifact(self, path: Path | str) -> None:
        """The file is already where it belongs."""

    def log_tables(self, paths: Sequence[Path]) -> None:
        """The files are already where they belong."""

    @rank_zero_only  # type: ignore[misc, unused-ignore]
    def finalize(self, status: str) -> None:
        """Close the journal; logging afterwards reopens it."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
