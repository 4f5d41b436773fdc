"""`plan`: what a training will need, before it is begun and without its weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from rich.box import SIMPLE_HEAD
from rich.table import Table

from redi_lab.backbone.loading import model_config
from redi_lab.callbacks.forecast import free_bytes
from redi_lab.config.schema.plan import DeviceConfig, PlanConfig, PlanWords
from redi_lab.errors import UserError
from redi_lab.files import as_size
from redi_lab.planning.rates import RATES, device_name, measured_rate
from redi_lab.run import build
from redi_lab.run.opened import OpenedData
from redi_lab.run.plan import Lengths, StagePlan, cheapest_fit, plan_stage
from redi_lab.run.precision import settle_precision
from redi_lab.run.record import quieten_libraries
from redi_lab.run.screen import CONSOLE, say, waiting
from redi_lab.run.stages import chain_configs

_THOUSAND = 1000  # completions


def run_plan(config: DictConfig, overrides: Sequence[str], words: PlanWords, assumed: PlanConfig) -> None:
    """Print what the stages that end in `config` will need, and the fastest settings of the last one that fit.

    Raises:
        UserError: model or data cannot be read.
    """
    quieten_libraries()
    name = words.gpu or _own_device(assumed)
    device, is_gpu, count = assumed.devices[name], name != "cpu", words.devices * words.nodes
    plans, models = [], []
    for stage in chain_configs(config, overrides):
        if is_gpu and stage.trainer.precision == "auto":
            stage.trainer.precision = "bf16-mixed"
        settle_precision(stage)
        model, lengths = _model_and_lengths(stage, words, assumed)
        models.append(model)
        plans.append(plan_stage(stage, model, lengths, is_gpu=is_gpu, devices=count))
    capacity = free_bytes(torch.device("cpu")) if device.memory_gb is None else round(1e9 * device.memory_gb)
    title = f"{count} × {device.name}, {as_size(capacity)}"
    CONSOLE.print(_table(title, plans, device, words, assumed))
    for line in _rates(plans, device):
        say(line)
    last = plans[-1]
    found = cheapest_fit(last.config, models[-1], last.lengths, capacity, is_gpu=is_gpu, devices=count)
    if found is None:
        say(f"[yellow]Nothing fits into {as_size(capacity)}: take a larger device, or drop long traces[/yellow]")
        return
    fits = "fits" if last.peak_bytes <= capacity else "does not fit"
    say(f"As configured {last.config.name} {fits}. The fastest settings that do, {as_size(found[1].peak_bytes)}:")
    say(f"  redi-lab {' '.join([*overrides, *found[0]])}")


def _own_device(assumed: PlanConfig) -> str:
    if not torch.cuda.is_available():
        return "cpu"
    own = device_name(torch.device("cuda"))
    for name, device in assumed.devices.items():
        if own.startswith(device.name):
            return name
    raise UserError(f"{own}: nothing is known of this GPU; add it to conf/plan.yaml, or give gpu=NAME")


def _model_and_lengths(config: DictConfig, words: PlanWords, assumed: PlanConfig) -> tuple[object, Lengths]:
    init = Path(config.init_from) if config.init_from is not None and Path(config.init_from).is_dir() else None
    group, tokenizer = OmegaConf.to_container(config.model), None
    assert isinstance(group, dict)
    if words.examples and words.median and words.longest:
        width = 2 if build.objective_class(config).task == "pairs" else 1
        lengths = Lengths.drawn(words.examples, words.median, words.longest, width=width, spread=assumed.spread)
        if group["path"] is None:
            if group["tokenizer"] == "bpe":
                raise UserError("examples=: this student's tokenizer is trained on the data; leave lengths to the data")
            tokenizer = build.make_tokenizer(config, None, init)  # type: ignore[arg-type]
    else:
        corpus = OpenedData(config).corpus
        tokenizer = build.make_tokenizer(config, corpus, init)
        with waiting("Tokenising") as on_progress:
            encoder = build.make_encoder(config, tokenizer)
            lengths = Lengths.of(build.make_datamodule(config, corpus, encoder, on_progress))
    path = group["path"] if init is None else str(init)
    revision = group["revision"] if init is None else None
    return model_config(path, tokenizer, revision, group["config"], group["config_overrides"]), lengths


def _table(
    title: str, plans: Sequence[StagePlan], device: DeviceConfig, words: PlanWords, assumed: PlanConfig
) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left")
    table.add_column("")
    for plan in plans:
        table.add_column(f"{plan.config.name}", justify="right")

    def line(name: str, cells: Iterable[str], *, ends: bool = False) -> None:
        table.add_row(name, *cells, end_section=ends)

    line("parameters", (f"{p.sizes.parameters:,}" for p in plans))
    line("of them trained", (f"{p.sizes.trained:,}" for p in plans))
    line("examples", (f"{p.lengths.number:,}" for p in plans))
    line("tokens: longest sequence", (f"{p.lengths.longest:,}" for p in plans))
    line("tokens: largest row", (f"{p.row:,}" for p in plans), ends=True)
    for part in dict.fromkeys(part for p in plans for part in p.memory):
        line(part, (as_size(p.memory.get(part, 0)) for p in plans))
    line("[bold]peak of a step[/bold]", (f"[bold]{as_size(p.step_bytes)}[/bold]" for p in plans))
    for part in dict.fromkeys(part for p in plans for part in p.other_memory):
        line(f"peak: {part}", (as_size(p.other_memory.get(part, 0)) for p in plans))
    table.add_section()
    seconds = [p.operations / _rate(p, device)[0] / (words.devices * words.nodes) for p in plans]
    hours = [s * words.devices * words.nodes / 3600 for s in seconds]
    line("steps", (f"{p.steps:,}" for p in plans))
    line("seconds a step", (f"{s / p.steps:.3g}" for s, p in zip(seconds, plans, strict=True)))
    line("time", (str(timedelta(seconds=round(s))) for s in seconds))
    line("device-hours", (f"{h:,.3g}" for h in hours))
    if words.price:
        line("cost", (f"{h * words.price:,.2f}" for h in hours))
    line(f"hours of {_THOUSAND:,} full answers", (_answers(p, device, assumed) for p in plans), ends=True)
    for part in plans[0].disk:
        line(f"disk: {part}", (as_size(p.disk[part]) for p in plans))
    return table


def _rate(plan: StagePlan, device: DeviceConfig) -> tuple[float, bool]:
    """Operations a second, and whether they were measured here."""
    config = plan.config
    file = Path(config.paths.cache_dir) / RATES
    found = measured_rate(file, device.name, config.trainer.precision, plan.sizes.head[1])
    peak = device.bf16_tflops if config.trainer.precision == "bf16-mixed" else device.fp32_tflops
    return (1e12 * peak * device.sustained, False) if found is None else (found, True)


def _rates(plans: Sequence[StagePlan], device: DeviceConfig) -> Iterable[str]:
    for plan in plans:
        rate, is_measured = _rate(plan, device)
        whose = "measured on this machine" if is_measured else "assumed, see conf/plan.yaml"
        yield f"{plan.config.name}: {rate / 1e12:.3g} TFLOP/s a device, {whose}"


def _answers(plan: StagePlan, device: DeviceConfig, assumed: PlanConfig) -> str:
    """Hours of a thousand answers of `eval.max_new_tokens`, where reading weights and cache takes the time."""
    new, budget = plan.config.eval.max_new_tokens, plan.config.engine.get("max_batch_tokens", 65_536)
    batch, stored = max(1, budget // new), plan.sizes.weight_bytes // plan.sizes.parameters
    step = plan.sizes.weight_bytes + batch * new / 2 * plan.sizes.cache_width * stored
    return f"{_THOUSAND * new / batch * step / (1e9 * device.bandwidth_gb * assumed.decode_share) / 3600:.3g}"
