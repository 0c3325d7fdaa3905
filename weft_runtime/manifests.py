# SPDX-License-Identifier: Apache-2.0
"""Manifests that are parsed already: reading one again takes longer than to see that it is the same."""

import os
import time
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

from weft_runtime import store
from weft_runtime.errors import WeftError
from weft_runtime.integrity import Identity
from weft_runtime.limits import MIB
from weft_runtime.manifest import Manifest

REMEMBERED_BYTES = 2 * MIB
"""Bytes of files whose manifests are remembered whole: four thousand usual ones. In memory they may take forty times
as much, where all of it is short strings."""

LISTED_MAX = 16_384
"""Manifests of which the name and the version are remembered, with at most 1 KiB each: more than anybody installs. A list
of more apps than that would be read anew each time."""


class Reading(NamedTuple):
    """What came of parsing a manifest."""

    source: str
    identity: Identity
    settled: bool
    """Whether it may be remembered: changed a moment ago, the file may change again without a trace."""
    result: Manifest | WeftError


class NotRemembered(Exception):
    """The manifest has to be parsed: by `read`, where that must not hold others up."""

    def __init__(self, source: str) -> None:
        super().__init__(source)
        self.directory = Path(source).parent
        """The package's."""


class _Listed(NamedTuple):
    identity: Identity
    name_and_version: tuple[str, str] | None
    """None where the manifest is wrong."""


class Manifests:
    """What was said of each manifest, right or wrong, as long as its file is the same. For one thread."""

    def __init__(self) -> None:
        self._listed: OrderedDict[str, _Listed] = OrderedDict()
        self._whole: OrderedDict[str, Manifest | WeftError] = OrderedDict()
        """The same of some of them, the one that was not used for longest first."""
        self._bytes = 0
        """The size of the files of these."""
        self._fresh: Reading | None = None

    def parse(self, fd: int, source: str) -> Manifest:
        """The same as `store.parse_file`, and raises the same."""
        try:
            return self.recall(fd, source)
        except NotRemembered:
            reading = parse(fd, source)
            self.keep(reading)
            return _said(reading.result)

    def recall(self, fd: int, source: str) -> Manifest:
        """The same without parsing anything. Raises NotRemembered as well."""
        identity, fresh = Identity.of(os.fstat(fd)), self._fresh
        if fresh is not None and (fresh.source, fresh.identity) == (source, identity):
            return _said(fresh.result)
        whole = self._whole.get(source)
        if whole is None or self._listed[source].identity != identity:
            raise NotRemembered(source)
        self._whole.move_to_end(source)
        return _said(whole)

    def recall_listed(self, fd: int, source: str) -> tuple[str, str] | None:
        """The name and the version in a manifest; None where it is wrong. Raises OSError and NotRemembered."""
        listed = self._listed.get(source)
        if listed is None or listed.identity != Identity.of(os.fstat(fd)):
            raise NotRemembered(source)
        self._listed.move_to_end(source)
        return listed.name_and_version

    def keep(self, reading: Reading) -> None:
        """Remember what `read` or `parse` has said, if that may be."""
        source = reading.source
        self._forget(source)
        if not reading.settled:
            return
        self._listed[source] = _Listed(reading.identity, name_and_version(reading))
        self._whole[source] = reading.result
        self._bytes += reading.identity.size
        while self._bytes > REMEMBERED_BYTES:
            self._forget_whole(next(iter(self._whole)))
        while len(self._listed) > LISTED_MAX:
            self._forget(next(iter(self._listed)))

    def use(self, reading: Reading | None) -> None:
        """Let `recall` know `reading` even if it may not be remembered, until the next call of this."""
        self._fresh = reading

    def _forget(self, source: str) -> None:
        self._forget_whole(source)
        self._listed.pop(source, None)

    def _forget_whole(self, source: str) -> None:
        if self._whole.pop(source, None) is not None:
            self._bytes -= self._listed[source].identity.size


def parse(fd: int, source: str) -> Reading:
    """Parse the manifest that `fd` is open for. Raises OSError."""
    begun = time.time_ns()
    identity = Identity.of(os.fstat(fd))
    result: Manifest | WeftError
    try:
        result = store.parse_file(fd, source)
    except WeftError as error:
        result = error
    return Reading(source, identity, begun >= identity.settled_at, result)


def read(directory: Path) -> Reading:
    """Parse the manifest of the package in `directory`; for any thread. Raises WeftError where it cannot be opened."""
    return store.read_by(directory, parse)


def name_and_version(reading: Reading) -> tuple[str, str] | None:
    """What a list of apps says of it; None where it is wrong."""
    if isinstance(reading.result, WeftError):
        return None
    return reading.result.name, reading.result.version


def _said(result: Manifest | WeftError) -> Manifest:
    if isinstance(result, WeftError):
        # Not the same object: each raise adds to its traceback.
        raise WeftError(result.problem, result.message, result.hint)
    return result
