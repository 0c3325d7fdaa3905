# SPDX-License-Identifier: Apache-2.0
"""What a file is that should be a module, by its beginning, and what to do where it is something else.

The numbers are those of file(1)'s formats: each from the specification of the format, or of the program that writes it.
"""

import codecs
import os
import re
from typing import NamedTuple

from weft_runtime.binary import BEGINNING, COMPONENT, CORE_MODULE, MAGIC
from weft_runtime.errors import WeftError
from weft_runtime.escape import printable
from weft_runtime.wasm.rules import Complaint

_NOT_WASM = "not a WebAssembly module"
_UNPACK = "unpack it before packaging"
_BUILD_WASM = "it is for a processor: build it for the target wasm32-wasip1"
_DOWNLOAD_AGAIN = "a download has failed, as it seems"

# After the identification that ELF files share: the operating system, where the engine puts a number of its own.
_ELF, _ELF_SYSTEM, _ELF_OF_ENGINE = b"\x7fELF", 7, 200

_TAR, _TAR_AT = b"ustar", 257

_INTERPRETER_MAX = 60
"""Characters of the name of a script's interpreter."""


class _Format(NamedTuple):
    """A format by the bytes that a file of it begins with."""

    beginnings: tuple[bytes, ...]
    name: str
    hint: str | None = None


_FORMATS = (
    _Format((b"\x1f\x8b",), "a gzip file", _UNPACK),
    _Format((b"PK\3\4", b"PK\5\6", b"PK\7\x08"), "a zip file", _UNPACK),
    _Format((b"\xfd7zXZ\0",), "an xz file", _UNPACK),
    _Format((b"\x28\xb5\x2f\xfd",), "a zstd file", _UNPACK),
    _Format((b"BZh",), "a bzip2 file", _UNPACK),
    _Format((b"\x04\x22\x4d\x18",), "an lz4 file", _UNPACK),
    _Format((b"7z\xbc\xaf\x27\x1c",), "a 7z file", _UNPACK),
    _Format((b"\x1f\x9d",), "a file of compress(1)", _UNPACK),
    _Format((b"!<arch>\ndebian-binary",), "a Debian package"),
    _Format((b"!<arch>\n", b"!<thin>\n"), "an archive of object files (ar)", "link it, with wasm-ld or by the compiler"),
    _Format((b"BC\xc0\xde", b"\xde\xc0\x17\x0b"), "LLVM bitcode", "compile and link it, without -flto or -emit-llvm"),
    _Format(
        (b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe"),
        "a program or library of macOS (Mach-O)", _BUILD_WASM,
    ),
    _Format((b"MZ",), "a program or library of Windows (PE)", _BUILD_WASM),
    _Format((_ELF,), "a program, library or object file of Linux (ELF)", _BUILD_WASM),
    _Format((b"\xed\xab\xee\xdb",), "an RPM package"),
    _Format((b"SQLite format 3\0",), "a database of SQLite"),
    _Format((b"%PDF-",), "a PDF file"),
    _Format((b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8"), "a picture"),
    _Format((b"version https://git-lfs.github.com/spec/",), "a pointer of Git LFS", "fetch the file itself: git lfs pull"),
    _Format((b"AGFzbQ",), "a WebAssembly module in base64", "decode it before packaging: base64 -d"),
    _Format((b"\xff\xfe", b"\xfe\xff"), "text in UTF-16"),
)  # fmt: skip

# What Mach-O and Java begin with alike; then the number of programs in a file, or the version of Java, which is larger.
_FAT_OR_JAVA, _JAVA_MIN = b"\xca\xfe\xba\xbe", 45

_HTML = re.compile(r"\s*<(!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_WAT = re.compile(r"\s*(;;|\()")


def complaint(beginning: bytes) -> Complaint | None:
    """What is wrong with a file that begins with `beginning`: BEGINNING bytes, fewer if it is shorter. None for a module."""
    if beginning.startswith(CORE_MODULE):
        return None
    message, hint = _kind(beginning)
    return Complaint(f"is {message}", hint, offset=0)


def expect_module(fd: int, source: str) -> None:
    """Raise WeftError(MODULE_INVALID) unless the file open on `fd`, whose path is `source`, has the header of a module."""
    found = complaint(os.pread(fd, BEGINNING, 0))
    if found is not None:
        raise WeftError(found.problem, f"{source} {found.message}", found.hint)


def _kind(beginning: bytes) -> tuple[str, str | None]:
    if not beginning:
        return "empty", None
    if beginning.startswith(COMPONENT):
        hint = "build a WASI preview 1 command, such as with the target wasm32-wasip1"
        return "a WebAssembly component: components are not supported by this release", hint
    if beginning.startswith(MAGIC):
        return "WebAssembly of an unknown version", None
    if beginning.startswith(_ELF) and beginning[_ELF_SYSTEM : _ELF_SYSTEM + 1] == bytes([_ELF_OF_ENGINE]):
        hint = "ship the .wasm file; it is compiled on the device"
        return "a precompiled module (an ELF file): not accepted in a package", hint
    for format_ in _FORMATS:
        if beginning.startswith(format_.beginnings):
            return f"{format_.name}, {_NOT_WASM}", format_.hint
    if beginning.startswith(_FAT_OR_JAVA):
        if int.from_bytes(beginning[4:8], "big") < _JAVA_MIN:
            return f"a program or library of macOS (Mach-O), {_NOT_WASM}", _BUILD_WASM
        return f"a class of Java, {_NOT_WASM}", None
    if beginning.startswith(_TAR, _TAR_AT):
        return f"a tar archive, {_NOT_WASM}", _UNPACK
    if (text := _text(beginning)) is not None:
        return _kind_of_text(text)
    return "something other than a WebAssembly module", None


def _kind_of_text(text: str) -> tuple[str, str | None]:
    if text.startswith("#!"):
        interpreter = (
            printable(text[2:].splitlines()[0].strip(), _INTERPRETER_MAX) if text[2:].strip() else ""
        )
        return f"a script (#!{interpreter}), {_NOT_WASM}", None
    if _HTML.match(text):
        return f"a page of HTML, {_NOT_WASM}", _DOWNLOAD_AGAIN
    hint = "assemble WAT with wat2wasm(1) or wasm-tools(1) before packaging"
    return f"text, {_NOT_WASM}", hint if _WAT.match(text) else None


def _text(beginning: bytes) -> str | None:
    """`beginning` as text; None where it is none. The last character may be cut."""
    beginning = beginning.removeprefix(codecs.BOM_UTF8)
    try:
        text = beginning.decode()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return None
        text = beginning[: error.start].decode()
    return text if text and all(char.isprintable() or char in "\t\r\n\f" for char in text) else None
