# SPDX-License-Identifier: Apache-2.0
"""A daemon that answers whatever it is told to, to whatever it is asked."""

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgpack

Conversation = Callable[[socket.socket, str], None]
"""Answers one request, of which it gets the tag, on the connection."""


def framed(message: object) -> bytes:
    body: bytes = message if isinstance(message, bytes) else msgpack.packb(message)
    return struct.pack("<I", len(body)) + body


@contextmanager
def lying(path: Path, answer: Conversation) -> Iterator[None]:
    """Listen on `path`, each connection in a thread of its own, until the end of the with statement."""
    is_over = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        # The path of a test can be longer than that of a socket.
        fd = os.open(path.parent, os.O_PATH)
        listener.bind(f"/proc/self/fd/{fd}/{path.name}")
        os.close(fd)
        listener.listen(64)
        thread = threading.Thread(target=_accept, args=(listener, answer, is_over))
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _accept(listener: socket.socket, answer: Conversation, is_over: threading.Event) -> None:
    while not is_over.is_set():
        with suppress(OSError):
            client, _ = listener.accept()
            threading.Thread(target=_converse, args=(client, answer), daemon=True).start()


def _converse(client: socket.socket, answer: Conversation) -> None:
    with client, suppress(OSError):
        while header := client.recv(4, socket.MSG_WAITALL):
            body = client.recv(struct.unpack("<I", header)[0], socket.MSG_WAITALL)
            answer(client, msgpack.unpackb(body)[0])
