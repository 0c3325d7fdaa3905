# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.wire: what its decoders take for a message, and how they refuse the rest."""

import json
from collections.abc import Callable, Sequence

import msgpack
import pytest

from weft_runtime.protocol import (
    IpcForward,
    PanelGesture,
    ProtocolError,
    SessionInfo,
    Sessions,
    State,
    Subscribe,
    TerminateApp,
)
from weft_runtime.wire import (
    decode_request_json,
    decode_request_msgpack,
    decode_response_json,
    decode_response_msgpack,
)


def pack(value: object) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def is_same(one: object, other: object) -> bool:
    return type(one) is type(other) and repr(one) == repr(other)


def refusal(decode: Callable[[], object]) -> str:
    with pytest.raises(ProtocolError) as caught:
        decode()
    assert str(caught.value).isprintable()
    return str(caught.value)


TERMINATE = pack("TERMINATE_APP")
TYPE, SESSION_ID = pack("type"), pack("session_id")
TYPED = TYPE + TERMINATE
TOO_MANY = "the message has over 1000 elements: no request has as many"
COMPLETE = TYPED + SESSION_ID + b"\x07"
"""The first two pairs of a map; more may follow."""


@pytest.mark.parametrize(
    "body",
    [
        b"\x92\x01\x07", b"\x92\xcc\x01\x07", b"\x92\xcd\x00\x01\x07", b"\x92\xcf" + bytes(7) + b"\x01\x07",
        b"\x92\xc4\x0dTERMINATE_APP\x07", b"\x92\xdb\x00\x00\x00\x0dTERMINATE_APP\x07",
        b"\xdd\x00\x00\x00\x02" + TERMINATE + b"\x07",
        b"\x92" + TERMINATE + b"\xd0\x07", b"\x92" + TERMINATE + b"\xd1\x00\x07",
        b"\x92" + TERMINATE + b"\xd2\x00\x00\x00\x07", b"\x92" + TERMINATE + b"\xd3" + bytes(7) + b"\x07",
        b"\x92" + TERMINATE + b"\x07\xc1trailing",
        b"\x82\x00\x07" + TYPE + b"\x01", b"\x82\xcf" + bytes(8) + b"\x07" + TYPE + TERMINATE,
        b"\xdf\x00\x00\x00\x02\xda\x00\x04type" + TERMINATE + b"\xc6\x00\x00\x00\x0asession_id\x07",
        # Keys that this message does not have, whatever they hold.
        b"\x84" + COMPLETE + b"\xa6app_id\xc0\xa6app_id\xc0",
        b"\x83" + COMPLETE + b"\xa1\xff\xa1\xff",
        b"\x84" + COMPLETE + b"\x09\xd8\x05" + bytes(16) + b"\xa1x\xc7\x05\xff12345",
        b"\x83" + COMPLETE + b"\xa1x\xdc\x03\xe1" + bytes(993),
        pytest.param(b"\x83" + COMPLETE + b"\xa1x" + b"\x91" * 990 + b"\x90", id="deep arrays"),
        pytest.param(b"\x83" + COMPLETE + b"\xa1x" + b"\x81\xc0" * 490 + b"\xd0\x00", id="deep maps"),
    ],
)  # fmt: skip
def test_messagepack_has_many_ways_to_say_the_same(body: bytes) -> None:
    assert is_same(decode_request_msgpack(body), TerminateApp(7))


