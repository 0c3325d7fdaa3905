# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.protocol, wire and framing: the messages in both encodings, and the frames.

What its decoders take beside that is in test_protocol_decoding.py.
"""

import json
import math
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import get_args

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft_runtime.framing import FRAME_MAX, EmptyFrame, FrameReader, FrameTooLarge, FramingError, frame
from weft_runtime.protocol import (
    AppReady,
    AppState,
    DaemonSettings,
    DaemonStatus,
    Details,
    Error,
    ErrorCode,
    Forget,
    Forgotten,
    InstalledApp,
    InstalledApps,
    IpcForward,
    IpcMessage,
    LaunchAck,
    LaunchApp,
    LimitInfo,
    NavigationGesture,
    PanelGesture,
    ProtocolError,
    QueryAppState,
    QueryDetails,
    QueryInstalledApps,
    QueryRunning,
    QuerySessions,
    QuerySettings,
    QueryStatus,
    QueryWaiting,
    RefusedList,
    Reload,
    Reloaded,
    Request,
    Response,
    Restore,
    Restoring,
    RunningApp,
    RunningApps,
    SessionDetails,
    SessionInfo,
    Sessions,
    State,
    Subscribe,
    Subscribed,
    TerminateApp,
    Waiting,
    WaitingApp,
    unknown_session,
)
from weft_runtime.wire import (
    decode_request_json,
    decode_request_msgpack,
    decode_response_json,
    decode_response_msgpack,
    encode_json,
    encode_msgpack,
)

ROOT = Path(__file__).resolve().parents[2]
VECTORS = ROOT / "tests/vectors"
DOCUMENT = (ROOT / "docs/protocol.md").read_text()

U32_MAX, U64_MAX = 2**32 - 1, 2**64 - 1

# The wire, written down once more: a renamed class or field must not go unnoticed.
RUNNING_APP = "{session_id u64, app_id str}"
INSTALLED_APP = "{app_id str, name str, version str}"
LIMIT = "{name str, value str}"
WAITING_APP = "{app_id str, reason str or nil, since f64, attempts u64, due f64 or nil}"
REFUSED = "{path str, reason str}"
STATUS = (
    "version str, pid u64, since f64, runtime str or nil, runtime_problem str or nil, "
    "live u64, starting u64, clients u64, log str"
)
SESSION = (
    "{session_id u64, app_id str, state state, pid u64 or nil, launched f64, ready f64 or nil, "
    "stopped f64 or nil, exit_status u64 or nil, signal str or nil, reason str or nil}"
)
DETAILS = (
    "{session_id u64, version str or nil, launched_by str or nil, package str or nil, data str or nil, "
    "memory u64 or nil, memory_peak u64 or nil, cpu f64 or nil}"
)
REQUESTS: dict[str, tuple[type, str]] = {
    "LAUNCH_APP": (LaunchApp, "app_id str, surface_id u64"),
    "TERMINATE_APP": (TerminateApp, "session_id u64"),
    "QUERY_RUNNING": (QueryRunning, ""),
    "QUERY_APP_STATE": (QueryAppState, "session_id u64"),
    "QUERY_INSTALLED_APPS": (QueryInstalledApps, ""),
    "IPC_FORWARD": (IpcForward, "session_id u64, payload str"),
    "PANEL_GESTURE": (PanelGesture, "gesture_type u32, fingers u32, dx f64, dy f64"),
    "SUBSCRIBE": (Subscribe, "session_id u64 or nil"),
    "QUERY_SESSIONS": (QuerySessions, ""),
    "RELOAD": (Reload, ""),
    "QUERY_STATUS": (QueryStatus, ""),
    "QUERY_DETAILS": (QueryDetails, ""),
    "QUERY_SETTINGS": (QuerySettings, ""),
    "QUERY_WAITING": (QueryWaiting, ""),
    "RESTORE": (Restore, "app_id str or nil"),
    "FORGET": (Forget, "app_id str or nil"),
}
RESPONSES: dict[str, tuple[type, str]] = {
    "LAUNCH_ACK": (LaunchAck, "session_id u64, app_id str"),
    "APP_READY": (AppReady, "session_id u64, app_id str"),
    "RUNNING_APPS": (RunningApps, f"sessions list of {RUNNING_APP}"),
    "APP_STATE": (AppState, "session_id u64, state state"),
    "INSTALLED_APPS": (InstalledApps, f"apps list of {INSTALLED_APP}"),
    "IPC_MESSAGE": (IpcMessage, "session_id u64, payload str"),
    "NAVIGATION_GESTURE": (NavigationGesture, "gesture_type u32, fingers u32, dx f64, dy f64"),
    "ERROR": (Error, "code u32, message str"),
    "SUBSCRIBED": (Subscribed, "session_id u64 or nil"),
    "SESSIONS": (Sessions, f"sessions list of {SESSION}"),
    "RELOADED": (Reloaded, "version str"),
    "DAEMON_STATUS": (
        DaemonStatus,
        f"{STATUS}, limits list of {LIMIT}, controllers list of str, fork_server u64 or nil, spares u64",
    ),
    "DETAILS": (Details, f"sessions list of {DETAILS}"),
    "DAEMON_SETTINGS": (DaemonSettings, f"settings list of {LIMIT}"),
    "WAITING": (Waiting, f"apps list of {WAITING_APP}, refused list of {REFUSED}, problem str or nil"),
    "RESTORING": (Restoring, f"apps list of str, refused list of {REFUSED}, problem str or nil"),
    "FORGOTTEN": (
        Forgotten,
        f"apps list of str, lists list of str, refused list of {REFUSED}, problem str or nil",
    ),
}


def vectors(name: str) -> list[object]:
    lines = map(json.loads, (VECTORS / f"{name}.jsonl").read_text().splitlines())
    return [pytest.param(line, id=line["name"]) for line in lines]


u32, u64 = st.integers(0, U32_MAX), st.integers(0, U64_MAX)
f64 = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(exclude_categories=["Cs"]))
records: Mapping[str, st.SearchStrategy[object]] = {
    RUNNING_APP: st.builds(RunningApp, u64, text),
    INSTALLED_APP: st.builds(InstalledApp, text, text, text),
    LIMIT: st.builds(LimitInfo, text, text),
    WAITING_APP: st.builds(WaitingApp, text, st.none() | text, f64, u64, st.none() | f64),
    REFUSED: st.builds(RefusedList, text, text),
    "str": text,
    SESSION: st.builds(
        SessionInfo, u64, text, st.sampled_from(State), st.none() | u64, f64, st.none() | f64,
        st.none() | f64, st.none() | u64, st.none() | text, st.none() | text,
    ),
    DETAILS: st.builds(
        SessionDetails, u64, st.none() | text, st.none() | text, st.none() | text, st.none() | text,
        st.none() | u64, st.none() | u64, st.none() | f64,
    ),
}  # fmt: skip
kinds = {"u32": u32, "u64": u64, "f64": f64, "str": text, "state": st.sampled_from(State)}


def values(field: str) -> st.SearchStrategy[object]:
    """Values of a field as the tables above describe it."""
    _, kind = field.split(" ", 1)
    if kind.startswith("list of "):
        return st.lists(records[kind.removeprefix("list of ")], max_size=3).map(tuple)
    return kinds[kind.removesuffix(" or nil")] | (st.none() if kind.endswith(" or nil") else st.nothing())


def messages(table: Mapping[str, tuple[type, str]]) -> st.SearchStrategy[object]:
    strategies = []
    for cls, fields in table.values():
        names = re.split(r", (?![^{]*})", fields) if fields else []
        strategies.append(st.builds(cls, *map(values, names)))
    return st.one_of(strategies)


requests: st.SearchStrategy[Request] = messages(REQUESTS)  # type: ignore[assignment]  # built from a table
responses: st.SearchStrategy[Response] = messages(RESPONSES)  # type: ignore[assignment]  # likewise


def same(one: object, other: object) -> bool:
    """Equal, and of the same class: of two tuples the first does not imply the second."""
    return type(one) is type(other) and one == other and repr(one) == repr(other)


def plain(value: object) -> object:
    """A message's values without its classes."""
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value.value if isinstance(value, State) else value


