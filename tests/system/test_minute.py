# SPDX-License-Identifier: Apache-2.0
"""Whatever goes wrong, an operator knows within a minute which app it was, what happened, why, and what to do.

Each failure is brought about on a booted device; what the journal and weftctl say of it is looked at, and the command that
they name is run.
"""

import base64
import io
import re
import tarfile

import pytest

from tests.deb import CACHE, built_deb
from tests.operations import pattern
from tests.packages import manifest
from tests.system.appd import eventually
from tests.system.container import Container
from tests.system.doctor import Findings, doctor, not_ok, text_of
from tests.system.minute_cases import DOCTOR, FAILURES, GUESTS, SOURCES, STORE, SYSTEMD, UNASKED, Failure
from weft_runtime.journal import MESSAGE_IDS, UNASKED_END, Event

Entry = dict[str, object]

TIMEOUT_S = 120
PREPARE = f"""
mkdir -p {SOURCES} /root/keys /etc/weft/trusted.d
base64 --decode | tar --extract --no-same-owner --directory={SOURCES}
cp /etc/weft/appd.toml /etc/weft/pack.toml /opt
useradd --create-home --groups=weft alice
weft-pack generate-key /root/keys
"""

# The process of an app's session, in what `weftctl list --json` prints.
PID_OF = """#!/usr/bin/python3
import json, sys
print(*(item["pid"] for item in json.load(sys.stdin) if item["app_id"] == sys.argv[1] and item["pid"]))
"""

# The file with the compiled code of an app.
CODE_OF = """#!/usr/bin/python3
import hashlib, sys
from pathlib import Path

(package,) = (path for path in map(Path, ("/var/lib/weft/apps", "/usr/share/weft/apps")) if (path / sys.argv[1]).is_dir())
digest = hashlib.sha256((package / sys.argv[1] / "app.wasm").read_bytes()).hexdigest()
print(*(path.name for path in Path("/var/cache/weft/system/code").glob(f"*-{digest}.code")))
"""

# An editor that gives a service half a minute; systemctl calls it with the place in the file, and the file.
GIVE_TIME = """#!/bin/sh
for file; do :; done
sed -i 's/^TimeoutStartSec=1$/TimeoutStartSec=30/' "$file"
"""

REPAIR = f"""
umount --lazy /var/lib/weft/data /var/lib/weft/appd /var/cache/private/weft-apps
systemctl stop hog 'weft-app@*.service'
systemctl disable weft-appd-ws.socket
rm -rf {STORE}/* /var/lib/weft/data/* /etc/weft/trusted.d/* /etc/systemd/system/weft-app*.service.d
systemd-sysusers
usermod --append --groups weft alice
for file in appd.toml pack.toml; do cp /opt/$file /etc/weft; chmod 644 /etc/weft/$file; done
cd /tmp
weft-runtime-wasmtime --version || apt-get install --yes --reinstall ./weft-runtime_*.deb
systemctl daemon-reload
systemctl stop weft-appd.service weft-appd-ws.socket
systemctl reset-failed
rm -rf /var/lib/weft/appd/*
systemctl start weft-appd.socket weft-appd.service
"""
"""Makes the device as it was, after a case that has not come to its end, so that the next one is judged alone."""


@pytest.fixture(scope="module", autouse=True)
def prepared(device: Container) -> None:
    """What the cases take for granted: the packages that they install, a user, a key, and the settings as they were."""
    device.run("cp", f"/opt/debs/{built_deb().relative_to(CACHE)}", "/tmp")
    for name, text in (("pid_of", PID_OF), ("code_of", CODE_OF), ("give_time", GIVE_TIME)):
        device.write(f"/usr/local/bin/{name}", text, 0o755)
    device.run("bash", "-ec", PREPARE, input=base64.b64encode(packages()).decode(), timeout=TIMEOUT_S)


def packages() -> bytes:
    """An archive of the apps."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, (module, package, runtime) in GUESTS.items():
            app_id = f"org.example.{name}"
            toml = manifest(app_id, runtime=runtime).replace("[runtime]", f"{package}\n[runtime]")
            files = {"wapp.toml": toml.encode(), "app.wasm": module, "ui/index.html": b"<!doctype html>"}
            for path, content in files.items():
                info = tarfile.TarInfo(f"{app_id}/{path}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name.replace(" ", "-"))
def test_what_goes_wrong_is_told_and_mended(device: Container, failure: Failure) -> None:
    with device.repaired_by(REPAIR):
        tell_and_mend(device, failure)


def tell_and_mend(device: Container, failure: Failure) -> None:
    since = cursor(device)
    shell(device, failure.provoke)
    entry = told(device, failure, since)
    text, explanation = str(entry["MESSAGE"]), explained(device, entry)
    check_text(failure, entry)
    assert re.search(failure.explains, explanation), explanation
    if failure.untrue:
        everything = [str(other["MESSAGE"]) for other in entries(device, since)]
        assert not re.search(failure.untrue, "\n".join([explanation, *everything]))
    commands = [
        command for finding in found_by_doctor(device, failure.doctor) if (command := finding["mend"])
    ]
    for command, said in failure.says:
        assert re.search(said, shell(device, command, check=False), re.DOTALL), command
    mended_since = cursor(device) if failure.works else ""
    shown = mend(device, failure, f"{text}\n{explanation}", entry, commands)
    assert re.search(failure.shows, shown, re.DOTALL), shown
    if failure.works:
        shell(device, failure.works)
        assert not found(device, failure, mended_since)
    # The doctor may have started a service again.
    clean = f"systemctl stop 'weft-app@*.service'; rm -rf {STORE}/*; systemctl reset-failed"
    shell(device, f"{failure.clean or 'true'}; {clean}")


def cursor(device: Container) -> str:
    """The place of the journal's last entry."""
    shown = shell(device, "journalctl --sync; journalctl --quiet --no-pager --lines=0 --show-cursor")
    return shown.partition("-- cursor: ")[2].strip()


