"""`python -m redi_lab merge checkpoint=ADAPTER to=FOLDER`: an adapter and its base model as one Hugging Face folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from redi_lab.config.schema.words import MergeWords, read_words
from redi_lab.errors import UserError
from redi_lab.run.adapter import ADAPTER, base_of, find_checkpoint, merged


def run_merge(arguments: Sequence[str]) -> None:
    """Write the folder, whole or not at all, and say where it is.

    Raises:
        UserError: there is no adapter, its base model is missing or another one, or the folder exists.
    """
    names, words, further = read_words(MergeWords, arguments)
    if names or further or not words.to:
        raise UserError("merge takes an adapter and a new folder: redi-lab merge checkpoint=ADAPTER to=FOLDER")
    folder, target = find_checkpoint(words.checkpoint), Path(words.to).absolute()
    if not (folder / ADAPTER).is_file():
        raise UserError(f"checkpoint={words.checkpoint}: a whole model and no adapter ({ADAPTER}); use it as it is")
    if target.exists():
        raise UserError(f"to={words.to}: exists already; name a new folder")
    base = base_of(folder, words.base)
    from redi_lab.backbone.causal_lm import CausalLM
    from redi_lab.files import replacing_folder
    from redi_lab.run.model_card import copy_card
    from redi_lab.run.record import quieten_libraries
    from redi_lab.run.training_record import RECORD_FILE

    quieten_libraries()
    model, tokenizer, end_of_turn = merged(folder, base)
    size = sum(parameter.nbytes for parameter in model.parameters())
    with replacing_folder(target, size, f"the model {target}") as partial:
        CausalLM(model, tokenizer).save(partial, end_of_turn)
        if (folder / RECORD_FILE).is_file():  # a training of the lab left it
            shutil.copy(folder / RECORD_FILE, partial)
            copy_card(folder, partial)
    print(f"Merged:     {target}")
