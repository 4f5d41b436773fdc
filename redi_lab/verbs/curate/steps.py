"""Find the first wrong step of wrong traces: `python -m redi_lab curate steps checkpoint=FOLDER data.path=FILE`.

The checkpoint goes on with the beginnings of each wrong trace, several times each, and `redi_lab.curation.steps` says
after which step its answers stop being right. The results folder gets `steps.parquet`, a row for each step, and
`traces.jsonl`, which `data=jsonl` and `curate data=jsonl` read: the traces with what the rules of `data.token_weights`
are made from. Rollouts are kept as an evaluation keeps its samples, so the same command goes on after a kill.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, final

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig

from redi_lab.backbone.hub import load_tokenizer
from redi_lab.backbone.weights import check_folder
from redi_lab.config.compose import load_config
from redi_lab.curation.steps import chances, first_wrong
from redi_lab.data.readers import TraceFileSource
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.data.traces import Generation, Problem, Span, Step
from redi_lab.data.verdicts import truncation
from redi_lab.errors import UserError
from redi_lab.evaluation.benchmarks import Benchmark, EvalProblem
from redi_lab.evaluation.results import content_digest
from redi_lab.files import replacing, write_text
from redi_lab.grading.grader import Verdict
from redi_lab.run.arguments import check_arguments
from redi_lab.run.build import make_engine, make_grader, make_source
from redi_lab.run.evaluation import advancing, make_evaluation
from redi_lab.run.preflight import check_engine
from redi_lab.run.record import quieten_libraries, results_folder, write_summary
from redi_lab.run.screen import CONSOLE, progress_bar
from redi_lab.run.training_record import read_record, settle_protocol
from redi_lab.verbs.curate.rollouts import Prefixes, Tallies, WrongTrace, roll_out

STEPS_FILE = "steps.parquet"
TRACES_FILE = "traces.jsonl"
LOCATED, HOPELESS, UNCERTAIN = "located", "hopeless", "uncertain"
CUT_OFF, NO_ANSWER = "cut_off", "without_answer"

_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        *(pa.field(name, pa.int32(), nullable=False) for name in ("generation_index", "step", "start", "end")),
        *(pa.field(name, pa.int32(), nullable=False) for name in ("rollouts", "right", "unknown")),
        *(pa.field(name, pa.float64()) for name in ("chance", "advantage")),
        pa.field("first_wrong", pa.float64(), nullable=False),
    ]
)


@final
@dataclass(frozen=True)
class Found:
    """What became of a wrong trace.

    Attributes:
        outcome: located, or why not.
        steps: of the trace.
        rows: of steps.parquet; the first is the problem alone, as step 0.
        cut: what follows the first wrong step, with the weight 0.
    """

    outcome: str
    steps: tuple[Step, ...] = ()
    rows: tuple[Mapping[str, Any], ...] = ()
    cut: tuple[Span, ...] = ()


def run_steps(arguments: Sequence[str]) -> Path:
    """The verb.

    Returns:
        The results folder, with steps.parquet, traces.jsonl and summary.json.

    Raises:
        UserError: there is no wrong trace to look into, or the traces or the checkpoint cannot be read.
    """
    config = load_config("steps", arguments)
    check_engine(config)
    quieten_libraries()
    check_arguments(config)
    source, checkpoint = make_source(config), Path(config.checkpoint).absolute()
    if not isinstance(source, TraceFileSource):
        raise UserError(f"data.source._target_={config.data.source._target_}: no file of traces; choose data=jsonl")
    check_folder(checkpoint, "checkpoint")
    encoder = _make_encoder(config, checkpoint)
    first, number = config.eval.offset, config.eval.limit
    rows = islice(source.problems(), first, None if number is None else first + number)
    problems = [row for row in rows if isinstance(row, Problem)]
    with results_folder(config) as folder:
        with progress_bar() as progress, closing(make_engine(config)) as engine, make_grader(config) as grader:
            prefixes = Prefixes(grader, require_closed_thought=config.eval.grader.require_closed_thought)
            traces, found = _cut(problems, encoder, prefixes, config)
            if not traces:
                raise UserError(
                    f"data.path={config.data.path}: no wrong trace to look into; rows need an answer, and traces an end"
                )
            benchmark = Benchmark.of("steps", prefixes.problems)
            evaluation = make_evaluation(
                config, checkpoint, benchmark, engine, prefixes, progress.console, encode=prefixes.encode
            )
            evaluation = replace(evaluation, require_closed_thought=False)  # of rollouts alone; see `Prefixes`
            tallies = roll_out(evaluation, traces, config.steps, advancing(progress, "Rollouts"))
        found |= {(one.row, one.generation): locate(one, tallies, config.steps) for one in traces}
        provenance = {
            "source": source.table().source,
            "steps": dict(config.steps),
            "checkpoint": str(checkpoint),
            "checkpoint_hash": evaluation.checkpoint_hash,
            "protocol": evaluation.protocol,
        }
        _write(folder, problems, found, provenance)
        metrics = _count(found, tallies)
        fingerprint = content_digest([evaluation.key, source.digest(), provenance["steps"]])[:32]
        content = {"name": config.name, "verb": "curate steps", "metrics": metrics, "fingerprint": fingerprint}
        write_summary(folder, config, content | provenance)
    for name, number in metrics.items():
        CONSOLE.print(f"{name.replace('_', ' ')}: {number:,}", highlight=False)
    print(f"Results:    {folder}")
    return folder


def _make_encoder(config: DictConfig, checkpoint: Path) -> TraceEncoder:
    """What writes prompts, as the checkpoint was trained to be asked or as the data group says."""
    record, tokenizer = read_record(checkpoint), load_tokenizer(str(checkpoint), key="checkpoint")
    settle_protocol(config, checkpoint, record, uses_data=True)
    if record is None and not tokenizer.chat_template:
        print(f"{checkpoint.name} has no chat template: the prompt is {config.eval.prompt_template!r} as it is")
    return TraceEncoder(tokenizer, config.eval.prompt_template, config.eval.thinking_prefix)


def _cut(
    problems: Sequence[Problem], encoder: TraceEncoder, prefixes: Prefixes, config: DictConfig
) -> tuple[list[WrongTrace], dict[tuple[int, int], Found]]:
    """The wrong traces with their prefixes; and by row and generation, those that cannot be looked into."""
    traces: list[WrongTrace] = []
    left_out: dict[tuple[int, int], Found] = {}
    for row, problem in enumerate(problems):
        for number, generation in enumerate(problem.generations):
            if generation.correct is not False:
                continue
            if problem.answer is None:
                left_out[row, number] = Found(NO_ANSWER)
            elif truncation(generation, config.eval.thinking_prefix) is not None:
                left_out[row, number] = Found(CUT_OFF)
            else:
                asked = EvalProblem(problem.id, problem.problem, (problem.answer,))
                traces.append(prefixes.cut(row, number, asked, generation.text, encoder, config.steps.split))
    return traces, left_out


def locate(trace: WrongTrace, tallies: Tallies, settings: DictConfig) -> Found:
    """Where a trace goes wrong, by the rollouts of its prefixes."""
    counts, num_steps = trace.counts(tallies), len(trace.ends)
    belief = first_wrong(counts, num_steps, settings.recovery)
    best = int(belief.argmax())
    outcome = UNCERTAIN if belief[best] < settings.confidence else LOCATED if best else HOPELESS
    steps: list[Step] = []
    rows: list[Mapping[str, Any]] = []
    before: float | None = None
    for step, chance in enumerate(chances(counts, num_steps)):
        start, end = (0, 0, *trace.ends)[step : step + 2]
        gain = None if before is None or chance is None else chance - before
        before, tally = chance, tallies.get((*trace.prefixes, -1)[step], Counter[Verdict]())
        steps.append(Step(start, end, None if outcome != LOCATED or step > best else step < best, gain))
        place = {"step": step, "start": start, "end": end, "rollouts": tally.total()}
        verdicts = {verdict.value: tally[verdict] for verdict in (Verdict.RIGHT, Verdict.UNKNOWN)}
        rows.append({**place, **verdicts, "chance": chance, "advantage": gain, "first_wrong": float(belief[step])})
    is_cut = outcome == LOCATED and best < num_steps
    cut = (Span(trace.ends[best - 1], trace.ends[-1], 0.0),) if is_cut else ()
    return Found(outcome, tuple(steps[1:]), tuple(rows), cut)


def _count(found: Mapping[tuple[int, int], Found], tallies: Tallies) -> dict[str, int]:
    """What there is, by name."""
    outcomes = Counter(one.outcome for one in found.values())
    verdicts = sum(tallies.values(), Counter[Verdict]())
    return {
        "wrong_traces": len(found),
        **{name: outcomes[name] for name in (LOCATED, HOPELESS, UNCERTAIN, CUT_OFF, NO_ANSWER)},
        "of_one_step": sum(len(one.steps) == 1 for one in found.values()),
        "rollouts": verdicts.total(),
        **{verdict.value: verdicts[verdict] for verdict in Verdict},
    }


def _write(
    folder: Path,
    problems: Sequence[Problem],
    found: Mapping[tuple[int, int], Found],
    provenance: Mapping[str, Any],
) -> None:
    """Write both files, each whole or not at all; wrong traces without a first wrong step leave traces.jsonl.

    `provenance` stands in the metadata of the other, as JSON under `redi_lab`.
    """
    rows = [
        {"id": problems[row].id, "generation_index": generation, **step}
        for (row, generation), one in sorted(found.items())
        for step in one.rows
    ]
    with replacing(folder / STEPS_FILE) as partial:
        schema = _SCHEMA.with_metadata({"redi_lab": json.dumps(provenance)})
        pq.write_table(pa.Table.from_pylist(rows, schema), partial)
    lines = []
    for row, problem in enumerate(problems):
        looked = [(one, found.get((row, number))) for number, one in enumerate(problem.generations)]
        marked = tuple(_marked(*one) for one in looked if one[1] is None or one[1].outcome == LOCATED)
        lines.append(json.dumps(replace(problem, generations=marked).as_row()) + "\n")
    write_text(folder / TRACES_FILE, "".join(lines))


def _marked(generation: Generation, found: Found | None) -> Generation:
    """A generation, with the steps that were found in it."""
    weights = generation.weights
    if found is not None:
        weights = replace(weights, steps=found.steps, spans=weights.spans or found.cut)
    elif generation.correct and not weights.steps:  # one step, so that step_advantages weighs it as it is
        weights = replace(weights, steps=(Step(0, len(generation.text), None, 1.0),))
    return replace(generation, weights=weights)
