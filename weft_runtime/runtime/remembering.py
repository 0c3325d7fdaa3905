# SPDX-License-Identifier: Apache-2.0
"""Leaving a plan for the next run like this one, which then decides nothing (thin/alone.py)."""

import os
from collections.abc import Sequence
from pathlib import Path

import weft_runtime
from weft_runtime import code_cache, decision, remembered, settings
from weft_runtime.capabilities import Grants
from weft_runtime.decision import Asked
from weft_runtime.errors import WeftError
from weft_runtime.manifest import Manifest
from weft_runtime.manifests import Manifests
from weft_runtime.remembered import Remembered
from weft_runtime.runtime import service
from weft_runtime.runtime.app import CodeSettings
from weft_runtime.runtime.arguments import Arguments
from weft_runtime.runtime.engine import compatibility
from weft_runtime.settings import EngineKind
from weft_runtime.sources import NAME, Source


def leave(argv: Sequence[str], options: Arguments, stores: Sequence[Path], code: CodeSettings) -> None:
    """Leave a plan for runs with the command line `argv` in this environment, if they are of the usual kind.

    Where there can be none, nothing is said: the next run is as this one.
    """
    wanted = remembered.wanted(argv, os.environ)
    if wanted is None or code.caches is None or code.engine is not EngineKind.NATIVE:
        return
    places, is_service = settings.service_settings(), options.session_id is None

    def grant(values: Manifest) -> Grants:
        return service.grants(values, places) if is_service else Grants((), ())

    asked = Asked(
        options.app_id,
        stores,
        code.caches,
        compatibility(code.engine),
        grant,
        (*_ourselves(), *(service.granted_from(places) if is_service else ())),
        Manifests().parse,
        judges_way=True,
    )
    try:
        decided = decision.decide(asked)
        if decided.plan is None or decided.code is None or decided.sources is None:
            return
        notice = (decided.grants.notice or "").encode()
        data = Remembered(decided.plan, decided.code, notice, decided.sources).encode(wanted)
    except (WeftError, ValueError):
        return
    code_cache.put(Path(wanted.cache), wanted.file_name, data)


def _ourselves() -> list[Source]:
    """What a plan may mean something else by when it has changed."""
    ours = os.fsencode(Path(weft_runtime.__file__).parent)
    # The time of a directory changes when one of its files is replaced, as by dpkg and pip.
    return [(NAME, ours), (NAME, ours + b"/thin")]
