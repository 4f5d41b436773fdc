"""The Triton kernel of the head: by Triton's interpreter on a CPU, and compiled on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from redi_lab.losses import vocabulary
from redi_lab.losses.logps import token_logps, weighted_logp_sum
from redi_lab.losses.vocabulary import Groups, Head

BOUNDS = {
    "logps": 5e-6,
    "entropy": 2e-5,
    "untouched": 0.0,
    "gradient torch.float32": 5e-6,
    "gradient torch.bfloat16": 1e-2,
    "gradient torch.float16": 1e-3,
}


def test_the_interpreter_agrees_with_fp64() -> None:
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.losses.fused_softmax_cases"],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    worst = json.loads(done.stdout)
    assert worst.keys() == BOUNDS.keys()
    assert {kind: error for kind, error in worst.items() if error > BOUNDS[kind]} == {}


@pytest.mark.gpu
def test_the_compiled_kernel_agrees_with_fp64() -> None:
    from tests.losses.fused_softmax_cases import all_errors, worst_of

    worst = worst_of(all_errors("cuda"))
    assert {kind: error for kind, error in worst.items() if error > BOUNDS[kind]} == {}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_kind_of_pass_agrees_with_plain_torch(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values, entropy and gradients, where chunks do not end with the tokens nor groups with the chunks."""
    torch.manual_seed(0)
    hidden = torch.randn(300, 64, device="cuda").to(dtype).requires_grad_()
    weight = torch.randn(5003, 64, device="cuda").mul_(0.2).requires_grad_()
    targets, weights = torch.randint(5003, (300,), device="cuda"), torch.randn(300, device="cuda")
    head = Head(weight, softcap=5.0, chunk_size=128)
    groups = Groups((10, 200, 90), lambda _, x: x)

    def passes() -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        linear = weighted_logp_sum(hidden, head, targets, weights)
        grouped = weighted_logp_sum(hidden, head, targets, weights, groups=groups)
        tokens = token_logps(hidden, head, targets, with_entropy=True)
        assert tokens.entropy is not None
        for total, logps in (linear, grouped, ((tokens.logps * weights).sum(), tokens.logps)):
            found += [logps.detach(), *torch.autograd.grad(total, (hidden, weight))]
        return [*found, tokens.entropy]

    assert vocabulary._has_triton()
    fused = passes()
    monkeypatch.setattr(vocabulary, "_is_fused", lambda *_: False)
    for ours, plain in zip(fused, passes(), strict=True):
        assert (ours - plain).float().norm() <= (1e-2 if dtype == torch.bfloat16 else 1e-5) * plain.float().norm()
