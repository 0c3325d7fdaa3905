# SPDX-License-Identifier: Apache-2.0
"""Sockets that systemd passes in (sd_listen_fds_with_names(3)), by the systemd-python library."""

import os
import socket
from collections.abc import Mapping

from weft_runtime.errors import Problem, WeftError


def passed_sockets() -> Mapping[str, socket.socket]:
    """The listening sockets of this process by their FileDescriptorName=; the environment forgets them.

    Raises WeftError(CONFIG_INVALID) where there are some but the library is not installed.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    try:
        from systemd.daemon import listen_fds_with_names  # noqa: PLC0415 - only who is passed some needs it
    except ImportError:
        message = "systemd has passed sockets, but systemd-python is not installed"
        raise WeftError(Problem.CONFIG_INVALID, message, "pip install 'weft-runtime[journal]'") from None
    names: Mapping[int, str] = listen_fds_with_names(unset_environment=True)
    sockets = {name: socket.socket(fileno=fd) for fd, name in names.items()}
    for passed in sockets.values():
        passed.set_inheritable(False)
    return sockets
