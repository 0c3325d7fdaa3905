# SPDX-License-Identifier: Apache-2.0
"""How an app has failed, told by what this process has in memory: for one whose files were replaced since it began.

The full runtime's code would be that of another release by then, and the engine that it brings a second one.
"""

from __future__ import annotations

import os
from ctypes import string_at

import weft_runtime
from weft_runtime.escape import printable
from weft_runtime.thin.library import VECTOR, Library, Words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from weft_runtime.thin.session import Failed

TRAP_STATUS, OS_STATUS = 134, 171
"""As in errors.py."""

_HERE = weft_runtime.__file__.rpartition("/")[0]
# The time of a directory changes when one of its files is replaced, as by dpkg and pip.
DIRECTORIES = (_HERE, f"{_HERE}/runtime", f"{_HERE}/thin")

_CAUSE = "\n\nCaused by:\n"
"""What in a text of the engine is between the frames and the cause."""

_TEXT_MAX = 4096
"""Characters of such a text, of its end: however they are escaped, a pipe that nobody reads yet takes them all."""

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


def end(call: Library, memory: Words, failed: Failed) -> tuple[int, str, str, str]:
    """The exit status, the event, the reason, one line, and the frames of an app that has `failed`, and not exited by itself."""
    if failed.cause is not None:
        return (
            OS_STATUS,
            "failed",
            f"cannot write READY to standard output: {failed.cause.strerror}{_NOTE}",
            "",
        )
    if failed.trap:
        call.wasm_trap_message(failed.trap, memory.vector)
    else:
        call.wasmtime_error_message(failed.error, memory.vector)
    text = string_at(memory.words[VECTOR + 1], memory.words[VECTOR]).rstrip(b"\0").decode(errors="replace")
    frames, _, cause = text.rstrip()[-_TEXT_MAX:].rpartition(_CAUSE)
    last = printable(cause.rpartition("\n")[2].strip().removeprefix("wasm trap: "))
    detail = "\n".join([printable(line) for line in frames.split("\n")[1:]])
    return TRAP_STATUS, "trapped", f"the app trapped in {failed.where.decode()}: {last}{_NOTE}", detail


def report(fd: int, status: int, event: str, reason: str, detail: str) -> NoReturn:
    """Tell the supervisor of such an end, and end the process."""
    # By hand: the interpreter's own modules may be gone as well, as after an upgrade of the distribution.
    said = (
        f'{{"event": "{event}", "exit_status": {status}, "signal": null, "reason": "{_quoted(reason)}",'
        f' "problem": null, "detail": "{_quoted(detail)}"}}\n'
    )
    try:
        os.write(fd, said.encode())
    except OSError:
        pass  # nobody reads it any more
    os._exit(status)


def _quoted(text: str) -> str:
    """Printable lines, as JSON has them in a string."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