TAGS = (
    "LAUNCH_APP, TERMINATE_APP, QUERY_RUNNING, QUERY_APP_STATE, QUERY_INSTALLED_APPS, IPC_FORWARD, "
    "PANEL_GESTURE, SUBSCRIBE, QUERY_SESSIONS, RELOAD, QUERY_STATUS, QUERY_DETAILS, QUERY_SETTINGS, "
    "QUERY_WAITING, RESTORE, FORGET"
)
COMPOUND = "an array, a map or an extension"
NOT_UTF8 = "LAUNCH_APP: app_id is text that is not UTF-8: expected a string"
UNSIGNED = "expected an integer from 0 to 18446744073709551615"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the message is cut off after 0 bytes"),
        (b"\xc1", "byte 0 is not MessagePack"),
        (b"\xc0", "the message is null: expected an array or a map"),
        (b"\xc3", "the message is true: expected an array or a map"),
        (TERMINATE, "the message is 'TERMINATE_APP': expected an array or a map"),
        (b"\xd4\x01\x00", "the message is an array, a map or an extension: expected an array or a map"),
        (b"\x93" + TERMINATE + b"\x07\x07", "TERMINATE_APP: the number of fields is 2: expected 1"),
        (b"\x92" + TERMINATE, "the message is cut off after 15 bytes"),
        (b"\x92" + TERMINATE + b"\xce\x00", "the message is cut off after 17 bytes"),
        (b"\x92" + TERMINATE + b"\xca\x00\x00\x00\x00", f"TERMINATE_APP: session_id is 0.0: {UNSIGNED}"),
        (b"\x92" + TERMINATE + b"\xa17", f"TERMINATE_APP: session_id is '7': {UNSIGNED}"),
        (b"\x92" + TERMINATE + b"\xa2a\n", f"TERMINATE_APP: session_id is 'a\\x0a': {UNSIGNED}"),
        (b"\x92" + TERMINATE + b"\x90", f"TERMINATE_APP: session_id is {COMPOUND}: {UNSIGNED}"),
        (b"\x92" + TERMINATE + b"\xff", f"TERMINATE_APP: session_id is -1: {UNSIGNED}"),
        (b"\x82" + TYPED + b"\xc0\x07", "TERMINATE_APP has a key that is not a string"),
        (b"\x82" + TYPED + b"\xff\x07", "TERMINATE_APP has a key that is not a string"),
        (b"\x82" + TYPED + b"\x90\x07", "TERMINATE_APP has a key that is not a string"),
        (b"\x83" + COMPLETE + b"\x00\x07", "the key 'session_id' is there more than once"),
        (b"\x82" + TYPED + TYPE + TERMINATE, "the key 'type' is there more than once"),
        (b"\x83" + COMPLETE + b"\xa1x", "the message is cut off after 34 bytes"),
        (b"\x83" + COMPLETE + b"\xa1x\xa2x", "the message is cut off after 36 bytes"),
        (b"\x83" + COMPLETE + b"\xa1x\x91\xc1", "byte 35 is not MessagePack"),
        (pack(["LAUNCH_APP", 7, 0]), "LAUNCH_APP: app_id is 7: expected a string"),
        (b"\x93\xaaLAUNCH_APP\xa1\xff\x00", NOT_UTF8),
        (b"\x93\xaaLAUNCH_APP\xc4\x03\xed\xa0\x80\x00", NOT_UTF8),
        (pack(["PANEL_GESTURE", 0, 0, True, 0]), "PANEL_GESTURE: dx is true: expected a number"),
        (pack(["PANEL_GESTURE", 0, 2**32, 0, 0]),
         "PANEL_GESTURE: fingers is 4294967296: expected an integer from 0 to 4294967295"),
        (pack(["SUBSCRIBE"]), "SUBSCRIBE: the number of fields is 0: expected 1"),
        (pack(["SUBSCRIBE", -1]), f"SUBSCRIBE: session_id is -1: {UNSIGNED}"),
        (b"\x92\x07\xc0", f"type is 7: expected one of {TAGS}"),
        (b"\x92\xc3\x07", f"type is true: expected one of {TAGS}"),
        (b"\x92\xca\x3f\x80\x00\x00\x07", f"type is 1.0: expected one of {TAGS}"),
        (b"\x83" + COMPLETE + b"\xa1x\xdc\x03\xe8" + bytes(1000), TOO_MANY),
        (b"\x91" * 65_536, TOO_MANY),
        (b"\xdf\x00\x00\x7f\xf0" + b"\x00\x00" * 0x7FF0, TOO_MANY),
        (b"\xdd\xff\xff\xff\xff" * 3, "an array has 4294967295 elements: no message has as many"),
        (b"\xdf\xff\xff\xff\xff\xc0\xc0", "the message is cut off after 7 bytes"),
        (b"\x81\xc0\xdf\xff\xff\xff\xff", "the message is cut off after 7 bytes"),
        (b"\x81\xc0\xc9\xff\xff\xff\xff\x01", "the message is cut off after 8 bytes"),
        (b"\x81\xdb\xff\xff\xff\xffx", "the message is cut off after 7 bytes"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_messagepack_is_said(body: bytes, message: str) -> None:
    assert refusal(lambda: decode_request_msgpack(body)) == message


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("", "not JSON: Expecting value at character 0"),
        ("\ufeff{}", "not JSON: Expecting value at character 0"),
        ('{"type":"QUERY_RUNNING"}\xa0', "not JSON: Extra data at character 24"),
        ('"a', "not JSON: Unterminated string starting at character 0"),
        ('{"type":"QUERY_RUNNING","x":[' + "0," * 997 + "0]}", TOO_MANY),
        pytest.param("[" * 60_000, TOO_MANY, id="deep arrays"),
        pytest.param('{"a":' * 12_000, TOO_MANY, id="deep objects"),
        ('["QUERY_RUNNING",-Infinity]', "not JSON: -Infinity"),
        ('{"type":"QUERY_RUNNING","x":1e999}', "not JSON: a number is out of range"),
        pytest.param("9" * 100_000, "not JSON: a number is out of range", id="long number"),
        (r'{"type":"QUERY_RUNNING","x":"\uDC00"}', "not JSON: half a surrogate pair"),
        (r'{"type":"QUERY_RUNNING","\ud83d\u0041":0}', "not JSON: half a surrogate pair"),
        (r'{"type":"QUERY_RUNNING","x":"\\\ud83d\ud83d\ude00"}', "not JSON: half a surrogate pair"),
        ("{}", f"type is missing: expected one of {TAGS}"),
        ("[]", f"type is missing: expected one of {TAGS}"),
        ("[1,7]", f"type is 1: expected one of {TAGS}"),
        ('{"type":["QUERY_RUNNING"]}', f"type is {COMPOUND}: expected one of {TAGS}"),
        ('{"type":"TERMINATE_APP","0":7}', f"TERMINATE_APP: session_id is missing: {UNSIGNED}"),
        ('["TERMINATE_APP",7,8]', "TERMINATE_APP: the number of fields is 2: expected 1"),
        (
            '["TERMINATE_APP",18446744073709551616]',
            f"TERMINATE_APP: session_id is 18446744073709551616: {UNSIGNED}",
        ),
        ('["TERMINATE_APP",1e400]', "not JSON: a number is out of range"),
        ('["TERMINATE_APP",null]', f"TERMINATE_APP: session_id is null: {UNSIGNED}"),
        ('["TERMINATE_APP",false]', f"TERMINATE_APP: session_id is false: {UNSIGNED}"),
        (
            '{"type":"SUBSCRIBE","session_id":1,"session_id":1}',
            "the key 'session_id' is there more than once",
        ),
    ],
)
def test_what_is_wrong_with_json_is_said(written: str, message: str) -> None:
    assert refusal(lambda: decode_request_json(written)) == message


