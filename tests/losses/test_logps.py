"""The chunked log-prob kernel against plain log_softmax, autograd and a watch on every tensor that it makes."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from redi_lab.losses import vocabulary
from redi_lab.losses.logps import token_logps, weighted_logp_sum
from redi_lab.losses.vocabulary import Groups, Head


class Problem(NamedTuple):
    """One random instance: N tokens, H hidden, V vocabulary."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor
    targets: Tensor
    token_weights: Tensor


def make_problem(
    tokens: int = 13,
    hidden: int = 5,
    vocabulary: int = 11,
    *,
    dtype: torch.dtype = torch.float64,
    weight_dtype: torch.dtype | None = None,
) -> Problem:
    generator = torch.Generator().manual_seed(tokens * 1000 + vocabulary)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weight_dtype = weight_dtype or dtype
    return Problem(
        hidden=normal(tokens, hidden).to(dtype).requires_grad_(),
        weight=normal(vocabulary, hidden).to(weight_dtype).requires_grad_(),
        bias=normal(vocabulary).to(weight_dtype).requires_grad_(),
        targets=torch.randint(vocabulary, (tokens,), generator=generator),
        token_weights=normal(tokens),
    )


def naive_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, softcap: float | None, scale: float) -> Tensor:
    logits = hidden @ weight.to(hidden.dtype).T
    if bias is not None:
        logits = logits + bias.to(hidden.dtype)
    logits = scale * (logits.float() if logits.dtype != torch.float64 else logits)
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def naive_logps(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
) -> Tensor:
    logits = naive_logits(hidden, weight, bias, softcap, scale)
    return torch.log_softmax(logits, -1)[torch.arange(len(targets)), targets]


def weighted_through_tokens(problem: Problem, **head: Any) -> Tensor:
    logps = token_logps(problem.hidden, Head(problem.weight, **head), problem.targets, with_entropy=True).logps
    return (problem.token_weights.to(logps.dtype) * logps).sum()


def weighted(problem: Problem, groups: Groups | None = None, **head: Any) -> Any:
    return weighted_logp_sum(
        problem.hidden,
        Head(problem.weight, **head),
        problem.targets,
        problem.token_weights,
        groups=groups,
    )


def weighted_in_forward(problem: Problem, **options: Any) -> Tensor:
    return torch.as_tensor(weighted(problem, **options).total)


