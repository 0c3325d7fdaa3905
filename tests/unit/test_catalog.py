# SPDX-License-Identifier: Apache-2.0
"""The journal catalog has an entry for each message that an operator acts on, and its format is right."""

import ast
import re
import shutil
import subprocess
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.unit.needs import ROOT, tool
from weft_runtime.errors import Problem, WeftError
from weft_runtime.journal import MESSAGE_IDS, NAMELESS, STEPS, UNASKED_END, Event, Level, Log
from weft_runtime.notify import Notifier
from weft_runtime.runtime.ending import Ending, Outcome, exited, failed, trapped
from weft_runtime.runtime.readiness import Readiness

CATALOG = ROOT / "infra/systemd/catalog/weft-runtime.catalog"
COLUMNS_MAX = 76


class Entry(NamedTuple):
    """One entry of the catalog."""

    message_id: str
    headers: list[tuple[str, str]]
    text: list[str]


def entries() -> list[Entry]:
    """Every entry, by the rules of systemd's CATALOG.md; a line in a wrong place is an error."""
    found: list[Entry] = []
    in_headers, empty = False, True
    for line in CATALOG.read_text().splitlines():
        if line.startswith("#"):
            continue
        if empty and (match := re.fullmatch(r"-- ([0-9a-f]{32})", line)):
            found.append(Entry(match[1], [], []))
            in_headers = True
        elif not line:
            in_headers = False
        elif in_headers:
            header = re.fullmatch(r"([A-Z][A-Za-z-]*): (\S.*)", line)
            assert header, f"no header: {line!r}"
            found[-1].headers.append((header[1], header[2]))
        else:
            assert found, f"text before the first entry: {line!r}"
            found[-1].text.append(line)
        empty = not line
    return found


def entry_of(event: Event) -> Entry:
    [entry] = (entry for entry in entries() if entry.message_id == MESSAGE_IDS[event])
    return entry


def test_the_catalog_has_exactly_the_message_ids_of_the_code() -> None:
    assert sorted(entry.message_id for entry in entries()) == sorted([*MESSAGE_IDS.values(), UNASKED_END])


def test_every_event_has_an_entry_or_asks_nothing_of_anybody() -> None:
    assert set(Event) - set(MESSAGE_IDS) == STEPS


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.message_id)
def test_an_entry_ends_with_a_command(entry: Entry) -> None:
    assert re.fullmatch(r"    \S.*", entry.text[-1])
    assert not entry.text[-2].startswith(" ")


@pytest.mark.parametrize("event", MESSAGE_IDS)
def test_an_entry_names_the_app_wherever_there_is_one(event: Event) -> None:
    assert ("WEFT_APP_ID" in fields_used(entry_of(event))) == (event not in NAMELESS)


def test_the_table_of_events_is_that_of_the_code() -> None:
    loader = SourceFileLoader("events", str(ROOT / "tools/events"))
    module = module_from_spec(spec_from_loader("events", loader) or pytest.fail("no spec"))
    loader.exec_module(module)
    assert (ROOT / "docs/events.md").read_text() == module.page(), "run tools/events"


@pytest.mark.parametrize("event", MESSAGE_IDS)
def test_an_entry_has_its_headers_once(event: Event) -> None:
    names = [name for name, _ in entry_of(event).headers]
    assert sorted(names) == ["Defined-By", "Documentation", "Subject", "Support"]


@pytest.mark.parametrize("event", MESSAGE_IDS)
def test_an_entry_says_who_defined_it_and_where_to_read_on(event: Event) -> None:
    headers = dict(entry_of(event).headers)
    assert headers["Defined-By"] == "weft-runtime"
    for name in ("Support", "Documentation"):
        match = re.fullmatch(r"man:([a-z.-]+)\(([1-8])\)|https://\S+", headers[name])
        assert match, headers[name]
        if match[1]:
            assert (ROOT / "docs/man" / f"{match[1]}.{match[2]}").is_file()


@pytest.mark.parametrize("event", MESSAGE_IDS)
def test_an_entry_has_text_for_the_operator(event: Event) -> None:
    assert len(entry_of(event).text) >= 2


def test_no_line_is_too_long() -> None:
    lines = CATALOG.read_text().splitlines()
    assert [line for line in lines if len(line) > COLUMNS_MAX] == []
    assert all(line.isprintable() for line in lines)


def test_subjects_tell_the_entries_apart() -> None:
    subjects = [dict(entry.headers)["Subject"] for entry in entries()]
    assert len(set(subjects)) == len(subjects)


