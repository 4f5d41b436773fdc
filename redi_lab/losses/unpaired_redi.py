"""REDI on any numbers of correct and incorrect traces: Eq. 5 needs no pairs, since its two terms never meet."""

from __future__ import annotations

from torch import Tensor

from redi_lab.losses.sequences import SequenceLogps, check_sequences


def unpaired_redi_loss(
    chosen: SequenceLogps, rejected: SequenceLogps, *, alpha: float, num_chosen: int, num_rejected: int
) -> Tensor:
    """−mean over correct traces of log π(y_w)/|y_w| + α · mean over incorrect ones of log π(y_l)/|y_l|.

    The sides are averaged separately, so α keeps its meaning whatever the numbers: what all incorrect traces weigh
    together against all correct ones. With equal numbers it is the mean of `redi_loss`.

    Args:
        chosen: Policy log-probabilities of correct completions, any number of them, also none.
        rejected: The same of incorrect completions.
        alpha: Weight α of the negative term in [0, 1].
        num_chosen: What the first term is divided by: correct completions of the whole batch, of which `chosen` may be
            a part.
        num_rejected: The same for the second term.

    Returns:
        () in nats per token: the share that these sequences have in the loss of the whole batch.

    Raises:
        ValueError: If shapes differ, a completion has no tokens, or a number is smaller than the sequences given.

    References:
        Reinforcement Distillation, arXiv 2505.24850, Eq. 5.
    """
    check_sequences("chosen", chosen)
    check_sequences("rejected", rejected)
    for name, sequences, number in (("chosen", chosen, num_chosen), ("rejected", rejected, num_rejected)):
        if len(sequences.logps) > number:
            raise ValueError(f"num_{name}={number} is less than the {len(sequences.logps)} sequences given")
    # A side without sequences adds nothing, whatever it is divided by.
    up, down = (side.total(side.mean_logps) for side in (chosen, rejected))
    return -up / max(num_chosen, 1) + alpha * down / max(num_rejected, 1)
