"""DPO beside likelihood on the chosen."""

from __future__ import annotations

from typing import final

from redi_lab.losses.dpo_variants import rpo_loss
from redi_lab.modules.pair_forms import PairFormModule


@final
class RPOModule(PairFormModule):
    """−log σ(βh) − a m_w."""

    needs_reference = True
    pair_loss = staticmethod(rpo_loss)
