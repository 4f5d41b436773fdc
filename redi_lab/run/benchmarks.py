"""The problems that a command evaluates on, as its eval group names them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from hydra.utils import get_class
from omegaconf import DictConfig

from redi_lab.config.compose import benchmarks as group_benchmarks
from redi_lab.data.arithmetic import ArithmeticSource
from redi_lab.data.chains import ChainsSource
from redi_lab.data.marked import MarkedTrace, planted, read_marked
from redi_lab.data.premises import FLAWS, flawed
from redi_lab.data.reasoning_gym import ReasoningGymSource
from redi_lab.data.simulated import SimulatedSource
from redi_lab.data.teacher import describe_work
from redi_lab.data.traces import HeldOut, TraceCorpus, TraceSource
from redi_lab.errors import UserError
from redi_lab.evaluation.benchmarks import (
    Benchmark,
    EvalProblem,
    Keys,
    load_file_benchmark,
    load_hub_benchmark,
)
from redi_lab.evaluation.conditions import Condition
from redi_lab.run.build import make_source

_ENDLESS = (SimulatedSource, ReasoningGymSource)  # make problems beyond those that they hold
EMBEDDED: Mapping[str, Callable[[int], Sequence[HeldOut]]] = {
    "arithmetic": lambda seed: ArithmeticSource(num_problems=0, seed=seed).load().held_out,
    "chains": lambda seed: ChainsSource(num_problems=0, seed=seed).load().held_out,
    "chains_long": lambda seed: ChainsSource(seed=seed).longer(),
    "chains_take": lambda seed: ChainsSource(seed=seed).taking(),
}
"""Benchmarks of the embedded tasks by name, each from a seed to its problems."""


def make_asked(config: DictConfig, load_corpus: Callable[[], TraceCorpus], condition: Condition) -> Benchmark:
    """The problems as a condition takes them: those of the benchmark, or another column of its rows.

    Raises:
        UserError: the benchmark has no rows with columns; or as `make_benchmarks`.
    """
    settings, is_embedded = config.eval, _is_embedded(config)
    if condition.problem_key is None or (is_embedded and condition.problem_key == "normal_query"):
        return _benchmark(config, settings, condition.name, load_corpus)
    if is_embedded and condition.problem_key == "ill_query":
        made = _benchmark(config, settings, condition.name, load_corpus)
        problems = [
            replace(one, problem=flawed(one.problem, place), kind=FLAWS[place % len(FLAWS)])
            for place, one in enumerate(made.problems)
        ]
        return Benchmark.of(condition.name, problems, made.describe)
    if settings.path is None or not Path(settings.path).is_file():
        raise UserError(
            f"eval.conditions.{condition.name}.problem_key={condition.problem_key}: eval={settings.name} has no such"
            " column; give a file of rows that have it: eval=jsonl eval.path=FILE"
        )
    keys = _keys(config, settings, condition.problem_key)._replace(is_strict=True)
    return _from_offset(config, lambda most: load_file_benchmark(Path(settings.path), condition.name, most, keys))


def make_traces(config: DictConfig, load_corpus: Callable[[], TraceCorpus], condition: Condition) -> list[MarkedTrace]:
    """The traces that a condition asks about: those of a file, or of embedded problems, by turns wrong and right.

    Raises:
        UserError: the benchmark has no traces, or as `read_marked`.
    """
    settings = config.eval
    if _is_embedded(config):
        problems = _benchmark(config, settings, condition.name, load_corpus).problems
        return [planted(one.id, one.problem, one.answers, is_wrong=not n % 2) for n, one in enumerate(problems)]
    if settings.benchmark != "jsonl" or not Path(settings.path).is_file():
        raise UserError(
            f"eval.conditions.{condition.name}.steps: eval={settings.name} has no traces with steps; give a file of"
            " them, eval=jsonl eval.path=FILE, or an embedded task"
        )
    first, number = settings.offset, settings.limit
    traces = list(islice(read_marked(settings.path), first, None if number is None else first + number))
    if not traces:
        raise UserError(f"eval.offset={first}: {settings.path} has no trace beyond that; lower it")
    return traces


def _is_embedded(config: DictConfig) -> bool:
    is_simulated = issubclass(get_class(config.data.source._target_), SimulatedSource)
    return config.eval.benchmark in EMBEDDED or (config.eval.benchmark in ("heldout", "fresh") and is_simulated)


def _keys(config: DictConfig, settings: DictConfig, problem_key: str) -> Keys:
    return Keys(problem_key, settings.answer_key, tuple(settings.wrong_keys), kind=config.eval.kind_key)


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
    return _from_offset(config, lambda most: _first_problems(config, settings, name, load_corpus, most))


def _from_offset(config: DictConfig, load: Callable[[int | None], Benchmark]) -> Benchmark:
    """The problems from `eval.offset` on, at most `eval.limit` of them; `load` is given how many are needed."""
    offset, limit = config.eval.offset, config.eval.limit
    found = load(None if limit is None else offset + limit)
    if offset == 0:
        return found
    if offset >= len(found.problems):
        raise UserError(f"eval.offset={offset}: {found.name} has {len(found.problems)} problems; lower it")
    return Benchmark.of(found.name, found.problems[offset:], found.describe)


def _first_problems(
    config: DictConfig,
    settings: DictConfig,
    name: str | None,
    load_corpus: Callable[[], TraceCorpus],
    limit: int | None,
) -> Benchmark:
    if settings.benchmark in EMBEDDED:
        held_out = EMBEDDED[settings.benchmark](config.seed)[:limit]
        return Benchmark.of(name or settings.benchmark, _as_problems(held_out), describe_work)
    if settings.benchmark == "fresh":
        fresh = _as_problems(_fresh_problems(config, load_corpus(), limit))
        return _held_out_benchmark(config, name or "fresh", fresh)
    if settings.benchmark == "development":
        problems, _ = development_problems(config, make_source(config), load_corpus())
        if not problems:
            raise UserError("eval=development: data.num_development=0 keeps no problems for it; raise that")
        return _held_out_benchmark(config, name or "development", problems[:limit])
    if settings.benchmark == "heldout":
        corpus = load_corpus()
        if not corpus.held_out:
            raise UserError(
                f"eval=heldout: {corpus.source} keeps no problems for evaluation; set data.source.num_heldout (rows"
                " need an answer), or eval=jsonl eval.path=FILE, or eval=none"
            )
        return _held_out_benchmark(config, name or "heldout", _as_problems(_final_problems(config, corpus)[:limit]))
    keys = _keys(config, settings, settings.problem_key)
    if settings.benchmark == "hub" and not Path(settings.path).is_file():
        return load_hub_benchmark(settings.path, settings.split, keys, name, settings.revision, settings.config, limit)
    return load_file_benchmark(Path(settings.path), name, limit, keys)


def asks_data(config: DictConfig) -> bool:
    """Whether the problems are the data group's, and with them how they are put.

    New problems of an embedded task are for any model, also for one that was trained on other rows.
    """
    is_embedded = issubclass(get_class(config.data.source._target_), SimulatedSource)
    theirs = ("heldout", "development") if is_embedded else ("heldout", "development", "fresh")
    return any(settings.benchmark in theirs for settings in group_benchmarks(config).values())


def _fresh_problems(config: DictConfig, corpus: TraceCorpus, number: int | None) -> Sequence[HeldOut]:
    """Problems of the data group beyond its corpus, and beyond those that serve accuracy during training."""
    source, aside = make_source(config), config.data.num_development
    if not isinstance(source, _ENDLESS):
        raise UserError(
            f"eval=fresh: {corpus.source} holds its rows and makes no new problems; name a file of problems with"
            " eval=jsonl eval.path=FILE, or choose data=arithmetic or data=chains"
        )
    if number is None:
        raise UserError("eval.limit=null: eval=fresh makes as many problems as eval.limit says; give a number")
    problems, _ = source.further(aside + number, 0, texts_of(corpus))
    return problems[aside:]


def development_problems(
    config: DictConfig, source: TraceSource, corpus: TraceCorpus, evaluated: Collection[str] = ()
) -> tuple[Sequence[EvalProblem], str]:
    """The `data.num_development` problems that are looked at during training, and where they come from, in words.

    Args:
        config: with the group data.
        source: of the corpus.
        corpus: what is trained on.
        evaluated: texts of further problems that an embedded task must not make again.

    Raises:
        UserError: there are fewer.
    """
    number, path = config.data.num_development, config.data.development_path
    if number == 0:
        return (), "none"
    if path is not None:
        problems, origin = load_file_benchmark(Path(path), limit=number).problems, f"problems in {path}"
    elif isinstance(source, SimulatedSource):
        problems = tuple(_as_problems(source.further(number, 0, texts_of(corpus).union(evaluated))[0]))
        origin = "further problems"
    else:
        problems = tuple(_as_problems(corpus.held_out[max(0, len(corpus.held_out) - number) :]))
        origin = "held-out problems"
    if len(problems) < number:
        raise UserError(f"data.num_development={number}: there are {len(problems)} {origin}; lower it")
    return problems, origin


def texts_of(corpus: TraceCorpus) -> set[str]:
    """All problems of a corpus, those that it holds out among them."""
    groups = (corpus.demonstrations, corpus.pairs, corpus.negatives, corpus.held_out)
    return {row.problem for rows in groups for row in rows}


def _held_out_benchmark(config: DictConfig, name: str, problems: Sequence[EvalProblem]) -> Benchmark:
    """Problems of the data group, with what it brings to describe completions of them."""
    is_simulated = issubclass(get_class(config.data.source._target_), SimulatedSource)
    return Benchmark.of(name, problems, describe_work if is_simulated else None)


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
