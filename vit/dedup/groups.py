"""Duplicates inside one set of images: groups connected by verified pairs, and which image of a group is kept."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


def components(pairs: Iterable[tuple[Name, Name]]) -> list[list[Name]]:
    """Images connected by pairs, directly or through others, as sorted groups in the order of their first members.

    Only pairs that were verified belong here: one wrong pair would merge two groups.
    """
    parents: dict[Name, Name] = {}

    def root(name: Name) -> Name:
        while parents.setdefault(name, name) != name:
            parents[name] = parents[parents[name]]
            name = parents[name]
        return name

    for one, other in pairs:
        parents[root(one)] = root(other)
    groups: dict[Name, list[Name]] = defaultdict(list)
    for name in parents:
        groups[root(name)].append(name)
    return sorted((sorted(group) for group in groups.values() if len(group) > 1), key=lambda group: group[0])  # type: ignore[type-var]


def keeper(group: Iterable[Name], areas: Mapping[Name, int]) -> Name:
    """The image of a group that stays: the one with the most pixels, the first by name among equals."""
    return min(group, key=lambda name: (-areas[name], name))  # type: ignore[type-var]
