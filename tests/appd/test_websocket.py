# SPDX-License-Identifier: Apache-2.0
"""What is said on the WebSocket: JSON requests, replies and pushes."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.appd.conftest import Make
from tests.appd.harness import WAIT_SECONDS, Appd, eventually
from tests.appd.vectors import attempts, messages
from tests.packages import APP_ID
from weft_runtime.appd.websocket_frame import MESSAGE_MAX
from weft_runtime.protocol import Error, ErrorCode, QueryRunning, State
from weft_runtime.wire import decode_response_json

NO_APPS = '{"type":"RUNNING_APPS","sessions":[]}'
QUERY = '{"type":"QUERY_RUNNING"}'


@pytest.fixture
def appd(start: Make) -> Appd:
    return start(WEFT_APPD_WS_PORT="0")


@pytest.fixture
def page(appd: Appd) -> Iterator[ClientConnection]:
    """A client; whatever it does, others are served."""
    yield appd.websocket()
    assert ask(appd.websocket(), QUERY) == NO_APPS
    assert appd.connect().ask(QueryRunning()) is not None


def ask(page: ClientConnection, text: str) -> str:
    page.send(text)
    return hear(page)


def hear(page: ClientConnection) -> str:
    text = page.recv(WAIT_SECONDS)
    assert isinstance(text, str)
    return text


def expected_reply(request: dict[str, Any], text: str) -> str | None:
    """What an idle daemon without packages answers; None for an ERROR with a text of its own."""
    match request:
        case {"type": "QUERY_RUNNING"}:
            return NO_APPS
        case {"type": "QUERY_APP_STATE", "session_id": session_id}:
            return f'{{"type":"APP_STATE","session_id":{session_id},"state":"not_found"}}'
        case {"type": "TERMINATE_APP" | "IPC_FORWARD", "session_id": session_id}:
            return f'{{"type":"ERROR","code":1,"message":"session {session_id} not found"}}'
        case {"type": "PANEL_GESTURE"}:
            return text.replace("PANEL_GESTURE", "NAVIGATION_GESTURE")
        case _:
            return None


def test_every_request_has_its_reply_character_for_character(page: ClientConnection) -> None:
    for request in messages("requests"):
        if "null" in request.text:  # JSON has no NaN: a client cannot send it
            continue
        reply = ask(page, request.text)
        expected = expected_reply(json.loads(request.text), request.text)
        if expected is not None:
            assert reply == expected, request.name
        else:
            error = decode_response_json(reply)
            assert isinstance(error, Error)
            assert error.code in (ErrorCode.INVALID_APP_ID, ErrorCode.PACKAGE_NOT_FOUND), request.name
        if "NAVIGATION" in reply:
            assert hear(page) == reply  # the push
    assert ask(page, QUERY) == NO_APPS


def test_what_the_existing_daemon_takes_is_taken_and_the_rest_is_an_error(page: ClientConnection) -> None:
    taken = refused = 0
    for attempt in attempts("decode_json", "text"):
        reply = ask(page, attempt.sent)
        pushes = "NAVIGATION" in reply
        assert not pushes or hear(page) == reply
        if attempt.decoded is not None:
            taken += 1
            assert ask(page, attempt.decoded) == reply, attempt.name
            assert not pushes or hear(page) == reply
        else:
            refused += 1
            error = decode_response_json(reply)
            assert isinstance(error, Error)
            assert error.code == ErrorCode.BAD_REQUEST, attempt.name
    assert ask(page, QUERY) == NO_APPS
    assert taken > 5
    assert refused > 10


def test_the_requester_hears_the_acknowledgement_and_the_end_twice(appd: Appd) -> None:
    """As the reply and as everybody's push: that is what existing clients are used to."""
    appd.install("ready(); wait()")
    page, other = appd.websocket("/"), appd.websocket("/appd?x=y")
    page.send(f'{{"type":"LAUNCH_APP","app_id":"{APP_ID}","surface_id":0}}')
    acknowledged = f'{{"type":"LAUNCH_ACK","session_id":1,"app_id":"{APP_ID}"}}'
    ready = f'{{"type":"APP_READY","session_id":1,"app_id":"{APP_ID}"}}'
    stopped = '{"type":"APP_STATE","session_id":1,"state":"stopped"}'
    gesture = '{"type":"NAVIGATION_GESTURE","gesture_type":1,"fingers":3,"dx":0.5,"dy":-1.0}'
    assert [hear(page) for _ in range(3)] == [acknowledged, acknowledged, ready]
    assert (
        ask(page, QUERY) == f'{{"type":"RUNNING_APPS","sessions":[{{"session_id":1,"app_id":"{APP_ID}"}}]}}'
    )
    page.send('{"type":"PANEL_GESTURE","gesture_type":1,"fingers":3,"dx":0.5,"dy":-1}')
    assert [hear(page) for _ in range(2)] == [gesture, gesture]
    page.send('{"type":"TERMINATE_APP","session_id":1}')
    page.send(QUERY)
    assert [hear(page) for _ in range(3)] == [stopped, stopped, NO_APPS]
    assert [hear(other) for _ in range(4)] == [acknowledged, ready, gesture, stopped]
    assert ask(other, '{"type":"TERMINATE_APP","session_id":1}') == stopped
    assert ask(page, QUERY) == NO_APPS


