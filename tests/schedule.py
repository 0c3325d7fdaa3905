# SPDX-License-Identifier: Apache-2.0
"""What one worker of pytest-xdist runs in a row: all tests of a file, of one release where they are of releases."""

import re

from xdist.scheduler import LoadScopeScheduling

_RELEASE = re.compile(r"\[((?:bookworm|trixie)[^]-]*)")


class FilesAndReleases(LoadScopeScheduling):  # type: ignore[misc]
    """As --dist=loadfile; but each release of a file has a booted system of its own, and so may be another worker's."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        release = _RELEASE.search(nodeid)
        return f"{file} {release[1]}" if release else file
