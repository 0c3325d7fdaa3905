# SPDX-License-Identifier: Apache-2.0
"""Users as a person knows them: by name, with the number."""

import pwd

from weft_runtime.escape import printable

NAME_MAX = 64
"""Characters of a name that are shown: useradd(8) takes 32."""


def named(uid: int) -> str:
    """`alice (uid 1000)`, or the number alone where it has no name. It may wait: a name can be anywhere (nsswitch.conf)."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return f"uid {uid}"
    return f"{printable(name, NAME_MAX)} (uid {uid})"
