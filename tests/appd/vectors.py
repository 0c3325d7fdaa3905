# SPDX-License-Identifier: Apache-2.0
"""The exact bytes of the protocol, from tests/vectors."""

import json
from pathlib import Path
from typing import NamedTuple

_DIRECTORY = Path(__file__).resolve().parents[1] / "vectors"


class Message(NamedTuple):
    """One message in both encodings."""

    name: str
    frame: bytes
    body: bytes
    text: str


class Attempt(NamedTuple):
    """Something that a client may send, and the request that it is taken for: in JSON, None if refused."""

    name: str
    sent: str
    """The text, or the whole frame in hexadecimal."""
    decoded: str | None


def messages(name: str) -> list[Message]:
    return [
        Message(vector["name"], bytes.fromhex(vector["frame_hex"]), bytes.fromhex(vector["msgpack_hex"]), vector["json"])
        for vector in _read(name)
    ]  # fmt: skip


def attempts(name: str, key: str) -> list[Attempt]:
    return [Attempt(vector["name"], vector[key], vector.get("decoded")) for vector in _read(name)]


def _read(name: str) -> list[dict[str, str]]:
    lines = (_DIRECTORY / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]
