import pytest
import torch
import torch.nn.functional as F

from lightning_alignprune import (
    ELR,
    SOP,
    GeneralizedCrossEntropy,
    SymmetricCrossEntropy,
)
from lightning_alignprune.functional import sparse_overparam_losses
from lightning_alignprune.tap import LossTap, StepSamples
from lightning_alignprune.tap.step_samples import step_of
from lightning_alignprune.tap.tapped_step import is_classification

N, B, C = 8, 3, 4
INDICES = torch.tensor([5, 0, 3])
WEIGHTS = torch.tensor([2.0, 1.0, 0.0])
MAKE = {
    "gce": GeneralizedCrossEntropy,
    "sce": SymmetricCrossEntropy,
    "elr": lambda **kwargs: ELR(N, C, **kwargs),
    "sop": lambda **kwargs: SOP(N, C, **kwargs),
    "sop+": lambda **kwargs: SOP(N, C, balance=0.1, **kwargs),
}
KEEPING = ["elr", "sop", "sop+"]


def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(B, C, generator=generator).requires_grad_()
    return logits, torch.tensor([1, 3, 0])


@pytest.mark.parametrize("name", MAKE)
def test_a_tap_reads_and_weights_it_as_torchs_own(name):
    logits, labels = batch()
    with step_of(StepSamples(INDICES)):
        elements = MAKE[name](reduction="none")(logits, labels)
        expected = (elements * WEIGHTS).sum() / B
        with LossTap(INDICES) as unweighted:
            plain = MAKE[name]()(logits, labels)
    with step_of(StepSamples(INDICES, WEIGHTS)), LossTap(INDICES, WEIGHTS) as tap:
        found = MAKE[name]()(logits, labels)
    torch.testing.assert_close(plain, elements.mean())
    torch.testing.assert_close(found, expected)
    for a, b in zip(
        torch.autograd.grad(found, logits), torch.autograd.grad(expected, logits), strict=True
    ):
        torch.testing.assert_close(a, b)
    entropy = F.cross_entropy(logits, labels, reduction="none").detach()
    for seen in (tap, unweighted):
        (call,) = seen.calls
        assert is_classification(call)
        recorded = entropy if name in KEEPING else elements.detach()
        torch.testing.assert_close(call.losses, recorded)


@pytest.mark.parametrize("name", MAKE)
def test_a_signal_of_the_plain_loss_gets_cross_entropy(name):
    logits, labels = batch()
    with step_of(StepSamples(INDICES)), LossTap(INDICES, plain=True) as tap:
        MAKE[name]()(logits, labels)
    expected = F.cross_entropy(logits, labels, reduction="none").detach()
    torch.testing.assert_close(tap.calls[0].losses, expected)


@pytest.mark.parametrize("name", KEEPING)
def test_outside_of_training_it_is_cross_entropy_and_keeps_nothing(name):
    logits, labels = batch()
    loss = MAKE[name]()
    before = loss.table.rows.clone()
    expected = F.cross_entropy(logits, labels)
    with torch.no_grad():
        assert torch.equal(loss(logits, labels), expected)
    with step_of(StepSamples(None)):  # a learning-rate finder's fit
        assert torch.equal(loss(logits, labels), expected)
        assert torch.equal(loss(logits, labels, indices=INDICES), expected)
    assert torch.equal(loss.eval()(logits, labels), expected)
    assert torch.equal(loss.table.rows, before)


@pytest.mark.parametrize("name", KEEPING)
def test_only_the_rows_of_the_batch_change_and_the_state_holds_them(name):
    logits, labels = batch()
    loss = MAKE[name]()
    before = loss.table.rows.clone()
    loss.table.rows += 0.3
    before += 0.3
    loss(logits, labels, indices=INDICES)
    is_changed = (loss.table.rows != before).any(1)
    assert is_changed.nonzero().flatten().tolist() == [0, 3, 5]
    assert not list(loss.parameters())
    copy = MAKE[name]()
    copy.load_state_dict(loss.state_dict())
    assert torch.equal(copy.table.rows, loss.table.rows)
    assert copy.table.rows is not loss.table.rows


