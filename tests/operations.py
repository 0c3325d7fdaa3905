# SPDX-License-Identifier: Apache-2.0
"""How `docs/operations.md` quotes what programs say."""

import re


def pattern(quoted: str) -> str:
    """A regular expression for a text in which ... stands for anything."""
    return ".*".join(map(re.escape, quoted.split("...")))
