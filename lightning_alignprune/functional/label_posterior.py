"""How probable it is that a given label is right, by comparing a network's answers with clean ones.

A network that is asked about samples *given* as class j answers with a mixture of its answers about
the classes that are truly in there. A clean reference shows what these answers are like, so the
mixture can be taken apart: for each given label, the shares of the true classes. No losses are
compared, so it does not matter that training samples look better than held-out ones.

Legend: ``B`` samples of a batch, ``n`` reference samples, ``C`` classes, ``R`` the reference's mean
prediction per true class, ``T`` the training set's per given label, ``Q`` the transition matrix.
Column j of these belongs to class j.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_alignprune._checks import check_float
from lightning_alignprune.functional._histogram import histogram
from lightning_alignprune.functional.selection import AllReduce

_MOST_ODDS = 6.0
_LEAST_POSTERIOR = 1 / (1 + math.exp(_MOST_ODDS))
# Log odds are told apart to a hundredth, so that one sum over ranks says all of them.
_NUM_BINS = 1200
_HALVINGS = 20
SHRINKAGE = 0.02
CONFIDENCE = 2.0
# The spread of a class with few samples is taken from a bound, worth so many samples.
_BOUND_COUNTS = 5.0
_MAX_ITERATIONS = 500
_TOLERANCE = 1e-6


class Transition(NamedTuple):
    """What the given labels stand for.

    Attributes:
        matrix: Shape (C, C), float64. ``matrix[k, j]`` = P(true class k | given label j); columns
            add up to 1. The identity where no noise stands out.
        noise_share: Share of wrong labels among the training samples, in [0, 1]; 0 likewise.
        standard_error: Of the share, before it is known whether it stands out.
    """

    matrix: Tensor
    noise_share: float
    standard_error: float


def mean_predictions(sums: Tensor, counts: Tensor) -> Tensor:
    """Divide sums of predictions by class, shape (C, C), into columns of means, float64.

    Args:
        sums: Shape (C, C). Row j: the sum of the predictions for the samples of class j.
        counts: Shape (C,). Their number; a class without samples gets a column of zeros.
    """
    return (sums.double() / counts.double().clamp_min(1).unsqueeze(1)).T.contiguous()


def reference_confusion(predictions: Tensor, labels: Tensor) -> Tensor:
    """Return the mean prediction per true class, classes with few samples drawn to their like.

    The mean of a few predictions is noise, and noise in ``R`` looks like noise in the labels. So
    each column is moved towards the answer that an average class gets: its own share of probability
    for the true class, the rest where the reference's wrong guesses go. How far follows from the
    spread within classes against the spread between them (empirical Bayes): hardly at all with
    hundreds of samples a class, nearly all the way with one or two.

    Args:
        predictions: Shape (n, C), float, rows that add up to 1, each by a map that had not seen
            the sample.
        labels: Shape (n,), int64, clean, in [0, C).

    Returns:
        Shape (C, C), float64; column k for true class k. A class without samples gets zeros.

    Raises:
        ValueError: If the shapes do not fit or there is no sample.

    Example:
        >>> predictions = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.2, 0.8]])
        >>> reference_confusion(predictions, torch.tensor([0, 0, 1, 1]))
        tensor([[0.8000, 0.2000],
                [0.2000, 0.8000]], dtype=torch.float64)
    """
    _check_reference("reference_confusion", predictions, labels)
    return _confusion(predictions.double(), labels)[0]


def _check_reference(owner: str, predictions: Tensor, labels: Tensor) -> None:
    if predictions.ndim != 2 or labels.shape != predictions.shape[:1] or not len(labels):
        raise ValueError(
            f"{owner}: expected predictions of shape (n, C) and labels of shape (n,) with n of at "
            f"least 1, got {tuple(predictions.shape)} and {tuple(labels.shape)}. Give one label "
            "each."
        )


def _confusion(predictions: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the shrunk columns and the plain ones."""
    num_classes = predictions.shape[1]
    counts = torch.bincount(labels, minlength=num_classes).double()
    sums = predictions.new_zeros(num_classes, num_classes).index_add_(0, labels, predictions)
    plain = mean_predictions(sums, counts)
    own = predictions.gather(1, labels.unsqueeze(1))
    share = own.mean()
    guesses = predictions.scatter(1, labels.unsqueeze(1), 0.0).sum(0)
    typical = guesses.unsqueeze(1).expand(-1, num_classes).clone().fill_diagonal_(0)
    typical = (1 - share) * typical / typical.sum(0).clamp_min(1e-12)
    typical.diagonal().fill_(float(share))
    # Squared distances of predictions from their class's mean, and what these could be at most.
    within = (predictions - plain.T[labels]).square().sum()
    freedom = (counts - 1).clamp_min(0).sum()
    bound = 1 - typical.square().sum(0).mean()
    spread = (within + _BOUND_COUNTS * bound) / (freedom + _BOUND_COUNTS)
    known = counts > 0
    distances = (plain - typical).square().sum(0)
    between = ((distances * counts)[known] - spread).sum() / counts.sum()
    between = between.clamp_min(0)
    weight = between / (between + spread / counts.clamp_min(1)).clamp_min(1e-12)
    return torch.where(known, weight * plain + (1 - weight) * typical, 0.0), plain


