# SPDX-License-Identifier: Apache-2.0
"""What clients and operators learn of an app is the same, whichever way it is run: by a plan, by the runtime executed, by a
program in its place.

Each way has a daemon of its own, whose journal is a socket of the test. Entries are compared with all of their fields, in
the order of their writers; masked is only what differs between any two runs.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from signal import Signals
from typing import NamedTuple

import pytest

from tests import ends, packages
from tests.appd.client import Control
from tests.appd.harness import HELPERS, REAL_RUNTIME, WAIT_SECONDS, Appd, eventually
from tests.command.conftest import bare  # noqa: F401 - a fixture
from tests.ends import IN, Kind
from tests.journal_socket import Receiver
from tests.packages import manifest
from tests.unit.needs import missing
from weft_runtime.forms import LEVEL_NAMES
from weft_runtime.integrity import SETTLED_NS
from weft_runtime.journal import Event
from weft_runtime.protocol import (
    AppState,
    Details,
    Error,
    LaunchAck,
    LaunchApp,
    QueryDetails,
    Response,
    State,
    Subscribe,
    TerminateApp,
)

# Puts the socket in the place of the journal's, for the daemon alone.
_WITH_JOURNAL = (
    "unshare", "--mount", "--propagation", "private", "sh", "-ec",
    ('mount -t tmpfs tmpfs /run; mkdir -p /run/systemd/journal; touch /run/systemd/journal/socket;'
    ' mount --bind "$1" /run/systemd/journal/socket; shift; exec "$@"'), "sh",
)  # fmt: skip

_MASKS = (
    (re.compile(r"\bpid \d+"), "pid N"),
    (re.compile(r"\bafter \d+\.\d{3} s"), "after N s"),
    (re.compile(r"\bCPU \d+\.\d{3} s"), "CPU N s"),
    (re.compile(r"\bin \d+ ms"), "in N ms"),
)
_LAUNCHED = re.compile(r": launched by .*, pid (\d+): ")
_STREAMS = (None, "stdout", "stderr")
_NUMBERS = ("WEFT_RUN_USEC", "WEFT_CPU_USEC")

Entry = dict[str, str]


class Journaled(Appd):
    """A daemon whose log is a journal of the test's."""

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        super().__init__(directory, {**settings, "WEFT_LOG": "journal"})
        self._receiver = Receiver(directory / "journal")
        self.entries: list[Entry] = []

    def begin(self) -> None:
        """Start it."""
        self.start(wrapper=(*_WITH_JOURNAL, os.fspath(self._receiver.path)))

    @property
    def log_text(self) -> str:
        self.receive()
        lines = [f"{entry['SYSLOG_IDENTIFIER']}[0]: {LEVEL_NAMES[int(entry['PRIORITY'])]}: {entry['MESSAGE']}\n"
                 for entry in self.entries if entry["SYSLOG_IDENTIFIER"] == "weft-appd"]  # fmt: skip
        return super().log_text + "".join(lines)

    def receive(self) -> None:
        """Take what has come to the journal."""
        while not self._receiver.is_empty:
            entry = {name.decode(): value.decode() for name, value in self._receiver.entry()}
            self.entries.append(entry)

    def until(self, condition: Callable[[Entry], bool], since: int) -> None:
        """Wait until there is an entry behind the first `since` of which that is true."""

        def is_there() -> bool:
            self.receive()
            return any(map(condition, self.entries[since:]))

        eventually(is_there, lambda: f"the entry is there: {self.entries[since:]}")


class Seen(NamedTuple):
    """All that one launch shows, without what differs between any two."""

    answer: Response
    pushes: tuple[Response, ...]
    known: tuple[object, ...]
    """What clients are told of it afterwards."""
    entries: tuple[Entry, ...]
    """Our own, and behind them what the app wrote to standard output, and to standard error."""
    is_fork: bool
    """Whether its process had waited for it."""

    @property
    def is_compiled(self) -> bool:
        return any(entry.get("WEFT_EVENT") == Event.LOADED for entry in self.entries)

    def without_compiling(self) -> "Seen":
        """As if its code had been there."""
        entries = tuple(entry for entry in self.entries if entry.get("WEFT_EVENT") != Event.LOADED)
        return self._replace(entries=entries)


