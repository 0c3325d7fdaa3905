# SPDX-License-Identifier: Apache-2.0
"""The control socket byte by byte: replies, their order, and what is done about bad input."""

import select
import socket
import time
from collections.abc import Iterator

import msgpack
import pytest

from tests.appd.client import Control
from tests.appd.conftest import Make
from tests.appd.harness import SLACK_SECONDS, Appd, eventually, memory, state_of
from tests.appd.vectors import attempts, messages
from weft_runtime.framing import FRAME_MAX, frame
from weft_runtime.limits import MIB
from weft_runtime.protocol import (
    AppState,
    Error,
    ErrorCode,
    QueryAppState,
    QueryRunning,
    RunningApps,
    State,
    TerminateApp,
)
from weft_runtime.wire import decode_request_json, decode_response_msgpack, encode_msgpack

FRAME_TIMEOUT_S = 10
NO_APPS = RunningApps(())


@pytest.fixture
def control(appd: Appd) -> Iterator[Control]:
    yield appd.control
    # Whatever a client says, others are served.
    assert appd.connect().ask(QueryRunning()) == NO_APPS


def packed(*elements: object) -> bytes:
    """A frame made by the library, as the daemon must send it."""
    body: bytes = msgpack.packb(elements)
    return len(body).to_bytes(4, "little") + body


def expected_reply(request: list[object]) -> bytes | None:
    """What an idle daemon without packages answers; None for an ERROR with a text of its own."""
    match request:
        case ["QUERY_RUNNING"]:
            return packed("RUNNING_APPS", [])
        case ["QUERY_APP_STATE", session_id]:
            return packed("APP_STATE", session_id, "not_found")
        case ["TERMINATE_APP", session_id] | ["IPC_FORWARD", session_id, _]:
            return packed("ERROR", 1, f"session {session_id} not found")
        case ["PANEL_GESTURE", *gesture]:
            return packed("NAVIGATION_GESTURE", *gesture)
        case ["LAUNCH_APP", *_]:
            return None
        case _:
            raise AssertionError(f"no expectation for {request}")


@pytest.mark.parametrize("name", ["requests", "seed_requests"])
def test_every_request_has_one_reply_byte_for_byte_and_in_order(control: Control, name: str) -> None:
    requests = messages(name)
    control.send_bytes(b"".join(request.frame for request in requests))
    for request in requests:
        reply = control.receive_frame()
        expected = expected_reply(msgpack.unpackb(request.body))
        if expected is not None:
            assert reply == expected, request.name
        else:
            error = decode_response_msgpack(reply[4:])
            assert isinstance(error, Error)
            assert error.code in (ErrorCode.INVALID_APP_ID, ErrorCode.PACKAGE_NOT_FOUND), request.name
    assert control.is_quiet


def test_replies_are_those_of_the_existing_daemon(control: Control) -> None:
    """The recorded responses that an idle daemon can be brought to give."""
    responses = {response.name: response for response in messages("responses")}
    provoked: dict[str, list[object]] = {
        "RUNNING_APPS/empty": ["QUERY_RUNNING"],
        "APP_STATE/notfound": ["QUERY_APP_STATE", 5],
        "ERROR/code_1": ["TERMINATE_APP", 999],
    }
    for name, response in responses.items():
        if name.startswith("NAVIGATION_GESTURE/"):
            values = msgpack.unpackb(response.body)
            provoked[name] = ["PANEL_GESTURE", *values[1:]]
    assert len(provoked) > 6
    for name, request in provoked.items():
        control.send_bytes(packed(*request))
        assert control.receive_frame() == responses[name].frame, name


