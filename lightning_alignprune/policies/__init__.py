"""Policies: which samples train next epoch, with which weight."""

from lightning_alignprune.policies.base import Policy, SelectionContext
from lightning_alignprune.policies.infobatch import InfoBatch

POLICIES: dict[str, type[Policy]] = {cls.__name__: cls for cls in (InfoBatch,)}

__all__ = ["POLICIES", "InfoBatch", "Policy", "SelectionContext"]
