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
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.backbone.exactness import check_exactness
from redi_lab.backbone.sharding import is_sharded, whole
from redi_lab.data.packing import Batch, MicroBatch, Task
from redi_lab.losses.alpha_schedule import AlphaSchedule, strength
from redi_lab.losses.logps import WeightedLogpSum, token_logps, weighted_logp_sum
from redi_lab.losses.sequences import sum_by_sequence
from redi_lab.losses.vocabulary import Groups
from redi_lab.modules.examples import Examples, TokenSums, examples_of, k3

OptimizerFactory = Callable[[Iterable[Any]], torch.optim.Optimizer]
SchedulerFactory = Callable[[torch.optim.Optimizer, int], Any]
HeadGradient = Literal["accumulate", "recompute"]
"""How an objective that is not linear gets the head's gradient: "accumulate" makes one pass over the vocabulary
(`weighted_logp_sum` with groups), "recompute" makes two and needs one (V, H) buffer less (`token_logps`)."""


class CausalLMModule(pl.LightningModule, abc.ABC):
    """A causal LM under one objective.

    Args:
        backbone: the policy.
        optimizer: makes the optimizer from parameter groups; None where the module only scores.
        scheduler: makes the learning-rate schedule from the optimizer and the number of steps.
        max_grad_norm: gradients are clipped to this norm; None leaves them.
        alpha_schedule: weight of the negative term over the training, see `redi_lab.losses.alpha_schedule`.
        kl_weight: β ≥ 0 of a term β · mean over the completion tokens of e^d − d − 1, d = log π_ref − log π. It keeps
            every token near the reference; the tokens are the data's, so it is not an estimate of a divergence.
    """

    is_linear: ClassVar[bool]
    """Whether the loss is linear in the sums over tokens, so that weights are known before the forward pass."""
    is_separable: ClassVar[bool] = False
    """Whether the loss is a sum of functions of one sequence each, so that each is a group of its own."""
    needs_reference: bool = False
    """Whether batches must carry log π_ref."""
    needs_token_reference: bool = False
    """Whether they must carry it for each token."""
    needs_pass_rates: bool = False
    """Whether they must carry the share of right traces of each problem."""
    needs_mismatched: ClassVar[bool] = False
    """Whether they must carry prompts with completions of other problems."""
    has_token_term: ClassVar[bool] = False
    """Whether the loss also depends on sums of `token_term`; it must be linear in them."""
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
        alpha_schedule: AlphaSchedule = "constant",
        kl_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.backbone = backbone
        self.max_grad_norm = max_grad_norm
        self.alpha_schedule = alpha_schedule
        self.kl_weight = kl_weight
        if kl_weight > 0:
            self.needs_token_reference = True
        self._make_optimizer = optimizer
        self._make_scheduler = scheduler
        self.gradient_observers: list[Callable[[Batch, TokenSums], None]] = []
        """Called in each step with the batch and its sums while `.grad` is whole and not yet clipped."""
        self.may_step: Callable[[Batch, Tensor, Tensor], bool] | None = None
        """Asked before each step with the batch, its (S,) log-probs and the () gradient norm before clipping, which are
        the same on every rank."""
        self._clock = time.perf_counter()

    @abc.abstractmethod
    def loss(self, examples: Examples, batch: Batch) -> Tensor:
        """() these examples' share of the loss of the global batch, whose normalisers `batch` holds."""

    def metrics(self, examples: Examples) -> dict[str, Tensor]:
        """What is logged for a batch in addition to its loss, each value ().

        By default mean log-probs, summed and per token, of both sides, whatever they weigh.
        """
        sides = {"chosen": examples.chosen.unweighted, "rejected": examples.rejected.unweighted}
        summed = {f"logps/{name}": side.logps.mean() for name, side in sides.items()}
        return summed | {f"mean_logps/{name}": side.mean_logps.mean() for name, side in sides.items()}

    def token_term(self, logps: Tensor, reference: Tensor | None) -> Tensor:
        """(c,) φ of the log-probs of single tokens, (c,) each, with finite slopes."""
        raise NotImplementedError

    def token_values(self, micro: MicroBatch) -> Tensor:
        """(N,) what is summed over the completion's tokens: log-probs, as a rule."""
        logps: Tensor = self.backbone(micro, token_logps).logps
        return logps

    def prepare(self, batch: Batch) -> None:
        """Find out what the loss of a batch needs of the policy before its own passes; nothing, as a rule."""

    def averaged_over(self, batch: Batch) -> int:
        """How many items the loss is a mean of, which is the batch's weight in averages over batches."""
        return batch.num_examples

    def restart_clock(self) -> None:
        """Count throughput from here: the time since the last step was not spent on training."""
        self._clock = time.perf_counter()

    def on_fit_start(self) -> None:
        """Check the kernels of a GPU in the precision of training, before the first step: loading checked the CPU's."""
        if self.device.type == "cuda" and not is_sharded(self.backbone):  # what shards it has checked it whole
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
        self.prepare(batch)
        sums = self._accumulate_gradients(batch)
        for observe in self.gradient_observers:
            observe(batch, sums)
        trained = (p for p in self.parameters() if p.requires_grad)
        most = float("inf") if self.max_grad_norm is None else self.max_grad_norm
        grad_norm = whole(torch.nn.utils.clip_grad_norm_(trained, most))
        learning_rate = optimizer.param_groups[0]["lr"]
        if self.may_step is None or self.may_step(batch, sums.logps, grad_norm):
            optimizer.step()
            schedule: Any = self.lr_schedulers()
            if schedule is not None:
                schedule.step()
        self._log("train", batch, sums)
        extra = {"grad_norm": grad_norm, "lr": learning_rate, "tokens_per_second": self._tokens_per_second(batch)}
        extra |= {"padding_share": batch.padding_share, "row_fill": batch.row_fill}
        self.log_dict({f"train/{name}": value for name, value in extra.items()}, batch_size=1)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss and its metrics on held-back examples."""
        self.prepare(batch)
        sums = self._no_sums(batch)
        for micro in batch.micro_batches:
            sums = sums.plus(self.sums(batch, micro, self.token_values(micro)))
        self._log("val", batch, self.over_ranks(sums))

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

    def _accumulate_gradients(self, batch: Batch) -> TokenSums:
        """Backward through every micro-batch; the batch's sums."""
        sums = self._no_sums(batch)
        form = self._linear_form(batch) if self.is_linear or self.head_gradient == "accumulate" else None

        def loss_of(micro: MicroBatch) -> Tensor:
            nonlocal sums
            loss, logps = self._micro_loss(micro, batch, form)
            sums = sums.plus(self.sums(batch, micro, logps.detach()))
            return loss

        self.add_gradients(batch, loss_of)
        return self.over_ranks(sums)

    def add_gradients(self, batch: Batch, loss_of: Callable[[MicroBatch], Tensor]) -> None:
        """Add the gradients of a loss, whose share of each micro-batch is (), to those that are there."""
        for number, micro in enumerate(batch.micro_batches, start=1):
            with self._gradient_sync(number == len(batch.micro_batches)):
                # Ranks average, but the normaliser already counts the whole global batch.
                self.manual_backward(loss_of(micro) * self.trainer.world_size)

    def _no_sums(self, batch: Batch) -> TokenSums:
        """Zeros in every column that the objective has."""
        zeros = torch.zeros_like(batch.lengths)
        return TokenSums(zeros, zeros, zeros if self.has_token_term else None, zeros if self.kl_weight > 0 else None)

    def over_ranks(self, sums: TokenSums) -> TokenSums:
        """Those of the whole batch: a rank has zeros for the sequences that are elsewhere, so nothing is rounded."""
        if self.trainer.world_size == 1:
            return sums
        columns = torch.stack([values for values in sums if values is not None])
        whole = iter(self.trainer.strategy.reduce(columns, reduce_op="sum"))
        return sums.map(lambda _: next(whole))

    def sums(self, batch: Batch, micro: MicroBatch, logps: Tensor, tokens: slice = slice(None)) -> TokenSums:
        """Sums over a micro-batch's completion tokens, or over those of some whole sequences; (c,) log-probs of these.

        Sequences that are elsewhere have sums of 0.
        """

        def total(values: Tensor, is_weighted: bool = True) -> Tensor:
            if is_weighted and micro.token_weights is not None:
                values = values * micro.token_weights[tokens]
            return sum_by_sequence(values, micro.sequence_index[tokens], len(batch.lengths))

        reference = None if micro.reference_logps is None else micro.reference_logps[tokens]
        unweighted = total(logps, is_weighted=False)
        return TokenSums(
            unweighted if micro.token_weights is None else total(logps),
            unweighted.detach(),
            total(self.token_term(logps, reference)) if self.has_token_term else None,
            total(k3(logps, reference), is_weighted=False) if self.kl_weight > 0 else None,
        )

    def slopes(self, batch: Batch, sums: TokenSums) -> TokenSums:
        """(S,) partial derivatives of the loss in each of the sums; constants where the loss is linear in them."""
        leaves = sums.map(lambda values: values.detach().requires_grad_())
        wanted = [leaf for leaf in leaves if leaf is not None]
        with torch.enable_grad():
            loss = self._whole_loss(examples_of(batch, leaves), batch)
            found = iter(torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True))
        return sums.map(lambda _: next(found))

    def _whole_loss(self, examples: Examples, batch: Batch) -> Tensor:
        loss, divergence = self.loss(examples, batch), examples.sequences.divergence
        return loss if divergence is None else loss + self.kl_weight * divergence.sum() / batch.num_completion_tokens

    def _linear_form(self, batch: Batch) -> TokenSums:
        """Slopes at a point, for an objective that is linear; else those whose factors are found out group by group."""
        # At a point where a logistic loss is not saturated: elsewhere its slope could be lost in rounding.
        zeros = self._no_sums(batch)
        start = zeros.logps if batch.reference_logps is None else batch.reference_logps
        form = self.slopes(batch, zeros._replace(logps=start))
        return form._replace(logps=batch.lengths.reciprocal()) if self.is_separable else form

    def weighted_sum(self, micro: MicroBatch, form: TokenSums, groups: Groups | None = None) -> WeightedLogpSum:
        """A pass over a micro-batch with the gradient of the sums times (S,) `form`, and times the groups' factors."""
        weights = form.logps[micro.sequence_index]
        if micro.token_weights is not None:
            weights = weights * micro.token_weights
        has_slopes = form.terms is not None or form.divergence is not None
        use = partial(
            weighted_logp_sum,
            token_weights=weights,
            groups=groups,
            slopes_of=partial(self._token_slopes, micro, form) if has_slopes else None,
        )
        found: WeightedLogpSum = self.backbone(micro, use)
        return found

    def _micro_loss(self, micro: MicroBatch, batch: Batch, form: TokenSums | None) -> tuple[Tensor, Tensor]:
        """() its share of the loss, and (N,) token log-probs."""
        if form is None:
            logps = self.token_values(micro)
            sums = self.sums(batch, micro, logps)
            here = examples_of(batch, sums, micro.sequences)  # whole pairs: objectives that couple them are packed so
            return self._whole_loss(here, batch), logps
        groups = None
        if not self.is_linear:  # then the total stands for the loss in its gradient alone
            lengths: Sequence[int] = micro.completion_lengths
            if not self.is_separable:
                lengths = [sum(pair) for pair in zip(lengths[::2], lengths[1::2], strict=True)]
            groups = Groups(lengths, partial(self._factors, micro, batch, form))
        return self.weighted_sum(micro, form, groups)

    def _factors(self, micro: MicroBatch, batch: Batch, form: TokenSums, tokens: slice, logps: Tensor) -> Tensor:
        """(c,) slope of the loss over that of `form` at the tokens of some whole groups with log-probs (c,)."""
        slopes = self.slopes(batch, self.sums(batch, micro, logps, tokens)).logps / form.logps
        # With α = 0 some weigh nothing, and 0/0 is NaN.
        return torch.where(form.logps == 0, 0.0, slopes)[micro.sequence_index[tokens]]

    def _token_slopes(self, micro: MicroBatch, form: TokenSums, tokens: slice, logps: Tensor) -> Tensor:
        """(c,) derivative of what the loss has of single tokens with log-probs (c,)."""
        owners = micro.sequence_index[tokens]
        reference = None if micro.reference_logps is None else micro.reference_logps[tokens]
        with torch.enable_grad():
            logps = logps.detach().requires_grad_()
            value = torch.zeros_like(logps)
            if form.terms is not None:
                weights = form.terms[owners]
                if micro.token_weights is not None:
                    weights = weights * micro.token_weights[tokens]
                value = value + weights * self.token_term(logps, reference)
            if form.divergence is not None:
                value = value + form.divergence[owners] * k3(logps, reference)
            (slopes,) = torch.autograd.grad(value.sum(), logps)
        return slopes

    def _log(self, stage: str, batch: Batch, sums: TokenSums) -> None:
        """The loss and metrics of the whole global batch, the same on every rank."""
        examples = examples_of(batch, sums)
        # Averages over batches weight each by what its mean runs over, so val/ does not depend on the batch size.
        options: dict[str, Any] = {"sync_dist": stage == "val" and self.trainer.world_size > 1}
        loss = self._whole_loss(examples, batch)
        self.log(f"{stage}/loss", loss, batch_size=self.averaged_over(batch), **options)
        metrics = {f"{stage}/{name}": value for name, value in self.metrics(examples).items()}
        if examples.sequences.divergence is not None:
            metrics[f"{stage}/kl"] = examples.sequences.divergence.sum() / batch.num_completion_tokens
        self.log_dict(metrics, batch_size=batch.num_examples, **options)

    def _tokens_per_second(self, batch: Batch) -> float:
        """Prompt and completion tokens of all ranks, over the time since the end of the step before."""
        began, self._clock = self._clock, time.perf_counter()
        return batch.num_tokens / (self._clock - began)

    def _gradient_sync(self, is_last: bool) -> AbstractContextManager[Any]:
        """DDP exchanges gradients once a step, after the last micro-batch; FSDP2 after each, so that none are whole."""
        model = self.trainer.strategy.model
        return nullcontext() if is_last or not isinstance(model, DistributedDataParallel) else model.no_sync()