@cache
def fields_in_code() -> set[str]:
    """The names of fields of the journal that our code has anywhere: as keywords or as keys."""
    found: set[object] = set()
    for path in (ROOT / "weft_runtime").glob("**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.keyword(arg=name):
                    found.add(name)
                case ast.Dict(keys=keys):
                    found |= {key.value for key in keys if isinstance(key, ast.Constant)}
                case ast.Subscript(slice=ast.Constant(value=name)):
                    found.add(name)
    return {name for name in found if isinstance(name, str) and re.fullmatch(r"[A-Z][A-Z_]+", name)}


def fields_used(entry: Entry) -> set[str]:
    text = "\n".join([*(value for _, value in entry.headers), *entry.text])
    used = re.findall(r"@([A-Z][A-Z0-9_]*)@", text)
    assert text.count("@") == 2 * len(used), "a field has one @ before it and one behind it"
    return set(used)


@pytest.mark.parametrize("event", MESSAGE_IDS)
def test_an_entry_uses_only_fields_that_the_code_has(event: Event) -> None:
    assert "WEFT_REASON" in fields_in_code()
    assert fields_used(entry_of(event)) - fields_in_code() == set()


# What the runtime ends with, in the case that has the fewest fields: not even the app is known when the
# arguments are wrong.
APP = {"WEFT_APP_ID": "org.example.app", "WEFT_SESSION_ID": "1"}
ENDS = {
    Event.EXITED: (APP, exited(0)),
    Event.TRAPPED: (APP, trapped("_start", "unreachable", "it was reached", "")),
    Event.STOPPED: (APP, Outcome(Event.STOPPED, 143, "stopped by SIGTERM", Level.NOTICE)),
    Event.PACKAGE_NOT_FOUND: (APP, failed(WeftError(Problem.PACKAGE_NOT_FOUND, "it is not there"))),
    Event.PACKAGE_INVALID: (APP, failed(WeftError(Problem.MODULE_INVALID, "it is odd"))),
    Event.ENGINE_MISSING: (APP, failed(WeftError(Problem.ENGINE_MISSING, "it is not there"))),
    Event.COMPILE_LIMIT: (APP, failed(WeftError(Problem.COMPILE_LIMIT, "it took long"))),
    Event.USAGE: ({}, failed(WeftError(Problem.USAGE, "it is no app id"))),
    Event.FAILED: ({}, failed(WeftError(Problem.OS_ERROR, "the disk is full"))),
}


def collecting() -> tuple[Log, list[dict[str, str]]]:
    entries: list[dict[str, str]] = []
    return Log(lambda level, message, fields: entries.append(fields)), entries


@pytest.mark.parametrize("event", ENDS)
def test_the_entry_of_an_end_uses_only_fields_that_every_such_end_has(event: Event) -> None:
    bound, outcome = ENDS[event]
    log, logged = collecting()
    log.bind(**bound)
    Ending(log)._tell(outcome, None)
    [fields] = logged
    assert fields["MESSAGE_ID"] == MESSAGE_IDS[event]
    assert fields_used(entry_of(event)) - fields.keys() == set()


def test_the_entry_of_ready_uses_only_fields_that_it_has() -> None:
    log, logged = collecting()
    log.bind(**APP)
    Readiness(log, Notifier(log, None)).heard()
    [fields] = logged
    assert fields["MESSAGE_ID"] == MESSAGE_IDS[Event.READY]
    assert fields_used(entry_of(Event.READY)) - fields.keys() == set()


def test_systemd_itself_can_read_the_catalog(tmp_path: Path) -> None:
    journalctl = tool("journalctl", "systemd")
    folder = tmp_path / "usr/lib/systemd/catalog"
    folder.mkdir(parents=True)
    shutil.copy(CATALOG, folder)
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    update = subprocess.run(
        [journalctl, f"--root={tmp_path}", "--update-catalog"], capture_output=True, text=True, check=False
    )
    assert (update.returncode, update.stdout, update.stderr) == (0, "", "")
    listing = subprocess.run(
        [journalctl, f"--root={tmp_path}", "--list-catalog"], capture_output=True, text=True, check=True
    ).stdout
    assert sorted(line.split()[:2] for line in listing.splitlines()) == sorted(
        [message_id, "weft-runtime:"] for message_id in [*MESSAGE_IDS.values(), UNASKED_END]
    )
