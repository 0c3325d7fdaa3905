# SPDX-License-Identifier: Apache-2.0
"""The command that finds out what is wrong: every check, on one screen."""

from collections.abc import Mapping

from weft_runtime.ctl import checks
from weft_runtime.ctl.checks import Verdict
from weft_runtime.ctl.scene import Scene
from weft_runtime.ctl.screen import Cell, Colour, Screen

SOMETHING_WRONG = 1
"""Exit status."""

CHECKS = {
    "versions": checks.versions,
    "socket": checks.socket,
    "group": checks.group,
    "service": checks.service,
    "settings": checks.settings,
    "engine": checks.engine,
    "packages": checks.packages,
    "trust": checks.trust,
    "launches": checks.launches,
    "controllers": checks.controllers,
    "journal": checks.journal,
}

_COLOURS = {Verdict.OK: Colour.GREEN, Verdict.NOTE: Colour.YELLOW, Verdict.WRONG: Colour.RED}


def doctor(screen: Screen, environ: Mapping[str, str]) -> int:
    """Make all checks; returns the exit status."""
    scene = Scene.find(environ)
    findings = {name: check(scene) for name, check in CHECKS.items()}
    if screen.as_json:
        screen.json([{"check": name, **finding._asdict()} for name, finding in findings.items()])
    else:
        rows: list[tuple[str | Cell, ...]] = []
        for name, finding in findings.items():
            rows.append((name, Cell(finding.verdict, _COLOURS[finding.verdict]), finding.text))
            if finding.advice is not None:
                rows.append(("", "", f"  {finding.advice}"))
        screen.table((), rows)
    return SOMETHING_WRONG if any(item.verdict is Verdict.WRONG for item in findings.values()) else 0
