# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.journal: which entries go where, with which fields, and never in the way."""

import fcntl
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.journal_socket import Receiver
from weft_runtime import journal
from weft_runtime.errors import Problem, WeftError
from weft_runtime.journal import (
    MESSAGE_IDS,
    NAMELESS,
    Event,
    Level,
    Log,
    open_log,
    output_identifier,
    stderr_sink,
)
from weft_runtime.settings import LogSettings, LogTarget

Entry = tuple[Level, str, dict[str, str]]
NAMES = "emerg, alert, crit, err, warning, notice, info, debug"
ME = f"weft-test[{os.getpid()}]:"


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("emerg", 0), ("alert", 1), ("crit", 2), ("err", 3), ("warning", 4), ("notice", 5), ("info", 6),
        ("debug", 7), ("error", 3), ("INFO", 6), ("Err", 3), ("ERROR", 3),
    ],
)  # fmt: skip
def test_levels_have_the_names_and_numbers_of_syslog(name: str, level: int) -> None:
    assert Level.parse(name) == level


@pytest.mark.parametrize("name", ["", "loud", "warn ", "6", "info\n", "\u0131nfo", "_value_"])
def test_a_wrong_level_is_told_with_the_right_ones(name: str) -> None:
    with pytest.raises(ValueError, match="not a log level") as caught:
        Level.parse(name)
    shown = name.replace("\n", "\\x0a")
    assert str(caught.value) == f"'{shown}' is not a log level: expected one of {NAMES}"


def collecting(level: Level = Level.INFO) -> tuple[Log, list[Entry]]:
    entries: list[Entry] = []
    return Log(lambda level, message, fields: entries.append((level, message, fields)), level), entries


@pytest.mark.parametrize("limit", Level)
def test_entries_below_the_level_are_left_out(limit: Level) -> None:
    log, entries = collecting(limit)
    for level in Level:
        log.entry(level, "text")
    assert [entry[0] for entry in entries] == [level for level in Level if level <= limit]


def test_the_short_forms_have_their_level() -> None:
    log, entries = collecting(Level.DEBUG)
    log.debug("a")
    log.notice("b")
    log.warning("c")
    log.warning("d", Event.USAGE)
    assert [(level, message) for level, message, _ in entries] == [(7, "a"), (5, "b"), (4, "c"), (4, "d")]
    assert entries[-1][2] == {"WEFT_EVENT": "usage", "MESSAGE_ID": MESSAGE_IDS[Event.USAGE]}


def test_an_entry_has_its_own_fields_and_the_bound_ones() -> None:
    log, entries = collecting()
    log.entry(Level.INFO, "before")
    log.bind(WEFT_APP_ID="org.example.app", WEFT_SESSION_ID="1")
    log.bind(WEFT_SESSION_ID="7")
    log.entry(Level.INFO, "after", WEFT_REASON="because")
    log.entry(Level.INFO, "last")
    bound = {"WEFT_APP_ID": "org.example.app", "WEFT_SESSION_ID": "7"}
    assert [fields for _, _, fields in entries] == [{}, bound | {"WEFT_REASON": "because"}, bound]


def test_a_message_begins_with_the_app_and_the_session_that_it_is_about() -> None:
    log, entries = collecting()
    log.entry(Level.INFO, "one")
    log.entry(Level.INFO, "two", WEFT_APP_ID="org.example.app")
    log.entry(Level.INFO, "three", WEFT_APP_ID="org.example.app", WEFT_SESSION_ID="4")
    log.bind(WEFT_APP_ID="org.example.app", WEFT_SESSION_ID="7")
    log.entry(Level.ERR, "four\nfive", Event.TRAPPED)
    log.hold()
    log.entry(Level.INFO, "six")
    log.release()
    assert texts(entries) == [
        "one", "org.example.app: two", "org.example.app[4]: three", "org.example.app[7]: four\nfive",
        "org.example.app[7]: six",
    ]  # fmt: skip


def test_what_is_no_app_id_cannot_look_like_the_beginning_of_an_entry() -> None:
    log, entries = collecting()
    log.entry(Level.WARNING, "launch refused", WEFT_APP_ID="org.example.app[4]: ready")
    assert texts(entries) == ["'org.example.app[4]: ready': launch refused"]


def test_what_an_app_writes_stays_as_it_is() -> None:
    log, entries = collecting()
    fields = {"WEFT_APP_ID": "org.example.app", "WEFT_SESSION_ID": "4"}
    log.entry(Level.INFO, '{"a": 1}', Event.OUTPUT, **fields)
    assert texts(entries) == ['{"a": 1}']


def texts(entries: list[Entry]) -> list[str]:
    return [entry[1] for entry in entries]


