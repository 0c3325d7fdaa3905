# SPDX-License-Identifier: Apache-2.0
"""Every kind of end that an app can have: what the ways to run it are compared by."""

from signal import Signals
from typing import NamedTuple

from tests.command.guests import (
    CREATE,
    FOREVER,
    OPENED,
    TEXT,
    guest,
    leave,
    leave_on_error,
    named,
    path_open,
    printing_file,
    put,
    say,
    sleep,
)
from tests.command.test_exit import TRAPS
from tests.command.test_guest import ARGS, ENV
from tests.command.test_hostile import growing
from tests.command.test_preopens import LIST
from tests.packages import FD_WRITE, printing, wat

IN = "in"
"""What an app says that is to be stopped, once it is where it is to be stopped."""

_STAY = say(f"{IN}\n")


class Kind(NamedTuple):
    """An app, and how it is ended."""

    module: bytes
    runtime: str = ""
    """Of its manifest: added to the table [runtime]."""
    capabilities: tuple[str, ...] = ()
    extra: str = ""
    """Of its manifest: at its end."""
    stop: Signals | str | None = None
    """The signal that its process gets once it has said IN, or `client` where a client has it ended."""


def _mode(name: str) -> str:
    return f'ready = "{name}"'


OWN_ENDS = {
    "returns": Kind(guest(say("bye"))),
    **{f"exit{status}": Kind(guest(leave(status))) for status in (0, 1, 42, 125, 126, 127, 134, 255, 256)},
    "negative": Kind(guest(leave(-1))),
    "sectionexit": Kind(guest("", section=leave(0))),
    "sectionfails": Kind(guest("", section=say("section\n") + leave(7))),
    "sectionabove": Kind(guest("", section=leave(200))),
    "readyexits": Kind(guest("", ready=leave(0))),
    "readyfails": Kind(guest("", ready=leave(3))),
    "lines": Kind(guest(say("a\nb\n\n") + say("unfinished"))),
    "stderr": Kind(guest(say("to stderr\n", fd=2) + leave(2))),
    "bytes": Kind(printing("\0\x1b[31m\u202e\u00e4\U0001f600 end\n")),
    "nothing": Kind(wat('(func (export "_start"))')),
}
"""Ends of the app's own will."""

TRAPPED = {
    **{kind.replace("-", ""): Kind(guest(code, fields=fields)) for kind, (code, fields, _) in TRAPS.items()},
    "insection": Kind(guest("", section="unreachable")),
    "inready": Kind(guest("", ready="unreachable")),
    "segment": Kind(guest("", fields='(data (i32.const 262144) "x")')),
    "hostcall": Kind(
        wat(f'{FD_WRITE} (func (export "_start") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1)'
            " (i32.const 0))))")
    ),
    "afteroutput": Kind(guest(say("one\n") + say("two\n", fd=2) + "unreachable")),
    "hostilename": Kind(named(b"f\nREADY\n\x1b[31m\xe2\x80\xae")),
    "nomemory": Kind(growing(6000, "unreachable")),
    "nomemoryexit": Kind(growing(6000, leave(2))),
    "deep": Kind(wat('(func $a (call $b)) (func $b unreachable) (func $main (export "_start") (call $a))')),
}  # fmt: skip
"""Ends by a trap, and by what an app was not given."""

UNFIT = {
    "nostart": Kind(wat('(func (export "start"))')),
    "wrongstart": Kind(wat('(func (export "_start") (param i32))')),
    "startisnone": Kind(wat('(memory (export "_start") 1)')),
    "noimport": Kind(wat('(import "env" "missing" (func)) (func (export "_start"))')),
    "wrongimport": Kind(
        wat('(import "wasi_snapshot_preview1" "proc_exit" (func (param i64))) (func (export "_start"))')
    ),
    "wrongready": Kind(wat('(func (export "weft_ready") (param i32)) (func (export "_start"))')),
    "noready": Kind(guest(""), runtime=_mode("export")),
    "muchmemory": Kind(wat('(memory 16385) (func (export "_start"))')),
    "memories": Kind(wat(f'{"(memory 1)" * 5} (func (export "_start"))')),
    "tables": Kind(wat('(table 2000000 funcref) (func (export "_start"))')),
    "nomodule": Kind(b"\0asm\1\0\0\0\xff"),
    "component": Kind(b"\0asm\x0d\0\1\0"),
    "text": Kind(b"(module)"),
}
"""Apps that cannot be started."""

