# SPDX-License-Identifier: Apache-2.0
"""Reload into other settings and other code, and what happens when that cannot work: nothing."""

import shutil
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.appd.conftest import Make
from tests.appd.harness import REPOSITORY, Appd
from tests.packages import APP_ID
from weft_runtime import __version__
from weft_runtime.protocol import (
    Error,
    ErrorCode,
    LaunchApp,
    QueryRunning,
    Reload,
    Reloaded,
    RunningApp,
    RunningApps,
    State,
)

# The program on a copy of the package, with an interpreter of its own.
SCRIPT = f"""
import os, sys
sys.path[:] = [{{code!r}}, *(path for path in sys.path if path != {str(REPOSITORY)!r}), {sysconfig.get_path("purelib")!r}]
{{extra}}
from weft_runtime.appd.main import main
sys.exit(main())
"""


@pytest.fixture
def copied(make: Make) -> Appd:
    """A daemon on a copy of the code, with a session."""
    appd = make(WEFT_APPD_WS_PORT="0")
    code = appd.directory / "code"
    shutil.copytree(
        REPOSITORY / "weft_runtime", code / "weft_runtime", ignore=shutil.ignore_patterns("__pycache__")
    )
    interpreter = appd.directory / "python"
    interpreter.symlink_to(Path(sys.executable).resolve())
    script = appd.directory / "script"
    script.write_text(SCRIPT.format(code=str(code), extra=""))
    appd.program = (str(interpreter), "-B", str(script))
    appd.start()
    appd.run_app("ready(); wait()")
    return appd


def change(appd: Appd, module: str, old: str, new: str) -> None:
    path = appd.directory / "code/weft_runtime" / module
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def refused(appd: Appd, *parts: str) -> None:
    """A reload must fail for a reason that has these parts, and all must go on as before."""
    before = appd.sessions
    subscribed = appd.websocket()
    answer = appd.control.ask(Reload())
    assert isinstance(answer, Error)
    assert answer.code == ErrorCode.RELOAD_FAILED
    assert answer.message.startswith("reload refused, going on as before: ")
    for part in parts:
        assert part in answer.message
    appd.until_logged(f"err: {answer.message}")
    appd.expected_errors.append(answer.message)
    assert appd.sessions == before
    assert len(appd.children) == 1
    assert appd.control.ask(QueryRunning()) == RunningApps((RunningApp(1, APP_ID),))
    subscribed.close()
    page = appd.websocket()
    page.send('{"type":"QUERY_APP_STATE","session_id":1}')
    assert page.recv(30) == '{"type":"APP_STATE","session_id":1,"state":"running"}'


def test_into_a_newer_version(copied: Appd) -> None:
    change(copied, "__init__.py", f'"{__version__}"', '"99.9"')
    assert copied.control.ask(Reload()) == Reloaded("99.9")
    assert copied.find("weft-appd 99.9 serves ")
    assert copied.sessions[1].state is State.RUNNING
    assert copied.run("--reload").stdout == "reloaded, weft-appd 99.9 is running\n"


@pytest.mark.parametrize(
    ("module", "old", "new", "part"),
    [
        ("appd/supervisor.py", "class Supervisor:", "class Supervisor", "SyntaxError"),
        ("wire.py", "import msgpack", "import msgpack_of_the_future", "ModuleNotFoundError"),
        (
            "appd/handover.py",
            "STATE_VERSION = 1",
            "STATE_VERSION = 2",
            "state is of version 1, this program reads 2",
        ),
    ],
)
def test_code_that_does_not_start_is_not_tried(
    copied: Appd, module: str, old: str, new: str, part: str
) -> None:
    change(copied, module, old, new)
    refused(copied, "the next program does not start: ", part)
    change(copied, module, new, old)
    assert copied.control.ask(Reload()) == Reloaded(__version__)
    assert copied.sessions[1].state is State.RUNNING


def test_a_program_that_cannot_be_executed_is_not_the_end(copied: Appd) -> None:
    # It is there for the check, and gone for the reload.
    script = copied.directory / "script"
    extra = "if '--check' in sys.argv: os.unlink(sys.executable)"
    script.write_text(script.read_text().replace("from weft_runtime", f"{extra}\nfrom weft_runtime"))
    refused(copied, "No such file or directory")
    (copied.directory / "python").symlink_to(Path(sys.executable).resolve())
    script.write_text(script.read_text().replace(extra, ""))
    assert copied.control.ask(Reload()) == Reloaded(__version__)
    assert copied.sessions[1].state is State.RUNNING


def test_an_interpreter_that_is_gone_is_not_the_end(copied: Appd) -> None:
    (copied.directory / "python").unlink()
    refused(copied, "No such file or directory")


def test_new_settings_are_in_force(copied: Appd) -> None:
    copied.config.write_text("max_sessions = 1\nstop_grace = 1\n")
    assert copied.control.ask(Reload()) == Reloaded(__version__)
    answer = copied.control.ask(LaunchApp(APP_ID, 0))
    assert isinstance(answer, Error)
    assert answer.code == ErrorCode.TOO_MANY_SESSIONS
    copied.config.write_text("")
    assert copied.control.ask(Reload()) == Reloaded(__version__)
    assert copied.launch() == 2


@pytest.mark.parametrize(
    "content", ["max_sessions = 0\nready_timeout = 'never'", "colour =", 'ws_token_file = "/nonexistent"']
)
def test_wrong_settings_are_refused_and_all_of_them_named(copied: Appd, content: str) -> None:
    copied.config.write_text(content)
    parts = {
        "m": ("max_sessions is '0': expected", "ready_timeout is 'never': expected"),
        "c": ("is not TOML",),
        "w": ("cannot read the token file '/nonexistent'",),
    }[content[0]]
    refused(copied, *parts)
    done = copied.run("--reload")
    assert done.status == 178
    assert parts[0] in done.stderr
    copied.expected_errors.append(parts[0])
    copied.config.write_text("")
    assert copied.control.ask(Reload()) == Reloaded(__version__)


def test_a_runtime_that_is_gone_is_no_reason_to_go_on_without_one(copied: Appd) -> None:
    copied.config.write_text("")
    copied.environ["WEFT_RUNTIME_BIN"] = "/nonexistent"
    assert copied.run("--check", "--config", str(copied.config)).status == 169
