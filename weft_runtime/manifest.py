# SPDX-License-Identifier: Apache-2.0
"""`wapp.toml`, the manifest of a package (wapp.toml(5))."""

import re
import tomllib
from enum import StrEnum
from typing import NamedTuple

from weft_runtime import limits
from weft_runtime.decode import Table
from weft_runtime.errors import Problem, WeftError
from weft_runtime.escape import printable
from weft_runtime.ids import AppId

FILE_NAME = "wapp.toml"

KEY_PARTS_MAX = 16
"""Parts of a dotted key or header: ours have three at most. tomllib's time grows with the square of their
number, to hours for a manifest of the largest size."""

# Each alternative takes what it can, closed or not: nothing is tried again from the next place, so that the
# time stays linear in any file. (The search holds the interpreter's lock: no signal ends it.) Neither expression is
# compiled until it is used: that takes 1 ms, and hardly a manifest has dots enough to need them.
STRING_OR_COMMENT = (
    r'''(?s)"""(?:[^"\\]|\\.|"(?!""))*+(?:"{3,5})?|"(?:[^"\\\n]|\\.)*+"?|#[^\n]*+'''
    r"""|'''(?:[^']|'(?!''))*+(?:'{3,5})?|'[^'\n]*+'?"""
)
_LONG_KEY = rf"(?<![A-Za-z0-9_-])(?:[A-Za-z0-9_-]++[ \t]*+\.[ \t]*+){{{KEY_PARTS_MAX}}}"


class ReadyMode(StrEnum):
    """Who says that the app is ready."""

    HOST = "host"
    """The runtime, once the module is instantiated."""
    EXPORT = "export"
    """The runtime, once the module's exported `weft_ready` has returned."""
    GUEST = "guest"
    """The module itself, by a line READY on its standard output."""


# Here and elsewhere below the runtime, values are NamedTuples: importing dataclasses brings in
# inspect, which alone would cost each launch about a tenth of its time.
class Manifest(NamedTuple):
    """A manifest whose every known key has the right type; unknown keys were ignored."""

    id: AppId
    name: str
    version: str
    description: str | None
    author: str | None
    capabilities: tuple[str, ...]
    module: str
    ready: ReadyMode | None
    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    ui_entry: str | None
    """None for an app without a user interface."""


def parse(data: bytes, source: str) -> Manifest:
    """Parse the bytes of a `wapp.toml`; `source` is its path, for the messages.

    Raises WeftError: MANIFEST_INVALID naming file, key and what was expected, or LIMIT_EXCEEDED.
    """
    top = Table(load(data, source), source, Problem.MANIFEST_INVALID)
    package, runtime, ui = top.table("package"), top.table("runtime"), top.table_or_none("ui")
    try:
        package_id = AppId.parse(package.string("id"))
    except ValueError as error:
        raise package.error("id", f"is wrong: {error}") from None
    name, version = package.string("name"), package.string("version")
    for key, text in (("name", name), ("version", version)):
        if len(text) > limits.NAME.value:
            raise limits.exceeded(limits.NAME, package.error(key, f"has {len(text)} characters").message)
    args, env = runtime.strings("args"), tuple(runtime.optional_table("env").string_items())
    _check_guest_strings(runtime, args, env)
    return Manifest(
        id=package_id,
        name=name,
        version=version,
        description=package.optional_string("description"),
        author=package.optional_string("author"),
        capabilities=package.strings("capabilities"),
        module=runtime.string("module"),
        ready=runtime.optional_choice("ready", ReadyMode),
        args=args,
        env=env,
        ui_entry=None if ui is None else ui.string("entry"),
    )


def load(data: bytes, source: str) -> dict[str, object]:
    """The tables of a `wapp.toml` as they are. Raises WeftError for what is no TOML, or more than is borne."""
    if len(data) > limits.MANIFEST.value:
        raise limits.exceeded(limits.MANIFEST, f"{printable(source)} has over {limits.MANIFEST.value} bytes")
    try:
        text = data.decode()
        if text.count(".") >= KEY_PARTS_MAX and re.search(_LONG_KEY, re.sub(STRING_OR_COMMENT, "s", text)):
            raise _invalid(source, f"has a key of over {KEY_PARTS_MAX} parts")
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise _invalid(source, f"is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise _invalid(source, "is nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, and what int() and datetime say of absurd literals
        raise _invalid(source, f"is not TOML: {error}") from None


def _check_guest_strings(runtime: Table, args: tuple[str, ...], env: tuple[tuple[str, str], ...]) -> None:
    """What the guest is to receive must survive the trip: C strings, and not too many of them."""
    for index, arg in enumerate(args):
        if "\0" in arg:
            raise runtime.error(f"args[{index}]", "holds a NUL character, which no argument can")
    for name, value in env:
        if not name or "=" in name or "\0" in name:
            raise runtime.error(f"env.{name}", "is no name of a variable: it is empty or holds '=' or NUL")
        if "\0" in value:
            raise runtime.error(f"env.{name}", "holds a NUL character, which no variable can")
    size = sum(len(arg.encode()) + 1 for arg in args)
    size += sum(len(f"{name}={value}".encode()) + 1 for name, value in env)
    if size > limits.ARGUMENTS.value:
        message = runtime.error("args", f"and env have {size} bytes").message
        raise limits.exceeded(limits.ARGUMENTS, message)


def _invalid(source: str, complaint: str) -> WeftError:
    return WeftError(Problem.MANIFEST_INVALID, f"{printable(source)} {printable(complaint)}")
