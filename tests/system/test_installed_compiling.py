# SPDX-License-Identifier: Apache-2.0
"""The installed package and a module that is costly to compile: a launch gives up, and the background takes over.

How much is too much is lowered by setrlimit(2), as an operator may do it: nobody can wait for the limits themselves.
"""

from collections.abc import Callable, Iterator

import pytest

from tests.command.guests import slow_to_compile
from tests.system import appd
from tests.system.appd import UNIT, show
from tests.system.container import Container
from tests.system.package import OPERATOR_STORE, add_app, complaints, service

CACHE = "/var/cache/weft/system/code"
COMPILE, REQUESTS = "weft-compile.service", "weft-compile.path"
AS_SERVICE, AS_SESSION, TOO_COSTLY = "org.example.one", "org.example.two", "org.example.three"
KILLED = "org.example.four"
LIMIT_S = 2
BACKGROUND_S = 180
CATALOG = "is too costly to compile"

# A fork server of such a runtime has the limit as well; it needs less, and each of its forks begins at nothing.
RUNTIME = f'#!/bin/sh\nulimit -t {LIMIT_S}\nexec /usr/bin/weft-runtime-wasmtime "$@"\n'


def costly(number: int) -> bytes:
    """Some four seconds of CPU time; another module for each number."""
    return slow_to_compile(3, count=310 + number, depth=100)


@pytest.fixture(autouse=True)
def store(device: Container) -> Iterator[None]:
    yield
    for app_id in (AS_SERVICE, AS_SESSION, TOO_COSTLY, KILLED):
        device.run("rm", "-rf", f"{OPERATOR_STORE}/{app_id}")


def limit(container: Container, unit: str) -> None:
    container.write(f"/run/systemd/system/{unit}.d/limit.conf", f"[Service]\nLimitCPU={LIMIT_S}\n")
    container.run("systemctl", "daemon-reload")


def messages(container: Container, app_id: str, event: str) -> list[str]:
    found = container.journal(f"WEFT_APP_ID={app_id}", f"WEFT_EVENT={event}")
    return [str(entry["MESSAGE"]).partition(": ")[2] for entry in found]


def eventually(condition: Callable[[], bool]) -> None:
    """Wait longer than elsewhere: what works in the background has an idle machine's leftovers only."""
    appd.eventually(condition, BACKGROUND_S)


def until_compiled(container: Container) -> None:
    eventually(lambda: show(container, "ActiveState", COMPILE) in ("inactive", "failed"))


def is_compiled(container: Container, app_id: str) -> bool:
    digest = container.run("sha256sum", f"{OPERATOR_STORE}/{app_id}/app.wasm").stdout.split()[0]
    return bool(container.run("find", CACHE, "-name", f"*-{digest}.code").stdout)


def notes(container: Container) -> list[str]:
    """Names of files that say that something was compiled in vain."""
    return container.run("find", CACHE, "-name", "*.vain", "-printf", "%f\\n", check=False).stdout.split()


def test_a_service_that_hits_a_limit_starts_once_the_background_has_compiled_it(device: Container) -> None:
    until_compiled(device)
    unit = service(AS_SERVICE)
    limit(device, unit)
    add_app(device, AS_SERVICE, costly(1))
    device.run("systemctl", "start", "--no-block", unit)
    eventually(lambda: bool(messages(device, AS_SERVICE, "exited")))
    eventually(lambda: show(device, "ActiveState", unit) == "inactive")
    assert show(device, "Result", unit) == "success"
    # It was tried once, and not again while the background was at it.
    (text,) = messages(device, AS_SERVICE, "compile-limit")
    assert f"; the limit for CPU time of compiling at a launch is {LIMIT_S} seconds [try again" in text
    (text,) = messages(device, AS_SERVICE, "loaded")
    assert text.startswith("loaded the compiled code of ")


