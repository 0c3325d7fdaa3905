# SPDX-License-Identifier: Apache-2.0
"""Run weft-appd or weft-runtime-wasmtime in this process, and note when some of its functions begin and end.

    marker.py FILE {appd|runtime} ARG...

Nothing of the program is changed but that these functions are wrapped here. Each call adds a line to FILE when it
returns: a Python literal of process number, step, begin and end. What such a line costs, some 3 us, is in the figures.
"""

import importlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# Module, function, and what it does; {} is the class of its argument.
STEPS = {
    "appd": (
        ("weft_runtime.appd.connection", "ControlClient.take_turn", "read the request and do all of it"),
        ("weft_runtime.appd.dispatch", "Dispatcher.push", "send {}"),
        ("weft_runtime.appd.launcher", "Launcher.command", "look at the package and its capabilities"),
        ("weft_runtime.appd.launcher", "Launcher.fork", "give it to a process that waits"),
        ("weft_runtime.appd.launcher", "Launcher._make_group", "make a control group"),
        ("weft_runtime.appd.launcher", "processes.spawn", "execute the runtime"),
        ("weft_runtime.appd.supervisor", "Supervisor._adopt", "watch the process"),
        ("weft_runtime.appd.persistence", "LastSession.save", "note which apps run"),
        ("weft_runtime.appd.streams", "Streams._readable", "read output"),
        ("weft_runtime.journal", "Log.entry", "log"),
    ),
    "runtime": (
        ("weft_runtime.runtime.program", "open_log", "open the log"),
        ("weft_runtime.runtime.arguments", "parse", "parse the arguments"),
        ("weft_runtime.store", "open_package", "open the package"),
        ("weft_runtime.manifest", "parse", "read the manifest"),
        ("weft_runtime.runtime.loading", "Loading.__init__", "find and load the code"),
        ("weft_runtime.code_cache", "find", "look into the cache"),
        ("weft_runtime.runtime.engine", "Engine.load", "map the code"),
        ("weft_runtime.runtime.session", "_link", "look at the exports and link"),
        ("weft_runtime.runtime.engine", "Guest.__init__", "make linker and store"),
        ("weft_runtime.runtime.engine", "Guest.link", "link"),
        ("weft_runtime.runtime.engine", "Guest.instantiate", "instantiate"),
        ("weft_runtime.runtime.readiness", "_write_whole_line", "write READY"),
        ("weft_runtime.journal", "Log.entry", "log"),
    ),
}  # fmt: skip


def main() -> None:
    path, program, *args = sys.argv[1:]
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    for module, function, label in STEPS[program]:
        wrap(fd, module, function.split("."), label)
    # The name is what a reload of the daemon and the fork server's own list of its files go by.
    sys.argv[1:] = args
    if program == "appd":
        from weft_runtime.appd.main import main as run  # noqa: PLC0415 - and nothing of the other program

        sys.exit(run())
    from weft_runtime.runtime.main import main_wasmtime  # noqa: PLC0415

    main_wasmtime()


def wrap(fd: int, module: str, path: Sequence[str], label: str) -> None:
    owner: object = importlib.import_module(module)
    for name in path[:-1]:
        owner = getattr(owner, name)
    setattr(owner, path[-1], marking(fd, getattr(owner, path[-1]), label))


def marking(fd: int, step: Callable[Arguments, Result], label: str) -> Callable[Arguments, Result]:
    def marked(*args: Arguments.args, **options: Arguments.kwargs) -> Result:
        begun = time.monotonic()
        try:
            return step(*args, **options)
        finally:
            what = label.format(type(args[-1]).__name__) if "{" in label else label
            os.write(fd, f"{(os.getpid(), what, begun, time.monotonic())}\n".encode())

    return marked


main()
