# SPDX-License-Identifier: Apache-2.0
"""Manifests that are parsed already: reading one again takes longer than to see that it is the same."""

import os
import time
from collections import OrderedDict

from weft_runtime import store
from weft_runtime.integrity import SETTLED_NS, Identity
from weft_runtime.manifest import Manifest

REMEMBERED_MAX = 256
"""Manifests that are remembered: more apps than a device has in use."""


class Manifests:
    """What `store.parse_file` has said of each file, as long as the file is the same."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[Identity, Manifest]] = OrderedDict()

    def parse(self, fd: int, source: str) -> Manifest:
        """The same as `store.parse_file`, and raises the same: what is wrong is not remembered."""
        identity = Identity.of(os.fstat(fd))
        known = self._known.get(source)
        if known is not None and known[0] == identity:
            self._known.move_to_end(source)
            return known[1]
        begun = time.time_ns()
        values = store.parse_file(fd, source)
        self._known.pop(source, None)
        # Changed a moment ago, it may change again without a trace.
        if begun - identity.changed >= SETTLED_NS:
            self._known[source] = identity, values
            if len(self._known) > REMEMBERED_MAX:
                self._known.popitem(last=False)
        return values
