"""The modules of the objectives on pairs beyond the paper's, by the name of their preset."""

from __future__ import annotations

from hydra.utils import get_class

from redi_lab.config.schema.losses import LOSSES
from redi_lab.modules.preference import PreferenceModule
from redi_lab.run.naming import objective_name

_OF_THE_PAPER = ("redi", "dpo", "simpo")  # tested on their own
_FORMS = {
    name: kind
    for path in LOSSES
    if issubclass(kind := get_class(path), PreferenceModule) and (name := objective_name(path)) not in _OF_THE_PAPER
}
SEPARABLE = {name: kind for name, kind in _FORMS.items() if kind.is_separable}
TOKEN_LOCAL = {name: kind for name, kind in _FORMS.items() if kind.has_token_term}
COUPLED = {name: kind for name, kind in _FORMS.items() if name not in SEPARABLE | TOKEN_LOCAL}
