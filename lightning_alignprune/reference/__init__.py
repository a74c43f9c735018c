"""What do clean labels look like to the network now? One class per source, one interface."""

from lightning_alignprune.reference.base import Reference
from lightning_alignprune.reference.find import HOOK, find_reference
from lightning_alignprune.reference.learning import learn_from_reference
from lightning_alignprune.reference.pseudo_clean import (
    PSEUDO,
    PseudoClean,
    PseudoModerate,
    PseudoReference,
    is_pseudo,
)
from lightning_alignprune.reference.reference_set import ReferenceSet
from lightning_alignprune.reference.samples import ReferenceWeights
from lightning_alignprune.reference.validation_pass import VALIDATION, ValidationPass

__all__ = [
    "HOOK",
    "PSEUDO",
    "VALIDATION",
    "PseudoClean",
    "PseudoModerate",
    "PseudoReference",
    "Reference",
    "ReferenceSet",
    "ReferenceWeights",
    "ValidationPass",
    "find_reference",
    "is_pseudo",
    "learn_from_reference",
]
