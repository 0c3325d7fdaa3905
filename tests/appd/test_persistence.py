# SPDX-License-Identifier: Apache-2.0
"""`last-session.json`: what it holds, when it is written, and what the next daemon makes of it."""

import json
from pathlib import Path

import pytest

from tests.appd.conftest import Make
from tests.appd.harness import Appd, eventually
from tests.packages import APP_ID
from weft_runtime import __version__
from weft_runtime.appd.persistence import HELP
from weft_runtime.protocol import AppState, Reload, Reloaded, State, TerminateApp

OTHER_ID = "org.example.other"
RUNNING = "ready(); wait()"
MANY = 30
BOTH = f'["{APP_ID}","{OTHER_ID}"]'.encode()


def saved(appd: Appd) -> Path:
    return appd.runtime / "weft/last-session.json"


def until_saved(appd: Appd, content: bytes) -> None:
    path = saved(appd)

    def found() -> bytes | None:
        if not path.is_file():  # whatever else stands there may hold up who opens it
            return None
        with path.open("rb") as file:
            return file.read(1 << 16)

    eventually(lambda: found() == content, lambda: f"{content!r}: {found()!r}")


def launch_both(appd: Appd) -> None:
    appd.install(RUNNING)
    appd.install(RUNNING, app_id=OTHER_ID)
    appd.until_ready(appd.launch(), appd.launch(OTHER_ID))


def apps(appd: Appd) -> list[str]:
    return [session.app_id for session in appd.sessions.values()]


def until_apps(appd: Appd, *app_ids: str) -> None:
    """They are started one by one, beside whatever else the daemon does."""
    eventually(lambda: apps(appd) == [*app_ids], lambda: str(apps(appd)))


def test_the_list_of_live_sessions_is_kept_current(appd: Appd) -> None:
    assert not saved(appd).exists()
    launch_both(appd)
    until_saved(appd, BOTH)
    third = appd.launch()
    until_saved(appd, f'["{APP_ID}","{OTHER_ID}","{APP_ID}"]'.encode())
    assert appd.control.ask(TerminateApp(third)) == AppState(third, State.STOPPED)
    until_saved(appd, BOTH)
    names = sorted(path.name for path in saved(appd).parent.iterdir() if path.is_file())
    assert names == ["last-session.json", "next-session"]
    for session in (1, 2):
        appd.control.ask(TerminateApp(session))
    until_saved(appd, b"[]")


def test_after_a_crash_the_sessions_are_started_again(appd: Appd) -> None:
    launch_both(appd)
    until_saved(appd, BOTH)
    appd.kill()
    appd.expected_files.add("weft/restore-attempts")
    appd.start()
    assert appd.find("that ran before") == "notice: starting the 2 apps that ran before"
    until_apps(appd, APP_ID, OTHER_ID)
    appd.until_ready(*appd.sessions)
    for session in appd.sessions:
        appd.until_logged("info: launched by the last session, pid ", session)
    until_saved(appd, BOTH)
    appd.expected_files.discard("weft/restore-attempts")  # a stop in good order forgets the attempt


def test_after_a_stop_the_sessions_are_started_again_however_often(appd: Appd) -> None:
    launch_both(appd)
    for _ in range(5):
        appd.stop()
        assert saved(appd).read_bytes() == BOTH
        appd.start()
        until_apps(appd, APP_ID, OTHER_ID)
    for session in appd.sessions:
        appd.control.ask(TerminateApp(session))
    appd.stop()
    assert saved(appd).read_bytes() == b"[]"
    appd.start()
    assert apps(appd) == []


def test_a_session_of_the_last_moment_is_on_the_list_too(start: Make) -> None:
    """Whatever was planned or under way when the daemon was asked to end: the list is that of this moment."""
    appd = start(WEFT_STOP_GRACE="1")
    appd.install(RUNNING)
    appd.install("ignore_sigterm(); ready(); wait()", app_id=OTHER_ID)
    appd.launch(OTHER_ID)
    appd.launch()
    appd.stop()
    assert saved(appd).read_bytes() == f'["{OTHER_ID}","{APP_ID}"]'.encode()


def until_restoring(appd: Appd, count: int) -> list[str]:
    """A daemon that has so many apps to start again, and has just begun."""
    appd.install(RUNNING)
    expected = [APP_ID] * count
    appd.stop()
    saved(appd).write_text(json.dumps(expected))
    appd.start()
    eventually(lambda: appd.has("launched by the last session", 1), "the first is launched")
    return expected


def test_a_stop_while_apps_are_started_again_forgets_none(appd: Appd) -> None:
    expected = until_restoring(appd, MANY)
    appd.stop()
    assert json.loads(saved(appd).read_bytes()) == expected


def test_a_reload_while_apps_are_started_again_forgets_none(appd: Appd) -> None:
    expected = until_restoring(appd, MANY)
    assert appd.control.ask(Reload()) == Reloaded(__version__)
    until_apps(appd, *expected)
    appd.until_ready(*appd.sessions)


def live_short(appd: Appd) -> None:
    """As often as it takes: the next start is to refuse the list."""
    launch_both(appd)
    until_saved(appd, BOTH)
    for _ in range(3):
        appd.kill()
        appd.start()
        until_apps(appd, APP_ID, OTHER_ID)
        until_saved(appd, BOTH)
    appd.kill()


