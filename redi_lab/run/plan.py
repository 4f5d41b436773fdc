"""What a stage takes of memory, time and disk, from its configuration, its model's shape and the lengths of its data."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from omegaconf import DictConfig, OmegaConf

from redi_lab.backbone.attention import PADDED
from redi_lab.backbone.causal_lm import CHUNK, CausalLM
from redi_lab.config.compose import CONFIG_DIR
from redi_lab.config.schema.plan import load_assumptions
from redi_lab.data.datamodule import TraceDataModule
from redi_lab.data.packing import pack_into_grids, pack_into_rows
from redi_lab.planning.footprint import Sizes, measure_layers, new_model
from redi_lab.planning.memory import Situation, step_memory
from redi_lab.planning.rates import RATES, Planned, device_name, measured_rate
from redi_lab.planning.work import Work, forward_work
from redi_lab.run.build import objective_class

LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
"""As conf/model/hf_lora.yaml has it."""
_GB = 10**9
_SAMPLE = 2048  # examples, where lengths are drawn or batches are looked at
_COMPLETION = 0.95  # of a drawn length

Example = Sequence[tuple[int, int]]
"""(tokens, completion tokens) of each of its sequences."""


class Lengths(NamedTuple):
    """Of what is trained on."""

    examples: Sequence[Example]
    number: int
    """Of all examples, where those are a sample."""

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(tokens for example in self.examples for tokens, _ in example)

    @classmethod
    def of(cls, data: TraceDataModule) -> Lengths:
        """Those of the tokenised training data."""
        examples = [[(len(s.input_ids), s.completion_length) for s in e] for e in data.train_examples]
        return cls(examples, len(examples))

    @classmethod
    def drawn(cls, number: int, median: int, longest: int, *, width: int, spread: float) -> Lengths:
        """Lognormal ones, of `width` sequences an example, drawn again beyond `longest`, which one of them has."""
        draw = random.Random(0)

        def length() -> int:
            while not 1 <= (tokens := round(math.exp(draw.gauss(math.log(median), spread)))) <= longest:
                pass
            return tokens

        drawn = [[length() for _ in range(width)] for _ in range(min(number, _SAMPLE))]
        drawn[0] = [longest] * width
        return cls([[(n, max(1, round(_COMPLETION * n))) for n in example] for example in drawn], number)


@final
@dataclass(frozen=True)
class StagePlan:
    """A stage on a kind of device.

    Attributes:
        config: of the stage.
        sizes: of its model.
        memory: bytes of a device at the moment of a step that takes most, by component.
        other_memory: bytes in total at other moments.
        lengths: of its data.
        row: tokens of the largest forward pass.
        steps: of the optimizer.
        operations: of the whole training.
        disk: bytes by what is written.
    """

    config: DictConfig
    sizes: Sizes
    memory: dict[str, int]
    other_memory: dict[str, int]
    lengths: Lengths
    row: int
    steps: int
    operations: float
    disk: dict[str, int]

    @property
    def step_bytes(self) -> int:
        """The peak of the training steps."""
        return sum(self.memory.values())

    @property
    def peak_bytes(self) -> int:
        """The peak of everything."""
        return max(self.step_bytes, *self.other_memory.values())


def plan_stage(
    config: DictConfig, model: Any, lengths: Lengths, *, is_gpu: bool, devices: int = 1, sizes: Sizes | None = None
) -> StagePlan:
    """Plan a stage.

    Args:
        config: with `trainer.precision` settled.
        model: the configuration of its model in transformers.
        lengths: of its data.
        is_gpu: whether it runs on GPUs.
        devices: how many, over all nodes.
        sizes: of the model, where it is there already.

    Raises:
        RuntimeError: see `measure_layers`.
    """
    lora = OmegaConf.to_container(config.model.lora) if config.model.lora is not None else None
    sizes = sizes or Sizes.of(new_model(model, config.model.dtype, lora))  # type: ignore[arg-type]
    row, has_many_rows = _largest_row(config, lengths, devices)
    is_mixed = config.trainer.precision == "bf16-mixed"
    layers = measure_layers(
        model,
        dtype=config.model.dtype,
        lora=lora,  # type: ignore[arg-type]
        precision=config.trainer.precision,
        checkpointing=config.model.gradient_checkpointing,
        tokens=row,
    )
    sequences = [sequence for example in lengths.examples for sequence in example]
    completion = sum(of for _, of in sequences) / sum(tokens for tokens, _ in sequences)
    assumed = load_assumptions(CONFIG_DIR)
    libraries = round(_GB * (assumed.context_gb if is_gpu else assumed.libraries_gb))
    callbacks = config.callbacks
    moments = 2 if "Adam" in config.optimizer._target_ else 1
    memory = step_memory(
        sizes,
        layers,
        Situation(
            is_gpu=is_gpu,
            is_mixed=is_mixed,
            targets=math.ceil(row * completion),
            chunk=config.model.head_chunk_tokens or CHUNK["other" if is_gpu else "cpu"],
            has_many_rows=has_many_rows,
            moments=moments,
            keeps_update=callbacks.get("update_norm") is not None,
            splits_gradient=callbacks.get("gradient_conflict") is not None and _task(config) != "demonstrations",
            num_devices=devices,
            libraries=libraries,
        ),
    )
    epochs, steps = _epochs(config, lengths)
    work = forward_work(
        sequences,
        products=sizes.products,
        attention_width=sizes.attention_width,
        head=math.prod(sizes.head),
    ).times(epochs * lengths.number / len(lengths.examples))
    return StagePlan(
        config=config,
        sizes=sizes,
        memory=memory,
        other_memory=_other_memory(config, sizes, moments, libraries, is_gpu=is_gpu, is_mixed=is_mixed),
        lengths=lengths,
        row=row,
        steps=steps,
        operations=_operations(config, sizes, work),
        disk=_disk(config, sizes, moments, steps),
    )


def _operations(config: DictConfig, sizes: Sizes, work: Work) -> float:
    return work.executed(
        trained_share=sizes.trained_products / sizes.products,
        is_head_trained=sizes.is_head_trained,
        checkpointing=config.model.gradient_checkpointing,
    )


def _task(config: DictConfig) -> str:
    return objective_class(config).task


def _largest_row(config: DictConfig, lengths: Lengths, devices: int) -> tuple[int, bool]:
    """Tokens of the largest forward pass, and whether a device makes more than one in a step."""
    objective, data = objective_class(config), config.data
    whole = not (objective.is_linear or objective.is_separable)
    share, is_padded = max(1, data.batch_size // devices), config.model.attention == PADDED
    largest, has_many = 0, False
    examples = sorted(lengths.examples, key=lambda e: -max(n for n, _ in e))[:share] + list(lengths.examples[:_SAMPLE])
    for start in range(0, len(examples), share):  # the first batch is one of the longest
        batch = [[n for n, _ in example] for example in examples[start : start + share]]
        units = batch if whole else [[n] for example in batch for n in example]
        if is_padded:
            width, tallest = len(units[0]), [max(unit) for unit in units]
            grids = pack_into_grids(tallest, width, data.micro_batch_tokens)
            rows = [len(grid) * width * max(tallest[i] for i in grid) for grid in grids]
        else:
            packed = pack_into_rows([sum(unit) for unit in units], data.micro_batch_tokens)
            rows = [sum(sum(units[i]) for i in row) for row in packed]
        largest, has_many = max(largest, *rows), has_many or len(rows) > 1
    return largest, has_many


def _epochs(config: DictConfig, lengths: Lengths) -> tuple[float, int]:
    """Passes over the data, and optimizer steps."""
    number = lengths.number / (2 if _task(config) == "unpaired" else 1)
    epoch, trainer = math.ceil(number / config.data.batch_size), config.trainer
    limit = trainer.limit_train_batches
    used = epoch if limit is None else min(epoch, limit if isinstance(limit, int) else max(1, int(limit * epoch)))
    steps = math.inf if trainer.max_epochs in (None, -1) else used * trainer.max_epochs
    steps = min(steps, math.inf if trainer.max_steps == -1 else trainer.max_steps)
    return (steps / epoch, int(steps)) if math.isfinite(steps) else (1.0, epoch)  # max_time alone ends it


def _other_memory(
    config: DictConfig, sizes: Sizes, moments: int, libraries: int, *, is_gpu: bool, is_mixed: bool
) -> dict[str, int]:
    """Totals while a step is not running."""
    weights, trained = sizes.weight_bytes, sizes.trained_bytes
    state = libraries + weights + trained * (1 + moments)
    stored = weights // max(1, sizes.parameters)  # bytes of a number
    found = {"loading": libraries + weights * (1 if is_gpu else 2)}
    accuracy = config.callbacks.get("accuracy")
    if accuracy is not None and config.data.num_development:
        tokens = config.data.num_development * accuracy.num_samples * _room(config, accuracy.max_new_tokens)
        cache = min(accuracy.max_batch_tokens, tokens) * sizes.cache_width * (2 if is_mixed else stored)
        found["accuracy during training"] = state + cache
    if config.loss.get("reference", "init") not in (None, "init"):
        found["reference"] = libraries + 2 * weights
    if config.eval.benchmark is not None and "max_batch_tokens" in config.engine:
        cache = config.engine.max_batch_tokens * sizes.cache_width * stored
        found["evaluation"] = (libraries if is_gpu else state) + weights + cache
    return found


def _room(config: DictConfig, limit: int | None) -> int:
    new = min(config.eval.max_new_tokens, limit or config.eval.max_new_tokens)
    return int(new + (config.data.max_prompt_tokens or 0))


def _disk(config: DictConfig, sizes: Sizes, moments: int, steps: int) -> dict[str, int]:
    """Bytes of checkpoints, and of training states, which go when the training is done."""
    settings, state = config.callbacks.get("checkpoints"), config.callbacks.get("state")
    number = 0
    if settings is not None:
        number = 1 + (settings.monitor is not None) + (steps // settings.every_n_steps if settings.every_n_steps else 0)
    kept = 0 if state is None else state.keep_last
    return {"checkpoints": number * sizes.weight_bytes, "states": kept * (1 + moments) * sizes.trained_bytes}


def cheapest_fit(
    config: DictConfig, model: Any, lengths: Lengths, capacity: int, *, is_gpu: bool, devices: int = 1
) -> tuple[list[str], StagePlan] | None:
    """The overrides under which a stage fits into `capacity` bytes with the least work, and what it takes then.

    Tried are what layers keep, the size of micro-batches and, where none of them will do, adapters.
    """
    for changes in _candidates(config, lengths):
        changed = copy.deepcopy(config)
        for key, value in changes.items():
            OmegaConf.update(changed, key, value, merge=False)
        plan = plan_stage(changed, model, lengths, is_gpu=is_gpu, devices=devices)
        if plan.peak_bytes <= capacity:
            return [_override(key, value) for key, value in changes.items()], plan
    return None


def _candidates(config: DictConfig, lengths: Lengths) -> Iterator[dict[str, Any]]:
    objective = objective_class(config)
    meets = not (objective.is_linear or objective.is_separable)
    least = max((sum if meets else max)(n for n, _ in example) for example in lengths.examples)
    for adapters in ({}, {"model.lora": LORA}) if config.model.lora is None else ({},):
        for mode in ("none", "selective", "full"):
            for tokens in sorted({config.data.micro_batch_tokens, least}, reverse=True):
                yield {"model.gradient_checkpointing": mode, "data.micro_batch_tokens": tokens, **adapters}


def _override(key: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"'{key}={{{','.join(f'{k}: {v}' for k, v in value.items())}}}'"
    return f"{key}={value}"


def plan_run(config: DictConfig, data: TraceDataModule, backbone: CausalLM, device: torch.device) -> Planned | None:
    """The plan of a training whose model and data are there; None where its layers cannot be run without numbers."""
    lengths, is_gpu, model = Lengths.of(data), device.type == "cuda", backbone.plain.config
    try:
        plan = plan_stage(config, model, lengths, is_gpu=is_gpu, sizes=Sizes.of(backbone.model))
    except (RuntimeError, TypeError, ValueError, AttributeError):
        return None
    rates, width = Path(config.paths.cache_dir) / RATES, plan.sizes.head[1]
    rate = measured_rate(rates, device_name(device), config.trainer.precision, width)

    def remedy(capacity: int) -> str | None:
        found = cheapest_fit(config, model, lengths, capacity, is_gpu=is_gpu)
        return None if found is None else f"this would fit: {' '.join(found[0])}"

    peak, libraries = (
        max(plan.step_bytes, plan.other_memory.get("accuracy during training", 0)),
        plan.memory["libraries"],
    )
    return Planned(
        peak_bytes=peak - libraries if is_gpu else peak,  # torch counts its tensors alone
        base_bytes=0 if is_gpu else libraries,
        operations=plan.operations,
        seconds=None if rate is None else plan.operations / rate,
        remedy=remedy,
        rates=rates,
        precision=config.trainer.precision,
        width=width,
    )
