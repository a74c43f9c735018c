"""The tap against torch's own values and gradients, and against hand-written weighting."""

import inspect
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_alignprune import register_loss
from lightning_alignprune.tap import loss_tap
from lightning_alignprune.tap.loss_tap import LossTap
from lightning_alignprune.tap.tapped_step import (
    TappedStep,
    UnseenLossError,
    is_classification,
    is_part_of,
)

B, C, T = 7, 4, 5


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(*shape, ignore=False):
    y = torch.randint(0, C, shape, generator=torch.Generator().manual_seed(1))
    if ignore:
        y.view(-1)[::3] = -100
    return y


CLASS_WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
X, XT = rand(B, C), rand(B, C, T)
PROBS = rand(B, C, seed=2).softmax(1)
CASES = {
    "ce": (F.cross_entropy, X, labels(B), {}),
    "ce class weights": (F.cross_entropy, X, labels(B), {"weight": CLASS_WEIGHTS}),
    "ce smoothing": (F.cross_entropy, X, labels(B), {"label_smoothing": 0.1}),
    "ce smoothing weights ignore": (
        F.cross_entropy,
        X,
        labels(B, ignore=True),
        {"label_smoothing": 0.2, "weight": CLASS_WEIGHTS},
    ),
    "ce ignore": (F.cross_entropy, X, labels(B, ignore=True), {}),
    "ce other ignore": (F.cross_entropy, X, labels(B), {"ignore_index": 2}),
    "ce soft": (F.cross_entropy, X, PROBS, {}),
    "ce soft weights": (F.cross_entropy, X, PROBS, {"weight": CLASS_WEIGHTS}),
    "ce positions": (F.cross_entropy, XT, labels(B, T), {}),
    "ce positions ignore": (F.cross_entropy, XT, labels(B, T, ignore=True), {}),
    "ce positions weights": (F.cross_entropy, XT, labels(B, T), {"weight": CLASS_WEIGHTS}),
    "nll": (F.nll_loss, X.log_softmax(1), labels(B), {}),
    "nll weights ignore": (
        F.nll_loss,
        X.log_softmax(1),
        labels(B, ignore=True),
        {"weight": CLASS_WEIGHTS},
    ),
    "bce": (F.binary_cross_entropy, X.sigmoid(), PROBS, {}),
    "bce logits": (F.binary_cross_entropy_with_logits, X, PROBS, {}),
    "bce logits pos_weight": (
        F.binary_cross_entropy_with_logits,
        X,
        PROBS,
        {"pos_weight": CLASS_WEIGHTS},
    ),
    "mse": (F.mse_loss, X, PROBS, {}),
    "mse 1d": (F.mse_loss, X[:, 0], PROBS[:, 0], {}),
    "l1": (F.l1_loss, X, PROBS, {}),
    "smooth l1": (F.smooth_l1_loss, X, PROBS, {"beta": 0.3}),
    "huber": (F.huber_loss, X, PROBS, {"delta": 0.3}),
    "mse weight": (F.mse_loss, X, PROBS, {"weight": 3 * PROBS}),
    "l1 weight": (F.l1_loss, X, PROBS, {"weight": 3 * PROBS}),
    "huber weight": (F.huber_loss, X, PROBS, {"weight": 3 * PROBS}),
    "kl": (F.kl_div, X.log_softmax(1), PROBS, {}),
    "kl batchmean": (F.kl_div, X.log_softmax(1), PROBS, {"reduction": "batchmean"}),
    "poisson": (F.poisson_nll_loss, X, PROBS, {}),
    "soft margin": (F.soft_margin_loss, X, PROBS.sign(), {}),
}
# torch 2.6 has no weight for some of them.
CASES = {
    name: case
    for name, case in CASES.items()
    if "weight" not in case[3] or "weight" in inspect.signature(case[0]).parameters
}
pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss")


