"""The problems that a command evaluates on, as its eval group names them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hydra.utils import get_class
from omegaconf import DictConfig

from redi_lab.config.compose import benchmarks as group_benchmarks
from redi_lab.data.arithmetic import ArithmeticSource
from redi_lab.data.chains import ChainsSource
from redi_lab.data.reasoning_gym import ReasoningGymSource
from redi_lab.data.simulated import SimulatedSource
from redi_lab.data.teacher import describe_work
from redi_lab.data.traces import HeldOut, TraceCorpus
from redi_lab.errors import UserError
from redi_lab.evaluation.benchmarks import (
    Benchmark,
    EvalProblem,
    load_file_benchmark,
    load_hub_benchmark,
)
from redi_lab.run.build import make_source

_ENDLESS = (SimulatedSource, ReasoningGymSource)  # make problems beyond those that they hold
EMBEDDED: Mapping[str, Callable[[int], Sequence[HeldOut]]] = {
    "arithmetic": lambda seed: ArithmeticSource(num_problems=0, seed=seed).load().held_out,
    "chains": lambda seed: ChainsSource(num_problems=0, seed=seed).load().held_out,
    "chains_long": lambda seed: ChainsSource(seed=seed).longer(),
    "chains_take": lambda seed: ChainsSource(seed=seed).taking(),
}
"""Benchmarks of the embedded tasks by name, each from a seed to its problems."""


def make_benchmark(config: DictConfig, load_corpus: Callable[[], TraceCorpus]) -> Benchmark | None:
    """The problems to evaluate on, the first of a suite; None with `eval=none`. Raises as `make_benchmarks`."""
    return next(iter(make_benchmarks(config, load_corpus)), None)


def make_benchmarks(config: DictConfig, load_corpus: Callable[[], TraceCorpus]) -> tuple[Benchmark, ...]:
    """The benchmark, or those of a suite under the names of its members; none with `eval=none`.

    Raises:
        UserError: the data group keeps no problems, or a benchmark cannot be read.
    """
    own = {config.eval.name: config.eval} if config.eval.benchmark is not None else {}
    members = config.eval.members if config.eval.benchmark == "suite" else own
    return tuple(_benchmark(config, settings, name, load_corpus) for name, settings in members.items())


def _benchmark(
    config: DictConfig, settings: DictConfig, name: str | None, load_corpus: Callable[[], TraceCorpus]
) -> Benchmark:
    limit = config.eval.limit
    if settings.benchmark in EMBEDDED:
        held_out = EMBEDDED[settings.benchmark](config.seed)[:limit]
        return Benchmark.of(name or settings.benchmark, _as_problems(held_out), describe_work)
    if settings.benchmark == "fresh":
        return _held_out_benchmark(config, name or "fresh", _fresh_problems(config, load_corpus()))
    if settings.benchmark == "heldout":
        corpus = load_corpus()
        if not corpus.held_out:
            raise UserError(
                f"eval=heldout: {corpus.source} keeps no problems for evaluation; set data.source.num_heldout (rows"
                " need an answer), or eval=jsonl eval.path=FILE, or eval=none"
            )
        return _held_out_benchmark(config, name or "heldout", _final_problems(config, corpus)[:limit])
    keys = (settings.problem_key, settings.answer_key)
    if settings.benchmark == "hub" and not Path(settings.path).is_file():
        return load_hub_benchmark(settings.path, settings.split, keys, name, settings.revision, settings.config, limit)
    return load_file_benchmark(Path(settings.path), name, limit, keys)


def asks_data(config: DictConfig) -> bool:
    """Whether the problems are the data group's, and with them how they are put.

    New problems of an embedded task are for any model, also for one that was trained on other rows.
    """
    is_embedded = issubclass(get_class(config.data.source._target_), SimulatedSource)
    theirs = ("heldout",) if is_embedded else ("heldout", "fresh")
    return any(settings.benchmark in theirs for settings in group_benchmarks(config).values())


def _fresh_problems(config: DictConfig, corpus: TraceCorpus) -> Sequence[HeldOut]:
    """Problems of the data group beyond its corpus, and beyond those that serve accuracy during training."""
    source, number, aside = make_source(config), config.eval.limit, config.data.num_development
    if not isinstance(source, _ENDLESS):
        raise UserError(
            f"eval=fresh: {corpus.source} holds its rows and makes no new problems; name a file of problems with"
            " eval=jsonl eval.path=FILE, or choose data=arithmetic or data=chains"
        )
    if number is None:
        raise UserError("eval.limit=null: eval=fresh makes as many problems as eval.limit says; give a number")
    groups = (corpus.demonstrations, corpus.pairs, corpus.negatives, corpus.held_out)
    problems, _ = source.further(aside + number, 0, {row.problem for rows in groups for row in rows})
    return problems[aside:]


def _held_out_benchmark(config: DictConfig, name: str, rows: Sequence[HeldOut]) -> Benchmark:
    """Problems of the data group, with what it brings to describe completions of them."""
    is_simulated = issubclass(get_class(config.data.source._target_), SimulatedSource)
    return Benchmark.of(name, _as_problems(rows), describe_work if is_simulated else None)


def _as_problems(rows: Sequence[HeldOut]) -> list[EvalProblem]:
    return [EvalProblem(row.id, row.problem, row.answers) for row in rows]


def _final_problems(config: DictConfig, corpus: TraceCorpus) -> Sequence[HeldOut]:
    """The held-out problems without the last ones, where those serve accuracy during training."""
    data, held_out = config.data, corpus.held_out
    if data.development_path is not None or issubclass(get_class(data.source._target_), _ENDLESS):
        return held_out
    if data.num_development and data.num_development >= len(held_out):
        raise UserError(
            f"data.num_development={data.num_development}: {len(held_out)} problems are held out, and some must remain"
            " for the final evaluation; lower it, raise data.source.num_heldout, or give data.development_path=FILE"
        )
    return held_out[: len(held_out) - data.num_development]
