# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a device that runs apps: one function a question, by the noun that it is about.

The causes come before what follows from them, so that their commands mend it in this order.
"""

from collections.abc import Callable, Mapping

from weft_runtime.ctl.checks import daemon, journal, packages, settings, storage, trust, units, users
from weft_runtime.ctl.finding import Finding
from weft_runtime.ctl.scene import Scene

Check = Callable[[Scene], list[Finding]]

CHECKS: Mapping[str, Check] = {
    "versions": daemon.versions,
    "users": users.users,
    "settings": settings.settings,
    "engine": daemon.engine,
    "service": units.service,
    "boot": units.boot,
    "socket": daemon.socket,
    "group": users.group,
    "websocket": units.websocket,
    "directories": storage.directories,
    "disks": storage.disks,
    "data": storage.data,
    "trust": trust.trust,
    "packages": packages.packages,
    "code": packages.code,
    "apps": units.apps,
    "restore": daemon.restore,
    "launches": daemon.launches,
    "controllers": daemon.controllers,
    "journal": journal.journal,
    "view": users.view,
}