def run(func, x, target, kwargs, tap=None):
    x = x.clone().requires_grad_()
    if tap is None:
        loss = func(x, target, **kwargs)
    else:
        with tap:
            loss = func(x, target, **kwargs)
    (grad,) = torch.autograd.grad(loss, x)
    return loss.detach(), grad


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("reduction", ["default", "sum"])
def test_without_weights_value_and_gradient_are_torchs_own(name, reduction):
    func, x, target, kwargs = CASES[name]
    if reduction == "sum":
        kwargs = {**kwargs, "reduction": "sum"}
    tap = LossTap(indices=torch.empty(B))
    for ours, theirs in zip(
        run(func, x, target, kwargs, tap), run(func, x, target, kwargs), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert len(tap.calls) == 1
    assert tap.calls[0].losses.shape == (B,)
    assert not tap.calls[0].losses.requires_grad


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("reduction", ["default", "sum"])
def test_weighting_is_the_hand_written_one(name, reduction):
    func, x, target, kwargs = CASES[name]
    if reduction == "sum":
        kwargs = {**kwargs, "reduction": "sum"}
    weights = torch.rand(B, generator=torch.Generator().manual_seed(3)) * 2

    def by_hand(x, target, **kw):
        elements = func(x, target, **{**kw, "reduction": "none"})
        total = func(x, target, **{**kw, "reduction": "sum"})
        divisor = (total / func(x, target, **kw)).detach()  # torch's own, whatever it is
        w = weights.double().view(-1, *[1] * (elements.ndim - 1))
        return (elements * w).sum() / divisor

    ours = run(func, x, target, kwargs, LossTap(torch.empty(B), weights))
    torch.testing.assert_close(ours, run(by_hand, x, target, kwargs), rtol=1e-10, atol=1e-12)
    ones = run(func, x, target, kwargs, LossTap(torch.empty(B), torch.ones(B)))
    torch.testing.assert_close(ones, run(func, x, target, kwargs), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_recorded_losses_are_those_of_single_samples(name):
    func, x, target, kwargs = CASES[name]
    kwargs = {k: v for k, v in kwargs.items() if k != "reduction"}
    tap = LossTap(torch.empty(B))
    with tap:
        func(x.clone().requires_grad_(), target, **kwargs)
    for i in range(B):
        if func in (F.mse_loss, F.l1_loss, F.huber_loss) and "weight" in kwargs:
            kwargs = {**kwargs, "weight": CASES[name][3]["weight"][i : i + 1]}
        elements = func(x[i : i + 1], target[i : i + 1], **kwargs, reduction="none").flatten()
        if target.dtype == torch.int64:
            elements = elements[(target[i : i + 1] != kwargs.get("ignore_index", -100)).flatten()]
        wanted = elements.mean().float()  # the mean of nothing is NaN: not observed
        torch.testing.assert_close(tap.calls[0].losses[i], wanted, equal_nan=True)


def test_reduction_none_keeps_values_and_weights_gradients():
    x, y = rand(B, C).requires_grad_(), labels(B)
    weights = torch.rand(B)

    def focal(losses):
        return ((1 - torch.exp(-losses)) ** 2 * losses).mean()

    with LossTap(torch.empty(B), weights) as tap:
        losses = F.cross_entropy(x, y, reduction="none")
    assert torch.equal(losses, F.cross_entropy(x, y, reduction="none"))
    assert len(tap.calls) == 1
    (grad,) = torch.autograd.grad(focal(losses), x)
    each = F.cross_entropy(x, y, reduction="none")
    by_hand = ((1 - torch.exp(-each)) ** 2 * each * weights).mean()
    torch.testing.assert_close(grad, torch.autograd.grad(by_hand, x)[0])


def test_modules_and_positional_arguments_are_seen():
    x, y = rand(B, C).float(), labels(B)
    for loss in (
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.NLLLoss(),
        lambda a, b: F.cross_entropy(a, b, None, None, -100, None, "mean", 0.1),
    ):
        with LossTap(torch.empty(B), torch.rand(B)) as tap:
            loss(x.clone().requires_grad_(), y)
        assert len(tap.calls) == 1


def test_other_batch_sizes_and_disabled_gradients_pass_through():
    with LossTap(torch.empty(B), torch.rand(B)) as tap:
        F.mse_loss(torch.ones(B + 1), torch.zeros(B + 1))
        with torch.no_grad():
            F.mse_loss(torch.ones(B), torch.zeros(B))
    assert not tap.calls


def test_plain_records_without_smoothing_and_trains_with_it():
    x, y = rand(B, C).requires_grad_(), labels(B)
    with LossTap(torch.empty(B), plain=True) as tap:
        loss = F.cross_entropy(x, y, label_smoothing=0.3)
    assert torch.equal(loss, F.cross_entropy(x, y, label_smoothing=0.3))
    torch.testing.assert_close(
        tap.calls[0].losses, F.cross_entropy(x, y, reduction="none").float().detach()
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_becomes_infinite_and_ignored_becomes_nan(bad):
    x, y = rand(3, C), torch.tensor([0, -100, 1])
    x[2] = bad
    with LossTap(torch.empty(3)) as tap:
        F.cross_entropy(x.requires_grad_(), y)
    losses = tap.calls[0].losses
    assert losses[0].isfinite()
    assert losses[1].isnan()
    assert losses[2].isinf()


def test_sum_of_losses_takes_the_coefficients_from_the_graph():
    x, y = rand(B, C).requires_grad_(), labels(B)
    with LossTap(torch.empty(B)) as tap:
        ce = F.cross_entropy(x, y)
        sse = F.mse_loss(x, PROBS, reduction="sum")
        each = F.l1_loss(x, PROBS, reduction="none")
        F.mse_loss(x, PROBS)  # a metric beside the loss
        loss = 2 * ce + 0.25 * sse / B + each.mean()
    losses = TappedStep(B, loss, tap.calls).sample_losses()
    wanted = (
        2 * F.cross_entropy(x, y, reduction="none")
        + 0.25 * F.mse_loss(x, PROBS, reduction="none").sum(1)
        + F.l1_loss(x, PROBS, reduction="none").mean(1)
    )
    torch.testing.assert_close(losses, wanted.float().detach())
    torch.testing.assert_close(losses.mean(), loss.float().detach())


@pytest.mark.parametrize("name", ["mse", "ce positions ignore", "kl batchmean"])
def test_a_summed_loss_is_recorded_as_the_sum_of_a_samples_elements(name):
    func, x, target, kwargs = CASES[name]
    kwargs = {"reduction": "sum"} | kwargs
    with LossTap(torch.empty(B)) as tap:
        func(x.clone().requires_grad_(), target, **kwargs)
    wanted = [func(x[i : i + 1], target[i : i + 1], **kwargs) for i in range(B)]
    torch.testing.assert_close(tap.calls[0].losses, torch.stack(wanted).float())


def test_a_loss_that_no_call_feeds():
    x, y = rand(B, C).requires_grad_(), labels(B)
    with LossTap(torch.empty(B)) as tap:
        F.cross_entropy(x, y)
        loss = x.square().mean()
    assert not is_part_of(loss, tap.calls)
    assert is_part_of(tap.calls[0].output * 2, tap.calls)
    with pytest.raises(UnseenLossError):
        TappedStep(B, loss, []).sample_losses()


L1_HAS_WEIGHT = "weight" in inspect.signature(F.l1_loss).parameters  # not in torch 2.6


def smoothed_step(logits, y):
    return F.cross_entropy(logits[:, 0], y[:, 0], label_smoothing=0.1)


def token_step(logits, y):
    return F.cross_entropy(logits[:, :-1].reshape(-1, C), y[:, 1:].reshape(-1))


def weighted_l1_step(logits, y):
    kwargs = {"weight": (y[..., None] + 1.0).expand_as(logits)} if L1_HAS_WEIGHT else {}
    return F.l1_loss(logits, torch.zeros_like(logits), **kwargs)


@register_loss  # that there is one must not break a compiled step's graph
def unused_loss(inputs, targets, reduction="mean"):
    raise NotImplementedError


@pytest.mark.parametrize(
    ("loss", "backend"),
    [
        (token_step, "eager"),
        (token_step, "aot_eager"),
        (smoothed_step, "aot_eager"),
        (weighted_l1_step, "aot_eager"),
    ],
)
def test_compiled_steps_give_the_same(backend, loss):
    torch._dynamo.reset()
    net = nn.Linear(6, C)

    def step(x, y):
        return loss(net(x), y)

    compiled = torch.compile(step, backend=backend)
    for size in (8, 8, 5):
        x, y, w = rand(size, T, 6).float(), labels(size, T), torch.rand(size)
        results = []
        for call in (compiled, step):
            with LossTap(y) as unweighted:
                loss_value = call(x, y)
            torch.testing.assert_close(loss_value, step(x, y))
            with LossTap(y, w) as tap:
                loss_value = call(x, y)
            assert len(tap.calls) == len(unweighted.calls) == 1
            torch.testing.assert_close(tap.calls[0].losses, unweighted.calls[0].losses)
            grads = torch.autograd.grad(loss_value, net.weight)
            results.append((loss_value.detach(), *grads, tap.calls[0].losses))
        torch.testing.assert_close(*results)


def test_the_mode_does_not_survive_an_exception():
    tap = LossTap(torch.empty(B))
    with pytest.raises(KeyboardInterrupt), tap:
        raise KeyboardInterrupt
    F.cross_entropy(rand(B, C).requires_grad_(), labels(B))
    assert not tap.calls


class LargestTensor(TorchDispatchMode):
    """Notes the size of the largest floating-point tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = result if isinstance(result, tuple) else (result,)
        self.sizes += [
            t.numel() for t in made if isinstance(t, torch.Tensor) and "log_softmax" in str(func)
        ]
        return result


PIECES = {
    "samples": (60, 50),
    "tokens": (12, 5, 50),
    "positions": (4, 10, 30),
    "pixels of one sample": (1, 10, 40, 1),
}


@pytest.mark.parametrize("kwargs", [{}, {"label_smoothing": 0.1}, {"reduction": "sum"}])
@pytest.mark.parametrize("name", PIECES)
def test_the_second_computation_of_a_large_loss_is_made_of_small_pieces(name, kwargs, monkeypatch):
    monkeypatch.setattr(loss_tap, "_CHUNK_NUMEL", 100)
    x = rand(*PIECES[name]).requires_grad_()
    is_flat = name == "tokens"
    y = labels(*(x.shape[:-1] if is_flat else (len(x), *x.shape[2:])), ignore=True)

    def loss(**extra):
        if is_flat:
            return F.cross_entropy(x.view(-1, 50), y.view(-1), **{**kwargs, **extra})
        return F.cross_entropy(x, y, **{**kwargs, **extra})

    with LargestTensor() as seen, LossTap(y, plain=True) as tap:
        ours = loss()
    assert torch.equal(ours, loss())
    assert seen.sizes[0] == x.numel(), "torch's own"
    assert max(seen.sizes[1:]) <= 100
    elements = loss(reduction="none", label_smoothing=0.0).detach().float().view(len(x), -1)
    wanted = elements.sum(1)
    if "reduction" not in kwargs:
        wanted = wanted / (y != -100).reshape(len(x), -1).sum(1)
    wanted[(y == -100).reshape(len(x), -1).all(1)] = torch.nan
    torch.testing.assert_close(tap.calls[0].losses, wanted, equal_nan=True)


def test_elements_are_not_computed_twice():
    with LargestTensor() as seen, LossTap(torch.empty(B)):
        F.cross_entropy(rand(B, C).requires_grad_(), labels(B), reduction="none")
    assert len(seen.sizes) == 1


LENGTHS = torch.tensor([1, 2, 3, 2, 1, 3, 2])
SIGNS = labels(B) % 2 * 2 - 1
OTHER, THIRD = rand(B, C, seed=4), rand(B, C, seed=5)
# Function, what its first argument is made of, the others; each has one row per sample.
PAIRS = {
    "hinge": (F.hinge_embedding_loss, X, [PROBS.sign()], {}),
    "ranking": (F.margin_ranking_loss, X[:, 0], [OTHER[:, 0], SIGNS], {"margin": 0.5}),
    "cosine": (F.cosine_embedding_loss, X, [OTHER, SIGNS], {"margin": 0.1}),
    "triplet": (F.triplet_margin_loss, X, [OTHER, THIRD], {"swap": True}),
    "triplet distance": (F.triplet_margin_with_distance_loss, X, [OTHER, THIRD], {"margin": 2.0}),
    "ctc": (F.ctc_loss, rand(B, 8, C), [labels(B, 3).clamp(min=1), LENGTHS * 0 + 8, LENGTHS], {}),
}


def call_pair(func, x, others, kwargs):
    if func is F.ctc_loss:
        return func(x.transpose(0, 1).log_softmax(2), *others, **kwargs)
    return func(x, *others, **kwargs)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_losses_of_pairs_triplets_and_sequences(name, reduction):
    func, x, others, kwargs = PAIRS[name]
    kwargs = {**kwargs, "reduction": reduction}
    x = x.clone().requires_grad_()
    alone = [
        call_pair(func, x[i : i + 1], [o[i : i + 1] for o in others], kwargs) for i in range(B)
    ]
    alone = torch.stack(alone)
    for weights in (None, torch.ones(B), torch.rand(B) * 2):
        with LossTap(torch.empty(B), weights) as tap:
            loss = call_pair(func, x, others, kwargs)
        w = torch.ones(B).double() if weights is None else weights.double()
        by_hand = (alone * w).sum() / (B if reduction == "mean" else 1)
        torch.testing.assert_close(loss, by_hand)
        ours, theirs = (
            torch.autograd.grad(value, x, retain_graph=True)[0] for value in (loss, by_hand)
        )
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(tap.calls[0].losses, alone.detach().float())
        if weights is None:
            assert torch.equal(loss, call_pair(func, x, others, kwargs))


def flat_tokens(x, y):
    return F.cross_entropy(x.view(-1, C), y.view(-1))


def shifted_tokens(x, y):
    return F.cross_entropy(x[:, :-1].reshape(-1, C), y[:, 1:].flatten())


def summed_tokens(x, y):
    return F.cross_entropy(x.flatten(0, 1), y.reshape(-1), reduction="sum")


def token_log_probabilities(x, y):
    weight = CLASS_WEIGHTS.to(x.dtype)
    return F.nll_loss(F.log_softmax(x.view(-1, C), dim=-1), y.view(-1), weight=weight)


def token_elements(x, y):
    each = F.cross_entropy(x.view(-1, C), y.view(-1), reduction="none")
    return each.sum() / (y != -100).sum()


def token_divergence(x, y):
    flat = x.view(-1, C).log_softmax(-1)
    return F.kl_div(flat, torch.full_like(flat, 1 / C), reduction="batchmean")


def token_bits(x, y):
    target = (y > 1).to(x.dtype)[..., None].expand_as(x)
    return F.binary_cross_entropy_with_logits(x.view(-1), target.reshape(-1))


TOKENS = [
    flat_tokens,
    shifted_tokens,
    summed_tokens,
    token_log_probabilities,
    token_elements,
    token_divergence,
    token_bits,
]


def padded(num_samples=B):
    """Logits and labels of sequences of unequal lengths, one of nothing but padding."""
    x, y = rand(num_samples, T, C), labels(num_samples, T)
    for i in range(num_samples):
        y[i, 2 + i % T :] = -100
    if num_samples > 1:
        y[-2] = -100
    return x, y


@pytest.mark.parametrize("loss", TOKENS)
@pytest.mark.parametrize("num_samples", [B, 1, T])
def test_flattened_tokens_belong_to_their_samples(loss, num_samples):
    x, y = padded(num_samples)
    x.requires_grad_()
    alone = torch.stack([loss(x[i : i + 1], y[i : i + 1]) for i in range(num_samples)])
    with LossTap(torch.empty(num_samples)) as tap:
        ours = loss(x, y)
    assert torch.equal(ours, loss(x, y))
    assert not is_classification(tap.calls[0]) or num_samples == len(tap.calls[0].logits)
    seen = TappedStep(num_samples, ours, tap.calls).sample_losses()
    if loss is not token_log_probabilities:  # class weights divide a mean, not a sample's share
        wanted = alone.detach().float()
        if loss not in (token_divergence, token_bits) and num_samples > 1:
            assert seen[-2].isnan(), "not observed"
            wanted[-2] = torch.nan
        torch.testing.assert_close(seen, wanted, equal_nan=True)
    (whole,) = torch.autograd.grad(ours, x)
    weights = torch.rand(num_samples).double()
    with LossTap(torch.empty(num_samples), weights):
        (grad,) = torch.autograd.grad(loss(x, y), x)
    torch.testing.assert_close(grad, whole * weights[:, None, None])


def time_first(x, y):
    return F.cross_entropy(x.transpose(0, 1).reshape(-1, C), y.t().reshape(-1))


def two_views(x, y):
    return F.cross_entropy(torch.cat([x[:, 0], x[:, 1]]), torch.cat([y[:, 0], y[:, 1]]))


def similarities(x, y):
    views = F.normalize(torch.cat([x[:, 0], x[:, 1]]), dim=1)
    return F.cross_entropy(views @ views.T, torch.arange(2 * len(x)).roll(len(x)))


def masked(x, y):
    keep = torch.arange(T) < 2
    return F.cross_entropy(x[:, keep].permute(1, 0, 2).flatten(0, 1), y[:, keep].t().flatten())


@pytest.mark.parametrize("loss", [time_first, two_views, similarities, masked])
def test_rows_in_another_order_are_not_taken_for_samples(loss):
    x, y = rand(B, T, C).requires_grad_(), labels(B, T)
    with LossTap(torch.empty(B), torch.rand(B)) as tap:
        assert torch.equal(loss(x, y), loss(x, y))
    assert not tap.calls


def test_tokens_are_put_together_without_gradients_and_without_a_known_batch():
    x, y = padded()
    with torch.no_grad(), LossTap(with_grad_only=False) as tap:
        flat_tokens(x, y)
        F.cross_entropy(x[:, 0], y[:, 0])
    alone = torch.stack([flat_tokens(x[i : i + 1], y[i : i + 1]) for i in range(B)]).float()
    torch.testing.assert_close(tap.calls[0].losses, alone, equal_nan=True)
    assert len(tap.calls[1].losses) == B
    assert [is_classification(call) for call in tap.calls] == [False, True]


def test_flattening_keeps_no_tensor_alive():
    x = rand(B, T, C)
    with LossTap(torch.empty(B)):
        flat = weakref.ref(x.mul(2).view(-1, C))
        assert flat() is None
