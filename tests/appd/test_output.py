# SPDX-License-Identifier: Apache-2.0
"""What apps write, as lines of the log: whole, safe, and not too many."""

import re
import time

from tests.appd.conftest import Make
from tests.appd.harness import WAIT_SECONDS, Appd, cpu_seconds, eventually, memory
from tests.packages import APP_ID
from weft_runtime import __version__
from weft_runtime.protocol import LaunchAck, LaunchApp, Reload, Reloaded, State, TerminateApp

LINE_MAX = 16 * 1024
MIB = 1024 * 1024
FLOOD_SECONDS = 1.5
"""How long the daemon's work for floods is measured."""


def output(appd: Appd, behaviour: str) -> list[str]:
    """All lines about a session between its launch and its end."""
    appd.install(behaviour)
    session = appd.launch()
    appd.until_stopped(session)
    appd.find("ended ", session)  # what is logged is written beside the loop
    lines = appd.messages(session)
    assert "launched by" in lines[0]
    assert "ended " in lines[-1]
    return [line for line in lines[1:-1] if "ready after" not in line]


def test_each_line_is_an_entry_and_each_stream_has_its_level(appd: Appd) -> None:
    lines = output(appd, "say(b'one\\ntwo\\n'); say(b'three\\nfour', 2); ready(); say(b'five\\n\\nsix')")
    assert [line for line in lines if line.startswith("info: ")] == [
        "info: one", "info: two", "info: five", "info: ", "info: six",
    ]  # fmt: skip
    assert [line for line in lines if line.startswith("warning: ")] == ["warning: three", "warning: four"]
    assert len(lines) == 7  # and READY is none


def test_lines_are_put_together_however_they_are_cut(appd: Appd) -> None:
    lines = output(
        appd, "for byte in b'one\\r\\ntw\\xc3\\xb6\\n': say(bytes([byte])); signal.sigtimedwait([], 0.01)"
    )
    assert lines == ["info: one", "info: twö"]


def test_nothing_that_an_app_writes_moves_a_terminal_or_makes_a_line_of_its_own(appd: Appd) -> None:
    said = [
        (b"\x1b[31mred\x1b[0m\x07\x00", r"info: \x1b[31mred\x1b[0m\x07\x00"),
        (b"a\tb", "info: a       b"),
        (b"a\rb", r"info: a\x0db"),
        (b"\xff\xfe latin", r"info: \xff\xfe latin"),
        (
            "\u202eevil\u2028weft-appd[1]: info: forged\x85".encode(),
            r"info: \u{202e}evil\u{2028}weft-appd[1]: info: forged\x85",
        ),
        ("日本語 🦀".encode(), "info: 日本語 🦀"),
        (b"\x9b1m", r"info: \x9b1m"),
    ]
    data = b"".join(line + b"\n" for line, _ in said)
    assert output(appd, f"say({data!r})") == [shown for _, shown in said]


