# SPDX-License-Identifier: Apache-2.0
"""The fork server: this program with the engine loaded, of which each session of a supervisor is a fork.

It neither runs nor compiles anything and has one thread, so that a fork of it is as good as a new process. The
conversation with the supervisor is in fork_protocol.py.
"""

import gc
import json  # noqa: F401 - a session imports it at its end, for its report
import os
import select
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from weft_runtime import fork_protocol, settings
from weft_runtime.errors import Problem, WeftError
from weft_runtime.fork_protocol import Descriptors
from weft_runtime.journal import open_log
from weft_runtime.runtime import program
from weft_runtime.runtime.sibling import SiblingFork
from weft_runtime.runtime.title import Title


def serve(name: str, *, needs_engine: bool) -> NoReturn:
    """Fork sessions for the supervisor at the other end of descriptor 3 until it closes that.

    Raises WeftError where this program or this machine cannot.
    """
    try:
        supervisor = socket.socket(fileno=fork_protocol.SERVER_FD)
        supervisor.set_inheritable(False)
        sibling, title = SiblingFork(), Title()
        runner = program.find_runner(needs_engine=needs_engine)
        rehearse = runner.rehearsal(settings.runtime_settings().engine)
    except OSError as error:
        raise WeftError(Problem.OS_ERROR, f"cannot be a fork server: {error}") from None
    # Imports what it needs; nothing is logged here, and no connection to the journal made.
    open_log(program.IDENTIFIER, settings.log_settings())
    # From here on nothing is made that lasts: what there is stays where it is, in pages shared with every fork.
    gc.collect()
    gc.freeze()
    supervisor.send(fork_protocol.hello(_files()))
    while True:
        request, descriptors = fork_protocol.receive(supervisor)
        if descriptors is None:
            os._exit(0)
        try:
            pid = sibling.fork()
        except OSError as error:
            supervisor.send(fork_protocol.failed(error))
        else:
            if pid == 0:
                supervisor.close()
                try:
                    argv = _wait_for_order(name, request, descriptors, title, rehearse)
                except (OSError, WeftError) as error:
                    os.write(2, f"a fork of {name} cannot become a session: {error}\n".encode())
                    os._exit(1)
                program.run(name, argv, needs_engine=needs_engine)
            supervisor.send(fork_protocol.forked(pid))
        for fd in descriptors:
            os.close(fd)


def _wait_for_order(
    name: str, procs: str, descriptors: Descriptors, title: Title, rehearse: Callable[[str], None]
) -> list[str]:
    """The child: take a session's place in the system, and wait for its command line. Raises OSError or WeftError."""
    os.setpgid(0, 0)
    if procs:
        # Now, because that can take 10 ms and more, and before anything of the app is here.
        _enter(procs)
    null = os.open(os.devnull, os.O_RDONLY)
    for fd, place in ((null, 0), (descriptors.stdout, 1), (descriptors.stderr, 2), (descriptors.report, 3)):
        os.dup2(fd, place)
        os.close(fd)
    title.set([name, "(spare)"])
    if not _is_readable(descriptors.order):  # else there is somebody who waits for this already
        rehearse(name)
    argv = fork_protocol.read_order(descriptors.order)
    if argv is None:
        os._exit(0)
    os.close(descriptors.order)
    title.set([name, *argv])
    return argv


def _is_readable(fd: int) -> bool:
    waiting = select.poll()
    waiting.register(fd, select.POLLIN)
    return bool(waiting.poll(0))


def _enter(procs: str) -> None:
    fd = os.open(procs, os.O_WRONLY | os.O_CLOEXEC)
    os.write(fd, b"0")
    os.close(fd)


def _files() -> Sequence[str]:
    """What this program is made of: when one of these has changed, it is another one."""
    packages = ("weft_runtime", "wasmtime")
    files = {sys.executable, sys.argv[0]}
    for name, module in sys.modules.items():
        if name.partition(".")[0] in packages and isinstance(path := getattr(module, "__file__", None), str):
            files.add(path)
    # The time of a directory changes when one of its files is replaced, as by dpkg and pip.
    return sorted({os.fspath(Path(path).parent) if path.endswith(".py") else path for path in files})
