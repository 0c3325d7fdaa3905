# SPDX-License-Identifier: Apache-2.0
"""Reading a tar archive as a stream, from somebody who is not trusted.

tarfile reads extended headers of any size into memory, and has no filters in the Python of Debian 12. Here is its
parser of single headers only; whatever a package has no use for is refused by name.
"""

import tarfile
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from weft_runtime import limits, package_limits
from weft_runtime.errors import Problem, WeftError
from weft_runtime.escape import printable, quote
from weft_runtime.tree import Entry, Kind

_BLOCK = 512
_READ_SIZE = 1024 * 1024

_KINDS = {
    tarfile.REGTYPE: Kind.FILE, tarfile.AREGTYPE: Kind.FILE, tarfile.DIRTYPE: Kind.DIRECTORY,
    tarfile.SYMTYPE: Kind.LINK,
}  # fmt: skip
_EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_REFUSED = {
    tarfile.LNKTYPE: "a hard link", tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a FIFO", tarfile.GNUTYPE_SPARSE: "a sparse file", tarfile.CONTTYPE: "a contiguous file",
}  # fmt: skip


class Source(Protocol):
    """Bytes of an archive; `read` may return fewer than asked for, and none at the end."""

    def read(self, size: int, /) -> bytes: ...


class Extension(NamedTuple):
    """What an extended header says of the member after it."""

    path: str | None = None
    target: str | None = None
    size: int | None = None


class Reader:
    """The members of an archive, in their order; what one holds is read before the next is asked for."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._left = 0
        """Bytes of the current member that nobody has read."""
        self._padding = 0
        self._headers = 0
        """Bytes of headers so far."""
        self._members = 0

    def members(self) -> Iterator[Entry]:
        """Raises WeftError: PACKAGE_INVALID, or LIMIT_EXCEEDED."""
        extension = Extension()
        seen: set[bytes] = set()  # the kinds of extended headers before the next member
        while True:
            self._skip_rest()
            block = self._exactly(_BLOCK)
            self._count_header(_BLOCK)
            if not block.strip(b"\0"):
                if extension != Extension():
                    raise _broken("ends after an extended header")
                self._check_end()
                return
            header = _header(block)
            if header.type in _EXTENDED:
                if header.type in seen:
                    raise _broken("has two extended headers of a kind for one member")
                seen.add(header.type)
            if header.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
                extension = self._extended(header, extension)
            elif header.type == tarfile.XGLTYPE:
                # git-archive(1) puts its commit there; nothing in one may change what follows.
                if _records(self._body(header)).keys() - {"comment"}:
                    raise _broken("has a global header with more than a comment")
            else:
                entry = _entry(header, extension)
                self._left, self._padding = entry.size, -entry.size % _BLOCK
                extension = Extension()
                seen.clear()
                self._members += 1
                if self._members > package_limits.MEMBERS.value:
                    raise limits.exceeded(package_limits.MEMBERS, f"there are more than {self._members - 1}")
                yield entry

    def chunks(self) -> Iterator[bytes]:
        """The content of the current member. Raises WeftError(PACKAGE_INVALID)."""
        while self._left:
            data = self._source.read(min(self._left, _READ_SIZE))
            if not data:
                raise _broken("is cut off")
            self._left -= len(data)
            yield data

    def _extended(self, header: tarfile.TarInfo, before: Extension) -> Extension:
        body = self._body(header)
        if header.type == tarfile.XHDTYPE:
            records = _records(body)
            if sparse := next((key for key in records if key.startswith("GNU.sparse")), None):
                raise _broken(f"has a sparse file ({printable(sparse)})")
            size = records.get("size")
            if size is not None and not (size.isascii() and size.isdigit() and len(size) < 20):
                raise _broken(f"has a file of {quote(size)} bytes")
            return Extension(
                records.get("path", before.path),
                records.get("linkpath", before.target),
                before.size if size is None else int(size),
            )
        text = body.split(b"\0")[0].decode(errors="surrogateescape")
        if header.type == tarfile.GNUTYPE_LONGNAME:
            return before._replace(path=text)
        return before._replace(target=text)

    def _body(self, header: tarfile.TarInfo) -> bytes:
        if not 0 <= header.size <= package_limits.HEADER.value:
            raise limits.exceeded(package_limits.HEADER, f"the archive has one of {header.size} bytes")
        self._count_header(header.size)
        body = self._exactly(header.size)
        self._padding = -header.size % _BLOCK
        return body

    def _count_header(self, size: int) -> None:
        self._headers += size
        if self._headers > package_limits.HEADERS.value:
            raise limits.exceeded(
                package_limits.HEADERS, f"the archive has more than {self._headers - size}"
            )

    def _skip_rest(self) -> None:
        for _ in self.chunks():
            pass
        self._exactly(self._padding)
        self._padding = 0

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._source.read(size - len(data))
            if not part:
                raise _broken("is cut off")
            data += part
        return data

    def _check_end(self) -> None:
        """After the first empty block there are only more of them: tar fills its last record up."""
        size = 0
        while data := self._source.read(_READ_SIZE):
            size += len(data)
            if data.strip(b"\0") or size > _READ_SIZE:
                raise _broken("goes on after its end")


def _header(block: bytes) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise _broken(f"is no tar archive, or damaged: {printable(str(error))}") from None


def _records(body: bytes) -> dict[str, str]:
    """The records "LENGTH KEY=VALUE" of an extended header (pax(1))."""
    records = {}
    begin, count = 0, 0
    while begin < len(body):
        count += 1
        if count > package_limits.RECORDS.value:
            raise limits.exceeded(package_limits.RECORDS, f"the archive has one of more than {count - 1}")
        digits, _, _ = body[begin : begin + 6].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = body[begin : begin + length]
        key, equals, value = record[len(digits) + 1 :].partition(b"=")
        if not equals or not record.endswith(b"\n") or len(record) != length:
            raise _broken("has a damaged extended header")
        records[key.decode(errors="surrogateescape")] = value[:-1].decode(errors="surrogateescape")
        begin += length
    return records


def _entry(header: tarfile.TarInfo, extension: Extension) -> Entry:
    path = header.name if extension.path is None else extension.path
    if (kind := _KINDS.get(header.type)) is None:
        what = _REFUSED.get(header.type, f"of the unknown type {header.type!r}")
        raise WeftError(
            Problem.PACKAGE_INVALID, f"{quote(path)} is {what}: expected files, directories and links"
        )
    if "\0" in path:
        raise _broken("has a name with a NUL character")
    if kind is Kind.DIRECTORY:
        return Entry(path, kind)
    if kind is Kind.LINK:
        target = header.linkname if extension.target is None else extension.target
        if "\0" in target:
            raise _broken("has a name with a NUL character")
        return Entry(path, kind, target=target)
    size = header.size if extension.size is None else extension.size
    if size < 0:
        raise _broken("has a file of less than no bytes")
    return Entry(path, kind, size=size)


def _broken(complaint: str) -> WeftError:
    return WeftError(Problem.PACKAGE_INVALID, f"the archive {complaint}")
