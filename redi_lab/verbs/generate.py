"""A model's own traces of problems, graded: `python -m redi_lab generate checkpoint=FOLDER eval=fresh`.

The results folder gets `traces.parquet`, which `data=jsonl` and `curate data=jsonl` read, and `tokens/tokens.parquet`
with the tokens of each trace and their log-probs. Samples are drawn and kept as an evaluation does it, so the same
command goes on after a kill, and draws nothing twice.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from omegaconf import DictConfig
from pyarrow.parquet import ParquetWriter

from redi_lab.backbone.weights import check_folder
from redi_lab.config.overrides import quoted
from redi_lab.config.schema.verifiers import WITHOUT_ANSWERS
from redi_lab.evaluation.benchmarks import EvalProblem
from redi_lab.evaluation.evaluate import Evaluation, GradedSample
from redi_lab.evaluation.results import content_digest
from redi_lab.evaluation.sequential import looks
from redi_lab.files import replacing
from redi_lab.generation.engines import Progress
from redi_lab.grading.grader import Verdict
from redi_lab.run.arguments import check_arguments
from redi_lab.run.benchmarks import asks_data, make_benchmarks
from redi_lab.run.build import make_engine, make_grader, make_source
from redi_lab.run.evaluation import advancing, make_evaluation
from redi_lab.run.record import quieten_libraries, results_folder, write_summary
from redi_lab.run.screen import CONSOLE, progress_bar, say_path
from redi_lab.run.training_record import read_record, settle_protocol

TRACES_FILE = "traces.parquet"
TOKENS_FILE = "tokens/tokens.parquet"  # in a folder below: data.path=RESULTS_FOLDER reads the other alone

_CORRECT = {Verdict.RIGHT: True, Verdict.WRONG: False, Verdict.UNKNOWN: None}
_GENERATION = pa.struct(
    [
        pa.field("text", pa.string(), nullable=False),
        pa.field("correct", pa.bool_()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("answer", pa.string()),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
        pa.field("sampler_logps", pa.float64(), nullable=False),
    ]
)
_TRACES = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("problem", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("generations", pa.list_(_GENERATION), nullable=False),
    ]
)
_TOKENS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("token_logps", pa.list_(pa.float32()), nullable=False),
    ]
)
_ROW_GROUP = 256

Found = Sequence[Sequence[GradedSample]]
"""The samples of each problem of a benchmark."""


def run_generation(config: DictConfig) -> Path:
    """Draw and grade traces of `config.checkpoint`, and write a results folder.

    Raises:
        UserError: there are no problems, or the checkpoint cannot be loaded.
    """
    quieten_libraries()
    check_arguments(config)
    checkpoint = Path(config.checkpoint).absolute()
    check_folder(checkpoint, "checkpoint")
    note = settle_protocol(config, checkpoint, read_record(checkpoint), asks_data(config))
    if note is not None:
        print(note)
    [benchmark] = make_benchmarks(config, lambda: make_source(config).load())
    with results_folder(config) as folder:
        with progress_bar() as progress, closing(make_engine(config)) as engine, make_grader(config) as grader:
            evaluation = make_evaluation(
                config, checkpoint, benchmark, engine, grader, progress.console, wants_token_logps=True
            )
            found = draw(evaluation, config.stop, advancing(progress, f"Traces of {benchmark.name}"))
        provenance = {
            "checkpoint": str(checkpoint),
            "checkpoint_hash": evaluation.checkpoint_hash,
            "problems": {"name": benchmark.name, "digest": benchmark.digest},
            "stop": dict(config.stop),
            "protocol": evaluation.protocol,
        }
        write_traces(folder, evaluation, found, provenance)
        metrics = count(found)
        fingerprint = content_digest([evaluation.key, provenance["stop"]])[:32]
        content = {"name": config.name, "verb": "generate", "metrics": metrics, "fingerprint": fingerprint}
        write_summary(folder, config, content | provenance)
    for name, number in metrics.items():
        CONSOLE.print(f"{name.replace('_', ' ')}: {number:,}", highlight=False)
    say_path("Curate", _next_command(config, folder / TRACES_FILE))
    return folder


def draw(evaluation: Evaluation, stop: DictConfig, on_progress: Progress) -> list[list[GradedSample]]:
    """All samples, or, where `stop` asks for it, rounds of samples of the problems that do not have enough.

    Args:
        evaluation: whose `sampling.num_samples` is the most of each problem.
        stop: the group of that name.
        on_progress: called with (completions there, completions wanted as far as is known).

    Returns:
        By problem, then sample.
    """
    most, first = evaluation.sampling.num_samples, evaluation.sampling.first_sample
    is_asked = stop.right is not None or stop.wrong is not None
    found: list[list[GradedSample]] = [[] for _ in evaluation.benchmark.problems]
    open_problems, num_drawn, num_done = list(range(len(found))), 0, 0

    def report(done: int, _: int) -> None:
        on_progress(num_done + done, num_done + len(open_problems) * (most - num_drawn))

    for number in looks(most) if is_asked else [most]:
        graded = evaluation.graded(first + num_drawn, number - num_drawn, report, open_problems)
        for one in graded:
            found[one.problem_index].append(one)
        num_drawn, num_done = number, num_done + len(graded)
        open_problems = [problem for problem in open_problems if not _has_enough(found[problem], stop)]
        if not open_problems:
            break
    return found


def _has_enough(found: Sequence[GradedSample], stop: DictConfig) -> bool:
    """Whether enough traces that were not cut off are right, and enough are wrong."""
    complete = [one.grade.verdict for one in found if one.sample.finish_reason == "stop"]
    wanted = ((Verdict.RIGHT, stop.right), (Verdict.WRONG, stop.wrong))
    return all(complete.count(verdict) >= (number or 0) for verdict, number in wanted)


def count(found: Found) -> dict[str, int]:
    """What there is, by name."""
    samples = [one for of_problem in found for one in of_problem]
    verdicts = [{one.grade.verdict for one in of_problem} for of_problem in found]
    return {
        "problems": len(found),
        "traces": len(samples),
        **{verdict.value: sum(one.grade.verdict is verdict for one in samples) for verdict in Verdict},
        "cut_off": sum(one.sample.finish_reason == "length" for one in samples),
        "blank_and_left_out": sum(_is_blank(one) for one in samples),
        "tokens": sum(one.sample.num_tokens for one in samples),
        "problems_with_right_and_wrong": sum({Verdict.RIGHT, Verdict.WRONG} <= of_problem for of_problem in verdicts),
    }


def _is_blank(one: GradedSample) -> bool:
    """Whether there is no text, which no reader of traces takes."""
    return not one.sample.text.strip()


def write_traces(folder: Path, evaluation: Evaluation, found: Found, provenance: Mapping[str, Any]) -> None:
    """Write both files, each whole or not at all; `provenance` stands in their metadata, as JSON under `redi_lab`."""
    benchmark, metadata = evaluation.benchmark, {"redi_lab": json.dumps(provenance)}
    (folder / TOKENS_FILE).parent.mkdir(exist_ok=True)
    with (
        replacing(folder / TRACES_FILE) as traces_file,  # in place when the other is
        replacing(folder / TOKENS_FILE) as tokens_file,
        ParquetWriter(tokens_file, _TOKENS.with_metadata(metadata)) as tokens,
        ParquetWriter(traces_file, _TRACES.with_metadata(metadata)) as traces,
    ):
        for start in range(0, len(found), _ROW_GROUP):
            group = range(start, min(start + _ROW_GROUP, len(found)))
            rows = [_row(benchmark.problems[problem], benchmark.name, found[problem]) for problem in group]
            traces.write_batch(pa.RecordBatch.from_pylist(rows, _TRACES))
            rows = [_tokens(benchmark.problems[problem], one) for problem in group for one in found[problem]]
            tokens.write_batch(pa.RecordBatch.from_pylist(rows, _TOKENS))


def _row(problem: EvalProblem, source: str, found: Sequence[GradedSample]) -> dict[str, Any]:
    generations = [
        {
            "text": one.sample.text,
            "correct": _CORRECT[one.grade.verdict],
            "reason": one.grade.reason,
            "answer": one.grade.answer,
            "finish_reason": one.sample.finish_reason,
            "sample": one.sample_index,
            "num_tokens": one.sample.num_tokens,
            "sampler_logps": math.fsum(one.sample.token_logps or ()),
        }
        for one in found
        if not _is_blank(one)
    ]
    row = {"id": problem.id, "problem": problem.problem, "answer": problem.answers[0], "source": source}
    return row | {"generations": generations}


def _tokens(problem: EvalProblem, one: GradedSample) -> dict[str, Any]:
    ids, logps = one.sample.token_ids, one.sample.token_logps
    return {"id": problem.id, "sample": one.sample_index, "token_ids": np.array(ids), "token_logps": np.array(logps)}


def _next_command(config: DictConfig, path: Path) -> str:
    """How to curate the traces, with the prompts that they answer and the rule that found their answers."""
    words = [f"data.path={path}"]
    for key in ("prompt_template", "thinking_prefix"):
        if text := config.eval[key]:
            words.append(f"data.{key}={quoted(text)}" if '"' in text or text.endswith("\\") else f'data.{key}="{text}"')
    if config.eval.grader.answers != "boxed":
        words.append(f"curation.grading.answers={config.eval.grader.answers}")
    if config.verifier._target_ in WITHOUT_ANSWERS:
        words.append("curation.require_answer=false")
    return f"redi-lab curate data=jsonl curation=strict {shlex.join(words)}"