def test_requests_of_ours_are_served_too(appd: Appd) -> None:
    page = appd.websocket()
    assert ask(page, '{"type":"SUBSCRIBE","session_id":null}') == '{"type":"SUBSCRIBED","session_id":null}'
    assert ask(page, '{"type":"QUERY_SESSIONS"}') == '{"type":"SESSIONS","sessions":[]}'
    refused = decode_response_json(ask(page, '{"type":"RELOAD"}'))
    assert isinstance(refused, Error)
    assert refused.code == ErrorCode.NOT_PERMITTED


def test_binary_messages_are_ignored_and_pings_answered(page: ClientConnection) -> None:
    page.send(b"\x91\xadQUERY_RUNNING")
    page.send(QUERY.encode())
    assert page.ping().wait(WAIT_SECONDS)
    assert ask(page, QUERY) == NO_APPS


def test_pipelined_requests_are_answered_in_order(page: ClientConnection) -> None:
    count = 3000  # more than a client's queue holds
    for number in range(count):
        page.send(f'{{"type":"QUERY_APP_STATE","session_id":{number}}}')
    for number in range(count):
        assert hear(page) == f'{{"type":"APP_STATE","session_id":{number},"state":"not_found"}}'


def test_a_message_of_64_kib_is_taken_and_a_longer_one_ends_the_connection(
    appd: Appd, page: ClientConnection
) -> None:
    text = '{"type":"IPC_FORWARD","session_id":7,"payload":""}'
    longest = text.replace('""', f'"{"x" * (MESSAGE_MAX - len(text))}"')
    assert len(longest) == MESSAGE_MAX == 64 * 1024
    assert ask(page, longest) == '{"type":"ERROR","code":1,"message":"session 7 not found"}'
    page.send(longest + " ")
    with pytest.raises(ConnectionClosed):
        hear(page)
    assert page.close_code == 1009


def test_a_message_that_is_not_utf8_ends_the_connection(page: ClientConnection) -> None:
    page.send(b"\xff", text=True)
    with pytest.raises(ConnectionClosed):
        hear(page)
    assert page.close_code == 1007


def test_a_client_that_leaves_while_it_waits_is_forgotten(appd: Appd) -> None:
    session = appd.run_app(
        "signal.signal(signal.SIGTERM, lambda *_: until('go') or os._exit(0)); ready(); wait()"
    )
    page = appd.websocket()
    page.send(f'{{"type":"TERMINATE_APP","session_id":{session}}}')
    appd.find("ending it", session)
    page.close()
    (appd.store / APP_ID / "go").touch()
    assert appd.until_stopped(session).state is State.STOPPED


def test_a_never_ending_stream_of_clients_leaves_nothing(appd: Appd) -> None:
    for _ in range(60):
        page = appd.websocket()
        page.send(QUERY)
        page.close()
    appd.disconnect()
    eventually(lambda: not appd.children, "nothing runs")
    appd.check_descriptors()
