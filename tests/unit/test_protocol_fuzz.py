# SPDX-License-Identifier: Apache-2.0
"""Hostile input for weft_runtime.wire: no exception but ProtocolError, no hang, bounded memory."""

import gc
import json
import os
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from weft_runtime.framing import FRAME_MAX, FrameReader, FramingError, frame
from weft_runtime.protocol import ProtocolError
from weft_runtime.wire import (
    decode_request_json,
    decode_request_msgpack,
    decode_response_json,
    decode_response_msgpack,
    encode_json,
    encode_msgpack,
)

SOAK = os.environ.get("WEFT_SOAK") == "1"
FRAMES = 1_000_000 if SOAK else 5_000
SIZE = FRAME_MAX
"""Of the hostile bodies: what a byte of them costs does not depend on it, and tracemalloc is slow."""

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
LINES = [
    json.loads(line)
    for name in ("requests", "responses", "decode_msgpack", "decode_json")
    for line in (VECTORS / f"{name}.jsonl").read_text().splitlines()
]
BODIES = [bytes.fromhex(line["msgpack_hex"]) for line in LINES if "msgpack_hex" in line]
TEXTS = [line.get("json", line.get("text")) for line in LINES if "json" in line or "text" in line]

PIECES = [
    b"\xc0", b"\xc1", b"\xc3", b"\x00", b"\xff", b"\x80", b"\x90", b"\x91", b"\x81\x00", b"\xa4type",
    b"\xa1\xff", b"\xc4\x01x", b"\xc7\x03\x01abc", b"\xd4\xff\x00", b"\xca\x7f\x80\x00\x00", b"\xd9\x02ab",
    b"\xcb" + bytes(8), b"\xcc\x07", b"\xcf" + b"\xff" * 8, b"\xd3" + b"\xff" * 8, b"\xdb\xff\xff\xff\xff",
    b"\xdc\x00\x02", b"\xc9\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdf\x80\x00\x00\x00",
    b"\xaasession_id", b"\xaeQUERY_SESSIONS",
]  # fmt: skip
JSON_PIECES = [
    "{", "}", "[", "]", ",", ":", '"', "\\", "\\ud800", "\\udc00", "\\u00", "\x00", "\n", "\ufeff", "é",
    "🦀", "-", "+", "0", "1e999", "-0", "NaN", "Infinity", "null", "true", '"type":', '"session_id":',
    '{"type":1}', "9" * 400, "[" * 400,
]  # fmt: skip


def mutated(rng: random.Random, body: bytes) -> bytes:
    changed = bytearray(body)
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(5):
            case 0:
                changed[at : at + 1] = rng.randbytes(1)
            case 1:
                del changed[at : at + rng.randrange(4)]
            case 2:
                changed[at:at] = rng.choice(PIECES)
            case 3:
                changed[at:] = changed[at:] * 2
            case _:
                del changed[at:]
    return bytes(changed)


def mutated_text(rng: random.Random, text: str) -> str:
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(text) + 1)
        to = at + rng.choice([0, 0, 1, 4])
        text = text[:at] + rng.choice(["", *JSON_PIECES]) + text[to:]
    return text


def random_body(rng: random.Random) -> bytes:
    kind = rng.randrange(10)
    if kind == 0:
        return rng.randbytes(rng.randrange(40))
    if kind == 1:
        return b"".join(rng.choices(PIECES, k=rng.randrange(1, 12)))
    return mutated(rng, rng.choice(BODIES))


def check(error: ProtocolError) -> None:
    text = str(error)
    assert text.isprintable()
    assert 0 < len(text) < 3000


def decode(body: bytes, text: str) -> int:
    """Give both to all decoders; how many took it. What one has taken, encodes and decodes to itself."""
    taken = 0
    for decode_body, decode_text in (
        (decode_request_msgpack, decode_request_json),
        (decode_response_msgpack, decode_response_json),
    ):
        try:
            message = decode_body(body)
        except ProtocolError as error:
            check(error)
        else:
            taken += 1
            assert repr(decode_body(encode_msgpack(message))) == repr(message)
        try:
            message = decode_text(text)
        except ProtocolError as error:
            check(error)
        else:
            taken += 1
            assert repr(decode_text(encode_json(message))) == repr(message)
    return taken


def receive(rng: random.Random, stream: bytes) -> list[bytes]:
    """The bodies in `stream`, which comes in pieces and may break off."""
    reader = FrameReader(limit=512)
    bodies = []
    while stream:
        piece, stream = stream[: (size := rng.randrange(1, 64))], stream[size:]
        try:
            bodies += reader.feed(piece)
        except FramingError as error:
            return bodies + error.bodies
        assert len(reader.pending) < 4 + 512
    return bodies


def split(stream: bytes) -> list[bytes]:
    """What `receive` must find, in the plainest way."""
    bodies = []
    while len(stream) >= 4 and 0 < (length := int.from_bytes(stream[:4], "little")) <= min(
        512, len(stream) - 4
    ):
        bodies.append(stream[4 : 4 + length])
        stream = stream[4 + length :]
    return bodies


