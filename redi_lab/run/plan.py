"""What a stage takes of memory, time and disk: from settings, the shape of its model and the lengths of its data."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from omegaconf import DictConfig, OmegaConf
from rich.markup import escape

from redi_lab.backbone.causal_lm import CHUNK, CausalLM
from redi_lab.config.compose import CONFIG_DIR
from redi_lab.config.schema.plan import load_assumptions
from redi_lab.data.datamodule import TraceDataModule
from redi_lab.data.packing import pack_into_rows
from redi_lab.errors import UserError, in_short
from redi_lab.planning.footprint import Sizes, measure_layers, new_model
from redi_lab.planning.rates import Planned, Rates, device_name
from redi_lab.planning.step import forward_work, gathered_memory, step_memory
from redi_lab.run.build import objective_class
from redi_lab.run.screen import say

_ADAPTERS = "model/lora=default"
_SAMPLE = 2048  # examples that are drawn, or whose batches are looked at
_COMPLETION = 0.95  # of a drawn length


class Lengths(NamedTuple):
    """Of what is trained on."""

    examples: Sequence[Sequence[tuple[int, int]]]
    """(tokens, completion tokens) of the sequences of each."""
    number: int
    """Of all examples, where those are a sample."""

    @classmethod
    def of(cls, data: TraceDataModule) -> Lengths:
        """Those of the tokenised training data."""
        examples = [[(len(s.input_ids), s.completion_length) for s in e] for e in data.train_examples]
        return cls(examples, len(examples))

    @classmethod
    def drawn(cls, number: int, median: int, longest: int, *, width: int, spread: float) -> Lengths:
        """Lognormal ones, of `width` sequences an example, drawn again beyond `longest`; one example has that."""
        draw = random.Random(0)

        def length() -> int:
            while not 1 <= (tokens := round(math.exp(draw.gauss(math.log(median), spread)))) <= longest:
                pass
            return tokens

        drawn = [[length() for _ in range(width)] for _ in range(min(number, _SAMPLE))]
        drawn[0] = [longest] * width
        return cls([[(n, max(1, round(_COMPLETION * n))) for n in example] for example in drawn], number)

    def longest(self, *, is_whole: bool = False) -> int:
        """Tokens of the longest sequence, or of the longest whole example."""
        return max((sum if is_whole else max)(n for n, _ in example) for example in self.examples)


@final
@dataclass(frozen=True)
class StagePlan:
    """A stage on a number of devices: bytes on each, by component at the peak of a step, and in all at other times."""

    config: DictConfig
    lengths: Lengths
    sizes: Sizes
    devices: int
    row: int
    """Tokens of the largest forward pass."""
    steps: int
    operations: float
    memory: dict[str, int]
    other_memory: dict[str, int]
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
    config: DictConfig, model: Any, lengths: Lengths, *, is_gpu: bool, sizes: Sizes | None = None
) -> StagePlan:
    """Plan a stage.

    Args:
        config: with `trainer.precision` settled.
        model: the configuration of its model in transformers.
        lengths: of its data.
        is_gpu: whether it runs on GPUs.
        sizes: of the model, where it is there already.

    Raises:
        UserError: its weights are offloaded.
        RuntimeError: see `measure_layers`.
    """
    if config.trainer.fsdp_offload:
        raise UserError("trainer.fsdp_offload=true: offloading cannot be planned; plan with trainer.fsdp_offload=false")
    devices = config.trainer.devices * config.trainer.num_nodes
    group: Any = OmegaConf.to_container(config.model)
    is_in_4_bits = group["lora"] is not None and group["lora"]["quantization"] is not None
    if sizes is None or is_in_4_bits:  # packed weights do not say how many they are
        sizes = Sizes.of(new_model(model, group["dtype"], group["lora"]))
    sizes = sizes.quantised(_bytes_each(config)) if is_in_4_bits else sizes
    precision, mode, callbacks = config.trainer.precision, group["gradient_checkpointing"], config.callbacks
    row, has_many_rows = _largest_row(config, lengths, devices)
    layers = measure_layers(
        model, dtype=group["dtype"], lora=group["lora"], precision=precision, checkpointing=mode, tokens=row
    )
    sequences = [sequence for example in lengths.examples for sequence in example]
    completion = sum(of for _, of in sequences) / sum(tokens for tokens, _ in sequences)
    assumed, moments = load_assumptions(CONFIG_DIR), 2 if "Adam" in config.optimizer._target_ else 1
    shards = devices if config.trainer.strategy == "fsdp2" else 1
    state = {
        "libraries": round(1e9 * (assumed.context_gb if is_gpu else assumed.libraries_gb)),
        "weights": sizes.weight_bytes // shards,
        "optimizer": moments * sizes.trained_bytes // shards,
    }
    memory = state | step_memory(
        sizes,
        layers,
        is_gpu=is_gpu,
        is_mixed=precision == "bf16-mixed",
        targets=math.ceil(row * completion),
        chunk=group["head_chunk_tokens"] or CHUNK["other" if is_gpu else "cpu"],
        has_many_rows=has_many_rows,
        keeps_update=callbacks.get("update_norm") is not None,
        splits_gradient=callbacks.get("gradient_conflict") is not None and _task(config) != "demonstrations",
        shards=shards,
    )
    if shards > 1:
        count = model.get_text_config().num_hidden_layers
        memory["gathered"] = gathered_memory(sizes, layers=count, bytes_each=_bytes_each(config))
    epochs, steps = _duration(config, lengths)
    head = math.prod(sizes.head)
    work = forward_work(sequences, products=sizes.products, attention_width=sizes.attention_width, head=head)
    share = sizes.trained_products / sizes.products
    step = work.of_a_step(trained_share=share, is_head_trained=sizes.is_head_trained, checkpointing=mode)
    exports, states = callbacks.get("checkpoints"), callbacks.get("state")
    interval = exports and exports.every_n_steps
    number = (steps // interval if interval else 0) + 1 + (exports.monitor is not None) if exports else 0
    kept = (1 + moments) * sizes.trained_bytes * states.keep_last if states else 0
    return StagePlan(
        config=config,
        lengths=lengths,
        sizes=sizes,
        devices=devices,
        row=row,
        steps=steps,
        operations=step * epochs * lengths.number / len(lengths.examples),
        memory=memory,
        other_memory=_other_memory(config, sizes, state, is_gpu=is_gpu, shards=shards),
        disk={"checkpoints": number * sizes.weight_bytes, "states meanwhile": kept},
    )


def _task(config: DictConfig) -> str:
    return objective_class(config).task


def _meets(config: DictConfig) -> bool:
    """Whether the sides of a pair have to be in one forward pass."""
    objective = objective_class(config)
    return not (objective.is_linear or objective.is_separable)


def _largest_row(config: DictConfig, lengths: Lengths, devices: int) -> tuple[int, bool]:
    """Tokens of the largest forward pass, and whether a device makes more than one in a step."""
    share, largest, has_many = max(1, config.data.batch_size // devices), 0, False
    by_length = sorted(lengths.examples, key=lambda example: -sum(n for n, _ in example))
    examples = [*by_length[:share], *lengths.examples[:_SAMPLE]]  # the first batch is that of the longest
    for start in range(0, len(examples), share):
        batch = [[n for n, _ in example] for example in examples[start : start + share]]
        units = [sum(units) for units in batch] if _meets(config) else [n for units in batch for n in units]
        rows = pack_into_rows(units, config.data.micro_batch_tokens)
        largest, has_many = max(largest, *(sum(units[i] for i in row) for row in rows)), has_many or len(rows) > 1
    return largest, has_many


def _duration(config: DictConfig, lengths: Lengths) -> tuple[float, int]:
    """Passes over the data, and optimizer steps; one pass where only `trainer.max_time` ends the training."""
    trainer, number = config.trainer, lengths.number / (2 if _task(config) == "unpaired" else 1)
    epoch, limit = math.ceil(number / config.data.batch_size), trainer.limit_train_batches
    used = epoch if limit is None else min(epoch, limit if isinstance(limit, int) else int(limit * epoch))
    limits = [] if trainer.max_epochs in (None, -1) else [used * trainer.max_epochs]
    limits += [] if trainer.max_steps == -1 else [trainer.max_steps]
    steps = min(limits, default=epoch)
    return steps / epoch, steps


def _bytes_each(config: DictConfig) -> int:
    return 2 if config.model.dtype == "bfloat16" else 4


def _other_memory(
    config: DictConfig, sizes: Sizes, state: dict[str, int], *, is_gpu: bool, shards: int
) -> dict[str, int]:
    """Totals while no step is running: keys and values of generation, and a second model."""
    stored = _bytes_each(config)
    training, accuracy = sum(state.values()) + sizes.trained_bytes // shards, config.callbacks.get("accuracy")
    found = {"loading": state["libraries"] + sizes.weight_bytes * (1 if is_gpu else 2)}
    if accuracy is not None and config.data.num_development:
        new = min(config.eval.max_new_tokens, accuracy.max_new_tokens or config.eval.max_new_tokens)
        tokens = config.data.num_development * accuracy.num_samples * (new + (config.data.max_prompt_tokens or 0))
        cell = 2 if config.trainer.precision == "bf16-mixed" else stored
        cache = min(accuracy.max_batch_tokens, tokens) * sizes.cache_width * cell
        whole = sizes.weight_bytes * (shards > 1)  # the first rank answers with a copy
        found["accuracy in training"] = training + whole + cache
    if config.loss.get("reference", "init") not in (None, "init"):
        found["reference"] = state["libraries"] + 2 * sizes.weight_bytes
    if config.eval.benchmark is not None and "max_batch_tokens" in config.engine:
        beside = state["libraries"] if is_gpu else training  # Lightning takes what was trained off a GPU
        found["evaluation"] = (
            beside + stored * sizes.parameters + config.engine.max_batch_tokens * sizes.cache_width * stored
        )
    return found


def cheapest_fit(
    config: DictConfig, model: Any, lengths: Lengths, capacity: int, *, is_gpu: bool
) -> tuple[list[str], StagePlan] | None:
    """The overrides under which a stage fits into `capacity` bytes with the least work, and what it takes then.

    Tried are what layers keep, the size of micro-batches and, where none of them will do, adapters.
    """
    for overrides in _candidates(config, lengths):
        lora = {"model": {"lora": OmegaConf.load(CONFIG_DIR / "model/lora/default.yaml")}}
        plain = [override for override in overrides if override != _ADAPTERS]
        added = [lora] if _ADAPTERS in overrides else []
        changed = OmegaConf.merge(copy.deepcopy(config), OmegaConf.from_dotlist(plain), *added)
        assert isinstance(changed, DictConfig)
        plan = plan_stage(changed, model, lengths, is_gpu=is_gpu)
        if plan.peak_bytes <= capacity:
            return overrides, plan
    return None


def _candidates(config: DictConfig, lengths: Lengths) -> Iterator[list[str]]:
    rows = {config.data.micro_batch_tokens, lengths.longest(is_whole=_meets(config))}
    for adapters in ([], [_ADAPTERS]) if config.model.lora is None else ([],):
        for mode in ("none", "selective", "full"):
            for tokens in sorted(rows, reverse=True):
                yield [f"model.gradient_checkpointing={mode}", f"data.micro_batch_tokens={tokens}", *adapters]


def plan_run(config: DictConfig, data: TraceDataModule, backbone: CausalLM, device: torch.device) -> Planned | None:
    """The plan of a training whose model and data are there; None, and a line that says why, where that fails."""
    lengths, is_gpu, model = Lengths.of(data), device.type == "cuda", backbone.plain.config
    try:
        plan = plan_stage(config, model, lengths, is_gpu=is_gpu, sizes=Sizes.of(backbone.model))
    except Exception as error:  # whatever a model's own code raises: an estimate must not end a training
        say(f"[dim]its memory and time cannot be planned: {escape(in_short(error))}[/dim]")
        return None
    rates, of = Rates(Path(config.paths.cache_dir)), (device_name(device), config.trainer.precision, plan.sizes.head[1])
    rate, base = rates.find(*of), plan.memory["libraries"]
    outside = base if is_gpu else 0  # torch counts its tensors alone

    def remedy(capacity: int) -> str | None:
        found = cheapest_fit(config, model, lengths, capacity + outside, is_gpu=is_gpu)
        return found and " ".join(found[0])

    return Planned(
        peak_bytes=max(plan.step_bytes, plan.other_memory.get("accuracy in training", 0)) - outside,
        base_bytes=base - outside,
        operations=plan.operations / plan.devices,
        seconds=None if rate is None else plan.operations / plan.devices / rate,
        remedy=remedy,
        remember=partial(rates.add, *of),
    )
