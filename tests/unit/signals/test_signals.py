import pytest
import torch

from lightning_alignprune import BatchLoss, CenteredLoss, LossTrajectories, SampleLoss
from lightning_alignprune.tap.tapped_step import TappedCall, TappedStep

NAN, INF = float("nan"), float("inf")


def run_epochs(signal, epochs, num_samples=1):
    """epochs: list of {sample: batch loss}."""
    bank = LossTrajectories(num_samples, window=None)
    for epoch, losses in enumerate(epochs):
        for sample, loss in losses.items():
            step = TappedStep(1, torch.tensor(loss))
            bank.record(torch.tensor([sample]), signal.values(step))
        bank.close_epoch(epoch, transform=signal.close_epoch)
    return bank


def test_ema_of_batch_losses():
    bank = run_epochs(BatchLoss(alpha=0.9), [{0: 2.0}, {0: 1.0}])
    torch.testing.assert_close(torch.cat(bank.rows), torch.tensor([0.2, 0.28]))


@pytest.mark.parametrize(("visits", "share"), [(1, 0.1), (5, 0.4095), (10, 0.6513), (20, 0.8784)])
def test_a_seldom_visited_sample_scores_low_unless_corrected(visits, share):
    epochs = [{0: 3.0}] * visits + [{}] * 3
    raw = run_epochs(BatchLoss(), epochs).last
    assert raw.item() == pytest.approx(3.0 * share, abs=3e-4)
    corrected = run_epochs(BatchLoss(bias_correction=True), epochs).last
    assert corrected.item() == pytest.approx(3.0, abs=1e-5)


def test_unseen_samples_keep_their_ema():
    bank = run_epochs(BatchLoss(), [{0: 2.0, 1: 2.0}, {1: 1.0}, {0: 1.0}], num_samples=2)
    assert bank.rows[1][0].isnan()
    torch.testing.assert_close(bank.last, torch.tensor([0.28, 0.28]))


def test_state_round_trip(tmp_path):
    signal = BatchLoss(bias_correction=True)
    run_epochs(signal, [{0: 2.0, 1: 4.0}, {1: 1.0}], num_samples=2)
    torch.save(signal.state_dict(), tmp_path / "s.pt")
    other = BatchLoss(bias_correction=True)
    other.load_state_dict(torch.load(tmp_path / "s.pt", weights_only=True))
    row = torch.tensor([1.0, 1.0])
    assert torch.equal(other.close_epoch(row, row), signal.close_epoch(row, row))


def test_sample_loss_takes_the_users_vector_first():
    step = TappedStep(2, torch.tensor(1.0), [], torch.tensor([1.0, float("nan")]))
    assert SampleLoss().values(step).tolist() == [1.0, float("inf")]


def test_centered_loss_is_measured_from_the_mean_of_what_counts():
    losses = torch.tensor([1.0, 3.0, NAN, INF])  # NaN would be a bad loss in a vector of the user's
    call = TappedCall(losses, losses.sum(), "mean", torch.zeros(4, 2), torch.zeros(4))
    values = CenteredLoss().values(TappedStep(4, None, [call]))
    assert values[:2].tolist() == [-1.0, 1.0]
    assert values[2].isnan()
    assert values[3] == INF
    call = call._replace(losses=torch.tensor([INF, INF]))
    assert CenteredLoss().values(TappedStep(2, None, [call])).tolist() == [INF, INF]
