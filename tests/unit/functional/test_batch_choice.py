import pytest
import torch

from lightning_alignprune.functional import (
    diverse_choice,
    gradient_products,
    selective_probabilities,
)

FEATURES = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.1]])
P = torch.tensor([[0.6, 0.4], [0.6, 0.4], [0.3, 0.7], [0.9, 0.1]])
ORACLE = gradient_products(P.log(), torch.zeros(4, dtype=torch.int64), FEATURES)
FIRST_PICKS = [0.266574, 0.265882, 0.454388, 0.013156]


def random_batch(size=24, classes=5, features=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits, hidden = (
        torch.randn(size, n, generator=generator, dtype=torch.float64) for n in (classes, features)
    )
    return logits, torch.randint(0, classes, (size,), generator=generator), hidden


def gradients(logits, labels, features):
    """One flat gradient of the mean loss in the last layer's weights for each sample."""
    errors = logits.softmax(1) - torch.nn.functional.one_hot(labels, logits.shape[1])
    return (errors.unsqueeze(2) * features.unsqueeze(1)).flatten(1) / len(logits)


def test_oracle_of_the_first_pick():
    pull = ORACLE.sum(1).abs()
    assert (pull / pull.sum()).tolist() == pytest.approx(FIRST_PICKS, abs=1e-6)
    draws = torch.rand(3_000, 1, 4, generator=torch.Generator().manual_seed(0))
    picks = torch.stack([diverse_choice(ORACLE, draw).picked[0] for draw in draws])
    shares = torch.bincount(picks, minlength=4) / len(picks)
    assert shares.tolist() == pytest.approx(FIRST_PICKS, abs=0.03)


def test_oracle_of_greedy_picks():
    draws = torch.full((2, 4), 0.5)
    one, two = (diverse_choice(ORACLE, draws[:m], is_greedy=True) for m in (1, 2))
    # The source measures what is left of the mean of four shares of the mean gradient.
    assert one.picked.tolist() == [2]
    assert one.residual.item() / 4 == pytest.approx(0.068059, abs=1e-6)
    assert two.picked.tolist() == [2, 0]
    assert two.residual.item() == pytest.approx(0.0, abs=1e-7)


def test_products_are_those_of_the_gradients():
    batch = random_batch()
    made = gradients(*batch)
    torch.testing.assert_close(gradient_products(*batch), made @ made.T)


def test_picks_are_those_of_gram_schmidt_on_the_gradients():
    made = gradients(*random_batch())
    rest, basis, expected = made.sum(0), [], []
    for _ in range(8):
        pull = (made @ rest).abs()
        pull[expected] = -1.0
        expected.append(int(pull.argmax()))
        direction = made[expected[-1]]
        for other in basis:
            direction = direction - (direction @ other) * other
        basis.append(direction / direction.norm())
        rest = rest - (rest @ basis[-1]) * basis[-1]
    found = diverse_choice(gradient_products(*random_batch()), torch.rand(8, 24), is_greedy=True)
    assert found.picked.tolist() == expected
    assert found.residual.item() == pytest.approx(rest.norm().item(), rel=1e-6)


@pytest.mark.parametrize("is_greedy", [False, True])
@pytest.mark.parametrize("kind", ["one direction", "nothing", "copies", "draws of zero"])
def test_it_picks_as_many_as_asked_for_and_none_twice(kind, is_greedy):
    logits, labels, features = random_batch(12)
    if kind == "one direction":
        logits, labels, features = (x[:1].expand_as(x) for x in (logits, labels, features))
    elif kind == "nothing":
        features = torch.zeros_like(features)
    elif kind == "copies":
        logits, labels, features = (x[:6].repeat(2, *[1] * (x.ndim - 1)) for x in (
            logits, labels, features,
        ))  # fmt: skip
    draws = torch.rand(9, 12, generator=torch.Generator().manual_seed(1))
    if kind == "draws of zero":
        draws.zero_()
    found = diverse_choice(gradient_products(logits, labels, features), draws, is_greedy)
    assert found.picked.unique().numel() == 9
    assert found.residual.isfinite()


def test_selective_backprop_oracle():
    history = torch.tensor([0.1, 0.5, 0.5, 2.0])
    assert selective_probabilities(history, history).tolist() == [0.0, 0.25, 0.25, 0.75]
    squared = selective_probabilities(history, history, beta=2.0, least=0.1)
    assert squared.tolist() == pytest.approx([0.1, 0.1, 0.1, 0.5625])
    padded = torch.cat([history, torch.full((6,), torch.nan)])
    assert selective_probabilities(history, padded).tolist() == [0.0, 0.25, 0.25, 0.75]
    assert selective_probabilities(history, padded[4:]).tolist() == [1.0] * 4
