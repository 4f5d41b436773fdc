"""Real Lightning runs, small enough for a unit test: a Qwen2 of a few thousand weights on the embedded task."""

from __future__ import annotations

import atexit
import copy
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, final

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor

from redi_lab.backbone.adapters import Adapters
from redi_lab.backbone.attention import PACKED_SDPA, PADDED
from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.backbone.loading import load_backbone
from redi_lab.backbone.reference import score_reference
from redi_lab.backbone.sharding import FSDP2, whole
from redi_lab.data.arithmetic import ArithmeticSource, build_tokenizer
from redi_lab.data.datamodule import TraceDataModule
from redi_lab.data.tokenization import TokenizedSequence, TraceEncoder
from redi_lab.data.traces import TraceCorpus
from redi_lab.modules.base import CausalLMModule
from redi_lab.modules.dpo import DPOModule
from redi_lab.modules.dpo_variants import RPOModule
from redi_lab.modules.redi import REDIModule
from redi_lab.modules.separable import NPOModule
from redi_lab.modules.sft import SFTModule
from redi_lab.modules.simpo import SimPOModule
from redi_lab.modules.token_local import TokenTOPRModule
from redi_lab.modules.token_reward import TokenRewardModule
from redi_lab.modules.unpaired import KTOModule, UnpairedREDIModule

HARMLESS_WARNINGS = (
    r"ignore:.*does not have many workers",  # packing a batch takes a millisecond
    r"ignore:.*`isinstance\(treespec, LeafSpec\)` is deprecated",  # between Lightning and torch
    r"ignore:.*module\(s\) in eval mode at the start of training",
    r"ignore:.*You defined a `validation_step` but have no `val_dataloader`",
    r"ignore:.*Total length of `list` across ranks is zero",  # runs without validation
)

OBJECTIVES: dict[str, tuple[type[CausalLMModule], dict[str, Any]]] = {
    "sft": (SFTModule, {}),
    "redi": (REDIModule, {"alpha": 0.8}),
    "unpaired_redi": (UnpairedREDIModule, {"alpha": 0.8}),
    "dpo": (DPOModule, {"beta": 0.1, "head_gradient": "accumulate"}),
    "simpo": (SimPOModule, {"beta": 2.0, "gamma": 1.0, "head_gradient": "accumulate"}),
}
ONE_OF_EACH_CLASS: dict[str, tuple[type[CausalLMModule], dict[str, Any]]] = {
    "token_topr": (TokenTOPRModule, {"alpha": 0.8, "alpha_schedule": "cosine", "kl_weight": 0.1}),
    "npo": (NPOModule, {"alpha": 0.8, "beta": 0.02}),
    "rpo": (RPOModule, {"beta": 0.02, "nll_weight": 0.3}),
}
"""Of those that OBJECTIVES has none of: weights that depend on a token, on a sequence, on a pair in two ways."""
KTO: dict[str, tuple[type[CausalLMModule], dict[str, Any]]] = {
    "kto": (KTOModule, {"beta": 0.1, "chosen_weight": 1.0, "rejected_weight": 1.5})
}
"""Weights that also depend on a number of the whole batch; its data must be mismatched, see `BatchDataset.mismatch`."""
LORA = {kind: Adapters(2, 4, 0.0, "all-linear", kind) for kind in (None, "nf4")}
"""Adapters on weights as they are and on 4-bit ones, which need bitsandbytes."""
REWARD: dict[str, tuple[type[CausalLMModule], dict[str, Any]]] = {"token_reward": (TokenRewardModule, {})}
"""What trains no policy; its head is not left at zero, where the backbone would have no gradient."""
_EVERY = OBJECTIVES | ONE_OF_EACH_CLASS | KTO | REWARD
HUGE = 100_000  # tokens: one micro-batch


@cache
def corpus() -> TraceCorpus:
    """40 problems, 17 of them with a wrong trace."""
    return ArithmeticSource(num_problems=40, num_heldout=0, seed=9).load()


@cache
def tokenizer() -> Any:
    return build_tokenizer()


