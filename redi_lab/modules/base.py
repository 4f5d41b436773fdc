"""The step that every objective shares: micro-batches in, one optimizer step and one line of metrics out.

A `Batch` is one global batch, so one `training_step` is one optimizer step. The loss is normalised by what the whole
global batch holds, and therefore does not depend on how it is cut into micro-batches or shared among ranks. That is why
optimisation is manual: Lightning's own accumulation averages micro-batches of unequal weight.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.backbone.exactness import check_exactness
from redi_lab.data.packing import Batch, MicroBatch, Task
from redi_lab.losses.alpha_schedule import AlphaSchedule, strength
from redi_lab.losses.logps import token_logps, weighted_logp_sum
from redi_lab.losses.sequences import SequenceLogps, sum_by_sequence
from redi_lab.losses.vocabulary import Groups

OptimizerFactory = Callable[[Iterable[Any]], torch.optim.Optimizer]
SchedulerFactory = Callable[[torch.optim.Optimizer, int], Any]
HeadGradient = Literal["accumulate", "recompute"]
"""How an objective that is not linear gets the head's gradient: "accumulate" makes one pass over the vocabulary
(`weighted_logp_sum` with groups), "recompute" makes two and needs one (V, H) buffer less (`token_logps`)."""


class Examples(NamedTuple):
    """What an objective sees of s sequences; in a pair the chosen one comes first, directly before the rejected one."""

    sequences: SequenceLogps
    is_chosen: Tensor
    """(s,) bool: whether the sequence is to become likelier."""

    @property
    def chosen(self) -> SequenceLogps:
        """Log-probs of the chosen sequences, in order."""
        return self.sequences.at(self.is_chosen)

    @property
    def rejected(self) -> SequenceLogps:
        """Log-probs of the rejected sequences, in order."""
        return self.sequences.at(~self.is_chosen)


class CausalLMModule(pl.LightningModule, abc.ABC):
    """A causal LM under one objective.

    Args:
        backbone: the policy.
        optimizer: makes the optimizer from parameter groups; None where the module only scores.
        scheduler: makes the learning-rate schedule from the optimizer and the number of steps.
        max_grad_norm: gradients are clipped to this norm; None leaves them.
        log_entropy: also log the entropy of the policy at completion tokens (one more buffer of a chunk).
        alpha_schedule: weight of the negative term over the training, see `redi_lab.losses.alpha_schedule`.
    """

    is_linear: ClassVar[bool]
    """Whether the loss is linear in the token log-probs, so that their weights are known before the forward pass."""
    is_separable: ClassVar[bool] = False
    """Whether the loss is a sum of functions of one sequence each, so that each is a group of its own."""
    needs_reference: bool = False
    """Whether batches must carry log π_ref."""
    task: ClassVar[Task]
    """What it trains on, see `TraceDataModule`."""
    head_gradient: HeadGradient = "recompute"
    """For objectives that are not linear. "accumulate" needs a loss of one linear form of log-probs a pair."""
    negative_strength: float = 1.0
    """What the weight of the negative term is multiplied by at this step, in [0, 1]; see `alpha_schedule`."""

    def __init__(
        self,
        backbone: CausalLM,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        max_grad_norm: float | None = None,
        log_entropy: bool = False,
        alpha_schedule: AlphaSchedule = "constant",
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.backbone = backbone
        self.max_grad_norm = max_grad_norm
        self.log_entropy = log_entropy
        self.alpha_schedule = alpha_schedule
        self._make_optimizer = optimizer
        self._make_scheduler = scheduler
        self.gradient_observers: list[Callable[[Batch, Tensor], None]] = []
        """Called in each step with the batch and its (S,) log-probs while `.grad` is whole and not yet clipped."""
        self.may_step: Callable[[Batch, Tensor, Tensor], bool] | None = None
        """Asked before each step with the batch, its (S,) log-probs and the () gradient norm before clipping."""
        self._clock = time.perf_counter()

    @abc.abstractmethod
    def loss(self, examples: Examples, batch: Batch) -> Tensor:
        """() these examples' share of the loss of the global batch, whose normalisers `batch` holds."""

    @abc.abstractmethod
    def metrics(self, examples: Examples) -> dict[str, Tensor]:
        """What is logged for a batch in addition to its loss, each value ()."""

    def averaged_over(self, batch: Batch) -> int:
        """How many items the loss is a mean of, which is the batch's weight in averages over batches."""
        return batch.num_examples

    def restart_clock(self) -> None:
        """Count throughput from here: the time since the last step was not spent on training."""
        self._clock = time.perf_counter()

    def on_fit_start(self) -> None:
        """Check the kernels of a GPU in the precision of training, before the first step: loading checked the CPU's."""
        if self.device.type == "cuda":
            with self.trainer.precision_plugin.forward_context():
                check_exactness(self.backbone)

    def on_train_start(self) -> None:
        """Throughput is counted from here."""
        self.restart_clock()

    def on_validation_end(self) -> None:
        """Validation in between does not count as training time."""
        self.restart_clock()

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One optimizer step on one global batch."""
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        if self.alpha_schedule != "constant":  # by the step alone, so that a resumed run goes on exactly
            progress = self.trainer.global_step / self.trainer.estimated_stepping_batches
            self.negative_strength = strength(self.alpha_schedule, progress)
        logps, entropy = self._accumulate_gradients(batch)
        for observe in self.gradient_observers:
            observe(batch, logps)
        grad_norm = torch.nn.utils.clip_grad_norm_(
            (p for p in self.parameters() if p.requires_grad),
            float("inf") if self.max_grad_norm is None else self.max_grad_norm,
        )
        learning_rate = optimizer.param_groups[0]["lr"]
        if self.may_step is None or self.may_step(batch, logps, grad_norm):
            optimizer.step()
            schedule: Any = self.lr_schedulers()
            if schedule is not None:
                schedule.step()
        self._log("train", batch, logps)
        extra = {"grad_norm": grad_norm, "lr": learning_rate, "tokens_per_second": self._tokens_per_second(batch)}
        extra |= {"padding_share": batch.padding_share, "row_fill": batch.row_fill}
        self.log_dict({f"train/{name}": value for name, value in extra.items()}, batch_size=1)
        if entropy is not None:
            self.log("train/entropy", entropy, batch_size=1, sync_dist=self.trainer.world_size > 1, reduce_fx="sum")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss and its metrics on held-back examples."""
        self._log("val", batch, self.backbone.sequence_logps(batch))

    def configure_optimizers(self) -> Any:
        """Weight decay on matrices alone, as is the custom; the schedule advances by optimizer steps."""
        if self._make_optimizer is None:
            raise ValueError("this module was built without an optimizer: it can score but not train")
        trainable = [p for p in self.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [{"params": [p for p in trainable if p.dim() >= 2]}]
        vectors = [p for p in trainable if p.dim() < 2]
        if vectors:
            groups.append({"params": vectors, "weight_decay": 0.0})
        optimizer = self._make_optimizer(groups)
        if self._make_scheduler is None:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": self._make_scheduler(optimizer, steps)}

    def _accumulate_gradients(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Backward through every micro-batch; (S,) log-probs and, where asked for, this rank's part of mean entropy."""
        logps = torch.zeros_like(batch.lengths)
        weights = None
        if self.is_linear or self.head_gradient == "accumulate":
            # At a point where a logistic loss is not saturated: elsewhere its slope could be lost in rounding.
            weights = self._linear_form(batch, logps if batch.reference_logps is None else batch.reference_logps)
        entropy = logps.new_zeros(())
        for number, micro in enumerate(batch.micro_batches, start=1):
            # Ranks exchange gradients once per step, after the last micro-batch.
            with self._gradient_sync(number == len(batch.micro_batches)):
                loss, token_values, token_entropy = self._micro_loss(micro, batch, weights)
                # DDP averages over ranks, but the normaliser already counts the whole global batch.
                self.manual_backward(loss * self.trainer.world_size)
            logps += sum_by_sequence(token_values.detach(), micro.sequence_index, len(logps))
            if token_entropy is not None:
                entropy += token_entropy.sum() / batch.num_completion_tokens
        if not batch.micro_batches:  # a rank without a share of the last batch still takes part in the exchange
            self.manual_backward(torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum() * 0.0)
        return logps, entropy if self.log_entropy else None

    def _linear_form(self, batch: Batch, logps: Tensor) -> Tensor:
        """(S,) weights of the linear form of log-probs whose slope is found out group by group; none is 0."""
        return batch.lengths.reciprocal() if self.is_separable else self.sequence_weights(batch, logps)

    def sequence_weights(self, batch: Batch, logps: Tensor) -> Tensor:
        """(S,) ∂loss/∂log π(y|x) of each sequence at (S,) `logps`; constants where the loss is linear in them."""
        logps = logps.detach().requires_grad_()
        with torch.enable_grad():
            (weights,) = torch.autograd.grad(self.loss(_examples(batch, logps), batch), logps)
        return weights

    def _micro_loss(
        self, micro: MicroBatch, batch: Batch, weights: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """() its share of the loss, (N,) token log-probs, (N,) entropy where asked for."""
        hidden, head = self.backbone.completion_states(micro), self.backbone.head
        if weights is None:
            tokens = token_logps(hidden, head, micro.targets, with_entropy=self.log_entropy)
            logps = sum_by_sequence(tokens.logps, micro.sequence_index, len(batch.lengths))
            here = _examples(batch, logps, micro.sequences)  # whole pairs: objectives that couple them are packed so
            return self.loss(here, batch), tokens.logps, tokens.entropy
        groups = None
        if not self.is_linear:  # then the total stands for the loss in its gradient alone
            lengths: Sequence[int] = micro.completion_lengths
            if not self.is_separable:
                lengths = [sum(pair) for pair in zip(lengths[::2], lengths[1::2], strict=True)]
            groups = Groups(lengths, partial(self._slopes, micro, batch, weights))
        return weighted_logp_sum(
            hidden, head, micro.targets, weights[micro.sequence_index], groups=groups, with_entropy=self.log_entropy
        )

    def _slopes(self, micro: MicroBatch, batch: Batch, weights: Tensor, tokens: slice, logps: Tensor) -> Tensor:
        """(c,) ∂loss/∂log π(y|x) over `weights` at the tokens of some whole pairs with log-probs (c,)."""
        owners = micro.sequence_index[tokens]
        sequences = sum_by_sequence(logps, owners, len(batch.lengths))
        slopes = self.sequence_weights(batch, sequences) / weights
        return torch.where(weights == 0, 0.0, slopes)[owners]  # with α = 0 some weigh nothing, and 0/0 is NaN

    def _log(self, stage: str, batch: Batch, logps: Tensor) -> None:
        """The loss and metrics of the whole global batch, the same on every rank."""
        examples = self._gather(batch, logps)
        # Averages over batches weight each by what its mean runs over, so val/ does not depend on the batch size.
        options: dict[str, Any] = {"sync_dist": stage == "val" and self.trainer.world_size > 1}
        self.log(f"{stage}/loss", self.loss(examples, batch), batch_size=self.averaged_over(batch), **options)
        metrics = {f"{stage}/{name}": value for name, value in self.metrics(examples).items()}
        self.log_dict(metrics, batch_size=batch.num_examples, **options)

    def _gather(self, batch: Batch, logps: Tensor) -> Examples:
        """The examples of all ranks."""
        ranks, own = self.trainer.world_size, _examples(batch, logps)
        if ranks == 1:
            return own
        sequences, is_chosen = own
        share = torch.stack([is_chosen.to(logps.dtype), *(column for column in sequences if column is not None)], dim=1)
        room = (2 if self.task == "pairs" else 1) * -(-batch.num_examples // ranks)
        slots = share.new_zeros(ranks, room, share.shape[1])  # shares differ in size, and one may be empty
        slots[self.trainer.global_rank, : len(share)] = share
        whole = self.trainer.strategy.reduce(slots, reduce_op="sum").flatten(0, 1)
        is_chosen, *columns = whole[whole[:, 2] > 0].unbind(1)  # whose lengths are above 0
        return Examples(SequenceLogps(*columns), is_chosen > 0)

    def _tokens_per_second(self, batch: Batch) -> float:
        """Prompt and completion tokens of this rank, over the time since the end of the step before."""
        began, self._clock = self._clock, time.perf_counter()
        return batch.num_tokens / (self._clock - began)

    def _gradient_sync(self, is_last: bool) -> AbstractContextManager[Any]:
        model = self.trainer.strategy.model
        return nullcontext() if is_last or not isinstance(model, DistributedDataParallel) else model.no_sync()


def _examples(batch: Batch, logps: Tensor, which: Tensor | None = None) -> Examples:
    """The batch's sequences with their (S,) log-probs, or those of them that `which` (n,) names."""
    sequences = SequenceLogps(logps, batch.lengths, batch.reference_logps)
    if which is None:
        return Examples(sequences, batch.is_chosen)
    return Examples(sequences.at(which), batch.is_chosen[which])
