# SPDX-License-Identifier: Apache-2.0
"""weft-runtime under a real systemd: its journal entries, its catalog, its notifications."""

import base64
import time

import pytest

from tests.packages import APP_ID, manifest, wat
from tests.system.container import Container
from weft_runtime.journal import MESSAGE_IDS, Event

STORE = "/opt/store"
DEADLINE_S = 30


@pytest.fixture(scope="module", autouse=True)
def store(container: Container) -> None:
    """The example apps under their ids, and the catalog where systemd looks for it."""
    for name, app_id in {"hello": "hello", "ticker": "ticker", "crash": "crash"}.items():
        container.run("mkdir", "-p", STORE)
        container.run("ln", "-s", f"/opt/weft/src/examples/{name}", f"{STORE}/org.weft.examples.{app_id}")
    container.run(
        "cp", "/opt/weft/src/infra/systemd/catalog/weft-runtime.catalog", "/usr/lib/systemd/catalog/"
    )
    container.run("journalctl", "--update-catalog")


def run_app(container: Container, app_id: str, session_id: str, *properties: str) -> int:
    """Run an app as a transient service, whose standard error is the journal; return its exit status."""
    return container.run(
        "systemd-run", "--quiet", "--wait", "--collect", f"--setenv=WEFT_APP_STORE={STORE}", *properties,
        "weft-runtime-wasmtime", app_id, session_id, check=False,
    ).returncode  # fmt: skip


def entries(container: Container, session_id: str) -> list[dict[str, object]]:
    return container.journal(f"WEFT_SESSION_ID={session_id}")


def test_every_step_is_in_the_journal_with_its_fields(container: Container) -> None:
    assert run_app(container, "org.weft.examples.hello", "11") == 0
    found = entries(container, "11")
    assert [entry["WEFT_EVENT"] for entry in found] == ["starting", "loaded", "ready", "exited"]
    for entry in found:
        assert entry["WEFT_APP_ID"] == "org.weft.examples.hello"
        assert entry["SYSLOG_IDENTIFIER"] == "weft-runtime"
        assert entry["PRIORITY"] == "6"
        assert entry["_TRANSPORT"] == "journal"
    assert found[2]["MESSAGE_ID"] == MESSAGE_IDS[Event.READY]
    assert found[3]["MESSAGE_ID"] == MESSAGE_IDS[Event.EXITED]
    assert found[3]["WEFT_EXIT_STATUS"] == "0"
    assert found[3]["WEFT_REASON"] == "the app exited with status 0"


def test_a_crash_has_its_reason_its_backtrace_and_its_catalog_text(container: Container) -> None:
    assert run_app(container, "org.weft.examples.crash", "12") == 134
    entry = entries(container, "12")[-1]
    assert entry["WEFT_EVENT"] == "trapped"
    assert entry["PRIORITY"] == "3"
    assert entry["WEFT_EXIT_STATUS"] == "134"
    reason, _, backtrace = str(entry["MESSAGE"]).partition("\n")
    assert reason == f"org.weft.examples.crash[12]: {entry['WEFT_REASON']}"
    assert "unreachable" in reason
    assert backtrace.startswith("  0: ")
    explained = container.run("journalctl", "--no-pager", "-x", "WEFT_SESSION_ID=12").stdout
    assert "App org.weft.examples.crash crashed" in explained
    assert "send it to the author of the app" in explained


@pytest.mark.parametrize(
    ("app_id", "session_id", "status", "event"),
    [
        ("org.weft.examples.nowhere", "13", 166, "package-not-found"),
        ("org.example.broken", "14", 165, "package-invalid"),
    ],
)
def test_a_failure_has_its_reason_and_its_catalog_text(
    container: Container, app_id: str, session_id: str, status: int, event: str
) -> None:
    container.write(f"{STORE}/org.example.broken/wapp.toml", "not a manifest")
    assert run_app(container, app_id, session_id) == status
    entry = entries(container, session_id)[-1]
    assert entry["WEFT_EVENT"] == event
    assert entry["PRIORITY"] == "3"
    assert entry["MESSAGE"] == f"{app_id}[{session_id}]: {entry['WEFT_REASON']}"
    assert (
        "Support: man:weft-runtime(1)"
        in container.run("journalctl", "--no-pager", "-x", f"WEFT_SESSION_ID={session_id}").stdout
    )


