# SPDX-License-Identifier: Apache-2.0
"""Which sessions become ready: those with a READY line on their standard output, in time, however it is cut."""

from collections.abc import Mapping

from tests.appd.conftest import Make
from tests.appd.harness import Appd
from weft_runtime.protocol import AppReady, AppState, LaunchAck, LaunchApp, State, Subscribe, Subscribed

ANNOUNCED = {
    "plain": "ready()",
    "bytewise": "for byte in b'READY\\n': say(bytes([byte])); signal.sigtimedwait([], 0.02)",
    "latecomer": "say(b'starting\\n\\n  \\n'); signal.sigtimedwait([], 0.2); ready()",
    "amid": "say(b'one\\nREADY\\ntwo\\n')",
    "cut": "say(b'one\\nREA'); signal.sigtimedwait([], 0.1); say(b'DY\\ntwo')",
    "cr": "say(b'READY\\r\\n')",
    "blanks": "say(b' \\t READY \\x0b\\f \\n')",
    "unicode": "say('\\u3000\\xa0READY\\u2028\\n'.encode())",
    "longline": "say(b'x' * 100_000 + b'\\n'); ready()",
    "notutf": "say(b'\\xff\\xfe\\n'); ready()",
    "unended": "say(b'READY'); os.close(1)",
    "stderrflood": "say(b'x' * 300_000, 2); ready()",
    "stdoutflood": "say(b'not yet\\n' * 40_000); ready()",
    "stderrclosed": "os.close(2); ready()",
}

NOT_ANNOUNCED = {
    "silent": "",
    "onstderr": "say(b'READY\\n', 2)",
    "prefix": "say(b'XREADY\\n')",
    "suffix": "say(b'READY.\\n')",
    "lower": "say(b'ready\\n')",
    "twolines": "say(b'REA\\nDY\\n')",
    "unfinished": "say(b'READY')",
    "sameline": "say(b'x' * 100_000 + b'READY\\n')",
    "onlongline": "say(b' ' * 70_000 + b'READY\\n')",
    "floods": "signal.alarm(60)\nwhile True: say(b'x' * 60_000)",
}


def launch_all(appd: Appd, behaviours: Mapping[str, str]) -> dict[str, int]:
    """Launch an app of each behaviour; their sessions."""
    for name, behaviour in behaviours.items():
        appd.install(f"{behaviour}\nwait()", app_id=f"org.example.{name}")
    return {name: appd.launch(f"org.example.{name}") for name in behaviours}


def test_a_ready_line_is_found_however_it_is_cut(start: Make) -> None:
    appd = start(WEFT_LOG_LINES="1")
    sessions = launch_all(appd, ANNOUNCED)
    appd.until_ready(*sessions.values())
    assert {session.state for session in appd.sessions.values()} == {State.RUNNING}


def test_what_is_no_ready_line_ends_in_the_timeout(start: Make) -> None:
    # The grace is for a busy machine: none of them needs it.
    appd = start(WEFT_LOG_LINES="1", WEFT_READY_TIMEOUT="3", WEFT_STOP_GRACE="30")
    sessions = launch_all(appd, NOT_ANNOUNCED)
    for session in sessions.values():
        ended = appd.until_stopped(session)
        assert (ended.ready, ended.signal) == (None, "SIGTERM"), ended
        assert ended.reason == "it did not say READY within 3 s: stopped by SIGTERM"
        assert ended.stopped is not None
        assert ended.stopped - ended.launched >= 3
    # Nobody asked for this end: the operator is to see it.
    assert appd.find("ended by", sessions["silent"]).startswith("warning: ended by SIGTERM after ")
    assert "warning: ending it: it did not say READY within 3 s" in appd.messages(sessions["silent"])


def test_who_ignores_the_timeout_is_killed(start: Make) -> None:
    appd = start(WEFT_READY_TIMEOUT="3", WEFT_STOP_GRACE="0.2")  # a busy machine has 3 s until it is ignored
    appd.install("ignore_sigterm(); wait()")
    ended = appd.until_stopped(appd.launch())
    assert (ended.signal, ended.reason) == ("SIGKILL", "it did not say READY within 3 s: killed by SIGKILL")
    appd.find("warning: still there 0.2 s after SIGTERM: killing it", 1)


def test_an_app_that_closes_its_output_before_ready_is_ended_early(appd: Appd) -> None:
    appd.install("os.close(1); wait()")
    ended = appd.until_stopped(appd.launch())
    assert ended.reason == "it closed its standard output before READY: stopped by SIGTERM"
    assert ended.stopped is not None
    assert ended.stopped - ended.launched < 25  # not the 30 s that READY may take


def test_an_app_may_close_its_output_after_ready(appd: Appd) -> None:
    session = appd.run_app("ready(); os.close(1); os.close(2); note('closed', True); until('enough')")
    appd.note(session, "closed")
    assert appd.sessions[session].state is State.RUNNING
    (appd.store / "org.example.app/enough").touch()
    assert appd.until_stopped(session).reason == "exited with status 0"


def test_ready_counts_once_whoever_says_it_again(appd: Appd) -> None:
    appd.install("ready(); ready(); say(b'and READY\\n'); ready()")
    client = appd.connect()
    assert client.ask(Subscribe(None)) == Subscribed(None)
    client.send(LaunchApp("org.example.app", 0))
    heard = [client.receive() for _ in range(4)]
    assert heard == [
        LaunchAck(1, "org.example.app"), LaunchAck(1, "org.example.app"), AppReady(1, "org.example.app"),
        AppState(1, State.STOPPED),
    ]  # fmt: skip
    assert [type(message) for message in heard] == [LaunchAck, LaunchAck, AppReady, AppState]


def test_an_app_that_ends_right_after_ready_was_ready(appd: Appd) -> None:
    appd.install("ready(); os._exit(3)")
    ended = appd.until_stopped(appd.launch())
    assert (ended.exit_status, ended.reason) == (3, "exited with status 3")
    assert ended.ready is not None
    assert ended.stopped is not None
    assert ended.launched <= ended.ready <= ended.stopped


def test_ready_is_too_late_once_the_end_was_asked_for(start: Make) -> None:
    appd = start(WEFT_READY_TIMEOUT="3", WEFT_STOP_GRACE="30")
    appd.install("ignore_sigterm(); until('go'); ready(); until('end')")
    session = appd.launch()
    appd.find("ending it: it did not say READY", session)
    (appd.store / "org.example.app/go").touch()
    # The answer to this comes behind all the reading of what the app wrote before it ended.
    (appd.store / "org.example.app/end").touch()
    ended = appd.until_stopped(session)
    assert (ended.ready, ended.exit_status) == (None, 0)
