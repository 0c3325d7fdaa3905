# SPDX-License-Identifier: Apache-2.0
"""Guest programs in WAT, and in bytes where no text could say them."""

from collections.abc import Sequence

from tests.packages import wat

# Name, parameters and whether there is a result (an errno), of WASI preview 1.
_WASI = (
    ("args_get", "i32 i32", True),
    ("args_sizes_get", "i32 i32", True),
    ("environ_get", "i32 i32", True),
    ("environ_sizes_get", "i32 i32", True),
    ("fd_close", "i32", True),
    ("fd_prestat_get", "i32 i32", True),
    ("fd_prestat_dir_name", "i32 i32 i32", True),
    ("fd_read", "i32 i32 i32 i32", True),
    ("fd_write", "i32 i32 i32 i32", True),
    ("path_create_directory", "i32 i32 i32", True),
    ("path_filestat_set_times", "i32 i32 i32 i32 i64 i64 i32", True),
    ("path_link", "i32 i32 i32 i32 i32 i32 i32", True),
    ("path_open", "i32 i32 i32 i32 i32 i64 i64 i32 i32", True),
    ("path_remove_directory", "i32 i32 i32", True),
    ("path_rename", "i32 i32 i32 i32 i32 i32", True),
    ("path_symlink", "i32 i32 i32 i32 i32", True),
    ("path_unlink_file", "i32 i32 i32", True),
    ("poll_oneoff", "i32 i32 i32 i32", True),
    ("proc_exit", "i32", False),
)
_IMPORTS = " ".join(
    f'(import "wasi_snapshot_preview1" "{name}" (func ${name} (param {params}){" (result i32)" * result}))'
    for name, params, result in _WASI
)

# Of a WASI errno, as a guest below exits with it.
BADF, IO, NOENT, NOSPC, PERM, NOTCAPABLE = 8, 29, 44, 51, 63, 76

# Memory: 0 is the iovec, 8 its count, 16 a descriptor that was opened, 64 a subscription; text begins here.
TEXT = 1024
OPENED = "(i32.load (i32.const 16))"

CREATE, TRUNCATE = 1, 8
"""Flags of path_open."""

FOREVER = "(loop $forever (br $forever))"


def guest(start: str, *, fields: str = "", ready: str | None = None, section: str | None = None) -> bytes:
    """A command whose `_start` runs `start`, and which may have a `weft_ready` and a start section.

    Each has a local `$errno`, `_start` a counter `$n` too. `$write` writes text to a descriptor and returns
    the errno; `fields` are added to the module.
    """
    export = f'(func (export "weft_ready") (local $errno i32) {ready})' if ready is not None else ""
    begin = f"(func $begin (local $errno i32) {section}) (start $begin)" if section is not None else ""
    return wat(
        f'{_IMPORTS} (memory (export "memory") 4)'
        "(func $write (param $fd i32) (param $at i32) (param $size i32) (result i32)"
        " (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (local.get $size))"
        " (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))"
        f'{fields} {export} {begin} (func (export "_start") (local $errno i32) (local $n i32) {start})'
    )


def put(text: str, at: int = TEXT) -> str:
    """Code that stores `text`."""
    return " ".join(
        f"(i32.store8 (i32.const {at + index}) (i32.const {byte}))"
        for index, byte in enumerate(text.encode())
    )


def say(text: str, fd: int = 1) -> str:
    """Code that writes `text` in one fd_write and gives the errno up."""
    size = len(text.encode())
    return f"{put(text)} (drop (call $write (i32.const {fd}) (i32.const {TEXT}) (i32.const {size})))"


def leave(status: str | int) -> str:
    """Code that exits with a number, or with the value of an expression, such as an errno."""
    return f"(call $proc_exit {status if isinstance(status, str) else f'(i32.const {status})'})"


def leave_on_error(errno: str) -> str:
    """Code that exits with the errno that an expression gives, unless it is success."""
    return f"(if (i32.ne (local.tee $errno {errno}) (i32.const 0)) (then {leave('(local.get $errno)')}))"


