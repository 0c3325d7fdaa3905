# SPDX-License-Identifier: Apache-2.0
"""What has to be known before an app can be launched: the number of the session, and the app's manifest."""

import asyncio
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from weft_runtime.appd.launcher import Refused
from weft_runtime.appd.numbers import NotNumbered, Numbers
from weft_runtime.appd.packages import Packages
from weft_runtime.errors import WeftError
from weft_runtime.escape import quote
from weft_runtime.manifests import NotRemembered, Reading
from weft_runtime.protocol import ErrorCode

READINGS_MAX = 3
"""Times that a launch reads a manifest that changes before it is used."""

T = TypeVar("T")

Needed = Generator["asyncio.Future[Any]", None, T]
"""What has to be waited for, one after the other."""


def when_known(
    launch: Callable[[Reading | None], T],
    packages: Packages,
    numbers: Numbers,
    missing: NotRemembered | NotNumbered | None = None,
) -> Needed[T]:
    """What `launch` returns once it does not raise NotNumbered or NotRemembered any more.

    It is called with the manifest that it has asked for, and at once unless something is known to be `missing`. Raises
    what it raises, and Refused where the manifest changes all the time.
    """
    reading, readings = None, 0
    while True:
        if isinstance(missing, NotNumbered):
            yield numbers.more()
        elif missing is not None:
            readings += 1
            if readings > READINGS_MAX:
                message = f"the manifest of {quote(missing.directory.name)} changes all the time"
                raise Refused(ErrorCode.PACKAGE_INVALID, message)
            future = packages.read(missing.directory)
            yield future
            try:
                reading = future.result()
            except WeftError:
                reading = None  # the launch says what is wrong
        try:
            return launch(reading)
        except (NotRemembered, NotNumbered) as other:
            missing = other


async def wait_for(needed: Needed[T]) -> T:
    """What comes of it, in a task of its own."""
    while True:
        try:
            future = next(needed)
        except StopIteration as end:
            result: T = end.value
            return result
        await asyncio.wait([future])
