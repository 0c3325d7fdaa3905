# SPDX-License-Identifier: Apache-2.0
"""LAUNCH_APP: what is acknowledged, what is refused, and what is known of the sessions afterwards."""

import shutil
import time
from pathlib import Path

import pytest

from tests import packages
from tests.appd.conftest import Make
from tests.appd.harness import CALLER, NO_MODULE, Appd, eventually
from tests.packages import APP_ID
from weft_runtime.protocol import (
    AppState,
    Error,
    ErrorCode,
    InstalledApp,
    InstalledApps,
    IpcForward,
    LaunchAck,
    LaunchApp,
    QueryAppState,
    QueryInstalledApps,
    QueryRunning,
    RunningApp,
    RunningApps,
    State,
    TerminateApp,
)

HISTORY_MAX = 1000


def refused(appd: Appd, app_id: str = APP_ID) -> Error:
    answer = appd.control.ask(LaunchApp(app_id, 0))
    assert isinstance(answer, Error), answer
    assert appd.sessions == {}
    appd.find(f" for {CALLER} refused: {answer.message}")
    return answer


def test_sessions_have_numbers_and_a_line_that_names_the_caller(appd: Appd) -> None:
    appd.install("ready(); wait()")
    assert [appd.launch() for _ in range(3)] == [1, 2, 3]
    appd.until_ready(1, 2, 3)
    for number, session in appd.sessions.items():
        assert session.pid in appd.children
        launched = f"info: launched by {CALLER}, pid {session.pid}: version 1.2.3 from {appd.store / APP_ID}"
        assert appd.find("launched by", number) == launched
        assert abs(time.time() - session.launched) < 60
        assert appd.find("info: ready after", number)


def test_states_are_what_the_queries_say(start: Make) -> None:
    appd = start(WEFT_STOP_GRACE="60")
    appd.install(
        "signal.signal(signal.SIGTERM, lambda *_: until('end') or os._exit(0)); until('go'); ready(); wait()"
    )
    control = appd.control

    def state() -> State:
        answer = control.ask(QueryAppState(1))
        assert isinstance(answer, AppState)
        assert answer.session_id == 1
        return answer.state

    assert control.ask(QueryRunning()) == RunningApps(())
    assert state() is State.NOT_FOUND
    appd.launch()
    assert state() is State.STARTING
    assert control.ask(QueryRunning()) == RunningApps((RunningApp(1, APP_ID),))
    (appd.store / APP_ID / "go").touch()
    eventually(lambda: state() is State.RUNNING, "it runs")
    assert control.ask(QueryRunning()) == RunningApps((RunningApp(1, APP_ID),))
    appd.connect().send(TerminateApp(1))
    eventually(lambda: state() is State.STOPPING, "it is being stopped")
    assert control.ask(QueryRunning()) == RunningApps(())
    (appd.store / APP_ID / "end").touch()
    eventually(lambda: state() is State.STOPPED, "it is stopped")
    assert control.ask(QueryRunning()) == RunningApps(())


@pytest.mark.parametrize(
    "app_id",
    ["", "../victim", "/tmp/evil", "org.example", "org.example.App", "org.example.app\n", "a.b.c/../d"],
)
def test_what_is_no_app_id_is_refused_before_any_path_is_made_of_it(appd: Appd, app_id: str) -> None:
    appd.install("ready()", app_id="org.example.victim", capabilities=["fs:rw:app-data"])
    shutil.copytree(appd.store / "org.example.victim", appd.directory / "victim")
    before = sorted(appd.directory.rglob("*"))
    answer = refused(appd, app_id)
    assert answer.code == ErrorCode.INVALID_APP_ID
    assert "is not an app id: expected three or more labels" in answer.message
    assert sorted(appd.directory.rglob("*")) == before


def test_an_unknown_package_is_refused(appd: Appd) -> None:
    answer = refused(appd)
    assert answer.code == ErrorCode.PACKAGE_NOT_FOUND
    assert answer.message == f"package '{APP_ID}' not found in any package store; searched: '{appd.store}'"


@pytest.mark.parametrize("broken", ["manifest", "module", "ui"])
def test_a_broken_package_is_refused(appd: Appd, broken: str) -> None:
    package = appd.install("ready()")
    path = {"manifest": "wapp.toml", "module": "app.wasm", "ui": "ui/index.html"}[broken]
    (package / path).unlink()
    if broken == "manifest":
        (package / path).write_text("[package")
    answer = refused(appd)
    # As a service of the app, which ends with 166 for a module that is not there.
    is_missing = broken == "module"
    assert answer.code == (ErrorCode.PACKAGE_NOT_FOUND if is_missing else ErrorCode.PACKAGE_INVALID)
    assert str(package) in answer.message


def test_an_app_without_a_face_is_listed_and_launched_as_any(appd: Appd) -> None:
    package = appd.install("ready(); wait()")
    toml = (package / "wapp.toml").read_text()
    (package / "wapp.toml").write_text(toml.replace('[ui]\nentry = "ui/index.html"', ""))
    shutil.rmtree(package / "ui")
    listed = appd.control.ask(QueryInstalledApps())
    assert listed == InstalledApps((InstalledApp(APP_ID, "A test", "1.2.3"),))
    number = appd.launch()
    appd.until_ready(number)