def transition_matrix(reference: Tensor, training: Tensor, shrinkage: float = SHRINKAGE) -> Tensor:
    """Take the training set's mean predictions apart into the reference's.

    Column j minimises ``|R q - T[:, j]|^2 + shrinkage |q - e_j|^2`` over distributions q.

    Args:
        reference: R, shape (C, C); column k is the mean prediction for true class k. Columns of
            zeros are classes that the reference lacks: no label is taken for one of them, and
            those given as one of them are taken as right.
        training: T, shape (C, C); column j is the mean prediction for given label j.
        shrinkage: Above 0. Pull towards labels that are right.

    Returns:
        Q, shape (C, C), float64; columns are distributions.

    Raises:
        ValueError: If ``shrinkage`` is not above 0.

    Example:
        >>> reference = torch.tensor([[0.9, 0.2], [0.1, 0.8]])
        >>> training = reference @ torch.tensor([[0.7, 0.0], [0.3, 1.0]])
        >>> [[round(x, 2) for x in row] for row in transition_matrix(reference, training).tolist()]
        [[0.71, 0.0], [0.29, 1.0]]

    Note:
        Accelerated projected gradient on all columns at once, O(C^3) a step, some tens of steps.
        Source: label shift by confusion matrices (Lipton et al., 2018), one for each given label;
        Gold Loss Correction (Hendrycks et al., 2018) uses the same matrix in the loss.
    """
    remedy = "0.02 is the default."
    shrinkage = check_float("transition_matrix", "shrinkage", shrinkage, above=0, remedy=remedy)
    problem = _Problem(reference.double(), training.double(), shrinkage)
    return problem.with_unknown(problem.on_simplex())


class _Problem:
    """The least-squares problem among the classes that the reference has."""

    def __init__(self, reference: Tensor, training: Tensor, shrinkage: float) -> None:
        self.known = (reference.sum(0) > 0).nonzero().flatten()
        self.reference = reference[:, self.known]
        self.training = training[:, self.known]
        pull = shrinkage * torch.eye(len(self.known)).to(reference)
        self.gram = self.reference.T @ self.reference + pull
        self.target = self.reference.T @ self.training + pull
        self._num_classes = len(reference)

    def unconstrained(self) -> Tensor:
        solution: Tensor = torch.linalg.solve(self.gram, self.target)
        return solution

    def sensitivity(self) -> Tensor:
        """Derivative of the unconstrained solution with regard to a column of T, (K, C)."""
        slopes: Tensor = torch.linalg.solve(self.gram, self.reference.T)
        return slopes

    def on_simplex(self) -> Tensor:
        # Row by row, as sorting is fastest along what lies together.
        step = 1 / torch.linalg.matrix_norm(self.gram, 2)
        goal = self.target.T
        solution = _projected(self.unconstrained().T)
        ahead, momentum = solution, 1.0
        for _ in range(_MAX_ITERATIONS):
            newer = _projected(ahead - step * (ahead @ self.gram - goal))
            moved = newer - solution
            if bool(((ahead - newer) * moved).sum() > 0):
                momentum = 1.0  # it has gone too far
            grown = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            ahead = newer + (momentum - 1) / grown * moved
            solution, momentum = newer, grown
            if float(moved.abs().max()) < _TOLERANCE:
                break
        return solution.T

    def with_unknown(self, solution: Tensor) -> Tensor:
        whole = torch.eye(self._num_classes).to(solution)
        whole[self.known.unsqueeze(1), self.known] = solution
        return whole