def test_a_session_in_bytes(appd: Appd) -> None:
    appd.install("ready(); wait()", app_id="org.example.app")
    control = appd.control
    control.send_bytes(bytes.fromhex("1d000000") + b"\x93\xaaLAUNCH_APP\xaforg.example.app\x00")
    assert (
        control.receive_frame() == bytes.fromhex("1d000000") + b"\x93\xaaLAUNCH_ACK\x01\xaforg.example.app"
    )
    control.send_bytes(bytes.fromhex("0f00000091ad51554552595f52554e4e494e47"))
    assert control.receive_frame() == b"\x21\0\0\0\x92\xacRUNNING_APPS\x91\x92\x01\xaforg.example.app"
    control.send_bytes(bytes.fromhex("1000000092ad5445524d494e4154455f41505001"))
    assert control.receive_frame() == bytes.fromhex("1400000093a94150505f535441544501a773746f70706564")
    control.send_bytes(bytes.fromhex("1000000092ad5445524d494e4154455f41505001"))
    assert control.receive_frame() == bytes.fromhex("1400000093a94150505f535441544501a773746f70706564")


def test_what_the_existing_daemon_takes_is_taken_and_the_rest_is_an_error(appd: Appd) -> None:
    taken = refused = 0
    for attempt in attempts("decode_msgpack", "frame_hex"):
        control = appd.connect()
        control.send_bytes(bytes.fromhex(attempt.sent))
        if attempt.decoded is not None:
            taken += 1
            reply = control.receive_frame()
            control.send_bytes(frame(encode_msgpack(decode_request_json(attempt.decoded))))
            assert reply == control.receive_frame(), attempt.name
        else:
            refused += 1
            answer = control.receive()
            assert isinstance(answer, Error)
            assert answer.code == ErrorCode.BAD_REQUEST, attempt.name
            if attempt.sent != "00000000":
                assert control.ask(QueryRunning()) == NO_APPS, attempt.name
            else:
                assert control.read_to_end() == b""
    assert taken > 10
    assert refused > 10


def test_frames_may_be_cut_anywhere(control: Control) -> None:
    data = b"".join(frame(encode_msgpack(QueryAppState(number))) for number in (1, 300, 70_000))
    for size in (1, 3, 7):
        for start in range(0, len(data), size):
            control.send_bytes(data[start : start + size])
        received = [control.receive() for _ in range(3)]
        assert received == [AppState(number, State.NOT_FOUND) for number in (1, 300, 70_000)]


def test_a_body_that_is_no_request_costs_only_an_error(control: Control) -> None:
    control.send_bytes(frame(b"\xc1") + frame(encode_msgpack(QueryRunning())) + frame(b"\x90"))
    first, second, third = control.receive(), control.receive(), control.receive()
    assert first == Error(ErrorCode.BAD_REQUEST, "byte 0 is not MessagePack")
    assert second == NO_APPS
    assert isinstance(third, Error)
    assert control.ask(QueryRunning()) == NO_APPS


@pytest.mark.parametrize(
    ("header", "code", "message"),
    [
        (b"\0\0\0\0", ErrorCode.BAD_REQUEST, "a frame is empty"),
        (
            b"\x01\0\x01\0",
            ErrorCode.FRAME_TOO_LARGE,
            "a frame announces 65537 bytes, the limit is 65536",
        ),
        (
            b"\xff\xff\xff\xff",
            ErrorCode.FRAME_TOO_LARGE,
            "a frame announces 4294967295 bytes, the limit is 65536",
        ),
        (b"GET ", ErrorCode.FRAME_TOO_LARGE, "a frame announces 542393671 bytes, the limit is 65536"),
    ],
)
def test_a_lost_frame_ends_the_connection_after_what_came_before(
    control: Control, appd: Appd, header: bytes, code: ErrorCode, message: str
) -> None:
    before = memory(appd.process.pid)
    request = frame(encode_msgpack(QueryRunning()))
    control.send_bytes(request + header + request)
    assert control.receive() == NO_APPS
    assert control.receive() == Error(code, message)
    assert control.read_to_end() == b""
    assert memory(appd.process.pid) - before < 8 * MIB


def test_the_longest_frame_is_taken(control: Control) -> None:
    payload = "x" * (FRAME_MAX - len(msgpack.packb(["IPC_FORWARD", 7, ""])) - 2)
    body = msgpack.packb(["IPC_FORWARD", 7, payload])
    assert len(body) == FRAME_MAX
    control.send_bytes(frame(body))
    assert control.receive() == Error(ErrorCode.UNKNOWN_SESSION, "session 7 not found")


