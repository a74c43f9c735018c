import pytest
import torch

from lightning_alignprune import (
    BatchLook,
    BatchLoss,
    DivBS,
    DynamicPruningCallback,
    InfoBatch,
    SelectiveBackprop,
)
from lightning_alignprune.in_batch import BATCH_CHOICES
from tests.banks import reloaded


def look(size=16, epoch=1, losses=None):
    generator = torch.Generator().manual_seed(epoch)
    return BatchLook(
        torch.rand(size, generator=generator) if losses is None else losses,
        torch.arange(size),
        epoch=epoch,
        logits=torch.randn(size, 3, generator=generator),
        labels=torch.randint(0, 3, (size,), generator=generator),
        features=torch.randn(size, 4, generator=generator),
    )


def test_names_make_choices():
    assert set(BATCH_CHOICES) == {"DivBS", "SelectiveBackprop"}
    for name in BATCH_CHOICES:
        callback = DynamicPruningCallback("loss", "RS2", in_batch=name)
        assert type(callback.in_batch).__name__ == name


@pytest.mark.parametrize(
    ("size", "share", "count"),
    [(16, 0.5, 8), (100, 0.57, 57), (9, 0.5, 4), (3, 0.5, 2), (1, 0.5, 1)],
)
def test_divbs_keeps_the_floor_of_its_share_and_two_at_least(size, share, count):
    places = DivBS(share).choose(look(size))
    assert len(places) == len(places.unique()) == count
    assert torch.equal(places, places.sort().values)


def test_divbs_draws_anew_in_each_epoch_and_the_same_again():
    choices = [DivBS().choose(look()._replace(epoch=epoch)).tolist() for epoch in range(6)]
    again = [DivBS().choose(look()._replace(epoch=epoch)).tolist() for epoch in range(6)]
    assert choices == again
    assert len({tuple(places) for places in choices}) > 1
    greedy = {tuple(DivBS(greedy=True).choose(look()._replace(epoch=e)).tolist()) for e in range(6)}
    assert len(greedy) == 1


def test_selective_backprop_trains_an_epoch_of_everything_and_then_the_harder_part():
    choice = SelectiveBackprop(history=100)
    losses = torch.linspace(0, 1, 100)
    assert choice.choose(look(100, epoch=0, losses=losses)).tolist() == list(range(100))
    choice.follow(losses)
    copy = SelectiveBackprop(history=100)
    copy.load_state_dict(reloaded(choice.state_dict()))
    counts = torch.zeros(100)
    for epoch in range(1, 101):
        places = choice.choose(look(100, epoch, losses))
        assert torch.equal(places, copy.choose(look(100, epoch, losses)))
        counts[places] += 1
    shares = (counts / 100).view(4, 25).mean(1)
    assert shares.tolist() == pytest.approx([0.12, 0.37, 0.62, 0.87], abs=0.04)
    assert counts[0] == 0


def test_selective_backprop_remembers_the_last_losses_and_trains_two_at_least():
    choice = SelectiveBackprop(history=4)
    choice.follow(torch.tensor([9.0, 9.0, 9.0]))
    choice.follow(torch.tensor([1.0, torch.inf, 2.0]))
    recent = choice.state_dict()["recent"]
    assert recent[[0, 1, 3]].tolist() == [9.0, 1.0, 2.0]
    assert recent[2].isnan()
    easy = torch.tensor([0.1, 0.3, 0.2, 0.4])  # chances of 0: the hardest make up
    assert choice.choose(look(4, losses=easy)).tolist() == [1, 3]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: DivBS(0.0), r"DivBS: expected keep_fraction in \(0, 1\], got 0.0"),
        (lambda: SelectiveBackprop(beta=0.0), r"expected beta in \(0, inf\), got 0.0"),
        (lambda: SelectiveBackprop(least=2.0), r"expected least in \[0, 1\], got 2.0"),
        (lambda: SelectiveBackprop(history=0), r"expected history in \[1, inf\), got 0"),
        (
            lambda: DynamicPruningCallback("loss", InfoBatch(), in_batch="DivBS"),
            "DivBS: expected a policy that weights nothing, got InfoBatch.*DynamicRandom",
        ),
        (
            lambda: DynamicPruningCallback("loss", "RS2", BatchLoss(), in_batch=DivBS()),
            "DivBS: expected a signal of each sample's own loss, got BatchLoss",
        ),
        (lambda: DynamicPruningCallback("loss", "RS2", in_batch="DivBs2"), "Did you mean"),
    ],
)
def test_refusals(make, text):
    with pytest.raises(ValueError, match=text):
        make()
