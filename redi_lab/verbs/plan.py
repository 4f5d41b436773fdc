"""`plan`: what a training will need, before it is begun and without its weights."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.box import SIMPLE_HEAD
from rich.table import Table

from redi_lab.backbone.loading import model_config
from redi_lab.callbacks.forecast import free_bytes
from redi_lab.config.schema.plan import DeviceConfig, PlanConfig, PlanWords
from redi_lab.errors import UserError
from redi_lab.files import as_size
from redi_lab.planning.rates import Rates, device_name
from redi_lab.run import build
from redi_lab.run.devices import settle_precision
from redi_lab.run.plan import Lengths, StagePlan, cheapest_fit, plan_stage
from redi_lab.run.record import quieten_libraries
from redi_lab.run.screen import CONSOLE, say, waiting
from redi_lab.run.stages import OpenedData, chain_configs


def run_plan(config: DictConfig, overrides: Sequence[str], words: PlanWords, assumed: PlanConfig) -> None:
    """Print what the stages that end in `config` will need, and the fastest settings of the last one that fit.

    Raises:
        UserError: model or data cannot be read.
    """
    quieten_libraries()
    name = words.gpu or _own_device(assumed)
    device, is_gpu = assumed.devices[name], name != "cpu"
    plans: list[StagePlan] = []
    for stage in chain_configs(config, overrides):
        if is_gpu and stage.trainer.precision == "auto":
            stage.trainer.precision = "bf16-mixed"
        settle_precision(stage)
        lengths, tokenizer = _lengths(stage, words, assumed)
        model = _model(stage, tokenizer)
        plans.append(plan_stage(stage, model, lengths, is_gpu=is_gpu))
    room = free_bytes(torch.device("cpu")) if device.memory_gb is None else round(1e9 * device.memory_gb)
    last = plans[-1]
    CONSOLE.print(_table(f"{last.devices} × {device.name}, {as_size(room)}", plans, device, words, assumed))
    found = cheapest_fit(last.config, model, lengths, room, is_gpu=is_gpu)
    say(f"{last.config.name} as it is {'fits' if last.peak_bytes <= room else 'does [bold]not[/bold] fit'}.")
    if found is None:
        say("[yellow]Nothing does: take a larger device, or drop long traces (data.max_sequence_tokens)[/yellow]")
        return
    say(f"The fastest settings that fit, with {as_size(found[1].peak_bytes)} a device:")
    say(f"  redi-lab {' '.join([*overrides, *found[0]])}")


def _own_device(assumed: PlanConfig) -> str:
    if not torch.cuda.is_available():
        return "cpu"
    own = device_name(torch.device("cuda"))
    for name, device in assumed.devices.items():
        if own.startswith(device.name):
            return name
    raise UserError(f"{own}: nothing is known of this GPU; add it to conf/plan.yaml, or give gpu=NAME")


def _lengths(config: DictConfig, words: PlanWords, assumed: PlanConfig) -> tuple[Lengths, Any]:
    """Those of a stage, and the tokenizer where that was needed."""
    init = _init(config)
    if words.examples and words.median and words.longest:
        if config.model.tokenizer == "bpe":
            raise UserError("examples: the tokenizer of this student is trained on the data, so plan has to read it")
        width = 2 if build.objective_class(config).task == "pairs" else 1
        lengths = Lengths.drawn(words.examples, words.median, words.longest, width=width, spread=assumed.spread)
        has_path = init is not None or config.model.path is not None
        return lengths, None if has_path else build.make_tokenizer(config, None, init)  # type: ignore[arg-type]
    corpus = OpenedData(config).corpus
    tokenizer = build.make_tokenizer(config, corpus, init)
    with waiting("Tokenising") as on_progress:
        encoder = build.make_encoder(config, tokenizer)
        return Lengths.of(build.make_datamodule(config, corpus, encoder, on_progress)), tokenizer


def _init(config: DictConfig) -> Path | None:
    """The folder that a stage starts from."""
    return Path(config.init_from) if config.init_from is not None and Path(config.init_from).is_dir() else None


def _model(config: DictConfig, tokenizer: Any) -> Any:
    group: Any = OmegaConf.to_container(config.model)
    init = _init(config)
    path, revision = (group["path"], group["revision"]) if init is None else (str(init), None)
    return model_config(path, tokenizer, revision, group["config"], group["config_overrides"])


def _table(
    title: str, plans: Sequence[StagePlan], device: DeviceConfig, words: PlanWords, assumed: PlanConfig
) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left")
    table.add_column("")
    for plan in plans:
        table.add_column(f"{plan.config.name}", justify="right")
    columns = [_column(plan, device, words, assumed) for plan in plans]
    for name in dict.fromkeys(name for column in columns for name in column):
        cells = [column.get(name, "") for column in columns]
        if any(cell not in ("", as_size(0)) for cell in cells):
            table.add_row(name, *cells)
    return table


def _column(plan: StagePlan, device: DeviceConfig, words: PlanWords, assumed: PlanConfig) -> dict[str, str]:
    """What is said of a stage, by the names of the rows."""
    sizes, precision, count = plan.sizes, plan.config.trainer.precision, plan.devices
    measured = Rates(Path(plan.config.paths.cache_dir)).find(device.name, precision, sizes.head[1])
    peak = device.bf16_tflops if precision == "bf16-mixed" else device.fp32_tflops
    rate = 1e12 * peak * device.sustained if measured is None else measured
    whose = "measured here" if measured is not None else "assumed" if device.assumed else "measured elsewhere"
    seconds = plan.operations / rate / count
    rows = {
        "parameters": f"{sizes.parameters:,}",
        "trained ones": f"{sizes.trained:,}",
        "examples": f"{plan.lengths.number:,}",
        "tokens: longest sequence": f"{plan.lengths.longest():,}",
        "tokens: largest row": f"{plan.row:,}",
        **{name: as_size(size) for name, size in plan.memory.items()},
        "[bold]peak of a step[/bold]": f"[bold]{as_size(plan.step_bytes)}[/bold]",
        **{f"peak: {name}": as_size(size) for name, size in plan.other_memory.items()},
        "steps": f"{plan.steps:,}",
        f"TFLOP/s, {whose}": f"{rate / 1e12:.3g}",
        "seconds a step": f"{seconds / plan.steps:.3g}",
        "[bold]time[/bold]": f"[bold]{timedelta(seconds=round(seconds))}[/bold]",
        "device-hours": f"{seconds * count / 3600:,.3g}",
        "cost": f"{words.price * seconds * count / 3600:,.2f}" if words.price else "",
        "hours of 1,000 full answers": f"{_decoding_seconds(plan, device, assumed) / 3.6:.3g}",
    }
    return rows | {f"disk: {name}": as_size(size) for name, size in plan.disk.items()}


def _decoding_seconds(plan: StagePlan, device: DeviceConfig, assumed: PlanConfig) -> float:
    """Of an answer of `eval.max_new_tokens` on one device, where reading weights and cache takes the time."""
    new, sizes = plan.config.eval.max_new_tokens, plan.sizes
    together = max(1, plan.config.engine.get("max_batch_tokens", 65_536) // new)
    cache = together * new / 2 * sizes.cache_width * sizes.weight_bytes // sizes.parameters
    return float(new / together * (sizes.weight_bytes + cache) / (1e9 * device.bandwidth_gb * assumed.decode_share))
