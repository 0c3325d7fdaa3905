# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.decision: when there is a plan, what is in it, and that it never outlives what it was made of."""

import hashlib
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packages import APP_ID, manifest
from tests.unit.needs import missing, tool
from weft_runtime import capabilities, code_cache, decision, signature, tree, trust
from weft_runtime.capabilities import Grants
from weft_runtime.code_cache import Caches, Key
from weft_runtime.decision import Asked, Decision
from weft_runtime.errors import Problem, WeftError
from weft_runtime.ids import AppId
from weft_runtime.integrity import SETTLED_NS
from weft_runtime.limits import MEMORY
from weft_runtime.manifest import Manifest
from weft_runtime.pack import signing
from weft_runtime.pack.screen import Screen
from weft_runtime.sources import FILE, NAME, PLACE, SOURCES_MAX, STEP, WRITABLE, Source, Sources
from weft_runtime.trust import Places

ENGINE = hashlib.sha256(b"an engine").digest()
CODE = b"machine code" * 100
MODULE = b"\0asm\1\0\0\0"
STRANGER = 54321

MANIFEST = manifest(
    module="bin/app.wasm",
    runtime='ready = "guest"\nargs = ["-v", "ü"]\nenv = {LANG = "C", EMPTY = ""}',
).replace("[runtime]", 'capabilities = ["fs:rw:app-data", "fs:read:xdg-documents"]\n[runtime]')


