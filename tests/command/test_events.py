# SPDX-License-Identifier: Apache-2.0
"""What `journalctl -x` shows below each entry that the code can write: a real journald, the real catalog."""

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.command.device import Device
from tests.command.test_weftctl_journal import journald  # noqa: F401 - a fixture
from weft_runtime.errors import Problem, WeftError
from weft_runtime.journal import MESSAGE_IDS, NAMELESS, STEPS, UNASKED_END, Event, Log
from weft_runtime.runtime.ending import Ending, bug, exited, failed, trapped

ROOT = Path(__file__).resolve().parents[2]
CATALOG = ROOT / "infra/systemd/catalog/weft-runtime.catalog"

SERVICE = {"WEFT_APP_ID": "org.example.notes"}
SESSION = {**SERVICE, "WEFT_SESSION_ID": "4"}

# Variables that texts speak of: everything else that looks like a field is one that was not there.
VARIABLES = {"WEFT_APP_STORE", "WEFT_RUNTIME_BIN"}

WRITE = """
import json, sys
from weft_runtime.journal import Event, Level, open_log
from weft_runtime.settings import LogSettings, LogTarget
log = open_log("weft-test", LogSettings(LogTarget.JOURNAL, None, None))
for number, fields in enumerate(json.load(sys.stdin)):
    log.entry(Level.ERR, "text", Event(fields.pop("WEFT_EVENT")), WEFT_TEST=str(number), **fields)
log.flush()
"""


def ends() -> Iterator[dict[str, str]]:
    """The entries by which a runtime ends, with an app, and where it may be so before one is known."""
    for bound in (SERVICE, SESSION, {}):
        outcomes = [failed(WeftError(problem, "the reason")) for problem in Problem]
        outcomes += [exited(0), exited(3), trapped("_start", "a", "b", "c"), bug(ValueError("x"))]
        for outcome in outcomes:
            entries: list[dict[str, str]] = []
            log = Log(lambda level, message, fields, to=entries: to.append(fields))  # type: ignore[misc]
            log.bind(**bound)
            Ending(log)._tell(outcome, None)
            yield from entries


def written() -> Iterator[tuple[str, dict[str, str]]]:
    """Each place in the code that writes an entry with an event: its module, and the fields that it has there."""
    for path in sorted((ROOT / "weft_runtime").glob("**/*.py")):
        module = path.relative_to(ROOT / "weft_runtime").as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            events = [found for argument in node.args for found in events_in(argument)]
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            if not events or name not in {"entry", "warning", "_tell", "_write"}:
                continue
            fields = {
                word.arg: f"the {word.arg.lower()}"
                for word in node.keywords
                if word.arg and word.arg.isupper()
            }
            # By a Live it is about a session; a runtime has bound its app; `warning` has no fields.
            assert isinstance(node.func, ast.Attribute)
            if module == "appd/live.py" or ast.unparse(node.func.value) == "live":
                fields |= SESSION
            elif module.startswith("runtime/"):
                fields |= SERVICE
            for event in events:
                yield module, fields | {"WEFT_EVENT": event}


def events_in(node: ast.expr) -> list[str]:
    """The events that an argument may be."""
    return [
        Event[part.attr].value
        for part in ast.walk(node)
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == "Event"
    ]


PACKAGE = SERVICE | {"WEFT_CALLER": "alice (uid 1000)", "WEFT_VERSION_BEFORE": "1.0"}
NEW = {"WEFT_VERSION": "2.0", "WEFT_SIGNED_BY": "nobody that is trusted here"}
SOURCE = {"WEFT_SOURCE": "/srv/notes"}
WHY = {"WEFT_REASON": "the reason"}

