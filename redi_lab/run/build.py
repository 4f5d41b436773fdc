"""The only place where configuration becomes objects. Everything built here takes plain arguments.

A run reads as a list of nouns: source, tokenizer, encoder, data module, backbone, objective, trainer.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from transformers import get_scheduler

from redi_lab.backbone.attention import PADDED
from redi_lab.backbone.causal_lm import CausalLM, load_backbone
from redi_lab.backbone.hub import load_tokenizer
from redi_lab.data.arithmetic import ArithmeticSource, build_tokenizer, describe_work
from redi_lab.data.datamodule import TraceDataModule
from redi_lab.data.rows import OnProgress
from redi_lab.data.tokenization import TraceEncoder, set_chat_template, train_tokenizer
from redi_lab.data.traces import FurtherSource, HeldOut, TraceCorpus, TraceSource
from redi_lab.errors import UserError
from redi_lab.evaluation.benchmarks import (
    Benchmark,
    Columns,
    Describe,
    EvalProblem,
    load_file_benchmark,
    load_hub_benchmark,
)
from redi_lab.evaluation.policy_accuracy import PolicyAccuracy
from redi_lab.generation.engines import Engine, SamplingParams
from redi_lab.grading.grader import Grader
from redi_lab.modules.base import CausalLMModule

_NOTHING: Mapping[str, Any] = MappingProxyType({})
USED_BY_PIPELINE = {
    "accuracy": ("num_samples", "temperature", "max_new_tokens", "max_batch_tokens"),
    "probes": ("num_examples",),
}
"""Settings of callbacks that decide what is injected into them."""


def make_source(config: DictConfig, on_progress: OnProgress | None = None) -> TraceSource:
    """Where the traces come from; sources that read for long tell how far they are."""
    settings = config.data.source
    takes_progress = "on_progress" in inspect.signature(get_class(settings._target_)).parameters
    source: TraceSource = _instantiate(settings, **({"on_progress": on_progress} if takes_progress else {}))
    return source


def make_tokenizer(config: DictConfig, corpus: TraceCorpus, init: Path | None) -> Any:
    """The tokenizer of the stage before, of the model, or a new one for a student made from scratch."""
    model = config.model
    if init is not None:
        tokenizer = load_tokenizer(str(init))
    elif model.path is not None:
        key = "model.path" if model.tokenizer is None else "model.tokenizer"
        tokenizer = load_tokenizer(model.tokenizer or model.path, model.revision, key=key)
    elif model.tokenizer == "arithmetic":
        tokenizer = build_tokenizer()
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
    return TraceEncoder(tokenizer, config.data.prompt_template, config.data.thinking_prefix)


def make_datamodule(
    config: DictConfig, corpus: TraceCorpus, encoder: TraceEncoder, on_progress: OnProgress | None = None
) -> TraceDataModule:
    """What the objective trains on, as batches."""
    data, objective = config.data, objective_class(config)
    return TraceDataModule(
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
        lora=plain["lora"],
    )


def check_positions(data: TraceDataModule, backbone: CausalLM) -> None:
    """Hold every sequence against the positions that the model was made for.

    Raises:
        UserError: one is longer, or longer than a sliding window that packed rows lack.
    """
    limit, window = backbone.max_positions, backbone.unsupported_window
    longest = max((s for e in (*data.train_examples, *data.val_examples) for s in e), key=lambda s: len(s.input_ids))
    if window is not None and len(longest.input_ids) > window:
        raise UserError(
            f"{longest.id} has {len(longest.input_ids)} tokens, more than the model's sliding window of {window}, which"
            f" packed rows lack: set model.attention={PADDED}, or drop long examples with"
            f" data.max_sequence_tokens={window}"
        )
    if limit is not None and len(longest.input_ids) > limit:
        raise UserError(
            f"{longest.id} has {len(longest.input_ids)} tokens, the model {limit} positions: drop long examples with"
            f" data.max_sequence_tokens={limit}, or set model.config_overrides.max_position_embeddings (and rope_theta)"
        )


def objective_class(config: DictConfig) -> type[CausalLMModule]:
    """The Lightning module that the loss group names."""
    found = get_class(config.loss._target_)
    if not issubclass(found, CausalLMModule):
        raise UserError(f"loss._target_={config.loss._target_} is no CausalLMModule")
    return found


def make_module(config: DictConfig, backbone: CausalLM) -> CausalLMModule:
    """The objective around the policy, with its optimizer and schedule."""
    settings = {key: value for key, value in config.optimizer.items() if key != "max_grad_norm"}
    loss = {key: value for key, value in config.loss.items() if key != "reference"}  # read by the verb
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
        injected: what callbacks need besides their settings, by name; None leaves one out whose needs the run lacks.
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
    config: DictConfig, eval_config: DictConfig, benchmark: Benchmark, encoder: TraceEncoder, grader: Grader
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


def make_trainer(config: DictConfig, callbacks: Sequence[pl.Callback], logger: Any) -> pl.Trainer:
    """A Lightning trainer that logs every step and leaves checkpoints, batching and clipping to the lab."""
    plain = OmegaConf.to_container(config.trainer)
    assert isinstance(plain, dict)
    if plain.get("deterministic") == "warn":
        # Else torch would fill all fresh memory with NaN, chunks of logits included, to catch reads before writes.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return pl.Trainer(
        **{str(key): value for key, value in ({"log_every_n_steps": 1, "enable_model_summary": False} | plain).items()},
        callbacks=list(callbacks),
        logger=logger,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )


def make_engine(config: DictConfig) -> Engine:
    """What generates completions."""
    engine: Engine = _instantiate(config.engine)
    return engine


def make_benchmark(config: DictConfig, load_corpus: Callable[[], TraceCorpus]) -> Benchmark | None:
    """The problems to be judged on; None with `eval=none`.

    Raises:
        UserError: the data group keeps no problems, or the benchmark cannot be read.
    """
    return None if config.eval.benchmark is None else _benchmark(config, config.eval, config.eval.name, load_corpus)


def make_benchmarks(config: DictConfig, load_corpus: Callable[[], TraceCorpus]) -> tuple[Benchmark, ...]:
    """The benchmark, or those of a suite under the names of its members; none with `eval=none`.

    Raises:
        UserError: as `make_benchmark`.
    """
    if config.eval.benchmark != "suite":
        single = make_benchmark(config, load_corpus)
        return () if single is None else (single,)
    return tuple(_benchmark(config, settings, str(name), load_corpus) for name, settings in config.eval.members.items())


def _benchmark(
    config: DictConfig, settings: DictConfig, name: str | None, load_corpus: Callable[[], TraceCorpus]
) -> Benchmark:
    limit = config.eval.limit
    if settings.benchmark == "arithmetic":
        held_out = ArithmeticSource(num_problems=0, seed=config.seed).load().held_out[:limit]
        return _held_out_benchmark(name or "arithmetic", held_out, describe_work)
    if settings.benchmark == "heldout":
        corpus = load_corpus()
        if not corpus.held_out:
            raise UserError(
                f"eval=heldout: {corpus.source} keeps no problems for evaluation; set data.source.num_heldout (rows"
                " need an answer), or eval=jsonl eval.path=FILE, or eval=none"
            )
        kept = _judged(config, corpus)[:limit]
        describe = describe_work if corpus.source == "arithmetic" else None
        return _held_out_benchmark(name or "heldout", kept, describe)
    columns = Columns(settings.problem_key, settings.answer_key)
    if settings.benchmark == "hub" and not Path(settings.path).is_file():
        return load_hub_benchmark(
            settings.path, settings.split, columns, name, settings.revision, settings.config, limit
        )
    return load_file_benchmark(Path(settings.path), name, limit, columns)


def _held_out_benchmark(name: str, rows: Sequence[HeldOut], describe: Describe | None) -> Benchmark:
    return Benchmark.of(name, (EvalProblem(row.id, row.problem, row.answers) for row in rows), describe)


def _judged(config: DictConfig, corpus: TraceCorpus) -> Sequence[HeldOut]:
    """The held-out problems without the last ones, where those serve accuracy during training."""
    data, held_out = config.data, corpus.held_out
    if data.development_path is not None or issubclass(get_class(data.source._target_), FurtherSource):
        return held_out
    if data.num_development and data.num_development >= len(held_out):
        raise UserError(
            f"data.num_development={data.num_development}: {len(held_out)} problems are held out, and some must remain"
            " for the final evaluation; lower it, raise data.source.num_heldout, or give data.development_path=FILE"
        )
    return held_out[: len(held_out) - data.num_development]


def make_sampling(config: DictConfig) -> SamplingParams:
    """How completions are drawn."""
    e = config.eval
    return SamplingParams(e.temperature, e.top_p, e.max_new_tokens, e.num_samples, e.seed)


def make_grader(config: DictConfig) -> Grader:
    """What grades them."""
    g = config.eval.grader
    return Grader(g.num_workers, g.timeout_seconds, g.memory_mb, g.answers)


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
