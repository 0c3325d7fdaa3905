# SPDX-License-Identifier: Apache-2.0
"""A small reader of WebAssembly modules: what one imports and exports, and how much it asks for.

It validates neither code nor data: that is for the engine. What it takes is version 1 of the binary format with the
types of garbage collection. A section that has anything newer is left at that place, and the others are read.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from weft_runtime.binary import HEADER_SIZE

Item = TypeVar("Item")

FUNCTION = "function"
MEMORY = "memory"
_KINDS = (FUNCTION, "table", MEMORY, "global", "tag")
"""What can be imported and exported, by its number in the file (Core Specification 5.5.5)."""

_TYPE, _IMPORT, _FUNCTION, _TABLE, _MEMORY, _EXPORT, _CODE, _DATA_COUNT, _TAG = 1, 2, 3, 4, 5, 7, 10, 12, 13
# The order in which the sections must stand: data count before code, tags after memories.
_ORDER = (_TYPE, _IMPORT, _FUNCTION, _TABLE, _MEMORY, _TAG, 6, _EXPORT, 8, 9, _DATA_COUNT, _CODE, 11)
_CUSTOM = 0

_VALUE_TYPES = {
    0x7F: "i32", 0x7E: "i64", 0x7D: "f32", 0x7C: "f64", 0x7B: "v128",
    0x74: "nullexnref", 0x73: "nullfuncref", 0x72: "nullexternref", 0x71: "nullref", 0x70: "funcref",
    0x6F: "externref", 0x6E: "anyref", 0x6D: "eqref", 0x6C: "i31ref", 0x6B: "structref", 0x6A: "arrayref",
    0x69: "exnref",
}  # fmt: skip
# A reference to what a heap type says, which is the index of a type, or one of the codes above.
_REFERENCES = {0x63: "ref null", 0x64: "ref"}
_PACKED = {0x78: "i8", 0x77: "i16"}
_FUNCTION_TYPE, _STRUCT_TYPE, _ARRAY_TYPE = 0x60, 0x5F, 0x5E
# Types that may refer to each other; types with supertypes, open or final.
_GROUP, _OPEN, _FINAL = 0x4E, 0x50, 0x4F

# Flags of limits: there is a maximum; the memory is shared; sizes are of 64 bits; pages have a size of their own.
_HAS_MAXIMUM, _SHARED, _IS_64, _HAS_PAGE_SIZE = 1, 2, 4, 8
_TABLE_WITH_VALUE = 0x40

PAGE = 64 * 1024
"""Bytes of a page of memory."""

ITEMS_MAX = 1_000_000
"""Types, imports, sections, ... of one module: the largest real ones have a fifth of that, and each item costs up to
300 bytes here. (The file may come from anywhere, and root may be asked to install it.)"""

SECTIONS_MAX = 100
"""Custom sections whose names are kept: real modules have a dozen, object files some more."""


class Malformed(Exception):
    """The file is no module: what is wrong, and at which byte."""

    def __init__(self, offset: int, complaint: str) -> None:
        super().__init__(offset, complaint)
        self.offset = offset
        self.complaint = complaint


class Unsupported(Malformed):
    """The file may be a module, but has something that this reader does not know."""


class FunctionType(NamedTuple):
    parameters: tuple[str, ...]
    results: tuple[str, ...]

    def __str__(self) -> str:
        return f"({', '.join(self.parameters)}) -> ({', '.join(self.results)})"


class Import(NamedTuple):
    module: str
    name: str
    kind: str
    type: FunctionType | None
    """None for what is no function, and where the types could not be read."""
    offset: int
    is_shared: bool = False
    """Of a memory: whether threads share it."""


class Export(NamedTuple):
    name: str
    kind: str
    type: FunctionType | None
    offset: int


class Size(NamedTuple):
    """The size that a memory (in bytes) or a table (in elements) has at first."""

    minimum: int
    offset: int
    is_shared: bool = False
    """Of a memory: whether threads share it."""
    is_64: bool = False
    """Whether its addresses have 64 bits."""


class Module(NamedTuple):
    """What a module says of itself, each with its place in the file."""

    imports: tuple[Import, ...]
    exports: tuple[Export, ...]
    memories: tuple[Size, ...]
    tables: tuple[Size, ...]
    sections: tuple[str, ...] = ()
    """Names of the first custom sections."""
    unread: Unsupported | None = None
    """The first thing that the reader does not know: more may be there than what is above, but not less."""
    has_all_exports: bool = True


def read(data: bytes) -> Module:
    """Read a core module, whose header has been looked at. Raises Malformed."""
    return _Builder(data).build()


class _Reader:
    """Numbers, names and vectors, from `at` on; `end` is that of the file or of the section."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.end = data, HEADER_SIZE, len(data)
        self._items = 0

    def is_done(self) -> bool:
        return self.at >= self.end

    def byte(self) -> int:
        if self.is_done():
            raise Malformed(self.at, "unexpected end")
        self.at += 1
        return self.data[self.at - 1]

    def skip(self, size: int) -> int:
        """Pass over `size` bytes; returns where they begin."""
        begin = self.at
        if size > self.end - begin:
            raise Malformed(
                begin, f"unexpected end: {size} bytes are announced, {self.end - begin} are left"
            )
        self.at += size
        return begin

    def number(self, bits: int = 32) -> int:
        """An unsigned number in LEB128."""
        begin, number = self.at, 0
        for shift in range(0, bits, 7):
            byte = self.byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                if number >= 1 << bits:
                    break
                return number
        raise Malformed(begin, f"a number of more than {bits} bits")

    def name(self) -> str:
        size = self.number()
        begin = self.skip(size)
        try:
            return self.data[begin : self.at].decode()
        except UnicodeDecodeError as error:
            raise Malformed(begin + error.start, "a name that is not UTF-8") from None

    def peek(self) -> int | None:
        """The next byte, which stays the next one."""
        return None if self.is_done() else self.data[self.at]

    def signed(self) -> int:
        """A signed number of 33 bits in LEB128."""
        begin, number = self.at, 0
        for shift in range(0, 35, 7):
            byte = self.byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number - (1 << shift + 7) if byte & 0x40 else number
        raise Malformed(begin, "a number of more than 33 bits")

    def each(self, item: Callable[[], object]) -> None:
        """Read a vector whose items `item` keeps: what was kept stays where the next one cannot be read."""
        for _ in range(self.count()):
            item()

    def count(self) -> int:
        """The number of items of a vector, each of a byte at least."""
        begin = self.at
        count = self.number()
        if count > self.end - self.at:
            raise Malformed(begin, f"unexpected end: {count} items are announced")
        self.count_items(begin, count)
        return count

    def vector(self, item: Callable[[], Item]) -> tuple[Item, ...]:
        found: list[Item] = []
        self.each(lambda: found.append(item()))
        return tuple(found)

    def count_items(self, begin: int, count: int) -> None:
        """Keep within the bound; `begin` is where the items stand."""
        self._items += count
        if self._items > ITEMS_MAX:
            raise Unsupported(begin, f"more than {ITEMS_MAX} items")


