# SPDX-License-Identifier: Apache-2.0
"""`docs/operations.md` has each failure that the tests bring about, with its event and what helps, and no other."""

import re
from collections import Counter

from tests.system.minute_cases import FAILURES, SYSTEMD, UNASKED
from tests.unit.needs import ROOT
from weft_runtime.journal import MESSAGE_IDS

HEAD = "| The entry says, behind app and session | Event | It means | What helps |"


def rows() -> list[tuple[str, str, str]]:
    """Text, event and command of each row."""
    table = (ROOT / "docs/operations.md").read_text().partition(HEAD)[2].partition("\n\n")[0]
    found = []
    for line in table.strip().splitlines()[1:]:
        seen, event, meaning, helps = (cell.strip() for cell in line.strip("|").split(" | "))
        assert meaning
        command = re.match("`([^`]+)`", helps)
        assert command, helps
        found.append((seen.strip("`"), event.strip("`"), command[1]))
    return found


def test_each_failure_has_its_row_and_each_row_its_failure() -> None:
    known = Counter((failure.seen, str(failure.event), failure.command) for failure in FAILURES)
    assert Counter(rows()) == known
    assert known.total() == len(known) > 38


def test_each_event_of_the_table_is_one() -> None:
    assert {event for _, event, _ in rows()} <= {*map(str, MESSAGE_IDS), UNASKED, SYSTEMD}
