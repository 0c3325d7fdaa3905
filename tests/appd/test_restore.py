# SPDX-License-Identifier: Apache-2.0
"""Apps of the last session that do not come up at once: they stay on the list, and are tried again."""

import json
import os
import signal

import pytest

from tests.appd.conftest import Make
from tests.appd.harness import FAKE_RUNTIME, Appd, eventually
from tests.appd.test_persistence import (
    BOTH,
    OTHER_ID,
    RUNNING,
    apps,
    launch_both,
    live_short,
    saved,
    until_apps,
    until_saved,
)
from tests.packages import APP_ID
from weft_runtime import __version__
from weft_runtime.protocol import (
    AppState,
    Forget,
    Forgotten,
    QueryWaiting,
    Reload,
    Reloaded,
    Restore,
    Restoring,
    State,
    TerminateApp,
    Waiting,
    WaitingApp,
)

ONE = f'["{APP_ID}"]'.encode()


def waiting(appd: Appd) -> dict[str, WaitingApp]:
    answer = appd.control.ask(QueryWaiting())
    assert isinstance(answer, Waiting)
    return {app.app_id: app for app in answer.apps}


def until_waiting(appd: Appd, part: str, app_id: str = APP_ID) -> WaitingApp:
    found: dict[str, WaitingApp] = {}

    def waits() -> bool:
        found.update(waiting(appd))
        return app_id in found and part in (found[app_id].reason or "")

    eventually(waits, lambda: f"{app_id} waits because of {part!r}: {found}, {appd.log_text}")
    return found[app_id]


def live(appd: Appd) -> list[str]:
    return [app.app_id for app in appd.sessions.values() if app.state is State.RUNNING]


def start_with(appd: Appd, *app_ids: str) -> None:
    """A daemon that has these to start again."""
    appd.start()
    appd.stop()
    saved(appd).write_text(json.dumps(app_ids))
    appd.start()


def test_without_a_runtime_the_apps_wait_and_come_back(appd: Appd) -> None:
    launch_both(appd)
    until_saved(appd, BOTH)
    appd.stop()
    appd.expected_errors.append("WEFT_RUNTIME_BIN")
    runtime = appd.directory / "runtime"
    appd.environ["WEFT_RUNTIME_BIN"] = str(runtime)
    for _ in range(2):  # a start without success is as good as none
        appd.start()
        app = until_waiting(appd, "runtime")
        assert app.due is not None
        assert saved(appd).read_bytes() == BOTH
        appd.stop()
        assert saved(appd).read_bytes() == BOTH
    appd.start()
    until_waiting(appd, "runtime")
    runtime.symlink_to(FAKE_RUNTIME)
    until_apps(appd, APP_ID, OTHER_ID)
    assert waiting(appd) == {}
    assert saved(appd).read_bytes() == BOTH


@pytest.mark.parametrize("status", [126, 127, 166, 169, 170, 171, 175, 177, 178])
def test_a_status_that_tells_of_the_device_is_tried_again(make: Make, status: int) -> None:
    appd = make()
    appd.install(f"if os.path.exists(PACKAGE + '/mended'): ready(); wait()\nsys.exit({status})")
    start_with(appd, APP_ID)
    if status == 175:  # the background compiler was asked for
        appd.expected_files.add("weft/compile-request")
    app = until_waiting(appd, f"exited with status {status}")
    assert app.due is not None
    assert saved(appd).read_bytes() == ONE
    (appd.store / APP_ID / "mended").touch()
    eventually(lambda: live(appd) == [APP_ID], "it runs")
    assert saved(appd).read_bytes() == ONE


@pytest.mark.parametrize("end", ["sys.exit(3)", "sys.exit(0)", "sys.exit(134)", "sys.exit(101)"])
def test_an_app_that_ends_by_its_own_fault_is_started_once(make: Make, end: str) -> None:
    appd = make()
    appd.install(end)
    appd.install(RUNNING, app_id=OTHER_ID)
    start_with(appd, APP_ID, OTHER_ID)
    until_saved(appd, f'["{OTHER_ID}"]'.encode())
    assert waiting(appd) == {}
    assert apps(appd).count(APP_ID) == 1


