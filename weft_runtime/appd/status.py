# SPDX-License-Identifier: Apache-2.0
"""What the daemon says of itself."""

import os

from weft_runtime import __version__, paths
from weft_runtime.appd.settings import Settings, find_runtime, shown, texts
from weft_runtime.appd.supervisor import Supervisor
from weft_runtime.errors import WeftError
from weft_runtime.escape import printable
from weft_runtime.protocol import DaemonSettings, DaemonStatus, LimitInfo

LIMITS = frozenset(
    {
        "ready_timeout", "stop_grace", "max_sessions", "max_connections", "idle_timeout", "log_lines",
        "log_interval", "memory_max", "cpu_quota", "tasks_max",
    }
)  # fmt: skip
"""The settings that bound something."""


def describe(
    settings: Settings, supervisor: Supervisor, *, since: float, clients: int, log_to_journal: bool
) -> DaemonStatus:
    """`since` is when the process began, in Unix seconds."""
    runtime, problem = None, None
    try:
        # Bytes that are no UTF-8 would be lone surrogates, which no message can hold.
        runtime = printable(paths.shown(find_runtime(settings)))
    except WeftError as error:
        problem = str(error)
    groups = supervisor.launcher.groups
    return DaemonStatus(
        version=__version__,
        pid=os.getpid(),
        since=since,
        runtime=runtime,
        runtime_problem=problem,
        live=len(supervisor.live),
        starting=supervisor.starting,
        clients=clients,
        log="journal" if log_to_journal else "stderr",
        limits=tuple(_limits(settings)),
        controllers=() if groups is None else groups.controllers,
        fork_server=supervisor.launcher.spares.server_pid,
        spares=supervisor.launcher.spares.waiting,
    )


def all_settings(settings: Settings) -> DaemonSettings:
    """The settings that the daemon goes by, whatever their file says by now."""
    return DaemonSettings(tuple(LimitInfo(name, text) for name, text in shown(settings).items()))


def _limits(settings: Settings) -> list[LimitInfo]:
    """In the order of the settings, as text that they would take."""
    return [LimitInfo(name, text) for name, text in texts(settings).items() if name in LIMITS]