def named(message: object) -> dict[str, object]:
    """A message's values by the names of its fields."""
    assert isinstance(message, tuple)
    return {
        name: [named(item) if isinstance(item, tuple) else item for item in value]
        if isinstance(value, tuple)
        else value
        for name, value in zip(message._fields, message, strict=True)  # type: ignore[attr-defined]  # NamedTuple
    }


def tag(message: object, table: Mapping[str, tuple[type, str]]) -> str:
    return next(name for name, (cls, _) in table.items() if type(message) is cls)


def pack(value: object) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def refusal(decode: Callable[[], object]) -> str:
    with pytest.raises(ProtocolError) as caught:
        decode()
    assert str(caught.value).isprintable()
    return str(caught.value)


# The vectors.


@pytest.mark.parametrize("vector", [*vectors("requests"), *vectors("seed_requests")])
def test_requests_are_on_the_wire_as_they_always_were(vector: Mapping[str, str]) -> None:
    body = bytes.fromhex(vector["msgpack_hex"])
    message = decode_request_msgpack(body)
    assert encode_msgpack(message) == body
    assert frame(body).hex() == vector["frame_hex"]
    assert encode_json(message) == vector["json"]
    assert repr(plain(message)) == repr(msgpack.unpackb(body)[1:])
    if vector["name"].endswith("/nan"):
        assert "is null: expected a number" in refusal(lambda: decode_request_json(vector["json"]))
    else:
        assert same(decode_request_json(vector["json"]), message)


