#!/usr/bin/python3 -IS
# SPDX-License-Identifier: Apache-2.0
"""A runtime without an engine: it runs the file `behaviour` of the package, in the words defined here."""

import json
import os
import signal
import sys
from typing import NoReturn

APP_ID, SESSION = sys.argv[1:3]
PACKAGE = f"{os.environ['WEFT_APP_STORE']}/{APP_ID}"


def say(data: bytes, fd: int = 1) -> None:
    """Write all of `data`."""
    while data:
        data = data[os.write(fd, data) :]


def ready() -> None:
    say(b"READY\n")


def wait() -> NoReturn:
    """Do nothing until a signal ends it."""
    while True:
        signal.pause()


def ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def grandchild(*, own_session: bool = False, keeps_output: bool = True) -> None:
    """Leave a process behind that ends by SIGKILL alone; its number goes into the file `grandchild`."""
    pid = os.fork()
    if pid:
        note("grandchild", pid)
        return
    ignore_sigterm()
    if own_session:
        os.setsid()
    if not keeps_output:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        os.dup2(null, 2)
    wait()


def report(data: bytes) -> None:
    say(data, int(os.environ["WEFT_REPORT_FD"]))


def ends_because(reason: str) -> None:
    report(json.dumps({"event": "exited", "reason": reason}).encode() + b"\n")


def note(name: str, value: object) -> None:
    """Put `value` into the file `name`-SESSION of the package, in one step."""
    path = f"{PACKAGE}/{name}-{SESSION}"
    with open(f"{path}.new", "w") as file:
        json.dump(value, file)
    os.rename(f"{path}.new", path)


def until(name: str) -> None:
    """Wait until somebody has made the file `name` of the package."""
    while not os.path.exists(f"{PACKAGE}/{name}"):
        signal.sigtimedwait([], 0.01)


def descriptors() -> dict[int, str]:
    """What is open, by number; not what this listing opens itself."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            pass
    return found


with open(f"{PACKAGE}/behaviour") as source:
    behaviour = source.read()
exec(behaviour)
