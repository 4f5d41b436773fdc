"""`redi-lab doctor`: what works here, what does not, and the command that mends it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from redi_lab.verbs.doctor import checks
from redi_lab.verbs.doctor.checks import Finding

Check = Callable[[], Iterator[Finding]]
_SIGNS = {"ok": "[green]✓[/green]", "warning": "[yellow]![/yellow]", "failed": "[red]✗[/red]"}


def make_checks(config: DictConfig, storage: str, python: str) -> dict[str, Check]:
    """All checks by name.

    Args:
        config: its paths and logger groups.
        storage: of sweeps; empty: none in particular.
        python: of vLLM's environment; empty: this one.
    """
    return {
        "versions": checks.check_versions,
        "torch": checks.check_torch,
        "GPU": checks.check_gpu,
        "outputs": partial(checks.check_folder, Path(config.paths.outputs_dir), "paths.outputs_dir"),
        "cache": partial(checks.check_folder, Path(config.paths.cache_dir), "paths.cache_dir"),
        "hub": checks.check_hub,
        "MLflow": partial(checks.check_mlflow, config.logger.tracking_uri, config.logger.experiment_name),
        "Optuna": partial(checks.check_optuna, storage),
        "vLLM": partial(checks.check_vllm, python),
        "training": checks.check_training,
    }


def run_doctor(config: DictConfig, storage: str, python: str, form: str) -> bool:
    """Examine, print a table (or JSON, with form="json"), and say whether everything that is needed works."""
    start, found = time.monotonic(), dict[str, list[Finding]]()
    with Console(stderr=True).status("") as status:
        for name, check in make_checks(config, storage, python).items():
            status.update(f"Looking at {name}")
            found[name] = _run(check)
    failed = [name for name, findings in found.items() if any(finding.status == "failed" for finding in findings)]
    if form == "json":
        plain = {name: [asdict(finding) for finding in findings] for name, findings in found.items()}
        print(json.dumps(plain, indent=1))
    else:
        _print_table(found)
        verdict = f"Does not work: {', '.join(failed)}" if failed else "Everything that is needed works."
        print(f"{verdict} ({time.monotonic() - start:.0f} s)")
    return not failed


def _run(check: Check) -> list[Finding]:
    """The findings of a check; one that breaks is a finding, and stops no other."""
    try:
        return list(check())
    except Exception as error:  # whatever is broken here is what the user wants to know
        return [Finding("failed", f"the check itself failed: {type(error).__name__}: {' '.join(str(error).split())}")]


def _print_table(found: Mapping[str, Sequence[Finding]]) -> None:
    table = Table(box=None, header_style="bold")
    for heading in ("", "", "Found", "To mend it"):
        table.add_column(heading, overflow="fold")
    for name, findings in found.items():
        for finding in findings:
            table.add_row(_SIGNS[finding.status], name, escape(finding.what), escape(finding.fix))
            name = ""
    Console().print(table)