def _projected(rows: Tensor) -> Tensor:
    """Project each row onto the simplex."""
    ordered = rows.sort(1, descending=True).values
    excess = ordered.cumsum(1) - 1
    counts = torch.arange(1, rows.shape[1] + 1).to(rows)
    support = (ordered * counts > excess).sum(1, keepdim=True)
    return (rows - excess.gather(1, support - 1) / support).clamp_min(0)


def estimate_transition(
    predictions: Tensor,
    labels: Tensor,
    training: Tensor,
    counts: Tensor,
    shrinkage: float = SHRINKAGE,
    confidence: float = CONFIDENCE,
) -> Transition:
    """Estimate what the given labels stand for, and how many of them are wrong.

    ``Q`` of :func:`transition_matrix`, the share ``1 - mean Q[j, j]`` over the samples, and its
    standard error. On clean labels Q cannot be more right than right, so that every chance
    deviation would show as noise; whether noise stands out is therefore asked of the solution
    without the constraint, whose deviations go both ways. Its error follows to first order
    from how the predictions of each reference class spread (delta method; nothing is drawn), and
    from the most that a mean over training samples can deviate. Where the share is not
    ``confidence`` errors above 0, Q is the identity.

    Args:
        predictions: Shape (n, C), the reference's, as for :func:`reference_confusion`.
        labels: Shape (n,), int64.
        training: T, shape (C, C); column j is the mean prediction for given label j.
        counts: Shape (C,). How many training samples are given as each class.
        shrinkage: Above 0.
        confidence: Standard errors that the share must stand out by, at least 0.

    Returns:
        The matrix, the share and its error.

    Raises:
        ValueError: If the shapes do not fit, there is no sample or an option is out of range.

    Example:
        >>> sure = torch.eye(3).repeat(30, 1)  # a network that is always right
        >>> of_class, given = torch.arange(3).repeat(30), torch.tensor([300, 300, 300])
        >>> mixed = torch.tensor([[0.6, 0.0, 0.0], [0.4, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> found = estimate_transition(sure, of_class, mixed, given)
        >>> round(found.noise_share, 2), round(found.standard_error, 2)
        (0.13, 0.01)
        >>> estimate_transition(sure, of_class, torch.eye(3), given).noise_share
        0.0

    Note:
        Costs the solution of :func:`transition_matrix`; milliseconds for 20 classes, seconds
        for 1,000.
    """
    owner = "estimate_transition"
    _check_reference(owner, predictions, labels)
    shrinkage = check_float(owner, "shrinkage", shrinkage, above=0, remedy="0.02 is the default.")
    confidence = check_float(owner, "confidence", confidence, low=0, remedy="2 is the default.")
    predictions = predictions.double()
    columns, plain = _confusion(predictions, labels)
    problem = _Problem(columns, training.to(columns), shrinkage)
    matrix = problem.with_unknown(problem.on_simplex())
    shares = counts.to(columns) / counts.sum().clamp_min(1)
    free = problem.with_unknown(problem.unconstrained())
    excess = float((shares * (1 - free.diagonal())).sum())
    error = _standard_error(problem, matrix, shares, counts.to(columns), predictions, labels, plain)
    if excess <= confidence * error:
        return Transition(torch.eye(len(matrix)).to(matrix), 0.0, error)
    return Transition(matrix, float((shares * (1 - matrix.diagonal())).sum()), error)


