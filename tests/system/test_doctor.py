# SPDX-License-Identifier: Apache-2.0
"""`weftctl doctor` of the installed package, on a device that is broken in each way that it knows: it names what is wrong, and
the command that it names mends that."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deb import ROOT, built_deb
from tests.operations import pattern
from tests.system import package
from tests.system.container import Container, Suite
from tests.system.doctor import Findings, doctor, not_ok, text_of
from tests.system.doctor_cases import CASES, REPAIR, STORE, Case, Fault

ROUNDS = 4
"""Lists of commands until all is well: what one of them starts again may need the next one."""

TABLE = (
    (ROOT / "docs/operations.md").read_text().partition("| `weftctl doctor` says |")[2].partition("\n\n")[0]
)
ROWS = [
    re.compile(pattern(said), re.DOTALL)
    for line in TABLE.splitlines()
    for said in re.findall("`([^`]+)`", line.removeprefix("| ").partition(" | ")[0])
]
"""What the page says of the doctor's findings, in which ... stands for anything."""

# A note that a module was compiled in vain, as the compiler leaves it.
VAIN = """
import hashlib, sys
from pathlib import Path

sys.path.insert(0, "/usr/lib/weft-runtime")
sys.path.append("/usr/lib/python3/dist-packages")
from weft_runtime import code_cache
from weft_runtime.limits import CompileBounds
from weft_runtime.pack import code

module = hashlib.sha256(Path("/usr/share/weft/apps/org.weft.examples.ticker/app.wasm").read_bytes()).digest()
key = code_cache.Key(code.engine_digest({"PATH": "/usr/bin:/bin"}), module)
vain = code_cache.Vain(CompileBounds.parse("1 1 1") or sys.exit("bounds"), "it took too long")
code_cache.note_vain(Path("/var/cache/weft/system"), key, vain, public=True)
"""


@pytest.fixture(scope="module")
def device(suite: Suite) -> Iterator[Container]:
    """A device with the package, and its file in /tmp, to be installed again."""
    deb = built_deb()
    with package.device(suite, {deb.parent: Path("/srv"), ROOT: Path("/opt/src")}) as container:
        container.run("cp", f"/srv/{deb.name}", "/tmp")
        for name in ("appd.toml", "pack.toml"):
            container.run("cp", f"/etc/weft/{name}", "/opt")
        container.write("/opt/vain.py", VAIN)
        container.run("useradd", "--create-home", "--groups=weft", "alice")
        container.run("mkdir", "-p", "/root/keys", "/etc/weft/trusted.d")
        container.run("weft-pack", "generate-key", "/root/keys")
        assert list(map(text_of, not_ok(doctor(container)[1]))) == []
        yield container


def matches(finding: dict[str, str | None], fault: Fault) -> bool:
    is_it = (finding["check"], finding["status"]) == (fault.check, fault.status)
    return is_it and re.search(fault.text, text_of(finding)) is not None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_what_is_wrong_is_named_and_mended(device: Container, case: Case) -> None:
    with device.repaired_by(REPAIR):
        break_and_mend(device, case)


def break_and_mend(device: Container, case: Case) -> None:
    device.run("sh", "-ec", case.before)
    for fault in case.faults:
        device.run("sh", "-ec", fault.how, timeout=120)
    status, found = doctor(device)
    undocumented = [
        text for text in map(text_of, not_ok(found)) if not any(row.fullmatch(text) for row in ROWS)
    ]
    assert undocumented == []
    for fault in case.faults:
        assert any(matches(finding, fault) for finding in found), (
            fault.text,
            list(map(text_of, not_ok(found))),
        )
    assert status == any(fault.status == "problem" for fault in case.faults)
    assert all(finding["mend"] for finding in not_ok(found)), found
    if any(not fault.mends for fault in case.faults):
        mend(device, found)
        _, found = doctor(device)
        unmended = [fault for fault in case.faults if any(matches(finding, fault) for finding in found)]
        assert unmended == [fault for fault in case.faults if not fault.mends]
        device.run("sh", "-ec", case.after, timeout=120)
        return
    for _ in range(ROUNDS):
        mend(device, found)
        _, found = doctor(device)
        if not not_ok(found):
            break
    device.run("sh", "-ec", case.after, timeout=120)
    # What other packages bring without a signature stays a note under that policy.
    left = map(text_of, not_ok(found))
    assert [text for text in left if "the policy is 'require'" not in text] == []


