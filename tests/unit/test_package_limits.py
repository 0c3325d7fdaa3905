# SPDX-License-Identifier: Apache-2.0
"""docs/packaging.md has every limit of packages, and no other."""

from tests.unit.needs import ROOT
from weft_runtime import package_limits
from weft_runtime.limits import Limit


def test_the_page_has_a_row_for_each_limit() -> None:
    lines = (ROOT / "docs/packaging.md").read_text().splitlines()
    start = lines.index("| Limit | Value | Why |") + 2
    rows = lines[start : lines.index("", start)]
    assert rows == [
        f"| {limit.what} | {limit.value} {limit.unit} | {limit.reason} |" for limit in package_limits.ALL
    ]


def test_the_table_has_every_limit_once() -> None:
    constants = [value for value in vars(package_limits).values() if isinstance(value, Limit)]
    assert sorted(package_limits.ALL) == sorted(constants)
