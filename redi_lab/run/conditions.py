"""Ask the problems of a benchmark under every condition of the protocol: `evaluate` where there are several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, final

from omegaconf import DictConfig, OmegaConf

from redi_lab.backbone.hub import load_tokenizer
from redi_lab.data.marked import MarkedTrace
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.evaluation.benchmarks import Benchmark, EvalProblem
from redi_lab.evaluation.conditions import Condition, conditions_of
from redi_lab.evaluation.critique import StepJudge
from redi_lab.evaluation.evaluate import Evaluation, draw_together, follow_up, summed
from redi_lab.evaluation.judges import ModelJudge, WordJudge, judge_error
from redi_lab.evaluation.metrics import Estimate
from redi_lab.evaluation.results import EvaluationResult
from redi_lab.generation.engines import Engine
from redi_lab.grading.grader import Verdict
from redi_lab.run.benchmarks import make_asked, make_traces
from redi_lab.run.build import make_engine, make_grader, make_source
from redi_lab.run.evaluation import advancing, make_evaluation
from redi_lab.run.screen import progress_bar
from redi_lab.verifiers.base import Judge


@final
@dataclass(frozen=True)
class Asked:
    """A condition with what came of it.

    Attributes:
        condition: how the problems were put.
        benchmark: the problems, under the name of the condition.
        result: completions and verdicts.
        prompts: what stands before each of the result's rows.
        traces: that are asked about, by the id of the problem; none without such a question.
        attempts: completions of a sample so far, on average.
    """

    condition: Condition
    benchmark: Benchmark
    result: EvaluationResult
    prompts: Sequence[str]
    traces: Mapping[str, MarkedTrace]
    attempts: float


def ask_all(config: DictConfig, checkpoint: Path) -> tuple[dict[str, Asked], dict[str, Estimate]]:
    """Evaluate a checkpoint under every condition, by name and in order.

    Those that stand alone are drawn as one queue, then the others one after the other.

    Returns:
        What came of the conditions, and how often the judge errs, where one is needed.

    Raises:
        UserError: a condition asks for a column that there is not; or as `evaluate_benchmarks`.
    """
    settings: Any = OmegaConf.to_container(config.eval)
    conditions = conditions_of(settings["conditions"], settings["combine"])
    alone = [one for one in conditions if one.after is None]
    load_corpus = cache(lambda: make_source(config).load())
    traces = {one.name: make_traces(config, load_corpus, one) for one in alone if one.steps is not None}
    benchmarks = [
        _about(one, traces[one.name]) if one.name in traces else make_asked(config, load_corpus, one) for one in alone
    ]
    made: dict[str, Asked] = {}
    with progress_bar() as progress, closing(make_engine(config)) as engine, make_grader(config) as grader:
        tokenizer = load_tokenizer(str(checkpoint), key="checkpoint")
        fault_finder = make_judge(config, engine) if any(one.is_judged for one in alone) else None
        error = {} if fault_finder is None else judge_error(fault_finder)
        judges: dict[str | None, Judge] = {one.name: (one.is_judged and fault_finder) or grader for one in alone}
        judges |= {name: StepJudge(those, config.eval.grader.answers) for name, those in traces.items()}

        def evaluation_of(
            one: Condition, benchmark: Benchmark, judge: Judge, prompts: Sequence[str] = ()
        ) -> Evaluation:
            fixed = (engine, judge, progress.console, tokenizer)
            return make_evaluation(config, checkpoint, benchmark, *fixed, condition=one, prompts=prompts)

        evaluations = [
            evaluation_of(one, benchmark, judges[one.name]) for one, benchmark in zip(alone, benchmarks, strict=True)
        ]
        bar = advancing(progress, "Asking")
        draw_together(evaluations, summed(bar, len(alone)))
        for one, evaluation in zip(alone, evaluations, strict=True):
            each = evaluation.sampling.num_samples
            prompts = [one.put(problem.problem) for problem in evaluation.benchmark.problems for _ in range(each)]
            about = {trace.id: trace for trace in traces.get(one.name, ())}
            made[one.name] = Asked(one, evaluation.benchmark, evaluation.result(), prompts, about, 1.0)
        for one in (one for one in conditions if one.after is not None):
            before, each = made[one.after or ""], config.eval.follow_ups
            # What follows a critique is a correction, which has an answer again.
            judges[one.name] = judge = judges[one.after] if before.condition.steps is None else grader
            benchmark = replace(before.benchmark, name=one.name)
            texts = {problem.id: problem.problem for problem in benchmark.problems}
            texts |= {name: trace.problem for name, trace in before.traces.items()}
            prompts = [
                one.go_on(prompt, settings["thinking_prefix"] + row.text, texts[row.id], row.reason)
                for prompt, row in zip(before.prompts, before.result.rows, strict=True)
            ]
            evaluation = evaluation_of(one, benchmark, judge, prompts)
            evaluation = replace(evaluation, sampling=replace(evaluation.sampling, num_samples=each))
            bar = advancing(progress, f"Asking on: {one.name}")
            result = follow_up(evaluation, before.result, prompts, bar, only_wrong=one.only_wrong)
            is_asked = [not one.only_wrong or row.verdict == Verdict.WRONG for row in before.result.rows]
            attempts = before.attempts + sum(is_asked) / len(is_asked)
            prompts = [prompt for prompt in prompts for _ in range(each)]
            made[one.name] = Asked(one, benchmark, result, prompts, before.traces, attempts)
    return {one.name: made[one.name] for one in conditions}, error


def _about(condition: Condition, traces: Sequence[MarkedTrace]) -> Benchmark:
    """The problems with a trace below each."""
    problems = (EvalProblem(one.id, one.shown(condition.steps or ""), one.answers) for one in traces)
    return Benchmark.of(condition.name, problems)


def make_judge(config: DictConfig, engine: Engine) -> Judge:
    """What says whether an answer finds fault with its question.

    Raises:
        UserError: the folder of the judge cannot be read.
    """
    settings = config.eval.judge
    if settings.checkpoint is None:
        return WordJudge()
    encoder = TraceEncoder(load_tokenizer(settings.checkpoint, key="eval.judge.checkpoint"))
    folder = Path(config.paths.cache_dir) / "evaluations"
    return ModelJudge(engine, Path(settings.checkpoint), encoder.prompt_ids, settings.max_new_tokens, folder)
