# SPDX-License-Identifier: Apache-2.0
"""What the journal gets of packages that come and go: who did it, from which version to which."""

import os
from collections.abc import Mapping
from pathlib import Path

from weft_runtime import paths, settings, users
from weft_runtime.escape import printable, quote
from weft_runtime.ids import AppId
from weft_runtime.journal import JOURNAL_SOCKET, Event, Level, open_log
from weft_runtime.pack.screen import PROGRAM
from weft_runtime.statusline import VERSION_MAX

UNKNOWN = "unknown"
"""The version of a package that has none, being broken."""

NOBODY = "nobody that is trusted here"


def installed(
    environ: Mapping[str, str],
    app_id: AppId,
    version: str,
    before: str | None,
    source: Path,
    key: str | None,
) -> None:
    """Version `before` was there, if any was; `key` is the name of the trusted key that has signed the new one."""
    origin = printable(paths.shown(Path(os.path.abspath(source))))  # noqa: PTH100 - resolve() follows links
    fields = {"WEFT_SOURCE": origin}
    if before is None:
        text, event = f"version {_shown(version)} was installed from {origin}", Event.PACKAGE_INSTALLED
    else:
        text = f"version {_shown(version)} was installed in place of {_shown(before)} from {origin}"
        event = Event.PACKAGE_UPGRADED
        fields["WEFT_VERSION_BEFORE"] = _shown(before)
    _tell(environ, app_id, event, text, key, WEFT_VERSION=_shown(version), **fields)


def rolled_back(
    environ: Mapping[str, str], app_id: AppId, version: str, before: str | None, key: str | None
) -> None:
    """`version` is there again, in place of `before`."""
    before = _shown(before or UNKNOWN)
    text = f"version {_shown(version)} is there again, in place of {before}"
    fields = {"WEFT_VERSION": _shown(version), "WEFT_VERSION_BEFORE": before}
    _tell(environ, app_id, Event.PACKAGE_ROLLED_BACK, text, key, **fields)


def removed(environ: Mapping[str, str], app_id: AppId, before: str) -> None:
    """It was removed."""
    before = _shown(before)
    _tell(
        environ,
        app_id,
        Event.PACKAGE_REMOVED,
        f"removed, version {before}",
        None,
        WEFT_VERSION_BEFORE=before,
    )


def forced(app_id: AppId, version: str, before: str, text: str) -> None:
    """An older version was installed by --force, which undoes what the versions are for."""
    fields = {"WEFT_VERSION": version, "WEFT_VERSION_BEFORE": before}
    _write(app_id, Level.WARNING, Event.DOWNGRADED, text, fields)


def _tell(
    environ: Mapping[str, str], app_id: AppId, event: Event, text: str, key: str | None, **fields: str
) -> None:
    caller = _caller(environ)
    if event is not Event.PACKAGE_REMOVED:
        signer = NOBODY if key is None else f"the trusted key {quote(key)}"
        text, fields = f"{text}, signed by {signer}", fields | {"WEFT_SIGNED_BY": signer}
    _write(app_id, Level.NOTICE, event, f"{text}, by {caller}", fields | {"WEFT_CALLER": caller})


def _caller(environ: Mapping[str, str]) -> str:
    """Who did it: behind sudo(8) the user who has called that, which root alone can make up."""
    uid = os.getuid()
    behind = environ.get("SUDO_UID", "")
    if uid == 0 and behind.isascii() and behind.isdecimal() and 0 < int(behind[:11]) < 2**32:
        return f"{users.named(int(behind))} by sudo"
    return users.named(uid)


def _write(app_id: AppId, level: Level, event: Event, text: str, fields: dict[str, str]) -> None:
    if JOURNAL_SOCKET.is_socket():  # else whoever did it has seen it
        log = open_log(PROGRAM, settings.LogSettings(settings.LogTarget.JOURNAL, None, None))
        log.entry(level, text, event, WEFT_APP_ID=app_id, **fields)
        log.flush()


def _shown(version: str) -> str:
    return printable(version, VERSION_MAX)