def test_three_short_lives_are_enough(appd: Appd) -> None:
    live_short(appd)
    refused = saved(appd).with_name("last-session.refused.json")
    message = f"the last 3 starts of these apps did not last 60 s; their list is in {refused} [{HELP}]"
    appd.expected_errors = [message]
    appd.expected_files = {"weft/last-session.json", "weft/last-session.refused.json"}
    appd.start()
    assert appd.find("did not last") == f"err: {message}"
    assert apps(appd) == []
    assert refused.read_bytes() == BOTH
    # With that it is over and done with.
    appd.kill()
    appd.start()
    assert apps(appd) == []
    assert refused.read_bytes() == BOTH
    launch_both(appd)
    until_saved(appd, BOTH)
    appd.kill()
    appd.start()
    until_apps(appd, APP_ID, OTHER_ID)


def test_a_daemon_that_is_not_to_restore_lets_the_list_alone(start: Make) -> None:
    appd = start(WEFT_RESTORE="false")
    launch_both(appd)
    until_saved(appd, BOTH)
    for _ in range(5):  # more than the attempts that a restore has
        appd.kill()
        appd.start()
        assert apps(appd) == []
        assert saved(appd).read_bytes() == BOTH
    appd.kill()
    appd.environ["WEFT_RESTORE"] = "yes"
    appd.start()
    until_apps(appd, APP_ID, OTHER_ID)


def test_an_app_that_cannot_be_started_keeps_no_other_from_it(appd: Appd) -> None:
    launch_both(appd)
    until_saved(appd, BOTH)
    appd.kill()
    (appd.store / APP_ID / "wapp.toml").unlink()
    appd.start()
    until_apps(appd, OTHER_ID)
    eventually(lambda: ": cannot be started again: package" in appd.log_text, "that is told")
    until_saved(appd, f'["{OTHER_ID}","{APP_ID}"]'.encode())


@pytest.mark.parametrize(
    "content",
    [b"", b"nonsense", b"{}", b"7", b'"org.example.app"', b"\xff",
     b"[" * 100_000, b'["org.example.app"' + b',"org.example.app"' * 100_000 + b"]"],
    ids=range(8),
)  # fmt: skip
def test_a_list_that_cannot_be_read_is_kept_aside(make: Make, content: bytes) -> None:
    appd = make()
    appd.install(RUNNING)
    appd.start()
    appd.stop()
    saved(appd).write_bytes(content)
    appd.expected_errors.append("is no list of apps to start again")
    appd.start()
    assert apps(appd) == []
    refused = saved(appd).with_name("last-session.refused.json")
    told = appd.find("is no list of apps to start again")
    assert told.startswith(f"err: '{saved(appd)}' is no list")
    assert told.endswith(f"; it is kept as {refused} [{HELP}]")
    assert refused.read_bytes() == content
    # The next one of its kind takes the place of none.
    appd.until_ready(appd.launch())
    appd.stop()
    saved(appd).write_bytes(content)
    appd.start()
    second = refused.with_name("last-session.refused-2.json")
    eventually(second.exists, "it is kept too")
    assert second.read_bytes() == content
    assert refused.read_bytes() == content
    appd.expected_files = {f"weft/last-session.refused{number}.json" for number in ("", "-2")}
    appd.expected_files.add("weft/last-session.json")


@pytest.mark.parametrize("values", [[1, None, {}], ["../evil", "org.example", ""]])
def test_a_list_without_an_app_id_is_an_empty_one(appd: Appd, values: list[object]) -> None:
    appd.install(RUNNING)
    appd.stop()
    saved(appd).write_text(json.dumps(values))
    appd.start()
    assert apps(appd) == []
    appd.find(f"ignoring 3 of the 3 entries of '{saved(appd)}': they are no app ids")


def test_an_entry_that_is_no_app_id_keeps_no_app_from_being_started(appd: Appd) -> None:
    appd.install(RUNNING)
    appd.stop()
    saved(appd).write_text(json.dumps(["../evil", APP_ID, 7, f"org.example.{'a' * 500}"]))
    appd.start()
    until_apps(appd, APP_ID)
    appd.find(f"ignoring 3 of the 4 entries of '{saved(appd)}': they are no app ids")


def test_a_list_that_is_no_file_is_kept_aside(make: Make) -> None:
    appd = make()
    appd.install(RUNNING)
    appd.start()
    appd.stop()
    saved(appd).unlink()
    saved(appd).mkdir()
    appd.expected_errors.append("is no list of apps to start again: it is not a regular file")
    appd.start()
    appd.until_ready(appd.launch())
    until_saved(appd, f'["{APP_ID}"]'.encode())
    assert saved(appd).with_name("last-session.refused.json").is_dir()


def test_the_directories_of_systemd_win(make: Make) -> None:
    appd = make(WEFT_APPD_WS_PORT="0")
    state, runtime = appd.directory / "state", appd.directory / "runtime"
    appd.environ |= {"STATE_DIRECTORY": f"{state}:/nonexistent", "RUNTIME_DIRECTORY": str(runtime)}
    appd.start()
    appd.install(RUNNING)
    appd.launch()
    eventually((state / "last-session.json").exists, "it is saved there")
    assert (runtime / "appd.wsport").exists()
    assert (state / "next-session").read_bytes() == (runtime / "next-session").read_bytes()
    assert sorted(path.name for path in (appd.runtime / "weft").iterdir()) == ["appd.sock"]
    assert [path.stat().st_mode & 0o777 for path in (state, runtime)] == [0o700, 0o700]
    appd.expected_files = set()


def test_restored_sessions_are_told_of_as_any_other(appd: Appd) -> None:
    launch_both(appd)
    until_saved(appd, BOTH)
    appd.kill()
    appd.start()
    until_apps(appd, APP_ID, OTHER_ID)
    first, second = appd.sessions
    assert second == first + 1
    assert appd.launch() == second + 1
    assert json.loads(saved(appd).read_bytes())