@pytest.mark.parametrize("vector", vectors("responses"))
def test_responses_are_on_the_wire_as_they_always_were(vector: Mapping[str, str]) -> None:
    body = bytes.fromhex(vector["msgpack_hex"])
    message = decode_response_msgpack(body)
    assert encode_msgpack(message) == body
    assert frame(body).hex() == vector["frame_hex"]
    assert encode_json(message) == vector["json"]
    if vector["name"].endswith("/nan"):
        assert "is null: expected a number" in refusal(lambda: decode_response_json(vector["json"]))
    else:
        assert same(decode_response_json(vector["json"]), message)


@pytest.mark.parametrize("vector", vectors("decode_msgpack"))
def test_messagepack_is_taken_or_refused_as_it_always_was(vector: Mapping[str, str]) -> None:
    body = bytes.fromhex(vector["msgpack_hex"])
    if vector["accepted"]:
        assert encode_json(decode_request_msgpack(body)) == vector["decoded"]
    else:
        refusal(lambda: decode_request_msgpack(body))


@pytest.mark.parametrize("vector", vectors("decode_json"))
def test_json_is_taken_or_refused_as_it_always_was(vector: Mapping[str, str]) -> None:
    if vector["accepted"]:
        assert encode_json(decode_request_json(vector["text"])) == vector["decoded"]
    else:
        refusal(lambda: decode_request_json(vector["text"]))


# Every message, in every form.


def test_the_messages_are_those_of_the_tables_above() -> None:
    assert [cls for cls, _ in REQUESTS.values()] == list(get_args(Request))
    assert [cls for cls, _ in RESPONSES.values()] == list(get_args(Response))


@given(requests)
def test_a_request_is_an_array_of_its_tag_and_fields(message: Request) -> None:
    body = encode_msgpack(message)
    assert msgpack.unpackb(body) == [tag(message, REQUESTS), *map(plain, message)]
    assert same(decode_request_msgpack(body), message)
    assert same(decode_request_json(json.dumps(msgpack.unpackb(body))), message)


@given(responses)
def test_a_response_is_an_array_of_its_tag_and_fields(message: Response) -> None:
    body = encode_msgpack(message)
    assert msgpack.unpackb(body) == [tag(message, RESPONSES), *map(plain, message)]
    assert same(decode_response_msgpack(body), message)
    assert same(decode_response_json(json.dumps(msgpack.unpackb(body))), message)


@given(requests)
def test_a_request_is_an_object_with_its_type_first(message: Request) -> None:
    written = encode_json(message)
    members = {"type": tag(message, REQUESTS), **named(message)}
    assert json.loads(written) == members
    assert list(json.loads(written)) == list(members)
    assert same(decode_request_json(written), message)


