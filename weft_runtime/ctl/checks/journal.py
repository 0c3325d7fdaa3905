# SPDX-License-Identifier: Apache-2.0
"""Whether there is a journal, and whoever asks may read it."""

import os
import pwd

from weft_runtime.ctl import logs
from weft_runtime.ctl.finding import Finding, note, ok, problem
from weft_runtime.ctl.scene import JOURNAL_UNIT, Scene
from weft_runtime.errors import Problem

_START = "systemctl start systemd-journald.socket systemd-journald.service"


def journal(scene: Scene) -> list[Finding]:
    unit = scene.units.get(JOURNAL_UNIT, {})
    if unit.get("LoadState") == "loaded" and unit.get("ActiveState") not in ("active", "activating"):
        what = f"{JOURNAL_UNIT} is {unit.get('ActiveState')}"
        return [problem(what, "nothing of what apps and the daemon say is kept", _START)]
    complaint = logs.denied(of_system=scene.is_system)
    if complaint is None:
        return [ok("can be read")]
    if not scene.is_system:
        # A user's own daemon writes its log to the terminal it was started from.
        return [note(complaint.message, None, complaint.hint)]
    if complaint.problem is Problem.NOT_PERMITTED:
        why = "membership counts from the next login"
        return [problem(complaint.message, why, f"usermod -aG {logs.JOURNAL_GROUP} {_caller()}")]
    return [problem(complaint.message, None, "systemctl restart systemd-journald && journalctl --flush")]


def _caller() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
