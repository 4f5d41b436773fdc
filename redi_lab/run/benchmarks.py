"""The problems that a command evaluates on, as its eval group names them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hydra.utils import get_class
from omegaconf import DictConfig

from redi_lab.data.arithmetic import ArithmeticSource
from redi_lab.data.chains import ChainsSource
from redi_lab.data.simulated import SimulatedSource
from redi_lab.data.teacher import describe_work
from redi_lab.data.traces import HeldOut, TraceCorpus
from redi_lab.errors import UserError
from redi_lab.evaluation.benchmarks import (
    Benchmark,
    Describe,
    EvalProblem,
    load_file_benchmark,
    load_hub_benchmark,
)

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
        return _held_out_benchmark(name or settings.benchmark, held_out, describe_work)
    if settings.benchmark == "heldout":
        corpus = load_corpus()
        if not corpus.held_out:
            raise UserError(
                f"eval=heldout: {corpus.source} keeps no problems for evaluation; set data.source.num_heldout (rows"
                " need an answer), or eval=jsonl eval.path=FILE, or eval=none"
            )
        describe = describe_work if corpus.source in EMBEDDED else None
        return _held_out_benchmark(name or "heldout", _final_problems(config, corpus)[:limit], describe)
    keys = (settings.problem_key, settings.answer_key)
    if settings.benchmark == "hub" and not Path(settings.path).is_file():
        return load_hub_benchmark(settings.path, settings.split, keys, name, settings.revision, settings.config, limit)
    return load_file_benchmark(Path(settings.path), name, limit, keys)


def _held_out_benchmark(name: str, rows: Sequence[HeldOut], describe: Describe | None) -> Benchmark:
    return Benchmark.of(name, (EvalProblem(row.id, row.problem, row.answers) for row in rows), describe)


def _final_problems(config: DictConfig, corpus: TraceCorpus) -> Sequence[HeldOut]:
    """The held-out problems without the last ones, where those serve accuracy during training."""
    data, held_out = config.data, corpus.held_out
    if data.development_path is not None or issubclass(get_class(data.source._target_), SimulatedSource):
        return held_out
    if data.num_development and data.num_development >= len(held_out):
        raise UserError(
            f"data.num_development={data.num_development}: {len(held_out)} problems are held out, and some must remain"
            " for the final evaluation; lower it, raise data.source.num_heldout, or give data.development_path=FILE"
        )
    return held_out[: len(held_out) - data.num_development]
