# SPDX-License-Identifier: Apache-2.0
"""The entry points `weft-runtime` and `weft-runtime-wasmtime`."""

import gc
import signal
import sys
from typing import NoReturn

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main() -> NoReturn:
    """`weft-runtime`: run the app, or be the stub where the engine is not installed."""
    _start("weft-runtime", needs_engine=False)


def main_wasmtime() -> NoReturn:
    """`weft-runtime-wasmtime`: run the app, or fail where the engine is not installed."""
    _start("weft-runtime-wasmtime", needs_engine=True)


def _start(program: str, *, needs_engine: bool) -> NoReturn:
    # First of all, before anything else is imported: from here on a stop waits for the thread that
    # answers it, and every thread started later, the engine's own included, inherits the mask. The
    # default action, which ends the process in the end, takes the place of an inherited "ignore".
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    # All that Python makes here is imported once and needed to the end: nothing for the collector to find.
    gc.disable()
    from weft_runtime.runtime import program as rest  # noqa: PLC0415

    rest.run(program, sys.argv[1:], needs_engine=needs_engine)