def test_text_of_the_guest_forges_neither_a_field_nor_an_entry(container: Container) -> None:
    name = r"x\nWEFT_APP_ID=org.evil.app\nPRIORITY=0\nMESSAGE=forged\n\nMESSAGE=second"
    module = wat(f'(func (export "_start") call 1) (func ${chr(34)}{name}{chr(34)} unreachable)')
    install_in(container, module)
    assert run_app(container, APP_ID, "15") == 134
    entry = entries(container, "15")[-1]
    assert entry["PRIORITY"] == "3"
    assert r"x\x0aWEFT_APP_ID=org.evil.app\x0a" in str(entry["MESSAGE"])
    assert container.journal("WEFT_APP_ID=org.evil.app") == []


def test_it_is_told_to_log_to_the_journal_whatever_stderr_is(container: Container) -> None:
    status = run_app(
        container, "org.weft.examples.hello", "16", "--property=StandardError=null", "--setenv=WEFT_LOG=journal"
    )  # fmt: skip
    assert status == 0
    assert [entry["WEFT_EVENT"] for entry in entries(container, "16")][-1] == "exited"


def test_a_notify_service_is_up_at_ready_and_stops_cleanly(container: Container) -> None:
    container.run(
        "systemd-run", "--quiet", "--unit=ticker", "--property=Type=notify", "--property=RemainAfterExit=yes",
        f"--setenv=WEFT_APP_STORE={STORE}", "weft-runtime-wasmtime", "--sd-notify", "org.weft.examples.ticker", "17",
    )  # fmt: skip
    # systemd-run returns once the service is active: READY=1 has come.
    assert [entry["WEFT_EVENT"] for entry in entries(container, "17")] == ["starting", "loaded", "ready"]
    assert show(container, "ticker", "StatusText") == "the app is running (version 1.0.0)"
    container.run("systemctl", "stop", "ticker")
    assert show(container, "ticker", "Result") == "success"
    last = entries(container, "17")[-1]
    assert last["WEFT_EVENT"] == "stopped"
    assert str(last["MESSAGE"]) == "org.weft.examples.ticker[17]: stopped by SIGTERM while running _start"


def test_a_run_that_can_have_no_thread_says_so(container: Container) -> None:
    """Whether it decides or follows the plan of a run before it."""
    # The limit is none of root's, and each task of its user counts.
    user, alone = (
        ("--property=CacheDirectory=weft-threads", "--property=User=games"),
        "--property=LimitNPROC=1",
    )
    assert run_app(container, "org.weft.examples.hello", "20", *user, alone) == 171
    for _ in range(3):
        assert run_app(container, "org.weft.examples.hello", "20", *user) == 0
    assert run_app(container, "org.weft.examples.hello", "20", *user, alone) == 171
    # There is no other log yet.
    found = container.journal("SYSLOG_IDENTIFIER=weft-runtime-wasmtime", at_least=2)
    complaint = "err: org.weft.examples.hello[20]: cannot start a thread: "
    assert [complaint in str(entry["MESSAGE"]) for entry in found if "[20]" in str(entry["MESSAGE"])] == [
        True,
        True,
    ]


def test_output_of_the_app_is_in_the_journal_too(container: Container) -> None:
    container.run(
        "systemd-run", "--quiet", "--unit=output", "--wait", f"--setenv=WEFT_APP_STORE={STORE}",
        "weft-runtime-wasmtime", "org.weft.examples.hello", "18",
    )  # fmt: skip
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        found = container.journal("_SYSTEMD_UNIT=output.service", "_TRANSPORT=stdout")
        if len(found) > 1:
            break
    assert found[0]["MESSAGE"] == "READY"


def test_nothing_unexpected_was_logged(container: Container) -> None:
    messages = [str(entry["MESSAGE"]) for entry in container.journal("SYSLOG_IDENTIFIER=weft-runtime")]
    assert messages
    assert not [message for message in messages if "Traceback" in message or "internal error" in message]


def install_in(container: Container, module: bytes) -> None:
    package = f"{STORE}/{APP_ID}"
    container.write(f"{package}/ui/index.html", "<!doctype html>")
    container.write(f"{package}/wapp.toml", manifest())
    container.write(f"{package}/app.base64", base64.b64encode(module).decode())
    container.run("sh", "-c", f"base64 -d <{package}/app.base64 >{package}/app.wasm")


def show(container: Container, unit: str, name: str) -> str:
    return container.run("systemctl", "show", "--value", f"--property={name}", unit).stdout.strip()
