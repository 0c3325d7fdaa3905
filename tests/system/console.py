# SPDX-License-Identifier: Apache-2.0
"""The commands of a document, to be run and their output compared: blocks of ```console in Markdown.

A line that begins with `# ` is a command of root, one with `$ ` of the user `alice`; the lines below it are its output, where
`...` stands for anything and the width of blanks does not count. A command must succeed unless the next in its line is `; echo $?`, whose output then tells.
"""

import doctest
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.system.container import Container

USER = "alice"
TIMEOUT_S = 120

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Step(NamedTuple):
    """One command and what it should print."""

    as_root: bool
    command: str
    output: str

    def __str__(self) -> str:
        return f"{'#' if self.as_root else '$'} {self.command}"


def steps(document: Path, section: str | None = None) -> Iterator[Step]:
    """The commands of a document, or of its section with that heading."""
    text = document.read_text()
    if section is not None:
        _, _, text = text.partition(f"\n## {section}\n")
        text = text.partition("\n## ")[0]
        assert text, f"{document} has no section '{section}'"
    for block in _BLOCK.findall(text):
        first, *others = re.split(r"^([#$]) (.*(?:\\\n.*)*)\n", block, flags=re.MULTILINE)
        assert not first, f"output without a command: {first}"
        for prompt, command, output in zip(*[iter(others)] * 3, strict=True):
            yield Step(prompt == "#", command, output)


def prepare(container: Container, package: Path) -> None:
    """What the document takes for granted: a user, and the package in the working directory."""
    container.run("useradd", "--create-home", "--shell", "/bin/sh", USER)
    container.run("cp", str(package), "/tmp")


def run(container: Container, step: Step) -> tuple[int, str]:
    """Run one command by a shell in /tmp; its status, and what it printed on both streams."""
    done = container.run(
        "sh", "-c", f"cd /tmp && exec 2>&1 && {{ {step.command}\n}}",
        check=False, timeout=TIMEOUT_S, user=None if step.as_root else USER,
    )  # fmt: skip
    return done.returncode, done.stdout


def is_as_told(step: Step, output: str) -> bool:
    return doctest.OutputChecker().check_output(
        step.output, output, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
