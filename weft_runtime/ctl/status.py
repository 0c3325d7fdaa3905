# SPDX-License-Identifier: Apache-2.0
"""The command that tells all that is known of a session, or of each session and service of an app."""

import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from weft_runtime import policy, store
from weft_runtime.client import socket_path
from weft_runtime.ctl import entries, logs, words
from weft_runtime.ctl.daemon import NOT_FOUND, is_system, unknown
from weft_runtime.ctl.entries import Entry
from weft_runtime.ctl.listing import identity
from weft_runtime.ctl.running import Kind, Overview, Running, overview
from weft_runtime.ctl.screen import Cell, Colour, Screen
from weft_runtime.errors import WeftError
from weft_runtime.escape import quote
from weft_runtime.ids import AppId, SessionId
from weft_runtime.protocol import SessionInfo
from weft_runtime.settings import SYSTEM_STORES
from weft_runtime.trust import Places, judge, trusted_keys

LOG_LINES = 10
"""Entries of each that are shown, as by systemctl(1)."""

ENDED_MAX = 3
"""Sessions of an app that have ended, of which all is told; the others are only counted."""

Rows = list[tuple[str, str | Cell]]


def status(screen: Screen, environ: Mapping[str, str], target: SessionId | AppId) -> int:
    """Tell all about it. Raises WeftError where nothing is known of it, or weft-appd cannot be asked."""
    found = overview(environ)
    if isinstance(target, SessionId):
        if found.daemon_problem is not None:
            raise found.daemon_problem
        chosen = [item for item in found.items if item.session_id == target]
        if not chosen:
            raise unknown(target)
        return _show(screen, environ, chosen, one=True)
    chosen = found.of_app(target)
    ended = [item for item in chosen if item.kind is Kind.SESSION and not item.is_live]
    left_out = [] if screen.as_json else ended[: max(0, len(ended) - ENDED_MAX)]
    _show(screen, environ, [item for item in chosen if item not in left_out], one=False)
    if left_out:
        screen.note(f"{len(left_out)} more that have ended [see 'weftctl list --all']")
    if found.services_problem is not None:
        screen.note(f"the service is not shown: {found.services_problem}")
    if found.daemon_problem is not None:
        raise found.daemon_problem
    if not chosen:
        _tell_of_idle(screen, found, target)
    return 0


def _tell_of_idle(screen: Screen, found: Overview, app_id: AppId) -> None:
    """Raises WeftError unless the app is at least installed, where the system's daemon looks."""
    try:
        if found.has_services:
            store.find(app_id, SYSTEM_STORES)
            screen.note(f"{app_id} is installed, and nothing of it runs ['weftctl launch {app_id}']")
            return
    except WeftError:
        pass
    raise WeftError(
        NOT_FOUND, f"no session of {app_id} is known", "see 'weftctl list --all' and 'weftctl apps'"
    )


def _show(screen: Screen, environ: Mapping[str, str], chosen: Sequence[Running], *, one: bool) -> int:
    of_system = is_system(socket_path(environ))
    complaint = logs.denied(of_system=of_system) if chosen else None
    objects = []
    for index, item in enumerate(chosen):
        log = [] if complaint else _log(environ, item)
        signature = _signature(item)
        if screen.as_json:
            objects.append(
                {**item.to_json(), "signature": signature, "log": [_log_json(entry) for entry in log]}
            )
            continue
        if index:
            screen.line("")
        screen.table((), ((f"{name}:", value) for name, value in _rows(item, signature)))
        for number, entry in enumerate(log):
            if not number:
                screen.line("")
            screen.line(_log_line(entry))
    if screen.as_json:
        screen.json(objects[0] if one else objects)
    elif complaint is not None and of_system:  # what a user's own daemon logs is as a rule not there
        screen.note(f"without the log: {complaint}")
    return 0