@given(responses)
def test_a_response_is_an_object_with_its_type_first(message: Response) -> None:
    written = encode_json(message)
    members = {"type": tag(message, RESPONSES), **named(message)}
    assert json.loads(written) == members
    assert list(json.loads(written)) == list(members)
    assert same(decode_response_json(written), message)


@given(requests, st.randoms(use_true_random=False))
def test_the_keys_of_a_map_may_stand_in_any_order_beside_others(message: Request, random: object) -> None:
    members = [*named(message).items(), ("type", tag(message, REQUESTS)), ("", [{}]), ("x", {"type": 1})]
    random.shuffle(members)  # type: ignore[attr-defined]  # Hypothesis has no name for the type
    assert same(decode_request_msgpack(pack(dict(members))), message)
    assert same(decode_request_json(json.dumps(dict(members))), message)


@given(responses)
def test_the_records_of_a_list_may_be_maps(message: Response) -> None:
    members = {"type": tag(message, RESPONSES), **named(message)}
    assert same(decode_response_msgpack(pack(members)), message)


def test_our_own_messages_are_what_the_document_says() -> None:
    assert encode_msgpack(Subscribe(None)) == b"\x92\xa9SUBSCRIBE\xc0"
    assert encode_msgpack(Subscribe(7)) == b"\x92\xa9SUBSCRIBE\x07"
    assert encode_msgpack(QuerySessions()) == b"\x91\xaeQUERY_SESSIONS"
    assert encode_json(Subscribed(None)) == '{"type":"SUBSCRIBED","session_id":null}'
    assert encode_json(Reloaded("1.2")) == '{"type":"RELOADED","version":"1.2"}'
    session = SessionInfo(7, "a.b.c", State.STOPPED, None, 1, 2.5, 3, 134, "SIGABRT", "it trapped")
    assert encode_json(Sessions((session,))) == (
        '{"type":"SESSIONS","sessions":[{"session_id":7,"app_id":"a.b.c","state":"stopped","pid":null,'
        '"launched":1.0,"ready":2.5,"stopped":3.0,"exit_status":134,"signal":"SIGABRT",'
        '"reason":"it trapped"}]}'
    )
    assert encode_msgpack(Sessions((session,)))[11:] == (
        b"\x9a\x07\xa5a.b.c\xa7stopped\xc0" + struct.pack(">BdBdBd", 0xCB, 1, 0xCB, 2.5, 0xCB, 3)
        + b"\xcc\x86\xa7SIGABRT\xaait trapped"
    )  # fmt: skip


def test_an_error_code_travels_as_its_number() -> None:
    error = Error(ErrorCode.PACKAGE_NOT_FOUND, "no such package")
    assert encode_msgpack(error) == b"\x93\xa5ERROR\x05\xafno such package"
    assert encode_json(error) == '{"type":"ERROR","code":5,"message":"no such package"}'
    assert decode_response_msgpack(encode_msgpack(Error(99, "from a later release"))) == (
        99,
        "from a later release",
    )


def test_an_unknown_session_is_told_in_the_words_of_the_existing_system() -> None:
    assert unknown_session(999) == Error(ErrorCode.UNKNOWN_SESSION, "session 999 not found")


@pytest.mark.parametrize(
    ("number", "written"),
    [
        (1.0, "1.0"), (1, "1.0"), (-0.0, "-0.0"), (0.1, "0.1"), (0.0001, "0.0001"), (0.00012, "0.00012"),
        (0.00001, "0.00001"), (-0.00001, "-0.00001"), (0.000015, "0.000015"), (1e-6, "1e-6"),
        (9.87654321e-5, "0.0000987654321"), (-1.5e-7, "-1.5e-7"), (1e-10, "1e-10"), (5e-324, "5e-324"),
        (1e15, "1000000000000000.0"), (1e16, "1e+16"), (1.5e300, "1.5e+300"),
        (math.inf, "null"), (-math.inf, "null"), (math.nan, "null"),
    ],
)  # fmt: skip
def test_a_float_is_written_as_the_existing_system_does(number: float, written: str) -> None:
    assert encode_json(NavigationGesture(0, 0, number, 0)).split('"dx":')[1] == f'{written},"dy":0.0}}'


