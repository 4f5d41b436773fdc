"""What the probes say, against transformers' own forward pass, and that training never notices them."""

from __future__ import annotations

import json
import math
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from torch.optim import AdamW

from redi_lab.callbacks.probes import PROBES_FILE, Probes, ProbeScores, probe_metrics, score_probes
from redi_lab.config.metrics import CALLBACK_METRICS
from redi_lab.data.tokenization import TokenizedSequence
from tests.modules.tiny_runs import (
    HARMLESS_WARNINGS,
    NaiveTwin,
    Run,
    fit,
    make_backbone,
    make_data,
    make_module,
)

pytestmark = [pytest.mark.filterwarnings(warning) for warning in HARMLESS_WARNINGS]


@cache
def sequences() -> tuple[TokenizedSequence, ...]:
    """Four chosen and three rejected ones, mixed."""
    pairs = make_data("redi").train_examples
    return tuple([s for pair in pairs[:3] for s in pair] + [pairs[3][0]])


def run(*callbacks: Probes, objective: str = "redi", max_steps: int = 5) -> Run:
    module = make_module(objective, make_backbone(), optimizer=partial(AdamW, lr=1e-2))
    return fit(module, make_data(objective, batch_size=3), max_steps=max_steps, callbacks=callbacks)


def probe_rows(result: Run) -> dict[int, dict[str, float]]:
    return {step: call for step, call in result.log.calls if "probe/entropy" in call}


@pytest.mark.parametrize("rows", ["one", "several"])
def test_scores_equal_the_models_own_distributions(rows: str) -> None:
    backbone = make_backbone().eval()
    budget = 100_000 if rows == "one" else max(len(s.input_ids) for s in sequences())
    scores = score_probes(backbone, sequences(), budget)
    twin = NaiveTwin(backbone)
    distributions = [twin.token_distributions(s).detach() for s in sequences()]
    chosen = [(s, d) for s, d in zip(sequences(), distributions, strict=True) if s.is_chosen]
    targets = [torch.tensor(list(s.input_ids[s.prompt_length :])) for s, _ in chosen]
    logps = [d.gather(1, t[:, None]).squeeze(1) for (_, d), t in zip(chosen, targets, strict=True)]
    close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)
    close(scores.token_logps, torch.cat(logps))
    close(scores.chosen_mean_logps, torch.stack([values.mean() for values in logps]))
    close(scores.min_token_logps, torch.stack([values.min() for values in logps]))
    close(scores.end_logps, torch.stack([values[-1] for values in logps]))
    everywhere = torch.cat([d for _, d in chosen])
    close(scores.entropy, -(everywhere.exp() * everywhere).sum(-1))
    rejected = [
        (twin.mean_logp(s).detach(), d) for s, d in zip(sequences(), distributions, strict=True) if not s.is_chosen
    ]
    close(scores.rejected_mean_logps, torch.stack([logp for logp, _ in rejected]))
    everywhere = torch.cat([d for _, d in rejected])
    close(scores.rejected_entropy, -(everywhere.exp() * everywhere).sum(-1))


def scores_of(chosen: list[float], rejected: list[float], tokens: list[float]) -> ProbeScores:
    ones = torch.ones(len(tokens))
    return ProbeScores(
        torch.tensor(chosen),
        torch.tensor(rejected),
        torch.tensor(tokens),
        torch.tensor([min(tokens), max(tokens), 0.5 * (min(tokens) + max(tokens))]),
        0.5 * ones,
        torch.tensor([math.log(0.25), math.log(0.75)]),
        torch.tensor([0.1, 0.3]),
    )


def test_metrics_by_hand() -> None:
    """Chosen falls by 0.2 and rejected by 1.0: the margin grows, so 0.2 nats are displaced; 2 of 4 tokens fell."""
    start = scores_of([-0.1, -0.3], [-0.5], [-0.1, -0.2, -0.3, -0.4])
    now = scores_of([-0.3, -0.5], [-1.5], [-0.1, -0.9, -0.2, -3.0])
    assert probe_metrics(now, start) == pytest.approx(
        {
            "chosen_mean_logps": -0.4,
            "rejected_mean_logps": -1.5,
            "min_token_logp": -3.0,
            "median_min_token_logp": -1.55,
            "entropy": 0.5,
            "rejected_entropy": 0.2,
            "eos_probability": 0.5,
            "fallen_share": 0.5,
            "displacement": 0.2,
            "displacement_per_nat": 0.25,  # of 0.3 to 1.1
        }
    )


def test_a_fall_without_a_wider_margin_and_a_rise_displace_nothing() -> None:
    start = scores_of([-0.2], [-0.5], [-0.2])
    for chosen in (-0.4, -0.1):
        metrics = probe_metrics(scores_of([chosen], [-0.6], [chosen]), start)
        assert metrics["displacement"] == metrics["displacement_per_nat"] == 0.0
    assert "displacement" not in probe_metrics(scores_of([-0.1], [], [-0.1]), start)


def test_measures_at_the_start_the_interval_and_the_end() -> None:
    rows = probe_rows(run(Probes(sequences(), 500, every_n_steps=2)))
    assert list(rows) == [0, 2, 4, 5]
    assert all(set(row) == set(CALLBACK_METRICS["probes"]) for row in rows.values())
    assert rows[0]["probe/fallen_share"] == 0.0
    assert rows[5]["probe/chosen_mean_logps"] > rows[0]["probe/chosen_mean_logps"]  # they are trained on here


def test_every_sequence_is_kept_as_it_was_and_as_it_is(tmp_path: Path) -> None:
    rows = probe_rows(run(Probes(sequences(), 500, every_n_steps=2, folder=tmp_path)))
    kept = json.loads((tmp_path / PROBES_FILE).read_text())
    for moment, step in (("start", 0), ("now", 5)):
        for side, number in (("chosen", 4), ("rejected", 3)):
            assert len(kept[moment][side]) == number
            assert sum(kept[moment][side]) / number == pytest.approx(rows[step][f"probe/{side}_mean_logps"])


def test_sft_has_no_rejected_side() -> None:
    chosen = [s for s in sequences() if s.is_chosen]
    rows = probe_rows(run(Probes(chosen, 500, every_n_steps=10), objective="sft", max_steps=1))
    assert not [name for name in rows[0] if "rejected" in name or "displacement" in name]


def test_training_is_the_same_to_the_bit() -> None:
    with_it = run(Probes(sequences(), 70, every_n_steps=1), max_steps=2)
    without = run(max_steps=2)
    assert all(torch.equal(a, b) for a, b in zip(with_it.tap.parameters, without.tap.parameters, strict=True))


def test_a_resumed_run_compares_with_the_first_start() -> None:
    first = Probes(sequences(), 500, every_n_steps=10)
    run(first)
    second = Probes(sequences(), 500, every_n_steps=10)
    second.load_state_dict(first.state_dict())
    state = second.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in first.state_dict().items())
    assert Probes(sequences(), 500, every_n_steps=10).state_dict() == {}


def test_probes_without_a_chosen_sequence_are_refused() -> None:
    with pytest.raises(ValueError, match="none of the sequences is a chosen one"):
        Probes([s for s in sequences() if not s.is_chosen], 500, every_n_steps=10)