def test_sop_makes_steps_of_gradient_descent_with_the_samples_weights():
    logits, labels = batch()
    loss = SOP(N, C, lr_u=0.5, lr_v=2.0)
    loss.table.rows += 0.3
    rows = loss.table.rows[INDICES].clone().requires_grad_()
    losses = sparse_overparam_losses(logits.detach(), labels, rows[:, :1], rows[:, 1:])
    (grad,) = torch.autograd.grad((losses * WEIGHTS).sum() / B, rows)
    expected = rows.detach() - grad * torch.tensor([0.5, 2.0, 2.0, 2.0, 2.0])
    with step_of(StepSamples(INDICES, WEIGHTS)):
        loss(logits, labels)
    torch.testing.assert_close(loss.u[INDICES], expected[:, 0])
    torch.testing.assert_close(loss.v[INDICES], expected[:, 1:])
    assert torch.equal(expected[2], rows[2])  # weight 0


def test_sop_takes_a_wrong_label_up():
    # A sure network and a label it does not believe: u grows until the label no longer pulls.
    loss = SOP(1, 2, lr_u=1.0)
    logits = torch.tensor([[6.0, 0.0]], requires_grad=True)
    pulls = []
    for _ in range(30):
        value = loss(logits, torch.tensor([1]), indices=torch.tensor([0]))
        pulls.append(float(torch.autograd.grad(value, logits)[0].abs().sum()))
    assert pulls[-1] < 0.2 * pulls[0]
    assert float(loss.u[0].square()) > 0.5


def test_elr_adds_its_penalty_and_averages_predictions():
    logits, labels = batch()
    loss = ELR(N, C, beta=0.5, strength=2.0)
    p = logits.detach().softmax(1)
    for share in (0.5, 0.75):
        found = loss(logits, labels, indices=INDICES)
        torch.testing.assert_close(loss.targets[INDICES], share * p)
        penalty = (1 - share * p.square().sum(1)).log().mean()
        torch.testing.assert_close(found, F.cross_entropy(logits, labels) + 2 * penalty)


def test_two_views_are_compared_and_one_is_refused():
    logits, labels = batch()
    strong = (logits.detach() + 1.0 * torch.arange(C)).requires_grad_()
    one, two = SOP(N, C), SOP(N, C, consistency=0.9)
    kl = F.kl_div(strong.log_softmax(1), logits.softmax(1), reduction="batchmean")
    plain = one(logits, labels, indices=INDICES)
    torch.testing.assert_close(two(logits, labels, strong, INDICES), plain + 0.9 * kl)
    with pytest.raises(ValueError, match="SOP: expected the logits of two views"):
        two(logits, labels, indices=INDICES)


def test_mixed_precision_does_not_reach_the_rows():
    logits, labels = batch()
    for name in KEEPING:
        loss = MAKE[name]()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(logits.bfloat16(), labels, indices=INDICES)
        assert value.dtype == torch.float32
        assert loss.table.rows.dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: SOP(0, 3), ValueError, r"SOP: expected num_samples in \[1, inf\), got 0"),
        (lambda: ELR(3, 1), ValueError, r"ELR: expected num_classes in \[2, inf\), got 1"),
        (lambda: ELR(3, 3, beta=1.0), ValueError, r"ELR: expected beta in \[0, 1\), got 1.0"),
        (lambda: ELR(3, 3, strength="3"), TypeError, "ELR: expected strength "),
        (lambda: SOP(3, 3, lr_u=-1.0), ValueError, r"SOP: expected lr_u in \[0, inf\), got -1.0"),
        (lambda: SOP(3, 3, reduction="avg"), ValueError, "SOP: expected reduction to be one of"),
        (lambda: GeneralizedCrossEntropy(0.0), ValueError, r"expected q in \(0, 1\], got 0.0"),
        (lambda: SymmetricCrossEntropy(log_zero=0.0), ValueError, "expected log_zero in"),
        (lambda: SOP(N, C)(*batch()), RuntimeError, "neither a running step nor indices"),
        (lambda: SOP(N, 3)(*batch()), ValueError, r"expected logits of shape \(3, 3\), got "),
        (
            lambda: ELR(N, C)(*batch(), indices=torch.arange(2)),
            ValueError,
            "ELR: expected an index for each of the 3 rows",
        ),
        (
            lambda: ELR(N, C).load_state_dict(ELR(N + 1, C).state_dict()),
            ValueError,
            "SampleTable: expected rows of shape",
        ),
    ],
)
def test_refusals(make, error, text):
    with pytest.raises(error, match=text):
        make()
