# SPDX-License-Identifier: Apache-2.0
"""What must be in the figures of the table of targets, whatever they are."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

KEYS = [
    "launch-p50",
    "launch-p99",
    "large-p50",
    "unix-pauses",
    "ws-pauses",
    "unix-no-pauses",
    "ws-no-pauses",
    "sustained-4",
    "sustained-1",
    "cold",
    "memory",
    "crowd",
    "cpu",
]
SVG = "{http://www.w3.org/2000/svg}"


def check_table(table: dict[str, Any], *variants: str) -> None:
    """All rows are there, then those without a target; each has its ratio."""
    assert [row["key"] for row in table["rows"]] == [*KEYS, "other", "without the fork server", *variants]
    for row in table["rows"]:
        assert row["ours"] > 0
        assert row["theirs"] > 0
        assert row["ratio"] > 0
    assert len(table["samples_s"]["ours"]) == len(table["samples_s"]["theirs"]) > 0
    assert set(table["curves"]) == {"module size, MB", "live sessions"}
    for points in table["curves"].values():
        assert len(points) > 1
        assert all(point["ours_ms"] > 0 and point["theirs_ms"] > 0 for point in points)


def check_picture(file: Path, *places: str) -> None:
    """It shows each target in each place, with its limit."""
    words = [element.text or "" for element in ElementTree.parse(file).iter(f"{SVG}text")]
    for place in places:
        assert sum(text.startswith(f"{place}  ") for text in words) == sum(
            key not in ("sustained-1", "unix-no-pauses") for key in KEYS
        )
