# SPDX-License-Identifier: Apache-2.0
"""Tests of install, upgrade, rollback, uninstall and list on a store of their own."""

import argparse
import ctypes
import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command.harness import eventually
from tests.pack import trees
from tests.packages import APP_ID
from weft_runtime import versions
from weft_runtime.errors import Problem, WeftError
from weft_runtime.ids import APP_ID_MAX, AppId
from weft_runtime.pack import archive, check, files, install, signing, storage
from weft_runtime.pack.screen import Screen
from weft_runtime.policy import Policy
from weft_runtime.trust import Places

APP = AppId.parse(APP_ID)
SCREEN = Screen({})
MAIN = (sys.executable, "-m", "weft_runtime.pack.main")


class Device:
    """A store, and sources to install from; no key is trusted, and nobody requires one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = directory / "store"
        self.live = self.store / APP_ID
        self.environ = {"WEFT_APP_STORE": str(self.store), "WEFT_APPD_SOCKET": str(directory / "none")}
        self.keys = directory / "keys"
        self.places = Places(
            directory / "pack.toml",
            [self.keys],
            [directory / "records"],
            os.geteuid(),
            directory / "revoked",
        )

    def source(self, version: str) -> Path:
        path = self.directory / f"source-{version}"
        return path if path.exists() else trees.make(path, version)

    def install(self, source: Path | str, *, force: bool = False, rollback: bool = False) -> None:
        options = argparse.Namespace(source=str(source), user=False, force=force, rollback=rollback)
        assert install.install(SCREEN, self.environ, options, self.places) == 0

    def uninstall(self, *, force: bool = False, purge: bool = False, **environ: str) -> None:
        options = argparse.Namespace(app=APP, user=False, force=force, purge=purge, json=False)
        assert install.uninstall(SCREEN, {**self.environ, **environ}, options, self.places) == 0

    def refusal(self, problem: Problem, source: Path | str, *, rollback: bool = False) -> str:
        """What install says; the store must be as it was, but for its lock."""
        before = trees.content(self.store)
        with pytest.raises(WeftError) as caught:
            self.install(source, rollback=rollback)
        after = trees.content(self.store)
        after.pop(".lock", None)
        before.pop(".lock", None)
        assert (caught.value.problem, after) == (problem, before)
        return str(caught.value)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.store.iterdir() if path.name != ".lock")


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_a_directory_is_installed(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    device.install(device.source("1.0.0"))
    assert capsys.readouterr().out == f"installed {APP_ID} -> {device.live}\n"
    assert trees.content(device.live) == trees.content(device.source("1.0.0"))
    assert device.names() == [APP_ID]
    assert (device.live.stat().st_mode & 0o777, (device.store / ".lock").stat().st_mode & 0o777) == (
        0o755,
        0o600,
    )


def test_an_archive_is_installed(device: Device) -> None:
    archive.bundle(SCREEN, device.source("1.0.0"), device.directory)
    device.install(device.directory / f"{APP_ID}.app.tar.zst")
    assert trees.content(device.live) == trees.content(device.source("1.0.0"))


def test_an_archive_must_have_the_name_of_what_is_in_it(device: Device) -> None:
    archive.bundle(SCREEN, device.source("1.0.0"), device.directory)
    other = device.directory / "org.example.other.app.tar.zst"
    (device.directory / f"{APP_ID}.app.tar.zst").rename(other)
    assert device.refusal(Problem.PACKAGE_INVALID, other) == (
        f"'{other}' has the top directory '{APP_ID}': expected 'org.example.other'"
    )


@pytest.mark.parametrize("name", ["x.tar", "x.zip", "app.tar.zst", "Bad.app.tar.zst"])
def test_what_has_another_name_is_no_archive(name: str, device: Device) -> None:
    (device.directory / name).touch()
    device.refusal(Problem.USAGE, device.directory / name)


def test_what_is_not_there_is_not_installed(device: Device) -> None:
    assert device.refusal(Problem.PACKAGE_NOT_FOUND, "/nowhere") == "there is no '/nowhere'"


def test_a_package_with_something_wrong_is_not_installed(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    source = device.source("1.0.0")
    (source / "ui/index.html").unlink()
    message = device.refusal(Problem.PACKAGE_INVALID, source)
    assert message == f"'{source}' is not installed: one thing is wrong with it"
    assert "wapp.toml:" in capsys.readouterr().err


def test_a_capability_without_effect_is_noted_and_the_package_installed(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    source = device.source("1.0.0")
    toml = trees.manifest("1.0.0").replace("[runtime]", 'capabilities = ["net:fetch:*"]\n[runtime]')
    (source / "wapp.toml").write_text(toml)
    archive.bundle(SCREEN, source, device.directory)
    device.install(device.directory / f"{APP_ID}.app.tar.zst")
    shown = capsys.readouterr().err.splitlines()
    note = "wapp.toml:5: note: package.capabilities[0] 'net:fetch:*' has no effect, since this release does not serve it"
    assert f"{note}: the app has no network" in shown


def test_an_app_without_a_face_is_bundled_signed_and_installed(device: Device) -> None:
    source = device.source("1.0.0")
    shutil.rmtree(source / "ui")
    (source / "wapp.toml").write_text(trees.manifest("1.0.0").partition("[ui]")[0])
    signing.generate_key(SCREEN, device.directory)
    signing.sign(SCREEN, source, device.directory / "weft-sign.key")
    archive.bundle(SCREEN, source, device.directory)
    device.install(device.directory / f"{APP_ID}.app.tar.zst")
    assert trees.content(device.live) == trees.content(source)


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../etc/passwd"])
def test_a_link_out_of_a_package_is_not_installed(target: str, device: Device) -> None:
    source = device.source("1.0.0")
    (source / "link").symlink_to(target)
    device.refusal(Problem.PACKAGE_INVALID, source)


def test_a_link_inside_stays_a_link(device: Device) -> None:
    source = device.source("1.0.0")
    (source / "link").symlink_to("ui/index.html")
    device.install(source)
    assert (device.live / "link").readlink() == Path("ui/index.html")


def test_an_upgrade_keeps_the_version_before_and_rollback_returns_to_it(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        device.install(device.source(version))
    assert device.names() == [f".{APP_ID}@previous", APP_ID]
    capsys.readouterr()
    device.install(APP_ID, rollback=True)
    assert capsys.readouterr().out == f"{APP_ID} is 1.1.0 again, in place of 1.2.0\n"
    assert trees.content(device.live) == trees.content(device.source("1.1.0"))
    device.install(APP_ID, rollback=True)
    assert capsys.readouterr().out == f"{APP_ID} is 1.2.0 again, in place of 1.1.0\n"
    assert trees.content(device.live) == trees.content(device.source("1.2.0"))


def test_there_is_nothing_to_roll_back_to_after_a_first_install(device: Device) -> None:
    device.install(device.source("1.0.0"))
    message = device.refusal(Problem.PACKAGE_NOT_FOUND, APP_ID, rollback=True)
    assert message == (
        f"there is no version of {APP_ID} before that in '{device.store}' [an upgrade keeps one]"
    )


def test_an_older_version_needs_force(device: Device) -> None:
    device.install(device.source("1.10.0"))
    message = device.refusal(Problem.NOT_PERMITTED, device.source("1.9.0"))
    assert message == (
        f"version 1.10.0 of {APP_ID} is installed, which is later than 1.9.0 [use --force to go back]"
    )
    device.install(device.source("1.9.0"), force=True)
    assert trees.content(device.live) == trees.content(device.source("1.9.0"))


def test_versions_are_ordered_as_semver_says() -> None:
    ordered = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2",
               "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1", "1.2.0", "1.10.0", "2.0.0"]  # fmt: skip
    for index, version in enumerate(ordered):
        assert not versions.is_older(version, version)
        assert [versions.is_older(version, other) for other in ordered] == [
            place > index for place in range(len(ordered))
        ]
    assert not versions.is_older("1.0.0", "1.0.0+build")
    assert not versions.is_older("old", "1.0.0")


def test_a_program_that_reads_the_old_version_goes_on(device: Device) -> None:
    device.install(device.source("1.0.0"))
    with (device.live / "ui/index.html").open() as page:
        device.install(device.source("1.1.0"))
        device.install(device.source("1.2.0"))
        assert page.read() == "<!doctype html><title>1.0.0</title>"


def test_uninstall_removes_everything_but_the_data(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    data = device.directory / "data"
    (data / APP_ID).mkdir(parents=True)
    device.install(device.source("1.0.0"))
    device.install(device.source("1.1.0"))
    capsys.readouterr()
    device.uninstall(WEFT_DATA_ROOT=str(data))
    assert capsys.readouterr().out == f"uninstalled {APP_ID}\n"
    assert device.names() == []
    assert (data / APP_ID).is_dir()
    device.uninstall(purge=True, WEFT_DATA_ROOT=str(data))
    assert list(data.iterdir()) == []


def test_purge_follows_no_link_of_the_app(device: Device) -> None:
    data, precious = device.directory / "data", device.directory / "precious"
    (data / APP_ID).mkdir(parents=True)
    precious.mkdir()
    (precious / "file").touch()
    (data / APP_ID / "link").symlink_to(precious)
    device.install(device.source("1.0.0"))
    device.uninstall(purge=True, WEFT_DATA_ROOT=str(data))
    assert (precious / "file").exists()
    (data / APP_ID).symlink_to(precious)
    device.uninstall(purge=True, WEFT_DATA_ROOT=str(data))
    assert (precious / "file").exists()
    assert list(data.iterdir()) == []


def test_what_is_not_installed_cannot_be_uninstalled(device: Device) -> None:
    with pytest.raises(WeftError) as caught:
        device.uninstall()
    assert str(caught.value) == f"{APP_ID} is not installed in '{device.store}'"
    assert caught.value.problem is Problem.PACKAGE_NOT_FOUND


def test_list_has_a_line_for_each_app(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    install.list_packages(SCREEN, device.environ, as_json=False)
    assert capsys.readouterr().out == "no packages installed\n"
    device.install(device.source("1.0.0"))
    device.install(device.source("1.1.0"))
    device.install(trees.make(device.directory / "other", "3.0.0", app_id="org.example.aaa"))
    capsys.readouterr()
    install.list_packages(SCREEN, device.environ, as_json=False)
    assert capsys.readouterr().out == f"org.example.aaa  A test  3.0.0\n{APP_ID}  A test  1.1.0\n"
    install.list_packages(SCREEN, device.environ, as_json=True)
    assert json.loads(capsys.readouterr().out)[1] == {
        "id": APP_ID, "name": "A test", "version": "1.1.0", "directory": str(device.live),
    }  # fmt: skip


def test_where_to_install_depends_on_who_does(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Path("/home/x/.local/share/weft/apps")
    for uid, expected in ((0, install.SYSTEM_STORE), (1000, own)):
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        assert install.target_store({"HOME": "/home/x"}, user=False) == expected
        assert install.target_store({"HOME": "/home/x"}, user=True) == own
        assert install.target_store({"WEFT_APP_STORE": "/s"}, user=False) == Path("/s")
    with pytest.raises(WeftError, match=r"there is no package store: \$HOME is not set"):
        install.target_store({}, user=False)


def test_what_a_run_that_was_ended_left_is_removed(device: Device) -> None:
    device.install(device.source("1.0.0"))
    for name in (f".{APP_ID}@incomplete", f".{APP_ID}@rubbish-0123abcd", ".org.example.other@incomplete"):
        trees.make(device.store / name)
    (device.store / ".somebody-elses").mkdir()
    device.install(device.source("1.1.0"))
    assert device.names() == [f".{APP_ID}@previous", ".somebody-elses", APP_ID]


def test_an_exchange_that_was_not_finished_is(device: Device) -> None:
    device.install(device.source("1.0.0"))
    new = trees.make(device.store / "new", "1.1.0")
    ready = device.store / f".{APP_ID}@{new.stat().st_ino}"
    new.rename(ready)
    storage.exchange(ready, device.live)
    with storage.opened(device.store, lambda: None):
        pass
    assert device.names() == [f".{APP_ID}@previous", APP_ID]
    assert trees.content(device.store / f".{APP_ID}@previous") == trees.content(device.source("1.0.0"))


def test_an_exchange_that_had_not_begun_is_forgotten(device: Device) -> None:
    device.install(device.source("1.0.0"))
    new = trees.make(device.store / "new", "1.1.0")
    new.rename(device.store / f".{APP_ID}@{new.stat().st_ino}")
    with storage.opened(device.store, lambda: None):
        pass
    assert device.names() == [APP_ID]
    assert trees.content(device.live) == trees.content(device.source("1.0.0"))


def test_a_full_disk_leaves_the_old_version(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root")
    device.store.mkdir()
    script = (
        'mount -t tmpfs -o size=256k tmpfs "$WEFT_APP_STORE" || exit 99\n'
        '"$@" install "$OLD" >/dev/null && "$@" install "$NEW"; echo "status $?"\n'
        'cd "$WEFT_APP_STORE" && ls -A && cat */ui/index.html'
    )
    new = device.source("2.0.0")
    (new / "large").write_bytes(os.urandom(512 * 1024))
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *MAIN],
        env={**os.environ, **device.environ, "OLD": str(device.source("1.0.0")), "NEW": str(new)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"status 1\n.lock\n{APP_ID}\n<!doctype html><title>1.0.0</title>"
    assert f"cannot write to the package store '{device.store}': No space left on device" in done.stderr


def test_the_store_of_root_is_closed_to_others(place_of_all: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming somebody else takes root")
    device = Device(place_of_all)
    device.install(device.source("1.0.0"))
    before = trees.content(device.live)
    source, lock = device.source("2.0.0"), device.store / ".lock"

    def as_nobody() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        with pytest.raises(WeftError) as caught:
            device.install(source)
        assert caught.value.problem is Problem.NOT_PERMITTED
        with pytest.raises(WeftError):
            device.uninstall()
        # Else it could hold up root for ever.
        with pytest.raises(PermissionError):
            os.open(lock, os.O_RDONLY)
        with pytest.raises(PermissionError):
            shutil.rmtree(device.live)

    in_child(as_nobody)
    assert trees.content(device.live) == before


def in_child(do: Callable[[], None]) -> None:
    """Run `do` in a process of its own, which must not raise."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            do()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_second_install_waits_for_the_first(device: Device) -> None:
    device.store.mkdir()
    with (device.store / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        log = device.directory / "log"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [*MAIN, "install", str(device.source("1.0.0"))],
                env={**os.environ, **device.environ},
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        waiting = f"waiting for another weft-pack that uses {device.store}"
        eventually(lambda: waiting in log.read_text(), "a note that it waits")
        assert not device.live.exists()
    assert process.wait(60) == 0
    assert device.live.is_dir()


def test_many_installs_at_once_leave_one_whole_version(device: Device) -> None:
    sources = [device.source(f"1.0.{number}") for number in range(4)]
    running = [
        subprocess.Popen(
            [*MAIN, "install", "--force", str(source)],
            env={**os.environ, **device.environ},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for source in sources
    ]
    assert [process.wait(120) for process in running] == [0, 0, 0, 0]
    whole = [trees.content(source) for source in sources]
    assert trees.content(device.live) in whole
    assert trees.content(device.store / f".{APP_ID}@previous") in whole
    assert device.names() == [f".{APP_ID}@previous", APP_ID]


def test_where_directories_cannot_be_exchanged_nothing_is_lost(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.install(device.source("1.0.0"))

    class Libc:
        def renameat2(self, *_: object) -> int:
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Libc())
    monkeypatch.setattr(ctypes, "get_errno", lambda: errno.EINVAL)
    assert device.refusal(Problem.OS_ERROR, device.source("1.1.0")) == (
        f"the file system of '{device.store}' cannot exchange two directories in one step"
        " [uninstall the app first: its data stays]"
    )


def test_a_source_that_changes_while_it_is_copied_is_refused(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = device.source("1.0.0")
    real = files.write_file

    def growing(path: bytes, chunks: object) -> None:
        with (source / Path(os.fsdecode(path)).name).open("ab") as file:
            file.write(b"more")
        real(path, chunks)  # type: ignore[arg-type] # passed through

    (source / "ui/index.html").rename(source / "index.html")
    (device.directory / "copy").mkdir()
    monkeypatch.setattr(files, "write_file", growing)
    with pytest.raises(WeftError, match="has changed while it was read"):
        files.copy_tree(source, device.directory / "copy")


def test_an_app_that_runs_is_not_uninstalled_without_force(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.install(device.source("1.0.0"))
    monkeypatch.setattr(install, "_sessions_of", lambda *_: [3, 12])
    with pytest.raises(WeftError) as caught:
        device.uninstall()
    assert str(caught.value) == (
        f"{APP_ID} is running: sessions 3, 12 [end it first, or use --force: it goes on until it ends, but"
        " cannot start again]"
    )
    assert device.live.is_dir()
    device.uninstall(force=True)
    assert device.names() == []


def test_the_policy_is_that_of_the_places(device: Device) -> None:
    device.places.config.write_text(f'policy = "{Policy.REQUIRE}"\n')
    message = device.refusal(Problem.NOT_TRUSTED, device.source("1.0.0"))
    assert message == f"{APP_ID} is not signed [the policy in {device.places.config} is 'require']"


def signed(device: Device, version: str) -> Path:
    """A package of a version, signed by a key that the device trusts."""
    source = device.source(version)
    if not device.keys.exists():
        device.keys.mkdir()
        signing.generate_key(SCREEN, device.directory)
        (device.keys / "vendor.pub").write_text((device.directory / "weft-sign.pub").read_text())
        (device.keys / "vendor.pub").chmod(0o644)
    signing.sign(SCREEN, source, device.directory / "weft-sign.key")
    return source


def test_the_highest_version_outlives_an_uninstall(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    (device.directory / "pack.toml").write_text('policy = "require"')
    for version in ("1.0.0", "2.0.0"):
        device.install(signed(device, version))
    device.uninstall()
    assert device.names() == [f".{APP_ID}@highest"]
    assert device.refusal(Problem.NOT_PERMITTED, signed(device, "1.0.0")) == (
        f"version 2.0.0 of {APP_ID} was installed before, which is later than 1.0.0 [use --force to go back]"
    )
    device.install(signed(device, "2.0.0"))
    device.uninstall()
    device.install(signed(device, "1.0.0"), force=True)
    assert (
        f"version 1.0.0 of {APP_ID} in place of 2.0.0, which was installed before: --force was used"
        in capsys.readouterr().err
    )
    # What was the highest one stays that.
    device.refusal(Problem.NOT_PERMITTED, signed(device, "1.5.0"))
    device.install(signed(device, "2.0.1"))
    device.uninstall()
    assert "version 2.0.1" in device.refusal(Problem.NOT_PERMITTED, signed(device, "2.0.0"))
    (device.directory / "pack.toml").write_text('policy = "warn"')
    device.install(signed(device, "1.0.0"))


def test_uninstall_remembers_what_was_installed_before_a_signature_was_required(device: Device) -> None:
    (device.directory / "pack.toml").write_text('policy = "off"')
    device.install(signed(device, "2.0.0"))
    assert device.names() == [APP_ID]
    (device.directory / "pack.toml").write_text('policy = "require"')
    device.uninstall()
    assert "version 2.0.0" in device.refusal(Problem.NOT_PERMITTED, signed(device, "1.0.0"))


def test_uninstall_remembers_the_version_that_a_rollback_has_kept(device: Device) -> None:
    (device.directory / "pack.toml").write_text('policy = "off"')
    for version in ("1.0.0", "2.0.0"):
        device.install(signed(device, version))
    device.install(APP_ID, rollback=True)
    (device.directory / "pack.toml").write_text('policy = "require"')
    device.uninstall()
    assert "version 2.0.0" in device.refusal(Problem.NOT_PERMITTED, signed(device, "1.0.0"))


def spoiled(device: Device) -> None:
    (device.live / "app.wasm").write_bytes(b"changed since")


def by_nobody(device: Device) -> None:
    (device.live / "signature.sig").unlink()


def by_a_revoked_key(device: Device) -> None:
    device.places.revoked.mkdir()
    shutil.copy(device.keys / "vendor.pub", device.places.revoked)


@pytest.mark.parametrize("wrong", [spoiled, by_nobody, by_a_revoked_key])
def test_uninstall_remembers_no_version_that_no_trusted_key_has_signed(
    device: Device, wrong: Callable[[Device], None]
) -> None:
    """Else anybody's package of a high number would keep the vendor's from being installed."""
    (device.directory / "pack.toml").write_text('policy = "off"')
    device.install(signed(device, "9.9.9"))
    wrong(device)
    (device.directory / "pack.toml").write_text('policy = "require"')
    device.uninstall()
    assert device.names() == []


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_where_the_version_cannot_be_remembered_nothing_is_replaced(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.install(signed(device, "1.0.0"))
    newer = signed(device, "2.0.0")
    monkeypatch.setattr(storage.Store, "remember", full)
    assert "No space left on device" in device.refusal(Problem.OS_ERROR, newer)


@pytest.mark.parametrize("method", ["_keep", "put"])
def test_a_forced_version_is_told_if_it_is_there_whatever_fails_after_that(
    device: Device, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    device.install(device.source("2.0.0"))
    older = device.source("1.0.0")
    monkeypatch.setattr(storage.Store, method, full)
    with pytest.raises(WeftError, match="No space left on device"):
        device.install(older, force=True)
    is_there = method == "_keep"
    text = f"version 1.0.0 of {APP_ID} in place of 2.0.0, which is installed: --force was used"
    assert (text in capsys.readouterr().err) is is_there
    assert ('version = "1.0.0"' in (device.live / "wapp.toml").read_text()) is is_there


@pytest.mark.parametrize("text", ["", "no version", "2.0"])
def test_a_remembered_version_that_is_none_is_not_passed_over(text: str, device: Device) -> None:
    (device.directory / "pack.toml").write_text('policy = "require"')
    device.install(signed(device, "1.0.0"))
    device.uninstall()
    (device.store / f".{APP_ID}@highest").write_text(text)
    device.refusal(Problem.NOT_PERMITTED, signed(device, "1.0.0"))
    device.install(signed(device, "1.0.0"), force=True)


def test_nothing_is_waited_for_while_the_store_is_locked(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.install(device.source("1.0.0"))
    real_copy, real_check = files.copy_tree, check.check
    seen = []

    def is_free() -> bool:
        with (device.store / ".lock").open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def copy(source: Path, destination: Path) -> None:
        seen.append(("copy", is_free()))
        real_copy(source, destination)
        # Somebody else's run meanwhile leaves what we are about to install alone.
        with storage.opened(device.store, lambda: None):
            assert destination.is_dir()

    def checked(*arguments: object) -> check.Checked:
        seen.append(("check", is_free()))
        return real_check(*arguments)  # type: ignore[arg-type] # passed through

    monkeypatch.setattr(install, "copy_tree", copy)
    monkeypatch.setattr(check, "check", checked)
    device.install(device.source("2.0.0"))
    assert seen == [("copy", True), ("check", True)]
    assert device.names() == [f".{APP_ID}@previous", APP_ID]


def test_the_longest_id_can_be_used_everywhere(device: Device) -> None:
    longest = f"org.example.{'x' * (APP_ID_MAX - 12)}"
    for version in ("1.0.0", "1.1.0"):
        source = trees.make(device.directory / version, version, app_id=longest)
        archive.bundle(SCREEN, source, device.directory)
        path = device.directory / f"{longest}.app.tar.zst"
        device.install(path)
        path.unlink()
    device.install(longest, rollback=True)
    options = argparse.Namespace(app=AppId.parse(longest), user=False, force=False, purge=False, json=False)
    assert install.uninstall(SCREEN, device.environ, options, device.places) == 0


def test_a_longer_id_is_told_by_check(device: Device) -> None:
    source = trees.make(device.directory / "long", app_id=f"org.example.{'x' * (APP_ID_MAX - 11)}")
    [finding] = check.check(source, device.environ, SCREEN).findings
    assert f"it has {APP_ID_MAX + 1} characters, expected {APP_ID_MAX} at most" in str(finding)
    with pytest.raises(WeftError, match="characters, expected 180 at most"):
        archive.bundle(SCREEN, source, device.directory)
