# SPDX-License-Identifier: Apache-2.0
"""Reload by re-execution: everything that must live on goes to the next process image of this process."""

import json
import os
import signal
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, NoReturn

from weft_runtime.appd.child import without_ours
from weft_runtime.errors import Problem, WeftError

STATE_VARIABLE = "WEFT_APPD_STATE_FD"
"""Names the descriptor of the state, for the next image only."""

VERSION_VARIABLE = "WEFT_APPD_STATE_VERSION"
STATE_VERSION = 1
"""Raised whenever an older image's state can no longer be read."""

# A signal that comes between the images must wait: its default action would end the process.
_BLOCKED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def execute(state: Mapping[str, Any], descriptors: Iterable[int], environ: Mapping[str, str]) -> NoReturn:
    """Replace this process image by a new one of the same command, which inherits `state` and `descriptors`.

    The signals must be blocked, and stay so until the next image has its handlers. Raises OSError where that
    fails; then nothing has changed.
    """
    memory = os.memfd_create("weft-appd-state", 0)
    inherited = [*descriptors]
    try:
        with open(memory, "w", encoding="utf-8", closefd=False) as file:
            json.dump(state, file)
        os.lseek(memory, 0, os.SEEK_SET)
        for fd in inherited:
            os.set_inheritable(fd, True)
        os.execve(sys.executable, sys.orig_argv, {**environ, STATE_VARIABLE: str(memory)})
    finally:
        for fd in inherited:
            os.set_inheritable(fd, False)
        os.close(memory)


def inherited_state(environ: MutableMapping[str, str]) -> dict[str, Any] | None:
    """The state that the image before this one has left, or None at a first start."""
    variable = environ.pop(STATE_VARIABLE, None)
    if variable is None:
        return None
    with open(int(variable), encoding="utf-8") as file:
        state: dict[str, Any] = json.load(file)
    return state


def block_signals() -> None:
    """Let them wait, in the calling thread."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)


def unblock_signals() -> None:
    """To be called once the handlers are in place."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)


def check_command() -> list[str]:
    """The command that finds out whether the next image would start: a new version of the code may not."""
    return [sys.executable, *sys.orig_argv[1:], "--check"]


def check_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Its environment: it must also be able to read our state."""
    return {**without_ours(environ), "WEFT_LOG": "stderr", VERSION_VARIABLE: str(STATE_VERSION)}


def check_version(environ: Mapping[str, str]) -> None:
    """Raises WeftError where the program that asks for the check has a state that this one cannot read."""
    version = environ.get(VERSION_VARIABLE, str(STATE_VERSION))
    if version != str(STATE_VERSION):
        message = f"the running daemon's state is of version {version}, this program reads {STATE_VERSION}"
        raise WeftError(Problem.CONFIG_INVALID, message, "restart it instead")
