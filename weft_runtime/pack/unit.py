# SPDX-License-Identifier: Apache-2.0
"""The unit of an app as a service, `weft-app@ID.service`: what becomes of it when the app is removed."""

import subprocess

from weft_runtime import manifest, settings
from weft_runtime.escape import printable
from weft_runtime.ids import AppId
from weft_runtime.pack.screen import Screen
from weft_runtime.programs import app_unit, is_booted

TIMEOUT_S = 20.0
"""Seconds for systemctl; it takes milliseconds, but the service manager may read all of its units again."""

_ENABLED = {"enabled": (), "enabled-runtime": ("--runtime",)}
"""What systemctl says of a unit that a boot starts, and the options that undo it."""


def is_active(unit: str) -> bool:
    """Whether systemd runs it, as far as that can be known."""
    state = _systemctl("is-active", "--quiet", unit) if is_booted() else None
    return state is not None and state.returncode == 0


def disable(screen: Screen, app_id: AppId) -> str | None:
    """Disable the service of an app that was removed, and say so; returns its unit, or None where there is nothing to do.

    Left enabled, it would fail at each boot. Nothing is stopped: what runs goes on until it ends, as sessions do. Where
    another store has the app, the service runs that one, and stays as it is. systemctl needs no service manager that
    runs: in an image that is being built it works on the links alone.
    """
    if any((store / app_id / manifest.FILE_NAME).is_file() for store in settings.SYSTEM_STORES):
        return None
    unit = app_unit(app_id)
    state = _systemctl("is-enabled", unit)
    if state is None or state.stdout.strip() not in _ENABLED:
        return None
    done = _systemctl("disable", "--quiet", *_ENABLED[state.stdout.strip()], unit)
    if done is None or done.returncode:
        reason = printable(done.stderr.strip()) if done else "systemctl does not answer"
        screen.note(
            f"{unit} is enabled and fails at each boot: 'systemctl disable {unit}' did not work: {reason}"
        )
        return None
    screen.note(f"disabled {unit}: without the app it would fail at each boot")
    return unit


def _systemctl(*arguments: str) -> subprocess.CompletedProcess[str] | None:
    """Run it; None where there is none, or no answer."""
    try:
        return subprocess.run(
            ["systemctl", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="backslashreplace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