class Way:
    """A daemon that runs apps in one way."""

    def __init__(self, appd: Journaled, *, follows: bool) -> None:
        self._appd = appd
        self._follows = follows
        self._pushes = Control(appd.socket, WAIT_SECONDS)
        self._pushes.ask(Subscribe(None))

    def close(self) -> None:
        self._pushes.close()

    def see(self, app_id: str, kind: Kind) -> Seen:
        """Launch an app, end it where it does not end by itself, and gather what is to be seen."""
        appd = self._appd
        if self._follows:
            eventually(lambda: len(appd.helpers) >= HELPERS, "processes wait")
        waiting = appd.helpers
        appd.receive()
        since = len(appd.entries)
        answer = appd.control.ask(LaunchApp(app_id, 0))
        if isinstance(answer, Error):
            appd.until(lambda entry: entry.get("WEFT_APP_ID") == app_id, since)
            return Seen(answer, (), (), tuple(appd.entries[since:]), is_fork=False)
        assert isinstance(answer, LaunchAck)
        number = answer.session_id
        appd.until(lambda entry: entry.get("WEFT_EVENT") == Event.SESSION_LAUNCHED, since)
        (pid,) = (
            int(found[1]) for entry in appd.entries[since:] if (found := _LAUNCHED.search(entry["MESSAGE"]))
        )
        if kind.stop is not None:
            appd.until(lambda entry: entry["MESSAGE"] == IN, since)
            if isinstance(kind.stop, Signals):
                os.kill(pid, kind.stop)
            else:
                appd.control.ask(TerminateApp(number))
        pushes: list[Response] = []
        while AppState(number, State.STOPPED) not in pushes:
            pushes.append(self._pushes.receive())
        appd.until(lambda entry: entry.get("WEFT_EVENT") == Event.SESSION_ENDED, since)
        details = appd.control.ask(QueryDetails())
        assert isinstance(details, Details)
        (detail,) = (each for each in details.sessions if each.session_id == number)
        info = appd.sessions[number]
        known = (
            info._replace(session_id=0, launched=0, ready=info.ready and 0, stopped=info.stopped and 0),
            detail._replace(session_id=0, cpu=detail.cpu and 0),
        )
        entries = [_masked(entry, number) for entry in appd.entries[since:]]
        # READY is told before the lines that were read with it; and the two pipes are read in any order.
        entries.sort(key=lambda entry: _STREAMS.index(entry.get("WEFT_STREAM")))
        said = tuple(push._replace(session_id=0) for push in pushes)  # type: ignore[call-arg]
        return Seen(answer._replace(session_id=0), said, known, tuple(entries), is_fork=pid in waiting)


def _masked(entry: Entry, number: int) -> Entry:
    """Without the session's number, and the times."""
    masked = dict(entry)
    text = entry["MESSAGE"].replace(f"[{number}]: ", "[N]: ", 1)
    for pattern, instead in _MASKS:
        text = pattern.sub(instead, text)
    masked["MESSAGE"] = text
    masked["SYSLOG_IDENTIFIER"] = re.sub(rf"/{number}$", "/N", entry["SYSLOG_IDENTIFIER"])
    if entry.get("WEFT_SESSION_ID") == str(number):
        masked["WEFT_SESSION_ID"] = "N"
    for name in _NUMBERS:
        if name in entry:
            assert entry[name].isdigit()
            masked[name] = "N"
    return masked


def _differences(found: Seen, expected: Seen) -> Iterator[tuple[str, object, object]]:
    """What is not alike: where, and the two values."""
    if len(found.entries) != len(expected.entries):
        yield "entries", found.entries, expected.entries
    for one, other in zip(found.entries, expected.entries, strict=False):
        if one != other:
            yield "entry", one, other
    for name in ("answer", "pushes", "known"):
        one, other = getattr(found, name), getattr(expected, name)
        if one != other:
            yield name, one, other


Ways = Callable[..., Way]


@pytest.fixture
def way(tmp_path: Path) -> Iterator[Ways]:
    """Makes ways to run the apps of one store with one cache."""
    if os.geteuid() != 0:
        missing("a journal of its own needs root")
    home = tmp_path / "home"
    (home / "Documents").mkdir(parents=True)
    # In the place of a directory.
    (tmp_path / "data").mkdir()
    (tmp_path / "data/org.example.datafile").touch()
    made = ExitStack()

    def make(*, follows: bool = False, **settings: str) -> Way:
        shared = {
            "WEFT_APP_STORE": tmp_path / "store", "CACHE_DIRECTORY": tmp_path / "cache", "HOME": home,
            "WEFT_DATA_ROOT": tmp_path / "data", "WEFT_RUNTIME_BIN": REAL_RUNTIME,
        }  # fmt: skip
        number = len(list(tmp_path.glob("appd*")))
        environ = {name: os.fspath(path) for name, path in shared.items()}
        # What a busy machine is late with is none of this.
        environ |= {"WEFT_STOP_GRACE": "20", "WEFT_LOOP_WATCH": "0"}
        appd = Journaled(
            tmp_path / f"appd{number}", {**environ, "WEFT_FORK_SERVER": str(follows).lower(), **settings}
        )
        made.callback(appd.close)
        appd.begin()
        return made.enter_context(closing(Way(appd, follows=follows)))

    with made:
        yield make


