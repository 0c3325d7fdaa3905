# SPDX-License-Identifier: Apache-2.0
"""What must be in the figures of the table of targets, whatever they are."""

from collections.abc import Collection
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from bench.targets import ABSENT, PLACES, TARGETS

SVG = "{http://www.w3.org/2000/svg}"


def check_table(table: dict[str, Any], *, without: Collection[str] = ()) -> None:
    """All rows are there that this place can have; each has its ratio."""
    assert [row["key"] for row in table["rows"]] == [
        key for key in keys(table["place"]) if key not in without
    ]
    for row in table["rows"]:
        # CPU time comes in ticks, of which a quick run may see none.
        least = -1 if row["key"].startswith("cpu-") else 0
        assert row["ours"] > least
        assert row["theirs"] is None or row["theirs"] > 0
        assert row["ratio"] > least
    assert set(table["samples_s"]) == {"unix", "websocket", "theirs"}
    assert len({len(samples) for samples in table["samples_s"].values()}) == 1
    assert set(table["curves"]) == {"module size, MB", "live sessions"}
    for points in table["curves"].values():
        assert len(points) > 1
        assert all(point["ours_ms"] > 0 and point["theirs_ms"] > 0 for point in points)


def check_shown(results: Path, *places: str) -> None:
    """The picture shows each target in each place, with its limit; the table has each row in each place."""
    words = [element.text or "" for element in ElementTree.parse(results / "targets.svg").iter(f"{SVG}text")]
    rows = (results / "targets.md").read_text().splitlines()[4:]
    for place in places:
        wanted = [key for key in keys(place) if TARGETS[key].limit is not None]
        assert sum(text.startswith(f"{PLACES[place]}  ") for text in words) == len(wanted)
        for key in wanted:
            assert sum(row.startswith(f"| {TARGETS[key].what} |") for row in rows) == 1


def keys(place: str) -> list[str]:
    return [key for key in TARGETS if key not in ABSENT.get(place, ())]
