# SPDX-License-Identifier: Apache-2.0
"""How an app has failed, told by what this process has in memory: for one whose files were replaced since it began.

The full runtime's code would be that of another release by then, and the engine that it brings a second one.
"""

from __future__ import annotations

import os
from ctypes import string_at

import weft_runtime
from weft_runtime.thin.library import VECTOR, Library, Words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from weft_runtime.thin.session import Failed

TRAP_STATUS, OS_STATUS = 134, 171
"""As in errors.py."""

_HERE = weft_runtime.__file__.rpartition("/")[0]
# The time of a directory changes when one of its files is replaced, as by dpkg and pip.
DIRECTORIES = (_HERE, f"{_HERE}/runtime", f"{_HERE}/thin")

_NOTE = "; the runtime was replaced since the app was started, so that no more is known"


def state(library: str) -> list[tuple[int, int, int] | None]:
    """What changes when the code of this process is replaced, or the engine's file `library`."""
    found: list[tuple[int, int, int] | None] = []
    for path in (*DIRECTORIES, library):
        try:
            status = os.stat(path)
            found.append((status.st_dev, status.st_ino, status.st_ctime_ns))
        except OSError:
            found.append(None)
    return found


def end(call: Library, memory: Words, failed: Failed) -> tuple[int, str, str]:
    """The exit status, the event and the reason, one line, of an app that has `failed`, and not exited by itself."""
    if failed.cause is not None:
        return OS_STATUS, "failed", f"cannot write READY to standard output: {failed.cause.strerror}{_NOTE}"
    if failed.trap:
        call.wasm_trap_message(failed.trap, memory.vector)
    else:
        call.wasmtime_error_message(failed.error, memory.vector)
    text = string_at(memory.words[VECTOR + 1], memory.words[VECTOR]).rstrip(b"\0").decode(errors="replace")
    # What comes before is a backtrace.
    cause = text.rstrip().rpartition("\n")[2].strip().removeprefix("wasm trap: ")
    safe = "".join([character if character.isprintable() else "?" for character in cause])
    return TRAP_STATUS, "trapped", f"the app trapped in {failed.where.decode()}: {safe}{_NOTE}"