class Device:
    """Two stores with a package in the second one, its code, its data, and root's word on trust."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stores: tuple[Path, ...] = (directory / "first", directory / "second")
        self.package = self.stores[1] / APP_ID
        (self.package / "ui").mkdir(parents=True)
        (self.package / "bin").mkdir()
        self.stores[0].mkdir()
        (self.package / "ui/index.html").touch()
        self.module = self.package / "bin/app.wasm"
        self.module.write_bytes(MODULE)
        (self.package / "wapp.toml").write_text(MANIFEST)
        self.caches = Caches(directory / "system", directory / "own")
        self.data, self.home = directory / "data", directory / "home"
        (self.home / "Documents").mkdir(parents=True)
        keys, self.revoked, self.records = directory / "keys", directory / "revoked", directory / "records"
        keys.mkdir()
        self.revoked.mkdir()
        self.config = directory / "pack.toml"
        self.places = Places(self.config, [keys], [self.records], os.geteuid(), self.revoked)
        self.settle()
        self.keep()
        self.settle()

    def settle(self) -> None:
        """Wait until what was changed just now cannot be changed again without a trace."""
        time.sleep(2 * SETTLED_NS / 1e9)

    def keep(self) -> None:
        """Put the module's code into the reader's own cache."""
        sealed = os.memfd_create("code")
        module = os.open(self.module, os.O_RDONLY)
        try:
            key = Key(ENGINE, hashlib.sha256(self.module.read_bytes()).digest())
            os.write(sealed, CODE + code_cache.trailer(CODE, key))
            assert self.caches.own is not None
            os.close(code_cache.keep(self.caches.own, code_cache.find(self.caches, module, ENGINE), sealed))
        finally:
            os.close(sealed)
            os.close(module)

    def require(self) -> None:
        """Have root require signatures, sign the package, and have that remembered."""
        key = self.directory / "key"
        key.mkdir()
        signing.generate_key(Screen({}), key)
        private = key / signing.PRIVATE_NAME
        shutil.copy(private.with_suffix(".pub"), self.directory / "keys/ours.pub")
        self.config.write_text('policy = "require"\n')
        for path in (self.config, self.directory / "keys/ours.pub"):
            path.chmod(0o644)
        signing.sign(Screen({}), self.package, private)
        keys, content = trust.trusted_keys(self.places), signature.read(self.package)
        trust.remember(self.package, content, "ours", keys, self.places, wait=True)
        self.settle()

    def asked(self) -> Asked:
        def data() -> Path:
            return capabilities.data_directory(self.data, AppId(APP_ID))

        def grant(values: Manifest) -> Grants:
            return capabilities.resolve(values.capabilities, data, self.home)

        granted_from: tuple[Source, ...] = (
            (PLACE, os.fsencode(self.data)), (STEP, os.fsencode(self.data / APP_ID)),
            (PLACE, os.fsencode(self.home / "Documents")),
        )  # fmt: skip
        return Asked(
            AppId(APP_ID), self.stores, self.caches, ENGINE, grant, granted_from, places=self.places
        )

    def decide(self) -> Decision:
        return decision.decide(self.asked())

    def sources(self) -> Sources:
        """Those of a decision that may be remembered."""
        self.decide()  # which makes the data directory
        decided = self.decide()
        assert decided.sources is not None, decided.why
        return decided.sources


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


@pytest.fixture
def strict(tmp_path: Path) -> Device:
    """One whose policy is `require`."""
    device = Device(tmp_path)
    device.require()
    return device


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def why(device: Device) -> str:
    decided = device.decide()
    assert (decided.plan, decided.code, decided.sources) == (None, None, None)
    return decided.why


def test_a_plan_says_all_that_a_session_is_given(device: Device) -> None:
    plan = device.decide().plan
    assert plan is not None
    assert (plan.app_id, plan.session_id, plan.command) == (APP_ID.encode(), b"", ())
    assert plan.argv == (b"app.wasm", b"-v", "ü".encode())
    assert plan.environment == ((b"LANG", b"C"), (b"EMPTY", b""))
    assert plan.preopens == (
        (os.fsencode(device.data / APP_ID), b"/data", True),
        (os.fsencode(device.home / "Documents"), b"/xdg/documents", False),
    )
    assert (plan.ready, plan.memory) == (b"guest", MEMORY.value)
    assert (plan.version, plan.package) == (b"1.2.3", os.fsencode(device.package))
    assert plan.module == os.fsencode(device.module)


def test_its_code_is_that_of_the_cache(device: Device) -> None:
    code = device.decide().code
    assert code is not None
    fd = code.open()
    assert fd is not None
    assert os.pread(fd, len(CODE), 0) == CODE
    os.close(fd)


def test_code_that_has_become_another_file_is_not_opened(device: Device) -> None:
    code = device.decide().code
    assert code is not None
    path = Path(os.fsdecode(code.path))
    copy = path.with_name("copy")
    shutil.copy2(path, copy)
    copy.replace(path)
    assert code.open() is None


def test_nothing_stays_open(device: Device) -> None:
    before = descriptors()
    device.decide()
    device.caches.own.rename(device.directory / "gone")  # type: ignore[union-attr]
    device.decide()
    file = device.package / "wapp.toml"
    file.write_text(file.read_text().replace("fs:rw:app-data", "unknown"))
    with pytest.raises(WeftError):
        device.decide()
    assert descriptors() == before


def test_what_cannot_be_launched_is_refused_as_ever(device: Device) -> None:
    device.module.unlink()
    with pytest.raises(WeftError) as caught:
        device.decide()
    assert caught.value.problem is Problem.MODULE_NOT_FOUND


def test_there_is_no_plan_without_known_code(device: Device) -> None:
    with device.module.open("ab") as module:
        module.write(b"\0\1\0")
    assert why(device) == "its code is not known"


def test_there_is_no_plan_for_what_must_not_be_used(device: Device) -> None:
    assert device.caches.own is not None
    (entry,) = (device.caches.own / "code").glob("*.code")
    entry.chmod(0o666)
    assert why(device) == "its code is not known"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (f'id = "{APP_ID}"', 'id = "org.example.other"', "the manifest has another id"),
        ('module = "bin/app.wasm"', 'module = "link.wasm"', "a file of the package is a link"),
        ('module = "bin/app.wasm"', 'module = "text.wasm"', "the module is no core module"),
    ],
)
def test_there_is_no_plan_for_what_has_to_be_told(device: Device, old: str, new: str, reason: str) -> None:
    (device.package / "link.wasm").symlink_to("bin/app.wasm")
    (device.package / "text.wasm").write_text("(module)")
    file = device.package / "wapp.toml"
    file.write_text(file.read_text().replace(old, new))
    assert why(device) == reason


@pytest.mark.parametrize("text", ['policy = "perhaps"', "policy", 'policy = "require"'])
def test_there_is_no_plan_where_the_policy_does_not_let_it_pass(device: Device, text: str) -> None:
    device.config.write_text(text)
    device.config.chmod(0o644)
    assert why(device)


@pytest.mark.parametrize("name", [b"a::b", b"\xff"])
def test_there_is_no_plan_for_a_directory_that_has_no_name_on_a_command_line(
    device: Device, name: bytes
) -> None:
    device.home = device.home.rename(device.directory / os.fsdecode(name))
    assert why(device) == "a directory cannot be named on a command line"


def test_there_is_a_plan_where_a_signature_is_required_and_known(strict: Device) -> None:
    assert strict.decide().plan is not None
    strict.records.rename(strict.directory / "gone")
    assert why(strict) == "what its signature says is not known"


def test_what_was_verified_is_the_file_that_is_open(strict: Device) -> None:
    module, other = (os.open(path, os.O_RDONLY) for path in (strict.module, strict.package / "wapp.toml"))
    found = [trust.recall(strict.package, fd, "bin/app.wasm", strict.places) for fd in (module, other)]
    assert [sources is None for sources in found] == [False, True]
    os.close(module)
    os.close(other)


def test_a_package_that_was_changed_just_now_is_planned_for_but_not_remembered(device: Device) -> None:
    device.sources()
    os.utime(device.package / "wapp.toml")
    decided = device.decide()
    assert decided.plan is not None
    assert decided.sources is None


def test_what_is_changed_while_it_is_decided_is_not_remembered(device: Device) -> None:
    """Though the plan is the same: it may be by what was there before, or by what is there now."""
    device.sources()
    asked, calls = device.asked(), 0

    def grant(values: Manifest) -> Grants:
        nonlocal calls
        calls += 1
        if calls == 2:
            os.utime(device.package / "wapp.toml")
        return asked.grant(values)

    decided = decision.decide(asked._replace(grant=grant))
    assert (calls, decided.plan is None, decided.sources) == (2, False, None)


@pytest.mark.parametrize(
    ("files", "has_plan"), [(SOURCES_MAX // 2, True), (SOURCES_MAX - 10, True), (SOURCES_MAX, False)]
)
def test_a_package_of_many_files_is_not_remembered_where_all_of_them_count(
    strict: Device, files: int, has_plan: bool
) -> None:
    """Besides them there are the sources of every package: with these it can be too many to look at each time."""
    for number in range(files):
        (strict.package / f"{number}").touch()
    private = strict.directory / "key" / signing.PRIVATE_NAME
    signing.sign(Screen({}), strict.package, private)
    keys, content = trust.trusted_keys(strict.places), signature.read(strict.package)
    trust.remember(strict.package, content, "ours", keys, strict.places, wait=True)
    decided = strict.decide()
    assert (decided.plan is not None, decided.sources is not None) == (has_plan, files == SOURCES_MAX // 2)
    assert has_plan or decided.why == "what its signature says is not known"


def test_a_package_of_thousands_of_files_keeps_nobody_waiting(strict: Device) -> None:
    """Others wait for the decision: it looks at as many as may count, and not at the rest."""
    for number in range(5000):
        (strict.package / "ui" / f"{number}").touch()

    def seconds(what: Callable[[], object]) -> float:
        begun = time.thread_time()
        what()
        return time.thread_time() - begun

    looking = min(seconds(lambda: list(tree.walk(strict.package))) for _ in range(5))
    assert min(seconds(strict.decide) for _ in range(5)) < looking / 10


def test_a_relative_path_is_not_remembered(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    device.sources()
    monkeypatch.chdir(device.directory)
    device.stores = (Path("second"),)
    decided = device.decide()
    assert decided.plan is not None
    assert decided.sources is None


# Each change is done to each source; what a change does not fit is left out.


def _beside(path: Path) -> Path:
    """A name that nothing has."""
    return path.with_name(f"{path.name}-{time.monotonic_ns()}")


def _append(path: Path) -> None:
    if path.is_file():
        with path.open("ab") as file:
            file.write(b"\n")


def _same_size(path: Path) -> None:
    """Another content of the same size, with the time of its change set back."""
    if path.is_file() and (data := path.read_bytes()):
        before = path.stat()
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _mode(path: Path) -> None:
    path.chmod(path.stat().st_mode ^ 0o020)


def _owner(path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, STRANGER + (path.stat().st_uid == STRANGER), -1)


def _group(path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, -1, STRANGER + (path.stat().st_gid == STRANGER))


def _acl(path: Path) -> None:
    """Let somebody else write, or not any more, by an access control list (acl(5), <linux/posix_acl_xattr.h>)."""
    mode = path.stat().st_mode
    mask = (mode >> 3) ^ 2
    entries = [(0x01, mode >> 6, -1), (0x02, 7, STRANGER), (0x04, 5, -1), (0x10, mask, -1), (0x20, mode, -1)]
    data = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHi", tag, bits & 7, who) for tag, bits, who in entries
    )
    os.setxattr(path, "system.posix_acl_access", data)


def _second_name(path: Path) -> None:
    if path.is_file():
        os.link(path, _beside(path))


def _copy_over(path: Path) -> None:
    """The same content in another file or directory, with the same times, owner and mode."""
    copy = _beside(path)
    if path.is_dir():
        shutil.copytree(path, copy, symlinks=True)
        path.rename(_beside(path))
    else:
        shutil.copy2(path, copy)
    copy.rename(path)


def _link(path: Path) -> None:
    """A link to what was there."""
    aside = _beside(path)
    path.rename(aside)
    path.symlink_to(aside)


def _remove(path: Path) -> None:
    path.rename(_beside(path))


CHANGES: dict[str, Callable[[Path], None]] = {
    "append": _append, "same size": _same_size, "mode": _mode, "owner": _owner, "group": _group, "acl": _acl,
    "second name": _second_name, "copy over": _copy_over, "link": _link, "remove": _remove,
}  # fmt: skip


def _names(device: Device, sources: Sources) -> list[Source]:
    """The sources that a test may change, and that are there."""
    return [
        (kind, path)
        for kind, path in sources.names
        if path.startswith(os.fsencode(device.directory) + b"/") and os.path.lexists(path)
    ]


@pytest.mark.parametrize("change", CHANGES)
def test_a_plan_is_dropped_whatever_is_changed_of_what_it_was_made_of(strict: Device, change: str) -> None:
    before = strict.sources()
    names = _names(strict, before)
    assert {kind for kind, _ in names} == {FILE, NAME, PLACE, STEP, WRITABLE}
    done = 0
    # The deepest first: what is above them is moved away by some changes.
    for kind, name in sorted(names, key=lambda source: -source[1].count(b"/")):
        path = Path(os.fsdecode(name))
        if not os.path.lexists(path):
            continue
        strict.settle()
        before_this, state = Sources(((kind, name),)), Sources(((NAME, name),))
        CHANGES[change](path)
        # A link to a directory is as good as the directory where links are followed to it.
        if not state.are_unchanged() and not (change == "link" and kind in (FILE, PLACE, WRITABLE)):
            assert not before_this.are_unchanged(), (change, kind, path)
            done += 1
    assert done or os.geteuid() != 0
    assert not before.are_unchanged()


def test_a_plan_is_dropped_when_something_is_there_that_was_not(device: Device) -> None:
    sources = device.sources()
    absent = [
        Path(os.fsdecode(path))
        for _, path in sources.names
        if path.startswith(os.fsencode(device.directory)) and not os.path.lexists(path)
    ]
    assert device.config in absent
    assert device.stores[0] / APP_ID / "wapp.toml" in absent
    for path in sorted(absent, key=lambda path: len(path.parts)):
        path.parent.mkdir(exist_ok=True)
        before = Sources(sources.names)
        if any(path in other.parents for other in absent):
            path.mkdir()
        else:
            path.touch()
        assert not before.are_unchanged(), path


@pytest.mark.parametrize("name", ["bin", "ui", "wapp.toml", "bin/app.wasm", "ui/index.html", "."])
def test_a_plan_is_dropped_when_a_part_of_the_package_is_elsewhere(device: Device, name: str) -> None:
    """It is the same file, and a link to it; but one out of the package is refused."""
    sources = device.sources()
    part = device.package / name
    moved = part.rename(device.directory / "elsewhere")
    assert not sources.are_unchanged()
    part.symlink_to(moved)
    # The directory of the package itself may be anywhere.
    assert sources.are_unchanged() is (name == ".")
    if name != ".":
        with pytest.raises(WeftError):
            device.decide()


def test_a_plan_is_dropped_when_a_file_of_a_signed_package_is_added(strict: Device) -> None:
    sources = strict.sources()
    (strict.package / "ui/more").touch()
    assert not sources.are_unchanged()


def test_a_plan_is_dropped_when_a_key_is_revoked(strict: Device) -> None:
    sources = strict.sources()
    shutil.copy(strict.directory / "keys/ours.pub", strict.revoked / "lost.pub")
    assert not sources.are_unchanged()
    assert why(strict)


def test_a_plan_is_dropped_when_something_is_mounted_over_what_it_was_made_of(strict: Device) -> None:
    if os.geteuid() != 0:
        missing("only root can mount")
    sources = strict.sources()
    other_file, other_directory = strict.directory / "file", strict.directory / "directory"
    other_file.touch()
    other_directory.mkdir()
    looked = "import sys; from weft_runtime.sources import Sources; print(Sources.decode(sys.stdin.buffer.read()).are_unchanged())"
    script = 'test -z "$2" || mount --bind "$1" "$2" || exit 9; exec "$3" -c "$4"'
    command = [tool("unshare", "util-linux"), "--mount", "sh", "-c", script, "sh"]
    for path in (None, *(Path(os.fsdecode(name)) for _, name in _names(strict, sources))):
        other = other_directory if path is not None and path.is_dir() else other_file
        argv = [*command, os.fspath(other), os.fspath(path or ""), sys.executable, looked]
        done = subprocess.run(argv, input=sources.encode(), capture_output=True, check=True)
        assert done.stdout.strip() == str(path is None).encode(), path


def test_a_plan_is_dropped_when_the_file_system_of_the_data_becomes_read_only(device: Device) -> None:
    """It is the same directory with the same mode."""
    if os.geteuid() != 0:
        missing("only root can mount")
    sources = device.sources()
    looked = "import sys; from weft_runtime.sources import Sources; print(Sources.decode(sys.stdin.buffer.read()).are_unchanged())"
    script = 'mount --bind "$1" "$1" && mount -o "remount,bind,$2" "$1" && exec "$3" -c "$4"'
    command = [
        tool("unshare", "util-linux"),
        "--mount",
        "sh",
        "-c",
        script,
        "sh",
        os.fspath(device.data / APP_ID),
    ]
    for option in ("rw", "ro"):
        argv = [*command, option, sys.executable, looked]
        done = subprocess.run(argv, input=sources.encode(), capture_output=True, check=True)
        assert done.stdout.strip() == str(option == "rw").encode(), option


def test_a_file_is_settled_later_where_a_file_system_keeps_whole_seconds(tmp_path: Path) -> None:
    """It can be changed again within the second, and looks as it did."""
    if os.geteuid() != 0:
        missing("only root can mount")
    image, place = tmp_path / "image", tmp_path / "place"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(4 << 20)
    subprocess.run(
        [tool("mkfs.ext4", "e2fsprogs"), "-q", "-I", "128", image], capture_output=True, check=True
    )
    subprocess.run([tool("mount", "mount"), "-o", "loop", image, place], check=True)
    try:
        path = place / "file"
        name = NAME, os.fsencode(path)
        time.sleep(1 - time.time() % 1)
        path.write_bytes(b"one")
        time.sleep(2 * SETTLED_NS / 1e9)
        sources = Sources((name,))
        _same_size(path)
        assert not (sources.are_settled and sources.are_unchanged())
        deadline = time.monotonic() + 30
        while not Sources((name,)).are_settled:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        subprocess.run(["umount", place], check=True)


def test_all_that_a_decision_opens_is_among_its_sources(strict: Device, tmp_path: Path) -> None:
    """So that nothing is read whose change would not be noticed."""
    names = strict.sources().names
    opened: list[str] = []

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if is_on and event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], str | bytes):
            opened.append(os.fsdecode(arguments[0]))

    is_on = True
    sys.addaudithook(hook)
    strict.decide()
    is_on = False
    known = {os.fsdecode(path) for _, path in names}
    known |= {Path(path).name for path in known}  # what is opened in an open directory
    ours = {path for path in opened if not path.startswith("/") or path.startswith(os.fspath(tmp_path))}
    # What was verified, and is remembered, is asked only whether it is what is there now.
    records = {path for path in ours if path.startswith(os.fspath(strict.records))}
    assert ours - records <= known
    assert len(ours) > 10


def test_sources_have_one_encoding(device: Device) -> None:
    sources = device.sources()
    data = sources.encode()
    assert Sources.decode(data) == sources
    assert Sources.decode(data).are_unchanged()
    for wrong in (
        data * SOURCES_MAX,
        data[:-1],
        b"x" + data,
        data + b"x",
        data.replace(b"file", b"fool"),
        data.replace(b"\0/", b"\0", 1),
    ):
        with pytest.raises(ValueError):  # noqa: PT011 - whatever int() says
            Sources.decode(wrong)
