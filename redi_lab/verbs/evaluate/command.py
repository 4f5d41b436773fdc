"""Evaluate a checkpoint: `python -m redi_lab evaluate checkpoint=FOLDER`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.markup import escape
from rich.table import Table

from redi_lab.backbone.hub import load_tokenizer, local_folder
from redi_lab.backbone.weights import check_folder
from redi_lab.errors import UserError
from redi_lab.evaluation.benchmarks import Benchmark
from redi_lab.evaluation.harness import HarnessTasks, run_tasks
from redi_lab.evaluation.metrics import Estimate, average
from redi_lab.evaluation.results import EvaluationResult, content_digest
from redi_lab.evaluation.scoring import explain_zero, flatten
from redi_lab.figures.samples_page import log_samples
from redi_lab.figures.scores import plot_scores
from redi_lab.generation.transformers_engine import TransformersEngine
from redi_lab.run.arguments import check_arguments
from redi_lab.run.benchmarks import asks_data, make_benchmarks
from redi_lab.run.build import make_engine, make_grader, make_source
from redi_lab.run.evaluation import (
    BASE_MODEL,
    advancing,
    estimate_of,
    evaluate_benchmarks,
    make_evaluation,
    nested_metrics,
    summary_of,
)
from redi_lab.run.record import make_logger, quieten_libraries, results_folder, write_summary
from redi_lab.run.screen import CONSOLE, progress_bar
from redi_lab.run.training_record import read_record, settle_protocol
from redi_lab.verbs.evaluate.conditions import run_conditions
from redi_lab.verbs.evaluate.question import Answer, ask


def run_evaluation(config: DictConfig) -> Path:
    """Evaluate `config.checkpoint` and write a results folder.

    Raises:
        UserError: there is nothing to evaluate on, or the checkpoint cannot be loaded.
    """
    quieten_libraries()
    check_arguments(config)
    checkpoint = Path(config.checkpoint).absolute()
    check_folder(checkpoint, "checkpoint")
    if config.sequential.better_than is not None:
        check_folder(Path(config.sequential.better_than), "sequential.better_than")
    base = _settle(config, checkpoint)
    if config.eval.conditions or config.eval.combine:
        return run_conditions(config, checkpoint)
    is_harness = config.eval.harness is not None
    benchmarks = () if is_harness else _read_benchmarks(config)
    with results_folder(config) as output_dir:
        scored = _run_harness(config, checkpoint, base) if is_harness else _run(config, checkpoint, base, benchmarks)
        benchmarks, models, answer = scored
        results = models[checkpoint.name]
        logger = make_logger(config, output_dir, None, {"redi_lab.stage": "evaluate"})
        logger.log_metrics({f"eval/{k}": v for k, v in _metrics(config, results, answer).items()}, step=0)
        page = log_samples(logger, output_dir, results, benchmarks)
        content = {
            "name": config.name,
            "verb": "evaluate",
            "checkpoint": str(checkpoint),
            "mlflow_run_id": logger.version,
            "sequential": answer and answer.summary,
            "baseline": None if base is None else {"checkpoint": str(base), **_summary(models[BASE_MODEL])},
            **_summary(results),
        }
        logger.log_artifact(write_summary(output_dir, config, content))
        if len(results) > 1:
            logger.log_artifact(plot_scores(_scores(results), checkpoint.name, output_dir / "scores.png"))
        logger.finalize("success")
    CONSOLE.print(_table(models))
    for model, result in ((model, result) for model, each in models.items() for result in each):
        if (reason := explain_zero(result)) is not None:
            CONSOLE.print(f"{model}, {result.benchmark}: {reason}", style="yellow", markup=False, highlight=False)
    if len(results) > 1:
        print(f"Plot:       {output_dir / 'scores.png'}")
    print(f"Samples:    {page}")
    if answer is not None:
        print(answer.sentence)
    return output_dir


def _settle(config: DictConfig, checkpoint: Path) -> Path | None:
    """Fill in the protocol that the checkpoint was trained with; the folder of its base model with `baseline=true`."""
    record = read_record(checkpoint)
    note = settle_protocol(config, checkpoint, record, asks_data(config))
    if note is not None:
        print(note)
    if not config.baseline:
        return None
    if record is None or record.base_model is None:
        raise UserError(
            f"baseline=true: {checkpoint} does not record which model it was trained from; evaluate that model in a"
            " separate command: evaluate checkpoint=FOLDER"
        )
    base = local_folder(record.base_model, key="baseline=true, whose base_model")
    check_folder(base, "baseline=true")
    return base


_Scored = tuple[Sequence[Benchmark], dict[str, Sequence[EvaluationResult]], Answer | None]
"""Benchmarks, the results of each model on them, and the answer where a question is asked."""


def _read_benchmarks(config: DictConfig) -> Sequence[Benchmark]:
    benchmarks = make_benchmarks(config, lambda: make_source(config).load())
    if not benchmarks:
        raise UserError(
            "eval=none: nothing to evaluate; choose eval=heldout, eval=math500 or eval=jsonl eval.path=FILE"
        )
    return benchmarks


def _run(config: DictConfig, checkpoint: Path, base: Path | None, benchmarks: Sequence[Benchmark]) -> _Scored:
    """The benchmarks of the group eval."""
    results, answer = _evaluate(config, checkpoint, benchmarks)
    models: dict[str, Sequence[EvaluationResult]] = {checkpoint.name: results}
    if base is not None:  # under the same protocol, down to the tokens of its prompts
        tokenizer = load_tokenizer(str(checkpoint), key="checkpoint")
        models[BASE_MODEL] = evaluate_benchmarks(config, base, benchmarks, BASE_MODEL, tokenizer)
    return benchmarks, models, answer


def _run_harness(config: DictConfig, checkpoint: Path, base: Path | None) -> _Scored:
    """Tasks of the lm-evaluation-harness."""
    harness, engine = config.eval.harness, make_engine(config)
    if not isinstance(engine, TransformersEngine):
        raise UserError(f"engine={engine.name}: eval=lm_eval runs on engine=transformers")
    asked = HarnessTasks(
        tuple(harness.tasks),
        None if harness.folder is None else Path(harness.folder),
        harness.metric,
        harness.num_fewshot,
        harness.use_chat_template,
        harness.batch_size,
        config.eval.limit,
    )
    folders = {checkpoint.name: checkpoint} | ({} if base is None else {BASE_MODEL: base})
    cache = Path(config.paths.cache_dir) / "evaluations"
    made = {name: run_tasks(engine, folder, asked, cache) for name, folder in folders.items()}
    models: dict[str, Sequence[EvaluationResult]] = {
        name: [result for _, result in scored] for name, scored in made.items()
    }
    return [benchmark for benchmark, _ in made[checkpoint.name]], models, None


def _evaluate(
    config: DictConfig, checkpoint: Path, benchmarks: Sequence[Benchmark]
) -> tuple[list[EvaluationResult], Answer | None]:
    """All samples of all benchmarks or, where a question is asked, samples of the one until it is answered."""
    asked, name = config.sequential, checkpoint.name
    if asked.width is None and asked.better_than is None:
        return evaluate_benchmarks(config, checkpoint, benchmarks, name), None
    folders = [checkpoint] if asked.better_than is None else [checkpoint, Path(asked.better_than).absolute()]
    benchmark = benchmarks[0]
    with progress_bar() as progress, closing(make_engine(config)) as engine, make_grader(config) as grader:
        on_progress = advancing(progress, f"Evaluating {name} on {benchmark.name} until it is answered")
        evaluations = [
            make_evaluation(config, folder, benchmark, engine, grader, progress.console) for folder in folders
        ]
        answer = ask(asked, evaluations, on_progress)
    return [answer.results[0]], answer


def _metrics(config: DictConfig, results: Sequence[EvaluationResult], answer: Answer | None) -> dict[str, float]:
    """What is tracked: the benchmark's metrics, or a suite's average and each benchmark's metrics under its name."""
    ends = {} if answer is None else {f"sequential_{end}": getattr(answer.states[-1], end) for end in ("low", "high")}
    if len(results) == 1:
        return {**results[0].metrics, **ends}
    each = {f"{result.benchmark}/{k}": v for result in results for k, v in result.metrics.items()}
    return _average(results) | each