class _Builder:
    """Puts a module together, section by section."""

    def __init__(self, data: bytes) -> None:
        self._reader = _Reader(data)
        self._types: list[FunctionType | None] = []
        self._functions: list[FunctionType | None] = []
        self._imports: list[Import] = []
        self._exports: list[Export] = []
        self._sections: list[str] = []
        self._unread: Unsupported | None = None
        self._unread_sections: set[int] = set()
        self._memories: list[Size] = []
        self._tables: list[Size] = []
        self._defined = 0
        self._bodies = 0

    def build(self) -> Module:
        contents: dict[int, Callable[[], None]] = {
            _TYPE: self._read_types,
            _IMPORT: self._read_imports,
            _FUNCTION: self._read_functions,
            _TABLE: self._read_tables,
            _MEMORY: self._read_memories,
            _EXPORT: self._read_exports,
            _CODE: self._read_code,
        }
        last, reader = -1, self._reader
        while not reader.is_done():
            begin = reader.at
            try:
                reader.count_items(begin, 1)
            except Unsupported as error:
                return self._module(error)
            section = reader.byte()
            size = reader.number()
            body = reader.skip(size)
            reader.at, reader.end = body, body + size
            if section == _CUSTOM:
                name = reader.name()
                if len(self._sections) < SECTIONS_MAX:
                    self._sections.append(name)
                reader.at = reader.end
            elif section not in _ORDER:
                raise Malformed(begin, f"malformed section id: {section}")
            elif _ORDER.index(section) <= last:
                raise Malformed(begin, f"section {section} is out of order, or there are two")
            else:
                last = _ORDER.index(section)
                try:
                    contents.get(section, self._skip)()
                except Unsupported as error:
                    self._unread = self._unread or error
                    self._unread_sections.add(section)
                    reader.at = reader.end
            if not reader.is_done():
                raise Malformed(reader.at, f"section {section} has more bytes than it needs")
            reader.end = len(reader.data)
        if self._defined != self._bodies and not {_FUNCTION, _CODE} & self._unread_sections:
            raise Malformed(reader.at, f"{self._defined} functions, but {self._bodies} bodies")
        return self._module(self._unread)

    def _module(self, unread: Unsupported | None) -> Module:
        return Module(
            imports=tuple(self._imports),
            exports=tuple(self._exports),
            memories=tuple(self._memories),
            tables=tuple(self._tables),
            sections=tuple(self._sections),
            unread=unread,
            has_all_exports=unread is self._unread and _EXPORT not in self._unread_sections,
        )

    def _skip(self) -> None:
        self._reader.at = self._reader.end

    def _read_types(self) -> None:
        def recursive() -> None:
            if self._reader.peek() == _GROUP:
                self._reader.byte()
                self._reader.each(lambda: self._types.append(self._type()))
            else:
                self._types.append(self._type())

        self._reader.each(recursive)

    def _type(self) -> FunctionType | None:
        """The next type; None for one that is no function's."""
        if self._reader.peek() in (_OPEN, _FINAL):
            self._reader.byte()
            self._reader.each(self._reader.number)  # its supertypes
        begin = self._reader.at
        form = self._reader.byte()
        if form == _FUNCTION_TYPE:
            return FunctionType(self._reader.vector(self._value_type), self._reader.vector(self._value_type))
        if form == _STRUCT_TYPE:
            self._reader.each(self._field)
        elif form == _ARRAY_TYPE:
            self._field()
        else:
            raise Unsupported(begin, f"a type of the form {form:#x}")
        return None

    def _field(self) -> None:
        if self._reader.peek() in _PACKED:
            self._reader.byte()
        else:
            self._value_type()
        self._reader.byte()  # whether it can be changed

    def _value_type(self) -> str:
        begin = self._reader.at
        code = self._reader.byte()
        if code in _REFERENCES:
            heap = self._reader.signed()
            if heap >= 0:
                return f"({_REFERENCES[code]} {heap})"
            if (abstract := heap + 0x80) in _VALUE_TYPES and _VALUE_TYPES[abstract].endswith("ref"):
                return f"({_REFERENCES[code]} {_VALUE_TYPES[abstract].removesuffix('ref')})"
        elif code in _VALUE_TYPES:
            return _VALUE_TYPES[code]
        raise Unsupported(begin, f"a value of the type {code:#x}")

    def _type_at_index(self) -> FunctionType | None:
        """None where the types could not be read."""
        begin = self._reader.at
        index = self._reader.number()
        if _TYPE in self._unread_sections:
            return None
        if index >= len(self._types):
            raise Malformed(begin, f"unknown type {index}")
        if (type_ := self._types[index]) is None:
            raise Malformed(begin, f"type {index} is not that of a function")
        return type_

    def _read_imports(self) -> None:
        self._reader.each(lambda: self._imports.append(self._import()))

    def _import(self) -> Import:
        offset = self._reader.at
        module, name, kind = self._reader.name(), self._reader.name(), self._kind()
        type_, is_shared = None, False
        match kind:
            case "function":
                type_ = self._type_at_index()
                self._functions.append(type_)
            case "table":
                self._tables.append(self._table())
            case "memory":
                self._memories.append(self._memory())
                is_shared = self._memories[-1].is_shared
            case "global":
                self._value_type()
                self._reader.byte()
            case _:
                self._reader.byte()
                self._type_at_index()
        return Import(module, name, kind, type_, offset, is_shared)

    def _kind(self) -> str:
        begin = self._reader.at
        number = self._reader.byte()
        if number >= len(_KINDS):
            raise Malformed(begin, f"unknown kind {number:#x}")
        return _KINDS[number]

    def _read_functions(self) -> None:
        functions = self._reader.vector(self._type_at_index)
        self._functions.extend(functions)
        self._defined = len(functions)

    def _read_tables(self) -> None:
        self._reader.each(lambda: self._tables.append(self._table()))

    def _table(self) -> Size:
        begin = self._reader.at
        if self._reader.peek() == _TABLE_WITH_VALUE:
            raise Unsupported(begin, "a table whose elements have a value at first")
        self._value_type()
        offset, _, minimum, _ = self._limits()
        return Size(minimum, offset)

    def _read_memories(self) -> None:
        self._reader.each(lambda: self._memories.append(self._memory()))

    def _memory(self) -> Size:
        offset, flags, minimum, page = self._limits()
        return Size(minimum * page, offset, bool(flags & _SHARED), bool(flags & _IS_64))

    def _limits(self) -> tuple[int, int, int, int]:
        """Where they stand, their flags, the minimum, and the bytes of a page."""
        begin = self._reader.at
        flags = self._reader.byte()
        if flags >= 2 * _HAS_PAGE_SIZE:
            raise Malformed(begin, f"malformed limits flags: {flags:#x}")
        bits = 64 if flags & _IS_64 else 32
        minimum = self._reader.number(bits)
        if flags & _HAS_MAXIMUM:
            self._reader.number(bits)
        # The exponent is 0 or 16; whatever else it says, the shift stays small.
        page = 1 << min(self._reader.number(), 16) if flags & _HAS_PAGE_SIZE else PAGE
        return begin, flags, minimum, page

    def _read_exports(self) -> None:
        names = set()

        def export() -> None:
            self._exports.append(found := self._export())
            if found.name in names:
                raise Malformed(found.offset, "duplicate export name")
            names.add(found.name)

        self._reader.each(export)

    def _export(self) -> Export:
        offset = self._reader.at
        name, kind = self._reader.name(), self._kind()
        begin = self._reader.at
        index = self._reader.number()
        if kind != FUNCTION:
            return Export(name, kind, None, offset)
        if {_IMPORT, _FUNCTION} & self._unread_sections:
            return Export(name, kind, None, offset)
        if index >= len(self._functions):
            raise Malformed(begin, f"unknown function {index}")
        return Export(name, kind, self._functions[index], offset)

    def _read_code(self) -> None:
        self._bodies = self._reader.count()
        for _ in range(self._bodies):
            size = self._reader.number()
            self._reader.skip(size)
