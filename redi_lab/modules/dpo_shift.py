"""DPO with REDI's α on the rejected log-ratio."""

from __future__ import annotations

from typing import final

from redi_lab.losses.dpo_variants import dpo_shift_loss
from redi_lab.modules.pair_forms import PairFormModule


@final
class DPOShiftModule(PairFormModule):
    """−log σ(β(Δ_w − αΔ_l))."""

    is_logistic = True
    needs_reference = True
    head_gradient = "accumulate"
    pair_loss = staticmethod(dpo_shift_loss)
