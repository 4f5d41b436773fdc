"""Weigh the tokens of traces as OREAL does: `python -m redi_lab curate omega checkpoint=FOLDER data.path=FILE`.

The checkpoint is a token reward model (+experiment=token_reward). The results folder gets `traces.jsonl`, which
`data=jsonl` and `curate data=jsonl` read: the traces with weights as spans, for `data.token_weights=spans`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from redi_lab.backbone.causal_lm import REWARD_HEAD, CausalLM
from redi_lab.backbone.loading import load_backbone
from redi_lab.backbone.weights import check_folder
from redi_lab.config.compose import load_config
from redi_lab.curation.omega import as_spans, score_traces
from redi_lab.data.batches import check_budget
from redi_lab.data.chats import Dialogue
from redi_lab.data.readers import TraceFileSource
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.data.traces import Generation, Problem, TraceWeights
from redi_lab.errors import UserError
from redi_lab.evaluation.results import checkpoint_hash, content_digest
from redi_lab.files import write_text
from redi_lab.losses.token_reward import omega
from redi_lab.run.build import make_source
from redi_lab.run.record import quieten_libraries, results_folder, write_summary
from redi_lab.run.training_record import read_record
from redi_lab.verbs.curate.steps import TRACES_FILE

_SIDES = {"right": True, "wrong": False}


class Weighed(NamedTuple):
    """What became of a trace: its weights, their mean over tokens, and whether its score agrees with its verdict."""

    weights: TraceWeights
    mean: float
    is_agreed: bool


def run_omega(arguments: Sequence[str]) -> Path:
    """The verb.

    Returns:
        The results folder, with traces.jsonl and summary.json.

    Raises:
        UserError: the checkpoint is no token reward model, or the traces have no verdicts, or spans already.
    """
    config = load_config("omega", arguments)
    checkpoint = Path(config.checkpoint).absolute()
    if not (checkpoint / REWARD_HEAD).is_file():
        raise UserError(
            f"checkpoint={checkpoint}: no token reward model ({REWARD_HEAD} is missing); train one with"
            " +experiment=token_reward"
        )
    quieten_libraries()
    source = make_source(config)
    if not isinstance(source, TraceFileSource):
        raise UserError(f"data.source._target_={config.data.source._target_}: no file of traces; choose data=jsonl")
    problems = [row for row in source.problems() if isinstance(row, Problem)]
    graded = [(row, one) for row in problems for one in row.generations if one.correct is not None]
    _check(graded, f"data.path={config.data.path}")
    check_folder(checkpoint, "checkpoint")
    model, asked = load_reward_model(checkpoint), read_record(checkpoint) or config.data  # as in its training
    encoder = TraceEncoder(model.tokenizer, asked.prompt_template, asked.thinking_prefix)
    budget = config.data.micro_batch_tokens
    sequences = encoder.encode_all([(row.id, row.problem, one.text) for row, one in graded])
    check_budget([(one,) for one in sequences], budget, split_examples=True, is_padded=False)
    places = encoder.last_characters([one.text for _, one in graded])
    with results_folder(config) as folder:
        weighed = {
            id(one): _weigh(one, scores, last, config.omega.top_share)
            for (_, one), scores, last in zip(graded, score_traces(model, sequences, budget), places, strict=True)
        }
        rows = [replace(row, generations=tuple(_weighed(one, weighed) for one in row.generations)) for row in problems]
        write_text(folder / TRACES_FILE, "".join(json.dumps(row.as_row()) + "\n" for row in rows))
        metrics = _count(problems, weighed)
        provenance = {
            "source": source.table().source,
            "omega": dict(config.omega),
            "checkpoint": str(checkpoint),
            "checkpoint_hash": checkpoint_hash(checkpoint),
        }
        key = content_digest([provenance["checkpoint_hash"], source.digest(), provenance["omega"]])[:32]
        content = {"name": config.name, "verb": "curate omega", "metrics": metrics, "fingerprint": key}
        write_summary(folder, config, content | provenance)
    for name, number in metrics.items():
        print(f"{name.replace('_', ' ')}: {round(number, 3):,}")
    print(f"Results:    {folder}")
    return folder


def load_reward_model(checkpoint: Path) -> CausalLM:
    """A backbone with its scalar head, in evaluation mode on the GPU where there is one.

    Raises:
        UserError: the folder cannot be loaded, or the head is of another model.
    """
    model = load_backbone(path=str(checkpoint))
    weight, width = load_file(checkpoint / REWARD_HEAD).get("weight", torch.zeros(0)), model.head.weight.shape[1]
    if weight.shape != (1, width):
        raise UserError(
            f"checkpoint={checkpoint}: {REWARD_HEAD} has shape {tuple(weight.shape)}, the model takes (1, {width});"
            " copy the folder again"
        )
    model.add_reward_head(weight)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _check(graded: Sequence[tuple[Problem, Generation]], place: str) -> None:
    if not graded:
        raise UserError(f"{place}: no trace has a verdict; grade them first, as curate and generate do")
    for row, one in graded:
        if isinstance(row.problem, Dialogue):
            raise UserError(f'{place}: row with id {row.id}: key "prompt": has several turns, which would be joined')
        if one.weights.spans:
            raise UserError(f"{place}: row with id {row.id}: has spans already; remove them")


def _weigh(trace: Generation, scores: Tensor, last_characters: Sequence[int], top_share: float | None) -> Weighed:
    """A trace none of whose tokens counts gets the weight 0 as a whole: it is still one of the graded ones."""
    is_right = trace.correct is True
    values = omega(scores, is_right=is_right, top_share=top_share).float()
    spans = as_spans(values.tolist(), last_characters)
    has_any = any(span.weight for span in spans)
    weights = replace(trace.weights, spans=spans) if has_any else replace(trace.weights, weight=0.0)
    return Weighed(weights, float(values.mean()), bool(scores.mean() > 0) is is_right)


def _weighed(trace: Generation, weighed: Mapping[int, Weighed]) -> Generation:
    """With the weights that were found; as it is where nobody knows whether it is right."""
    return replace(trace, weights=weighed[id(trace)].weights) if id(trace) in weighed else trace


def _count(problems: Sequence[Problem], weighed: Mapping[int, Weighed]) -> dict[str, float]:
    """What there is, by name."""
    traces = [one for problem in problems for one in problem.generations]
    sides = {name: [weighed[id(one)] for one in traces if one.correct is side] for name, side in _SIDES.items()}
    both = [one for of_side in sides.values() for one in of_side]
    return {
        **{name: len(of_side) for name, of_side in sides.items()},
        "unknown": len(traces) - len(both),
        "without_weight": sum(not one.weights.spans for one in both),
        "agreed": fmean(one.is_agreed for one in both),
        **{f"mean_weight_{name}": fmean(one.mean for one in of_side) for name, of_side in sides.items() if of_side},
    }