def make_backbone(
    *,
    seed: int = 0,
    dtype: str = "float32",
    is_padded: bool = False,
    is_tied: bool = True,
    adapters: Adapters | None = None,
) -> CausalLM:
    """A new copy of a model with weights wide enough for distributions far from uniform; adapters have a part in it."""
    return copy.deepcopy(_backbone(seed, dtype, PADDED if is_padded else PACKED_SDPA, is_tied, adapters))


@cache
def _backbone(seed: int, dtype: str, attention: str, is_tied: bool, adapters: Adapters | None) -> CausalLM:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    more = {"model_type": "qwen2", "initializer_range": 0.3, "tie_word_embeddings": is_tied}
    is_quantised = adapters is not None and adapters.quantization is not None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = load_backbone(
            path=_folder(seed) if is_quantised else None,
            tokenizer=tokenizer(),
            config={**sizes, **heads, **more},
            dtype=dtype,
            attention=attention,
            adapters=adapters,
        )
        for name, parameter in backbone.named_parameters():
            if "lora_B" in name:  # a fresh one is zero
                torch.nn.init.normal_(parameter, std=0.3)
        return backbone


@cache
def _folder(seed: int) -> str:
    """A model to quantise, and to merge adapters into as long as the process lives."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    make_backbone(seed=seed).save(Path(folder), 3)
    return folder


def make_data(
    objective: str, *, batch_size: int = 6, budget: int = HUGE, num_validation: int = 0, is_padded: bool = False
) -> TraceDataModule:
    """`budget` 0 means just enough for the longest unit."""
    kind = _EVERY[objective][0]
    split = kind.is_linear or kind.is_separable
    make = partial(
        TraceDataModule.of_corpus,
        corpus(),
        TraceEncoder(tokenizer()),
        task=kind.task,
        batch_size=batch_size,
        split_examples=split,
        seed=3,
        num_validation=num_validation,
        is_padded=is_padded,
    )
    data = make(micro_batch_tokens=HUGE)
    if budget == HUGE:
        return data
    units = [[len(s.input_ids) for s in example] for example in [*data.train_examples, *data.val_examples]]
    enough = max(max(unit) if split else len(unit) * max(unit) for unit in units)
    return make(micro_batch_tokens=budget or enough)


def attach_reference(data: TraceDataModule, reference: CausalLM, folder: Path, *, keeps_tokens: bool = False) -> None:
    for split in data.datasets:
        split.reference = score_reference(reference, split, keeps_tokens=keeps_tokens, cache_dir=folder)


def make_module(objective: str, backbone: CausalLM, **options: Any) -> CausalLMModule:
    """The objective with SGD of rate 0.1, unless told otherwise."""
    kind, hyper_parameters = _EVERY[objective]
    module = kind(backbone=backbone, **{"optimizer": partial(torch.optim.SGD, lr=0.1)} | hyper_parameters | options)
    if backbone.reward_head is not None:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            torch.nn.init.normal_(backbone.reward_head)
    return module


@final
class MemoryLogger(Logger):
    """Keeps what a real logger would be given: (step, metrics) of each call."""

    name, version = "memory", 0

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, dict[str, float]]] = []

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.calls.append((step, {name: value for name, value in metrics.items() if name != "epoch"}))

    def stage(self, stage: str) -> list[dict[str, float]]:
        """What was logged under `stage`/, call by call."""
        found = [{k: v for k, v in call.items() if k.startswith(f"{stage}/")} for _, call in self.calls]
        return [call for call in found if call]


@final
class GradientTap(pl.Callback):
    """Keeps the gradients (flat, as the optimizer saw them) and the parameters after each step."""

    def __init__(self) -> None:
        self.gradients: list[Tensor] = []
        self.parameters: list[Tensor] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.gradients.append(flat([p.grad for p in pl_module.parameters() if p.grad is not None]))
        self.parameters.append(flat([p for p in pl_module.parameters() if p.requires_grad]))


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Sharded ones whole."""
    return torch.cat([whole(t.detach()).flatten() for t in tensors]).clone()


class Run(NamedTuple):
    """What a run leaves behind."""

    log: MemoryLogger
    tap: GradientTap
    trainer: pl.Trainer

    @property
    def train(self) -> list[dict[str, float]]:
        return self.log.stage("train")