@pytest.mark.parametrize(
    "written",
    [
        ' {\t"x" : [ ] ,\r\n"\\u0074ype" : "SUBSCRIBE" , "session_id" : 7 } ',
        r'{"type":"SUBSCRIBE","session_id":7,"x":"\ud83d\ude00","y":"\\ud83d","\\\\ud83d":"\\\\\\udc00"}',
        '{"type":"SUBSCRIBE","session_id":7,"app_id":1,"app_id":[{"type":0,"type":0}],"x":-0}',
        '{"type":"SUBSCRIBE","session_id":7,"x":' + "[" * 100 + "]" * 100 + "}",
    ],
)
def test_json_has_many_ways_to_say_the_same(written: str) -> None:
    assert is_same(decode_request_json(written), Subscribe(7))


def test_json_numbers_are_floats_where_a_float_is_wanted() -> None:
    written = '["PANEL_GESTURE",0,4294967295,-0,123456789012345678901234567890]'
    assert is_same(decode_request_json(written), PanelGesture(0, 2**32 - 1, -0.0, 1.2345678901234568e29))


def test_what_may_be_nil_may_be_missing_except_in_an_array() -> None:
    assert is_same(decode_request_json('{"type":"SUBSCRIBE"}'), Subscribe(None))
    assert is_same(decode_request_msgpack(pack({"type": "SUBSCRIBE"})), Subscribe(None))
    session = {"session_id": 1, "app_id": "a.b.c", "state": "starting", "launched": 1.5}
    expected = SessionInfo(1, "a.b.c", State.STARTING, None, 1.5, None, None, None, None, None)
    assert decode_response_msgpack(pack({"type": "SESSIONS", "sessions": [session]})) == Sessions(
        (expected,)
    )
    assert "the number of fields is 0" in refusal(lambda: decode_request_json('["SUBSCRIBE"]'))