def weighted_in_groups(problem: Problem, **options: Any) -> Tensor:
    """Three groups of very different lengths, whose factors are all 1."""
    tokens = len(problem.targets)
    lengths = (tokens // 8, tokens - tokens // 4, tokens - tokens // 8 - (tokens - tokens // 4))
    groups = Groups(lengths, lambda tokens, logps: torch.ones_like(logps))
    return torch.as_tensor(weighted(problem, groups, **options).total)


WeightedSum = Callable[..., Tensor]
every_kernel = pytest.mark.parametrize(
    "weighted_sum", [weighted_through_tokens, weighted_in_forward, weighted_in_groups]
)
head_options = pytest.mark.parametrize(
    "options",
    [{}, {"softcap": 1.5}, {"scale": 0.25}, {"softcap": 0.7, "scale": 3.0}],
    ids=["plain", "softcap", "scale", "both"],
)


class TensorWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the number of elements of every tensor made, and of every matrix product."""

    PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_, torch.ops.aten.linear)

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numels: list[int] = []
        self.made: list[tuple[Any, int]] = []
        self.products: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple | list) else [result]:
            if isinstance(made, Tensor):
                self.numels.append(made.numel())
                self.made.append((func.overloadpacket, made.numel()))
                if func.overloadpacket in self.PRODUCTS:
                    self.products.append(made.numel())
        return result


# Values


def test_hand_worked_example() -> None:
    """One token, H = 1, weight rows (0, ln 2, ln 5), hidden 1.

    Logits are 0, ln 2, ln 5, so the softmax is 1/8, 2/8, 5/8. Target 1: log(1/4). Entropy:
    −(1/8 ln 1/8 + 1/4 ln 1/4 + 5/8 ln 5/8) = 3/8 ln 2 + 1/2 ln 2 + 5/8 (ln 8 − ln 5) = 11/4 ln 2 − 5/8 ln 5.
    """
    weight = torch.tensor([[0.0], [math.log(2.0)], [math.log(5.0)]], dtype=torch.float64)
    hidden = torch.ones(1, 1, dtype=torch.float64)
    logps, entropy = token_logps(hidden, Head(weight), torch.tensor([1]), with_entropy=True)
    assert logps.item() == pytest.approx(math.log(0.25), rel=1e-12)
    assert entropy is not None
    assert entropy.item() == pytest.approx(2.75 * math.log(2.0) - 0.625 * math.log(5.0), rel=1e-12)


@pytest.mark.parametrize(("tokens", "vocabulary"), [(1, 37), (6, 1), (64, 2), (64, 37)])
@head_options
def test_fp32_values_match_an_fp64_twin(tokens: int, vocabulary: int, options: dict[str, Any]) -> None:
    problem = make_problem(tokens, 8, vocabulary, dtype=torch.float32)
    logps = token_logps(problem.hidden, Head(problem.weight, problem.bias, chunk_size=5, **options), problem.targets)
    twin = naive_logps(
        problem.hidden.double(), problem.weight.double(), problem.targets, bias=problem.bias.double(), **options
    )
    assert logps.logps.dtype == torch.float32
    torch.testing.assert_close(logps.logps.double(), twin, rtol=1e-6, atol=2e-6)  # atol: one ulp of logits near 10


def test_entropy_is_that_of_the_whole_distribution_and_detached() -> None:
    problem = make_problem()
    distribution = torch.softmax(naive_logits(problem.hidden, problem.weight, None, 2.0, 1.0), -1)
    expected = -(distribution * distribution.log()).sum(-1).detach()
    head = Head(problem.weight, softcap=2.0, chunk_size=4)
    assert token_logps(problem.hidden, head, problem.targets).entropy is None
    entropy = token_logps(problem.hidden, head, problem.targets, with_entropy=True).entropy
    assert entropy is not None
    assert not entropy.requires_grad
    torch.testing.assert_close(entropy, expected)


def test_entropy_of_a_distribution_with_forbidden_tokens_is_finite() -> None:
    """Logits (0, 0, −inf): two equally likely tokens, entropy log 2."""
    bias = torch.tensor([0.0, 0.0, -torch.inf])
    statistics = token_logps(torch.zeros(1, 2), Head(torch.zeros(3, 2), bias), torch.tensor([0]), with_entropy=True)
    assert statistics.entropy is not None
    assert statistics.entropy.item() == pytest.approx(math.log(2.0), rel=1e-6)


def test_weighted_sum_reports_detached_token_logps() -> None:
    problem = make_problem()
    summed = weighted(problem)
    assert not summed.logps.requires_grad
    torch.testing.assert_close(summed.logps, naive_logps(problem.hidden, problem.weight, problem.targets).detach())


# Gradients


@every_kernel
@head_options
def test_gradients_match_differences(weighted_sum: WeightedSum, options: dict[str, Any]) -> None:
    problem = make_problem(5, 3, 4)

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return weighted_sum(problem._replace(hidden=hidden, weight=weight), bias=bias, chunk_size=2, **options)

    inputs = [problem.hidden, problem.weight, problem.bias]
    analytic = torch.autograd.grad(loss(*inputs), inputs)
    for number, gradient in enumerate(analytic):
        for place in range(gradient.numel()):
            step = torch.zeros_like(gradient).flatten()
            step[place] = 1e-6
            up, down = (
                loss(*(x + sign * step.view_as(x) if i == number else x for i, x in enumerate(inputs)))
                for sign in (1.0, -1.0)
            )
            assert gradient.flatten()[place].item() == pytest.approx((up - down).item() / 2e-6, rel=1e-6, abs=1e-8)


def test_gradcheck_of_every_token_logp() -> None:
    problem = make_problem(4, 3, 5)

    def logps(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return token_logps(hidden, Head(weight, bias, chunk_size=3), problem.targets).logps

    assert torch.autograd.gradcheck(logps, (problem.hidden, problem.weight, problem.bias))


@every_kernel
@pytest.mark.parametrize(("incoming", "chunk_size"), [(1.0, 4), (-3.7, 1), (-3.7, 13), (1.0, 1024)])
@head_options
def test_gradients_match_autograd_for_any_chunk_size(
    weighted_sum: WeightedSum, incoming: float, chunk_size: int, options: dict[str, Any]
) -> None:
    problem = make_problem()
    inputs = (problem.hidden, problem.weight, problem.bias)
    loss = incoming * weighted_sum(problem, bias=problem.bias, chunk_size=chunk_size, **options)
    naive = naive_logps(*inputs[:2], problem.targets, bias=problem.bias, **options)
    expected = incoming * (problem.token_weights * naive).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    for gradient, twin in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(gradient, twin, rtol=1e-10, atol=1e-12)


@every_kernel
def test_tied_embeddings_receive_both_gradients(weighted_sum: WeightedSum) -> None:
    problem = make_problem()
    prompt = torch.arange(len(problem.targets)) % len(problem.weight)

    hidden = F.embedding(prompt, problem.weight).tanh()
    (gradient,) = torch.autograd.grad(weighted_sum(problem._replace(hidden=hidden), chunk_size=3), problem.weight)

    twin = F.embedding(prompt, problem.weight).tanh()
    expected = (problem.token_weights * naive_logps(twin, problem.weight, problem.targets)).sum()
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, problem.weight)[0])


@every_kernel
@pytest.mark.parametrize(("trained", "products"), [("hidden", [13 * 5]), ("weight", [11 * 5]), ("bias", [])])
def test_only_what_requires_grad_gets_one_and_costs_one(
    weighted_sum: WeightedSum, trained: str, products: list[int]
) -> None:
    problem = make_problem()
    leaves = {name: getattr(problem, name).detach() for name in ("hidden", "weight", "bias")}
    leaves[trained].requires_grad_()
    with TensorWatch() as watch:
        weighted_sum(problem._replace(**leaves), bias=leaves["bias"]).backward()  # type: ignore[no-untyped-call]
    assert {name for name, value in leaves.items() if value.grad is not None} == {trained}
    assert [made for made in watch.products if made != 13 * 11] == products  # 13 · 11: the logits themselves


def test_a_retained_graph_gives_the_same_gradient_twice() -> None:
    problem = make_problem()
    loss = weighted_through_tokens(problem) * 2.0
    (first,) = torch.autograd.grad(loss, problem.hidden, retain_graph=True)
    (second,) = torch.autograd.grad(loss, problem.hidden)
    torch.testing.assert_close(first, second, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("weighted_sum", [weighted_in_forward, weighted_in_groups])
def test_gradients_taken_in_the_forward_pass_are_handed_over_once(weighted_sum: WeightedSum) -> None:
    problem = make_problem()
    loss = weighted_sum(problem)
    torch.autograd.grad(loss, problem.hidden, retain_graph=True)
    with pytest.raises(RuntimeError, match="handed over by an earlier backward pass"):
        torch.autograd.grad(loss, problem.hidden)


# Factors that are known only when a group has been read

GROUPS = [3, 6, 0, 4]


def logistic_losses(token_logps: Tensor, token_weights: Tensor) -> Tensor:
    """(n,) −log σ(m + ½) of each group's linear form m, as in DPO and SimPO."""
    forms = [part.sum() for part in torch.split(token_weights * token_logps, GROUPS)]
    return -F.logsigmoid(torch.stack(forms) + 0.5)


@pytest.mark.parametrize("chunk_size", [1, 5, 9, 1024])
@head_options
def test_grouped_gradient_is_that_of_the_loss(chunk_size: int, options: dict[str, Any]) -> None:
    """Chunks shorter than every group, than some, and longer than all; a group may be empty."""
    problem = make_problem()
    inputs = (problem.hidden, problem.weight, problem.bias)
    asked: list[int] = []

    def factors_of(tokens: slice, logps: Tensor) -> Tensor:
        asked.extend(range(tokens.start, tokens.stop))
        everywhere = torch.zeros(13, dtype=logps.dtype)  # other groups have no say
        everywhere[tokens] = logps
        everywhere.requires_grad_()
        with torch.enable_grad():
            (slopes,) = torch.autograd.grad(logistic_losses(everywhere, problem.token_weights).sum(), everywhere)
        return (slopes / problem.token_weights)[tokens]

    summed = weighted(problem, Groups(GROUPS, factors_of), bias=problem.bias, chunk_size=chunk_size, **options)
    naive = naive_logps(*inputs[:2], problem.targets, bias=problem.bias, **options)
    torch.testing.assert_close(summed.logps, naive.detach())
    assert asked == list(range(13))
    expected = torch.autograd.grad(logistic_losses(naive, problem.token_weights).sum(), inputs)
    for gradient, twin in zip(torch.autograd.grad(summed.total, inputs), expected, strict=True):
        torch.testing.assert_close(gradient, twin, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("chunk_size", "head_buffers"), [(13, 1), (7, 1), (5, 2)])
def test_only_a_group_longer_than_a_chunk_takes_one_more_head(chunk_size: int, head_buffers: int) -> None:
    problem = make_problem(hidden=50, vocabulary=70)
    with TensorWatch() as watch:
        weighted(problem, Groups(GROUPS, lambda tokens, logps: torch.ones_like(logps)), chunk_size=chunk_size)
    assert watch.made.count((torch.ops.aten.zeros_like, 50 * 70)) == head_buffers


@pytest.mark.parametrize("lengths", [(13, 1), (12,), (14, -1)])
def test_groups_that_do_not_make_up_the_tokens_are_refused(lengths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="13"):
        weighted(make_problem(), Groups(lengths, lambda tokens, logps: logps))


# Precision


@every_kernel
@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16])
def test_bf16_activations(weighted_sum: WeightedSum, weight_dtype: torch.dtype) -> None:
    """Products in bf16, all else in fp32: bf16 has 8 bits of mantissa, so gradients agree to about 1 %."""
    problem = make_problem(40, 16, 30, dtype=torch.bfloat16, weight_dtype=weight_dtype)
    inputs = (problem.hidden, problem.weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # must not leak into the kernel
        loss = weighted_sum(problem, chunk_size=7)
    expected = (problem.token_weights * naive_logps(*inputs, problem.targets)).sum()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-3, atol=1e-3)
    gradients = torch.autograd.grad(loss, inputs)
    for value, gradient, twin in zip(inputs, gradients, torch.autograd.grad(expected, inputs), strict=True):
        assert gradient.dtype == value.dtype
        assert (gradient - twin).norm() < 0.02 * twin.norm()