def test_a_package_that_cannot_run_waits_until_somebody_asks(make: Make) -> None:
    appd = make()
    appd.install("sys.exit(165)")
    start_with(appd, APP_ID)
    app = until_waiting(appd, "exited with status 165")
    assert app.due is None
    appd.install(RUNNING)
    assert appd.control.ask(Restore(APP_ID)) == Restoring((APP_ID,), (), None)
    eventually(lambda: live(appd) == [APP_ID], "it runs")
    assert saved(appd).read_bytes() == ONE


def test_an_app_that_was_not_ready_in_time_is_tried_again(make: Make) -> None:
    appd = make(WEFT_READY_TIMEOUT="1")
    appd.install("until('quiet'); ready(); wait()")
    start_with(appd, APP_ID)
    until_waiting(appd, "it did not say READY within 1 s")
    (appd.store / APP_ID / "quiet").touch()
    eventually(lambda: live(appd) == [APP_ID], "it runs")
    assert saved(appd).read_bytes() == ONE


def test_what_was_killed_before_it_was_ready_is_tried_again(make: Make) -> None:
    appd = make()
    appd.install(
        "if os.path.exists(PACKAGE + '/mended'): ready(); wait()\nnote('there', os.getpid()); wait()"
    )
    start_with(appd, APP_ID)
    eventually(lambda: bool(appd.sessions), "it is started")
    (session,) = appd.sessions
    pid = appd.note(session, "there")
    (appd.store / APP_ID / "mended").touch()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: live(appd) == [APP_ID], "it runs")


def test_an_app_whose_end_was_asked_for_is_not_tried_again(make: Make) -> None:
    """Not while it is started, and not when it is already being ended because it is late."""
    appd = make(WEFT_READY_TIMEOUT="3", WEFT_STOP_GRACE="30")
    appd.install("wait()")
    appd.install(
        "signal.signal(signal.SIGTERM, lambda *_: until('go') or os._exit(0)); wait()", app_id=OTHER_ID
    )
    start_with(appd, APP_ID, OTHER_ID)
    eventually(lambda: len(appd.sessions) == 2, "both are there")
    first, second = appd.sessions
    assert appd.control.ask(TerminateApp(first)) == AppState(first, State.STOPPED)
    eventually(lambda: appd.sessions[second].state is State.STOPPING, "the other one is late")
    appd.control.send(TerminateApp(second))
    until_saved(appd, b"[]")
    (appd.store / OTHER_ID / "go").touch()
    assert appd.control.receive() == AppState(second, State.STOPPED)
    assert waiting(appd) == {}


def test_what_waits_is_forgotten(make: Make) -> None:
    appd = make()
    appd.install(RUNNING)
    start_with(appd, APP_ID, OTHER_ID, "org.example.third", OTHER_ID)
    until_waiting(appd, "not found", OTHER_ID)
    until_waiting(appd, "not found", "org.example.third")
    assert appd.control.ask(Forget(OTHER_ID)) == Forgotten((OTHER_ID, OTHER_ID), (), (), None)
    assert json.loads(saved(appd).read_bytes()) == [APP_ID, "org.example.third"]
    assert appd.control.ask(Forget(None)) == Forgotten(("org.example.third",), (), (), None)
    assert saved(appd).read_bytes() == ONE
    assert appd.control.ask(Forget(None)) == Forgotten((), (), (), None)


def test_who_launches_what_waits_has_it_once(make: Make) -> None:
    appd = make()
    start_with(appd, APP_ID)
    until_waiting(appd, "not found")
    appd.install(RUNNING)
    session = appd.launch()
    appd.until_ready(session)
    appd.control.ask(Restore(None))
    assert waiting(appd) == {}
    assert list(appd.sessions) == [session]


def test_a_reload_keeps_what_waits(make: Make) -> None:
    appd = make()
    appd.install("sys.exit(171)")
    start_with(appd, APP_ID, OTHER_ID)
    before = until_waiting(appd, "not found", OTHER_ID)
    until_waiting(appd, "171")
    assert appd.control.ask(Reload()) == Reloaded(__version__)
    after = until_waiting(appd, "not found", OTHER_ID)
    assert after.since == before.since
    until_waiting(appd, "171")
    assert sorted(json.loads(saved(appd).read_bytes())) == sorted([APP_ID, OTHER_ID])


