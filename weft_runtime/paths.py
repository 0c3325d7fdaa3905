# SPDX-License-Identifier: Apache-2.0
"""Paths inside a package as text, whatever the locale: a path is its bytes, and the text is those bytes as UTF-8.

Python decodes the names that the system gives it by the locale, so the same file would have one name under one
locale and another one under the next. What is signed, archived, compared or sorted goes through the two functions
here instead, and so do paths that a file in UTF-8 names.
"""

import os


def text_of(path: bytes) -> str:
    """A path's text. Bytes that are no UTF-8 become lone surrogates (PEP 383)."""
    return path.decode("utf-8", "surrogateescape")


def bytes_of(text: str) -> bytes:
    """The path that a text is. Raises UnicodeEncodeError for a lone surrogate that stands for no byte."""
    return text.encode("utf-8", "surrogateescape")


def below(directory: str | os.PathLike[str], text: str) -> bytes:
    """The path to give to the system for what has the path `text` below `directory`."""
    return os.path.join(os.fsencode(directory), bytes_of(text)) if text else os.fsencode(directory)  # noqa: PTH118


def shown(path: str | os.PathLike[str]) -> str:
    """The text of a path that Python has by the locale: for the engine, JSON, and whatever else has UTF-8."""
    return text_of(os.fsencode(path))


def is_utf8(text: str) -> bool:
    """Whether what the system gave to Python, and Python decoded by the locale, is UTF-8."""
    try:
        os.fsencode(text).decode()
    except UnicodeError:
        return False
    return True


def local(text: str) -> str:
    """A path from a file in UTF-8, as Python has it under this locale: for pathlib, and for the system's calls."""
    return os.fsdecode(bytes_of(text))
