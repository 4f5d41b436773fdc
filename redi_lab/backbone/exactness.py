"""Are packed rows and the external LM head exact for this model? Asked before each training, on a few tokens.

Both are shortcuts around the model's own forward pass. An architecture that they do not fit is refused here instead of
being trained on wrong numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from redi_lab.backbone.attention import PADDED
from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.data.packing import make_batch
from redi_lab.data.tokenization import TokenizedSequence
from redi_lab.errors import UserError


@torch.no_grad()
def check_exactness(backbone: CausalLM) -> None:
    """Compare packed rows and the external head with the model's own forward pass.

    On the device where the weights are, and in the precision of autocast where that is on: what holds for one device
    or precision says nothing about the kernels of another.

    Raises:
        UserError: they differ; the message says which shortcut this architecture does not fit.
    """
    vocabulary = backbone.head.weight.shape[0]
    probes = [TokenizedSequence("probe", tuple((7 * i + 3 * n) % vocabulary for i in range(n)), 1) for n in (5, 3, 9)]
    was_training = backbone.training
    backbone.eval()
    try:
        packed, alone = _states(backbone, probes), [_states(backbone, [probe])[0] for probe in probes]
        if not all(bool(states.isfinite().all()) for states in alone):
            raise UserError("model: its hidden states are NaN or infinite; give other weights")
        is_close = all(_is_same(a, b, atol=1e-3) for a, b in zip(packed, alone, strict=True))
        if not is_close or _leaks(backbone, probes):
            raise UserError(
                f"model.path: {type(backbone.plain).__name__} cannot be packed exactly: a sequence's hidden states"
                f" change with its neighbours in the row; set model.attention={PADDED}"
            )
        ids = torch.tensor([probes[-1].input_ids], device=backbone.device)
        with backbone.for_generation() as model:
            own = model(input_ids=ids, use_cache=False).logits[0]
        ours = _logits(backbone, alone[-1])
    finally:
        backbone.train(was_training)
    if not _is_same(ours, own, atol=1e-2):
        raise UserError(
            f"model.path: {type(backbone.plain).__name__} computes its logits in a way unknown to the log-prob kernel"
            f" (largest difference {(own.float() - ours.float()).abs().max().item():.3g}); choose another model"
        )


def _states(backbone: CausalLM, sequences: Sequence[TokenizedSequence]) -> list[Tensor]:
    """Hidden states of each sequence of one row."""
    (micro,) = make_batch([(s,) for s in sequences], token_budget=32, split_examples=True).micro_batches
    return list(torch.split(backbone.hidden_states(micro.to(backbone.device)), list(micro.segment_lengths)))


@torch.enable_grad()
def _leaks(backbone: CausalLM, probes: Sequence[TokenizedSequence]) -> bool:
    """Whether the last sequence's hidden states depend on its neighbours, however little.

    A gradient is exactly zero where nothing flows. The short convolution of a fresh hybrid model changes its
    neighbours by less than bfloat16 rounding, which no comparison of values can tell from noise.
    """
    captured: list[Tensor] = []

    def cut(_: nn.Module, __: object, output: Tensor) -> Tensor:
        captured.append(output.detach().requires_grad_())
        return captured[0]

    hook = backbone.plain.get_input_embeddings().register_forward_hook(cut)
    try:
        last = _states(backbone, probes)[-1].float()
    finally:
        hook.remove()
    # Uneven weights: the plain sum of a layer-normalised state is constant, so is the sum of squares.
    score = (last * torch.linspace(0.5, 2.0, last.shape[1], device=last.device).square()).sum()
    (gradient,) = torch.autograd.grad(score, captured[0])
    neighbours = gradient[:-1] if backbone.is_padded else gradient[:, : -len(last)]
    return bool(neighbours.any())


def _logits(backbone: CausalLM, hidden: Tensor) -> Tensor:
    """(N, V) of hidden states (N, H), as the log-prob kernel makes them."""
    weight, bias, softcap, scale, _ = backbone.head
    logits = nn.functional.linear(hidden, weight, bias) * scale
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def _is_same(ours: Tensor, theirs: Tensor, *, atol: float) -> bool:
    """Whether two ways to the same (n, width) numbers agree, but for rounding; half precision agrees token by token."""
    difference, size = ours.float() - theirs.float(), theirs.float()
    if torch.finfo(ours.dtype).bits > 16:
        return bool((difference.abs() <= 1e-2 * size.abs() + atol).all())
    return bool((difference.norm(dim=-1) <= 0.05 * size.norm(dim=-1) + atol).all())
