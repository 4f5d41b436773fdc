"""Judge a checkpoint: `python -m redi_lab evaluate checkpoint=FOLDER`, and the end of every training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from redi_lab.backbone.hub import load_tokenizer
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.errors import UserError
from redi_lab.evaluation.benchmarks import Benchmark
from redi_lab.evaluation.evaluate import evaluate
from redi_lab.evaluation.metrics import Estimate, paired_difference
from redi_lab.evaluation.results import EvaluationResult
from redi_lab.pipeline.build import make_benchmark, make_engine, make_grader, make_sampling, make_source
from redi_lab.pipeline.run import command_run, make_logger, prepare_output_dir, quieten_libraries, write_summary


def evaluate_checkpoint(config: DictConfig, checkpoint: Path, benchmark: Benchmark, label: str) -> EvaluationResult:
    """Generate, grade and score; a result that exists for the very same weights, protocol and problems is read.

    Args:
        config: with groups eval, engine and paths.
        checkpoint: Hugging Face folder.
        benchmark: the problems.
        label: shown beside the progress bar.
    """
    encoder = TraceEncoder(load_tokenizer(str(checkpoint)), config.eval.prompt_template, config.eval.thinking_prefix)
    template = {"prompt_template": config.eval.prompt_template, "thinking_prefix": config.eval.thinking_prefix}
    with progress_bar() as progress, make_grader(config) as grader:
        task = progress.add_task(f"Evaluating {label} on {benchmark.name}", total=None)
        return evaluate(
            make_engine(config),
            checkpoint,
            benchmark,
            encoder.prompt_ids,
            make_sampling(config),
            grader,
            template,
            Path(config.paths.cache_dir) / "evaluations",
            lambda done, total: progress.update(task, completed=done, total=total),
        )


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


def difference(new: EvaluationResult, old: EvaluationResult) -> Estimate:
    """Paired difference of pass@1 on the same problems, new − old, with its 95 % interval."""
    return paired_difference(_verdicts(new), _verdicts(old))


def _verdicts(result: EvaluationResult) -> np.ndarray[Any, np.dtype[np.bool_]]:
    samples = int(result.metrics["num_samples"])
    return np.array([row.verdict == "right" for row in result.rows], dtype=np.bool_).reshape(-1, samples)


def progress_bar() -> Progress:
    """The bar that every wait shows."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    )


def run_evaluation(config: DictConfig, overrides: Sequence[str]) -> Path:
    """Judge `config.checkpoint` and write a results folder.

    Raises:
        UserError: there is nothing to judge on, or the checkpoint cannot be loaded.
    """
    quieten_libraries()
    benchmark = make_benchmark(config, lambda: make_source(config).load())
    if benchmark is None:
        raise UserError(
            "eval=none: nothing to evaluate; choose eval=heldout, eval=math500 or eval=jsonl eval.path=FILE"
        )
    output_dir = prepare_output_dir(config)
    checkpoint = Path(config.checkpoint).absolute()
    result = evaluate_checkpoint(config, checkpoint, benchmark, checkpoint.name)
    with command_run(config, list(overrides)) as parent:
        logger = make_logger(config, output_dir, parent, {"redi_lab.stage": "evaluate"})
        logger.log_metrics({f"eval/{k}": v for k, v in result.metrics.items()}, step=0)
        content = {
            "name": config.name,
            "verb": "evaluate",
            "metrics": nested_metrics(result.metrics),
            "evaluation": {"key": result.key, "protocol": dict(result.protocol)},
            "checkpoint": str(checkpoint),
            "fingerprint": result.key,
            "mlflow_run_id": logger.version,
        }
        logger.log_artifact(write_summary(output_dir, config, content))
        logger.finalize("success")
    m = result.metrics
    print(
        f"{benchmark.name}: pass@1 {m['pass_at_1']:.3f}"
        f" (95 % CI {m['pass_at_1_ci_low']:.3f}–{m['pass_at_1_ci_high']:.3f},"
        f" {int(m['num_problems'])} problems × {int(m['num_samples'])} samples)"
    )
    return output_dir
