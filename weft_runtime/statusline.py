# SPDX-License-Identifier: Apache-2.0
"""What an app's service says of itself in `STATUS=` (sd_notify(3)): a text, and the version that runs behind it."""

VERSION_MAX = 64
"""Characters of the version: `systemctl status` shows all on one line."""

_BEFORE_VERSION = " (version "


def status_line(text: str, version: str | None) -> str:
    """The assignment; `text` and `version` are one safe line each."""
    return f"STATUS={text}" if version is None else f"STATUS={text}{_BEFORE_VERSION}{version})"


def parse(line: str) -> tuple[str, str | None]:
    """Text and version of what systemd shows as StatusText; no version in a line of a release that told none."""
    text, found, version = line.rpartition(_BEFORE_VERSION)
    return (text, version[:-1]) if found and version.endswith(")") else (line, None)