FIELDS = {
    "session_id": 1, "app_id": "a", "surface_id": 1, "payload": "", "gesture_type": 1, "fingers": 1,
    "dx": 1, "dy": 1, "sessions": [], "state": "stopped", "apps": [], "code": 1, "message": "",
}  # fmt: skip
"""What any message needs, and more."""


@pytest.mark.parametrize(
    ("decode", "indexed", "first", "last"),
    [
        (decode_request_msgpack, 7, "LaunchApp", "PanelGesture"),
        (decode_response_msgpack, 8, "LaunchAck", "Error"),
    ],
)
def test_only_messages_of_the_existing_system_have_an_index(
    decode: Callable[[bytes], object], indexed: int, first: str, last: str
) -> None:
    found = [type(decode(pack({"type": index, **FIELDS}))).__name__ for index in range(indexed)]
    assert (found[0], found[-1]) == (first, last)
    assert refusal(lambda: decode(pack({"type": indexed, **FIELDS}))).startswith(f"type is {indexed}: ")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (["APP_STATE", 1, "asleep"],
         "APP_STATE: state is 'asleep': expected one of starting, running, stopping, stopped, not_found"),
        (["APP_STATE", 1, 3], "APP_STATE: state is 3: expected one of starting"),
        (["RUNNING_APPS", {}], f"RUNNING_APPS: sessions is {COMPOUND}: expected an array"),
        (["RUNNING_APPS", None], "RUNNING_APPS: sessions is null: expected an array"),
        (["RUNNING_APPS", [[1, "a"], 7]], "RUNNING_APPS: sessions[1] is 7: expected an array or a map"),
        (["RUNNING_APPS", [[1, "a", 0]]],
         "RUNNING_APPS: sessions[0]: the number of fields is 3: expected 2"),
        (["RUNNING_APPS", [{"session_id": 1}]],
         "RUNNING_APPS: sessions[0]: app_id is missing: expected a string"),
        (["INSTALLED_APPS", [["a", "b", ["c"]]]],
         f"INSTALLED_APPS: apps[0]: version is {COMPOUND}: expected a string"),
        (["ERROR", 2**32, ""], "ERROR: code is 4294967296: expected an integer from 0 to 4294967295"),
        (["DAEMON_STATUS", "1", 1, 0.5, None, None, 0, 0, 0, "", [], ["cpu", 7], None, 0],
         "DAEMON_STATUS: controllers[1] is 7: expected a string"),
        (["DAEMON_STATUS", "1", 1, 0.5, None, None, 0, 0, 0, "", [], "cpu", None, 0],
         "DAEMON_STATUS: controllers is 'cpu': expected an array"),
        (["LAUNCH_APP", "a", 0], "type is 'LAUNCH_APP': expected one of LAUNCH_ACK"),
    ],
)  # fmt: skip
def test_a_wrong_response_is_refused(body: Sequence[object], message: str) -> None:
    assert refusal(lambda: decode_response_msgpack(pack(body))).startswith(message)
    assert refusal(lambda: decode_response_json(json.dumps(body))).startswith(message)


def test_what_looks_like_an_element_in_a_string_is_none() -> None:
    payload = '[{,:"' * 10_000 + "\\"
    text = json.dumps({"type": "IPC_FORWARD", "session_id": 7, "payload": payload})
    assert decode_request_json(text) == IpcForward(7, payload)
    text = '{"type":"TERMINATE_APP","session_id":7,"x":[' + "0," * 990 + "0]}"
    assert decode_request_json(text) == TerminateApp(7)