def _summary(results: Sequence[EvaluationResult]) -> dict[str, Any]:
    each = [summary_of(result) for result in results]
    if len(results) == 1:
        return each[0]
    return {
        "metrics": nested_metrics(_average(results)),
        "benchmarks": {result.benchmark: content for result, content in zip(results, each, strict=True)},
        "fingerprint": content_digest([result.key for result in results])[:32],
    }


def _average(results: Sequence[EvaluationResult]) -> dict[str, float]:
    """pass@1 and pass@k averaged over benchmarks, each counted once, with their intervals; as flat as a result's."""
    names = dict.fromkeys(["pass_at_1", f"pass_at_{int(results[0].metrics['num_samples'])}"])
    return {k: v for name in names for k, v in flatten(name, average([estimate_of(r, name) for r in results])).items()}


def _scores(results: Sequence[EvaluationResult]) -> dict[str, Estimate]:
    scores = {result.benchmark: estimate_of(result) for result in results}
    return scores | ({"average": average(list(scores.values()))} if len(results) > 1 else {})


def _table(models: Mapping[str, Sequence[EvaluationResult]]) -> Table:
    """A row for each model and benchmark, and for a suite the averages."""
    first = next(iter(models.values()))
    samples, is_suite = int(first[0].metrics["num_samples"]), len(first) > 1
    of = "" if is_suite else f"{first[0].benchmark}: {int(first[0].metrics['num_problems']):,} problems × "
    table = Table(title=f"{of}{samples} samples{' each' * is_suite}", title_justify="left")
    for heading in ("model", *(("benchmark", "problems") if is_suite else ())):
        table.add_column(heading, overflow="fold")
    for heading in ("pass@1 (95 % CI)", "SEM", f"pass@{samples}", "truncated", "unknown"):
        table.add_column(heading, justify="right", overflow="fold")
    for model, each in models.items():
        for name, score in _scores(each).items():
            m = next((r.metrics for r in each if r.benchmark == name), _average(each))
            table.add_row(
                escape(model),
                *([name, f"{score.num_problems:,}"] if is_suite else []),
                f"{score.value:.3f} ({score.ci_low:.3f}–{score.ci_high:.3f})",
                "–" if score.sem is None else f"{score.sem:.3f}",
                f"{m[f'pass_at_{samples}']:.3f}",
                *(f"{m[rate]:.1%}" if rate in m else "" for rate in ("truncation_rate", "unknown_rate")),
                end_section=name == each[-1].benchmark,
            )
    return table
