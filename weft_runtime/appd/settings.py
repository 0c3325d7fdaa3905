# SPDX-License-Identifier: Apache-2.0
"""Settings of weft-appd: one table for the file, the environment, --help and the shipped appd.toml."""

import os
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from weft_runtime import paths
from weft_runtime.appd import files
from weft_runtime.decode import Table
from weft_runtime.errors import Problem, WeftError
from weft_runtime.escape import printable, quote
from weft_runtime.journal import Level
from weft_runtime.sources import FILE, Source

CONFIG_FILE = Path("/etc/weft/appd.toml")
RUNTIME_PROGRAM = "weft-runtime-wasmtime"
WS_PORT_OFF = -1
TASKS_LIMIT = 4 * 1024 * 1024
"""What the kernel takes for pids.max at most (PID_MAX_LIMIT of 64-bit machines)."""


def _text(value: str) -> str:
    return value


def _path(value: str) -> Path | None:
    """Raises ValueError for what TOML can write and the kernel cannot name."""
    if "\0" in value:
        raise ValueError("expected a path")
    return Path(value) if value else None


def _seconds(value: str) -> float:
    """Raises ValueError outside of 0.1 s to one day: less is a mistake of units, more is "never"."""
    number = float(value)
    if not 0.1 <= number <= 86400:
        raise ValueError("expected a number of seconds from 0.1 to 86400")
    return number


def _count(value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 8 and int(value) > 0):
        raise ValueError("expected a whole number from 1 to 9999999")
    return int(value)


def _or_infinity(parse: Callable[[str], int]) -> Callable[[str], int | None]:
    """The word of systemd.resource-control(5) for "no limit"."""
    return lambda value: None if value == "infinity" else parse(value)


def _tasks(value: str) -> int:
    if _count(value) > TASKS_LIMIT:
        raise ValueError(f"expected a whole number from 1 to {TASKS_LIMIT}, or 'infinity'")
    return int(value)


def _size(value: str) -> int:
    match = re.fullmatch(r"([1-9][0-9]{0,14})([KMGT]?)", value)
    if not match:
        raise ValueError("expected a number of bytes such as 512M, or 'infinity'")
    size = int(match[1]) << 10 * " KMGT".index(match[2] or " ")
    if size < 1 << 20:
        raise ValueError("expected 1M or more: less is a mistake of units")
    return size


def _percent(value: str) -> int:
    match = re.fullmatch(r"([1-9][0-9]{0,5})%", value)
    if not match:
        raise ValueError("expected percents of one CPU such as 200%, or 'infinity'")
    return int(match[1])


def _port(value: str) -> int:
    if value == "off":
        return WS_PORT_OFF
    digits = value.removeprefix("+")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 8 and int(digits) <= 65535):
        raise ValueError("expected 'off' or a port from 0 (any free one) to 65535")
    return int(digits)


def _words(value: str) -> tuple[str, ...]:
    return tuple(value.split())


def _level(value: str) -> Level:
    return Level.parse(value)


def _boolean(value: str) -> bool:
    if value.lower() not in ("true", "false", "1", "0", "yes", "no", "on", "off"):
        raise ValueError("expected true or false")
    return value.lower() in ("true", "1", "yes", "on")