def test_long_lines_are_cut_into_pieces(appd: Appd) -> None:
    lines = output(
        appd, f"say(b'a' * {2 * LINE_MAX + 10} + b'\\n' + b'b' * {LINE_MAX} + b'\\n' + b'c' * 200_000)"
    )
    expected = ["a" * LINE_MAX, "a" * LINE_MAX, "a" * 10, "b" * LINE_MAX]
    expected += ["c" * LINE_MAX] * (200_000 // LINE_MAX) + ["c" * (200_000 % LINE_MAX)]
    assert lines == [f"info: {line}" for line in expected]


def test_a_long_line_of_what_must_be_escaped_is_whole(appd: Appd) -> None:
    (line,) = output(appd, f"say(b'\\x01' * {LINE_MAX})")
    assert line == "info: " + r"\x01" * LINE_MAX


def test_all_that_was_written_before_the_end_is_logged_before_the_end(appd: Appd) -> None:
    lines = output(
        appd,
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\nfor n in range(900): say(b'%d\\n' % n)\nos.kill(os.getpid(), 9)",
    )
    assert lines == [f"info: {number}" for number in range(900)]


def test_what_is_written_after_the_end_is_not(appd: Appd) -> None:
    behaviour = """
ready()
if os.fork() == 0:
    os.setsid()
    ignore_sigterm()
    while True: say(b'still here\\n'); signal.sigtimedwait([], 0.001)
until('go')
"""
    session = appd.run_app(behaviour)
    eventually(lambda: "info: still here" in appd.messages(session), "it writes")
    (appd.store / APP_ID / "go").touch()
    appd.until_stopped(session)
    appd.find("ended with status 0", session)
    assert "ended with status 0" in appd.messages(session)[-1]
    eventually(lambda: not appd.children, "what it left has ended")
    assert "ended with status 0" in appd.messages(session)[-1]


def test_too_many_lines_are_dropped_and_counted(start: Make) -> None:
    appd = start(WEFT_LOG_LINES="10", WEFT_LOG_INTERVAL="60")
    lines = output(appd, "say(b'out\\n' * 30); say(b'err\\n' * 70, 2)")
    written = [line for line in lines if line in ("info: out", "warning: err")]
    assert len(written) == 10
    assert lines[10:] == ["warning: 90 lines of its output were dropped: more than 10 lines in 60 s"]


def test_what_was_dropped_is_told_though_the_app_falls_silent_and_then_it_may_speak_again(
    start: Make,
) -> None:
    appd = start(WEFT_LOG_LINES="10", WEFT_LOG_INTERVAL="1.5")
    session = appd.run_app("ready(); say(b'x\\n' * 50); until('go'); say(b'later\\n' * 5); wait()")
    dropped = appd.find("were dropped", session)
    assert re.fullmatch(
        r"warning: (3[89]|40|41) lines of its output were dropped: more than 10 lines in 1.5 s", dropped
    )
    (appd.store / APP_ID / "go").touch()
    eventually(lambda: appd.messages(session).count("info: later") == 5, "it is heard again")


def test_the_limit_is_each_sessions_own(start: Make) -> None:
    appd = start(WEFT_LOG_LINES="10", WEFT_LOG_INTERVAL="60")
    output(appd, "say(b'x\\n' * 50)")
    assert len(output(appd, "say(b'y\\n' * 10)")) == 10


def test_a_flood_costs_others_nothing(start: Make) -> None:
    appd = start(WEFT_LOG_LINES="10", WEFT_LOG_INTERVAL="60")
    flooding = [
        "ready()\nwhile True: say(b'x' * 60_000)",
        "ready()\nwhile True: say(b'\\n' * 60_000)",
        "ready()\nwhile True: say(b'y\\n' * 30_000, 2)",
    ]
    for number, behaviour in enumerate(flooding):
        appd.install(behaviour, app_id=f"org.example.flood{number}")
        appd.launch(f"org.example.flood{number}")
    appd.until_ready(1, 2, 3)
    before = memory(appd.process.pid)
    appd.install("ready(); wait()")
    for number in range(4, 14):
        assert appd.control.ask(LaunchApp(APP_ID, 0)) == LaunchAck(number, APP_ID)
        appd.until_ready(number)
        assert appd.control.ask(TerminateApp(number)) is not None
        ready, launched = appd.sessions[number].ready, appd.sessions[number].launched
        assert ready is not None
        assert ready - launched < WAIT_SECONDS / 6
    assert memory(appd.process.pid) - before < 16 * MIB
    used, begun = cpu_seconds(appd.process.pid), time.monotonic()
    eventually(lambda: time.monotonic() - begun > FLOOD_SECONDS, "floods have run for a while")
    assert cpu_seconds(appd.process.pid) - used < (time.monotonic() - begun) / 3
    for number in (1, 2, 3):
        assert appd.sessions[number].state is State.RUNNING
        appd.control.ask(TerminateApp(number))


def test_ready_is_found_in_the_middle_of_a_flood_and_is_no_output(start: Make) -> None:
    appd = start(WEFT_LOG_LINES="10", WEFT_LOG_INTERVAL="60")
    lines = output(appd, "say(b'x\\n' * 500_000 + b'READY\\n' + b'READY\\n' + b'y\\n' * 500_000)")
    assert lines[10:] == ["warning: 999991 lines of its output were dropped: more than 10 lines in 60 s"]
    assert appd.has("ready after", 1)


def test_an_app_that_waits_for_its_flood_to_be_read_goes_on(start: Make) -> None:
    """Its pipes are emptied whatever it writes: an app must not hang on its output."""
    appd = start(WEFT_LOG_LINES="10", WEFT_LOG_INTERVAL="60")
    ended = appd.until_stopped(appd.run_app("ready(); say(b'\\n' * 5_000_000); say(b'x' * 5_000_000, 2)"))
    assert ended.exit_status == 0


def test_lines_that_wait_for_their_turn_survive_a_reload(start: Make) -> None:
    appd = start(WEFT_LOG_LINES="100000")
    appd.install("ready(); say(b''.join(b'%d\\n' % number for number in range(10_000))); until('go')")
    session = appd.launch()
    eventually(lambda: appd.has("info: 10", session), "it is heard")
    assert appd.control.ask(Reload()) == Reloaded(__version__)
    (appd.store / APP_ID / "go").touch()
    appd.until_stopped(session)
    appd.find("ended ", session)
    heard = [line for line in appd.messages(session) if line[6:].isdigit()]
    assert heard == [f"info: {number}" for number in range(10_000)]
