"""Which samples train next epoch, with which weight?"""

from lightning_alignprune.policies.bandits import UCB, EpsilonGreedy
from lightning_alignprune.policies.base import Policy, SelectionContext
from lightning_alignprune.policies.ies import IES
from lightning_alignprune.policies.infobatch import InfoBatch
from lightning_alignprune.policies.mixture_cut import MixtureCut
from lightning_alignprune.policies.orderdp import OrderDP
from lightning_alignprune.policies.posterior_cut import PosteriorCut
from lightning_alignprune.policies.random_subsets import DynamicRandom, StaticSubset
from lightning_alignprune.policies.repb import RePB
from lightning_alignprune.policies.rs2 import RS2
from lightning_alignprune.policies.seta import SeTa

_ALL: tuple[type[Policy], ...] = (
    InfoBatch,
    SeTa,
    DynamicRandom,
    StaticSubset,
    IES,
    EpsilonGreedy,
    UCB,
    MixtureCut,
    PosteriorCut,
    RePB,
    OrderDP,
    RS2,
)
POLICIES: dict[str, type[Policy]] = {cls.__name__: cls for cls in _ALL}

__all__ = [
    "IES",
    "POLICIES",
    "RS2",
    "UCB",
    "DynamicRandom",
    "EpsilonGreedy",
    "InfoBatch",
    "MixtureCut",
    "OrderDP",
    "Policy",
    "PosteriorCut",
    "RePB",
    "SeTa",
    "SelectionContext",
    "StaticSubset",
]