def _setting(variable: str, parse: Callable[[str], Any], default: str, explanation: str) -> Any:
    """One setting: its environment variable, how its text is read, its default as text, what it is for."""
    metadata = {"variable": variable, "parse": parse, "default": default, "explanation": explanation}
    return field(metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an operator can set. A name is the key in appd.toml; weft-appd(8) and --help list them all."""

    runtime_bin: Path | None = _setting(
        "WEFT_RUNTIME_BIN", _path, "", "program that runs an app (default: the installed one)"
    )  # fmt: skip
    app_store: Path | None = _setting(
        "WEFT_APP_STORE", _path, "", "the only package store (default: user's, operator's, system's)"
    )  # fmt: skip
    data_root: Path | None = _setting(
        "WEFT_DATA_ROOT", _path, "", "where each app's own data goes (default: the second state directory)"
    )  # fmt: skip
    socket: Path | None = _setting(
        "WEFT_APPD_SOCKET", _path, "", "control socket (default: $XDG_RUNTIME_DIR/weft/appd.sock)"
    )
    ws_port: int = _setting(
        "WEFT_APPD_WS_PORT", _port, "7410", "port of the WebSocket on 127.0.0.1; 0 for any, 'off' for none"
    )
    ws_origins: tuple[str, ...] = _setting(
        "WEFT_APPD_WS_ORIGINS", _words, "", "origins of web pages that may use it, blanks between"
    )  # fmt: skip
    ws_token_file: Path | None = _setting(
        "WEFT_APPD_WS_TOKEN_FILE", _path, "", "file with the token its clients must send (default: none)"
    )  # fmt: skip
    app_shell_bin: Path | None = _setting(
        "WEFT_APP_SHELL_BIN", _path, "", "program that shows an app's user interface once it is ready"
    )
    ready_timeout: float = _setting(
        "WEFT_READY_TIMEOUT", _seconds, "30", "seconds that an app may take until READY"
    )
    stop_grace: float = _setting(
        "WEFT_STOP_GRACE", _seconds, "5", "seconds from SIGTERM to SIGKILL for an app that is to end"
    )
    max_sessions: int = _setting("WEFT_MAX_SESSIONS", _count, "1024", "live sessions at a time")
    max_connections: int = _setting(
        "WEFT_MAX_CONNECTIONS", _count, "256", "connections at a time, on each of the two sockets"
    )
    idle_timeout: float = _setting(
        "WEFT_IDLE_TIMEOUT", _seconds, "300", "seconds after which a silent control connection is closed"
    )
    memory_max: int | None = _setting(
        "WEFT_MEMORY_MAX", _or_infinity(_size), "512M", "memory of one session (K, M, G or 'infinity')"
    )
    cpu_quota: int | None = _setting(
        "WEFT_CPU_QUOTA",
        _or_infinity(_percent),
        "200%",
        "CPU time of one session, of one CPU, or 'infinity'",
    )
    tasks_max: int | None = _setting(
        "WEFT_TASKS_MAX", _or_infinity(_tasks), "64", "processes and threads of one session, or 'infinity'"
    )
    log_lines: int = _setting(
        "WEFT_LOG_LINES", _count, "1000", "lines of one session that are logged in each log_interval"
    )
    log_interval: float = _setting("WEFT_LOG_INTERVAL", _seconds, "30", "seconds, see log_lines")
    log_level: Level = _setting(
        "WEFT_LOG_LEVEL", _level, "info", "log this and whatever is worse: debug, info, notice, warning, err"
    )
    fork_server: bool = _setting(
        "WEFT_FORK_SERVER", _boolean, "true", "start apps by a fork of the runtime where it offers that"
    )
    restore: bool = _setting(
        "WEFT_RESTORE", _boolean, "true", "start the apps again that ran when the daemon last ended"
    )


def load(config: Path | None, environ: Mapping[str, str]) -> Settings:
    """Read `config` (None: the usual file, if it is there), override it by `environ`, check everything.

    Raises WeftError(CONFIG_INVALID) that names all that is wrong at once.
    """
    source = config or CONFIG_FILE
    texts, problems = _read(source, must_exist=config is not None)
    for setting in fields(Settings):
        variable = setting.metadata["variable"]
        if variable in environ:
            texts[setting.name] = (f"${variable}", environ[variable])
    values = {}
    for setting in fields(Settings):
        where, text = texts.pop(setting.name, ("", setting.metadata["default"]))
        try:
            values[setting.name] = setting.metadata["parse"](text)
        except ValueError as error:
            reason = str(error) if "expected" in str(error) else "expected a number"
            problems.append(f"{where} is {quote(text)}: {reason}")
    problems.extend(f"{where} is no setting" for where, _ in texts.values())
    if problems:
        raise WeftError(Problem.CONFIG_INVALID, "; ".join(problems))
    return Settings(**values)


def find_runtime(settings: Settings) -> Path:
    """The program that runs apps. Raises WeftError(ENGINE_MISSING) naming what was looked for."""
    if settings.runtime_bin is not None:
        # A bare name is looked for on PATH, as by the existing daemon.
        program = shutil.which(settings.runtime_bin)
        if program is None:
            message = f"the runtime {quote(str(settings.runtime_bin))} is no executable program"
            raise WeftError(
                Problem.ENGINE_MISSING, message, "see the setting runtime_bin, or $WEFT_RUNTIME_BIN"
            )
        return Path(program)
    found = shutil.which(RUNTIME_PROGRAM, path=_own_path())
    if found is None:
        message = f"there is no {RUNTIME_PROGRAM} beside this program or on PATH: no app can run"
        raise WeftError(
            Problem.ENGINE_MISSING, message, "install it, or set runtime_bin or $WEFT_RUNTIME_BIN"
        )
    return Path(found)


def is_own_runtime(program: Path, settings: Settings) -> bool:
    """Whether `program`, which `find_runtime` has found, is the one of this release, and not one in its place."""
    if settings.runtime_bin is None:
        return True
    own = shutil.which(RUNTIME_PROGRAM, path=_own_path())
    try:
        return own is not None and program.samefile(own)
    except OSError:
        return False


def runtime_sources(settings: Settings) -> list[Source]:
    """What `find_runtime` and `is_own_runtime` depend on."""
    names = [] if settings.runtime_bin is None else [settings.runtime_bin]
    for directory in _own_path().split(os.pathsep):
        names.append(Path(directory, RUNTIME_PROGRAM))
        if os.access(names[-1], os.X_OK):
            break
    return [(FILE, os.fsencode(name)) for name in names]


def _own_path() -> str:
    """Where the program of this release is looked for."""
    # Beside this program first: in a virtual environment that is where it is installed.
    beside = os.fspath(Path(sys.argv[0]).resolve().parent)
    return os.pathsep.join((beside, os.environ.get("PATH", os.defpath)))


def unfit(settings: Settings, *, store_may_be_made: bool = False) -> list[str]:
    """What the settings name and this process does not find, or may not use: a sentence each."""
    found = []
    if (store := settings.app_store) is not None:
        if not _is_directory(store):
            if not store_may_be_made or os.path.exists(store):
                # Nobody who cannot get there sees whether it is there.
                found.append(f"app_store is {quote(str(store))}: there is no such directory")
        elif not os.access(store, os.R_OK | os.X_OK):
            found.append(f"app_store is {quote(str(store))}: it cannot be read")
    if (data := settings.data_root) is not None and os.path.exists(data):
        if not _is_directory(data):
            found.append(f"data_root is {quote(str(data))}: it is no directory")
        elif not os.access(data, os.W_OK | os.X_OK):
            found.append(f"data_root is {quote(str(data))}: it cannot be written")
    if settings.app_shell_bin is not None and shutil.which(settings.app_shell_bin) is None:
        found.append(f"app_shell_bin is {quote(str(settings.app_shell_bin))}: it is no executable program")
    return found


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # behind a directory that this process may not pass
        return False


def variables() -> dict[str, str]:
    """The environment variable of each setting, by its name."""
    return {setting.name: setting.metadata["variable"] for setting in fields(Settings)}


SETTING_MAX = 4096
"""Characters of one setting in an answer: as long as a path can be."""


def shown(settings: Settings) -> dict[str, str]:
    """The same as `texts`, as a message can hold it."""
    return {name: printable(paths.shown(text), SETTING_MAX) for name, text in texts(settings).items()}


def texts(settings: Settings) -> dict[str, str]:
    """Each setting by its name, as text that it would take."""
    return {
        setting.name: _as_text(setting.name, getattr(settings, setting.name)) for setting in fields(settings)
    }


def _as_text(name: str, value: object) -> str:
    match value:
        case None:
            return "infinity" if name in ("memory_max", "cpu_quota", "tasks_max") else ""
        case bool():
            return str(value).lower()
        case tuple():
            return " ".join(value)
        case float():
            return f"{value:g}"
        case Level():
            return value.name.lower()
    if name == "ws_port" and value == WS_PORT_OFF:
        return "off"
    return f"{value}{'%' * (name == 'cpu_quota')}"


def describe() -> str:
    """The list of all settings for --help."""
    lines = []
    for setting in fields(Settings):
        default = setting.metadata["default"]
        lines.append(f"  {setting.name}, ${setting.metadata['variable']}")
        lines.append(f"      {setting.metadata['explanation']}" + (f" [{default}]" if default else ""))
    return "\n".join(lines)


def _read(source: Path, *, must_exist: bool) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """The file's settings as text, each with where it stands, and what is wrong with the file."""
    try:
        values = tomllib.loads(files.read(source, is_ours=False).decode())
    except FileNotFoundError:
        return {}, [f"there is no file {quote(str(source))}"] if must_exist else []
    except OSError as error:
        return {}, [f"cannot read {quote(str(source))}: {error.strerror}"]
    except (ValueError, RecursionError) as error:
        return {}, [f"{printable(str(source))} is not TOML: {printable(str(error))}"]
    table = Table(values, str(source), Problem.CONFIG_INVALID)
    texts, problems = {}, []
    for key in values:
        try:
            texts[key] = (
                f"{printable(str(source))}: {printable(key, 64)}",
                paths.local(table.scalar_text(key)),
            )
        except WeftError as error:
            problems.append(error.message)
    return texts, problems


@dataclass(frozen=True, slots=True)
class Places:
    """Directories that the daemon gets from its environment, not from its settings."""

    socket: Path | None
    """Where to make the control socket if none is passed in."""
    state: Path
    """For last-session.json."""
    runtime: Path
    """For appd.wsport."""
    data_root: Path | None
    home: Path | None


def places(settings: Settings, environ: Mapping[str, str]) -> Places:
    """Raises WeftError(CONFIG_INVALID) where no directory is known for the daemon's own files."""
    home = _absolute(environ, "HOME")
    session = _absolute(environ, "XDG_RUNTIME_DIR")
    own = None if session is None else session / "weft"
    given_state = _absolute_paths(environ, "STATE_DIRECTORY")
    state = given_state[0] if given_state else own
    runtime = _absolute(environ, "RUNTIME_DIRECTORY") or own
    if state is None or runtime is None:
        message = "there is no directory for run-time files: neither $XDG_RUNTIME_DIR nor systemd's are set"
        raise WeftError(Problem.CONFIG_INVALID, message, "set XDG_RUNTIME_DIR to a directory of your own")
    # Not in the session's directory: that does not outlive it. Of two state directories the second is meant:
    # apps must not find what is the daemon's.
    data = home / ".local/share/weft/data" if home else None
    if given_state:
        data = given_state[1] if len(given_state) > 1 else given_state[0] / "data"
    return Places(
        socket=settings.socket or (own / "appd.sock" if own else None),
        state=state,
        runtime=runtime,
        data_root=settings.data_root or data,
        home=home,
    )


def _absolute(environ: Mapping[str, str], name: str) -> Path | None:
    """The path in a variable, the first if there are several."""
    return next(iter(_absolute_paths(environ, name)), None)


def _absolute_paths(environ: Mapping[str, str], name: str) -> list[Path]:
    """The paths in a variable: systemd puts one there for each directory of its unit."""
    return [Path(text) for text in environ.get(name, "").split(":") if text.startswith("/")]
