"""Judge a checkpoint: `python -m redi_lab evaluate checkpoint=FOLDER`, and the end of every training run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID
from rich.table import Table

from redi_lab.backbone.hub import load_tokenizer, local_folder
from redi_lab.backbone.weights import check_folder
from redi_lab.config import benchmarks as group_benchmarks
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.errors import UserError
from redi_lab.evaluation.benchmarks import Benchmark
from redi_lab.evaluation.checkpoint import Checkpoint
from redi_lab.evaluation.engines import Engine, SamplingParams
from redi_lab.evaluation.evaluate import Evaluation
from redi_lab.evaluation.metrics import Estimate, average
from redi_lab.evaluation.results import EvaluationResult, content_digest
from redi_lab.evaluation.scoring import explain_zero, flatten
from redi_lab.grading.grader import Grader
from redi_lab.pipeline.arguments import check_arguments
from redi_lab.pipeline.build import make_benchmarks, make_engine, make_grader, make_sampling, make_source
from redi_lab.pipeline.run import command_run, make_logger, quieten_libraries, results_folder, write_summary
from redi_lab.pipeline.samples_html import write_pages, write_table
from redi_lab.pipeline.score_plot import plot_scores
from redi_lab.pipeline.screen import CONSOLE, progress_bar
from redi_lab.pipeline.sequential_question import Answer, ask, plot_looks
from redi_lab.pipeline.training_record import read_record, settle_protocol
from redi_lab.redaction import redacted

BASE_MODEL = "base model"


def evaluate_checkpoint(
    config: DictConfig, checkpoint: Path, benchmark: Benchmark, label: str, tokenizer: Any | None = None
) -> EvaluationResult:
    """Generate, grade and score; a result that exists for the very same weights, protocol and problems is read.

    Args:
        config: with groups eval, engine and paths.
        checkpoint: Hugging Face folder.
        benchmark: the problems.
        label: shown beside the progress bar.
        tokenizer: writes the prompts; None: the checkpoint's.
    """
    return evaluate_benchmarks(config, checkpoint, [benchmark], label, tokenizer)[0]


def evaluate_benchmarks(
    config: DictConfig, checkpoint: Path, benchmarks: Sequence[Benchmark], label: str, tokenizer: Any | None = None
) -> list[EvaluationResult]:
    """Evaluate on each benchmark, with one engine; see `evaluate_checkpoint`."""
    results = []
    with progress_bar() as progress, closing(make_engine(config)) as engine, make_grader(config) as grader:
        for benchmark in benchmarks:
            task = progress.add_task(f"Evaluating {label} on {benchmark.name}", total=None)
            evaluation = make_evaluation(config, checkpoint, benchmark, engine, grader, progress.console, tokenizer)
            result = evaluation.result(partial(_advance, progress, task))
            results.append(result if benchmark.describe is None else _with_greedy(result, evaluation))
    return results


def _with_greedy(result: EvaluationResult, evaluation: Evaluation) -> EvaluationResult:
    """Add `greedy_pass_at_1`: on the embedded task, most of a gain in pass@1 may be what sampling no longer draws."""
    sampling = replace(evaluation.sampling, temperature=0.0, num_samples=1)
    greedy = replace(evaluation, sampling=sampling).result().metrics
    names = ("pass_at_1", "pass_at_1_ci_low", "pass_at_1_ci_high")
    return replace(result, metrics={**result.metrics, **{f"greedy_{name}": greedy[name] for name in names}})


def _advance(progress: Progress, task: TaskID, done: int, total: int) -> None:
    progress.update(task, completed=done, total=total)


def make_evaluation(
    config: DictConfig,
    checkpoint: Path,
    benchmark: Benchmark,
    engine: Engine,
    grader: Grader,
    console: Console,
    tokenizer: Any | None = None,
) -> Evaluation:
    """The evaluation that the groups eval and paths describe; what `eval.fit_context` changes is said on the console.

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
    return Evaluation(
        engine,
        checkpoint,
        benchmark,
        encoder.prompt_ids,
        sampling,
        grader,
        redacted(
            {
                "prompt_template": settings.prompt_template,
                "prompt_template_sha256": hashlib.sha256(settings.prompt_template.encode()).hexdigest(),
                "thinking_prefix": settings.thinking_prefix,
            }
        ),
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
        base, _, part = next(
            ((name.removesuffix(f"_{p}"), "_", p) for p in ("ci_low", "ci_high", "sem") if name.endswith(f"_{p}")),
            (name, "", "value"),
        )
        nested.setdefault(base, {})[part] = value
    return nested


def average_metrics(results: Sequence[EvaluationResult]) -> dict[str, float]:
    """pass@1 and pass@k averaged over benchmarks, each counted once, with their intervals; as flat as a result's."""
    first = results[0].metrics
    names = dict.fromkeys(["pass_at_1", f"pass_at_{int(first['num_samples'])}"])
    return {k: v for name in names for k, v in flatten(name, average([_estimate(r, name) for r in results])).items()}


def _estimate(result: EvaluationResult, name: str) -> Estimate:
    m = result.metrics
    bounds = (m[f"{name}_ci_low"], m[f"{name}_ci_high"])
    return Estimate(m[name], *bounds, m.get(f"{name}_sem"), int(m["num_problems"]), int(m["num_samples"]))


def log_samples(
    logger: Any, folder: Path, results: Sequence[EvaluationResult], benchmarks: Sequence[Benchmark]
) -> Path:
    """Write the samples of a run as pages and tables, log both, and return the first page.

    Args:
        logger: of the run.
        folder: of the run.
        results: one of each benchmark.
        benchmarks: what they were judged on.
    """
    judged = list(zip(results, benchmarks, strict=True))
    pages = [page for result, benchmark in judged for page in write_pages(folder, result, benchmark)]
    for page in pages:
        logger.log_artifact(page)
    logger.log_tables([write_table(folder, result, benchmark) for result, benchmark in judged])
    return pages[0]


def run_evaluation(config: DictConfig, overrides: Sequence[str]) -> Path:
    """Judge `config.checkpoint` and write a results folder.

    Raises:
        UserError: there is nothing to judge on, or the checkpoint cannot be loaded.
    """
    quieten_libraries()
    check_arguments(config)
    checkpoint = Path(config.checkpoint).absolute()
    check_folder(checkpoint, "checkpoint")
    if config.sequential.better_than is not None:
        check_folder(Path(config.sequential.better_than), "sequential.better_than")
    base = _settle(config, checkpoint)
    benchmarks = make_benchmarks(config, lambda: make_source(config).load())
    if not benchmarks:
        raise UserError(
            "eval=none: nothing to evaluate; choose eval=heldout, eval=math500 or eval=jsonl eval.path=FILE"
        )
    with results_folder(config) as output_dir:
        results, answer = _judge(config, checkpoint, benchmarks)
        baseline = [] if base is None else _evaluate_base(config, base, checkpoint, benchmarks)
        metrics = _metrics(config, results) | (answer.metrics() if answer else {})
        with command_run(config, list(overrides)) as parent:
            logger = make_logger(config, output_dir, parent, {"redi_lab.stage": "evaluate"})
            logger.log_metrics({f"eval/{k}": v for k, v in metrics.items()}, step=0)
            page = log_samples(logger, output_dir, results, benchmarks)
            content = {
                "name": config.name,
                "verb": "evaluate",
                "checkpoint": str(checkpoint),
                "mlflow_run_id": logger.version,
                "sequential": answer and answer.as_dict(),
                "baseline": {"checkpoint": str(base), **_summary(baseline)} if baseline else None,
                **_summary(results),
            }
            logger.log_artifact(write_summary(output_dir, config, content))
            if len(results) > 1:
                logger.log_artifact(plot_scores(_scores(results), checkpoint.name, output_dir / "scores.png"))
            if answer is not None:
                logger.log_artifact(plot_looks(answer, output_dir / "looks.png"))
            logger.finalize("success")
    _tell({checkpoint.name: results} | ({BASE_MODEL: baseline} if baseline else {}), output_dir, page)
    if answer is not None:
        print(f"{answer.sentence}\nPlot:       {output_dir / 'looks.png'}")
    return output_dir


def _settle(config: DictConfig, checkpoint: Path) -> Path | None:
    """Fill in how the checkpoint is asked, and return its base model's folder where that is asked for."""
    record = read_record(checkpoint)
    uses_data = any(settings.benchmark == "heldout" for settings in group_benchmarks(config).values())
    note = settle_protocol(config, checkpoint, record, uses_data)
    if note is not None:
        print(note)
    if not config.baseline:
        return None
    if record is None or record.base_model is None:
        raise UserError(
            f"baseline=true: {checkpoint} does not record which model it was trained from; evaluate that model by"
            " itself: evaluate checkpoint=FOLDER"
        )
    base = local_folder(record.base_model, key="baseline=true, whose base_model")
    check_folder(base, "baseline=true")
    return base


def _evaluate_base(
    config: DictConfig, base: Path, checkpoint: Path, benchmarks: Sequence[Benchmark]
) -> list[EvaluationResult]:
    """The base model under the same protocol, down to the tokens of its prompts."""
    tokenizer = load_tokenizer(str(checkpoint), key="checkpoint")
    return evaluate_benchmarks(config, base, benchmarks, BASE_MODEL, tokenizer)


def _judge(
    config: DictConfig, checkpoint: Path, benchmarks: Sequence[Benchmark]
) -> tuple[list[EvaluationResult], Answer | None]:
    """All samples of all benchmarks or, where a question is asked, samples of the one until it is answered."""
    asked = config.sequential
    if asked.width is None and asked.better_than is None:
        return evaluate_benchmarks(config, checkpoint, benchmarks, checkpoint.name), None
    folders = [checkpoint] if asked.better_than is None else [checkpoint, Path(asked.better_than).absolute()]
    benchmark = benchmarks[0]
    with progress_bar() as progress, closing(make_engine(config)) as engine, make_grader(config) as grader:
        task = progress.add_task(f"Evaluating {checkpoint.name} on {benchmark.name} until it is answered", total=None)
        evaluations = [
            make_evaluation(config, folder, benchmark, engine, grader, progress.console) for folder in folders
        ]
        answer = ask(asked, evaluations, partial(_advance, progress, task))
    return [answer.results[0]], answer


def _metrics(config: DictConfig, results: Sequence[EvaluationResult]) -> dict[str, float]:
    """Of the benchmark; of a suite the average, and those of each benchmark under its name."""
    if config.eval.benchmark != "suite":
        return dict(results[0].metrics)
    each = {f"{result.benchmark}/{k}": v for result in results for k, v in result.metrics.items()}
    return average_metrics(results) | each


def _summary(results: Sequence[EvaluationResult]) -> dict[str, Any]:
    each = [
        {
            "metrics": nested_metrics(result.metrics),
            "evaluation": {"key": result.key, "protocol": dict(result.protocol)},
            "fingerprint": result.key,
        }
        for result in results
    ]
    if len(results) == 1:
        return each[0]
    return {
        "metrics": nested_metrics(average_metrics(results)),
        "benchmarks": {result.benchmark: content for result, content in zip(results, each, strict=True)},
        "fingerprint": content_digest([result.key for result in results])[:32],
    }


def _scores(results: Sequence[EvaluationResult]) -> dict[str, Estimate]:
    scores = {result.benchmark: _estimate(result, "pass_at_1") for result in results}
    return scores | ({"average": average(list(scores.values()))} if len(results) > 1 else {})


def _tell(results: Mapping[str, Sequence[EvaluationResult]], output_dir: Path, page: Path) -> None:
    """The table, what explains scores of nothing, and where to look on.

    Args:
        results: one of each benchmark, by model.
        output_dir: of the run.
        page: of samples.
    """
    CONSOLE.print(_table(results))
    for model, each in results.items():
        for result in each:
            reason = explain_zero(result)
            if reason is not None:
                CONSOLE.print(f"{model}, {result.benchmark}: {reason}", style="yellow", markup=False, highlight=False)
    if len(next(iter(results.values()))) > 1:
        print(f"Plot:       {output_dir / 'scores.png'}")
    print(f"Samples:    {page}")


def _table(results: Mapping[str, Sequence[EvaluationResult]]) -> Table:
    first = next(iter(results.values()))
    samples, is_suite = int(first[0].metrics["num_samples"]), len(first) > 1
    of = "" if is_suite else f"{first[0].benchmark}: {int(first[0].metrics['num_problems']):,} problems × "
    table = Table(title=f"{of}{samples} samples{' each' * is_suite}", title_justify="left")
    for heading in ("model", *(("benchmark", "problems") if is_suite else ())):
        table.add_column(heading, overflow="fold")
    for heading in ("pass@1 (95 % CI)", "SEM", f"pass@{samples}", "truncated", "unknown"):
        table.add_column(heading, justify="right", overflow="fold")
    for model, each in results.items():
        for name, score in _scores(each).items():
            m = next((r.metrics for r in each if r.benchmark == name), average_metrics(each))
            place = [name, f"{score.num_problems:,}"] if is_suite else []
            sem = "–" if score.sem is None else f"{score.sem:.3f}"
            cells = [
                f"{score.value:.3f} ({score.ci_low:.3f}–{score.ci_high:.3f})",
                sem,
                f"{m[f'pass_at_{samples}']:.3f}",
            ]
            rates = [f"{m[rate]:.1%}" if rate in m else "" for rate in ("truncation_rate", "unknown_rate")]
            table.add_row(escape(model), *place, *cells, *rates, end_section=name == each[-1].benchmark)
    return table
