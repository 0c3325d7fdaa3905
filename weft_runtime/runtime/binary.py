# SPDX-License-Identifier: Apache-2.0
"""What kind of file a module is, by its first bytes."""

from enum import StrEnum

MAGIC = b"\0asm"
HEADER_SIZE = 8

# After the magic: version and layer of the binary format (Core Specification 5.5.16; Component Model,
# Binary.md).
_CORE = MAGIC + b"\x01\0\0\0"
_COMPONENT = MAGIC + b"\x0d\0\x01\0"
# What the engine serializes is an ELF file.
_ELF = b"\x7fELF"


class Kind(StrEnum):
    """Kinds of file, as the error messages call them."""

    CORE_MODULE = "a WebAssembly module"
    COMPONENT = "a WebAssembly component"
    PRECOMPILED = "a precompiled module (an ELF file)"
    TEXT = "text"
    EMPTY = "empty"
    UNKNOWN_VERSION = "WebAssembly of an unknown version"
    UNKNOWN = "something other than a WebAssembly module"


def kind_of(header: bytes) -> Kind:
    """The kind of the file that begins with `header`: HEADER_SIZE bytes, fewer if it is shorter."""
    if header == _CORE:
        return Kind.CORE_MODULE
    if header == _COMPONENT:
        return Kind.COMPONENT
    if not header:
        return Kind.EMPTY
    if header.startswith(_ELF):
        return Kind.PRECOMPILED
    if header.startswith(MAGIC):
        return Kind.UNKNOWN_VERSION
    if header.isascii() and all(chr(byte).isprintable() or byte in b"\t\r\n" for byte in header):
        return Kind.TEXT
    return Kind.UNKNOWN
