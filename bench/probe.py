# SPDX-License-Identifier: Apache-2.0
"""Run weft-runtime-wasmtime or the baseline in this process, with a stopwatch on its larger steps.

    probe.py READINGS {weft|baseline} ARG...

Nothing of the program is changed but that some of its functions are wrapped here: its course is the real
one. Each process of the run adds a line to the file READINGS when it ends: a Python literal. This file
imports next to nothing, so that what a program imports is seen as its own.
"""

from __future__ import annotations

import time

BEGUN = time.monotonic()  # as near as can be to where the interpreter has started

import os  # noqa: E402
import sys  # noqa: E402

TYPE_CHECKING = False  # typing's own constant would cost the import of typing
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ParamSpec, TypeVar

    Arguments = ParamSpec("Arguments")
    Result = TypeVar("Result")


class Stopwatch:
    """Seconds by label. A step within a step is taken off the outer one."""

    def __init__(self) -> None:
        self.begun = BEGUN
        self.seconds: dict[str, float] = {}
        self._inner = [0.0]

    def time(
        self,
        label: str,
        step: Callable[Arguments, Result],
        *args: Arguments.args,
        **options: Arguments.kwargs,
    ) -> Result:
        begun = time.monotonic()
        self._inner.append(0.0)
        try:
            return step(*args, **options)
        finally:
            took = time.monotonic() - begun
            self.seconds[label] = self.seconds.get(label, 0.0) + took - self._inner.pop()
            self._inner[-1] += took

    def wrap(self, owner: object, name: str, label: str) -> None:
        """Time every call of the function `name` of a module or class."""
        step = getattr(owner, name)
        setattr(owner, name, lambda *args, **options: self.time(label, step, *args, **options))

    def start_again(self) -> None:
        self.begun = time.monotonic()
        self.seconds = {}
        self._inner = [0.0]


def main() -> None:
    readings, program, *args = sys.argv[1:]
    watch = Stopwatch()
    report_at_end(watch, os.open(readings, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
    sys.argv[1:] = args
    if program == "weft":
        run_weft(watch)
    else:
        run_baseline(watch)


def report_at_end(watch: Stopwatch, fd: int) -> None:
    """Both programs, and the process in which ours compiles, end by os._exit()."""
    first, leave = os.getpid(), os._exit

    def report_and_leave(status: int) -> None:
        ended = time.monotonic()
        reading = {
            "first": os.getpid() == first,
            "begun": watch.begun,
            "ended": ended,
            "seconds": watch.seconds,
        }
        os.write(fd, f"{reading!r}\n".encode())
        leave(status)

    os._exit = report_and_leave  # type: ignore[assignment] # it does not return either
    os.register_at_fork(after_in_child=watch.start_again)


def import_binding() -> None:
    import wasmtime  # noqa: F401, PLC0415


def run_weft(watch: Stopwatch) -> None:
    def import_ours() -> None:
        from weft_runtime.runtime import main, program  # noqa: F401, PLC0415

    def import_session() -> None:
        from weft_runtime.runtime import session  # noqa: F401, PLC0415

    # In the program's own order. When it comes to its imports, they are done.
    watch.time("import ours", import_ours)
    watch.time("import the binding", import_binding)
    watch.time("import ours that use it", import_session)

    import wasmtime  # noqa: PLC0415

    from weft_runtime import code_cache, journal, store  # noqa: PLC0415
    from weft_runtime.runtime import arguments, engine, program, readiness  # noqa: PLC0415
    from weft_runtime.runtime.compiler import Compilation  # noqa: PLC0415
    from weft_runtime.runtime.main import main_wasmtime  # noqa: PLC0415

    for owner, name, label in (
        (program, "open_log", "open the log"),
        (journal.Log, "entry", "write log entries"),
        (arguments, "parse", "parse the arguments"),
        (store, "open_package", "open the package"),
        (engine.Engine, "__init__", "make the engine"),
        (Compilation, "__init__", "fork the compiler"),
        (Compilation, "result", "wait for the compiler"),
        (code_cache, "find", "look for compiled code"),
        (wasmtime.Module, "__init__", "compile"),
        (wasmtime.Module, "serialize", "serialize"),
        (wasmtime.Module, "deserialize_file", "load the code"),
        (engine.Guest, "__init__", "make linker and store"),
        (engine, "entries", "look at the exports"),
        (engine.Guest, "link", "link and instantiate"),
        (engine.Guest, "instantiate", "link and instantiate"),
        (readiness.Readiness, "announce", "say READY"),
        (engine.Guest, "call", "run the guest"),
    ):
        watch.wrap(owner, name, label)
    main_wasmtime()


def run_baseline(watch: Stopwatch) -> None:
    watch.time("import the binding", import_binding)

    import wasmtime  # noqa: PLC0415

    watch.wrap(wasmtime.Engine, "__init__", "make the engine")
    watch.wrap(wasmtime.Module, "from_file", "compile")
    for owner, name in (
        (wasmtime.Linker, "__init__"),
        (wasmtime.Linker, "define_wasi"),
        (wasmtime.WasiConfig, "__init__"),
        (wasmtime.Store, "__init__"),
        (wasmtime.Store, "set_wasi"),
    ):
        watch.wrap(owner, name, "make linker and store")
    watch.wrap(wasmtime.Linker, "instantiate", "link and instantiate")
    watch.wrap(wasmtime.Instance, "exports", "look at the exports")
    watch.wrap(wasmtime.Func, "__call__", "run the guest")
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "baseline.py")  # noqa: PTH118, PTH120, PTH100
    with open(path, encoding="utf-8") as file:
        exec(compile(file.read(), path, "exec"), {"__name__": "__main__"})


main()