READY = {
    "host": Kind(guest(say("x\n"), ready=say("not called\n")), runtime=_mode("host")),
    "export": Kind(guest(say("x\n"), ready=say("called\n")), runtime=_mode("export")),
    "exportbydefault": Kind(guest(say("x\n"), ready=say("called\n"))),
    "guest": Kind(guest(say("before\nREADY\nafter\n")), runtime=_mode("guest")),
    "twice": Kind(guest(say("READY\nREADY\n"))),
    "never": Kind(guest(say("no\n") + leave(3)), runtime=_mode("guest")),
    "section": Kind(guest(say("start\n"), section=say("section\n"), ready=say("ready\n"))),
}
"""Who says READY, and when."""

RECEIVED = {
    "args": Kind(ARGS, runtime='args = ["--a", "", "a b", "\u00e4\u20ac\\n\\u001b", "--a"]'),
    "manyargs": Kind(ARGS, runtime=f"args = {[f'argument {index}' for index in range(100)]}"),
    "env": Kind(ENV, extra='[runtime.env]\nHOME = "/data"\nEMPTY = ""\n"a.b c" = "x=y"\n"\u00c4" = "\u00e4\u20ac\\n"\n'),
    "manyvariables": Kind(ENV, extra="[runtime.env]\n" + "".join(f'V{index} = "v"\n' for index in range(100))),
    "nodirectories": Kind(LIST),
    "directories": Kind(LIST, capabilities=("fs:rw:app-data", "fs:read:xdg-documents")),
    "unserved": Kind(LIST, capabilities=("fs:read:app-data", "net:fetch:https://example.org")),
    "datafile": Kind(LIST, capabilities=("fs:rw:app-data",)),
    "unknown": Kind(LIST, capabilities=("fs:rw:everything",)),
    "writes": Kind(
        guest(
            leave_on_error(path_open("file", write=True, flags=CREATE)) + put("by the app")
            + leave_on_error(f"(call $write {OPENED} (i32.const {TEXT}) (i32.const 10))")
            + leave_on_error(path_open("file")) + printing_file(OPENED)
        ),
        capabilities=("fs:rw:app-data",),
    ),
    "readonly": Kind(guest(leave(path_open("new", write=True, flags=CREATE))), capabilities=("fs:read:app-data",)),
}  # fmt: skip
"""What the app is given."""

STOPPED = {
    "loopingclient": Kind(guest(_STAY + FOREVER), stop="client"),
    "sleepingclient": Kind(guest(_STAY + sleep(3600 * 10**9)), stop="client"),
    "sectionclient": Kind(guest("", section=_STAY + FOREVER), stop="client"),
    "readyclient": Kind(guest("", ready=_STAY + sleep(3600 * 10**9)), stop="client"),
    "unreadyclient": Kind(guest(_STAY + FOREVER), runtime=_mode("guest"), stop="client"),
    **{
        f"looping{number.name.lower()}": Kind(guest(_STAY + FOREVER), stop=number)
        for number in (Signals.SIGTERM, Signals.SIGINT, Signals.SIGHUP, Signals.SIGKILL, Signals.SIGABRT)
    },
    "sleepingsigterm": Kind(guest(_STAY + sleep(3600 * 10**9)), stop=Signals.SIGTERM),
    "sectionsigterm": Kind(guest("", section=_STAY + FOREVER), stop=Signals.SIGTERM),
    "unfinishedsigterm": Kind(guest(say(f"{IN}\nunfinished") + FOREVER), stop=Signals.SIGTERM),
}
"""Apps that stay until somebody ends them."""

LATE = {
    "section": Kind(guest("", section=FOREVER)),
    "looping": Kind(guest("", ready=say("no\n") + FOREVER)),
    "sleeping": Kind(guest("", ready=sleep(3600 * 10**9))),
    "silent": Kind(guest(FOREVER), runtime=_mode("guest")),
    "closes": Kind(guest("(drop (call $fd_close (i32.const 1)))" + FOREVER), runtime=_mode("guest")),
}
"""Apps that never say READY."""
