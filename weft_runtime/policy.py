# SPDX-License-Identifier: Apache-2.0
"""`/etc/weft/pack.toml`: whether a package needs a signature. Each launch reads it, so it imports next to nothing."""

import os
import tomllib
from enum import StrEnum
from pathlib import Path

from weft_runtime import limits
from weft_runtime.decode import Table
from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.escape import printable, quote
from weft_runtime.integrity import unsafe

CONFIG_FILE = Path("/etc/weft/pack.toml")


class Policy(StrEnum):
    """The setting `policy`."""

    REQUIRE = "require"
    """A signature by a trusted key, or it is neither installed nor started."""
    WARN = "warn"
    """Install says what is missing; a start does not look."""
    OFF = "off"
    """Nobody looks."""


def read(config: Path = CONFIG_FILE, *, owner: int = 0) -> Policy:
    """The policy in `config`, WARN where there is no such file; it must be the `owner`'s alone to write.

    Raises WeftError: CONFIG_INVALID, OS_ERROR or NOT_PERMITTED. Whoever cannot know the policy goes no further.
    """
    source = os.fspath(config)
    try:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        return Policy.WARN
    except OSError as error:
        raise from_os_error(f"read {quote(source)}", error) from None
    with open(fd, "rb") as file:
        if complaint := unsafe(os.fstat(fd), owner):
            raise WeftError(Problem.CONFIG_INVALID, f"{quote(source)} {complaint}")
        try:
            data = file.read(limits.MANIFEST.value)
        except OSError as error:
            raise from_os_error(f"read {quote(source)}", error) from None
    try:
        values = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        message = f"{printable(source)} is not TOML: {printable(str(error))}"
        raise WeftError(Problem.CONFIG_INVALID, message) from None
    table = Table(values, source, Problem.CONFIG_INVALID)
    # A misspelt key must not mean "no policy".
    for key in values:
        if key != "policy":
            raise table.error(key, "is no setting")
    return table.optional_choice("policy", Policy) or Policy.WARN