def mend(device: Container, found: Findings) -> None:
    """Run the commands that the doctor names, in its order."""
    for finding in not_ok(found):
        command = finding["mend"]
        assert command is not None
        done = device.run("sh", "-c", f"cd /tmp && {command}", check=False, timeout=300)
        # The daemon may need what is mended after it only, and what waited may run by then.
        may_fail = any(part in command for part in ("systemctl", "weftctl restore", "KEY.pub"))
        assert done.returncode == 0 or may_fail, (finding, done.stderr)


def test_who_is_not_root_gets_what_can_be_known(device: Container) -> None:
    status, found = doctor(device, user="alice")
    assert status == 1
    (wrong,) = (finding for finding in found if finding["status"] == "problem")
    assert (wrong["check"], wrong["mend"]) == ("journal", "usermod -aG systemd-journal alice")
    (view,) = (finding for finding in found if finding["check"] == "view")
    assert (view["status"], view["mend"]) == ("note", "sudo weftctl doctor")
    assert "unknown are the data of apps" in text_of(view)
    device.run("sh", "-ec", f"chmod 700 {STORE}; chmod 000 /etc/weft/appd.toml")
    _, found = doctor(device, user="alice")
    device.run("sh", "-ec", f"chmod 755 {STORE}; chmod 644 /etc/weft/appd.toml")
    texts = [text_of(finding) for finding in found if finding["status"] == "problem"]
    assert any(f"the user weft cannot read {STORE}" in text for text in texts)
    assert any("the user weft cannot read /etc/weft/appd.toml" in text for text in texts)


def test_what_the_asker_alone_cannot_read_is_no_problem(device: Container) -> None:
    private = "/etc/weft/appd.toml /etc/weft/pack.toml"
    device.run("sh", "-ec", f"useradd bob; chgrp weft {private}; chmod 640 {private}")
    status, found = doctor(device, user="bob")
    device.run("sh", "-ec", f"chgrp root {private}; chmod 644 {private}; userdel bob")
    assert status == 1
    problems = [(finding["check"], finding["mend"]) for finding in found if finding["status"] == "problem"]
    assert problems == [("group", "usermod -aG weft bob"), ("journal", "usermod -aG systemd-journal bob")]


def check(device: Container, *options: str, user: str | None = None) -> tuple[int, str]:
    done = device.run("weft-appd", "--check", *options, user=user, check=False, env={"WEFT_LOG": "stderr"})
    return done.returncode, done.stdout + done.stderr


def test_check_judges_as_the_daemon_would(device: Container) -> None:
    config = "/etc/weft/appd.toml"
    assert check(device) == (0, "the settings are valid\n")
    for spoil, restore in (
        ("chmod 000", "chmod 644"),
        ("chown root:root", "true"),
        ("chmod 600", "chmod 644"),
    ):
        device.run("sh", "-c", f"{spoil} {config}")
        status, text = check(device)
        device.run("sh", "-c", f"{restore} {config}")
        assert status == (0 if spoil.startswith("chown") else 178), spoil
        assert status == 0 or f"cannot read '{config}': Permission denied" in text
    # The unit has a variable for it, which wins.
    device.run("sh", "-c", f"echo 'runtime_bin = \"/nope\"' >>{config}")
    assert check(device) == (0, "the settings are valid\n")
    assert check(device, user="alice")[0] == 169  # a daemon of hers has none
    for line, said in (
        ('app_store = "/nope"', "app_store is '/nope': there is no such directory"),
        ('app_store = "/root"', "app_store is '/root': it cannot be read"),
        ('app_store = "/root/keys"', "app_store is '/root/keys': there is no such directory"),
        ('data_root = "/usr"', "data_root is '/usr': it cannot be written"),
        ('app_shell_bin = "/nope"', "app_shell_bin is '/nope': it is no executable program"),
        ('ws_token_file = "/root/token"', "cannot read the token file '/root/token': Permission denied"),
    ):
        device.run(
            "sh", "-c", f"echo secret >/root/token; cp /opt/appd.toml {config}; echo '{line}' >>{config}"
        )
        status, text = check(device)
        assert status == 178, line
        assert re.search(said, text), text
    device.run("cp", "/opt/appd.toml", config)