def test_a_crash_while_apps_wait_forgets_none(make: Make) -> None:
    appd = make()
    appd.install("sys.exit(171)")
    start_with(appd, APP_ID, OTHER_ID)
    until_waiting(appd, "171")
    until_waiting(appd, "not found", OTHER_ID)
    appd.kill()
    assert sorted(json.loads(saved(appd).read_bytes())) == sorted([APP_ID, OTHER_ID])
    appd.install(RUNNING)
    appd.install(RUNNING, app_id=OTHER_ID)
    appd.start()
    eventually(lambda: sorted(live(appd)) == sorted([APP_ID, OTHER_ID]), "both run")


def test_a_refused_list_is_restored(appd: Appd) -> None:
    live_short(appd)
    appd.expected_errors = ["did not last"]
    appd.start()
    refused = saved(appd).with_name("last-session.refused.json")
    answer = appd.control.ask(QueryWaiting())
    assert isinstance(answer, Waiting)
    assert [item.path for item in answer.refused] == [str(refused)]
    # One of them runs again already: of each there is one in the end.
    appd.until_ready(appd.launch(OTHER_ID))
    assert appd.control.ask(Restore(None)) == Restoring((APP_ID,), (), None)
    until_apps(appd, OTHER_ID, APP_ID)
    assert not refused.exists()
    assert sorted(json.loads(saved(appd).read_bytes())) == sorted([APP_ID, OTHER_ID])


@pytest.mark.parametrize("forget", [False, True])
def test_a_refused_list_that_is_none(make: Make, forget: bool) -> None:
    appd = make()
    appd.start()
    appd.stop()
    saved(appd).write_bytes(b"[1,")
    appd.expected_errors = ["is no list of apps"]
    appd.start()
    refused = saved(appd).with_name("last-session.refused.json")
    if forget:
        assert appd.control.ask(Forget(None)) == Forgotten((), (str(refused),), (), None)
        assert not refused.exists()
        return
    answer = appd.control.ask(Restore(None))
    assert isinstance(answer, Restoring)
    assert [(item.path, item.reason) for item in answer.refused] == [(str(refused), "it is not JSON")]
    appd.expected_files.add("weft/last-session.refused.json")


# What was stopped stays stopped


def test_an_answer_that_a_session_has_ended_outlives_a_crash(appd: Appd) -> None:
    for _ in range(5):
        session = appd.run_app(RUNNING)
        until_saved(appd, ONE)
        assert appd.control.ask(TerminateApp(session)) == AppState(session, State.STOPPED)
        appd.process.send_signal(signal.SIGKILL)
        assert saved(appd).read_bytes() == b"[]"
        appd.kill()
        appd.start()
        assert apps(appd) == []


def test_a_crash_while_a_session_is_being_stopped(make: Make) -> None:
    appd = make(WEFT_STOP_GRACE="30")
    appd.start()
    session = appd.run_app("ignore_sigterm(); ready(); wait()")
    until_saved(appd, ONE)
    appd.control.send(TerminateApp(session))
    until_saved(appd, b"[]")
    appd.kill()
    appd.start()
    assert apps(appd) == []


def test_an_answer_although_the_list_cannot_be_saved(make: Make) -> None:
    """It comes all the same, and what it is worth can be asked."""
    appd = make()
    appd.start()
    session = appd.run_app(RUNNING)
    until_saved(appd, ONE)
    saved(appd).unlink()
    (saved(appd) / "full").mkdir(parents=True)
    assert appd.control.ask(TerminateApp(session)) == AppState(session, State.STOPPED)
    answer = appd.control.ask(QueryWaiting())
    assert isinstance(answer, Waiting)
    assert answer.problem == os.strerror(21)
    told = appd.find("cannot save the list of running apps")
    assert told.endswith(f"[df '{saved(appd).parent}']")
    appd.expected_files = set()
