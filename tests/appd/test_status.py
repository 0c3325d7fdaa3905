# SPDX-License-Identifier: Apache-2.0
"""What the daemon says of itself."""

import json
import time

from tests.appd.conftest import Make
from tests.appd.harness import FAKE_RUNTIME, WAIT_SECONDS, Appd
from weft_runtime import __version__
from weft_runtime.appd.settings import variables
from weft_runtime.protocol import (
    DaemonSettings,
    DaemonStatus,
    LimitInfo,
    QuerySettings,
    QueryStatus,
    Reload,
    Reloaded,
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