def fit(
    module: CausalLMModule, data: Any, *, max_steps: int = 1, callbacks: Sequence[pl.Callback] = (), **options: Any
) -> Run:
    """Train with a trainer as `redi_lab.run.build` makes it."""
    logger, tap = MemoryLogger(), GradientTap()
    trainer = pl.Trainer(
        **{"accelerator": "cpu", "devices": 1} | options,
        max_steps=max_steps,
        logger=logger,
        callbacks=[*callbacks, tap],
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, datamodule=data)
    return Run(logger, tap, trainer)


def make_strategy(name: str) -> Any:
    """For the trainer's option of that name."""
    return FSDP2(offload=name.endswith("offload")) if name.startswith("fsdp2") else name


def batches_of(data: TraceDataModule) -> list[list[tuple[TokenizedSequence, ...]]]:
    """The examples of each global batch of the first epoch, in the order of training."""
    return [[data.train_examples[i] for i in indices] for indices in iter(data.train_dataloader().sampler)]


@final
class NaiveTwin:
    """The same weights in transformers' own forward pass, one sequence at a time, with autograd through log_softmax."""

    def __init__(self, backbone: CausalLM) -> None:
        self.model = copy.deepcopy(backbone.model)
        self.model.set_attn_implementation("eager")

    def token_distributions(self, sequence: TokenizedSequence) -> Tensor:
        """(|y|, V) log-probs of the next token at each completion position."""
        ids = torch.tensor([list(sequence.input_ids)])
        logits = self.model(input_ids=ids, use_cache=False).logits[0]
        return torch.log_softmax(logits[sequence.prompt_length - 1 : -1], dim=-1)

    def token_logps(self, sequence: TokenizedSequence) -> Tensor:
        """(|y|,) log-probs of the completion's tokens."""
        completion = torch.tensor(list(sequence.input_ids[sequence.prompt_length :]))
        return self.token_distributions(sequence).gather(1, completion[:, None])[:, 0]

    def logp(self, sequence: TokenizedSequence) -> Tensor:
        """() log π(y|x)."""
        return self.token_logps(sequence).sum()

    def loss(self, objective: str, batch: Sequence[Sequence[TokenizedSequence]], reference: NaiveTwin) -> Tensor:
        """() the paper's formulas as they stand, with the hyper-parameters of OBJECTIVES."""
        if objective == "sft":  # Eq. 1, per token
            total = sum(-self.logp(s) for (s,) in batch)
            return torch.as_tensor(total / sum(s.completion_length for (s,) in batch))
        if objective == "unpaired_redi":  # Eq. 5, each expectation over its own traces
            chosen, rejected = ([self.mean_logp(s) for (s,) in batch if s.is_chosen is side] for side in (True, False))
            return -torch.stack(chosen).mean() + 0.8 * torch.stack(rejected).mean()
        return torch.stack([self._pair_loss(objective, won, lost, reference) for won, lost in batch]).mean()

    def _pair_loss(
        self, objective: str, chosen: TokenizedSequence, rejected: TokenizedSequence, reference: NaiveTwin
    ) -> Tensor:
        logp_w, logp_l = self.logp(chosen), self.logp(rejected)
        mean_w, mean_l = logp_w / chosen.completion_length, logp_l / rejected.completion_length
        if objective == "redi":  # Eq. 5
            return -mean_w + 0.8 * mean_l
        if objective == "simpo":  # Eq. 3
            return -torch.log(torch.sigmoid(2.0 * mean_w - 2.0 * mean_l - 1.0))
        with torch.no_grad():
            reference_w, reference_l = reference.logp(chosen), reference.logp(rejected)
        return -torch.log(torch.sigmoid(0.1 * ((logp_w - reference_w) - (logp_l - reference_l))))  # Eq. 2

    def mean_logp(self, sequence: TokenizedSequence) -> Tensor:
        """() log π(y|x) / |y|."""
        return self.logp(sequence) / sequence.completion_length

    def gradient(self, loss: Tensor) -> Tensor:
        return flat(torch.autograd.grad(loss, list(self.model.parameters())))

    def descend(self, gradient: Tensor, *, rate: float) -> None:
        """One step of SGD."""
        parameters = list(self.model.parameters())
        torch.nn.utils.vector_to_parameters(flat(parameters) - rate * gradient, parameters)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """‖actual − expected‖ / ‖expected‖."""
    return float((actual - expected).norm() / expected.norm())
