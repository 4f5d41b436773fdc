"""Variants of DPO: each names one function of `redi_lab.losses.dpo_variants`.

All but the first couple the sides in two numbers, so they project a second time in the backward pass.
"""

from __future__ import annotations

from typing import final

from redi_lab.losses import dpo_variants
from redi_lab.modules.preference import PreferenceModule


@final
class DPOShiftModule(PreferenceModule):
    """−log σ(β(Δ_w − αΔ_l))."""

    is_logistic = True
    needs_reference = True
    head_gradient = "accumulate"
    pair_loss = staticmethod(dpo_variants.dpo_shift_loss)


@final
class RPOModule(PreferenceModule):
    """−log σ(βh) − a m_w."""

    needs_reference = True
    pair_loss = staticmethod(dpo_variants.rpo_loss)


@final
class DPOPModule(PreferenceModule):
    """−log σ(β(h − λ[−Δ_w]₊))."""

    needs_reference = True
    pair_loss = staticmethod(dpo_variants.dpop_loss)


@final
class CalDPOModule(PreferenceModule):
    """−log σ(h) + ½(Δ_w − 1/2β)² + ½(Δ_l + 1/2β)²."""

    needs_reference = True
    pair_loss = staticmethod(dpo_variants.cal_dpo_loss)
