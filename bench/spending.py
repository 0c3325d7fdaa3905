# SPDX-License-Identifier: Apache-2.0
"""CPU time of launches, by who has spent it: a session, the fork server, the daemon, journald, the `wasmtime` command."""

from typing import NamedTuple

from bench import process
from bench.appd import Daemon
from bench.openloop import Spawned


class Spent(NamedTuple):
    """CPU seconds."""

    sessions_s: float
    """Of all that the daemon has collected: to a hundredth of a second, so it is of use for many launches only."""
    fork_server_s: float
    daemon_s: float
    journal_s: float | None
    """None where there is no journald."""
    command_s: float

    def __sub__(self, other: "Spent") -> "Spent":
        journal = None
        if self.journal_s is not None and other.journal_s is not None:
            journal = self.journal_s - other.journal_s
        return Spent(
            self.sessions_s - other.sessions_s,
            self.fork_server_s - other.fork_server_s,
            self.daemon_s - other.daemon_s,
            journal,
            self.command_s - other.command_s,
        )


def of(daemon: Daemon, journal_pid: int | None, command: Spawned) -> Spent:
    """What has been spent so far; no session may live."""
    # What waits belongs to the session that it becomes, and as much waits at the end as at the beginning.
    servers = [pid for pid in process.children(daemon.pid) if not process.is_spare(pid)]
    return Spent(
        sessions_s=process.reaped_cpu_s(daemon.pid),
        fork_server_s=sum(map(process.cpu_s, servers)),
        daemon_s=process.cpu_s(daemon.pid),
        journal_s=None if journal_pid is None else process.cpu_s(journal_pid),
        command_s=command.cpu_s,
    )
