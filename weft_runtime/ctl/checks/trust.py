# SPDX-License-Identifier: Apache-2.0
"""The policy for packages, the keys behind it, and the packages that it keeps from starting."""

import os
import re
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from weft_runtime import policy, store
from weft_runtime import trust as keys
from weft_runtime.ctl.checks.packages import remove
from weft_runtime.ctl.finding import Finding, note, ok, problem
from weft_runtime.ctl.scene import Scene
from weft_runtime.errors import WeftError
from weft_runtime.escape import printable
from weft_runtime.integrity import unsafe
from weft_runtime.plural import counted
from weft_runtime.policy import Policy
from weft_runtime.trust import KEY_SUFFIX, Places

_NOTHING = "no package is installed, and no app starts"
_ALL_REVOKED = f"no key is trusted: {_NOTHING} where a signature is required"


def trust(scene: Scene) -> list[Finding]:
    places = Places()
    found = scene.as_daemon(lambda: _look(scene, places))
    return found + scene.as_services(lambda view: _look(view, places), found)


def _look(scene: Scene, places: Places) -> list[Finding]:
    found = [*_config(scene, places), *_revoked(scene, places), *_trusted(scene, places)]
    try:
        rule = policy.read(places.config, owner=places.owner)
        trusted = keys.trusted_keys(places)
    except WeftError as error:
        if not found and not scene.sees_all:
            return [ok(f"not known: {error.message}")]
        return found or [problem(error.message, _NOTHING, f"ls -ld {shlex.quote(str(places.config))}")]
    text = (
        f"policy '{rule}', {counted(len(trusted.by_value), 'trusted key')}, {len(trusted.revoked)} revoked"
    )
    if rule is Policy.REQUIRE:
        found += _refused(scene, places, trusted)
    return found or [ok(text)]


def _config(scene: Scene, places: Places) -> list[Finding]:
    """What is wrong with pack.toml."""
    path = shlex.quote(str(places.config))
    try:
        policy.read(places.config, owner=places.owner)
        return []
    except WeftError as error:
        what = error.message
    if _is_hidden(scene, places.config):
        return []
    try:
        status = places.config.stat()
    except OSError:
        return [problem(what, _NOTHING, f"chmod 755 {shlex.quote(str(_closed(places.config)))}")]
    if status.st_uid != places.owner or status.st_mode & 0o022 or not status.st_mode & stat.S_IROTH:
        why = f"{_NOTHING}; look at what is in it, for others could have written it"
        if not status.st_mode & 0o022 and status.st_uid == places.owner:
            why = f"{_NOTHING}; its mode is {stat.S_IMODE(status.st_mode):o}"
        if stat.S_ISREG(status.st_mode):
            return [problem(what, why, f"chown root:root {path} && chmod 644 {path}")]
    if not stat.S_ISREG(status.st_mode):
        return [problem(what, _NOTHING, f"mv {path} {path}.wrong")]
    try:
        text = places.config.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return [problem(what, _NOTHING, f"chmod 644 {path}")]
    # What the operator seems to have meant; never less than that.
    meant = re.search(r"^\s*[^#]*\b(req\w*|off)\b", text, re.MULTILINE | re.IGNORECASE)
    rule = Policy.WARN if meant is None else Policy.OFF if meant[1].lower() == "off" else Policy.REQUIRE
    return [problem(what, _NOTHING, f"echo 'policy = \"{rule}\"' >{path}")]


def _revoked(scene: Scene, places: Places) -> list[Finding]:
    """Files that keep all keys from being trusted: whoever cannot know which are revoked trusts none."""
    directory = places.revoked
    if os.path.lexists(directory) and not os.path.exists(directory):
        return [
            problem(f"{directory} is a link to nothing", _ALL_REVOKED, f"rm {shlex.quote(str(directory))}")
        ]
    found = _directory(scene, directory, places, _ALL_REVOKED)
    for path in _files(directory):
        try:
            keys.read_key(path, places.owner, may_be_empty=False)
        except WeftError as error:
            if not _is_hidden(scene, path):
                found.append(problem(error.message, _ALL_REVOKED, _mend(path, places)))
    return found


def _trusted(scene: Scene, places: Places) -> list[Finding]:
    found = []
    try:
        revoked = keys.revoked_keys(places)
    except WeftError:
        revoked = {}
    for directory in places.keys:
        found += _directory(scene, directory, places, "none of the keys in it is trusted")
        for path in _files(directory):
            name = shlex.quote(str(path))
            if path.suffix != KEY_SUFFIX:
                what = f"{printable(str(path))} is passed over"
                found.append(
                    note(what, f"the name of a key ends in {KEY_SUFFIX}", f"mv {name} {name}{KEY_SUFFIX}")
                )
                continue
            try:
                key = keys.read_key(path, places.owner)
            except WeftError as error:
                if _is_hidden(scene, path):
                    continue
                why = "it is passed over, and what it was to trust is not trusted"
                found.append(problem(error.message, why, _mend(path, places)))
                continue
            if key in revoked:
                what = f"the key in {printable(str(path))} is revoked"
                found.append(note(what, f"by {printable(revoked[key])}", f"rm {name}"))
    return found


