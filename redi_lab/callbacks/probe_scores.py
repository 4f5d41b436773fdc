"""What a policy says about a few fixed sequences, and how that differs from what it said before training.

scores = score_probes(backbone, batch, token_budget=8192)
probe_metrics(scores, start)["min_token_logp"]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.data.packing import make_batch
from redi_lab.data.tokenization import TokenizedSequence
from redi_lab.losses.logps import sum_by_sequence

_CHUNK = 256  # tokens whose (tokens, vocabulary) distributions exist at one time


class ProbeScores(NamedTuple):
    """The policy's word on n chosen and m rejected sequences. P are the chosen tokens, V the vocabulary."""

    chosen_mean_logps: Tensor
    """(n,) nats per token."""
    rejected_mean_logps: Tensor
    """(m,) nats per token."""
    token_logps: Tensor
    """(P,) of the chosen tokens, sequence by sequence."""
    min_token_logps: Tensor
    """(n,) the lowest of each chosen sequence's tokens."""
    entropy: Tensor
    """(P,) of the distributions at the chosen tokens, in nats."""
    end_logps: Tensor
    """(n,) of the end-of-turn token where a chosen sequence ends."""
    mean_probabilities: Tensor
    """(V,) mean over the chosen tokens' distributions."""


@torch.no_grad()
def score_probes(backbone: CausalLM, probes: Sequence[TokenizedSequence], token_budget: int) -> ProbeScores:
    """Score sequences; at least one of them is chosen.

    Args:
        backbone: the policy, in evaluation mode.
        probes: sequences of at most `token_budget` tokens each.
        token_budget: most tokens of one forward pass.
    """
    device = backbone.head_weight.device
    batch = make_batch([(probe,) for probe in probes], token_budget=token_budget, split_examples=True)
    lengths = batch.lengths.to(device)
    is_chosen = batch.is_chosen.to(device)
    logps, entropy, index = [], [], []
    mass = torch.zeros(backbone.head_weight.shape[0], dtype=torch.float64, device=device)
    for micro in (micro.to(device) for micro in batch.micro_batches):
        hidden = backbone.hidden_states(micro).index_select(0, micro.predictors)
        chunks = zip(*(torch.split(x, _CHUNK) for x in (hidden, micro.targets, micro.sequence_index)), strict=True)
        for states, targets, owners in chunks:
            distributions = torch.log_softmax(backbone.logits(states).float(), dim=-1)
            logps.append(distributions.gather(1, targets[:, None]).squeeze(1))
            probabilities = distributions.exp_()
            entropy.append(torch.special.entr(probabilities).sum(-1))
            mass += probabilities[is_chosen[owners]].sum(0)
        index.append(micro.sequence_index)
    owners = torch.cat(index)
    order = torch.argsort(owners, stable=True)  # packing moves sequences, never tokens within one
    owners, token_logps, token_entropy = owners[order], torch.cat(logps)[order], torch.cat(entropy)[order]
    mean_logps = sum_by_sequence(token_logps, owners, len(lengths)) / lengths
    ends = lengths.long().cumsum(0) - 1
    of_chosen = is_chosen[owners]
    return ProbeScores(
        mean_logps[is_chosen],
        mean_logps[~is_chosen],
        token_logps[of_chosen],
        torch.stack([values.min() for values in torch.split(token_logps, lengths.long().tolist())])[is_chosen],
        token_entropy[of_chosen],
        token_logps[ends[is_chosen]],
        (mass / of_chosen.sum()).float(),
    )


def probe_metrics(now: ProbeScores, start: ProbeScores) -> dict[str, float]:
    """Named numbers of one measurement, compared with the one before training.

    `displacement` is the likelihood displacement (Razin et al. 2024, "Unintentional Unalignment"): by how much the
    chosen sequences' mean log-prob has fallen although their margin over the rejected ones has grown, else 0.
    `fallen_share` is the share of chosen tokens that have become less likely.
    """
    chosen, start_chosen = (float(scores.chosen_mean_logps.mean()) for scores in (now, start))
    metrics = {
        "chosen_mean_logps": chosen,
        "min_token_logp": float(now.token_logps.min()),
        "median_min_token_logp": float(now.min_token_logps.quantile(0.5)),
        "entropy": float(now.entropy.mean()),
        "eos_probability": float(now.end_logps.exp().mean()),
        "fallen_share": float((now.token_logps < start.token_logps).float().mean()),
    }
    if len(now.rejected_mean_logps):
        rejected, start_rejected = (float(scores.rejected_mean_logps.mean()) for scores in (now, start))
        has_wider_margin = chosen - rejected > start_chosen - start_rejected
        metrics["rejected_mean_logps"] = rejected
        metrics["displacement"] = max(0.0, start_chosen - chosen) if has_wider_margin else 0.0
    return metrics


def shifted_tokens(now: ProbeScores, start: ProbeScores, tokenizer: Any, count: int) -> dict[str, list[dict[str, Any]]]:
    """The tokens whose mean probability at the chosen tokens' places has grown and has shrunk most.

    Args:
        now: the present measurement.
        start: the one before training.
        tokenizer: decodes them.
        count: most tokens of each kind.

    Returns:
        "gained" and "lost", each a list of {"token": text, "id", "mass"}, the largest change first.
    """
    change = now.mean_probabilities - start.mean_probabilities
    found = {}
    for name, signed in (("gained", change), ("lost", -change)):
        values, ids = signed.topk(min(count, len(signed)))
        found[name] = [
            {"token": tokenizer.decode([token]), "id": token, "mass": round(mass if name == "gained" else -mass, 9)}
            for token, mass in zip(ids.tolist(), values.tolist(), strict=True)
            if mass > 0
        ]
    return found
