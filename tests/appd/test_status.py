# SPDX-License-Identifier: Apache-2.0
"""What the daemon says of itself."""

import json
import time
from pathlib import Path

from tests.appd.conftest import Make
from tests.appd.harness import FAKE_RUNTIME, WAIT_SECONDS, Appd
from tests.packages import APP_ID
from weft_runtime import __version__
from weft_runtime.appd.settings import variables
from weft_runtime.protocol import (
    DaemonSettings,
    DaemonStatus,
    Details,
    LimitInfo,
    QueryDetails,
    QuerySettings,
    QueryStatus,
    Reload,
    Reloaded,
    SessionDetails,
)


def status(appd: Appd) -> DaemonStatus:
    answer = appd.control.ask(QueryStatus())
    assert isinstance(answer, DaemonStatus)
    return answer


def test_who_it_is_and_what_it_has(start: Make) -> None:
    before = time.time()
    appd = start(
        WEFT_MAX_SESSIONS="77", WEFT_READY_TIMEOUT="2.5e1", WEFT_MEMORY_MAX="1M", WEFT_TASKS_MAX="infinity"
    )
    found = status(appd)
    assert before < found.since < time.time()
    assert (found.version, found.pid, found.log) == (__version__, appd.process.pid, "stderr")
    assert (found.runtime, found.runtime_problem) == (str(FAKE_RUNTIME), None)
    assert (found.live, found.starting, found.clients) == (0, 0, 1)
    limits = dict(found.limits)
    assert (limits["max_sessions"], limits["ready_timeout"], limits["stop_grace"]) == ("77", "25", "1")
    assert (limits["memory_max"], limits["cpu_quota"], limits["tasks_max"]) == (
        "1048576",
        "200%",
        "infinity",
    )
    assert LimitInfo("max_connections", "256") in found.limits
    appd.run_app("ready(); wait()")
    appd.install("wait()")
    appd.launch()
    found = status(appd)
    assert (found.live, found.starting) == (2, 1)


def test_a_reload_changes_the_limits_and_not_since_when_it_runs(appd: Appd) -> None:
    before = status(appd)
    appd.config.write_text("log_lines = 7\n")
    assert appd.control.ask(Reload()) == Reloaded(__version__)
    after = status(appd)
    assert (after.since, after.pid) == (before.since, before.pid)
    assert dict(after.limits)["log_lines"] == "7"


def test_why_there_is_no_runtime(start: Make) -> None:
    appd = start(WEFT_RUNTIME_BIN="/nonexistent")
    appd.expected_errors = ["the runtime '/nonexistent' is no executable program"]
    found = status(appd)
    assert found.runtime is None
    assert str(found.runtime_problem).startswith("the runtime '/nonexistent' is no executable program")


def test_a_page_gets_the_same_in_json(start: Make) -> None:
    appd = start(WEFT_APPD_WS_PORT="0")
    page = appd.websocket()
    page.send('{"type":"QUERY_STATUS"}')
    answer = json.loads(page.recv(WAIT_SECONDS))
    found = status(appd)
    assert answer == {
        "type": "DAEMON_STATUS",
        **found._asdict(),
        "clients": 1,
        "limits": [limit._asdict() for limit in found.limits],
        "controllers": list(found.controllers),
    }


# What QUERY_SESSIONS leaves out.


def details(appd: Appd) -> dict[int, SessionDetails]:
    answer = appd.control.ask(QueryDetails())
    assert isinstance(answer, Details)
    return {session.session_id: session for session in answer.sessions}


def test_the_details_of_a_session_are_those_of_its_launch(appd: Appd) -> None:
    package = appd.install("ready(); wait()")
    appd.until_ready(appd.launch())
    # An upgrade does not change what runs already.
    manifest = package / "wapp.toml"
    manifest.write_text(manifest.read_text().replace("1.2.3", "2.0.0"))
    appd.until_ready(appd.launch())
    first, second = details(appd)[1], details(appd)[2]
    assert (first.version, second.version) == ("1.2.3", "2.0.0")
    assert str(first.launched_by).startswith("uid ") or "(uid " in str(first.launched_by)
    assert (first.package, first.data) == (str(package), None)
    assert first.memory is not None
    assert first.memory > 1_000_000
    assert first.cpu is not None


def test_the_data_directory_is_among_the_details(start: Make, tmp_path: Path) -> None:
    appd = start(WEFT_DATA_ROOT=str(tmp_path / "data"))
    appd.install("ready(); wait()", capabilities=["fs:rw:app-data"])
    appd.until_ready(appd.launch())
    data = details(appd)[1].data
    assert data == str(tmp_path / "data" / APP_ID)


def test_the_details_of_a_session_outlive_it_and_a_reload(appd: Appd) -> None:
    appd.install("ready(); exit(0)")
    appd.until_stopped(appd.launch())
    appd.run_app("ready(); wait()")
    before = details(appd)
    assert before[1].memory is None
    assert before[1].cpu is not None
    assert isinstance(appd.control.ask(Reload()), Reloaded)
    after = details(appd)
    assert after[1] == before[1]
    assert after[2][:5] == before[2][:5]


def test_sessions_and_details_are_of_the_same(appd: Appd) -> None:
    appd.install("ready(); exit(0)")
    for _ in range(20):
        appd.until_stopped(appd.launch())
    appd.run_app("ready(); wait()")
    assert list(details(appd)) == list(appd.sessions)


def test_the_settings_that_it_goes_by_are_those_of_the_last_reload(appd: Appd) -> None:
    appd.config.write_text(
        'log_lines = 7\nws_origins = "http://a http://b"\nrestore = false\ncpu_quota = "infinity"\n'
    )
    assert settings(appd)["log_lines"] == "1000"
    assert appd.control.ask(Reload()) == Reloaded(__version__)
    found = settings(appd)
    assert list(found) == list(variables())
    assert (found["log_lines"], found["ws_origins"], found["restore"]) == ("7", "http://a http://b", "false")
    assert (found["cpu_quota"], found["app_shell_bin"], found["log_level"]) == ("infinity", "", "info")


def settings(appd: Appd) -> dict[str, str]:
    answer = appd.control.ask(QuerySettings())
    assert isinstance(answer, DaemonSettings)
    return dict(answer.settings)
