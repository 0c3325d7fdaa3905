# SPDX-License-Identifier: Apache-2.0
"""The entry points `weft-runtime` and `weft-runtime-wasmtime`."""

from __future__ import annotations

import _signal  # `signal` brings `enum` along, which a process that follows a plan does without
import gc
import os
import sys

from weft_runtime import remembered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

FORK_SERVER = "--fork-server"
"""As in fork_protocol.py, which brings `_socket` along."""

STOP_SIGNALS = (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP)


def main() -> NoReturn:
    """`weft-runtime`: run the app, or be the stub where the engine is not installed."""
    _start("weft-runtime", needs_engine=False)


def main_wasmtime() -> NoReturn:
    """`weft-runtime-wasmtime`: run the app, or fail where the engine is not installed."""
    _start("weft-runtime-wasmtime", needs_engine=True)


def _start(program: str, *, needs_engine: bool) -> NoReturn:
    # The default action, which ends the process in the end, takes the place of an inherited "ignore".
    for number in STOP_SIGNALS:
        _signal.signal(number, _signal.SIG_DFL)
    if sys.argv[1:] == [FORK_SERVER]:
        _serve(program)
    # Before anything else is imported: from here on a stop waits for the thread that answers it, and every thread
    # started later, the engine's own included, inherits the mask.
    _signal.pthread_sigmask(_signal.SIG_BLOCK, STOP_SIGNALS)
    # All that Python makes here is imported once and needed to the end: nothing for the collector to find.
    gc.disable()
    wanted = remembered.wanted(sys.argv[1:], os.environ)
    known = None if wanted is None else wanted.recall()
    if wanted is not None and known is not None:
        from weft_runtime.thin import alone  # noqa: PLC0415 - only where there is a plan to follow

        alone.run(wanted, known)
    from weft_runtime.runtime import program as rest  # noqa: PLC0415

    rest.run(program, sys.argv[1:], needs_engine=needs_engine)


def _serve(program: str) -> NoReturn:
    """Fork sessions for a supervisor. Ends with a status that says so where that cannot be done here."""
    from weft_runtime.thin import forkserver  # noqa: PLC0415 - two processes of which each needs one half

    try:
        forkserver.serve(program)
    except OSError as error:
        from weft_runtime.runtime import aftermath  # noqa: PLC0415

        aftermath.refuse(f"cannot be a fork server: {error}")
