# SPDX-License-Identifier: Apache-2.0
"""The bytes of a module as far as a launch and the compiler look at them."""

import re

MAGIC = b"\0asm"

# After the magic: version and layer of the binary format (Core Specification 5.5.16; Component Model,
# Binary.md).
CORE_MODULE = MAGIC + b"\x01\0\0\0"
COMPONENT = MAGIC + b"\x0d\0\x01\0"
HEADER_SIZE = len(CORE_MODULE)

BEGINNING = 512
"""Bytes that tell what another file is: a tar archive has its magic number in the middle of them."""


NAME_MAX = 200
"""Bytes of a function's name that could be a mangled one. The engine demangles names when it prints a backtrace,
and demangled C++ doubles with every dozen bytes: one of 341 bytes took 5 GB."""

_START_SECTION = 8
_NAME_SECTION = b"\x04name"
# Compiled where they are used, by whoever compiles a module: most launches do not.
_RUST_LENGTH = rb"[0-9]{1,4}"
_MANGLED = rb"[A-Za-z0-9_.$]{%d,}" % (NAME_MAX + 1)


def without_costly_names(module: bytes) -> bytes:
    """`module` without its name section if that has a name that the engine must not be made to demangle.

    By hand, since no library of ours reads sections. Whatever is malformed is left for the engine to refuse.
    """
    start = HEADER_SIZE
    while start < len(module):
        size, body = _leb128(module, start + 1)
        end = body + size
        if module[start] == 0 and module.startswith(_NAME_SECTION, body):
            names = re.compile(_MANGLED).findall(module, body, min(end, len(module)))
            if not all(map(_is_rust_name, names)):
                module = module[:start] + module[end:]
                continue
        start = end
    return module


def has_start_section(module: bytes) -> bool:
    """Whether instantiating `module`, a valid one, runs code of its own."""
    start = HEADER_SIZE
    while start < len(module):
        if module[start] == _START_SECTION:
            return True
        size, body = _leb128(module, start + 1)
        start = body + size
    return False


def _is_rust_name(name: bytes) -> bool:
    """Whether it is a sequence of lengths and words, as Rust has it: nothing in it can be repeated."""
    at = 3 if name.startswith(b"_ZN") else len(name)
    length = re.compile(_RUST_LENGTH)
    while match := length.match(name, at):
        at = match.end() + int(match[0])
    return name[at:] == b"E"


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned number at `at`, and where it ends (Core Specification 5.2.2)."""
    number = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    return number, at