@given(f64)
def test_a_written_float_is_the_same_number(number: float) -> None:
    written = encode_json(NavigationGesture(0, 0, number, 0)).split('"dx":')[1].split(",")[0]
    assert float(written).hex() == number.hex()


# Frames.


@given(st.lists(st.binary(min_size=1, max_size=300)), st.data())
def test_frames_come_out_whole_however_they_are_cut(bodies: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(frame, bodies))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader = FrameReader()
    found = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        if data.draw(st.booleans()):  # its connection goes over to another process
            reader = FrameReader(reader.pending)
        found += reader.feed(stream[begin:end])
        assert reader.mid_frame == (b"".join(map(frame, found)) != stream[:end])
        assert b"".join(map(frame, found)) + reader.pending == stream[:end]
    assert found == bodies


def test_bytes_that_another_reader_left_may_be_whole_frames() -> None:
    assert FrameReader(frame(b"one") + frame(b"two")).feed(b"") == [b"one", b"two"]


def test_a_frame_of_just_the_limit_is_taken() -> None:
    assert FrameReader().feed(frame(bytes(FRAME_MAX))) == [bytes(FRAME_MAX)]


@pytest.mark.parametrize(
    ("header", "error", "message", "code"),
    [
        (b"\x01\x00\x01\x00", FrameTooLarge, "a frame announces 65537 bytes, the limit is 65536", 3),
        (b"\xff\xff\xff\xff", FrameTooLarge, "a frame announces 4294967295 bytes, the limit is 65536", 3),
        (b"\x00\x00\x00\x00", EmptyFrame, "a frame is empty", 2),
    ],
)
def test_a_frame_of_a_wrong_length_ends_the_stream(
    header: bytes, error: type[FramingError], message: str, code: int
) -> None:
    reader = FrameReader()
    assert reader.feed(frame(b"one") + header[:3]) == [b"one"]
    for _ in range(2):
        with pytest.raises(error) as caught:
            reader.feed(header[3:])
        assert (str(caught.value), caught.value.code, caught.value.bodies) == (message, code, [])
        assert reader.mid_frame


def test_frames_before_a_wrong_one_are_not_lost() -> None:
    with pytest.raises(EmptyFrame) as caught:
        FrameReader().feed(frame(b"one") + frame(b"two") + frame(b"") + frame(b"three"))
    assert caught.value.bodies == [b"one", b"two"]


def test_the_limit_is_the_readers_own() -> None:
    assert FrameReader(limit=5).feed(frame(b"12345")) == [b"12345"]
    with pytest.raises(FrameTooLarge, match="a frame announces 6 bytes, the limit is 5"):
        FrameReader(limit=5).feed(frame(b"123456"))


# The document.


def rows(heading: str) -> list[list[str]]:
    """The cells of the tables below a heading of docs/protocol.md."""
    section = DOCUMENT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [
        re.split(r"\s*\|\s*", line.strip("| ")) for line in section.splitlines() if line.startswith("| ")
    ][2:]


def test_every_error_code_is_in_the_document_with_its_meaning() -> None:
    assert rows("Errors") == [[str(int(code)), code.meaning] for code in ErrorCode]
    assert all(code.meaning.isprintable() for code in ErrorCode)


@pytest.mark.parametrize(("heading", "table"), [("Requests", REQUESTS), ("Answers and pushes", RESPONSES)])
def test_every_message_is_in_the_document_with_its_fields(
    heading: str, table: Mapping[str, tuple[type, str]]
) -> None:
    documented = [(row[0], row[1].replace("`", "")) for row in rows(heading)]
    assert documented == [(f"`{name}`", fields or "none") for name, (_, fields) in table.items()]


def test_the_limit_of_a_frame_is_in_the_document() -> None:
    assert f"({FRAME_MAX} bytes)" in DOCUMENT


def test_the_frames_in_the_document_are_right() -> None:
    lines = [
        line.partition(" APP_STATE 1")[0] for line in DOCUMENT.splitlines() if re.match("1[04]000000 ", line)
    ]
    sent, answered = (bytes.fromhex(line) for line in lines)
    assert sent == frame(encode_msgpack(TerminateApp(1)))
    assert answered == frame(encode_msgpack(AppState(1, State.STOPPED)))
