# SPDX-License-Identifier: Apache-2.0
"""Which of two versions is the later one (Semantic Versioning 2.0.0, section 11)."""

import re

_SEMVER = re.compile(
    r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?", re.ASCII
)

Rank = tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...]]


def is_older(version: str, than: str) -> bool:
    """Whether the one comes before the other; False where either is not of that kind."""
    ranks = _rank(version), _rank(than)
    return ranks[0] is not None and ranks[1] is not None and ranks[0] < ranks[1]


def is_version(text: str) -> bool:
    """Whether it is of the kind that can be compared."""
    return _rank(text) is not None


def _rank(version: str) -> Rank | None:
    match = _SEMVER.fullmatch(version)
    if match is None or len(version) > 256:
        return None
    numbers = tuple(int(number) for number in match.group(1, 2, 3))
    if match[4] is None:
        return numbers, True, ()
    # Numbers come before words; a release comes after all that was before it.
    parts = ((False, int(part), "") if part.isdigit() else (True, 0, part) for part in match[4].split("."))
    return numbers, False, tuple(parts)
