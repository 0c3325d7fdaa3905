# SPDX-License-Identifier: Apache-2.0
"""What weftctl makes of what systemd says of services, however odd: a systemctl that says it, and the real rest."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from weft_runtime.appd import session as appd_session
from weft_runtime.appd.session import Facts, Session
from weft_runtime.ctl import listing, services
from weft_runtime.ctl.running import of_service
from weft_runtime.ctl.screen import cut_to
from weft_runtime.ctl.services import Service
from weft_runtime.errors import WeftError
from weft_runtime.protocol import State

ACTIVE = {
    "Id": "weft-app@org.example.app.service", "ActiveState": "active", "SubState": "running", "Result": "success",
    "StatusText": "the app is running (version 1.2.3)", "MainPID": "77", "NRestarts": "0", "ExecMainCode": "0",
    "ExecMainStatus": "0", "UnitFileState": "enabled", "MemoryCurrent": "1048576", "CPUUsageNSec": "1500000000",
    "ExecMainStartTimestampMonotonic": "1000000", "ActiveEnterTimestampMonotonic": "1500000",
}  # fmt: skip
FAILED = {
    **ACTIVE, "ActiveState": "failed", "SubState": "failed", "Result": "exit-code", "MainPID": "0", "ExecMainCode": "1",
    "ExecMainStatus": "134", "StatusText": "the app trapped in _start: x (version 1.2.3)", "NRestarts": "4",
    "ExecMainExitTimestampMonotonic": "2000000", "InactiveEnterTimestampMonotonic": "2000001",
}  # fmt: skip

Says = Callable[..., list[Service]]


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Says:
    """What `find` returns where systemctl prints this of so many units."""
    monkeypatch.setattr(services, "is_booted", lambda: True)

    def says(*units: Mapping[str, str], script: str = "") -> list[Service]:
        text = "\n\n".join("\n".join(f"{name}={value}" for name, value in unit.items()) for unit in units)
        (tmp_path / "text").write_text(text)
        program = tmp_path / "systemctl"
        program.write_text(f"#!/bin/sh\n{script or f'cat {tmp_path}/text'}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return services.find({"PATH": f"{tmp_path}:/usr/bin:/bin"})

    return says


def test_a_service_that_runs(says: Says) -> None:
    (found,) = says(ACTIVE)
    assert (found.app_id, found.state, found.version, found.pid) == (
        "org.example.app",
        "running",
        "1.2.3",
        77,
    )
    assert (found.is_enabled, found.memory, found.cpu, found.reason) == (True, 1048576, 1.5, None)
    assert found.launched is not None
    assert found.ready == found.since
    assert found.ready is not None
    assert 0.4 < found.ready - found.launched < 0.6


def test_a_service_of_the_first_release_tells_no_version(says: Says) -> None:
    (found,) = says({**ACTIVE, "StatusText": "the app is running"})
    assert (found.state, found.version) == ("running", None)


@pytest.mark.parametrize(
    ("changes", "state", "reason"),
    [
        ({}, "failed", "the app trapped in _start: x; systemd has given up"),
        ({"NRestarts": "0"}, "failed", "the app trapped in _start: x"),
        ({"ActiveState": "activating", "SubState": "auto-restart"}, "restarting", "the app trapped in _start: x"),
        ({"ActiveState": "inactive", "Result": "success"}, "stopped", "the app trapped in _start: x"),
        ({"ActiveState": "activating", "SubState": "start", "MainPID": "8"}, "starting", None),
        ({"ActiveState": "deactivating", "MainPID": "8"}, "stopping", None),
        # Killed, it had no time for a word: what it said while it ran is no reason.
        (
            {"Result": "signal", "ExecMainCode": "2", "ExecMainStatus": "9", "NRestarts": "0",
             "StatusText": "the app is running (version 1.2.3)"},
            "failed", "killed by SIGKILL",
        ),
        ({"Result": "oom-kill", "NRestarts": "0"}, "failed", "out of memory"),
        ({"Result": "timeout", "NRestarts": "0"}, "failed", "it did not end in time"),
        (
            {"Result": "timeout", "NRestarts": "0", "ActiveEnterTimestampMonotonic": "0"},
            "failed", "it did not say READY in time",
        ),
        ({"Result": "resources", "NRestarts": "0"}, "failed", "systemd says 'resources'"),
    ],
)  # fmt: skip
def test_why_a_service_does_not_run(
    says: Says, changes: Mapping[str, str], state: str, reason: str | None
) -> None:
    (found,) = says({**FAILED, **changes})
    assert (found.state, found.reason) == (state, reason)


@pytest.mark.parametrize("value", ["", "[not set]", "18446744073709551615", "-1", "x", "²", "9" * 400])
def test_a_property_that_is_not_there_is_not_known(says: Says, value: str) -> None:
    odd = {name: value for name in ACTIVE if name not in ("Id", "ActiveState")}
    (found,) = says({**ACTIVE, **odd})
    of_service(found)
    assert found.state == "running"


@pytest.mark.parametrize(
    "unit",
    ["weft-app@.service", r"weft-app@\x2d.service", "weft-app@Nonsense.service", "weft-app@a.b.c=d.service"],
)
def test_any_instance_can_be_shown(says: Says, unit: str) -> None:
    (found,) = says({**FAILED, "Id": unit})
    assert found.unit == unit
    assert of_service(found).installed_version is None


def test_services_are_in_the_order_of_their_apps_and_nothing_else_is_one(says: Says) -> None:
    ids = ["weft-app@org.example.b.service", "weft-app@org.example.a.service", "other.service", ""]
    assert [found.app_id for found in says(*({**ACTIVE, "Id": unit} for unit in ids))] == [
        "org.example.a", "org.example.b"
    ]  # fmt: skip
    assert says() == []


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("echo 'Failed to connect to bus: x' >&2; exit 1", "Failed to connect to bus: x"),
        ("exit 3", "systemctl ends with status 3"),
        ("printf 'a\\033[2J' >&2; exit 1", r"a\x1b[2J"),
    ],
)
def test_why_systemd_cannot_be_asked(says: Says, script: str, complaint: str) -> None:
    with pytest.raises(WeftError) as caught:
        says(script=script)
    assert caught.value.message == complaint


@pytest.mark.parametrize(
    ("text", "width", "beginning", "end"),
    [
        ("org.example.notes", 17, "org.example.notes", "org.example.notes"),
        ("org.example.notes", 10, "org.exa...", "...e.notes"),
        ("org.example.notes", 3, "org", "tes"),
        ("日本語日本語", 9, "日本語...", "...日本語"),
        ("日本語", 3, "日", "語"),
        ("e\u0301e\u0301e\u0301", 2, "e\u0301e\u0301", "\u0301e\u0301e\u0301"),
        ("x", 0, "", ""),
    ],
)
def test_what_is_cut_has_the_width_that_it_may_have(text: str, width: int, beginning: str, end: str) -> None:
    assert cut_to(text, width) == beginning
    assert cut_to(text, width, keeps_end=True) == end


def test_the_mark_of_another_version_is_never_cut(says: Says) -> None:
    item = of_service(says(ACTIVE)[0])._replace(version="1" * 300, installed_version="2")
    assert listing.version(item, 14).text == "1" * 9 + "... *"
    assert listing.version(item._replace(version="1\x1b[31m"), 14).text == r"1\x1b[31m *"
    assert listing.version(item._replace(installed_version=None), 14).text == "1" * 11 + "..."


# What an older image of the daemon reads after a reload back to it.

FIRST_RELEASE: Sequence[str] = (
    "id", "app_id", "pid", "launched_at", "state", "deadline", "ready_at", "stopped_at", "exit_status", "signal", "reason",
    "stop_reason", "stop_expected", "output_closed",
)  # fmt: skip


def test_an_image_of_the_first_release_can_take_a_session_over() -> None:
    session = Session.launched(1, "org.example.app", 77, now=1.0, ready_deadline=2.0)
    session.facts = Facts(version="1.2.3")
    assert tuple(session.to_json()) == FIRST_RELEASE
    assert Session.from_json(session.to_json()).state is State.STARTING
    assert appd_session.Facts() == Session.from_json(session.to_json()).facts
