"""Score a checkpoint: what the verbs train and evaluate share."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress

from redi_lab.backbone.hub import load_tokenizer
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.errors import UserError
from redi_lab.evaluation.benchmarks import Benchmark
from redi_lab.evaluation.conditions import Condition
from redi_lab.evaluation.evaluate import Evaluation, draw_together
from redi_lab.evaluation.metrics import Estimate
from redi_lab.evaluation.results import EvaluationResult
from redi_lab.generation.checkpoint import Checkpoint
from redi_lab.generation.engines import Engine, SamplingParams
from redi_lab.generation.engines import Progress as OnProgress
from redi_lab.redaction import redacted
from redi_lab.run.build import make_engine, make_grader, make_sampling
from redi_lab.run.screen import progress_bar
from redi_lab.verifiers.base import Judge

BASE_MODEL = "base model"


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
    grader: Judge,
    console: Console,
    tokenizer: Any | None = None,
    *,
    wants_token_logps: bool = False,
    encode: Callable[[str], list[int]] | None = None,
    condition: Condition | None = None,
    prompts: Sequence[str] = (),
) -> Evaluation:
    """The evaluation that the groups eval and paths describe; the console shows what `eval.fit_context` changes.

    Args:
        config: with the groups eval and paths.
        checkpoint: Hugging Face folder.
        benchmark: the problems.
        engine: what generates.
        grader: what grades.
        console: see above.
        tokenizer: writes the prompts; None: the checkpoint's.
        wants_token_logps: see `SamplingParams`.
        encode: makes a prompt of a problem's text; None: as the group eval says.
        condition: how the problems are put; None: as they are.
        prompts: what is asked in place of the problems, where that is more than they.

    Raises:
        UserError: the tokenizer cannot be loaded, a prompt leaves no room in the model's context, or the problems are
            not for the verifier.
    """
    settings, asked = config.eval, condition or Condition("plain")
    grader.check(benchmark.problems)
    if encode is None:
        tokenizer = tokenizer or load_tokenizer(str(checkpoint), key="checkpoint")
        encoder = TraceEncoder(tokenizer, settings.prompt_template, settings.thinking_prefix)
        encode = partial(_encoded, encoder, asked)
    sampling = replace(make_sampling(config), wants_token_logps=wants_token_logps)
    if settings.fit_context:
        longest = max(map(len, map(encode, prompts or [problem.problem for problem in benchmark.problems])))
        sampling = _fitted(sampling, Checkpoint.open(checkpoint).max_positions, longest, benchmark.name, console)
    protocol = {
        "prompt_template": settings.prompt_template,
        "prompt_template_sha256": hashlib.sha256(settings.prompt_template.encode()).hexdigest(),
        "thinking_prefix": settings.thinking_prefix,
    } | ({"condition": asked.settings} if asked.settings else {})
    return Evaluation(
        engine,
        checkpoint,
        benchmark,
        encode,
        sampling,
        grader,
        redacted(protocol),
        Path(config.paths.cache_dir) / "evaluations",
        settings.chunk_completions,
        settings.grader.require_closed_thought,
    )


def _encoded(encoder: TraceEncoder, condition: Condition, problem: str) -> list[int]:
    return encoder.prompt_ids(condition.put(problem))


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


def summary_of(result: EvaluationResult) -> dict[str, Any]:
    """What summary.json says of a result."""
    return {
        "metrics": nested_metrics(result.metrics),
        "evaluation": {"key": result.key, "protocol": dict(result.protocol)},
        "fingerprint": result.key,
    }


def estimate_of(result: EvaluationResult, name: str = "pass_at_1") -> Estimate:
    """A metric of a result that has an interval."""
    m = result.metrics
    bounds = (m[f"{name}_ci_low"], m[f"{name}_ci_high"])
    return Estimate(m[name], *bounds, m.get(f"{name}_sem"), int(m["num_problems"]), int(m["num_samples"]))
