"""Advise on α before training: `python -m redi_lab curate advise [OVERRIDES of a training] [context=4] [pairs=3000]`.

Counts how much of what the loss gives chosen traces an α pushes down without bound (`redi_lab.curation.advice`): the
share by α, the α where it passes 5 % and 15 %, the tokens that carry it, and a figure.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
from omegaconf import DictConfig

from redi_lab.config.compose import load_config
from redi_lab.config.schema.words import AdviseWords, split_words
from redi_lab.errors import UserError

if TYPE_CHECKING:
    from redi_lab.curation.advice import Risk

FIGURE = "advice.png"
LIMITS = (0.05, 0.15)
"""Shares of chosen mass at risk beyond chance: up to the first an α is advised; the second is well beyond."""
_TENTHS = slice(19, None, 10)  # α = 0.2, 0.3, … 1
NUM_SWAPS = 19
"""Pairs that chance alone makes exceed all of these with probability 1/20."""
_TESTED = slice(49, 90)  # α = 0.5, …, 0.9: below next to nothing is at risk, at 1 half of what both sides share
_SHOWN = 8


def run_advise(arguments: Sequence[str]) -> Path:
    """The verb.

    Returns:
        The results folder, with summary.json and advice.png.

    Raises:
        UserError: as the training would, before it begins; or its objective has no pairs.
    """
    words, overrides = split_words(AdviseWords, arguments)
    config = load_config("train", ["name=advise", *overrides])

    from redi_lab.curation.advice import TokenCounts
    from redi_lab.run.build import objective_class
    from redi_lab.run.record import quieten_libraries, results_folder, write_summary
    from redi_lab.run.screen import waiting

    quieten_libraries()
    if objective_class(config).task != "pairs":
        raise UserError(f"loss._target_={config.loss._target_}: it has no pairs to count; choose loss=redi")
    examples, decode = _examples(config, words.pairs)
    draws = np.random.default_rng(config.seed).random((NUM_SWAPS, len(examples))) < 0.5
    with waiting("Counting") as on_progress:
        counts = TokenCounts(examples, words.context)
        risk, chance = counts.risk(), []
        for is_swapped in draws:
            chance.append(counts.risk(is_swapped))
            on_progress(len(chance), NUM_SWAPS)
    found = Advice(risk, chance)
    print(f"Pairs:      {len(examples):,}; contexts of {words.context} tokens")
    print("α           " + " ".join(f"{alpha:6.1f}" for alpha in found.alphas[_TENTHS]))
    print("at risk     " + " ".join(f"{share:6.1%}" for share in found.shares[_TENTHS]))
    print("by chance   " + " ".join(f"{share:6.1%}" for share in found.by_chance[_TENTHS]))
    beyond = found.alpha(LIMITS[1]) or 1.0
    print(f"Heaviest at risk at α = {beyond:.2f}: beyond which α, share, context and token")
    for place, edge, mass in risk.heaviest(beyond, _SHOWN):
        print(f"  {edge:.2f}  {mass:6.2%}  {decode(counts.text(place))!r}")
    with results_folder(config) as folder:
        figure = draw(found, folder / FIGURE)
        content = {"name": config.name, "verb": "advise", "num_pairs": len(examples), "context": words.context}
        write_summary(folder, config, content | found.as_dict())
    print(f"Figure:     {figure}")
    print(f"Advice:     {found.sentence()}")
    print(f"Results:    {folder}")
    return folder


@final
class Advice:
    """What the counts say of α from 0.01 to 1, against what chance puts at risk.

    Args:
        risk: of the pairs.
        chance: of the same pairs with sides exchanged at random, several times.

    Attributes:
        tells: whether the mean share over α from 0.5 to 0.9 is larger than in all of those.
    """

    def __init__(self, risk: Risk, chance: Sequence[Risk]) -> None:
        self.alphas = np.arange(1, 101) / 100
        self.shares = np.array([risk.share(alpha) for alpha in self.alphas])
        exchanged = np.array([[one.share(alpha) for alpha in self.alphas] for one in chance])
        self.by_chance = exchanged.mean(axis=0)
        self.tells = bool(self.shares[_TESTED].mean() > exchanged[:, _TESTED].mean(axis=1).max())

    def alpha(self, limit: float) -> float | None:
        """The first α that puts this much more at risk than chance does; None where none does."""
        beyond = self.alphas[self.shares - self.by_chance > limit]
        return float(beyond[0]) if len(beyond) else None

    def advised(self) -> float | None:
        """The largest multiple of 0.05 below the first limit; None where none is passed, or the pairs do not tell."""
        beyond = self.alpha(LIMITS[0])
        return None if beyond is None or not self.tells else max(0, math.ceil(beyond * 20 - 1e-9) - 1) / 20

    def sentence(self) -> str:
        """What follows for `loss.alpha`."""
        if not self.tells:
            return (
                "none. These pairs put no more at risk than pairs whose sides were exchanged at random: more of them"
                " (pairs=NUMBER) or a shorter context may tell"
            )
        if (advised := self.advised()) is None:
            return f"no α puts {LIMITS[0]:.0%} more at risk than chance: nothing here speaks against loss.alpha=0.8"
        beyond = f"from {self.alpha(LIMITS[0]):.2f} on, more than {LIMITS[0]:.0%} is at risk beyond chance"
        return f"loss.alpha={advised:g}; {beyond}"

    def as_dict(self) -> dict[str, Any]:
        """For the summary."""
        curves = {"alpha": self.alphas, "share_at_risk": self.shares, "share_by_chance": self.by_chance}
        rounded = {name: [round(float(value), 5) for value in values] for name, values in curves.items()}
        beyond = {str(limit): self.alpha(limit) for limit in LIMITS}
        return {**rounded, "alpha_beyond_chance": beyond, "tells": self.tells, "advised_alpha": self.advised()}


def _examples(config: DictConfig, most: int) -> tuple[Any, Any]:
    """The pairs as training would have them, or a random choice of `most`; and what turns token ids into text."""
    from redi_lab.run import build
    from redi_lab.run.screen import waiting
    from redi_lab.run.stages import OpenedData

    corpus = OpenedData(config).corpus
    init = None if config.init_from is None else Path(config.init_from)
    tokenizer = build.make_tokenizer(config, corpus, init if init is not None and init.is_dir() else None)
    if len(corpus.pairs) > most:
        places = sorted(random.Random(config.seed).sample(range(len(corpus.pairs)), most))
        print(f"Counted are {most:,} of {len(corpus.pairs):,} pairs, drawn at random (pairs=NUMBER)")
        corpus = replace(corpus, pairs=tuple(corpus.pairs[place] for place in places))
    with waiting("Tokenising") as on_progress:
        data = build.make_datamodule(config, corpus, build.make_encoder(config, tokenizer), on_progress)
    return data.train_examples, tokenizer.decode


def draw(found: Advice, destination: Path) -> Path:
    """The share at risk against α, beside what chance puts there."""
    from redi_lab.figures.style import BAD, GOOD, NEUTRAL, dress, new_figure, save_figure

    figure, ax = new_figure(7, 3.6)
    ax.plot(found.alphas, found.shares, color=GOOD, label="at risk")
    ax.plot(found.alphas, found.by_chance, color=NEUTRAL, linestyle="--", label="with sides exchanged at random")
    for limit in LIMITS:
        if (alpha := found.alpha(limit)) is not None:
            ax.axvline(alpha, color=BAD, linewidth=0.8)
            ax.annotate(
                f"{limit:.0%} beyond chance: {alpha:.2f}",
                (alpha, 0.98),
                (-4, 0),
                va="top",
                ha="right",
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                rotation=90,
                fontsize=8,
            )
    ax.set(xlabel="α", ylabel="share of chosen loss mass", xlim=(0, 1.02), ylim=(0, None))
    ax.legend(loc="upper left", frameon=False)
    dress(ax, "Pushed down without bound")
    return save_figure(figure, destination)
