"""Loss functions of the user's own are read and weighted like torch's."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torchvision.ops import sigmoid_focal_loss

from lightning_alignprune import register_loss
from lightning_alignprune.tap.loss_tap import LossTap

B, C = 6, 3
X = torch.randn(B, C, generator=torch.Generator().manual_seed(0))
Y = torch.randint(C, (B,), generator=torch.Generator().manual_seed(1))
WEIGHTS = torch.rand(B, generator=torch.Generator().manual_seed(2))


def reduced(losses, reduction):
    return {"mean": losses.mean(), "sum": losses.sum(), "none": losses}[reduction]


@register_loss
def focal(inputs, targets, gamma=2.0, *, reduction="mean"):
    losses = F.cross_entropy(inputs, targets, reduction="none")
    return reduced((1 - torch.exp(-losses)) ** gamma * losses, reduction)


@register_loss
class FocalLoss(nn.Module):
    def __init__(self, gamma=2.0, reduction="mean"):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.gamma, self.reduction = gamma, reduction

    def forward(self, inputs, targets):
        losses = F.cross_entropy(inputs * self.scale, targets, reduction="none")
        return reduced((1 - torch.exp(-losses)) ** self.gamma * losses, self.reduction)


class Inherited(FocalLoss):
    pass


def one_hot_focal(inputs, targets, **kwargs):
    return vision_focal(inputs, F.one_hot(targets, C).float(), **kwargs)


vision_focal = register_loss(sigmoid_focal_loss)
LOSSES = {
    "function": lambda x, y: focal(x, y, 1.5),
    "sum": lambda x, y: focal(targets=y, inputs=x, reduction="sum"),
    "of a library": lambda x, y: one_hot_focal(x, y, reduction="mean"),
    "module": FocalLoss(gamma=1.5),
    "copied module": copy.deepcopy(FocalLoss(reduction="sum")),
    "inherited": Inherited(),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("backend", [None, "aot_eager"])
def test_a_registered_loss_is_read_and_weighted(name, backend):
    torch._dynamo.reset()
    loss = LOSSES[name]
    step = loss if backend is None else torch.compile(loss, backend=backend)
    x = X.clone().requires_grad_()
    alone = torch.stack([loss(x[i : i + 1], Y[i : i + 1]) for i in range(B)])
    with LossTap(Y) as tap:
        value = step(x, Y)
    torch.testing.assert_close(value, loss(x, Y))
    assert len(tap.calls) == 1, "torch's loss inside is part of it"
    torch.testing.assert_close(tap.calls[0].losses, alone.detach())
    with LossTap(Y, WEIGHTS):
        weighted = step(x, Y)
    by_hand = (alone * WEIGHTS).sum() / (1 if name in ("sum", "copied module") else B)
    torch.testing.assert_close(weighted, by_hand)
    grads = [torch.autograd.grad(each, x)[0] for each in (weighted, by_hand)]
    torch.testing.assert_close(*grads)


def test_elements_that_the_step_reduces_itself_keep_their_values():
    x = X.clone().requires_grad_()
    with LossTap(Y, WEIGHTS) as tap:
        losses = focal(x, Y, reduction="none")
    assert torch.equal(losses, focal(x, Y, reduction="none"))
    assert tap.calls[0].reduction == "none"


def test_without_a_tap_nothing_changes_also_under_other_modes():
    class Seen(TorchFunctionMode):
        def __init__(self):
            super().__init__()
            self.names = []

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.names.append(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    with Seen() as seen:
        focal(X, Y)
    assert "focal" not in seen.names
    assert "cross_entropy" in seen.names, "a default device, say, reaches what is inside"


def test_what_cannot_be_registered_says_why():
    assert register_loss(focal) is focal
    assert register_loss(F.mse_loss) is F.mse_loss
    assert register_loss(nn.MSELoss) is nn.MSELoss
    assert register_loss(FocalLoss) is FocalLoss
    with pytest.raises(TypeError, match=r"parameter named reduction.*one_hot_focal"):
        register_loss(one_hot_focal)
    with pytest.raises(TypeError, match="Register the class"):
        register_loss(FocalLoss())
    with pytest.raises(TypeError, match="method forward, got int"):
        register_loss(int)


def test_a_loss_that_gives_no_rows_is_refused():
    @register_loss
    def dice(inputs, targets, reduction="mean"):
        return (inputs.softmax(1)[:, 0] - targets).square().mean()

    for weights in (None, WEIGHTS):
        with (
            LossTap(Y, weights),
            pytest.raises(ValueError, match=r"dice to give 6 rows.*got shape"),
        ):
            dice(X.clone().requires_grad_(), Y)