def test_what_is_held_waits_until_it_is_released_and_then_nothing_waits() -> None:
    log, entries = collecting(Level.DEBUG)
    log.hold()
    log.entry(Level.INFO, "first", Event.STARTING, WEFT_X="1")
    log.debug("second")
    assert entries == []
    log.bind(WEFT_Y="later")
    log.release()
    assert entries == [
        (Level.INFO, "first", {"WEFT_EVENT": "starting", "WEFT_X": "1"}),
        (Level.DEBUG, "second", {}),
    ]
    log.entry(Level.INFO, "third")
    assert texts(entries) == ["first", "second", "third"]
    log.release()
    assert texts(entries) == ["first", "second", "third"]


@pytest.mark.parametrize("level", [level for level in Level if level < Level.INFO])
def test_what_is_held_comes_before_an_entry_that_somebody_acts_on(level: Level) -> None:
    log, entries = collecting()
    log.hold()
    log.entry(Level.INFO, "first")
    log.entry(Level.INFO, "second")
    log.entry(level, "bad")
    assert texts(entries) == ["first", "second", "bad"]
    log.entry(Level.INFO, "after")
    assert texts(entries) == ["first", "second", "bad", "after"]


def test_what_is_below_the_level_is_not_held() -> None:
    log, entries = collecting(Level.NOTICE)
    log.hold()
    log.entry(Level.INFO, "never")
    log.release()
    assert entries == []


def test_the_events_of_an_app_have_names_that_scripts_may_rely_on() -> None:
    names = [
        "starting", "loaded", "ready", "exited", "trapped", "stopped", "package-not-found",
        "package-invalid", "engine-missing", "failed", "stub",
    ]  # fmt: skip
    assert [event.value for event in Event][: len(names)] == names


def test_the_journals_socket_is_where_journald_has_it() -> None:
    assert Path("/run/systemd/journal/socket") == journal.JOURNAL_SOCKET


@pytest.mark.parametrize("event", Event)
def test_an_event_is_named_and_has_its_message_id_if_it_has_one(event: Event) -> None:
    log, entries = collecting()
    log.entry(Level.INFO, "text", event, WEFT_APP_ID="org.example.app")
    log.entry(Level.INFO, "text", event)
    expected = {"WEFT_EVENT": event.value}
    has_id = {"MESSAGE_ID": MESSAGE_IDS[event]} if event in MESSAGE_IDS else {}
    assert entries[0][2] == {"WEFT_APP_ID": "org.example.app"} | expected | has_id
    # What is about an app has no text where there is none.
    assert entries[1] == (Level.INFO, "text", expected | (has_id if event in NAMELESS else {}))


def test_message_ids_are_random_and_distinct() -> None:
    assert len(set(MESSAGE_IDS.values())) == len(MESSAGE_IDS) > 0
    for message_id in MESSAGE_IDS.values():
        assert uuid.UUID(message_id).hex == message_id
        assert uuid.UUID(message_id).version == 4


def settings(
    target: LogTarget = LogTarget.AUTO, level: str | None = None, journal_stream: str | None = None
) -> LogSettings:
    return LogSettings(target, level, journal_stream)


def stderr_as_journal_stream() -> str:
    return f"{os.fstat(2).st_dev}:{os.fstat(2).st_ino}"


def test_a_log_has_the_level_that_is_asked_for() -> None:
    assert open_log("weft-test", settings()).level is Level.INFO
    assert open_log("weft-test", settings(level="")).level is Level.INFO
    assert open_log("weft-test", settings(level="debug")).level is Level.DEBUG


def test_a_wrong_level_in_the_environment_is_told() -> None:
    with pytest.raises(WeftError) as caught:
        open_log("weft-test", settings(level="loud"))
    assert caught.value.problem is Problem.CONFIG_INVALID
    assert str(caught.value) == f"$WEFT_LOG_LEVEL: 'loud' is not a log level: expected one of {NAMES}"


