# SPDX-License-Identifier: Apache-2.0
"""What `weftctl doctor` finds on a device."""

import json

from tests.system.container import Container

Findings = list[dict[str, str | None]]


def doctor(device: Container, user: str | None = None) -> tuple[int, Findings]:
    """Exit status and findings."""
    done = device.run("weftctl", "doctor", "--json", user=user, check=False, timeout=120)
    assert done.stderr == ""
    found: Findings = json.loads(done.stdout)
    assert done.returncode == any(finding["status"] == "problem" for finding in found), done.stdout
    return done.returncode, found


def text_of(finding: dict[str, str | None]) -> str:
    return ": ".join(part for part in (finding["what"], finding["why"]) if part)


def not_ok(found: Findings) -> Findings:
    # Which controllers there are depends on the machine that the tests run on.
    return [finding for finding in found if finding["status"] != "ok" and finding["check"] != "controllers"]
