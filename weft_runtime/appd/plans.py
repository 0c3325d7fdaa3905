# SPDX-License-Identifier: Apache-2.0
"""What launching an app comes to: decided once, and remembered while all that it was decided by is as it was."""

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from weft_runtime import capabilities, decision, paths, settings
from weft_runtime.appd.session import Facts
from weft_runtime.appd.settings import Places, Settings, find_runtime, is_own_runtime, runtime_sources
from weft_runtime.capabilities import Grants
from weft_runtime.code_cache import Caches
from weft_runtime.decision import Asked
from weft_runtime.errors import WeftError
from weft_runtime.escape import printable
from weft_runtime.ids import AppId
from weft_runtime.journal import Level
from weft_runtime.manifest import Manifest
from weft_runtime.plan import Prepared
from weft_runtime.settings import EngineKind
from weft_runtime.sources import PLACE, STEP, Code, Source, Sources

REMEMBERED_MAX = 128
"""Plans that are remembered, each with up to 63 KiB: more than a device launches again and again."""


class CapabilityRefused(Exception):
    """A capability that the app asks for is not granted."""

    def __init__(self, error: WeftError) -> None:
        """`error` says which and why."""
        super().__init__(str(error))
        self.error = error


class Launchable(NamedTuple):
    """What a launch of an app comes to, whichever session it is."""

    program: Path
    arguments: tuple[str, ...]
    """Those of the runtime besides the app and its session."""
    notice: str | None
    """What is to be said of its capabilities."""
    facts: Facts
    plan: Prepared | None = None
    """None where the runtime is executed."""
    code: Code | None = None

    def command(self, app_id: str, number: int) -> list[str]:
        """The command line of a session."""
        return [os.fspath(self.program), app_id, str(number), *self.arguments]


class _Remembered(NamedTuple):
    launchable: Launchable
    sources: Sources
    made_by: bytes | None
    """Its code."""


class Plans:
    """The plans of one daemon. For one thread."""

    def __init__(
        self,
        config: Settings,
        places: Places,
        environ: Mapping[str, str],
        parse: Callable[[int, str], Manifest],
        made_by: Callable[[], bytes | None],
    ) -> None:
        """Sessions have what counts here of `environ`. `made_by` tells the digest of what the engine of the fork server says
        of its compatibility, or None where there is no fork server of ours."""
        self._settings = config
        self._places = places
        self._stores = settings.stores(environ)
        self._caches = Caches(own=settings.cache_directory(environ))
        self._parse = parse
        self._made_by = made_by
        self._can_follow = config.fork_server and config.log_level < Level.DEBUG and _is_native(environ)
        self._remembered: OrderedDict[AppId, _Remembered] = OrderedDict()

    def find(self, app_id: AppId) -> Launchable:
        """What launching `app_id` comes to now.

        Raises WeftError where there is nothing to launch, CapabilityRefused, and what `parse` raises.
        """
        remembered = self._remembered.pop(app_id, None)
        made_by = self._made_by()
        # The engine of a fork server that was started later may be another.
        if remembered is not None and remembered.made_by == made_by and remembered.sources.are_unchanged():
            self._remembered[app_id] = remembered
            return remembered.launchable
        return self._decide(app_id, made_by)

    def _decide(self, app_id: AppId, made_by: bytes | None) -> Launchable:
        program = find_runtime(self._settings)
        can_follow = self._can_follow and is_own_runtime(program, self._settings)

        def grant(values: Manifest) -> Grants:
            return self._grant(app_id, values)

        decided = decision.decide(
            Asked(
                app_id,
                self._stores,
                self._caches,
                made_by if can_follow else None,
                grant,
                (*self._granted_from(app_id), *runtime_sources(self._settings)),
                self._parse,
            )
        )
        package, grants = decided.package, decided.grants
        arguments: list[str] = []
        for each in grants.directories:
            arguments += ["--preopen" if each.writable else "--preopen-ro", f"{each.host}::{each.guest}"]
        data = next((os.fspath(each.host) for each in grants.directories if each.guest == "/data"), None)
        # As the manifest has it: so is the list of installed apps, with which it is compared.
        facts = Facts(
            package.manifest.version,
            package=_shown(package.directory),
            data=_shown(data),
            has_ui=package.manifest.ui_entry is not None,
        )
        plan = None if decided.plan is None else decided.plan.prepared()
        found = Launchable(
            program, tuple(arguments), grants.notice, facts, plan, decided.code
        )  # fmt: skip
        if decided.sources is not None:
            self._remembered[app_id] = _Remembered(found, decided.sources, made_by)
            while len(self._remembered) > REMEMBERED_MAX:
                self._remembered.popitem(last=False)
        return found

    def _grant(self, app_id: AppId, values: Manifest) -> Grants:
        def data() -> Path:
            return capabilities.data_directory(self._places.data_root, app_id)

        try:
            return capabilities.resolve(values.capabilities, data, self._places.home)
        except WeftError as error:
            raise CapabilityRefused(error) from None

    def _granted_from(self, app_id: AppId) -> list[Source]:
        """What the directories depend on that an app is granted."""
        names: list[Source] = []
        if (root := self._places.data_root) is not None:
            names += [(PLACE, os.fsencode(root)), (STEP, os.fsencode(root / app_id))]
        if (home := self._places.home) is not None:
            names.append((PLACE, os.fsencode(home / capabilities.DOCUMENTS)))
        return names


def _is_native(environ: Mapping[str, str]) -> bool:
    try:
        return settings.runtime_settings(environ).engine is EngineKind.NATIVE
    except WeftError:
        return False  # each session says what is wrong


def _shown(path: str | Path | None) -> str | None:
    """For a message, which is UTF-8 whatever the path is."""
    return None if path is None else printable(paths.shown(path))
