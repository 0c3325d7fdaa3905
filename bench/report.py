# SPDX-License-Identifier: Apache-2.0
"""Figures as a table for people and as JSON for programs."""

from collections.abc import Mapping, Sequence

from bench.measure import Spread

MILLI = 1000


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns with two spaces between them: the first one flush left, the others right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def milliseconds(seconds: Spread) -> tuple[str, str]:
    """The median, and from where to where the values go."""
    return (
        f"{seconds.median * MILLI:.1f}",
        f"{seconds.minimum * MILLI:.1f}-{seconds.maximum * MILLI:.1f}",
    )


def times(ratio: Spread) -> tuple[str, str]:
    """The median, and from where to where the ratios go."""
    return f"{ratio.median:.3f}", f"{ratio.minimum:.2f}-{ratio.maximum:.2f}"


def plain(value: object) -> object:
    """`value`, made of named tuples, as what the json module writes."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return round(value, 6)
    return value