# What is written by way of a variable, or of a function that adds fields: event and fields as that place has them.
INDIRECT: list[tuple[Event, dict[str, str]]] = [
    (Event.PACKAGE_INSTALLED, SERVICE | {"WEFT_CALLER": "root (uid 0)"} | NEW | SOURCE),
    (Event.PACKAGE_UPGRADED, PACKAGE | NEW | SOURCE),
    (Event.PACKAGE_ROLLED_BACK, PACKAGE | NEW),
    (Event.PACKAGE_REMOVED, PACKAGE),
    (Event.DOWNGRADED, SERVICE | {"WEFT_VERSION": "1.0", "WEFT_VERSION_BEFORE": "2.0"}),
    (Event.CAPABILITY_REFUSED, SERVICE | WHY),
    (Event.LAUNCH_REFUSED, SERVICE | WHY),
    (Event.NO_RUNTIME, SERVICE | WHY),
    (Event.NO_RUNTIME, WHY),
    (Event.NOT_READY, SESSION | WHY),
    (Event.NOT_READY, SERVICE | WHY | {"WEFT_EXIT_STATUS": "143"}),
    (Event.STOPPED, SERVICE | WHY | {"WEFT_EXIT_STATUS": "143"}),
    (Event.OUT_OF_MEMORY, SESSION | WHY),
    (Event.SUPERVISOR_LOST, SESSION | WHY | {"WEFT_EXIT_STATUS": "1"}),
    (Event.LOG_LOST, {"WEFT_LOST": "1"}),
    (Event.LOG_LOST, SESSION | {"WEFT_LOST": "7"}),
    (Event.SESSION_ENDED, SESSION | WHY | {"MESSAGE_ID": UNASKED_END}),
]  # fmt: skip


def ways() -> list[dict[str, str]]:
    """The fields of each entry that the code can write, and that has a text."""
    found = [*ends()]
    found += [
        fields for module, fields in written()
        # Those have their fields by a variable: they are in INDIRECT.
        if fields["WEFT_EVENT"] not in {"downgraded", "package-removed"} and module != "runtime/ending.py"
    ]  # fmt: skip
    found += [fields | {"WEFT_EVENT": event.value} for event, fields in INDIRECT]
    return [fields for fields in found if fields["WEFT_EVENT"] not in STEPS]


def test_every_way_is_known() -> None:
    with_text = {(fields["WEFT_EVENT"], fields.get("MESSAGE_ID")) for fields in ways()}
    assert {event for event, _ in with_text} == set(map(str, MESSAGE_IDS))
    assert UNASKED_END in {message_id for _, message_id in with_text}


def test_no_text_has_a_gap(journald: Device) -> None:  # noqa: F811 - the fixture
    entries = ways()
    subprocess.run(
        [*journald.wrapper, "mount", "-t", "tmpfs", "tmpfs", "/usr/lib/systemd/catalog"], check=True
    )
    root = Path(f"/proc/{journald.wrapper[2]}/root")
    shutil.copy(CATALOG, root / "usr/lib/systemd/catalog")
    subprocess.run([*journald.wrapper, "mount", "-t", "tmpfs", "tmpfs", "/var/lib/systemd"], check=True)
    (root / "var/lib/systemd/catalog").mkdir()
    subprocess.run([*journald.wrapper, "journalctl", "--update-catalog"], check=True)
    subprocess.run(
        [*journald.wrapper, sys.executable, "-c", WRITE],
        input=json.dumps(entries),
        text=True,
        check=True,
        cwd=ROOT,
    )
    subprocess.run([*journald.wrapper, "journalctl", "--sync"], check=True)
    shown = subprocess.run(
        [*journald.wrapper, "journalctl", "--no-pager", "-x", "-o", "short", "SYSLOG_IDENTIFIER=weft-test"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    first, *texts = re.split(r"^(?=[A-Z][a-z]{2} \d+ .* weft-test\[\d+\]: )", shown, flags=re.MULTILINE)
    assert first.startswith("-- ") or not first
    assert len(texts) == len(entries)
    for fields, text in zip(entries, texts, strict=True):
        has_text = "WEFT_APP_ID" in fields or fields["WEFT_EVENT"] in NAMELESS
        assert ("Subject: " in text) == has_text, (fields, text)
        lower = text.partition("\n")[2]
        gaps = set(re.findall(r"\b(?:WEFT|MESSAGE|PRIORITY)_[A-Z_]+", lower)) - VARIABLES
        assert (gaps, "@" in lower) == (set(), False), (fields, text)
        if "WEFT_APP_ID" in fields and fields["WEFT_EVENT"] not in NAMELESS:
            assert (
                "org.example.notes" in lower.partition("Subject: ")[2].partition("\n")[0]
                or "the weft_app_id" in lower
            )
