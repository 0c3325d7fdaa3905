# SPDX-License-Identifier: Apache-2.0
"""One process that waits to become a session."""

import socket
from typing import NamedTuple

from weft_runtime import fork_protocol
from weft_runtime.appd import child as processes
from weft_runtime.appd.cgroups import SessionGroup
from weft_runtime.appd.child import Child


class Spare(NamedTuple):
    """A process that waits for its plan, in its control group."""

    number: int
    """Of the session that it can become."""
    child: Child
    order: socket.socket
    """By which its plan is sent."""
    group: SessionGroup | None

    def begin(self, plan: bytes, code_fd: int) -> bool:
        """Let it follow an encoded plan; False if it cannot any more."""
        with self.order:
            try:
                fork_protocol.send(self.order, plan, [code_fd])
            except OSError:  # it has ended
                return False
        return True

    def leave(self) -> SessionGroup | None:
        """End it alone, and give its group to a process that takes its place there."""
        self.order.close()
        processes.abandon(self.child)
        return self.group

    def end(self) -> None:
        """End it, and whatever else is in its group, which is to be removed then."""
        self.order.close()
        if self.group is not None:
            self.group.kill()
        processes.abandon(self.child)
