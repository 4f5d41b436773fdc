"""The modules of the objectives that are one function of the pairs, by the name of their preset."""

from __future__ import annotations

from hydra.utils import get_class

from redi_lab.config.schema.losses import LOSSES
from redi_lab.modules.pair_forms import PairFormModule

_FORMS = {path.split(".")[-2]: kind for path in LOSSES if issubclass(kind := get_class(path), PairFormModule)}
SEPARABLE = {name: kind for name, kind in _FORMS.items() if kind.is_separable}
TOKEN_LOCAL = {name: kind for name, kind in _FORMS.items() if kind.has_token_term}
COUPLED = {name: kind for name, kind in _FORMS.items() if name not in SEPARABLE | TOKEN_LOCAL}
