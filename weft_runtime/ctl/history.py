# SPDX-License-Identifier: Apache-2.0
"""The command that tells what has been done with apps, and by whom: from entries that nobody else can have written."""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from weft_runtime.client import socket_path
from weft_runtime.ctl import entries, logs, words
from weft_runtime.ctl.daemon import is_system
from weft_runtime.ctl.entries import Entry
from weft_runtime.ctl.screen import Cell, Colour, Screen
from weft_runtime.ids import AppId
from weft_runtime.journal import Level
from weft_runtime.programs import app_unit, instance

COUNT = 100
"""How many are shown, unless told otherwise."""

_UNIT_FAILED = "d9b373ed55a64feb8242e02dbe79a49c"
"""SD_MESSAGE_UNIT_FAILURE_RESULT of sd-messages.h: systemd's word where a service could not say one of its own."""

LAUNCHED, ENDED, REFUSED = "launched", "ended", "refused"

# By WEFT_EVENT, as text: a journal may hold what another release has written.
_OF_DAEMON = {
    "session-launched": LAUNCHED,
    "session-ended": ENDED,
    **dict.fromkeys(("launch-refused", "no-runtime", "capability-refused"), REFUSED),
}  # fmt: skip
_OF_PACKAGE = {
    "package-installed": "installed", "package-upgraded": "upgraded", "package-rolled-back": "rolled back",
    "package-removed": "removed",
}  # fmt: skip
_OF_SERVICE = {
    "starting": LAUNCHED,
    **dict.fromkeys(
        (
            "exited", "trapped", "stopped", "failed", "package-not-found", "package-invalid", "engine-missing",
            "compile-limit", "not-trusted", "changed-after-signing", "capability-refused", "limit-exceeded",
            "out-of-memory", "not-ready", "settings-invalid", "usage", "internal-error",
        ),
        ENDED,
    ),
}  # fmt: skip
"""What the runtime says of itself, where no supervisor does."""

_BY_OF_SERVICE = {
    **dict.fromkeys(_OF_SERVICE, "itself"),
    **dict.fromkeys(("starting", "stopped", "not-ready"), "systemd"),
    "out-of-memory": None,
}
"""Who is behind it: systemd alone gives such a service signals, for whomever; the kernel ends what uses too much."""

_UNIT_RESULTS = {
    "signal": "killed by a signal", "core-dump": "killed by a signal", "oom-kill": "out of memory",
    "timeout": "it did not start or end in time", "watchdog": "it was silent for too long",
    "start-limit-hit": "it was started too often",
}  # fmt: skip
"""UNIT_RESULT= of that entry; `exit-code` is left out, since the app's own end is told."""

_BAD = (ENDED, REFUSED)

_DAEMON = "weft-appd"
"""SYSLOG_IDENTIFIER of its entries."""


class Happening(NamedTuple):
    time: float
    event: str
    app_id: str
    kind: str | None
    """session or service; None for what is done with a package."""
    session_id: int | None
    version: str | None
    by: str | None
    text: str | None
    is_bad: bool
    """Whether somebody should have a look."""


def history(screen: Screen, environ: Mapping[str, str], app_id: AppId | None, *, lines: int) -> int:
    """Show the last ones, the oldest first. Raises WeftError where the journal cannot be read."""
    socket = socket_path(environ)
    if complaint := logs.denied(of_system=is_system(socket)):
        raise complaint
    with entries.latest(_matches(environ, app_id)) as found:
        happenings = [*islice(_happenings(found, app_id), lines)][::-1]
    if screen.as_json:
        screen.json([happening._asdict() for happening in happenings])
    elif happenings:
        header = ("TIME", "EVENT", "APP", "VERSION", "ID", "BY", "WHY")
        screen.table(header, [_row(happening) for happening in happenings], cut=True, shrink=_SHRINK)
    else:
        screen.note("the journal has nothing of " + (app_id or "any app"))
    return 0


_SHRINK = ((6, 16), (2, 20), (5, 12), (6, 0), (5, 0))


def _row(happening: Happening) -> tuple[str | Cell, ...]:
    identity = happening.kind if happening.session_id is None else str(happening.session_id)
    return (
        words.short_time(happening.time),
        Cell(happening.event, Colour.RED if happening.is_bad else Colour.PLAIN),
        Cell(happening.app_id, keeps_end=True),
        happening.version or words.NOTHING,
        identity or words.NOTHING,
        happening.by or words.NOTHING,
        happening.text or words.NOTHING,
    )