def writing(fd: int, times: int = 1, size: int = 4096) -> str:
    """Code that writes so many bytes so many times and exits with the errno of the first failure."""
    write = f"(call $write (i32.const {fd}) (i32.const {TEXT}) (i32.const {size}))"
    return (
        f"(local.set $n (i32.const 0)) (loop $l {leave_on_error(write)}"
        " (local.set $n (i32.add (local.get $n) (i32.const 1)))"
        f" (br_if $l (i32.ne (local.get $n) (i32.const {times}))))"
    )


def sleep(nanoseconds: int) -> str:
    """Code that sleeps by poll_oneoff on the monotonic clock."""
    return (
        "(i64.store (i32.const 64) (i64.const 0)) (i64.store (i32.const 72) (i64.const 0))"
        " (i64.store (i32.const 80) (i64.const 1))"
        f" (i64.store (i32.const 88) (i64.const {nanoseconds})) (i64.store (i32.const 96) (i64.const 0))"
        " (i64.store (i32.const 104) (i64.const 0))"
        " (drop (call $poll_oneoff (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 8)))"
    )


def path_open(path: str, *, flags: int = 0, write: bool = False, directory: int = 3) -> str:
    """An expression: opens `path` below a preopened directory as OPENED and gives the errno."""
    rights = 2 | (64 if write else 0)  # fd_read, fd_write
    return (
        f"(block (result i32) {put(path)} (call $path_open (i32.const {directory}) (i32.const 0)"
        f" (i32.const {TEXT}) (i32.const {len(path.encode())}) (i32.const {flags})"
        f" (i64.const {rights}) (i64.const 0) (i32.const 0) (i32.const 16)))"
    )


def on_path(function: str, path: str) -> str:
    """An expression: calls a function of WASI on a path below the first preopened directory."""
    return (
        f"(block (result i32) {put(path)}"
        f" (call ${function} (i32.const 3) (i32.const {TEXT}) (i32.const {len(path.encode())})))"
    )


def printing_file(fd: str) -> str:
    """Code that copies what is in a descriptor, up to 4 KiB, to standard output."""
    return (
        f"(i32.store (i32.const 0) (i32.const {TEXT})) (i32.store (i32.const 4) (i32.const 4096))"
        f" {leave_on_error(f'(call $fd_read {fd} (i32.const 0) (i32.const 1) (i32.const 8))')}"
        f" (drop (call $write (i32.const 1) (i32.const {TEXT}) (i32.load (i32.const 8))))"
    )


def binary(*sections: tuple[int, bytes]) -> bytes:
    """A module of these sections, each its id and its content."""
    return b"\0asm\1\0\0\0" + b"".join(bytes([number]) + sized(content) for number, content in sections)


def leb(number: int) -> bytes:
    """An unsigned number in LEB128."""
    high, low = number >> 7, number & 0x7F
    return bytes([low | 0x80]) + leb(high) if high else bytes([low])


def sized(content: bytes) -> bytes:
    return leb(len(content)) + content


def functions(
    bodies: Sequence[bytes], *more: tuple[int, bytes], exports: Sequence[bytes] = (b"_start",)
) -> bytes:
    """A module of functions () -> () with these bodies (declarations of locals and code); all `exports` are
    the first of them.
    """
    return binary(
        (1, b"\1\x60\0\0"),
        (3, leb(len(bodies)) + b"\0" * len(bodies)),
        (7, leb(len(exports)) + b"".join(sized(name) + b"\0\0" for name in exports)),
        (10, leb(len(bodies)) + b"".join(map(sized, bodies))),
        *more,
    )


def named(name: bytes, body: bytes = b"\0\0\x0b") -> bytes:
    """A module whose only function has this name for the backtrace; its body is `unreachable`."""
    names = b"\1" + sized(leb(1) + leb(0) + sized(name))
    return functions([body], (0, sized(b"name") + names))


def slow_to_compile(copies: int = 1, *, count: int = 1000, depth: int = 250) -> bytes:
    """13 KB that the engine compiles for minutes, in little memory: nested loops that change many locals."""
    get, put, branch, end = b"\x20", b"\x21", b"\x0d\0", b"\x0b"
    code = b"\x03\x40" * depth
    for index in range(count):
        code += get + leb(index) + get + leb((index + 1) % count) + b"\x6a" + put + leb(index)
    for index in range(depth):
        code += get + leb(index) + branch + end
    return functions([leb(1) + leb(count) + b"\x7f" + code + end] * copies)
