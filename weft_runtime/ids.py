# SPDX-License-Identifier: Apache-2.0
"""The names by which everything here is asked for: app ids and session ids."""

import re
from typing import Self

from weft_runtime.escape import quote

SESSION_ID_MAX = 2**64 - 1

APP_ID_MAX = 180
"""Characters of an app id. A file's name has 255 bytes, and the longest with an id in it is that of a directory of
systemd for a service of weft-app@: "systemd-private-", the 32 digits of the boot, "-weft-app@ID.service-XXXXXX" leave 182.
Ours have 22 more than the id at most: ".ID.app.tar.zst.XXXXXXXX" and ".ID@" with the number of an inode."""

_APP_ID = re.compile(r"[a-z][a-z0-9]*(\.[a-z][a-z0-9]*){2,}", re.ASCII)
_SESSION_ID = re.compile(r"\+?0*([0-9]{1,20})", re.ASCII)


class AppId(str):
    """A reversed domain name of at least three labels, such as `org.example.notes`.

    The rule has neither slash nor leading dot, so an app id is safe as one component of a path.
    """

    __slots__ = ()

    RULE = (
        "three or more labels of a-z and 0-9, each beginning with a letter, joined by dots, such as"
        " org.example.notes"
    )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError unless `text` follows the rule, with no more than APP_ID_MAX characters."""
        if len(text) > APP_ID_MAX:
            shown = quote(text[:32] + "...")
            raise ValueError(
                f"{shown} is not an app id: it has {len(text)} characters, expected {APP_ID_MAX} at most"
            )
        if not _APP_ID.fullmatch(text):
            raise ValueError(f"{quote(text)} is not an app id: expected {cls.RULE}")
        return cls(text)


class SessionId(int):
    """The number that the supervisor gave this run: 0 to 2**64-1."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError unless `text` is an unsigned 64-bit decimal; a leading `+` is allowed."""
        match = _SESSION_ID.fullmatch(text)
        if not match or int(match[1]) > SESSION_ID_MAX:
            raise ValueError(
                f"{quote(text)} is not a session id: expected a decimal number from 0 to {SESSION_ID_MAX}"
            )
        return cls(match[1])