def _rows(item: Running, signature: str | None) -> Rows:
    now = time.time()
    rows: Rows = [("Session", identity(item)) if item.kind is Kind.SESSION else ("Service", item.unit or "")]
    rows += [("App", item.app_id), ("Version", _version(item)), ("State", words.state(item))]
    if item.enabled is not None:
        rows.append(
            ("At boot", "started" if item.enabled else f"not started [systemctl enable {item.unit}]")
        )
    rows.append(("PID", words.NOTHING if item.pid is None else str(item.pid)))
    if item.launched is not None:
        by = f", by {item.launched_by}" if item.launched_by else ""
        rows.append(("Launched", f"{words.local_time(item.launched)}, {words.ago(item.launched, now)}{by}"))
    if item.ready is not None and item.launched is not None:
        took = words.duration(item.ready - item.launched)
        rows.append(("Ready", f"{words.local_time(item.ready)}, after {took}"))
    if item.stopped is not None and item.launched is not None:
        took = words.duration(item.stopped - item.launched)
        when = f"{words.local_time(item.stopped)}, {words.ago(item.stopped, now)}"
        rows += [("Stopped", f"{when}, after {took}"), ("Result", words.result(item))]
    if item.reason is not None:
        rows.append(("Reason", item.reason))
    if item.restarts is not None:
        rows.append(("Restarts", f"{item.restarts} by systemd"))
    if item.memory is not None or item.memory_peak is not None:
        peak = "" if item.memory_peak is None else f", at most {words.size(item.memory_peak)}"
        rows.append(("Memory", f"{words.size(item.memory)}{peak}"))
    if item.cpu is not None:
        rows.append(("CPU", words.seconds(item.cpu)))
    if (package := _package(item)) is not None:
        rows.append(("Package", str(package)))
    if signature is not None:
        rows.append(("Signature", signature))
    if item.data is not None:
        rows.append(("Data", item.data))
    return rows


def _version(item: Running) -> str | Cell:
    if item.version is None:
        installed = item.installed_version
        return "not known" if installed is None else f"not known, {installed} is installed"
    if item.is_outdated:
        target = item.app_id if item.session_id is None else str(item.session_id)
        text = f"{item.version}, but {item.installed_version} is installed ['weftctl restart {target}' starts it]"
        return Cell(text, Colour.YELLOW)
    return item.version


def _package(item: Running) -> Path | None:
    """The directory that it was started from, or its next start would be."""
    if item.package is not None:
        return Path(item.package)
    if item.kind is Kind.SESSION:
        return None
    try:
        return store.find(AppId.parse(item.app_id), SYSTEM_STORES)
    except (WeftError, ValueError):
        return None


def _signature(item: Running) -> str | None:
    """Who has signed what is installed there now, and whether somebody has to."""
    directory = _package(item)
    places = Places()
    try:
        if directory is None or not directory.is_dir():
            return None
        rule = policy.read(places.config, owner=places.owner)
        verdict = judge(directory, trusted_keys(places))
    except WeftError as error:
        return f"cannot be known: {error.message}"
    except OSError as error:  # of a path that cannot be one
        return f"cannot be known: {error.strerror}"
    told = (
        f"the package is signed by {quote(verdict.key)}" if verdict.key else f"the package {verdict.reason}"
    )
    return f"{told}; policy '{rule}'"


def _log(environ: Mapping[str, str], item: Running) -> list[Entry]:
    """The last entries about it, the oldest first."""
    if item.kind is Kind.SERVICE:
        matches = logs.service_matches(AppId(item.app_id))[1:]
    elif item.launched is None:  # it is still to be
        matches = [f"WEFT_APP_ID={item.app_id}", *logs.writers(socket_path(environ))]
    else:
        matches = [*logs.session_matches(SessionInfo._make(item[:10])), *logs.writers(socket_path(environ))]
    try:
        with entries.latest(matches) as found:
            return [*islice(found, LOG_LINES)][::-1]
    except (WeftError, ValueError):
        return []


def _log_line(entry: Entry) -> str:
    when = words.local_time(entries.moment(entry), "%b %d %H:%M:%S")
    process = entries.text(entry, "_PID")
    who = f"{entries.text(entry, 'SYSLOG_IDENTIFIER')}[{process}]" if process else "?"
    return f"{when} {who}: {entries.text(entry, 'MESSAGE').partition(chr(10))[0]}"


def _log_json(entry: Entry) -> dict[str, object]:
    return {
        "time": entries.moment(entry),
        "identifier": entries.text(entry, "SYSLOG_IDENTIFIER"),
        "priority": entries.number(entry, "PRIORITY"),
        "message": entries.text(entry, "MESSAGE"),
    }
