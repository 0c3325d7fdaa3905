# SPDX-License-Identifier: Apache-2.0
"""The linters and the type checker have nothing to say; they read pyproject.toml."""

import subprocess

import pytest

from tests.conftest import LONGEST
from tests.unit.needs import ROOT, tool

FOLDERS = ("weft_runtime", "tests", "bench", "packaging")


@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "--output-format=concise", *FOLDERS),
        ("ruff", "format", "--check", *FOLDERS),
        ("mypy",),
        ("mypy", "packaging/bundle.py"),  # no package, and a name that one from PyPI has
    ],
    ids=" ".join,
)
def test_a_linter_has_nothing_to_say(command: tuple[str, ...]) -> None:
    name, *arguments = command
    path = tool(name, name)
    result = subprocess.run(
        [path, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{' '.join(command)}:\n{result.stdout}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_folder_has_something_to_lint(folder: str) -> None:
    assert any((ROOT / folder).glob("**/*.py"))


@pytest.mark.parametrize("file", LONGEST)
def test_each_file_that_is_to_begin_early_exists(file: str) -> None:
    assert (ROOT / file).is_file()