def _matches(environ: Mapping[str, str], app_id: AppId | None) -> list[str]:
    """Arguments of journalctl: each group has a field that only journald can set."""
    socket = socket_path(environ)
    about = [] if app_id is None else [f"WEFT_APP_ID={app_id}"]
    groups = [
        [*logs.writers(socket), *about, *(f"WEFT_EVENT={event}" for event in (*_OF_DAEMON, *_OF_PACKAGE))]
    ]
    if is_system(socket):
        for service in _service_apps() if app_id is None else [app_id]:
            unit, events = app_unit(service), [f"WEFT_EVENT={event}" for event in _OF_SERVICE]
            groups += [
                [*writer, f"WEFT_APP_ID={service}", *events] for writer in logs.service_writers(service)
            ]
            groups.append(["_PID=1", f"MESSAGE_ID={_UNIT_FAILED}", f"UNIT={unit}"])
    return [part for group in groups for part in ("+", *group)][1:]


def _service_apps() -> list[AppId]:
    """The apps whose services have written to the journal."""
    argv = [entries.JOURNALCTL, "--quiet", "--field=_SYSTEMD_UNIT"]
    try:
        shown = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, check=False
        ).stdout.decode()
    except (OSError, ValueError):
        return []
    found = set()
    for unit in shown.splitlines():
        with suppress(ValueError):
            found.add(AppId.parse(instance(unit) or ""))
    return sorted(found)


def _happenings(found: Iterator[Entry], app_id: AppId | None) -> Iterator[Happening]:
    for entry in found:
        happening = _happening(entry)
        if happening is not None and app_id in (None, happening.app_id):
            yield happening


def _happening(entry: Entry) -> Happening | None:
    if entries.text(entry, "MESSAGE_ID") == _UNIT_FAILED and entries.text(entry, "_PID") == "1":
        return _by_systemd(entry)
    event = entries.text(entry, "WEFT_EVENT")
    if event in _OF_PACKAGE:
        return _of_package(entry, _OF_PACKAGE[event])
    session_id = entries.number(entry, "WEFT_SESSION_ID")
    # The daemon and the runtime have some events in common.
    of_service = session_id is None and entries.text(entry, "SYSLOG_IDENTIFIER") != _DAEMON
    name = (_OF_SERVICE if of_service else _OF_DAEMON).get(event)
    if name is None:
        return None
    level = entries.number(entry, "PRIORITY")
    return Happening(
        time=entries.moment(entry),
        event=name,
        app_id=entries.text(entry, "WEFT_APP_ID"),
        kind="service" if of_service else "session",
        session_id=session_id,
        version=entries.text(entry, "WEFT_VERSION") or None,
        by=entries.text(entry, "WEFT_CALLER") or (_BY_OF_SERVICE.get(event) if of_service else None),
        text=entries.text(entry, "WEFT_REASON") or None,
        is_bad=name in _BAD and level is not None and level <= Level.WARNING,
    )


def _of_package(entry: Entry, name: str) -> Happening:
    before, source, key = (
        entries.text(entry, f"WEFT_{field}") for field in ("VERSION_BEFORE", "SOURCE", "SIGNED_BY")
    )
    version = entries.text(entry, "WEFT_VERSION")
    said = [f"in place of {before}"] if version and before else []
    said += [f"from {source}"] if source else []
    said += [f"signed by {key}"] if key else []
    return Happening(
        time=entries.moment(entry),
        event=name,
        app_id=entries.text(entry, "WEFT_APP_ID"),
        kind=None,
        session_id=None,
        version=version or before or None,
        by=entries.text(entry, "WEFT_CALLER") or None,
        text=", ".join(said) or None,
        is_bad=False,
    )


def _by_systemd(entry: Entry) -> Happening | None:
    why = _UNIT_RESULTS.get(entries.text(entry, "UNIT_RESULT"))
    if why is None:
        return None
    unit = entries.text(entry, "UNIT")
    app_id = instance(unit) or unit
    return Happening(entries.moment(entry), ENDED, app_id, "service", None, None, "systemd", why, True)
