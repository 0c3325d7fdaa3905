# SPDX-License-Identifier: Apache-2.0
"""The installed packages, as the daemon knows them: the event loop reads no manifest."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from weft_runtime import manifests
from weft_runtime.appd.tasks import Worker
from weft_runtime.manifests import Manifests, Reading


class Packages:
    """The stores, and what is remembered of the manifests in them."""

    def __init__(self, stores: Sequence[Path]) -> None:
        self.stores = stores
        self.manifests = Manifests()
        # A thread of its own: what is written to a slow disk must not keep launches waiting.
        self._reader = Worker("weft-manifests")

    def read(self, directory: Path) -> "asyncio.Future[Reading]":
        """Parse the manifest of the package in `directory` in another thread, which may take 100 ms, and remember it.

        WeftError comes of it where the manifest cannot be opened.
        """
        reading = self._reader.run(manifests.read, directory)
        reading.add_done_callback(self._keep)
        return reading

    def _keep(self, reading: "asyncio.Future[Reading]") -> None:
        if not reading.cancelled() and reading.exception() is None:
            self.manifests.keep(reading.result())

    async def settle(self) -> bool:
        """Wait for a moment until no manifest is being read; whether that is so."""
        return await self._reader.settle()
