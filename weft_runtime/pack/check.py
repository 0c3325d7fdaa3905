# SPDX-License-Identifier: Apache-2.0
"""`weft-pack check`: all that can be known of a package before it runs."""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from weft_runtime import limits, store, tree
from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.escape import printable, quote
from weft_runtime.manifest import FILE_NAME, Manifest
from weft_runtime.pack import schema
from weft_runtime.pack.findings import Finding, Level
from weft_runtime.pack.judge import judge
from weft_runtime.pack.screen import Screen
from weft_runtime.store import WrongPath

FINDINGS_MAX = 1000
"""Lines that are shown: more than anyone reads, and a hostile module can have a million."""

_NO_ENGINE = "the engine is not installed: the code of the module was not validated"


class Checked(NamedTuple):
    """What came of a check."""

    manifest: Manifest | None
    """None where a launch would refuse it: then there are findings."""
    findings: tuple[Finding, ...]
    note: str | None = None
    """What was not looked at."""
    remarks: tuple[Finding, ...] = ()
    """What keeps it from nothing, but should be known."""


def check(
    directory: Path, environ: Mapping[str, str], screen: Screen, code_fd: int | None = None
) -> Checked:
    """Find all that is wrong with the package in `directory`. Raises WeftError where it cannot be looked at.

    The code of its module, which is compiled for it, goes to `code_fd`.
    """
    expect_directory(directory)
    try:
        data = read_manifest(directory)
    except WrongPath as error:
        return Checked(None, (Finding(FILE_NAME, str(error)), *_misplaced(directory)))
    contents = schema.check(data)
    found, note = [*contents.findings], None
    for key, name in (("entry", contents.ui_entry), ("module", contents.module)):
        if name is None:
            continue
        try:
            fd = _open(directory, name)
        except WrongPath as error:
            table = "ui" if key == "entry" else "runtime"
            message = f"{table}.{key} {quote(name)} {error}"
            found.append(Finding(FILE_NAME, message, contents.lines.of(table, key)))
            continue
        with open(fd, "rb"):
            if key == "module":
                with screen.progress(f"checking and compiling {name}") as go_on:
                    verdict = judge(fd, name, contents.ready, environ, code_fd, waiting=go_on)
                found += verdict.findings
                note = verdict.note if verdict.by_engine or verdict.findings else _NO_ENGINE
    found.sort(key=_place)
    return Checked(contents.manifest, (*found, *_misplaced(directory)), note, contents.notes)


def _place(finding: Finding) -> tuple[bool, int, int]:
    """For the order of the files: the manifest first; what is wrong with a module as a whole comes last."""
    offset = limits.MODULE.value if finding.offset is None else finding.offset
    return finding.file != FILE_NAME, finding.line or 0, offset


def show(screen: Screen, environ: Mapping[str, str], directory: Path, *, as_json: bool) -> int:
    """Print OK, or whatever is wrong, and what is noted; returns the exit status."""
    done = check(directory, environ, screen)
    if as_json:
        screen.json([finding._asdict() for finding in (*done.findings, *done.remarks)])
    else:
        tell(screen, done.findings)
        tell(screen, done.remarks)
        if not done.findings:
            screen.line("OK")
    if done.note is not None:
        screen.note(done.note)
    return 1 if done.findings else 0


def tell(screen: Screen, findings: tuple[Finding, ...]) -> None:
    """Show what is wrong, or what is noted, a line each."""
    for finding in findings[:FINDINGS_MAX]:
        screen.problem(str(finding), in_red=finding.level is Level.ERROR)
    if len(findings) > FINDINGS_MAX:
        screen.problem(
            f"... and {len(findings) - FINDINGS_MAX} more", in_red=findings[0].level is Level.ERROR
        )


def expect_directory(directory: Path) -> None:
    """Raises WeftError unless there is one that can be looked into."""
    try:
        os.scandir(directory).close()
    except FileNotFoundError:
        raise WeftError(Problem.PACKAGE_NOT_FOUND, f"{quote(str(directory))} does not exist") from None
    except NotADirectoryError:
        raise WeftError(Problem.PACKAGE_NOT_FOUND, f"{quote(str(directory))} is no directory") from None
    except OSError as error:
        raise from_os_error(f"open {quote(str(directory))}", error) from None


def read_manifest(directory: Path) -> bytes:
    """The bytes of the manifest, and one more than the limit at most. Raises WrongPath or WeftError."""
    with open(_open(directory, FILE_NAME), "rb") as file:
        return file.read(limits.MANIFEST.value + 1)


def _open(directory: Path, name: str) -> int:
    try:
        return store.open_file(directory, name)
    except OSError as error:
        raise from_os_error(f"open {quote(str(directory / name))}", error) from None


def _misplaced(directory: Path) -> list[Finding]:
    """What a package may not hold: links that lead out of it, special files, names that cannot be signed."""
    found = list(_misplaced_files(directory))
    if not found:
        # Those who sign, bundle and install it stop at the first thing, and have limits as well.
        try:
            tree.scan(directory).files()
        except WeftError as error:
            if error.problem not in (Problem.PACKAGE_INVALID, Problem.LIMIT_EXCEEDED):
                raise
            found.append(Finding(".", error.message))
    return found


def _misplaced_files(directory: Path) -> Iterator[Finding]:
    base = os.path.realpath(directory)
    for root, directories, files in os.walk(base, onerror=_raise):
        directories.sort()
        for name in sorted([*directories, *files]):
            path = Path(root, name)
            complaint = _name_complaint(name) or _file_complaint(base, path)
            if complaint is not None:
                yield Finding(printable(str(path.relative_to(base))), complaint)


def _raise(error: OSError) -> None:
    raise from_os_error(f"look into {quote(str(error.filename))}", error) from None


def _name_complaint(name: str) -> str | None:
    if "\t" in name or "\n" in name:
        return "has a tab or a line break in its name, which a signature cannot cover"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "has a name that is not UTF-8, which a signature cannot cover"
    return None


def _file_complaint(base: str, path: Path) -> str | None:
    mode = path.lstat().st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    if not stat.S_ISLNK(mode):
        return "is neither a file nor a directory nor a link"
    target = str(path.readlink())
    if target.startswith("/"):
        return f"is a link to {quote(target)}: expected a relative one, which stays inside the package"
    try:
        real = os.path.realpath(path, strict=True)
    except FileNotFoundError:
        return f"is a link to {quote(target)}, which does not exist"
    except (OSError, RecursionError):
        return f"is a link to {quote(target)}, which cannot be followed"
    if not f"{real}/".startswith(f"{base.rstrip('/')}/"):
        return f"is a link to {quote(target)}, which is outside of the package"
    return None
