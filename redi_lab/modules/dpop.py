"""DPO with a penalty on chosen traces below their reference."""

from __future__ import annotations

from typing import final

from redi_lab.losses.dpo_variants import dpop_loss
from redi_lab.modules.pair_forms import PairFormModule


@final
class DPOPModule(PairFormModule):
    """−log σ(β(h − λ[−Δ_w]₊))."""

    needs_reference = True
    pair_loss = staticmethod(dpop_loss)
