"""Which class is mistaken for which: the fixed maps behind the asymmetric noise models.

Only tables and what follows from them; nothing here draws.
"""

from collections.abc import Sequence

CIFAR10_CONFUSIONS: dict[int, int] = {9: 1, 2: 0, 3: 5, 5: 3, 4: 7}
"""truck -> automobile, bird -> airplane, cat <-> dog, deer -> horse."""

# Fine ids are alphabetical, so neighbours in number are not neighbours in meaning: the table of
# the data set itself is needed. The position is the fine id.
CIFAR100_SUPERCLASSES: tuple[int, ...] = (
    *(4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11),
    *(6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5),
    *(5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17),
    *(10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13),
    *(16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13),
)
"""Super-class of each of the 100 fine classes of CIFAR-100."""


def next_in_group(groups: Sequence[int]) -> tuple[int, ...]:
    """Map each class to the next one of its group, and the last of a group to its first.

    Args:
        groups: Group of each class; the position is the class.

    Returns:
        One class per class. A class that is alone in its group maps to itself.

    Example:
        >>> next_in_group([0, 1, 0, 1, 0])
        (2, 3, 4, 1, 0)
    """
    members: dict[int, list[int]] = {}
    for label, group in enumerate(groups):
        members.setdefault(group, []).append(label)
    following: dict[int, int] = {}
    for group_members in members.values():
        following.update(zip(group_members, group_members[1:] + group_members[:1], strict=True))
    return tuple(following[label] for label in range(len(groups)))
