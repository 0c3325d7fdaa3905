# SPDX-License-Identifier: Apache-2.0
"""The messages of the control protocol as MessagePack and as JSON."""

import json
import math
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from types import NoneType
from typing import Generic, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import msgpack

from weft_runtime.escape import quote
from weft_runtime.protocol import U32, U64, ProtocolError, Request, Response, State


def encode_msgpack(message: Request | Response) -> bytes:
    """The body of a frame: an array of the tag and the fields."""
    shape = _SHAPES[type(message)]
    body: bytes = msgpack.packb([shape.tag, *_packable(shape, message)])
    return body


def encode_json(message: Request | Response) -> str:
    """The text of a WebSocket message: compact, `type` first, then the fields in their order."""
    shape = _SHAPES[type(message)]
    return _json_object(shape, message, f'"type":"{shape.tag}"')


def msgpack_pieces(message: Request | Response) -> Iterator[bytes]:
    """The same bytes as `encode_msgpack`, in pieces that each take a fraction of a millisecond to make."""
    shape = _SHAPES[type(message)]
    packer = msgpack.Packer()
    yield packer.pack_array_header(1 + len(shape.fields)) + packer.pack(shape.tag)
    for field, value in zip(shape.fields, message, strict=True):
        if field.record is not None and isinstance(value, tuple):
            yield packer.pack_array_header(len(value))
            for items in _chunks(value):
                yield b"".join(packer.pack(_packable(field.record, item)) for item in items)
        else:
            yield packer.pack(_packable_value(field, value))


def json_pieces(message: Request | Response) -> Iterator[str]:
    """The same text as `encode_json`, in pieces that each take a fraction of a millisecond to make."""
    shape = _SHAPES[type(message)]
    yield f'{{"type":"{shape.tag}"'
    for field, value in zip(shape.fields, message, strict=True):
        if field.record is not None and isinstance(value, tuple):
            before = f',"{field.name}":['
            for items in _chunks(value):
                yield before + ",".join(_json_object(field.record, item) for item in items)
                before = ","
            yield "]" if value else before + "]"
        else:
            yield f',"{field.name}":{_json_value(field, value)}'
    yield "}"


def decode_request_msgpack(body: bytes) -> Request:
    """The request at the start of `body`; what follows it is ignored. Raises ProtocolError."""
    _bound_msgpack(body)
    return _message(_unpack(body, 0, depth=1)[0], _REQUESTS, _INDEXED_REQUESTS)


def decode_request_json(text: str) -> Request:
    """Raises ProtocolError."""
    _bound_json(text)
    return _message(_parse_json(text), _REQUESTS, 0)


def decode_response_msgpack(body: bytes) -> Response:
    """The response at the start of `body`; what follows it is ignored. Raises ProtocolError."""
    return _message(_unpack(body, 0, depth=3)[0], _RESPONSES, _INDEXED_RESPONSES)


def decode_response_json(text: str) -> Response:
    """Raises ProtocolError."""
    return _message(_parse_json(text), _RESPONSES, 0)


# The table: how each class stands on the wire.

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class _Field(NamedTuple):
    """A scalar of `kind`, or a list: of `record`s, or of strings if there is no record."""

    name: str
    kind: object
    optional: bool
    record: "_Shape[object] | None"


_STRING = _Field("", str, False, None)
"""What a list without records has."""


class _Shape(NamedTuple, Generic[T_co]):
    make: Callable[..., T_co]
    tag: str
    fields: tuple[_Field, ...]


def _shape(cls: type[T]) -> _Shape[T]:
    fields = []
    for name, annotation in get_type_hints(cls, include_extras=True).items():
        arguments = get_args(annotation)
        if get_origin(annotation) is tuple:
            record = None if arguments[0] is str else _shape(arguments[0])
            fields.append(_Field(name, tuple, False, record))
        elif NoneType in arguments:
            fields.append(_Field(name, arguments[0], True, None))
        else:
            fields.append(_Field(name, annotation, False, None))
    return _Shape(cls, re.sub(r"\B([A-Z])", r"_\1", cls.__name__).upper(), tuple(fields))


_REQUESTS: tuple[_Shape[Request], ...] = tuple(map(_shape, get_args(Request)))
_RESPONSES: tuple[_Shape[Response], ...] = tuple(map(_shape, get_args(Response)))
_SHAPES: Mapping[object, _Shape[object]] = {shape.make: shape for shape in (*_REQUESTS, *_RESPONSES)}

_INDEXED_REQUESTS, _INDEXED_RESPONSES = 7, 8
"""In MessagePack an index may stand for the tag of the existing system's messages, which come first."""

