# SPDX-License-Identifier: Apache-2.0
"""Entries of the journal as values: read by journalctl, the newest first."""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from weft_runtime.errors import from_os_error

JOURNALCTL = "journalctl"

Entry = Mapping[str, object]
"""Fields by their names, as `text` takes them."""


@contextmanager
def latest(matches: Sequence[str]) -> Iterator[Iterator[Entry]]:
    """All entries with these matches of journalctl(1), read as they are asked for. Raises WeftError(OS_ERROR)."""
    argv = [JOURNALCTL, "--quiet", "--reverse", "--all", "--output=json", *matches]
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
    except OSError as error:
        raise from_os_error(f"run {JOURNALCTL}", error) from None
    assert process.stdout is not None
    try:
        yield (json.loads(line) for line in process.stdout)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def text(entry: Entry, name: str) -> str:
    """A field's value: journalctl writes what is not printable UTF-8 as a list of bytes."""
    value = entry.get(name)
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, int) and 0 <= item <= 255 for item in value):
        return bytes(value).decode(errors="backslashreplace")
    return ""


def number(entry: Entry, name: str) -> int | None:
    value = text(entry, name)
    return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else None


def moment(entry: Entry) -> float:
    """When the journal got it, in Unix seconds."""
    return (number(entry, "__REALTIME_TIMESTAMP") or 0) / 1e6