def _standard_error(
    problem: _Problem,
    matrix: Tensor,
    shares: Tensor,
    counts: Tensor,
    predictions: Tensor,
    labels: Tensor,
    plain: Tensor,
) -> float:
    known, num_classes = problem.known, len(matrix)
    slopes = torch.zeros_like(matrix)
    slopes[known] = problem.sensitivity()  # row j: of Q[j, j] with regard to T[:, j]
    # Row k: of the share with regard to the mean prediction of reference class k.
    pulls = (matrix * shares) @ slopes
    size = torch.bincount(labels, minlength=num_classes).to(matrix)
    effects = (predictions * pulls[labels]).sum(1) - (plain.T * pulls).sum(1)[labels]
    squares = size.new_zeros(num_classes).index_add_(0, labels, effects.square())
    # The spread of a mixture of sure answers is the most that answers with this mean can have.
    columns = torch.zeros_like(matrix)
    columns[:, known] = problem.reference
    bound = _variance(columns, pulls)
    spread = (squares + _BOUND_COUNTS * bound) / (size - 1 + _BOUND_COUNTS)
    of_reference = (spread / size.clamp_min(1))[known].sum()
    training = torch.zeros_like(matrix)
    training[:, known] = problem.training
    of_training = (shares.square() * _variance(training, slopes) / counts.clamp_min(1)).sum()
    return float((of_reference + of_training).sqrt())


def _variance(columns: Tensor, effects: Tensor) -> Tensor:
    mean = (columns * effects.T).sum(0)
    return ((columns * effects.T.square()).sum(0) - mean.square()).clamp_min(0)


def class_prior(labels: Tensor, num_classes: int) -> Tensor:
    """Return the share of each class among labels, one sample more added to each; (C,), float32.

    Example:
        >>> class_prior(torch.tensor([0, 0, 1]), 2).tolist()
        [0.6000000238418579, 0.4000000059604645]
    """
    counts = torch.bincount(labels, minlength=num_classes).float() + 1
    return counts / counts.sum()


def label_log_odds(predictions: Tensor, given: Tensor, matrix: Tensor, prior: Tensor) -> Tensor:
    """Return the log odds that given labels are right.

    ``log(Q[j, j] p(j) / pi(j)) - log(sum over k != j of Q[k, j] p(k) / pi(k))`` for the given
    label j, limited to 6 on both sides: a network is never to be trusted more than that.

    Args:
        predictions: Shape (B, C), float, calibrated: p(k) is the chance of true class k as the
            reference has it.
        given: Shape (B,), int64, labels in [0, C).
        matrix: Q, shape (C, C). With the identity every label is right.
        prior: pi, shape (C,), the reference's class shares, above 0.

    Returns:
        Shape (B,), in [-6, 6].

    Example:
        >>> matrix = torch.tensor([[0.6, 0.0], [0.4, 1.0]])  # of those given as 0, 40 % are 1
        >>> predictions = torch.tensor([[0.5, 0.5], [0.1, 0.9], [0.1, 0.9]])
        >>> odds = label_log_odds(predictions, torch.tensor([0, 0, 1]), matrix, torch.ones(2) / 2)
        >>> [round(x, 2) for x in odds.tolist()]
        [0.41, -1.79, 6.0]

    Note:
        O(B C), no host synchronisation.
    """
    weights = candidate_weights(matrix, prior).index_select(0, given)
    return weighed_log_odds(predictions, given, weights)


def candidate_weights(matrix: Tensor, prior: Tensor) -> Tensor:
    """Return Q[k, j] / pi(k) in row j, shape (C, C), float32: what weighs for given label j."""
    return (matrix / prior.to(matrix).unsqueeze(1)).T.float().contiguous()


def weighed_log_odds(predictions: Tensor, given: Tensor, weights: Tensor) -> Tensor:
    """Return :func:`label_log_odds` from each sample's weights, shape (B, C)."""
    candidates = predictions * weights
    right = candidates.gather(1, given.unsqueeze(1)).squeeze(1) / candidates.sum(1)
    # Of 0 against 0 nothing is known.
    return right.nan_to_num_(nan=0.5).logit(_LEAST_POSTERIOR)


def label_posterior(predictions: Tensor, given: Tensor, matrix: Tensor, prior: Tensor) -> Tensor:
    """Return the probability that given labels are right: see :func:`label_log_odds`.

    Args:
        predictions: Shape (B, C).
        given: Shape (B,).
        matrix: Q, shape (C, C).
        prior: pi, shape (C,).

    Returns:
        Shape (B,), in [0.0025, 0.9975].

    Example:
        >>> matrix, even = torch.tensor([[0.6, 0.0], [0.4, 1.0]]), torch.tensor([0.5, 0.5])
        >>> label_posterior(even.expand(1, 2), torch.tensor([0]), matrix, even)
        tensor([0.6000])
    """
    return F.sigmoid(label_log_odds(predictions, given, matrix, prior))