def _directory(scene: Scene, directory: Path, places: Places, why: str) -> list[Finding]:
    name = shlex.quote(str(directory))
    mend = f"chown root:root {name} && chmod 755 {name}"
    try:
        if complaint := unsafe(directory.stat(), places.owner, is_directory=True):
            if not directory.is_dir():
                mend = f"mv {name} {name}.wrong"
            return [problem(f"{directory} {complaint}", why, mend)]
        next(directory.iterdir(), None)
    except FileNotFoundError:
        return []
    except OSError as error:
        if _is_hidden(scene, directory, os.R_OK | os.X_OK):
            return []
        barrier = _closed(directory)
        mend = mend if barrier == directory else f"chmod 755 {shlex.quote(str(barrier))}"
        return [problem(f"{directory} cannot be read", f"{error.strerror}; {why}", mend)]
    return []


def _is_hidden(scene: Scene, path: Path, mode: int = os.R_OK) -> bool:
    """Whether whoever asks cannot read what the daemon's user can, and so knows nothing of it."""
    if scene.sees_all or os.access(path, mode):
        return False
    try:
        return scene.account is None or scene.account.barrier(path, mode) is None
    except OSError:
        return True


def _closed(path: Path) -> Path:
    """The directory that keeps whoever looks from what is at `path`; `path` if that is none of those above it."""
    for above in reversed(path.parents):
        if not os.access(above, os.X_OK):
            return above
    return path


def _files(directory: Path) -> Iterator[Path]:
    try:
        yield from sorted(directory.iterdir())
    except OSError:
        return


def _mend(path: Path, places: Places) -> str:
    """For a file of a key: its mode, if that is what is wrong, or else it is no key."""
    name = shlex.quote(str(path))
    try:
        status = path.stat()
    except PermissionError:
        return f"chmod 755 {shlex.quote(str(_closed(path)))}"
    except OSError:
        return f"rm {name}"  # a link to nothing
    if not stat.S_ISREG(status.st_mode):
        return f"rm -r {name}"
    if unsafe(status, places.owner) is not None or not status.st_mode & stat.S_IROTH:
        return f"chown root:root {name} && chmod 644 {name}"
    return f"rm {name}"


def _refused(scene: Scene, places: Places, trusted: keys.Keys) -> list[Finding]:
    """Packages without a signature by a trusted key, under a policy that demands one."""
    refused: list[tuple[str, Path, str]] = []
    total = 0
    for app_id in store.installed(scene.stores):
        total += 1
        directory = store.find(app_id, scene.stores)
        try:
            verdict = keys.judge(directory, trusted)
        except WeftError as error:
            refused.append((app_id, directory, f"cannot be verified: {error.message}"))
            continue
        if verdict.key is None:
            refused.append((app_id, directory, verdict.reason))
    anyhow = f"echo 'policy = \"{Policy.WARN}\"' >{shlex.quote(str(places.config))}"
    if total and len(refused) == total:
        first = (
            "no key is trusted"
            if not trusted.by_value
            else f"none of {counted(total, 'app')} is signed by a trusted key"
        )
        why = f"no app starts; put a key into {places.keys[0]} and install what is signed by it, or demand no signature"
        return [problem(f"policy '{Policy.REQUIRE}', and {first}", why, anyhow), *map(_of_one, refused)]
    if not trusted.by_value:
        what = f"policy '{Policy.REQUIRE}', and no key is trusted"
        return [
            problem(
                what, f"no app can start; put a key into {places.keys[0]}, or demand no signature", anyhow
            )
        ]
    return [*map(_of_one, refused)]


def _of_one(refused: tuple[str, Path, str]) -> Finding:
    app_id, directory, reason = refused
    what, why = f"{app_id} {reason}", f"it does not start: the policy is '{Policy.REQUIRE}'"
    if "chang" in reason or "revoked" in reason or "valid signature" in reason:
        why += "; install it again from where it came"
    if directory.parent != Path("/usr/share/weft/apps"):
        return problem(what, why, remove(app_id, directory.parent))
    # Examples, and what other packages bring: not everything that is there is meant to run.
    return note(what, why, f"weft-pack verify {shlex.quote(str(directory))} --key KEY.pub")
