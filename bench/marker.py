# SPDX-License-Identifier: Apache-2.0
"""Run weft-appd or weft-runtime-wasmtime in this process, and note when some of its functions begin and end.

    marker.py FILE {appd|runtime} NAME ARG...

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

MARKS_FD = 1000
"""A number that nothing else gets."""

FORKS = "make a process that waits"
"""Which the fork server alone does."""

# Module, function, and what it does; {} is the class of its first argument.
STEPS = {
    "appd": (
        ("weft_runtime.appd.connection", "ControlClient.take_turn", "read the request and do all of it"),
        ("weft_runtime.appd.plans", "Plans.find", "ask whether the plan still holds"),
        ("weft_runtime.appd.launcher", "Launcher.fork", "hand the plan over"),
        ("weft_runtime.appd.supervisor", "Supervisor._adopt", "watch the process"),
        ("weft_runtime.appd.dispatch", "Dispatcher.acknowledge", "send LaunchAck"),
        ("weft_runtime.appd.dispatch", "Dispatcher.push", "send {}"),
        ("weft_runtime.appd.persistence", "LastSession.save", "note which apps run"),
        ("weft_runtime.appd.streams", "Streams._readable", "read output"),
        ("weft_runtime.appd.supervisor", "Supervisor._finish", "collect the session and tell of its end"),
        ("weft_runtime.appd.spares", "Spares._refill", "ask for the next process that waits"),
        ("weft_runtime.journal", "Log.entry", "log"),
    ),
    "runtime": (
        ("weft_runtime.thin.forkserver", "ForkServer._answer", FORKS),
        ("weft_runtime.thin.forkserver", "ForkServer._take", "put the descriptors in their places"),
        ("weft_runtime.thin.title", "Title.set", "show app and session as the command line"),
        ("weft_runtime.thin.session", "Session.load", "all before the first instruction"),
        ("weft_runtime.thin.session", "Session._judge_exports", "look at the exports"),
        ("weft_runtime.thin.session", "Session.run", "instantiate and run"),
        ("weft_runtime.thin.session", "say_ready", "write READY"),
    ),
}  # fmt: skip

# Functions of the engine's library.
CALLS = {
    "wasmtime_module_deserialize_file": "map the compiled code",
    "wasmtime_linker_instantiate_pre": "link",
    "wasi_config_new": "begin what the guest receives",
    "wasmtime_context_set_wasi": "make what the guest receives",
    "wasmtime_instance_pre_instantiate": "instantiate",
}


class Marks:
    """The file; a process that has closed all its descriptors opens it again."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._open()

    def write(self, what: str, begun: float) -> None:
        line = f"{(os.getpid(), what, begun, time.monotonic())}\n".encode()
        try:
            os.write(MARKS_FD, line)
        except OSError:
            self._open()
            os.write(MARKS_FD, line)

    def _open(self) -> None:
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(fd, MARKS_FD, inheritable=False)
        os.close(fd)


def main() -> None:
    path, program, *args = sys.argv[1:]
    marks = Marks(path)
    for module, function, label in STEPS[program]:
        wrap(marks, module, function.split("."), label)
    if program == "runtime":
        mark_library(marks)
    # As whoever has started it calls it: the daemon looks beside itself for the runtime of its release.
    sys.argv[:] = args
    if program == "appd":
        from weft_runtime.appd.main import main as run  # noqa: PLC0415 - and nothing of the other program

        sys.exit(run())
    from weft_runtime.runtime.main import main_wasmtime  # noqa: PLC0415

    main_wasmtime()


def mark_library(marks: Marks) -> None:
    """Mark the functions of the library, which is loaded later."""
    from weft_runtime.thin.library import Library  # noqa: PLC0415 - and nothing of the other program

    load = Library.__init__

    def loaded(library: Library) -> None:
        load(library)
        for name, label in CALLS.items():
            setattr(library, name, marking(marks, getattr(library, name), label))

    Library.__init__ = loaded  # type: ignore[assignment,method-assign] # as the real one


def wrap(marks: Marks, module: str, path: Sequence[str], label: str) -> None:
    owner: object = importlib.import_module(module)
    for name in path[:-1]:
        owner = getattr(owner, name)
    setattr(owner, path[-1], marking(marks, getattr(owner, path[-1]), label))


def marking(marks: Marks, step: Callable[Arguments, Result], label: str) -> Callable[Arguments, Result]:
    def marked(*args: Arguments.args, **options: Arguments.kwargs) -> Result:
        begun = time.monotonic()
        try:
            return step(*args, **options)
        finally:
            what = label.format(type(args[1]).__name__) if "{" in label else label
            marks.write(what, begun)

    return marked


main()
