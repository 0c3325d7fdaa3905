# SPDX-License-Identifier: Apache-2.0
"""The daemon's settings: whether it would take them, and whether it goes by them."""

import os
import re
import shlex
import tempfile
from pathlib import Path

from weft_runtime import programs
from weft_runtime.appd import settings as appd
from weft_runtime.appd.checking import policy_complaint
from weft_runtime.ctl.finding import INSTALL, RESET, SERVICES, Finding, note, ok, problem
from weft_runtime.ctl.scene import CONFIG_FILE, Scene, config_text
from weft_runtime.errors import ExitStatus, WeftError
from weft_runtime.escape import quote
from weft_runtime.integrity import unsafe

_LINE = re.compile(r"\(at line (\d+), column \d+\)")
_APPLY = f"{{ {RESET}; systemctl reload-or-restart weft-appd; }}"
_ROUNDS = 20
"""Lines that are taken out of a file until it is right; more than that, and it is no file of settings."""


def settings(scene: Scene) -> list[Finding]:
    program = scene.program("weft-appd")
    if program is None:
        return [problem("weft-appd is not installed", None, INSTALL)]
    if (refused := _unreadable(scene)) is not None:
        return [refused]
    writable = _writable(scene)
    if scene.is_system and (not scene.sees_all or scene.account is None):
        complaint = _only_settings(scene)
    else:
        # Root asks as root, and the program itself becomes the daemon's user.
        done = programs.run([program, "--check"], _environ(scene))
        if done is None:
            return [problem("weft-appd cannot be run", f"{program} is no program", INSTALL)]
        # Where nothing but the runtime is wrong, the check of the engine says so.
        complaint = None if done.status == ExitStatus.UNAVAILABLE else done.complaint
        if complaint is not None:
            complaint = _without_policy(scene, complaint)
    if complaint is not None:
        why = "weft-appd does not start with these settings"
        return [*writable, problem(complaint, why, _correction(scene, complaint))]
    source = str(CONFIG_FILE) if os.path.exists(CONFIG_FILE) else f"there is no {CONFIG_FILE}, the defaults"
    unapplied = _unapplied(scene)
    return [*writable, *([unapplied] if unapplied else ())] or [ok(f"{source}: valid")]


def _without_policy(scene: Scene, complaint: str) -> str | None:
    """What the check of trust does not say."""
    for each in scene.as_daemon(lambda: [note(text) for text in policy_complaint()]):
        complaint = complaint.removesuffix(each.what).removesuffix("; ")
    return complaint or None


def _writable(scene: Scene) -> list[Finding]:
    """Whether others than root say what runs as the daemon's user."""
    found = []
    for path, mode in ((CONFIG_FILE.parent, "755"), (CONFIG_FILE, "644")) if scene.is_system else ():
        try:
            complaint = unsafe(path.stat(), 0, is_directory=path != CONFIG_FILE)
        except OSError:
            continue
        if complaint is not None and "is not a" not in complaint:
            why = "whoever writes there decides what weft-appd runs"
            found.append(
                problem(f"{path} {complaint}", why, f"chown root:root {path} && chmod {mode} {path}")
            )
    return found


def without_variable(scene: Scene, variable: str) -> str | None:
    """The command that takes a variable out of where the operator has the unit set it; None where that is nowhere."""
    files = [
        line.partition(" (ignore_errors=")[0] for line in scene.unit.get("EnvironmentFiles", "").splitlines()
    ]
    places = [(name, f"^Environment=.*{variable}=") for name in scene.unit.get("DropInPaths", "").split()]
    for name, pattern in [*places, *((file, f"^ *{variable}=") for file in files)]:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, ValueError):
            continue
        if re.search(pattern, text, re.MULTILINE):
            remove = f"sed -i '/{pattern}/d' {shlex.quote(name)}"
            return f"{remove} && systemctl daemon-reload && {RESET}; systemctl restart {SERVICES}"
    return None


def _environ(scene: Scene) -> dict[str, str]:
    """For the check: it asks systemd for the unit's variables itself."""
    ours = {} if scene.is_system else dict(scene.environ)
    return {**ours, "PATH": programs.default_path(scene.environ), "WEFT_LOG": "stderr"}


