# SPDX-License-Identifier: Apache-2.0
"""The command that shows all sessions and services in one table."""

import time
from collections.abc import Mapping, Sequence

from weft_runtime.ctl import restore, words
from weft_runtime.ctl.running import Running, overview
from weft_runtime.ctl.screen import Cell, Colour, Screen, cut_to, visible
from weft_runtime.ctl.services import FAILED

COLUMNS = ("ID", "KIND", "APP", "VERSION", "STATE", "SINCE", "REASON")
WIDE_COLUMNS = (
    *("ID", "KIND", "APP", "VERSION", "INSTALLED", "STATE", "SINCE", "PID", "RESTARTS", "MEMORY", "CPU", "RESULT"),
    "REASON",
)  # fmt: skip

_APP, _REASON = 2, 6
_SHRINK = ((_REASON, 24), (_APP, 24), (_REASON, 12), (_APP, 12), (_REASON, 0))
"""Where the terminal is too narrow for all: what has to give way, and how far."""

_OUTDATED = " *"

VERSION_ROOM = 14
"""Columns of a version on a terminal: "1.10.0-rc.12 *" has as many."""


def list_all(screen: Screen, environ: Mapping[str, str], *, with_ended: bool, wide: bool) -> int:
    """Show what lives and the services that have failed, or all. Raises WeftError where weft-appd cannot be asked:
    after the services, which need no daemon.
    """
    found = overview(environ)
    shown = [item for item in found.items if with_ended or item.is_live or item.state == FAILED]
    if found.daemon_problem is not None and not shown:
        raise found.daemon_problem
    if screen.as_json:
        screen.json([item.to_json() for item in shown])
    elif shown:
        _table(screen, shown, wide=wide)
        if any(item.is_outdated for item in shown):
            screen.note(_outdated(shown))
    else:
        what = (
            "no session" if not found.has_services or found.services_problem else "no session and no service"
        )
        screen.note(what + (" is remembered" if with_ended else " is running"))
    if not screen.as_json:
        restore.tell(screen, found.waiting)
    if found.services_problem is not None:
        screen.note(f"services are not shown: {found.services_problem}")
    if found.daemon_problem is not None:
        raise found.daemon_problem
    return 0


def version(item: Running, room: int | None = None) -> Cell:
    """The version that runs, in `room` columns, with a mark where the next start would run another."""
    if item.version is None:
        return Cell(words.NOTHING)
    # What does not print is made so before it is measured: the mark must not be what is cut.
    text = visible(item.version)
    if item.is_outdated:
        shown = text if room is None else cut_to(text, room - len(_OUTDATED))
        return Cell(shown + _OUTDATED, Colour.YELLOW)
    return Cell(text if room is None else cut_to(text, room))


def identity(item: Running) -> str:
    return words.NOTHING if item.session_id is None else str(item.session_id)


def _table(screen: Screen, shown: Sequence[Running], *, wide: bool) -> None:
    now = time.time()
    if wide:
        screen.table(WIDE_COLUMNS, [_wide_row(item) for item in shown])
    else:
        screen.table(COLUMNS, [_row(item, now, screen) for item in shown], cut=True, shrink=_SHRINK)


def _row(item: Running, now: float, screen: Screen) -> tuple[str | Cell, ...]:
    return (
        identity(item),
        item.kind,
        Cell(item.app_id, keeps_end=True),
        version(item, None if screen.width is None else VERSION_ROOM),
        words.state(item),
        words.clock_or_date(item.since, now),
        item.reason or words.NOTHING,
    )


def _wide_row(item: Running) -> tuple[str | Cell, ...]:
    return (
        identity(item),
        item.kind,
        item.app_id,
        version(item),
        item.installed_version or words.NOTHING,
        words.state(item),
        words.NOTHING if item.since is None else words.short_time(item.since),
        words.NOTHING if item.pid is None else str(item.pid),
        words.NOTHING if item.restarts is None else str(item.restarts),
        words.size(item.memory),
        words.seconds(item.cpu),
        words.result(item),
        item.reason or words.NOTHING,
    )


def _outdated(shown: Sequence[Running]) -> str:
    apps = {item.app_id: item.installed_version for item in shown if item.is_outdated}
    app, installed = next(iter(apps.items()))
    if len(apps) == 1:
        return f"* version {installed} of {app} is installed ['weftctl restart {app}' starts it]"
    return (
        f"* other versions of {len(apps)} apps are installed [see --wide; 'weftctl restart APP' starts them]"
    )
