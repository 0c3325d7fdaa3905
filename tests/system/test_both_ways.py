# SPDX-License-Identifier: Apache-2.0
"""What the journal has of a service is the same whether its start decides everything, or follows the plan of the one before.

Entries are compared with all the fields that somebody has written, those of systemd about the unit too.
"""

import json
import re
from collections import defaultdict
from typing import Any

from tests import ends
from tests.ends import IN, Kind
from tests.packages import manifest
from tests.system.appd import eventually, show
from tests.system.container import Container
from tests.system.package import OPERATOR_STORE, add_app, service

KINDS = {
    **{name: ends.OWN_ENDS[name] for name in ("returns", "exit42", "exit255", "sectionfails", "stderr")},
    **{name: ends.TRAPPED[name] for name in ("unreachable", "stackoverflow", "uncaughtexception", "inready")},
    **{name: ends.TRAPPED[name] for name in ("hostilename", "nomemoryexit")},
    **{name: ends.READY[name] for name in ("export", "guest", "never")},
    **{name: ends.RECEIVED[name] for name in ("args", "env", "directories", "writes", "unserved")},
    **{name: ends.STOPPED[name] for name in ("loopingclient", "sleepingclient", "loopingsigint", "unreadyclient")},
    **{name: ends.STOPPED[name] for name in ("sectionsigterm", "loopingsigkill")},
    **{name: ends.LATE[name] for name in ("sleeping",)},
    **{name: ends.UNFIT[name] for name in ("nostart", "noimport", "wrongready")},
}  # fmt: skip

HAVE_NO_PLAN = {
    "guest", "never", "unreadyclient",  # what the app writes is looked at for READY
    "nostart", "noimport", "wrongready",
}  # fmt: skip

ONCE = "[Service]\nRestart=no\n"
HURRIED = "[Service]\nTimeoutStartSec=3\n"

# Of what is left out here each entry has another.
_TIMES = ("INVOCATION_ID", "JOB_ID", "CPU_USAGE_NSEC", "MEMORY_PEAK", "MEMORY_SWAP_PEAK", "TID")
_MASKS = (
    (re.compile(r"\bin \d+ ms"), "in N ms"),
    (re.compile(r"\bConsumed .*"), "Consumed N"),
    (re.compile(r"\(PID \d+\)|\bprocess \d+\b"), "process N"),
    (re.compile(r"\[\d+\]: "), "[N]: "),
)

Entries = dict[str, list[dict[str, str]]]


def _masked(entry: dict[str, Any]) -> dict[str, str]:
    """What was written; journald adds the rest, if the writer still lives by then."""
    kept = {
        name: str(value)
        for name, value in entry.items()
        if (not name.startswith("_") or name == "_TRANSPORT") and name not in _TIMES
    }
    for pattern, instead in _MASKS:
        kept["MESSAGE"] = pattern.sub(instead, kept["MESSAGE"])
    kept.pop("SYSLOG_PID", None)
    kept.pop("SYSLOG_TIMESTAMP", None)
    return kept


def _install(device: Container) -> dict[str, Kind]:
    apps = {}
    device.write("/etc/systemd/system/weft-app@.service.d/once.conf", ONCE)
    for name, kind in KINDS.items():
        app_id = f"org.example.{name}"
        add_app(device, app_id, kind.module)
        toml = manifest(app_id, runtime=kind.runtime, extra=kind.extra)
        toml = toml.replace("[runtime]", f"capabilities = {json.dumps(kind.capabilities)}\n[runtime]", 1)
        device.write(f"{OPERATOR_STORE}/{app_id}/wapp.toml", toml)
        if name in ends.LATE:
            device.write(f"/etc/systemd/system/{service(app_id)}.d/hurried.conf", HURRIED)
        apps[app_id] = kind
    device.run("systemctl", "daemon-reload")
    return apps


def _start_all(device: Container, apps: dict[str, Kind]) -> dict[str, tuple[Entries, str]]:
    """Start the services of all apps, and end those that do not end by themselves.

    What the journal has of each, by who has written it: the order of two writers is that in which journald hears them. And what
    systemd knows of its end.
    """
    cursor = str(device.journal("--lines=1")[-1]["__CURSOR"])
    device.run("systemctl", "start", "--no-block", *map(service, apps))
    waiting = {app_id for app_id, kind in apps.items() if kind.stop is not None}

    def end_what_waits() -> bool:
        said = {str(entry.get("WEFT_APP_ID")) for entry in device.journal(f"--after-cursor={cursor}")
                if entry["MESSAGE"] == IN}  # fmt: skip
        for app_id in waiting & said:
            waiting.discard(app_id)
            stop = apps[app_id].stop
            if stop == "client":
                device.run("systemctl", "stop", "--no-block", service(app_id))
            else:
                number = str(stop and int(stop))
                device.run("systemctl", "kill", "--kill-whom=main", f"--signal={number}", service(app_id))
        return not waiting

    def have_ended() -> bool:
        shown = device.run("systemctl", "is-active", *map(service, apps), check=False).stdout.split()
        return not {"active", "activating", "deactivating", "reloading"} & set(shown)

    eventually(end_what_waits, seconds=120)
    eventually(have_ended, seconds=120)
    entries: dict[str, Entries] = {app_id: defaultdict(list) for app_id in apps}
    units = {service(app_id): app_id for app_id in apps}
    for entry in device.journal(f"--after-cursor={cursor}"):
        app_id = units.get(str(entry.get("UNIT")), str(entry.get("WEFT_APP_ID")))
        if app_id in entries:
            entries[app_id][f"{entry['_TRANSPORT']} {entry['SYSLOG_IDENTIFIER']}"].append(_masked(entry))
    properties = "--property=Result,ExecMainCode,ExecMainStatus,StatusText,NRestarts"
    found = {
        app_id: (dict(entries[app_id]), device.run("systemctl", "show", properties, service(app_id)).stdout)
        for app_id in apps
    }
    device.run("systemctl", "reset-failed", *map(service, apps), check=False)
    return found


def _plans(device: Container) -> dict[str, str]:
    """The plans that are left, each with what changes when it is written."""
    shown = device.run(
        "find", "/var/cache/private/weft-apps", "-name", "*.plan", "-printf", "%f %i %T@\n"
    ).stdout
    return dict(line.split(" ", 1) for line in shown.splitlines())


def test_the_journal_of_a_service_is_the_same_by_both_ways(device: Container) -> None:
    apps = _install(device)
    eventually(lambda: show(device, "ActiveState", "weft-compile.service") == "inactive")
    _start_all(device, apps)  # compiles them
    full = _start_all(device, apps)
    left = _plans(device)
    planned = {f"service-org.example.{name}.plan" for name in {*KINDS} - HAVE_NO_PLAN}
    assert {*left} & {f"service-{app_id}.plan" for app_id in apps} == planned
    followed = _start_all(device, apps)
    differences = [
        (app_id, one, other)
        for app_id in apps
        for one, other in zip(_facts(followed[app_id]), _facts(full[app_id]), strict=False)
        if one != other
    ]
    assert not differences, "\n".join(map(repr, differences))
    assert followed == full
    # A start that decides writes its plan anew.
    again = _plans(device)
    assert {name: again[name] for name in planned} == {name: left[name] for name in planned}


def _facts(found: tuple[Entries, str]) -> list[object]:
    entries, end = found
    return [end, sorted(entries), *(entry for writer in sorted(entries) for entry in entries[writer])]
