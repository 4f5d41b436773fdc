"""DPO whose log-ratios are drawn to ±1/2β."""

from __future__ import annotations

from typing import final

from redi_lab.losses.dpo_variants import cal_dpo_loss
from redi_lab.modules.pair_forms import PairFormModule


@final
class CalDPOModule(PairFormModule):
    """−log σ(h) + ½(Δ_w − 1/2β)² + ½(Δ_l + 1/2β)²."""

    needs_reference = True
    pair_loss = staticmethod(cal_dpo_loss)