@pytest.mark.gpu
@every_kernel
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.02)])
@head_options
def test_a_gpu_agrees_with_fp64(
    weighted_sum: WeightedSum, dtype: torch.dtype, tolerance: float, options: dict[str, Any]
) -> None:
    """At a size where chunks, and blocks of their rows, are several."""
    problem = make_problem(300, 64, 5000, dtype=dtype, weight_dtype=torch.float32)
    problem = problem._replace(hidden=(problem.hidden / 8).detach().requires_grad_())  # logits of about 1
    on_gpu = Problem(*(x.detach().cuda().requires_grad_(x.requires_grad) for x in problem))
    loss = weighted_sum(on_gpu, bias=on_gpu.bias, chunk_size=128, **options)
    gradients = torch.autograd.grad(loss, (on_gpu.hidden, on_gpu.weight, on_gpu.bias))
    inputs = (problem.hidden, problem.weight, problem.bias)
    hidden, weight, bias = (x.double() for x in inputs)
    naive = naive_logps(hidden, weight, problem.targets, bias=bias, **options)
    expected = torch.autograd.grad((problem.token_weights * naive).sum(), inputs)
    for gradient, twin in zip(gradients, expected, strict=True):
        assert (gradient.cpu() - twin).norm() < tolerance * twin.norm()


