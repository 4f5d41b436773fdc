"""The problems that a command evaluates on, as its eval group names them, and the score of a checkpoint on them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress

from redi_lab.backbone.hub import load_tokenizer
from redi_lab.data.arithmetic import ArithmeticSource
from redi_lab.data.chains import ChainsSource
from redi_lab.data.teacher import describe_work
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.data.traces import FurtherSource, HeldOut, TraceCorpus
from redi_lab.errors import UserError
from redi_lab.evaluation.benchmarks import (
    Benchmark,
    Describe,
    EvalProblem,
    load_file_benchmark,
    load_hub_benchmark,
)
from redi_lab.evaluation.evaluate import Evaluation, draw_together
from redi_lab.evaluation.results import EvaluationResult
from redi_lab.generation.checkpoint import Checkpoint
from redi_lab.generation.engines import Engine, SamplingParams
from redi_lab.generation.engines import Progress as OnProgress
from redi_lab.grading.grader import Grader
from redi_lab.redaction import redacted
from redi_lab.run.build import make_engine, make_grader, make_sampling
from redi_lab.run.screen import progress_bar

BASE_MODEL = "base model"
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
    if data.development_path is not None or issubclass(get_class(data.source._target_), FurtherSource):
        return held_out
    if data.num_development and data.num_development >= len(held_out):
        raise UserError(
            f"data.num_development={data.num_development}: {len(held_out)} problems are held out, and some must remain"
            " for the final evaluation; lower it, raise data.source.num_heldout, or give data.development_path=FILE"
        )
    return held_out[: len(held_out) - data.num_development]


def evaluate_checkpoint(
    config: DictConfig, checkpoint: Path, benchmark: Benchmark, label: str, tokenizer: Any | None = None
) -> EvaluationResult:
    """Evaluate on one benchmark; see `evaluate_benchmarks`."""
    return evaluate_benchmarks(config, checkpoint, [benchmark], label, tokenizer)[0]


def evaluate_benchmarks(
    config: DictConfig, checkpoint: Path, benchmarks: Sequence[Benchmark], label: str, tokenizer: Any | None = None
) -> list[EvaluationResult]:
    """Generate, grade and score; a result that exists for the very same weights, protocol and problems is read.

    Args:
        config: with groups eval, engine and paths.
        checkpoint: Hugging Face folder.
        benchmarks: the problems; all are generated with one engine.
        label: shown beside the progress bar.
        tokenizer: writes the prompts; None: the checkpoint's.
    """
    with progress_bar() as progress, closing(make_engine(config)) as engine, make_grader(config) as grader:
        evaluations = [
            make_evaluation(config, checkpoint, benchmark, engine, grader, progress.console, tokenizer)
            for benchmark in benchmarks
        ]
        bars = [advancing(progress, f"Evaluating {label} on {benchmark.name}") for benchmark in benchmarks]
        draw_together(evaluations, bars)
        results = [evaluation.result() for evaluation in evaluations]
        return [
            result if evaluation.benchmark.describe is None else _with_greedy(result, evaluation)
            for result, evaluation in zip(results, evaluations, strict=True)
        ]


def _with_greedy(result: EvaluationResult, evaluation: Evaluation) -> EvaluationResult:
    """Add `greedy_pass_at_1`: on the embedded task, most of a gain in pass@1 may be what sampling no longer draws."""
    sampling = replace(evaluation.sampling, temperature=0.0, num_samples=1)
    greedy = replace(evaluation, sampling=sampling).result().metrics
    names = ("pass_at_1", "pass_at_1_ci_low", "pass_at_1_ci_high")
    return replace(result, metrics={**result.metrics, **{f"greedy_{name}": greedy[name] for name in names}})


def advancing(progress: Progress, description: str) -> OnProgress:
    """Add a task to the progress bar; returns the function that moves it."""
    task = progress.add_task(description, total=None)
    return lambda done, total: progress.update(task, completed=done, total=total)


def make_evaluation(
    config: DictConfig,
    checkpoint: Path,
    benchmark: Benchmark,
    engine: Engine,
    grader: Grader,
    console: Console,
    tokenizer: Any | None = None,
) -> Evaluation:
    """The evaluation that the groups eval and paths describe; the console shows what `eval.fit_context` changes.

    Raises:
        UserError: the tokenizer cannot be loaded, or a prompt leaves no room in the model's context.
    """
    settings = config.eval
    tokenizer = tokenizer or load_tokenizer(str(checkpoint), key="checkpoint")
    encoder = TraceEncoder(tokenizer, settings.prompt_template, settings.thinking_prefix)
    sampling = make_sampling(config)
    if settings.fit_context:
        longest = max(len(encoder.prompt_ids(problem.problem)) for problem in benchmark.problems)
        sampling = _fitted(sampling, Checkpoint.open(checkpoint).max_positions, longest, benchmark.name, console)
    protocol = {
        "prompt_template": settings.prompt_template,
        "prompt_template_sha256": hashlib.sha256(settings.prompt_template.encode()).hexdigest(),
        "thinking_prefix": settings.thinking_prefix,
    }
    return Evaluation(
        engine,
        checkpoint,
        benchmark,
        encoder.prompt_ids,
        sampling,
        grader,
        redacted(protocol),
        Path(config.paths.cache_dir) / "evaluations",
        settings.chunk_completions,
        settings.grader.require_closed_thought,
    )


def _fitted(
    sampling: SamplingParams, positions: int | None, longest: int, name: str, console: Console
) -> SamplingParams:
    if positions is None or longest + sampling.max_new_tokens <= positions:
        return sampling
    room = positions - longest
    if room < 1:
        raise UserError(
            f"{name}: its longest prompt has {longest} tokens, and the model {positions} positions; choose another"
            " benchmark or a model with a longer context"
        )
    console.print(
        f"{name}: at most {room:,} new tokens instead of {sampling.max_new_tokens:,}: the model has {positions:,}"
        f" positions, and the longest prompt takes {longest:,}",
        soft_wrap=True,
    )
    return replace(sampling, max_new_tokens=room)


def nested_metrics(metrics: Mapping[str, float]) -> dict[str, Any]:
    """`pass_at_1`, `pass_at_1_ci_low`, … as {"pass_at_1": {"value", "ci_low", "ci_high", "sem"}, …}."""
    nested: dict[str, Any] = {}
    for name, value in metrics.items():
        base, _, part = re.sub("_(ci_low|ci_high|sem)$", r" \1", name).partition(" ")
        nested.setdefault(base, {})[part or "value"] = value
    return nested
