# SPDX-License-Identifier: Apache-2.0
"""Every command of docs/operations.md does what the page shows, on a system where nothing of ours was installed."""

from pathlib import Path

from tests.deb import built_deb
from tests.system import console
from tests.system.container import Container, Suite

PAGE = Path(__file__).resolve().parents[2] / "docs/operations.md"


def test_the_page_shows_what_happens(suite: Suite) -> None:
    package = built_deb()
    with Container(suite, binds={package: Path("/srv") / package.name}) as container:
        console.prepare(container, Path("/srv") / package.name)
        for step in console.steps(PAGE):
            status, output = console.run(container, step)
            assert status == 0, f"{step}\n{output}"
            assert console.is_as_told(step, output), f"{step}\nexpected:\n{step.output}\nfound:\n{output}"


def test_the_page_has_commands_to_run() -> None:
    assert len(list(console.steps(PAGE))) > 20
