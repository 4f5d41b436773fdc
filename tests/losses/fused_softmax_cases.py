"""The kernel against fp64, case by case; prints the errors as JSON. Run with TRITON_INTERPRET=1 it needs no GPU."""

from __future__ import annotations

import itertools
import json
from typing import Any
from unittest.mock import patch

import torch

from redi_lab.losses import fused_softmax

COLUMNS = 64  # of a program, so that small vocabularies take several
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
VOCABULARIES = (3, 64, 65, 128, 403)  # less than a block, whole blocks, and what is left over
OPTIONS: tuple[dict[str, Any], ...] = (
    {"scale": 1.0, "softcap": None},
    {"scale": 1.0, "softcap": 1.5},
    {"scale": 0.25, "softcap": None},
    {"scale": 3.0, "softcap": 0.7},
)
ASKED = ((True, True), (True, False), (False, True), (False, False))  # for gradients, for entropy


def errors(
    dtype: torch.dtype, vocabulary: int, options: dict[str, Any], has_grads: bool, has_entropy: bool, device: str
) -> dict[str, float]:
    """Largest error of log-probs and entropy in nats, and ‖error‖ / ‖gradient‖, on 5 rows."""
    torch.manual_seed(vocabulary)
    logits = (3.0 * torch.randn(5, vocabulary)).to(dtype)
    targets = torch.randint(vocabulary, (5,))
    targets[0], targets[1] = 0, vocabulary - 1
    grads = torch.randn(5)
    projection = logits.double().requires_grad_()
    capped = projection * options["scale"]
    if options["softcap"] is not None:
        capped = options["softcap"] * torch.tanh(capped / options["softcap"])
    logps = capped.log_softmax(-1)
    chosen = logps.gather(1, targets[:, None]).squeeze(1)
    (exact,) = torch.autograd.grad((chosen * grads).sum(), projection)
    wrong = torch.full((5,), torch.nan, device=device)
    buffer, found, entropy = logits.to(device), wrong.clone(), wrong.clone() if has_entropy else None
    with patch.object(fused_softmax, "BLOCK", COLUMNS):
        given = grads.to(device) if has_grads else None
        fused_softmax.softmax_(buffer, targets.to(device), given, found, entropy, **options)
    result = {"logps": float((found.cpu() - chosen).detach().abs().max())}
    if entropy is not None:
        result["entropy"] = float((entropy.cpu() + (logps.exp() * logps).sum(-1)).detach().abs().max())
    if has_grads:
        result["gradient"] = float((buffer.cpu().double() - exact).norm() / exact.norm())
    else:
        result["untouched"] = float((buffer.cpu() != logits).sum())
    return result


def all_errors(device: str) -> dict[str, dict[str, float]]:
    """Of every seventh case, by a name that begins with its dtype: a GPU compiles each, the interpreter is slow."""
    cases = list(itertools.product(DTYPES, VOCABULARIES, OPTIONS, ASKED))[::7]
    return {
        f"{dtype} {vocabulary} {options} {asked}": errors(dtype, vocabulary, options, asked[0], asked[1], device)
        for dtype, vocabulary, options, asked in cases
    }


def worst_of(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """The largest error of each kind, gradients by dtype: those are rounded to it."""
    worst: dict[str, float] = {}
    for name, values in found.items():
        for kind, value in values.items():
            key = f"{kind} {name.split()[0]}" if kind == "gradient" else kind
            worst[key] = max(worst.get(key, 0.0), value if value == value else float("inf"))
    return worst


if __name__ == "__main__":
    print(json.dumps(worst_of(all_errors("cpu"))))
