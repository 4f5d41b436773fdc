"""Tasks of the lm-evaluation-harness: what training on mathematics does to everything else.

    scored = run_tasks(engine, folder, HarnessTasks(("hellaswag", "arc_easy")), cache)
    for benchmark, result in scored: ...

A task's documents become problems of one completion each, the continuation that the model finds likeliest or what it
writes, so that results are stored, compared and averaged as all others are. Only metrics that say right or wrong of
each document are read. The package (EleutherAI's lm_eval) is an optional extra, and imported when it is needed.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

from redi_lab.errors import UserError, in_short
from redi_lab.evaluation.benchmarks import Benchmark, EvalProblem
from redi_lab.evaluation.results import EvaluationResult, ResultRow, checkpoint_hash, evaluation_key, save_result
from redi_lab.evaluation.scoring import score
from redi_lab.generation.transformers_engine import TransformersEngine
from redi_lab.grading.grader import Verdict

METRICS = ("acc", "exact_match")
"""Those that are read where none is named, the first that a task has."""


@final
@dataclass(frozen=True)
class HarnessTasks:
    """What is run.

    Attributes:
        tasks: Names of tasks, or of groups of them.
        folder: Further tasks, a folder of YAML files. They can hold code, which is run: only your own.
        metric: Of each task, such as "acc_norm"; None: see `METRICS`.
        num_fewshot: Examples before each question; None: as the task says.
        use_chat_template: Put the question as a user's turn.
        batch_size: Sequences of a forward pass.
        limit: Documents of each task; None: all.
    """

    tasks: tuple[str, ...]
    folder: Path | None = None
    metric: str | None = None
    num_fewshot: int | None = None
    use_chat_template: bool = False
    batch_size: int = 8
    limit: int | None = None


def run_tasks(
    engine: TransformersEngine, checkpoint: Path, asked: HarnessTasks, cache: Path
) -> list[tuple[Benchmark, EvaluationResult]]:
    """Run tasks on a checkpoint and store their results; log-likelihoods that were computed before are read.

    Args:
        engine: Has the model, its device and its precision.
        checkpoint: Hugging Face folder.
        asked: The tasks.
        cache: Folder of results.

    Returns:
        Each task with its documents as problems, and its result, in the order of the harness.

    Raises:
        UserError: There is no such task, its documents cannot be loaded, it has no metric that says right or wrong, or
            the checkpoint cannot be loaded.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    manager = _find(asked)
    model, opened = engine.load(checkpoint)
    digest = checkpoint_hash(checkpoint)
    stored = cache / "lm_eval" / f"{digest[:32]}_{model.dtype}".replace("torch.", "")
    stored.parent.mkdir(parents=True, exist_ok=True)
    try:
        found = simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=opened.tokenizer, batch_size=asked.batch_size),
            tasks=list(asked.tasks),
            task_manager=manager,
            num_fewshot=asked.num_fewshot,
            limit=asked.limit,
            apply_chat_template=asked.use_chat_template,
            use_cache=str(stored),
            bootstrap_iters=0,
        )
    except Exception as error:  # a data set that cannot be reached, say; the hub client raises many unrelated types
        raise UserError(
            f"eval.harness.tasks={','.join(asked.tasks)}: the harness failed: {in_short(error)}; without network access"
            " name tasks of local files with eval.harness.folder=FOLDER"
        ) from error
    assert found is not None  # it is None on further ranks, and there are none
    protocol = {
        "harness": {"name": "lm_eval", "version": version("lm_eval"), "num_fewshot": asked.num_fewshot},
        "chat_template": asked.use_chat_template,
        "engine": {"name": engine.name, "versions": dict(engine.versions), "settings": dict(engine.settings)},
    }
    results = []
    for task, samples in found["samples"].items():
        metric, rows, problems = _read(task, samples, asked.metric, opened.tokenizer)
        benchmark = Benchmark.of(task, problems)
        own = {**protocol, "task": {"name": task, "version": str(found["versions"].get(task)), "metric": metric}}
        key = evaluation_key(digest, own, benchmark.digest)
        result = EvaluationResult(key, own, task, benchmark.digest, digest, score(rows, 1), tuple(rows))
        save_result(cache, result)
        results.append((benchmark, result))
    return results


def _find(asked: HarnessTasks) -> Any:
    """The harness's index of a folder if that has all tasks, else of its own tasks too, which takes long to read."""
    from lm_eval.tasks import TaskManager

    unknown: Sequence[str] = asked.tasks
    names: list[str] = []
    for has_defaults in (False, True):
        if has_defaults or asked.folder is not None:
            folder = None if asked.folder is None else str(asked.folder)
            manager = TaskManager(include_path=folder, include_defaults=has_defaults)
            names = list(manager.all_tasks)
            unknown = [task for task in asked.tasks if task not in names]
            if not unknown:
                return manager
    near = difflib.get_close_matches(unknown[0], names, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise UserError(
        f"eval.harness.tasks: lm_eval {version('lm_eval')} has no task {unknown[0]!r}{hint}; lm_eval ls tasks names all"
    )


def _read(
    task: str, samples: Sequence[Mapping[str, Any]], wanted: str | None, tokenizer: Any
) -> tuple[str, list[ResultRow], list[EvalProblem]]:
    """The metric of a task that is read, and its documents as graded completions and as problems."""
    of_first = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]  # others read the same texts
    told = samples[0]["metrics"]
    metric = next((name for name in ([wanted] if wanted else METRICS) if name in told), None)
    if metric is None or not {sample[metric] for sample in of_first} <= {0, 1}:
        raise UserError(
            f"eval.harness.tasks: {task} does not say right or wrong by {wanted or ' or '.join(METRICS)}, it has"
            f" {', '.join(told)}; name a metric that does with eval.harness.metric, or leave the task out"
        )
    rows, problems = [], []
    for sample in sorted(of_first, key=lambda sample: int(sample["doc_id"])):
        name, text = str(sample["doc_id"]), _text(sample)
        verdict = Verdict.RIGHT if sample[metric] else Verdict.WRONG
        length = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        rows.append(ResultRow(name, 0, text, "stop", verdict.value, metric, text, length))
        problems.append(EvalProblem(name, str(sample["arguments"][0][0]), (_target(sample),)))
    return metric, rows, problems


def _text(sample: Mapping[str, Any]) -> str:
    """The continuation with the greatest log-likelihood, or what was generated."""
    answers = sample["filtered_resps"]
    if isinstance(answers[0], str):
        return answers[0]
    likeliest = max(range(len(answers)), key=lambda choice: answers[choice][0])
    return str(sample["arguments"][likeliest][1])


def _target(sample: Mapping[str, Any]) -> str:
    """The right continuation, or what the task calls its target."""
    target, choices = sample["target"], sample["arguments"]
    is_choice = isinstance(target, int) and len(choices) > 1 and target < len(choices)
    return str(choices[target][1]) if is_choice else str(target)
