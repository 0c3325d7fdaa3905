# SPDX-License-Identifier: Apache-2.0
"""A socket in the place of the journal's, which understands the native protocol."""

import os
import select
import socket
from pathlib import Path

import pytest

_ENTRY_MAX = 1_000_000

Fields = list[tuple[bytes, bytes]]


class Receiver:
    """A socket in place of the journal's, and what came there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(os.fspath(path))
        self.socket.setblocking(False)

    def entry(self) -> Fields:
        """The fields of the next entry, in order."""
        data, descriptors, _, _ = socket.recv_fds(self.socket, _ENTRY_MAX, 1)
        for fd in descriptors:
            with open(fd, "rb") as file:
                file.seek(0)
                data = file.read()
                with pytest.raises(OSError, match="not permitted"):
                    os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_TRUNC)
        return parsed(data)

    @property
    def is_empty(self) -> bool:
        return not select.select([self.socket], [], [], 0)[0]

    def close(self) -> None:
        self.socket.close()
        self.path.unlink()


def parsed(data: bytes) -> Fields:
    """Fields in the journal's native protocol."""
    fields = []
    while data:
        name, _, rest = data.partition(b"\n")
        if b"=" in name:
            name, _, value = name.partition(b"=")
        else:
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[8 + size + 1 :]
        fields.append((name, value))
        data = rest
    return fields
