# SPDX-License-Identifier: Apache-2.0
"""The process of a new session: what it runs, in which control group, by the fork server or executed."""

import asyncio
import os
from collections.abc import Mapping
from typing import NamedTuple

from weft_runtime.appd import child as processes
from weft_runtime.appd.cgroups import Limits, Removal, SessionGroup, SessionGroups
from weft_runtime.appd.child import Child
from weft_runtime.appd.numbers import Numbers
from weft_runtime.appd.packages import Packages
from weft_runtime.appd.plans import CapabilityRefused, Launchable, Plans
from weft_runtime.appd.settings import Places, Settings
from weft_runtime.appd.spares import Spares
from weft_runtime.appd.watch import Watch
from weft_runtime.errors import Problem, WeftError
from weft_runtime.escape import printable
from weft_runtime.ids import AppId
from weft_runtime.journal import Event, Log
from weft_runtime.protocol import ErrorCode

_REFUSALS = {
    Problem.PACKAGE_NOT_FOUND: ErrorCode.PACKAGE_NOT_FOUND,
    Problem.MODULE_NOT_FOUND: ErrorCode.PACKAGE_NOT_FOUND,
    Problem.MANIFEST_INVALID: ErrorCode.PACKAGE_INVALID,
    Problem.MODULE_INVALID: ErrorCode.PACKAGE_INVALID,
    Problem.LIMIT_EXCEEDED: ErrorCode.PACKAGE_INVALID,
    Problem.ENGINE_MISSING: ErrorCode.NO_RUNTIME,
}

_EVENTS = {Problem.ENGINE_MISSING: Event.NO_RUNTIME, Problem.CAPABILITY_REFUSED: Event.CAPABILITY_REFUSED}
"""All others: Event.LAUNCH_REFUSED."""


class Refused(Exception):
    """A launch that was not done: the code and the text of the ERROR, and the event that it is."""

    def __init__(self, code: ErrorCode, message: str, event: Event = Event.LAUNCH_REFUSED) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.event = event


class Started(NamedTuple):
    """A process that is a session from now on."""

    child: Child
    group: SessionGroup | None


class Launcher:
    """Makes the processes of sessions, and owns those that wait to become one."""

    def __init__(
        self,
        settings: Settings,
        places: Places,
        environ: Mapping[str, str],
        log: Log,
        numbers: Numbers,
        packages: Packages,
        watch: Watch,
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._log = log
        self._numbers = numbers
        self.groups: SessionGroups | None = None
        """Where sessions get control groups of their own; None is "nowhere"."""
        self.spares = Spares(
            self._session_environment, log, watch, lambda: numbers.next, self._make_group, self.remove_group
        )  # fmt: skip
        self._plans = Plans(
            settings, places, environ, packages.manifests.recall, lambda: self.spares.made_by
        )  # fmt: skip

    def find(self, app_id: AppId) -> Launchable:
        """What launching an app comes to. Raises Refused."""
        try:
            return self._plans.find(app_id)
        except WeftError as error:
            raise _refused(_REFUSALS.get(error.problem, ErrorCode.SPAWN_FAILED), error) from None
        except CapabilityRefused as refused:
            raise _refused(ErrorCode.CAPABILITY_REFUSED, refused.error) from None

    def fork(self, app_id: AppId, known: Launchable) -> Started | None:
        """The next session's process by the fork server, if there is one, and a plan for the session."""
        if known.plan is None or known.code is None or (code_fd := known.code.open()) is None:
            return None
        number = self._numbers.next
        try:
            command = [os.fsencode(text) for text in known.command(app_id, number)]
            try:
                plan = known.plan.encode(b"%d" % number, command)
            except ValueError:
                return None  # too long for a message
            spare = self.spares.take(known.program, number, plan, code_fd)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.spares.failed(error)
            return None
        finally:
            os.close(code_fd)
        return None if spare is None else Started(spare.child, spare.group)

    def execute(self, argv: list[str]) -> Started:
        """The next session's process by executing the runtime. Raises Refused."""
        group = self._surrendered()
        try:
            while group is None:
                try:
                    group = self._make_group(self._numbers.next)
                    break
                except FileExistsError:  # that of a process which is still on its way out
                    self._numbers.skip()
        except OSError as error:
            message = f"cannot make the session's control group: {error.strerror}"
            raise Refused(ErrorCode.SPAWN_FAILED, message) from None
        argv = [argv[0], argv[1], str(self._numbers.next), *argv[3:]]
        environment = self._session_environment()
        try:
            return Started(processes.spawn(argv, environment, group), group)
        except OSError as error:
            if group is not None:
                # The process may have been there for a moment.
                group.kill()
                self.remove_group(group)
                self._numbers.skip()  # the group may still be there
            message = f"cannot start {printable(argv[0])}: {error.strerror}"
            raise Refused(ErrorCode.SPAWN_FAILED, message) from None

    def _surrendered(self) -> SessionGroup | None:
        """The group that was made for the next session, if one waits there."""
        try:
            return self.spares.surrender(self._numbers.next)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.spares.failed(error)
            return None

    def remove_group(self, group: SessionGroup) -> None:
        """Remove a group that is not needed any more, once nothing is in it."""
        self._go_on_removing(Removal(group))

    def _session_environment(self) -> dict[str, str]:
        return processes.environment(
            self._environ,
            log_to_journal=self._log.is_native,
            log_level=self._log.level,
            compiler_procs=self.groups.compiler_procs if self.groups else None,
        )

    def _make_group(self, number: int) -> SessionGroup | None:
        """The control group of a new session, where there are any. Raises OSError."""
        if self.groups is None:
            return None
        limits = Limits(self._settings.memory_max, self._settings.cpu_quota, self._settings.tasks_max)
        return self.groups.make(number, limits)

    def _go_on_removing(self, removal: Removal) -> None:
        delay = removal.work()
        if delay is not None:
            asyncio.get_running_loop().call_later(delay, self._go_on_removing, removal)


def _refused(code: ErrorCode, error: WeftError) -> Refused:
    return Refused(code, str(error), _EVENTS.get(error.problem, Event.LAUNCH_REFUSED))
