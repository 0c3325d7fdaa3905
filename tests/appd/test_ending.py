# SPDX-License-Identifier: Apache-2.0
"""How sessions end: by themselves, by request, with all that they have started, and with a reason."""

import re
import signal
import time

import pytest

from tests.appd.conftest import Make
from tests.appd.harness import CALLER, Appd, eventually, is_gone, state_of
from tests.packages import APP_ID
from weft_runtime.protocol import (
    AppState,
    Error,
    ErrorCode,
    QueryAppState,
    SessionInfo,
    State,
    TerminateApp,
)

REPORTS = {
    "no JSON": b"nonsense\n",
    "a list": b"[1]\n",
    "a number": b"1\n",
    "no reason": b'{"event": "exited"}\n',
    "a reason of the wrong type": b'{"reason": 1}\n',
    "not UTF-8": b'{"reason": "\xff"}\n',
    "only a line break": b"\n",
    "deep": b"[" * 60_000 + b"\n",
    "as long as a pipe": b"x" * 65_536,
}


def terminate(appd: Appd, session: int) -> SessionInfo:
    """Have a session ended, and what is known of it then; its process is gone by then."""
    pid = appd.sessions[session].pid
    assert pid is not None
    assert appd.control.ask(TerminateApp(session)) == AppState(session, State.STOPPED)
    assert is_gone(pid)
    return appd.sessions[session]


@pytest.mark.parametrize("status", [0, 1, 134, 255])
def test_an_exit_status_is_known_and_logged(appd: Appd, status: int) -> None:
    appd.install(f"ready(); os._exit({status})")
    ended = appd.until_stopped(appd.launch())
    assert (ended.exit_status, ended.signal, ended.pid) == (status, None, None)
    assert ended.reason == f"exited with status {status}"
    level = "warning" if status else "info"
    pattern = rf"{level}: ended with status {status} after \d+\.\d{{3}} s \(CPU \d+\.\d{{3}} s\): exited with status {status}"
    assert re.fullmatch(pattern, appd.find("ended with", 1))


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM])
def test_a_death_by_a_signal_is_known_and_logged(appd: Appd, number: signal.Signals) -> None:
    appd.install(f"ready(); os.kill(os.getpid(), {int(number)}); wait()")
    ended = appd.until_stopped(appd.launch())
    how = "stopped" if number is signal.SIGTERM else "killed"
    assert (ended.exit_status, ended.signal, ended.reason) == (None, number.name, f"{how} by {number.name}")
    assert appd.find("ended by", 1).startswith(f"warning: ended by {number.name} after ")


def test_the_reason_is_the_one_that_the_runtime_reports(appd: Appd) -> None:
    appd.install(
        "ready(); report(b'{\"reason\": \"too early\"}\\n'); ends_because('out of \\x1b[31mluck\\n'); os._exit(7)"
    )
    ended = appd.until_stopped(appd.launch())
    assert (ended.exit_status, ended.reason) == (7, r"out of \x1b[31mluck\x0a")
    assert appd.find("ended with status 7", 1).endswith(r": out of \x1b[31mluck\x0a")


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_that_cannot_be_understood_is_no_reason(appd: Appd, name: str) -> None:
    appd.install(f"ready(); report({REPORTS[name]!r}); os._exit(7)")
    assert appd.until_stopped(appd.launch()).reason == "exited with status 7"


def test_a_report_that_does_not_fit_holds_up_nobody_but_its_session(appd: Appd) -> None:
    session = appd.run_app("ready()\nwhile True: report(b'x' * 65_536)")
    assert terminate(appd, session).signal == "SIGTERM"


def test_a_session_is_asked_to_end(appd: Appd) -> None:
    session = appd.run_app("signal.signal(signal.SIGTERM, lambda *_: os._exit(0)); ready(); wait()")
    ended = terminate(appd, session)
    assert ended.exit_status == 0
    assert ended.reason == f"terminated by {CALLER}: exited with status 0"
    assert appd.find("ended with status 0", session).startswith("info: ")
    assert f"info: ending it: terminated by {CALLER}" in appd.messages(session)


