"""The only place where configuration becomes objects. Everything built here takes plain arguments.

A run reads as a list of nouns: source, tokenizer, encoder, data module, backbone, objective, trainer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy
from transformers import get_scheduler

from redi_lab.backbone.adapters import Adapters
from redi_lab.backbone.attention import PADDED
from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.backbone.hub import load_tokenizer
from redi_lab.backbone.loading import load_backbone
from redi_lab.backbone.sharding import FSDP2
from redi_lab.data import arithmetic, chains
from redi_lab.data.datamodule import TraceDataModule
from redi_lab.data.rows import OnProgress
from redi_lab.data.student_tokenizer import set_chat_template, train_tokenizer
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.data.traces import TraceCorpus, TraceSource
from redi_lab.errors import UserError
from redi_lab.evaluation.benchmarks import Benchmark
from redi_lab.evaluation.policy_accuracy import PolicyAccuracy
from redi_lab.generation.engines import Engine, SamplingParams
from redi_lab.modules.base import CausalLMModule
from redi_lab.verifiers.base import Limits, Verifier

_NOTHING: Mapping[str, Any] = MappingProxyType({})
EMBEDDED_TOKENIZERS = {"arithmetic": arithmetic.build_tokenizer, "chains": chains.build_tokenizer}
USED_BY_PIPELINE = {
    "accuracy": ("num_samples", "temperature", "max_new_tokens", "max_batch_tokens"),
    "probes": ("num_examples",),
}
"""Settings of callbacks that decide what is injected into them."""


def make_source(config: DictConfig) -> TraceSource:
    """Where the traces come from."""
    source: TraceSource = _instantiate(config.data.source)
    return source


def make_tokenizer(config: DictConfig, corpus: TraceCorpus, init: Path | None) -> Any:
    """The tokenizer of the stage before, of the model, or a new one for a student made from scratch."""
    model = config.model
    if init is not None:
        tokenizer = load_tokenizer(str(init))
    elif model.path is not None:
        key = "model.path" if model.tokenizer is None else "model.tokenizer"
        tokenizer = load_tokenizer(model.tokenizer or model.path, model.revision, key=key)
    elif model.tokenizer in EMBEDDED_TOKENIZERS:
        tokenizer = EMBEDDED_TOKENIZERS[model.tokenizer]()
    elif model.tokenizer == "bpe":
        # Held-out problems and wrong traces stay out: a tokenizer is part of what was trained.
        texts = (text for row in corpus.demonstrations for text in (row.problem, row.completion))
        tokenizer = train_tokenizer(texts, vocab_size=model.vocab_size)
    else:
        tokenizer = load_tokenizer(model.tokenizer, key="model.tokenizer")
    set_chat_template(tokenizer, model.chat_template)
    return tokenizer


def make_encoder(config: DictConfig, tokenizer: Any) -> TraceEncoder:
    """How training text becomes tokens."""
    data = config.data
    return TraceEncoder(tokenizer, data.prompt_template, data.thinking_prefix, data.rejected_prompt_template)


def make_datamodule(
    config: DictConfig, corpus: TraceCorpus, encoder: TraceEncoder, on_progress: OnProgress | None = None
) -> TraceDataModule:
    """What the objective trains on, as batches."""
    data, objective = config.data, objective_class(config)
    return TraceDataModule.of_corpus(
        corpus,
        encoder,
        task=objective.task,
        batch_size=data.batch_size,
        micro_batch_tokens=data.micro_batch_tokens,
        split_examples=objective.is_linear or objective.is_separable,
        is_padded=config.model.attention == PADDED,
        seed=config.seed,
        num_validation=data.num_validation,
        max_prompt_tokens=data.max_prompt_tokens,
        max_completion_tokens=data.max_completion_tokens,
        max_sequence_tokens=data.max_sequence_tokens,
        token_weights=data.token_weights,
        prefix_weight=config.loss.get("prefix_weight", 1.0),
        tail_weight=config.loss.get("tail_weight", 1.0),
        on_progress=on_progress,
    )


def make_backbone(config: DictConfig, tokenizer: Any, path: str | None) -> CausalLM:
    """The policy: the checkpoint of the stage before, else what the model group names."""
    model = config.model
    plain = OmegaConf.to_container(model)
    assert isinstance(plain, dict)
    return load_backbone(
        path=path or model.path,
        tokenizer=tokenizer,
        revision=model.revision if path is None else None,
        config=plain["config"],
        config_overrides=plain["config_overrides"],
        dtype=model.dtype,
        attention=model.attention,
        gradient_checkpointing=model.gradient_checkpointing,
        compile=model.compile,
        head_chunk_tokens=model.head_chunk_tokens,
        adapters=plain["lora"] and Adapters(**plain["lora"]),
    )


def objective_class(config: DictConfig) -> type[CausalLMModule]:
    """The Lightning module that the loss group names."""
    found = get_class(config.loss._target_)
    if not issubclass(found, CausalLMModule):
        raise UserError(f"loss._target_={config.loss._target_}: must be a CausalLMModule; see conf/loss for one")
    return found


def make_module(config: DictConfig, backbone: CausalLM) -> CausalLMModule:
    """The objective around the policy, with its optimizer and schedule."""
    settings = {key: value for key, value in config.optimizer.items() if key != "max_grad_norm"}
    used_elsewhere = ("reference", "prefix_weight", "tail_weight")  # by the verb, and by the data module
    loss = {key: value for key, value in config.loss.items() if key not in used_elsewhere}
    module: CausalLMModule = _instantiate(loss)(
        backbone=backbone,
        optimizer=_instantiate(settings),
        scheduler=_schedule(config.scheduler.name, config.scheduler.warmup_ratio),
        max_grad_norm=config.optimizer.get("max_grad_norm"),
    )
    return module


def make_callbacks(
    config: DictConfig,
    folder: Path,
    end_of_turn_id: int,
    injected: Mapping[str, Mapping[str, Any] | None] = _NOTHING,
    notes: Mapping[str, Any] = _NOTHING,
) -> list[pl.Callback]:
    """The callbacks group, in its order; the one that writes checkpoints learns where to and how a turn ends.

    Args:
        config: with the group callbacks.
        folder: of the checkpoints.
        end_of_turn_id: token that ends a generation.
        injected: what callbacks need in addition to their settings, by name; None leaves a callback out.
        notes: JSON files for each checkpoint, by name.
    """
    callbacks = []
    given = {
        "checkpoints": {"folder": folder, "end_of_turn_id": end_of_turn_id, "notes": notes},
        "collapse": {"folder": folder.parent},
        "state": {"folder": folder.parent / "states"},
        "numerics": {"folder": folder.parent},
        **injected,
    }
    for name, settings in config.callbacks.items():
        extra = given.get(str(name), _NOTHING)
        if settings is None or extra is None:
            continue
        own = {key: value for key, value in settings.items() if key not in USED_BY_PIPELINE.get(str(name), ())}
        callbacks.append(_instantiate(own | {"_partial_": True})(**extra))  # given as it is: Hydra would take it apart
    return callbacks


def make_accuracy(
    config: DictConfig, eval_config: DictConfig, benchmark: Benchmark, encoder: TraceEncoder, grader: Verifier
) -> PolicyAccuracy:
    """What measures accuracy during training: the final evaluation's prompts and rules on other problems.

    Args:
        config: with the group callbacks.
        eval_config: with the group eval.
        benchmark: the problems.
        encoder: whose tokenizer the policy has.
        grader: stays open as long as the training lasts.
    """
    protocol = eval_config.eval
    grader.check(benchmark.problems)
    prompts = TraceEncoder(encoder.tokenizer, protocol.prompt_template, protocol.thinking_prefix)
    return PolicyAccuracy(
        benchmark,
        prompts.prompt_ids,
        [encoder.end_of_turn_id],
        accuracy_sampling(config, eval_config),
        grader,
        config.callbacks.accuracy.max_batch_tokens,
        require_closed_thought=protocol.grader.require_closed_thought,
    )


def accuracy_sampling(config: DictConfig, eval_config: DictConfig) -> SamplingParams:
    """How completions are drawn for accuracy during training: as for the final score, except where it is set."""
    settings, sampling = config.callbacks.accuracy, make_sampling(eval_config)
    return replace(
        sampling,
        temperature=sampling.temperature if settings.temperature is None else settings.temperature,
        max_new_tokens=min(sampling.max_new_tokens, settings.max_new_tokens or sampling.max_new_tokens),
        num_samples=settings.num_samples,
    )


def make_trainer(
    config: DictConfig, callbacks: Sequence[pl.Callback], logger: Any, num_devices: int | None = None
) -> pl.Trainer:
    """A Lightning trainer that logs every step and leaves checkpoints, batching and clipping to the lab.

    Args:
        config: with the group trainer.
        callbacks: all that it has.
        logger: what records its metrics.
        num_devices: in place of `trainer.devices`, on this machine alone.
    """
    plain = OmegaConf.to_container(config.trainer)
    assert isinstance(plain, dict)
    if num_devices is not None:
        plain |= {"devices": num_devices, "num_nodes": 1}
    strategy, offload = plain.pop("strategy"), plain.pop("fsdp_offload")
    if plain["devices"] * plain["num_nodes"] == 1:
        plain["strategy"] = "auto"
    elif strategy == "fsdp2":
        plain["strategy"] = FSDP2(offload=offload)
    else:
        plain["strategy"] = DDPStrategy(gradient_as_bucket_view=True)  # views save the gradients' memory once
    if plain.get("deterministic") == "warn":
        # Else torch would fill all fresh memory with NaN, chunks of logits included, to catch reads before writes.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return pl.Trainer(
        **{str(key): value for key, value in plain.items()},
        callbacks=list(callbacks),
        logger=logger,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        # Left to itself, Lightning answers SIGUSR1 by putting the job back into the queue.
        plugins=[SLURMEnvironment(auto_requeue=False)]
        if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
        else None,
    )


def make_engine(config: DictConfig) -> Engine:
    """What generates completions."""
    address = config.launcher.address if "launcher" in config else None
    engine: Engine = _instantiate(config.engine, **({} if address is None else {"cluster": address}))
    return engine


def make_sampling(config: DictConfig) -> SamplingParams:
    """How completions are drawn."""
    e = config.eval
    return SamplingParams(e.temperature, e.top_p, e.max_new_tokens, e.num_samples, e.seed)


def make_grader(config: DictConfig) -> Verifier:
    """What grades them."""
    return grader_maker(config)()


def grader_maker(config: DictConfig) -> Callable[[], Verifier]:
    """What makes it, which can be sent to a process."""
    g = config.eval.grader if "eval" in config else config.curation.grading
    limits = Limits(g.num_workers, g.timeout_seconds, g.memory_mb, g.answers)
    return partial(_instantiate({**config.verifier, "_partial_": True}), limits)


def _instantiate(settings: Any, **extra: Any) -> Any:
    try:
        return instantiate(settings, _convert_="all", **extra)
    except InstantiationException as error:  # Hydra wraps what a constructor raises
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from error
        if isinstance(error.__cause__, ValueError):
            raise UserError(f"{settings['_target_']}: {error.__cause__}; change its settings") from error
        raise


def _schedule(name: str, warmup_ratio: float) -> Callable[[torch.optim.Optimizer, int], Any]:
    def make(optimizer: torch.optim.Optimizer, num_steps: int) -> Any:
        warmup = math.ceil(warmup_ratio * num_steps)
        return get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=num_steps)

    return make