def test_a_service_that_is_killed_as_it_compiles_starts_once_the_background_has_compiled_it(
    device: Container,
) -> None:
    """As the kernel or the service manager does it where the unit has no more memory."""
    until_compiled(device)
    unit = service(KILLED)
    add_app(device, KILLED, costly(4))
    device.run("systemctl", "start", "--no-block", unit)
    begun = ("find", f"/var/cache/private/weft-apps/{KILLED}", "-name", "*.vain")
    eventually(lambda: bool(device.run(*begun, check=False).stdout))
    device.run("systemctl", "kill", "--signal=KILL", unit)
    eventually(lambda: bool(messages(device, KILLED, "exited")))
    # It was not tried again before that, but had the background asked for it.
    (text,) = messages(device, KILLED, "compile-limit")
    assert "is not compiled again at once: the launch before this one was killed while it did" in text
    (text,) = messages(device, KILLED, "loaded")
    assert text.startswith("loaded the compiled code of ")


def test_a_session_that_hits_a_limit_has_the_background_compile_it(device: Container) -> None:
    until_compiled(device)
    device.write("/usr/local/bin/limited-runtime", RUNTIME, 0o755)
    device.write(
        f"/run/systemd/system/{UNIT}.d/runtime.conf",
        "[Service]\nEnvironment=WEFT_RUNTIME_BIN=/usr/local/bin/limited-runtime WEFT_LOG_LEVEL=debug\n",
    )
    device.run("systemctl", "daemon-reload")
    device.run("systemctl", "restart", UNIT)
    assert show(device, "ActiveState", REQUESTS) == "active"
    add_app(device, AS_SESSION, costly(2))
    done = device.run("weftctl", "launch", AS_SESSION, check=False, timeout=120)
    assert done.returncode == 175
    assert (
        f"[try again, or compile it ahead, with higher limits: 'weft-pack compile {AS_SESSION}']"
        in done.stderr
    )

    # By the file that the daemon writes, for there is nothing else that would start it.
    eventually(lambda: show(device, "ActiveState", COMPILE) == "active" or is_compiled(device, AS_SESSION))

    def starts() -> bool:
        again = device.run("weftctl", "launch", "--wait", AS_SESSION, check=False, timeout=120)
        assert again.returncode in (0, 175)
        # Nobody compiles it in vain again: it is left to the background.
        assert again.returncode == 0 or "is left to weft-compile.service" in again.stderr
        return again.returncode == 0

    eventually(starts)
    assert messages(device, AS_SESSION, "loaded")[-1].startswith("loaded the compiled code of ")


def test_what_is_too_costly_even_for_the_background_is_not_tried_again(device: Container) -> None:
    limit(device, COMPILE)
    # One that began before, as for the apps that the last test has left, has no such limit.
    until_compiled(device)
    add_app(device, TOO_COSTLY, costly(3))
    for _ in range(2):
        device.run("systemctl", "start", COMPILE)
        until_compiled(device)
    (text,) = messages(device, TOO_COSTLY, "too-costly")
    assert f"; the limit for CPU time of compiling is {LIMIT_S} seconds" in text
    assert len(notes(device)) == 1
    told = [str(entry["MESSAGE"]) for entry in device.journal(f"_SYSTEMD_UNIT={COMPILE}")]
    assert any(f"weft-pack: {TOO_COSTLY}: not compiled again: " in line for line in told)
    explained = device.run("journalctl", "--no-pager", "--catalog", f"WEFT_APP_ID={TOO_COSTLY}").stdout
    assert f"Subject: App {TOO_COSTLY} {CATALOG}" in explained
    # No launch tries it either.
    done = device.run("weftctl", "launch", TOO_COSTLY, check=False)
    assert done.returncode == 165
    assert (
        f"could not be compiled in the background either: {OPERATOR_STORE}/{TOO_COSTLY}/app.wasm"
        in done.stderr
    )
    # By hand it is, and outside of the unit there is more time for it.
    assert device.run("weft-pack", "compile", TOO_COSTLY, timeout=180).stdout == f"compiled {TOO_COSTLY}\n"
    assert notes(device) == []
    assert device.run("weftctl", "launch", "--wait", TOO_COSTLY, check=False).returncode == 0


def test_nothing_unexpected_was_logged(device: Container) -> None:
    """The last one: of all that the tests above have brought about, only what they meant to."""
    meant = (
        "too costly to compile",
        "is left to weft-compile.service",
        "not compiled again at once",
        "not compiled again",
    )
    by_systemd = ("Failed with result", "Main process exited", "Failed to start ")
    assert complaints(device, *meant, *by_systemd, "could not be compiled in the background") == []