@pytest.mark.parametrize("stream", [None, "", "0:0", "x"])
def test_lines_go_to_standard_error_where_it_is_not_the_journal(
    stream: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    open_log("weft-test", settings(journal_stream=stream)).notice("hello")
    assert capfd.readouterr() == ("", f"{ME} notice: hello\n")


def test_lines_for_a_journal_behind_standard_error_carry_their_priority(
    capfd: pytest.CaptureFixture[str],
) -> None:
    log = open_log("weft-test", settings(LogTarget.STDERR, journal_stream=stderr_as_journal_stream()))
    log.entry(Level.ERR, "it broke\nhere\nand there")
    assert capfd.readouterr().err == f"<3>{ME} err: it broke\n<3>here\n<3>and there\n"


def test_a_journal_that_is_not_there_is_told_once(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(journal, "JOURNAL_SOCKET", tmp_path / "socket")
    notice = f"cannot log to the journal natively, logging to standard error: there is no {tmp_path}/socket"
    log = open_log("weft-test", settings(LogTarget.JOURNAL))
    log.warning("hello")
    assert capfd.readouterr().err == f"{ME} notice: {notice}\n{ME} warning: hello\n"
    open_log("weft-test", settings(journal_stream=stderr_as_journal_stream()))
    assert capfd.readouterr().err == f"<5>{ME} notice: {notice}\n"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Receiver]:
    receiver = Receiver(tmp_path / "socket")
    monkeypatch.setattr(journal, "JOURNAL_SOCKET", receiver.path)
    yield receiver
    receiver.close()


def test_entries_go_to_the_journal_with_their_fields(
    receiver: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    log = open_log("weft-test", settings(journal_stream=stderr_as_journal_stream()))
    log.bind(WEFT_APP_ID="org.example.app")
    log.entry(Level.ERR, "it broke", Event.FAILED, WEFT_REASON="käse")
    assert sorted(receiver.entry()) == [
        (b"MESSAGE", b"org.example.app: it broke"),
        (b"MESSAGE_ID", MESSAGE_IDS[Event.FAILED].encode()),
        (b"PRIORITY", b"3"),
        (b"SYSLOG_IDENTIFIER", b"weft-test"),
        (b"WEFT_APP_ID", b"org.example.app"),
        (b"WEFT_EVENT", b"failed"),
        (b"WEFT_REASON", "käse".encode()),
    ]
    assert receiver.is_empty
    assert capfd.readouterr() == ("", "")


HELLO = [(b"MESSAGE", b"hello"), (b"PRIORITY", b"5"), (b"SYSLOG_IDENTIFIER", b"weft-test")]


def test_entries_go_to_the_journal_when_asked_for(receiver: Receiver) -> None:
    open_log("weft-test", settings(LogTarget.JOURNAL)).notice("hello")
    assert receiver.entry() == HELLO


@pytest.mark.parametrize("size", [65_000, 70_000, 3_000_000])
def test_an_entry_may_be_long(receiver: Receiver, size: int) -> None:
    log = open_log("weft-test", settings(LogTarget.JOURNAL))
    log.notice("x" * size)
    log.notice("hello")
    assert receiver.entry()[0] == (b"MESSAGE", b"x" * size)
    assert receiver.entry() == HELLO


def test_a_journal_that_was_started_anew_gets_what_comes_then(
    monkeypatch: pytest.MonkeyPatch, receiver: Receiver, tmp_path: Path
) -> None:
    log = open_log("weft-test", settings(LogTarget.JOURNAL))
    log.notice("hello")
    receiver.socket.close()
    other = Receiver(tmp_path / "other")
    monkeypatch.setattr(journal, "JOURNAL_SOCKET", other.path)
    log.notice("hello")
    assert other.entry() == HELLO
    other.socket.close()
    log.notice("nobody hears this")
    log.notice("nor this")
    third = Receiver(tmp_path / "third")
    monkeypatch.setattr(journal, "JOURNAL_SOCKET", third.path)
    log.notice("hello")
    lost = dict(third.entry())
    assert lost[b"MESSAGE"] == b"2 entries of the log were lost: the journal did not read"
    assert (lost[b"WEFT_LOST"], lost[b"PRIORITY"]) == (b"2", b"4")
    assert lost[b"MESSAGE_ID"] == MESSAGE_IDS[Event.LOG_LOST].encode()
    assert third.entry() == HELLO
    assert third.is_empty
    for opened in (other, third):
        opened.close()


def test_a_journal_that_does_not_read_holds_nobody_up_and_gets_all_in_the_end(receiver: Receiver) -> None:
    log = open_log("weft-test", settings(LogTarget.JOURNAL))
    log.bind(WEFT_APP_ID="org.example.app")
    count = 5000
    for number in range(count):
        begun = time.thread_time()
        log.notice(str(number))
        assert time.thread_time() - begun < 0.25
    found: list[int] = []
    deadline = time.monotonic() + 60
    while len(found) < count and time.monotonic() < deadline:
        if not receiver.is_empty:
            found.append(int(dict(receiver.entry())[b"MESSAGE"].removeprefix(b"org.example.app: ")))
    assert found == list(range(count))


def test_a_stuck_journal_delays_an_end_but_briefly(receiver: Receiver) -> None:
    log = open_log("weft-test", settings(LogTarget.JOURNAL))
    for number in range(5000):
        log.notice(str(number))
    begun = time.monotonic()
    log.flush()
    took = time.monotonic() - begun
    assert journal.FLUSH_S * 0.9 <= took < 5
    assert dict(receiver.entry())[b"MESSAGE"] == b"0"
    receiver.socket.close()
    assert log.backlog is not None
    assert log.backlog.flush(60)


@pytest.mark.usefixtures("receiver")
def test_a_log_knows_whether_it_is_in_the_journal() -> None:
    assert open_log("weft-test", settings(LogTarget.JOURNAL)).is_native
    assert not open_log("weft-test", settings(LogTarget.STDERR)).is_native


def test_no_value_makes_a_field_of_its_own(receiver: Receiver) -> None:
    log = open_log("weft-test", settings(LogTarget.JOURNAL))
    log.entry(Level.INFO, "a\nPRIORITY=0", WEFT_REASON="b\n_UID=0\udcff")
    assert receiver.entry() == [
        (b"MESSAGE", b"a\nPRIORITY=0"),
        (b"PRIORITY", b"6"),
        (b"SYSLOG_IDENTIFIER", b"weft-test"),
        (b"WEFT_REASON", b"b\n_UID=0\\udcff"),
    ]


def test_a_journal_that_is_gone_ends_nothing(receiver: Receiver) -> None:
    log = open_log("weft-test", settings(LogTarget.JOURNAL))
    receiver.socket.close()
    for _ in range(3):
        log.notice("nobody hears this")
    log.flush()


def test_a_line_names_the_app_and_its_session(capfd: pytest.CaptureFixture[str]) -> None:
    log = Log(stderr_sink("weft-test", with_priority=False))
    log.bind(WEFT_APP_ID="org.example.app", WEFT_SESSION_ID="7")
    log.entry(Level.INFO, "one\ntwo \udcff", WEFT_REASON="hidden")
    assert capfd.readouterr() == ("", f"{ME} info: org.example.app[7]: one\ntwo \\udcff\n")


def test_a_line_of_an_app_without_session_names_the_app(capfd: pytest.CaptureFixture[str]) -> None:
    Log(stderr_sink("weft-test", with_priority=False)).entry(
        Level.INFO, "one", WEFT_APP_ID="org.example.app"
    )
    assert capfd.readouterr().err == f"{ME} info: org.example.app: one\n"


def test_a_line_of_an_apps_output_names_it_as_its_writer(capfd: pytest.CaptureFixture[str]) -> None:
    log = Log(stderr_sink("weft-test", with_priority=False))
    fields = {"WEFT_APP_ID": "org.example.app", "WEFT_SESSION_ID": "7"}
    log.entry(
        Level.INFO, "one", Event.OUTPUT, **fields, SYSLOG_IDENTIFIER=output_identifier("org.example.app", 7)
    )
    assert capfd.readouterr().err == f"{ME} info: org.example.app/7: one\n"


@contextmanager
def standard_error(put: Callable[[], None]) -> Iterator[None]:
    """Have `put` change descriptor 2 for the body."""
    saved = os.dup(2)
    try:
        put()
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def into(fd: int) -> Callable[[], None]:
    def put() -> None:
        os.dup2(fd, 2)
        os.close(fd)

    return put


def test_a_closed_standard_error_ends_nothing() -> None:
    sink = stderr_sink("weft-test", with_priority=False)
    with standard_error(lambda: os.close(2)):
        sink(Level.ERR, "nobody hears this", {})
        assert open_log("weft-test", settings(journal_stream="8:1")).level is Level.INFO
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(2)


def test_a_full_disk_behind_standard_error_ends_nothing() -> None:
    with standard_error(into(os.open("/dev/full", os.O_WRONLY))):
        stderr_sink("weft-test", with_priority=False)(Level.ERR, "nobody hears this", {})
        with pytest.raises(OSError, match="No space left"):
            os.write(2, b"x")


def test_a_broken_pipe_behind_standard_error_ends_nothing() -> None:
    source, sink = os.pipe()
    os.close(source)
    with standard_error(into(sink)):
        stderr_sink("weft-test", with_priority=False)(Level.ERR, "nobody hears this", {})
        with pytest.raises(BrokenPipeError):
            os.write(2, b"x")


def test_a_reader_that_has_stopped_reading_delays_a_line_but_briefly() -> None:
    source, sink = os.pipe()
    os.write(sink, b"x" * fcntl.fcntl(sink, fcntl.F_GETPIPE_SZ))
    with standard_error(into(sink)):
        begun = time.monotonic()
        stderr_sink("weft-test", with_priority=False)(Level.ERR, "nobody hears this", {})
        took = time.monotonic() - begun
    os.close(source)
    assert journal.STDERR_WAIT_MS / 1000 * 0.9 <= took < 5


def test_a_long_line_arrives_whole_although_the_pipe_is_smaller() -> None:
    source, sink = os.pipe()
    arrived = bytearray()

    def read() -> None:
        while data := os.read(source, 1000):
            arrived.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    with standard_error(into(sink)):
        stderr_sink("weft-test", with_priority=False)(Level.ERR, "x" * 300_000, {})
    reader.join(30)
    os.close(source)
    assert arrived.decode() == f"{ME} err: {'x' * 300_000}\n"
