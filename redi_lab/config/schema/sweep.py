"""The settings of a sweep."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from redi_lab.config.schema.base import Count, Positive, Seed, Settings, Text, Whole, Workers, allowed

_Seeds = Annotated[list[Seed], allowed(lambda seeds: len(set(seeds)) == len(seeds), "a list of seeds, each once")]


class SweepConfig(Settings):
    """An Optuna study: which training runs are tried, how they are chosen, ended, kept and confirmed."""

    overrides: list[str]
    space: dict[str, Any] | None
    num_trials: Annotated[int, Field(ge=1, le=100_000)] | None
    seeds: _Seeds
    metric: Text
    mode: Literal["min", "max"]
    sampler: Literal["tpe", "grid", "random", "sobol", "gp"]
    pruner: Literal["none", "collapse", "median", "hyperband"]
    storage: Text
    num_workers: Workers
    gpus_per_trial: Count | None
    lease_seconds: Positive
    max_retries: Whole
    confirm_seeds: _Seeds
