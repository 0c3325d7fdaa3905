# SPDX-License-Identifier: Apache-2.0
"""What the environment says: the only module that reads it."""

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from weft_runtime import paths, remembered
from weft_runtime.errors import Problem, WeftError
from weft_runtime.escape import quote

SYSTEM_STORES = (Path("/var/lib/weft/apps"), Path("/usr/share/weft/apps"))
"""The operator's own package store, then the one that Debian packages install into."""

# Booleans as systemd.syntax(7) spells them.
_BOOLEANS = {
    "1": True, "yes": True, "true": True, "on": True,
    "": False, "0": False, "no": False, "false": False, "off": False,
}  # fmt: skip


class LogTarget(StrEnum):
    """Where log lines go: `$WEFT_LOG`."""

    AUTO = "auto"
    """To the journal if standard error is connected to it (`$JOURNAL_STREAM`), else standard error."""
    JOURNAL = "journal"
    STDERR = "stderr"


class EngineKind(StrEnum):
    """How the engine runs an app: `$WEFT_ENGINE`."""

    NATIVE = "native"
    """As machine code."""
    PULLEY = "pulley"
    """By its interpreter, which needs no executable memory."""


class LogSettings(NamedTuple):
    """How to log. Read first and on its own, so that whatever else is wrong can be logged."""

    target: LogTarget
    level: str | None
    journal_stream: str | None


class RuntimeSettings(NamedTuple):
    """What `weft-runtime` takes from its environment besides logging."""

    stores: tuple[Path, ...]
    engine: EngineKind
    sd_notify: bool
    notify_socket: str | None
    compiler_group: Path | None = None
    """The file by which a compiler enters a control group of its own."""
    has_background: bool = False
    """Whether root's background compiler is asked for what a launch could not compile."""
    directory: Path | None = None
    """The package, where it is in no store."""


class ServiceSettings(NamedTuple):
    """What `weft-runtime --service` takes from its environment besides: directories of the app's own."""

    state: Path | None
    """The first one of `StateDirectory=`."""
    home: Path | None


def log_settings(environ: Mapping[str, str] = os.environ) -> LogSettings:
    """Raises WeftError(CONFIG_INVALID) naming the variable."""
    target = _get(environ, "WEFT_LOG") or LogTarget.AUTO
    if target not in list(LogTarget):
        raise _wrong("WEFT_LOG", target, "'journal', 'stderr' or 'auto'")
    return LogSettings(LogTarget(target), _get(environ, "WEFT_LOG_LEVEL"), _get(environ, "JOURNAL_STREAM"))


def runtime_settings(environ: Mapping[str, str] = os.environ) -> RuntimeSettings:
    """Raises WeftError(CONFIG_INVALID) naming the variable."""
    engine = _get(environ, "WEFT_ENGINE") or EngineKind.NATIVE
    if engine not in list(EngineKind):
        raise _wrong("WEFT_ENGINE", engine, "'native' or 'pulley'")
    return RuntimeSettings(
        stores=stores(environ),
        engine=EngineKind(engine),
        sd_notify=_boolean(environ, "WEFT_SD_NOTIFY"),
        notify_socket=_get(environ, "NOTIFY_SOCKET"),
        compiler_group=Path(group) if (group := _get(environ, "WEFT_COMPILER_GROUP")) else None,
        has_background=_boolean(environ, "WEFT_BACKGROUND"),
        directory=Path(directory) if (directory := _get(environ, "WEFT_APP_DIR")) else None,
    )


def service_settings(environ: Mapping[str, str] = os.environ) -> ServiceSettings:
    """An empty variable counts as unset: it names no directory."""
    state, home = (_get(environ, "STATE_DIRECTORY") or "").partition(":")[0], _get(environ, "HOME")
    return ServiceSettings(Path(state) if state else None, Path(home) if home else None)


def cache_directory(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The caller's own directory for what can be made again: systemd's, or that of the user's home."""
    names = ("CACHE_DIRECTORY", "HOME", "XDG_CACHE_HOME")
    found = remembered.cache_directory(
        {name: value for name in names if (value := _get(environ, name)) is not None}
    )
    return None if found is None else Path(found)


def report_descriptor(environ: Mapping[str, str] = os.environ) -> int | None:
    """Where to report the end, for a supervisor. Raises WeftError(CONFIG_INVALID) naming the variable."""
    return _descriptor(environ, "WEFT_REPORT_FD")


def is_supervised(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a supervisor tells the course of the run, of what the report says. Raises WeftError(CONFIG_INVALID)."""
    return _boolean(environ, "WEFT_SUPERVISED")


def stores(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """The package stores, in the order of their search."""
    # An empty value is a value: it means the working directory, as in the existing system.
    override = _get(environ, "WEFT_APP_STORE")
    if override is not None:
        return (Path(override),)
    home = _get(environ, "HOME")
    user_store = () if home is None else (Path(home, ".local/share/weft/apps"),)
    return (*user_store, *SYSTEM_STORES)


def _get(environ: Mapping[str, str], name: str) -> str | None:
    """The value of a variable; one that is not UTF-8 counts as unset."""
    value = environ.get(name)
    # Python decodes it by the locale, which may take any byte for a character.
    return value if value is None or value.isascii() or paths.is_utf8(value) else None


def _boolean(environ: Mapping[str, str], name: str) -> bool:
    value = _get(environ, name) or ""
    if value.lower() not in _BOOLEANS:
        raise _wrong(name, value, "a boolean, 1 or 0")
    return _BOOLEANS[value.lower()]


def _descriptor(environ: Mapping[str, str], name: str) -> int | None:
    """The number of an open descriptor that is not one of the three standard streams."""
    value = _get(environ, name)
    if value is None:
        return None
    try:
        if not (value.isascii() and value.isdigit()) or int(value) < 3:
            raise ValueError
        os.fstat(int(value))
    except (ValueError, OverflowError, OSError):
        raise _wrong(name, value, "the number of an open descriptor, 3 or above") from None
    return int(value)


def _wrong(name: str, value: str, expected: str) -> WeftError:
    return WeftError(Problem.CONFIG_INVALID, f"${name} is {quote(value)}: expected {expected}")