def _unreadable(scene: Scene) -> Finding | None:
    if scene.account is None or not scene.is_system:
        return None

    def look() -> list[Finding]:
        assert scene.account is not None
        try:
            barrier = scene.account.barrier(CONFIG_FILE)
        except OSError:
            return []
        if barrier is None:
            return []
        what = f"the user {scene.account.name} cannot read {CONFIG_FILE}"
        is_file = barrier == CONFIG_FILE
        mode = f"the mode of {barrier} is {barrier.stat().st_mode & 0o7777:o}"
        mend = _applied(scene, f"chmod {'644' if is_file else '755'} {barrier}")
        return [problem(what, f"weft-appd does not start, and no reload succeeds; {mode}", mend)]

    return next(iter(scene.as_daemon(look)), None)


def _only_settings(scene: Scene) -> str | None:
    """What is wrong with the settings themselves; what they name only the daemon's user can judge."""
    if os.path.exists(CONFIG_FILE) and not os.access(CONFIG_FILE, os.R_OK):
        return None  # the daemon's user can read it, or it was told already
    try:
        appd.load(None, scene.environ)
    except WeftError as error:
        return error.message
    return None


def _unapplied(scene: Scene) -> Finding | None:
    """Whether the daemon goes by other settings than those that there are now."""
    if scene.running is None:
        return None
    try:
        wanted = appd.shown(appd.load(None, scene.environ))
    except WeftError:
        return None
    differs = [
        f"{name} is {quote(value)} in weft-appd, {quote(wanted[name])} in its settings"
        for name, value in scene.running.items()
        if name in wanted and value != wanted[name]
    ]
    if not differs:
        return None
    apply = "systemctl reload weft-appd" if scene.is_system else "weft-appd --reload"
    names = {text.partition(" ")[0] for text in differs}
    if any(variable in scene.environ for name, variable in appd.variables().items() if name in names):
        apply = "systemctl restart weft-appd"  # a reload keeps the variables of the start
    return note("changed, and not taken over", "; ".join(differs), apply)


def _correction(scene: Scene, complaint: str) -> str:
    """The command that takes back what is wrong, so that the default counts."""
    named = re.findall(r"\$(WEFT_\w+) is ", complaint)
    # A path that is not there is told by the name of the setting, wherever that comes from.
    named += [variable for name, variable in appd.variables().items() if name in _paths_in(complaint)]
    for variable in named:
        if variable in scene.environ and (mend := without_variable(scene, variable)):
            return mend
    if not scene.is_system:
        return "weft-appd --check"
    text: str | None
    try:
        text = config_text()
        lines = _wrong_lines(text, complaint)
    except (OSError, ValueError):
        text, lines = None, None
    if not lines:
        if text is not None and _complaint_of(text) is None:
            return "weft-appd --check"  # it is not the file
        return _applied(scene, f"mv {CONFIG_FILE} {CONFIG_FILE}.wrong")
    script = ";".join(f"{number}s/^/#/" for number in sorted(lines))
    return _applied(scene, f"sed -i '{script}' {CONFIG_FILE}")


def _applied(scene: Scene, mend: str) -> str:
    """What was stopped stays so."""
    return mend if scene.is_stopped else f"{mend} && {_APPLY}"


def _wrong_lines(text: str, complaint: str) -> set[int] | None:
    """Numbers of the lines without which the settings are right; None where it is not single lines."""
    lines = text.splitlines()
    wrong: set[int] = set()
    # A path that is not there: the check that reads the file says nothing of it.
    for name in _paths_in(complaint):
        wrong |= _numbers_of(lines, name)
    for _ in range(_ROUNDS):
        rest = "\n".join("" if number in wrong else line for number, line in enumerate(lines, 1))
        message = _complaint_of(rest)
        if message is None:
            return wrong
        more = {int(number) for number in _LINE.findall(message)}
        for name in re.findall(r": (\w+) is ", message):
            more |= _numbers_of(lines, name)
        if not more - wrong:
            return None
        wrong |= more
    return None


def _paths_in(complaint: str) -> list[str]:
    """The settings whose paths do not lead to what they should."""
    names = re.findall(r"\b(app_store|data_root|app_shell_bin) is '", complaint)
    names += ["ws_token_file"] if "token file" in complaint else []
    return names + (["runtime_bin"] if "the runtime '" in complaint else [])


def _numbers_of(lines: list[str], name: str) -> set[int]:
    pattern = re.compile(rf"\s*[\"']?{re.escape(name)}[\"']?\s*=")
    return {number for number, line in enumerate(lines, 1) if pattern.match(line)}


def _complaint_of(text: str) -> str | None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(text.encode())
        file.flush()
        try:
            appd.load(Path(os.fspath(file.name)), {})
        except WeftError as error:
            return error.message
    return None
