# SPDX-License-Identifier: Apache-2.0
"""A user that another one asks for: what a program of theirs may do, found out by becoming them where that is allowed."""

import grp
import json
import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from weft_runtime.errors import Problem, WeftError
from weft_runtime.escape import printable

DYNAMIC_USERS = range(61184, 65520)
"""The users that systemd makes for services, and nobody else has (systemd.exec(5), DynamicUser=)."""


class Account(NamedTuple):
    """Who a process is, as far as the kernel looks at it when files are opened."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    """Of its groups those besides `gid`."""

    @classmethod
    def find(cls, name: str, group: str = "") -> "Account | None":
        """The user `name`, or one with that number, with `group` in place of their own; None where one of the two is missing."""
        try:
            user = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
            gid = user.pw_gid
            if group:
                gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
        except (KeyError, OverflowError):
            return None
        return cls(user.pw_name, user.pw_uid, gid, tuple(os.getgrouplist(user.pw_name, gid)))

    @property
    def is_caller(self) -> bool:
        """Whether this process runs as this user."""
        return os.geteuid() == self.uid

    def become(self) -> None:
        """Give up being root, for good. Raises OSError."""
        os.setgroups(self.groups)
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)

    def call(self, function: Callable[[], Any]) -> Any:
        """What `function` returns as this user, in a process of its own where root asks: something that JSON can say.

        Who is neither root nor this user calls it as they are. Raises WeftError where the other process fails.
        """
        if os.geteuid() != 0 or self.is_caller:
            return json.loads(json.dumps(function()))
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            self._answer(function, writer)
        os.close(writer)
        with open(reader, "rb") as file:
            data = file.read()
        os.waitpid(child, 0)
        try:
            problem, answer = json.loads(data)
        except ValueError:
            problem, answer = "it ended without an answer", None
        if problem is not None:
            raise WeftError(Problem.INTERNAL_ERROR, f"looking at it as {self.name} failed: {problem}")
        return answer

    def _answer(self, function: Callable[[], Any], writer: int) -> NoReturn:
        """Never comes back into the caller's own code, whatever happens."""
        try:
            try:
                self.become()
                answer = [None, function()]
            except BaseException as error:
                answer = [f"{type(error).__name__}: {printable(str(error))}", None]
            with open(writer, "wb") as file:
                file.write(json.dumps(answer).encode())
        finally:
            os._exit(0)

    def may(self, path: Path, mode: int) -> bool:
        """Whether this user may use `path` (os.R_OK and so on), once they have got there. Raises OSError.

        Without being that user it is told by the mode alone.
        """
        if self.is_caller:
            os.stat(path)
            return os.access(path, mode)
        status = os.stat(path)
        if self.uid == 0:
            return True
        shift = 0
        if status.st_uid == self.uid:
            shift = 6
        elif status.st_gid in (self.gid, *self.groups):
            shift = 3
        return (stat.S_IMODE(status.st_mode) >> shift) & mode == mode

    def barrier(self, path: Path, mode: int = os.R_OK) -> Path | None:
        """What keeps this user from `path`: a directory above that they may not pass, or `path` itself; None for nothing.

        Raises OSError where that cannot be known, or where nothing is at `path`.
        """
        for above in reversed(path.parents):
            if not self.may(above, os.X_OK):
                return above
        return None if self.may(path, mode) else path
