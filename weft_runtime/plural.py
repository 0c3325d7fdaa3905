# SPDX-License-Identifier: Apache-2.0
"""Numbers of things, as a person would say them."""


def counted(number: int, noun: str) -> str:
    """`1 session`, `2 sessions`; for nouns with a plain plural."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