_RECORDS = [field.record for shape in _SHAPES.values() for field in shape.fields if field.record is not None]
_FIELDS_OF_ALL = [shape.fields for shape in (*_SHAPES.values(), *_RECORDS)]
_FIELDS_MAX = max(map(len, _FIELDS_OF_ALL))
_NAMES = frozenset({"type", *(field.name for fields in _FIELDS_OF_ALL for field in fields)})
"""What a key has to be to matter in some message."""

_MAXIMA: Mapping[object, int] = {U32: 2**32 - 1, U64: 2**64 - 1}
_STATES: Mapping[str, State] = {state.value: state for state in State}
_EXPECTED: Mapping[object, str] = {
    str: "a string",
    float: "a number",
    tuple: "an array",
    State: f"one of {', '.join(State)}",
    **{kind: f"an integer from 0 to {maximum}" for kind, maximum in _MAXIMA.items()},
}


# Encoding.

_PIECE = 32
"""Records of a piece: encoding one takes some 10 microseconds."""


def _chunks(records: tuple[T, ...]) -> Iterator[tuple[T, ...]]:
    for start in range(0, len(records), _PIECE):
        yield records[start : start + _PIECE]


_JSON_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def _packable(shape: _Shape[object], values: Iterable[object]) -> list[object]:
    return [_packable_value(field, value) for field, value in zip(shape.fields, values, strict=True)]


def _packable_value(field: _Field, value: object) -> object:
    if field.record is not None and isinstance(value, tuple):
        return [_packable(field.record, item) for item in value]
    return float(value) if field.kind is float and isinstance(value, int) else value


def _json_object(shape: _Shape[object], values: Iterable[object], *first: str) -> str:
    pairs = zip(shape.fields, values, strict=True)
    members = [f'"{field.name}":{_json_value(field, value)}' for field, value in pairs]
    return f"{{{','.join([*first, *members])}}}"


def _json_value(field: _Field, value: object) -> str:
    if field.record is not None and isinstance(value, tuple):
        return f"[{','.join(_json_object(field.record, item) for item in value)}]"
    if field.kind is float and isinstance(value, int | float):
        return _json_float(float(value))
    return _JSON_ENCODER.encode(value)


def _json_float(value: float) -> str:
    """As the existing system writes it, which differs from `repr` only in small numbers: 0.00001, 1e-7."""
    if not math.isfinite(value):
        return "null"
    digits, small, exponent = repr(value).partition("e-")
    if not small:
        return digits
    if exponent == "05":
        return f"{'-' * (value < 0)}0.0000{digits.lstrip('-').replace('.', '')}"
    return f"{digits}e-{exponent.lstrip('0')}"


# Decoding a request begins with a look at how much there is: both decoders take a microsecond for each element.

ELEMENTS_MAX = 1000
"""Values, keys included, in a request: the longest has 9, and unknown keys with what is in them are ignored."""

_JSON_ELEMENT = re.compile(r'(?:[^"\[{:,]++|"(?:[^"\\]++|\\.)*+(?:"|\Z))*+[\[{:,]', re.DOTALL)
"""All up to the next sign that comes once for each element or so; none of those in strings."""


def _bound_msgpack(body: bytes) -> None:
    """Raises ProtocolError if the value at the start of `body` has too many elements; other faults pass."""
    at, pending = 0, 1
    for _ in range(ELEMENTS_MAX):
        if not pending or at >= len(body):
            return
        try:
            kind, number, at = _head(body, at)
        except ProtocolError:
            return
        pending -= 1
        if kind == _ARRAY:
            pending += number
        elif kind == _MAP:
            pending += 2 * number
        elif kind >= _FLOAT:
            at += number
    if pending and at < len(body):
        raise _too_many()


def _bound_json(text: str) -> None:
    """The same for a text."""
    at = 0
    for _ in range(ELEMENTS_MAX):
        found = _JSON_ELEMENT.match(text, at)
        if found is None:
            return
        at = found.end()
    raise _too_many()


def _too_many() -> ProtocolError:
    return ProtocolError(f"the message has over {ELEMENTS_MAX} elements: no request has as many")


# Decoding, first half: either encoding to None, bool, int, float, str, list or tuple, _Members, _Other.

_Members = dict[str | int | None, list[object]]
"""A map: the values of each key that matters, two at most; and None if there are keys that name nothing."""


class _Other(Enum):
    """What is not kept, since no field takes it, or is not there; the text is for error messages."""

    NOT_UTF8 = "text that is not UTF-8"
    COMPOUND = "an array, a map or an extension"
    MISSING = "missing"


def _add(members: _Members, name: str | int, value: object) -> None:
    values = members.setdefault(name, [])
    if len(values) < 2:
        values.append(value)


def _json_members(pairs: list[tuple[str, object]]) -> _Members:
    members: _Members = {}
    for name, value in pairs:
        if name in _NAMES:
            _add(members, name, value)
    return members