@pytest.mark.parametrize("part", [b"", b"\x0f", b"\x0f\0\0\0", b"\x0f\0\0\0\x91\xad"])
def test_a_client_may_leave_at_any_point(control: Control, appd: Appd, part: bytes) -> None:
    leaving = appd.connect()
    leaving.send_bytes(part)
    leaving.socket.shutdown(socket.SHUT_WR)
    assert leaving.read_to_end() == b""


def test_a_client_that_has_said_all_still_hears_the_answers(appd: Appd) -> None:
    session = appd.run_app(
        "signal.signal(signal.SIGTERM, lambda *_: until('go') or os._exit(0)); ready(); wait()"
    )
    asking = appd.connect()
    asking.send(TerminateApp(session))
    asking.socket.shutdown(socket.SHUT_WR)
    appd.find("ending it", session)
    assert appd.control.ask(QueryAppState(session)) == AppState(session, State.STOPPING)
    (appd.store / "org.example.app/go").touch()
    assert asking.read_to_end() == frame(encode_msgpack(AppState(session, State.STOPPED)))


def test_a_lost_frame_is_told_after_the_answer_that_has_to_be_waited_for(appd: Appd) -> None:
    session = appd.run_app(
        "signal.signal(signal.SIGTERM, lambda *_: until('go') or os._exit(0)); ready(); wait()"
    )
    asking = appd.connect()
    asking.send_bytes(frame(encode_msgpack(TerminateApp(session))) + b"\0\0\0\0")
    appd.find("ending it", session)
    assert asking.is_quiet
    (appd.store / "org.example.app/go").touch()
    assert asking.receive() == AppState(session, State.STOPPED)
    assert asking.receive() == Error(ErrorCode.BAD_REQUEST, "a frame is empty")
    assert asking.read_to_end() == b""


def test_half_a_frame_is_told_after_all_the_answers_that_are_owed(start: Make) -> None:
    """Its time is over in the very moment in which a session ends that an answer waits for."""
    appd = start(WEFT_STOP_GRACE="60")
    session = appd.run_app(
        "signal.signal(signal.SIGTERM, lambda *_: until('go') or os._exit(0)); ready(); wait()"
    )
    asking = appd.connect()
    request = frame(encode_msgpack(QueryAppState(7)))
    asking.send_bytes(frame(encode_msgpack(TerminateApp(session))) + request + request[:5])
    appd.find("ending it", session)
    pid = appd.sessions[session].pid
    assert pid is not None
    with appd.stopped():
        (appd.store / "org.example.app/go").touch()
        eventually(lambda: state_of(pid) == "Z", "the session has ended")
        assert select.select([asking.socket], [], [], FRAME_TIMEOUT_S + 0.5)[0] == []
    assert asking.receive() == AppState(session, State.STOPPED)
    assert asking.receive() == AppState(7, State.NOT_FOUND)
    # Nothing was read of it while the answer was owed, so its time begins anew.
    asking.send_bytes(request[5:])
    assert asking.receive() == AppState(7, State.NOT_FOUND)


def test_half_a_frame_is_waited_for_ten_seconds(control: Control, appd: Appd) -> None:
    request = frame(encode_msgpack(QueryAppState(7)))
    half, trickling, late = appd.connect(), appd.connect(), appd.connect()
    begun = time.monotonic()
    half.send_bytes(request[:2])
    late.send_bytes(request[:-1])
    # A byte now and then does not help: the whole frame has to come.
    sent = 0
    while time.monotonic() - begun < FRAME_TIMEOUT_S / 2:
        trickling.send_bytes(request[sent : sent + 1])
        sent += sent < 10
        assert trickling.is_quiet or sent == 10
        time.sleep(0.4)
    late.send_bytes(request[-1:])
    assert late.receive() == AppState(7, State.NOT_FOUND)
    for connection in (half, trickling):
        assert connection.receive() == Error(ErrorCode.TIMED_OUT, "half a frame was left waiting for 10 s")
        assert connection.read_to_end() == b""
        assert FRAME_TIMEOUT_S <= time.monotonic() - begun < FRAME_TIMEOUT_S + 2 * SLACK_SECONDS
    assert late.ask(QueryRunning()) == NO_APPS