@every_kernel
def test_autocast_does_not_lower_fp32_activations(weighted_sum: WeightedSum) -> None:
    problem = make_problem(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = weighted_sum(problem)
        (gradient,) = torch.autograd.grad(lowered, problem.hidden)
    plain = weighted_sum(problem)
    torch.testing.assert_close(lowered, plain, rtol=0.0, atol=0.0)
    torch.testing.assert_close(gradient, torch.autograd.grad(plain, problem.hidden)[0], rtol=0.0, atol=0.0)


@every_kernel
def test_bf16_head_gradient_is_added_up_in_fp32(weighted_sum: WeightedSum) -> None:
    """512 equal chunks of gradient ½: the sum is 256, but a running bf16 sum would stop at ½ · 2⁸ = 128."""
    tokens = 512
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    problem = Problem(
        hidden=torch.ones(tokens, 1, dtype=torch.bfloat16),
        weight=weight,
        bias=torch.empty(0),
        targets=torch.zeros(tokens, dtype=torch.int64),
        token_weights=torch.ones(tokens),
    )
    (gradient,) = torch.autograd.grad(weighted_sum(problem, chunk_size=1), weight)
    assert gradient.dtype == torch.bfloat16
    assert gradient.tolist() == [[256.0], [-256.0]]


def test_tiny_weights_survive_fp16_activations() -> None:
    """Gradients near 1e-9 are below fp16's smallest number, 6e-8, until the loss scale of 2³⁰ arrives in backward."""
    problem = make_problem(dtype=torch.float16, weight_dtype=torch.float32)
    problem = problem._replace(token_weights=problem.token_weights * 1e-9)
    inputs = (problem.hidden, problem.weight)
    gradients = torch.autograd.grad(weighted_in_forward(problem) * 2.0**30, inputs)
    naive = naive_logps(problem.hidden.double(), problem.weight.double(), problem.targets)
    expected = torch.autograd.grad((problem.token_weights * naive).sum() * 2.0**30, inputs)
    for gradient, twin in zip(gradients, expected, strict=True):
        assert (gradient - twin).norm() < 0.01 * twin.norm()


@every_kernel
@pytest.mark.parametrize("magnitude", [1e4, 1e30])
def test_extreme_logits_stay_finite(weighted_sum: WeightedSum, magnitude: float) -> None:
    problem = make_problem(dtype=torch.float32)
    extreme = problem._replace(hidden=(problem.hidden * magnitude).detach().requires_grad_())
    loss = weighted_sum(extreme)
    gradients = torch.autograd.grad(loss, (extreme.hidden, extreme.weight))
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


# No tokens, no gradients, little memory


@every_kernel
def test_no_tokens_give_zero_gradients(weighted_sum: WeightedSum) -> None:
    problem = make_problem(0)
    inputs = (problem.hidden, problem.weight, problem.bias)
    loss = weighted_sum(problem, bias=problem.bias)
    assert loss.item() == 0.0
    for value, gradient in zip(inputs, torch.autograd.grad(loss, inputs), strict=True):
        assert gradient.shape == value.shape
        assert not gradient.any()


def test_all_weights_zero_give_zero_gradients() -> None:
    problem = make_problem()
    loss = weighted_in_forward(problem._replace(token_weights=torch.zeros_like(problem.token_weights)))
    (gradient,) = torch.autograd.grad(loss, problem.weight)
    assert loss.item() == 0.0
    assert not gradient.any()


@every_kernel
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_memory_is_bounded_by_the_chunk(weighted_sum: WeightedSum, softcap: float | None) -> None:
    tokens, hidden, vocabulary, chunk_size = 400, 4, 101, 16
    problem = make_problem(tokens, hidden, vocabulary)
    with TensorWatch() as watch:
        loss = weighted_sum(problem, chunk_size=chunk_size, softcap=softcap)
        torch.autograd.grad(loss, (problem.hidden, problem.weight))
    assert max(watch.numels) == chunk_size * vocabulary


def test_weighted_sum_sees_the_vocabulary_once() -> None:
    problem = make_problem(tokens=40, vocabulary=101)
    logits_of_a_chunk = 8 * 101
    with TensorWatch() as forward:
        loss = weighted_in_forward(problem, chunk_size=8)
    with TensorWatch() as backward:
        torch.autograd.grad(loss, (problem.hidden, problem.weight))
    assert forward.products.count(logits_of_a_chunk) == 5
    assert max(backward.numels) == problem.weight.numel()
    assert not backward.products


@every_kernel
def test_memory_of_a_chunk_is_kept_and_holds_nothing_back(
    weighted_sum: WeightedSum, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second call makes no tensor as large as a chunk, and the rests of a larger one do not show in it."""
    monkeypatch.setattr(vocabulary, "_kept", threading.local())
    small = make_problem(24, 5, 90, dtype=torch.bfloat16, weight_dtype=torch.float32)
    expected = torch.autograd.grad(weighted_sum(small, chunk_size=7), (small.hidden, small.weight))
    large = make_problem(24, 6, 101, dtype=torch.bfloat16, weight_dtype=torch.float32)
    torch.autograd.grad(weighted_sum(large, chunk_size=8), (large.hidden, large.weight))
    with TensorWatch() as watch:
        gradients = torch.autograd.grad(weighted_sum(small, chunk_size=7), (small.hidden, small.weight))
    makers = (torch.ops.aten.empty, torch.ops.aten.new_empty, torch.ops.aten.empty_like)
    assert not [size for maker, size in watch.made if maker in makers and size >= 7 * 90]
    for gradient, twin in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, twin, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("reason", ["no_grad", "frozen"])
def test_weighted_sum_skips_gradient_work_when_nobody_asks(reason: str) -> None:
    problem = make_problem(tokens=40)
    if reason == "frozen":
        problem = problem._replace(hidden=problem.hidden.detach(), weight=problem.weight.detach())
    with TensorWatch() as watch, torch.set_grad_enabled(reason == "frozen"):
        loss = weighted_in_forward(problem, chunk_size=8)
    assert not loss.requires_grad
    assert len(watch.products) == 5  # the projections alone


# Bad input: what would else give wrong numbers, or end a process on a GPU


@every_kernel
@pytest.mark.parametrize(
    ("change", "options", "value"),
    [
        ({"hidden": torch.zeros(13, 4)}, {}, r"\(13, 4\) and \(11, 5\)"),
        ({"hidden": torch.zeros(13)}, {}, r"\(13,\)"),
        ({"targets": torch.zeros(14, dtype=torch.int64)}, {}, r"\(14,\)"),
        ({"targets": torch.zeros(13)}, {}, r"targets .* torch.float32"),
        ({"targets": torch.arange(13)}, {}, r"targets .* \[0, 11\), got 11 at position 11 of 13$"),
        ({"targets": torch.full((13,), -100)}, {}, r"targets .* \[0, 11\), got -100 at position 0 of 13$"),
        ({}, {"chunk_size": -1}, r"chunk_size .* -1"),
    ],
)
def test_bad_input_is_refused(
    weighted_sum: WeightedSum, change: dict[str, Tensor], options: dict[str, Any], value: str
) -> None:
    with pytest.raises(ValueError, match=value):
        weighted_sum(make_problem()._replace(**change), **options)


@pytest.mark.parametrize(
    ("token_weights", "value"),
    [(torch.ones(1), r"token_weights .* \(1,\)"), (torch.ones(13, requires_grad=True), "token_weights .* constants")],
)
def test_bad_token_weights_are_refused(token_weights: Tensor, value: str) -> None:
    with pytest.raises(ValueError, match=value):
        weighted_in_forward(make_problem()._replace(token_weights=token_weights))
