# SPDX-License-Identifier: Apache-2.0
"""The command that finds out what is wrong: every check, on one screen."""

from collections.abc import Mapping

from weft_runtime.ctl.checks import CHECKS
from weft_runtime.ctl.finding import Finding, Status
from weft_runtime.ctl.scene import Scene
from weft_runtime.ctl.screen import Cell, Colour, Screen

SOMETHING_WRONG = 1
"""Exit status."""

_COLOURS = {Status.OK: Colour.GREEN, Status.NOTE: Colour.YELLOW, Status.PROBLEM: Colour.RED}


def doctor(screen: Screen, environ: Mapping[str, str]) -> int:
    """Make all checks; returns the exit status."""
    scene = Scene.find(environ)
    found = [(name, finding) for name, check in CHECKS.items() for finding in check(scene)]
    if screen.as_json:
        screen.json([_as_json(name, finding) for name, finding in found])
    else:
        rows: list[tuple[str | Cell, ...]] = []
        for name, finding in found:
            rows.append((name, Cell(finding.status, _COLOURS[finding.status]), finding.text))
            if finding.mend is not None:
                rows.append(("", "", f"  {finding.mend}"))
        screen.table((), rows)
    return SOMETHING_WRONG if any(finding.status is Status.PROBLEM for _, finding in found) else 0


def _as_json(name: str, finding: Finding) -> dict[str, object]:
    """The keys of 0.1.0 are there as well: verdict, text and advice."""
    verdict = "wrong" if finding.status is Status.PROBLEM else finding.status.value
    return {
        "check": name, "status": finding.status, "what": finding.what, "why": finding.why, "mend": finding.mend,
        "verdict": verdict, "text": finding.text, "advice": finding.mend,
    }  # fmt: skip
