"""Which samples does a whole run train on, chosen once after a warm-up?"""

from lightning_alignprune.coreset.evidence import Evidence, SeenBatch
from lightning_alignprune.coreset.features import FeatureHook
from lightning_alignprune.coreset.methods.base import CoresetMethod, ScoredMethod
from lightning_alignprune.coreset.methods.certainty import EL2N, GraNd, SmallLoss, SmallMargin
from lightning_alignprune.coreset.methods.dynamics import DUAL, DynUnc, Forgetting
from lightning_alignprune.coreset.methods.geometry import SSP, Moderate, Prune4ReL
from lightning_alignprune.coreset.run import CoresetRun
from lightning_alignprune.coreset.warmup import CORESETS, CoresetWarmup
from lightning_alignprune.state.index_file import read_indices, write_indices

__all__ = [
    "CORESETS",
    "DUAL",
    "EL2N",
    "SSP",
    "CoresetMethod",
    "CoresetRun",
    "CoresetWarmup",
    "DynUnc",
    "Evidence",
    "FeatureHook",
    "Forgetting",
    "GraNd",
    "Moderate",
    "Prune4ReL",
    "ScoredMethod",
    "SeenBatch",
    "SmallLoss",
    "SmallMargin",
    "read_indices",
    "write_indices",
]