def test_a_daemon_without_a_runtime_says_so_at_its_start_and_at_each_launch(make: Make) -> None:
    appd = make(WEFT_RUNTIME_BIN="/nonexistent/runtime")
    message = "the runtime '/nonexistent/runtime' is no executable program"
    appd.expected_errors = [message]
    appd.start()
    appd.find(f"err: {message}")
    appd.install("ready()")
    answer = refused(appd)
    assert answer.code == ErrorCode.NO_RUNTIME
    assert answer.message.startswith(message)


def test_a_runtime_that_cannot_be_started_is_an_error_and_no_session(make: Make, tmp_path: Path) -> None:
    runtime = tmp_path / "runtime"
    runtime.write_text("#!/nonexistent/interpreter\n")
    runtime.chmod(0o755)
    appd = make(WEFT_RUNTIME_BIN=str(runtime))
    appd.start()
    appd.install("ready()")
    assert refused(appd) == Error(
        ErrorCode.SPAWN_FAILED, f"cannot start {runtime}: No such file or directory"
    )


def test_a_runtime_given_by_name_is_looked_for_on_the_path(make: Make, tmp_path: Path) -> None:
    appd = make(WEFT_RUNTIME_BIN="some-runtime", PATH=f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "some-runtime").symlink_to(shutil.which("true") or "")
    appd.start()
    appd.install("")
    assert appd.until_stopped(appd.launch()).reason == "exited with status 0"


def test_more_sessions_than_allowed_are_refused_until_one_ends(start: Make) -> None:
    appd = start(WEFT_MAX_SESSIONS="2")
    appd.install("ready(); wait()")
    assert [appd.launch(), appd.launch()] == [1, 2]
    message = "there are 2 sessions already, the setting max_sessions allows no more"
    assert appd.control.ask(LaunchApp(APP_ID, 0)) == Error(ErrorCode.TOO_MANY_SESSIONS, message)
    assert len(appd.children) == 2
    assert appd.control.ask(TerminateApp(1)) == AppState(1, State.STOPPED)
    assert appd.launch() == 3


def test_the_last_thousand_stopped_sessions_are_remembered(start: Make) -> None:
    appd = start(WEFT_RUNTIME_BIN="/bin/true")
    appd.install("")
    forgotten, at_once = 20, 50
    count = forgotten + HISTORY_MAX
    for first in (1, *range(1 + forgotten, count + 1, at_once)):
        sessions = range(first, first + (forgotten if first == 1 else at_once))
        appd.control.send(*(LaunchApp(APP_ID, 0) for _ in sessions))
        assert [appd.control.receive() for _ in sessions] == [
            LaunchAck(number, APP_ID) for number in sessions
        ]
        if first == 1:
            # Sessions that run at the same time end in any order: these are to be the first.
            eventually(lambda: appd.control.ask(QueryRunning()) == RunningApps(()), "the first are stopped")
    eventually(lambda: not appd.children, "all have ended")
    eventually(lambda: appd.control.ask(QueryRunning()) == RunningApps(()), "all are stopped")
    known = appd.sessions
    assert sorted(known) == list(range(forgotten + 1, count + 1))
    assert {session.state for session in known.values()} == {State.STOPPED}
    assert appd.control.ask(QueryAppState(20)) == AppState(20, State.NOT_FOUND)
    assert appd.control.ask(QueryAppState(21)) == AppState(21, State.STOPPED)


def test_installed_apps_are_those_that_can_be_launched(appd: Appd) -> None:
    packages.install(appd.store, NO_MODULE)
    other = packages.manifest("org.example.other").replace("A test", "Ä <b>test</b>")
    packages.install(appd.store, NO_MODULE, app_id="org.example.second", toml=other)
    packages.install(appd.store, NO_MODULE, app_id="org.example.broken", toml="[package]")
    packages.install(appd.store, NO_MODULE, app_id="No.app.id")
    answer = appd.control.ask(QueryInstalledApps())
    # The directory's name counts: it is what a launch would look for.
    apps = (
        InstalledApp(APP_ID, "A test", "1.2.3"),
        InstalledApp("org.example.second", "Ä <b>test</b>", "1.2.3"),
    )
    assert answer == InstalledApps(apps)


def test_a_message_for_an_app_is_answered_by_an_error_and_holds_nobody_up(appd: Appd) -> None:
    session = appd.run_app("ready(); wait()")
    control = appd.control
    unknown = control.ask(IpcForward(99, "hello"))
    assert unknown == Error(ErrorCode.UNKNOWN_SESSION, "session 99 not found")
    control.send(*(IpcForward(session, "x" * 1000) for _ in range(100)), QueryRunning())
    answers = [control.receive() for _ in range(100)]
    assert {answer.code for answer in answers if isinstance(answer, Error)} == {ErrorCode.NOT_SUPPORTED}
    assert control.receive() == RunningApps((RunningApp(session, APP_ID),))