def _json_integer(digits: str) -> int | float:
    """-0 is a float, and so is what does not fit into 64 bits."""
    return int(digits) if len(digits) <= 20 and digits != "-0" else _json_real(digits)


def _json_real(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ProtocolError("not JSON: a number is out of range")
    return number


def _json_constant(name: str) -> object:
    raise ProtocolError(f"not JSON: {name}")


_JSON_DECODER = json.JSONDecoder(
    object_pairs_hook=_json_members,
    parse_int=_json_integer,
    parse_float=_json_real,
    parse_constant=_json_constant,
)
_HALF_A_PAIR = re.compile(
    r"\\u[dD](?:[89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..\\u[dD])[c-fC-F])", re.DOTALL
)
"""An escape that is the first half of a surrogate pair without the second, or the second without the first."""


def _parse_json(text: str) -> object:
    try:
        value: object = _JSON_DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise ProtocolError(f"not JSON: {error.msg.removesuffix(' at')} at character {error.pos}") from None
    except RecursionError:
        raise ProtocolError("not JSON: nested too deeply") from None
    # Without escaped backslashes every other backslash begins an escape.
    if ("\\ud" in text or "\\uD" in text) and _HALF_A_PAIR.search(text.replace(r"\\", "  ")):
        raise ProtocolError("not JSON: half a surrogate pair")
    return value


# MessagePack is read by hand. The library makes room for the elements that a header of five bytes announces
# at each level, and makes objects of what no field takes: a frame of empty maps costs it 70 times its size.

_RESERVED, _NIL, _BOOL, _UNSIGNED, _SIGNED, _FLOAT, _TEXT, _EXTENSION, _ARRAY, _MAP = range(10)

_HEADS = (
    *((_UNSIGNED, 0, number) for number in range(128)),
    *((_MAP, 0, pairs) for pairs in range(16)),
    *((_ARRAY, 0, elements) for elements in range(16)),
    *((_TEXT, 0, length) for length in range(32)),
    (_NIL, 0, 0), (_RESERVED, 0, 0), (_BOOL, 0, 0), (_BOOL, 0, 1),
    (_TEXT, 1, 0), (_TEXT, 2, 0), (_TEXT, 4, 0),
    (_EXTENSION, 1, 1), (_EXTENSION, 2, 1), (_EXTENSION, 4, 1),
    (_FLOAT, 0, 4), (_FLOAT, 0, 8),
    (_UNSIGNED, 1, 0), (_UNSIGNED, 2, 0), (_UNSIGNED, 4, 0), (_UNSIGNED, 8, 0),
    (_SIGNED, 1, 0), (_SIGNED, 2, 0), (_SIGNED, 4, 0), (_SIGNED, 8, 0),
    (_EXTENSION, 0, 2), (_EXTENSION, 0, 3), (_EXTENSION, 0, 5), (_EXTENSION, 0, 9), (_EXTENSION, 0, 17),
    (_TEXT, 1, 0), (_TEXT, 2, 0), (_TEXT, 4, 0),
    (_ARRAY, 2, 0), (_ARRAY, 4, 0), (_MAP, 2, 0), (_MAP, 4, 0),
    *((_SIGNED, 0, number) for number in range(-32, 0)),
)  # fmt: skip
"""By first byte: the kind, the size of the number that follows, what to add to it. It is the value, or so
many bytes follow (of an extension one more, its type), or so many values, or so many pairs of them."""

_KEYS: Mapping[object, str | int] = {
    **dict(enumerate(range(_FIELDS_MAX))),
    **{n.encode(): n for n in _NAMES},
}
"""The keys that matter: a field's index, or its name."""


def _unpack(body: bytes, at: int, depth: int) -> tuple[object, int]:
    """The value at `at`, and where the next one is; what is nested deeper than `depth` is not looked at."""
    kind, number, start = _head(body, at)
    if kind == _NIL:
        return None, start
    if kind == _BOOL:
        return number == 1, start
    if kind in (_UNSIGNED, _SIGNED):
        return number, start
    if kind == _FLOAT:
        value: float = struct.unpack(">f" if number == 4 else ">d", _take(body, start, number))[0]
        return value, start + number
    if kind == _TEXT:
        try:
            return _take(body, start, number).decode(), start + number
        except UnicodeDecodeError:
            return _Other.NOT_UTF8, start + number
    if kind == _EXTENSION or not depth:
        return _Other.COMPOUND, _skip(body, at)
    return (_unpack_array if kind == _ARRAY else _unpack_map)(body, start, depth - 1, number)


def _unpack_array(body: bytes, at: int, depth: int, count: int) -> tuple[object, int]:
    if not depth and count > 1 + _FIELDS_MAX:
        raise ProtocolError(f"an array has {count} elements: no message has as many")
    elements = []
    for _ in range(count):
        element, at = _unpack(body, at, depth)
        elements.append(element)
    return tuple(elements), at


def _unpack_map(body: bytes, at: int, depth: int, count: int) -> tuple[object, int]:
    members: _Members = {}
    for _ in range(count):
        name = None
        kind, number, start = _head(body, at)
        if kind == _TEXT:
            at = start + number
            name = _KEYS.get(body[start:at])
        elif kind == _UNSIGNED:
            at = start
            name = _KEYS.get(number)
        else:
            at = _skip(body, at)
            members[None] = []
        if name is None:
            at = _skip(body, at)
        else:
            value, at = _unpack(body, at, depth)
            _add(members, name, value)
    return members, at


def _skip(body: bytes, at: int) -> int:
    """Where the value after the one at `at` begins. However deep that one nests, this does not."""
    pending = 1
    while pending:
        if pending > len(body) - at:
            raise _cut_off(body)
        kind, number, at = _head(body, at)
        pending -= 1
        if kind == _ARRAY:
            pending += number
        elif kind == _MAP:
            pending += 2 * number
        elif kind >= _FLOAT:
            at += number
    if at > len(body):
        raise _cut_off(body)
    return at


def _head(body: bytes, at: int) -> tuple[int, int, int]:
    """The kind and the number of the value at `at`, and where its header ends."""
    if at >= len(body):
        raise _cut_off(body)
    kind, size, number = _HEADS[body[at]]
    if size:
        number += int.from_bytes(_take(body, at + 1, size), "big", signed=kind == _SIGNED)
    elif kind == _RESERVED:
        raise ProtocolError(f"byte {at} is not MessagePack")
    return kind, number, at + 1 + size


def _take(body: bytes, at: int, length: int) -> bytes:
    if length > len(body) - at:
        raise _cut_off(body)
    return body[at : at + length]


def _cut_off(body: bytes) -> ProtocolError:
    return ProtocolError(f"the message is cut off after {len(body)} bytes")


# Decoding, second half: those values to messages.


def _message(value: object, shapes: tuple[_Shape[T], ...], indexed: int) -> T:
    fields = value
    if isinstance(value, list | tuple):
        tag, fields = (value[0], value[1:]) if value else (_Other.MISSING, value)
    elif isinstance(value, dict):
        tag = _only(value, "type")
    else:
        raise ProtocolError(f"the message is {_found(value)}: expected an array or a map")
    for index, shape in enumerate(shapes):
        if tag == shape.tag or (index < indexed and tag == index and type(tag) is int):
            return _record(shape, fields, shape.tag)
    tags = ", ".join(shape.tag for shape in shapes)
    raise ProtocolError(f"type is {_found(tag)}: expected one of {tags}")


def _record(shape: _Shape[T], value: object, where: str) -> T:
    if isinstance(value, list | tuple):
        if len(value) != len(shape.fields):
            raise ProtocolError(
                f"{where}: the number of fields is {len(value)}: expected {len(shape.fields)}"
            )
        values = list(value)
    elif isinstance(value, dict):
        if shape.fields and None in value:
            raise ProtocolError(f"{where} has a key that is not a string")
        values = [_only(value, field.name, index) for index, field in enumerate(shape.fields)]
    else:
        raise ProtocolError(f"{where} is {_found(value)}: expected an array or a map")
    pairs = zip(shape.fields, values, strict=True)
    return shape.make(*(_value(field, value, f"{where}: {field.name}") for field, value in pairs))


def _only(members: _Members, *names: str | int) -> object:
    """The value of the one key that is among `names`."""
    values = [value for name in names for value in members.get(name, ())]
    if len(values) > 1:
        raise ProtocolError(f"the key '{names[0]}' is there more than once")
    return values[0] if values else _Other.MISSING


def _value(field: _Field, value: object, where: str) -> object:
    """`value` if `field` takes it."""
    kind = field.kind
    if kind is tuple and isinstance(value, list | tuple):
        return tuple(_item(field.record, item, f"{where}[{index}]") for index, item in enumerate(value))
    if field.optional and (value is None or value is _Other.MISSING):
        return None
    if isinstance(value, str):
        if kind is str:
            return value
        if kind is State and value in _STATES:
            return _STATES[value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        if kind is float:
            return float(value)
        if isinstance(value, int) and 0 <= value <= _MAXIMA.get(kind, -1):
            return value
    raise ProtocolError(f"{where} is {_found(value)}: expected {_EXPECTED[kind]}")


def _item(record: _Shape[object] | None, value: object, where: str) -> object:
    return _value(_STRING, value, where) if record is None else _record(record, value, where)


def _found(value: object) -> str:
    if isinstance(value, _Other):
        return value.value
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, list | tuple | dict):
        return _Other.COMPOUND.value
    return _JSON_ENCODER.encode(value)