def install(store: Path, kinds: Mapping[str, Kind]) -> dict[str, Kind]:
    """Install apps of these kinds; what each is called."""
    apps = {}
    for name, kind in kinds.items():
        app_id = f"org.example.{name}"
        toml = manifest(app_id, runtime=kind.runtime, extra=kind.extra)
        if kind.capabilities:
            toml = toml.replace("[runtime]", f"capabilities = {json.dumps(kind.capabilities)}\n[runtime]", 1)
        packages.install(store, kind.module, app_id=app_id, toml=toml)
        apps[app_id] = kind
    return apps


GROUPS = {
    "own": ends.OWN_ENDS, "trapped": ends.TRAPPED, "unfit": ends.UNFIT, "ready": ends.READY,
    "received": ends.RECEIVED, "stopped": ends.STOPPED, "late": ends.LATE,
}  # fmt: skip

SETTINGS = {"late": {"WEFT_READY_TIMEOUT": "2"}}

HAVE_NO_PLAN = {"unfit": {*ends.UNFIT}, "received": {"unknown", "datafile"}}
"""What is executed, or refused, however often it is launched."""


def _compare(expected: Mapping[str, Seen], **ways: Mapping[str, Seen]) -> None:
    differences = [
        (app_id, name, difference)
        for name, seen in ways.items()
        for app_id in expected
        for difference in _differences(seen[app_id], expected[app_id])
    ]
    assert not differences, "\n".join(map(repr, differences))


@pytest.mark.parametrize(("group", "locale"), [*((group, "C.UTF-8") for group in GROUPS), ("received", "C")])
def test_every_kind_of_end_is_told_alike(way: Ways, tmp_path: Path, group: str, locale: str) -> None:
    apps = install(tmp_path / "store", GROUPS[group])
    settings = {"LC_ALL": locale, **SETTINGS.get(group, {})}
    executed = way(**settings)
    if group == "late":
        # A busy machine may need longer to compile than these apps have.
        for app_id, kind in apps.items():
            while not executed.see(app_id, kind).is_compiled:
                pass
    expected = {app_id: executed.see(app_id, kind).without_compiling() for app_id, kind in apps.items()}
    time.sleep(2 * SETTLED_NS / 1e9)
    by_plan = way(follows=True, **settings)
    new = {app_id: by_plan.see(app_id, kind) for app_id, kind in apps.items()}
    unplanned = {f"org.example.{name}" for name in HAVE_NO_PLAN.get(group, ())}
    again = {app_id: by_plan.see(app_id, apps[app_id]) for app_id in apps if app_id not in unplanned}
    _compare(expected, new=new, again={**new, **again})
    for seen in (new, again):
        assert {app_id for app_id in seen if seen[app_id].is_fork} == {*apps} - unplanned


@pytest.mark.parametrize("group", ["own", "stopped"])
def test_a_program_in_the_place_of_the_runtime_changes_nothing_of_that(
    way: Ways, tmp_path: Path, group: str
) -> None:
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(f'#!/bin/sh\nexec {REAL_RUNTIME} "$@"\n')
    wrapper.chmod(0o755)
    apps = install(tmp_path / "store", GROUPS[group])
    executed = way()
    expected = {app_id: executed.see(app_id, kind).without_compiling() for app_id, kind in apps.items()}
    other = way(WEFT_RUNTIME_BIN=str(wrapper), WEFT_FORK_SERVER="true")
    _compare(expected, other={app_id: other.see(app_id, kind) for app_id, kind in apps.items()})


def test_the_stub_is_told_alike(way: Ways, tmp_path: Path, bare: Path) -> None:  # noqa: F811 - the fixture
    names = ("returns", "unreachable", "noready", "text", "loopingclient")
    every: dict[str, Kind] = {}
    for group in GROUPS.values():
        every |= group
    apps = install(tmp_path / "store", {name: every[name]._replace(stop=None) for name in names})
    program = str(bare / "bin/weft-runtime")
    ways = [way(WEFT_RUNTIME_BIN=program, WEFT_FORK_SERVER=each) for each in ("false", "true")]
    expected, found = ({app_id: each.see(app_id, kind) for app_id, kind in apps.items()} for each in ways)
    _compare(expected, found=found)
