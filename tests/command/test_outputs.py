# SPDX-License-Identifier: Apache-2.0
"""Every program says so where its output cannot be written, and does not end as if it could."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.command.harness import RUN_SECONDS
from tests.pack import trees
from tests.unit.needs import tool

# What each ends with, as its manual page says: where output cannot be written, where its reader has gone.
STATUSES = {
    "weft-pack": (1, 141),
    "weftctl": (171, 141),
    "weft-appd": (171, 141),
    "weft-runtime": (171, 171),
}

COMMANDS: Sequence[tuple[str, ...]] = (
    *((program, option) for program in STATUSES for option in ("--help", "--version")),
    ("weft-pack", "list", "--help"),
    ("weft-pack", "list"),
    ("weft-pack", "list", "--json"),
    ("weft-pack", "info", "package"),
    ("weft-pack", "check", "package"),
    ("weft-pack", "bundle", "package"),
    ("weft-pack", "generate-key", "package"),
    ("weft-pack", "install", "package"),
    ("weftctl", "launch", "--help"),
    ("weftctl", "doctor"),
    ("weftctl", "doctor", "--json"),
    ("weft-appd", "--check"),
)


def outcome(
    directory: Path, command: Sequence[str], redirection: str, stdout: int | None = None
) -> tuple[int, list[str]]:
    """The status, and the lines of standard error that are no notes of success."""
    trees.make(directory / "package")
    (directory / "run").mkdir()
    program = tool(command[0], "weft-runtime")
    environ = {
        "PATH": f"{Path(program).parent}:/usr/bin:/bin", "HOME": str(directory), "WEFT_LOG": "stderr",
        "WEFT_APP_STORE": str(directory / "store"), "XDG_RUNTIME_DIR": str(directory / "run"),
    }  # fmt: skip
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", program, *command[1:]],
        cwd=directory, env=environ, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE,
        timeout=RUN_SECONDS, check=False,
    )  # fmt: skip
    text = done.stderr.decode()
    assert "Traceback" not in text
    assert "Exception ignored" not in text
    return done.returncode, [line for line in text.splitlines() if "standard output" in line]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("redirection", "reason"),
    [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")],
    ids=["full", "closed"],
)
def test_output_that_cannot_be_written(
    command: Sequence[str], redirection: str, reason: str, tmp_path: Path
) -> None:
    status, lines = outcome(tmp_path, command, redirection)
    [line] = lines
    assert f"cannot write to standard output: {reason}" in line
    assert status == STATUSES[command[0]][0]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_output_that_nobody_reads_any_more(command: Sequence[str], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        status, _ = outcome(tmp_path, command, "", stdout=writer)
    finally:
        os.close(writer)
    assert status == STATUSES[command[0]][1]


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
@pytest.mark.parametrize(
    "command", [("weft-pack", "nonsense"), ("weftctl", "list"), ("weft-appd", "nonsense")]
)
def test_a_complaint_that_cannot_be_written_has_its_status_all_the_same(
    redirection: str, command: Sequence[str], tmp_path: Path
) -> None:
    status, _ = outcome(tmp_path, command, redirection)
    assert status == {"weft-pack": 1, "weftctl": 171, "weft-appd": 164}[command[0]]


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (("weft-pack", "uninstall", "org.example.none"), 1),
        (("weft-pack", "nonsense"), 1),
        (("weftctl", "list"), 171),
        (("weftctl", "nonsense"), 164),
        (("weft-appd", "--reload"), 171),
        (("weft-runtime", "nonsense"), 164),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_without_a_standard_error_what_it_says_is_not_among_the_results(
    command: Sequence[str], status: int, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with out.open("wb") as file:
        assert outcome(tmp_path, command, "2>&-", stdout=file.fileno()) == (status, [])
    assert out.read_bytes() == b""