def test_an_end_that_was_asked_for_is_no_warning_whatever_the_status(appd: Appd) -> None:
    session = appd.run_app("ready(); wait()")
    assert terminate(appd, session).signal == "SIGTERM"
    assert appd.find("ended by SIGTERM", session).startswith("info: ")


def test_it_has_the_grace_time_and_not_more(start: Make) -> None:
    appd = start(WEFT_STOP_GRACE="2")
    session = appd.run_app("ignore_sigterm(); ready(); wait()")
    begun = time.monotonic()
    ended = terminate(appd, session)
    assert 1.9 < time.monotonic() - begun < 10
    assert ended.signal == "SIGKILL"
    assert ended.reason is not None
    assert ended.reason.endswith(": killed by SIGKILL")


def test_it_can_be_ended_before_it_is_ready(appd: Appd) -> None:
    appd.install("note('there', True); wait()")
    session = appd.launch()
    appd.note(session, "there")
    ended = terminate(appd, session)
    assert (ended.ready, ended.signal) == (None, "SIGTERM")


@pytest.mark.parametrize("own_session", [False, True])
@pytest.mark.parametrize("keeps_output", [False, True])
@pytest.mark.parametrize("by", ["request", "itself", "kill"])
def test_what_a_session_has_started_ends_with_it(
    appd: Appd, by: str, keeps_output: bool, own_session: bool
) -> None:
    appd.install(
        f"grandchild(own_session={own_session}, keeps_output={keeps_output}); "
        f"{'ignore_sigterm(); ' if by == 'kill' else ''}ready(); {'until(chr(120))' if by == 'itself' else 'wait()'}"
    )
    session = appd.launch()
    appd.until_ready(session)
    grandchild = appd.note(session, "grandchild")
    if by == "itself":
        (appd.store / APP_ID / "x").touch()
        assert appd.until_stopped(session).reason == "exited with status 0"
    else:
        terminate(appd, session)
    eventually(lambda: is_gone(grandchild), "the grandchild is gone, and no zombie")


def test_orphans_of_a_session_that_lives_are_not_touched(appd: Appd) -> None:
    """A process whose parent has ended comes to the daemon, but it belongs to its session."""
    session = appd.run_app("if os.fork() == 0: grandchild(); os._exit(0)\nos.wait(); ready(); wait()")
    orphan = appd.note(session, "grandchild")
    assert orphan in appd.children
    # The death of any child makes it look for strays, and this one leaves one that is to be collected.
    other = "org.example.other"
    appd.install("grandchild(); ready(); wait()", app_id=other)
    leaving = appd.launch(other)
    appd.until_ready(leaving)
    stray = appd.note(leaving, "grandchild", other)
    terminate(appd, leaving)
    eventually(lambda: is_gone(stray), "it has looked for strays")
    assert orphan in appd.children
    terminate(appd, session)
    eventually(lambda: is_gone(orphan), "the orphan is gone")


def test_ending_it_twice_is_ending_it_once(start: Make) -> None:
    appd = start(WEFT_STOP_GRACE="0.5")
    session = appd.run_app("ignore_sigterm(); ready(); wait()")
    first, second = appd.connect(), appd.connect()
    first.send(TerminateApp(session))
    second.send(TerminateApp(session), TerminateApp(session), QueryAppState(session))
    stopped = AppState(session, State.STOPPED)
    assert [first.receive(), *(second.receive() for _ in range(3))] == [stopped] * 4
    assert first.ask(TerminateApp(session)) == stopped
    appd.until_logged("ended by", session)
    assert len([line for line in appd.messages(session) if "ending it" in line]) == 1


def test_ending_what_nobody_knows_is_an_error(appd: Appd) -> None:
    answer = appd.control.ask(TerminateApp(7))
    assert answer == Error(ErrorCode.UNKNOWN_SESSION, "session 7 not found")


def test_a_stopped_process_is_killed_too(start: Make) -> None:
    appd = start(WEFT_STOP_GRACE="0.3")
    session = appd.run_app("ready(); os.kill(os.getpid(), signal.SIGSTOP); wait()")
    pid = appd.sessions[session].pid
    assert pid is not None
    eventually(lambda: state_of(pid) == "T", "it is stopped")
    assert terminate(appd, session).signal == "SIGKILL"