def offset_to_share(log_odds: Tensor, share: float, all_reduce: AllReduce | None = None) -> float:
    """Return what to add to log odds of wrong labels for them to add up to a known share.

    What a network has learned by heart looks right to it, so that the probabilities of wrong labels
    add up to less than the share that was estimated before. One number for all samples makes up for
    it and leaves their order as it is.

    Args:
        log_odds: Shape (N,), float, that a label is wrong; beyond 6 on either side counts as 6. NaN
            is left out.
        share: Share of wrong labels, in [0, 1).
        all_reduce: Sums over ranks when each holds only its share of the samples.

    Returns:
        The offset, in [0, 12] and the same on all ranks. 0 where the probabilities add up to the
        share or more.

    Raises:
        ValueError: If ``share`` is out of range.

    Example:
        >>> odds = torch.tensor([-4.0, -4.0, -4.0, -1.0, 3.0])
        >>> round(float(odds.sigmoid().mean()), 2)
        0.26
        >>> offset = offset_to_share(odds, 0.4)
        >>> round(float((odds + offset).sigmoid().mean()), 2)
        0.4

    Note:
        O(N) and one host synchronisation.
    """
    remedy = "It is the estimated share of wrong labels."
    share = check_float("offset_to_share", "share", share, low=0, below=1, remedy=remedy)
    counts, middles = _binned(log_odds, all_reduce)
    wanted = share * float(counts.sum())
    low, high = 0.0, 2 * _MOST_ODDS
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if float(counts @ (middles + middle).sigmoid()) < wanted:
            low = middle
        else:
            high = middle
    return low


def false_discovery_threshold(
    log_odds: Tensor, rate: float, all_reduce: AllReduce | None = None
) -> float:
    """Return the log odds above which at most a share of the labels is right after all.

    Where a network knows little, labels that are more probably wrong than right are often right.
    Cutting from the surest wrong one on until ``rate`` of what is cut is right, by the
    probabilities, bounds what a cut costs, however sure they are.

    Args:
        log_odds: Shape (N,), float, that a label is wrong; beyond 6 on either side counts as 6. NaN
            is left out.
        rate: Share of right labels among those above, in (0, 1].
        all_reduce: Sums over ranks when each holds only its share of the samples.

    Returns:
        The log odds, to a hundredth and the same on all ranks; minus infinity where all are above
        them, infinity where none are.

    Raises:
        ValueError: If ``rate`` is out of range.

    Example:
        >>> odds = torch.tensor([5.0, 5.0, 5.0, 1.0, 0.5, -3.0])  # 0.01, ..., 0.27, 0.38 right
        >>> [int((odds > false_discovery_threshold(odds, rate)).sum()) for rate in (0.05, 0.1)]
        [3, 4]

    Note:
        O(N) and one host synchronisation. Source: the Bayesian false discovery rate (Efron &
        Tibshirani, 2002).
    """
    remedy = "It is the share of right labels among those that are called wrong."
    rate = check_float("false_discovery_threshold", "rate", rate, above=0, high=1, remedy=remedy)
    counts, middles = _binned(log_odds, all_reduce)
    counts, middles = counts.flip(0), middles.flip(0)  # the surest first
    num_right, number = (counts * (-middles).sigmoid()).cumsum(0), counts.cumsum(0)
    num_bins = int((num_right <= rate * number).sum())
    if not int(number[num_bins - 1]) or num_bins == 0:
        return math.inf
    if num_bins == _NUM_BINS:
        return -math.inf
    return float(middles[num_bins - 1]) - _MOST_ODDS / _NUM_BINS


def _binned(log_odds: Tensor, all_reduce: AllReduce | None) -> tuple[Tensor, Tensor]:
    """Return how many log odds lie in each bin, and the bins' middles; float64, on the CPU."""
    counts = histogram(log_odds, -_MOST_ODDS, _MOST_ODDS, _NUM_BINS, all_reduce)
    width = 2 * _MOST_ODDS / _NUM_BINS
    return counts, (torch.arange(_NUM_BINS).to(counts) + 0.5) * width - _MOST_ODDS