def entries(device: Container, since: str) -> list[Entry]:
    """All that was written since then, but what apps themselves have."""
    found = device.journal(f"--after-cursor={since}")
    return [entry for entry in found if entry.get("WEFT_EVENT") != Event.OUTPUT]


def found(device: Container, failure: Failure, since: str) -> list[Entry]:
    """The entries that tell it."""
    seen, message_id = re.compile(pattern(failure.seen)), MESSAGE_IDS.get(failure.event)  # type: ignore[call-overload]
    if failure.event == UNASKED:
        message_id = UNASKED_END
    return [
        entry for entry in entries(device, since)
        # Some words about a unit come from a child of systemd.
        if (entry.get("_UID") == "0" and "UNIT" in entry if failure.event == SYSTEMD else entry.get("MESSAGE_ID") == message_id)
        and seen.fullmatch(text_behind(failure, entry))
    ]  # fmt: skip


def told(device: Container, failure: Failure, since: str) -> Entry:
    """The entry that tells it: the only one."""

    def is_there() -> bool:
        matching[:] = found(device, failure, since)
        return bool(matching)

    matching: list[Entry] = []
    try:
        eventually(is_there, 10)
    except AssertionError:
        pytest.fail("\n".join(str(entry["MESSAGE"]) for entry in entries(device, since)))
    assert len(matching) == 1 or failure.event == SYSTEMD, matching
    return matching[0]


def about(failure: Failure, entry: Entry) -> str:
    """What the text of an entry has to begin with."""
    if failure.app is None or failure.event == SYSTEMD:
        return ""
    number = entry.get("WEFT_SESSION_ID")
    return f"{failure.app}: " if number is None else f"{failure.app}[{number}]: "


def text_behind(failure: Failure, entry: Entry) -> str:
    """The first line behind app and session; nothing where these are not those of the failure."""
    first, beginning = str(entry["MESSAGE"]).partition("\n")[0], about(failure, entry)
    return first.removeprefix(beginning) if first.startswith(beginning) else ""


def check_text(failure: Failure, entry: Entry) -> None:
    """App, session and cause are in what `journalctl -o short` and `-o cat` show."""
    assert re.search(failure.cause, text_behind(failure, entry)), entry["MESSAGE"]
    if failure.event == SYSTEMD:
        return
    assert entry.get("WEFT_APP_ID") == failure.app or failure.event == Event.USAGE
    if failure.is_service:
        assert "WEFT_SESSION_ID" not in entry


def explained(device: Container, entry: Entry) -> str:
    """What `journalctl -x` shows below an entry, on one line."""
    shown = device.run(
        "journalctl", "--quiet", "--no-pager", "--catalog", "--output=short", "--lines=1", f"--cursor={entry['__CURSOR']}",
    ).stdout  # fmt: skip
    return " ".join(shown.replace("░", "").replace("-- ", "").split())


def found_by_doctor(device: Container, expected: str) -> Findings:
    """What the doctor finds that is not well, of which something matches; nothing where it is not asked."""
    if not expected:
        return []
    wrong = not_ok(doctor(device)[1])
    texts = list(map(text_of, wrong))
    assert any(re.search(expected, text) for text in texts), texts
    assert all(finding["mend"] for finding in wrong), wrong
    return wrong


def mend(device: Container, failure: Failure, texts: str, entry: Entry, commands: list[str]) -> str:
    """Run what is named, in the texts or by the doctor; what that printed."""
    named = re.escape(failure.command)
    for word, value in (("APP", failure.app), ("ID", entry.get("WEFT_SESSION_ID"))):
        named = re.sub(rf"\b{word}\b", str(value), named)
    named = re.sub(r"\b(DIRECTORY|USER)\b", r"\\S+", named)
    name = re.search(named, texts)
    # An entry of systemd's names none: it is for whoever asks weftctl or systemctl.
    assert name or failure.event == SYSTEMD, (named, texts)
    if failure.command == DOCTOR and not failure.mend:
        return "".join(shell(device, f"cd /tmp; {command}", check=False) for command in commands)
    plain = failure.command.replace("APP", failure.app or "")
    return shell(device, failure.mend or (name[0].rstrip(".,]") if name else plain))


def shell(device: Container, commands: str, *, check: bool = True) -> str:
    """Run commands of root's; what they printed on both streams. They must succeed, if `check`."""
    done = device.run("bash", "-ec", f"exec 2>&1\n{commands}", check=False, timeout=TIMEOUT_S)
    assert done.returncode == 0 or not check, f"{commands}\n{done.stdout}"
    return done.stdout
