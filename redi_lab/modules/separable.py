"""Objectives on pairs whose sides never meet: each names one function of `redi_lab.losses.separable`."""

from __future__ import annotations

from typing import final

from redi_lab.losses import separable
from redi_lab.modules.preference import PreferenceModule


class SeparableModule(PreferenceModule):
    """A sum over sequences, each of which is a group that gets its gradient in the one pass; abstract."""

    is_separable = True
    head_gradient = "accumulate"


@final
class SimPERModule(SeparableModule):
    """−e^{m_w} + e^{m_l}."""

    pair_loss = staticmethod(separable.simper_loss)


@final
class BoundedREDIModule(SeparableModule):
    """−m_w + α m_l e^{γ m_l}."""

    pair_loss = staticmethod(separable.bounded_redi_loss)


@final
class GatedREDIModule(SeparableModule):
    """−m_w + α σ(κ(e^{m_l} − τ)) m_l."""

    pair_loss = staticmethod(separable.gated_redi_loss)


@final
class HingeModule(SeparableModule):
    """−m_w + α [δ + m_l]₊."""

    pair_loss = staticmethod(separable.hinge_loss)


@final
class TOPRModule(SeparableModule):
    """−m_w + α min(π/μ, 1) m_l, with the sampler μ as the reference."""

    needs_reference = True
    pair_loss = staticmethod(separable.topr_loss)


@final
class NPOModule(SeparableModule):
    """−m_w + (α/|y_l|)(2/β) log(1 + e^{βΔ_l})."""

    needs_reference = True
    pair_loss = staticmethod(separable.npo_loss)


@final
class NCAModule(SeparableModule):
    """−log σ(βΔ_w) − ½ log σ(−βΔ_w) − ½ log σ(−βΔ_l)."""

    needs_reference = True
    pair_loss = staticmethod(separable.nca_loss)
