# SPDX-License-Identifier: Apache-2.0
"""The way from an earlier release to this one and back, with what runs then."""

import json
import subprocess

import pytest

from tests.deb import LATER, ROOT, built_deb, earlier_deb
from tests.system.appd import TICKER, UNIT, show
from tests.system.container import Container
from tests.system.package import PACKAGE, apt, install, launch, processes, until_running
from tests.system.test_installed_upgrade import is_heard
from tests.unit.needs import missing

EARLIER = {
    "dc91870": "the first release",
    "a4b376f": "the last one whose fork server took a command line and no plan",
}


def alive(container: Container) -> dict[str, object]:
    """The process of each live session, by its number."""
    listed = json.loads(container.run("weftctl", "list", "--json").stdout)
    # The first release lists nothing else, and does not say so.
    return {
        str(each["session_id"]): each["pid"] for each in listed if each.get("kind", "session") == "session"
    }


@pytest.fixture(autouse=True)
def history(commit: str) -> None:
    """Without it there is nothing to build an earlier release from."""
    command = ["git", "-c", "safe.directory=*", "cat-file", "-e", commit]
    if subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode:
        missing(f"the history of the project does not go back to {commit}")


@pytest.mark.parametrize("commit", EARLIER)
def test_sessions_of_an_earlier_release_live_on_after_an_upgrade_and_the_way_back(
    pristine: Container, commit: str
) -> None:
    """And launches work before and after, whatever processes of the other release had waited for them."""
    install(pristine, earlier_deb(commit))
    launch(pristine, TICKER)
    kept = alive(pristine)
    for deb in (built_deb(version=LATER), earlier_deb(commit)):
        daemon = show(pristine, "MainPID")
        printed = install(pristine, deb, "--allow-downgrades")
        assert "version before" not in printed
        assert show(pristine, "MainPID") == daemon
        assert show(pristine, "NRestarts") == "0"
        assert kept.items() <= alive(pristine).items()
        assert is_heard(pristine)
        for _ in range(3):
            launch(pristine, TICKER)
        kept = alive(pristine)
    # Each is ended by whichever release runs now, and its end is told.
    numbers = sorted(kept, key=int)
    assert len(numbers) == 7
    for number in numbers:
        pristine.run("weftctl", "stop", number)
    assert alive(pristine) == {}
    assert processes(pristine) == {int(daemon)}
    told = pristine.journal("WEFT_EVENT=session-ended", f"_PID={daemon}")
    ended = {str(entry["WEFT_SESSION_ID"]) for entry in told}
    assert ended >= set(numbers)
    apt(pristine, "purge", PACKAGE)


@pytest.mark.parametrize("commit", EARLIER)
def test_what_an_earlier_release_has_saved_is_started_again(pristine: Container, commit: str) -> None:
    install(pristine, earlier_deb(commit))
    launch(pristine, TICKER)
    pristine.run("systemctl", "stop", UNIT)
    install(pristine, built_deb(version=LATER))
    pristine.run("systemctl", "start", UNIT)
    until_running(pristine, TICKER)
    apt(pristine, "purge", PACKAGE)