@pytest.mark.soak
def test_random_and_mutated_frames_are_taken_or_refused() -> None:
    rng = random.Random(20260313)
    done = taken = 0
    while done < FRAMES:
        stream = b"".join(frame(random_body(rng)) for _ in range(10))
        if rng.randrange(5) == 0:
            stream = mutated(rng, stream)
        bodies = receive(rng, stream)
        assert bodies == split(stream)
        for body in bodies:
            taken += decode(body, mutated_text(rng, rng.choice(TEXTS)))
        done += 10
    assert taken > FRAMES // 4, "most of what was sent is too wrong to test much"


@pytest.mark.soak
def test_nothing_is_left_behind_by_what_is_refused() -> None:
    rng = random.Random(1)
    repeats = 2 + FRAMES // 10_000
    frames = [(random_body(rng), mutated_text(rng, rng.choice(TEXTS))) for _ in range(1000)]

    def run() -> None:
        for body, text in frames:
            decode(body, text)

    run()
    tracemalloc.start()
    try:
        run()
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(repeats):
            run()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Python's own free lists fill up for a while; an object kept of each message would be 28 bytes each.
    assert after - before < 10 * len(frames) * repeats


def filled(head: bytes, piece: bytes, header: bytes = b"") -> bytes:
    """Almost SIZE bytes: `head`, then `piece` over and over, as an array or map if there is a `header`."""
    count = (SIZE - len(head)) // len(piece)
    return head + (header + count.to_bytes(4, "big") if header else b"") + piece * count


ARRAY, MAP = b"\xdd", b"\xdf"
KEY = b"\x82\xa4type\xadQUERY_RUNNING\xa1x"
LONG = (SIZE - 100).to_bytes(4, "big")
HOSTILE = {
    "headers of arrays": filled(b"", b"\xdd\xff\xff\xff\xff"),
    "headers of maps": filled(b"", b"\xdf\xff\xff\xff\xff"),
    "headers below a key": filled(KEY, b"\xdd\xff\xff\xff\xff"),
    "headers of what is there": filled(KEY + (ARRAY + (SIZE // 2).to_bytes(4, "big")) * 100, b"\x00"),
    "nested arrays": filled(KEY, b"\x91"),
    "nested maps": filled(KEY, b"\x81\xc0"),
    "long extension": b"\x81\xa1x\xc9" + LONG + b"\x01" + bytes(SIZE - 100),
    "extension of 4 GiB": b"\x81\xa1x\xc9\xff\xff\xff\xff\x01" + bytes(1000),
    "string of 4 GiB": b"\x92\xadTERMINATE_APP\xdb\xff\xff\xff\xff" + bytes(1000),
    "string for a number": b"\x92\xadTERMINATE_APP\xdb" + LONG + bytes(SIZE - 100),
    "long key": b"\x81\xdb" + LONG + bytes(SIZE - 100) + b"\xc0",
    "empty maps below a key": filled(KEY, b"\x80", ARRAY),
    "empty arrays for fields": filled(b"", b"\x90", ARRAY),
    "the same key": filled(b"", b"\xa2dx\x00", MAP),
    "the same index": filled(b"", b"\x00\x00", MAP),
    "unknown keys": filled(b"", b"\xa1x\x00", MAP),
    "keys that are none": filled(b"", b"\xc0\xc0", MAP),
    "sessions that are none": filled(b"\x92\xacRUNNING_APPS", b"\x80", ARRAY),
    "very many sessions": filled(b"\x92\xacRUNNING_APPS", b"\x92\x00\xa0", ARRAY),
}
HOSTILE_JSON = [
    "[],",
    "{},",
    '{"dx":0},',
    '{"":0},',
    "0,",
    "-0,",
    "1.5,",
    "999,",
    '"ab",',
    '"\\ud83d\\ude00",',
]


def peak_of(decode: Callable[[], object]) -> int:
    """The most bytes that `decode` had allocated at a time; a message or a ProtocolError must come of it."""
    tracemalloc.start()
    try:
        decode()
    except ProtocolError as error:
        check(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak


@pytest.mark.soak
@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_frame_costs_little_memory(body: bytes) -> None:
    # A request's text is copied once to be taken out and once to be decoded.
    assert peak_of(lambda: decode_request_msgpack(body)) < 3 * len(body) + 10_000
    # Our client makes records of what the daemon sends, whose smallest is one byte.
    assert peak_of(lambda: decode_response_msgpack(body)) < 100 * len(body) + 10_000


@pytest.mark.soak
@pytest.mark.parametrize("piece", HOSTILE_JSON)
def test_a_hostile_text_costs_bounded_memory(piece: str) -> None:
    text = f'{{"type":"QUERY_RUNNING","x":[{piece * (SIZE // len(piece))}0]}}'
    assert peak_of(lambda: decode_request_json(text)) < 40 * len(text)


def test_the_largest_frame_costs_its_own_size_thrice() -> None:
    data = frame(bytes(FRAME_MAX))

    def feed() -> None:
        reader = FrameReader()
        for at in range(0, len(data), 65536):
            reader.feed(data[at : at + 65536])

    assert peak_of(feed) < 3.5 * len(data)


def test_an_announced_frame_costs_nothing() -> None:
    def feed() -> None:
        with pytest.raises(FramingError):
            FrameReader().feed(b"\xff\xff\xff\xff")

    assert peak_of(feed) < 10_000
