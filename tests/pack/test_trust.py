# SPDX-License-Identifier: Apache-2.0
"""Tests of the policy, of the trusted keys, and of what a launch does where a signature is required."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.pack import trees
from tests.packages import APP_ID
from weft_runtime import policy, settings, signature, trust
from weft_runtime.errors import Problem, WeftError
from weft_runtime.integrity import SETTLED_NS
from weft_runtime.pack import signing
from weft_runtime.pack.screen import Screen
from weft_runtime.policy import Policy
from weft_runtime.trust import Places

SCREEN = Screen({})
NOBODY = 65534


class Device:
    """Places of a device whose root we are, and a package."""

    def __init__(self, directory: Path) -> None:
        self.config = directory / "pack.toml"
        self.etc, self.usr, self.records = directory / "etc", directory / "usr", directory / "records"
        self.revoked = directory / "revoked"
        self.places = Places(self.config, [self.etc, self.usr], [self.records], os.geteuid(), self.revoked)
        self.directory = directory
        for keys in (self.etc, self.usr, self.revoked):
            keys.mkdir()
        self.package = trees.make(directory / "package")
        for path in self.package.rglob("*"):
            os.utime(path)

    def key(self, name: str) -> Path:
        """A private key's file, new for each name."""
        directory = self.directory / f"key-{name}"
        if not directory.exists():
            directory.mkdir()
            signing.generate_key(SCREEN, directory)
        return directory / signing.PRIVATE_NAME

    def trust_key(self, name: str, keys: Path | None = None, *, as_name: str | None = None) -> Path:
        file = (keys or self.etc) / f"{as_name or name}.pub"
        file.write_text(self.key(name).with_suffix(".pub").read_text())
        file.chmod(0o644)
        return file

    def sign(self, name: str) -> None:
        signing.sign(SCREEN, self.package, self.key(name))

    def verdict(self) -> trust.Verdict:
        return trust.judge(self.package, trust.trusted_keys(self.places))

    def launch(self) -> None:
        """What weft-runtime does where the policy is `require`."""
        with (self.package / "app.wasm").open("rb") as module:
            trust.demand(self.package, module.fileno(), "app.wasm", self.places)

    def refusal(self, problem: Problem = Problem.NOT_TRUSTED) -> str:
        with pytest.raises(WeftError) as caught:
            self.launch()
        assert caught.value.problem is problem
        return caught.value.message

    def settle(self) -> None:
        """Let the files be old enough to be remembered."""
        keys = trust.trusted_keys(self.places)
        content = signature.read(self.package)
        verdict = trust.judge(self.package, keys, content)
        assert verdict.key is not None
        trust.remember(self.package, content, verdict.key, keys, self.places, wait=True)
        assert len(list(self.records.iterdir())) == 1


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


@contextmanager
def nothing_read(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail where the content of a package is read in here."""

    def read(directory: Path) -> signature.Content:
        raise AssertionError(f"{directory} is read")

    with monkeypatch.context() as patch:
        patch.setattr(signature, "read", read)
        yield


@pytest.mark.parametrize("value", Policy)
def test_the_policy_is_what_the_file_says(value: Policy, device: Device) -> None:
    device.config.write_text(f'# a comment\npolicy = "{value}"\n')
    assert policy.read(device.config, owner=os.geteuid()) is value


@pytest.mark.parametrize("text", [None, "", "# nothing\n"])
def test_without_a_word_the_policy_is_to_warn(text: str | None, device: Device) -> None:
    if text is not None:
        device.config.write_text(text)
    assert policy.read(device.config, owner=os.geteuid()) is Policy.WARN


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('policy = "strict"', "policy is 'strict': expected one of 'require', 'warn', 'off'"),
        ("policy = true", "policy is a boolean: expected a string"),
        ('polcy = "require"', "polcy is no setting"),
        ("policy", "is not TOML"),
    ],
)
def test_a_policy_that_is_not_understood_is_none(text: str, complaint: str, device: Device) -> None:
    device.config.write_text(text)
    with pytest.raises(WeftError) as caught:
        policy.read(device.config, owner=os.geteuid())
    assert caught.value.problem is Problem.CONFIG_INVALID
    assert complaint in str(caught.value)


def test_a_policy_that_others_can_write_is_none(device: Device) -> None:
    device.config.write_text('policy = "off"')
    device.config.chmod(0o664)
    with pytest.raises(WeftError, match="can be written by others: its mode is 664"):
        policy.read(device.config, owner=os.geteuid())
    device.config.chmod(0o644)
    with pytest.raises(WeftError, match=f"belongs to the user {os.geteuid()}, not to 4711"):
        policy.read(device.config, owner=4711)


def test_the_default_file_has_the_default(device: Device) -> None:
    shipped = Path(__file__).resolve().parents[2] / "infra/pack.toml"
    text = shipped.read_text()
    device.config.write_text(text)
    assert policy.read(device.config, owner=os.geteuid()) is Policy.WARN
    device.config.write_text(text.replace("#policy", "policy"))
    assert policy.read(device.config, owner=os.geteuid()) is Policy.WARN
    assert [value for value in Policy if f"\n#   {value} " not in text] == []


def test_a_signature_by_a_trusted_key_is_trusted(device: Device) -> None:
    assert device.verdict() == (None, "is not signed")
    device.sign("vendor")
    assert device.verdict() == (None, "is signed, but no key is trusted here")
    device.trust_key("other")
    unknown = (None, "is not signed by a trusted key, or was changed after it was signed")
    assert device.verdict() == unknown
    device.trust_key("vendor", device.usr)
    assert device.verdict() == ("vendor", "")
    (device.package / "app.wasm").write_bytes(b"changed")
    assert device.verdict() == unknown


@pytest.mark.parametrize("text", ["", "ab", "ab" * 65])
def test_a_signature_of_another_form_is_none(text: str, device: Device) -> None:
    device.trust_key("vendor")
    (device.package / "signature.sig").write_text(text)
    key, reason = device.verdict()
    assert key is None
    assert reason.startswith("has no valid signature: ")


def test_a_key_is_exchanged_without_a_moment_of_no_trust(device: Device) -> None:
    device.trust_key("old")
    device.sign("old")
    device.trust_key("new")
    assert device.verdict().key == "old"
    device.sign("new")
    assert device.verdict().key == "new"
    (device.etc / "old.pub").unlink()
    assert device.verdict().key == "new"
    device.sign("old")
    assert device.verdict().key is None


@pytest.mark.parametrize("mask", ["empty", "null"])
def test_a_key_of_the_vendor_is_revoked_by_a_file_of_its_name(mask: str, device: Device) -> None:
    device.trust_key("vendor", device.usr)
    device.sign("vendor")
    device.settle()
    device.launch()
    hidden = device.etc / "vendor.pub"
    if mask == "null":
        hidden.symlink_to("/dev/null")
    else:
        hidden.touch(0o644)
    assert device.verdict().key is None
    # What was remembered goes with the key.
    assert device.refusal() == f"'{device.package}' is signed, but no key is trusted here"


def test_a_key_that_others_can_write_is_none(device: Device) -> None:
    file = device.trust_key("vendor")
    device.sign("vendor")
    file.chmod(0o666)
    keys = trust.trusted_keys(device.places)
    assert keys.by_value == {}
    assert keys.complaints == (f"{file} can be written by others: its mode is 666",)
    file.chmod(0o644)
    device.etc.chmod(0o777)
    keys = trust.trusted_keys(device.places)
    assert keys.by_value == {}
    assert keys.complaints == (f"{device.etc} can be written by others: its mode is 777",)


def test_a_file_that_is_no_key_does_not_keep_others_from_being_one(device: Device) -> None:
    device.trust_key("vendor")
    device.sign("vendor")
    (device.etc / "broken.pub").write_text("no key")
    (device.etc / "broken.pub").chmod(0o644)
    (device.etc / "README").write_text("none either")
    keys = trust.trusted_keys(device.places)
    assert list(keys.by_value.values()) == ["vendor"]
    assert keys.complaints == (f"{device.etc}/broken.pub does not hold 64 hexadecimal digits",)


def test_a_launch_without_signature_is_refused(device: Device) -> None:
    device.trust_key("vendor")
    assert device.refusal() == f"'{device.package}' is not signed"


def test_a_launch_of_what_was_verified_reads_nothing_again(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.trust_key("vendor")
    device.sign("vendor")
    device.settle()
    with nothing_read(monkeypatch):
        device.launch()


@pytest.mark.parametrize("change", ["content", "in place", "replaced", "added", "removed", "link"])
def test_a_file_that_was_changed_after_it_was_verified_does_not_start(change: str, device: Device) -> None:
    (device.package / "link").symlink_to("ui/index.html")
    device.trust_key("vendor")
    device.sign("vendor")
    device.settle()
    page = device.package / "ui/index.html"
    before = page.stat()
    match change:
        case "content":
            page.write_text("other")
        case "in place":
            # As an attacker would who hides it: of the same size, and with the old time.
            page.write_text("X" * before.st_size)
            os.utime(page, ns=(before.st_atime_ns, before.st_mtime_ns))
        case "replaced":
            other = page.with_name("new")
            other.write_text("X" * before.st_size)
            other.replace(page)
        case "added":
            (device.package / "more").touch()
        case "removed":
            (device.package / "link").unlink()
        case _:
            (device.package / "link").unlink()
            (device.package / "link").symlink_to("wapp.toml")
    assert device.refusal(Problem.CHANGED) == (
        f"'{device.package}' was changed after it was signed: the trusted key 'vendor' had signed what was here before"
    )


def test_what_nobody_has_verified_before_may_be_of_another_key_as_well(device: Device) -> None:
    device.trust_key("vendor")
    device.sign("vendor")
    (device.package / "ui/index.html").write_text("other")
    assert device.refusal() == (
        f"'{device.package}' is not signed by a trusted key, or was changed after it was signed"
    )


def test_what_runs_is_what_was_verified(device: Device) -> None:
    device.trust_key("vendor")
    device.sign("vendor")
    with (device.package / "ui/index.html").open("rb") as other, pytest.raises(WeftError) as caught:
        trust.demand(device.package, other.fileno(), "app.wasm", device.places)
    assert caught.value.message == f"'{device.package}' was changed while it was started"


@pytest.mark.parametrize("flaw", ["mode", "owner", "link", "text", "other package"])
def test_a_record_that_cannot_be_believed_is_not(
    flaw: str, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.trust_key("vendor")
    device.sign("vendor")
    device.settle()
    (record,) = device.records.iterdir()
    match flaw:
        case "mode":
            record.chmod(0o666)
        case "owner":
            if os.geteuid() != 0:
                pytest.skip("giving a file away takes root")
            os.chown(record, NOBODY, NOBODY)
        case "link":
            record.rename(device.directory / "record")
            record.symlink_to(device.directory / "record")
        case "text":
            record.write_text("nonsense")
        case _:
            record.write_text(f"{'ab' * 32} {record.read_text().split()[1]}\n")
    with nothing_read(monkeypatch), pytest.raises(AssertionError, match="is read"):
        device.launch()
    device.launch()


def test_what_changed_a_moment_ago_is_not_remembered(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.trust_key("vendor")
    device.sign("vendor")
    newest = max(identity.changed for identity in signature.read(device.package).identities.values())
    monkeypatch.setattr(time, "time_ns", lambda: newest + SETTLED_NS - 1)
    device.launch()
    assert not device.records.exists()
    monkeypatch.setattr(time, "time_ns", lambda: newest + SETTLED_NS)
    device.launch()
    assert len(list(device.records.iterdir())) == 1


def test_what_is_remembered_can_be_read_by_all_and_forgotten(device: Device) -> None:
    device.trust_key("vendor")
    device.sign("vendor")
    old = os.umask(0o077)
    try:
        device.settle()
    finally:
        os.umask(old)
    (record,) = device.records.iterdir()
    assert (device.records.stat().st_mode & 0o777, record.stat().st_mode & 0o777) == (0o755, 0o644)
    trust.forget(device.package, device.places)
    trust.forget(device.package, device.places)
    assert list(device.records.iterdir()) == []


def test_where_nothing_can_be_remembered_it_starts_all_the_same(device: Device) -> None:
    device.trust_key("vendor")
    device.sign("vendor")
    device.records.write_text("no directory")
    device.launch()


def test_a_user_remembers_in_a_directory_of_its_own() -> None:
    assert settings.cache_directory({"CACHE_DIRECTORY": "/c:/d", "HOME": "/h"}) == Path("/c")
    assert settings.cache_directory({"XDG_CACHE_HOME": "/x", "HOME": "/h"}) == Path("/x/weft")
    assert settings.cache_directory({"HOME": "/h"}) == Path("/h/.cache/weft")
    assert settings.cache_directory({}) is None


# The program itself, with an /etc and a /var of its own.
PRIVATE = (
    'mkdir -p /etc/weft /var/cache/weft && mount --bind "$1" /etc/weft && mount -t tmpfs tmpfs /var/cache/weft'
    ' && shift && exec "$@"'
)


def run(device: Device, *command: str) -> "subprocess.CompletedProcess[str]":
    etc = device.directory / "etc-weft"
    store = device.directory / "store"
    if not etc.exists():
        (etc / "trusted.d").mkdir(parents=True)
        store.mkdir()
        device.package = device.package.rename(store / APP_ID)
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", PRIVATE, "sh", str(etc), *command],
        env={**os.environ, "WEFT_APP_STORE": str(store), "WEFT_LOG": "stderr"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="a private /etc takes root")
def test_weft_runtime_starts_only_what_is_trusted_where_that_is_required(device: Device) -> None:
    command = (str(Path(sys.executable).with_name("weft-runtime")), APP_ID, "1")
    assert run(device, *command).returncode == 0
    etc = device.directory / "etc-weft"
    (etc / "pack.toml").write_text('policy = "require"\n')
    refused = run(device, *command)
    assert (refused.returncode, refused.stdout) == (177, "")
    assert (
        f"'{device.package}' is not signed [the policy in /etc/weft/pack.toml is 'require']"
        in refused.stderr
    )
    device.sign("vendor")
    device.trust_key("vendor", etc / "trusted.d")
    started = run(device, *command)
    assert (started.returncode, started.stdout) == (0, "READY\n"), started.stderr
    (device.package / "ui/index.html").write_text("changed")
    assert run(device, *command).returncode == 177
    (etc / "pack.toml").write_text('policy = "warn"\n')
    assert run(device, *command).returncode == 0
    (etc / "pack.toml").chmod(0o666)
    assert run(device, *command).returncode == 178


@pytest.mark.skipif(os.geteuid() != 0, reason="a private /etc takes root")
def test_a_launch_imports_nothing_for_trust_where_none_is_required(device: Device) -> None:
    code = (
        "import sys, os\n"
        "os._exit = lambda status: (print(sorted(set(sys.modules) & {'weft_runtime.trust', 'hashlib',"
        " 'cryptography', 'ctypes.util'}), flush=True), os.kill(os.getpid(), 9))\n"
        f"sys.argv = ['weft-runtime', '{APP_ID}', '1']\n"
        "sys.modules['wasmtime'] = None\n"
        "from weft_runtime.runtime.main import main\n"
        "main()\n"
    )
    shown = run(device, sys.executable, "-c", code)
    assert shown.stdout.splitlines() == ["READY", "[]"], shown.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="a private /etc takes root")
def test_weft_pack_installs_only_what_is_trusted_where_that_is_required(device: Device) -> None:
    source = trees.make(device.directory / "source", "9.0.0")
    command = (sys.executable, "-m", "weft_runtime.pack.main", "install", str(source))
    assert run(device, "true").returncode == 0
    etc = device.directory / "etc-weft"
    warned = run(device, *command)
    assert warned.returncode == 0
    assert f"weft-pack: warning: {APP_ID} is not signed" in warned.stderr
    (etc / "pack.toml").write_text('policy = "require"\n')
    refused = run(device, *command)
    assert refused.returncode == 1
    assert f"{APP_ID} is not signed [the policy in /etc/weft/pack.toml is 'require']" in refused.stderr
    device.trust_key("vendor", etc / "trusted.d")
    signing.sign(SCREEN, source, device.key("vendor"))
    installed = run(device, *command)
    assert installed.returncode == 0
    assert f"{APP_ID} is signed by the trusted key 'vendor'" in installed.stderr


@pytest.mark.parametrize("name", ["vendor.pub", "stolen", "2026-11-28 lost"])
def test_a_revoked_key_is_trusted_under_no_name(name: str, device: Device) -> None:
    device.trust_key("vendor")
    device.trust_key("vendor", device.usr, as_name="again")
    device.sign("vendor")
    device.settle()
    device.launch()
    revoked = device.trust_key("vendor", device.revoked)
    revoked = revoked.rename(device.revoked / name)
    complaint = f"is signed by a key that is revoked, by '{revoked}'"
    assert device.verdict() == (None, complaint)
    # What was remembered goes with the key.
    assert device.refusal() == f"'{device.package}' {complaint}"
    device.trust_key("new")
    assert device.verdict() == (None, complaint)
    device.sign("new")
    device.launch()


def wrong_modes(file: Path) -> None:
    file.chmod(0o666)


def wrong_content(file: Path) -> None:
    file.write_text("no key")


def empty(file: Path) -> None:
    file.write_text("")


def directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def dangling(file: Path) -> None:
    file.unlink()
    file.symlink_to("/nowhere")


def null(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/null")


@pytest.mark.parametrize("spoil", [wrong_modes, wrong_content, empty, directory, fifo, dangling, null])
def test_whoever_cannot_know_what_is_revoked_trusts_nothing(
    spoil: Callable[[Path], None], device: Device
) -> None:
    device.trust_key("vendor")
    device.sign("vendor")
    device.settle()
    file = device.trust_key("other", device.revoked)
    device.launch()
    spoil(file)
    with pytest.raises(WeftError) as caught:
        device.launch()
    assert str(file) in str(caught.value)
    with pytest.raises(WeftError):
        device.verdict()


def test_revoked_keys_in_a_directory_of_others_are_not_passed_over(device: Device) -> None:
    device.trust_key("vendor")
    device.revoked.chmod(0o777)
    with pytest.raises(WeftError, match=f"{device.revoked} can be written by others: its mode is 777"):
        device.verdict()
    device.revoked.rmdir()
    device.revoked.symlink_to("/nowhere")
    with pytest.raises(WeftError, match=f"{device.revoked} is a link to nothing"):
        device.verdict()


P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
Point = tuple[int, int]


def plus(one: Point, other: Point) -> Point:
    """The sum of two points of the curve (RFC 8032, section 5.1.4)."""
    (x1, y1), (x2, y2) = one, other
    product = D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, P)
    return x % P, (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P


def points_of_small_order() -> set[Point]:
    """All eight: the multiples of one whose double has the order four."""
    root = pow(2, (P - 1) // 4, P)
    assert root * root % P == P - 1
    found: set[Point] = {(0, 1)}
    # With 2y² = 1 + dy⁴ the double of a point is (±√-1, 0), which has the order four.
    for y_squared in ((1 + sign * _sqrt(1 + D)) * pow(-D, -1, P) % P for sign in (1, -1)):
        y = _sqrt_or_none(y_squared)
        if y is None:
            continue
        x_squared = (y_squared - 1) * pow(D * y_squared + 1, -1, P) % P
        x = _sqrt_or_none(x_squared)
        if x is not None:
            point: Point = (0, 1)
            for _ in range(8):
                point = plus(point, (x, y))
                found.add(point)
            assert point == (0, 1)
    return found


def _sqrt_or_none(value: int) -> int | None:
    root = pow(value, (P + 3) // 8, P)
    for candidate in (root, root * pow(2, (P - 1) // 4, P) % P):
        if candidate * candidate % P == value % P:
            return candidate
    return None


def _sqrt(value: int) -> int:
    root = _sqrt_or_none(value)
    assert root is not None
    return root


def encodings(point: Point) -> list[bytes]:
    """All 32 bytes that a lax reader takes for the point: y + p where it fits, and both signs of x = 0."""
    x, y = point
    signs = (0, 1) if x == 0 else (x & 1,)
    numbers = [number for number in (y, y + P) if number < 2**255]
    return [(number | sign << 255).to_bytes(32, "little") for number in numbers for sign in signs]


def test_no_point_of_small_order_is_a_key_or_half_of_a_signature(device: Device) -> None:
    points = points_of_small_order()
    assert len(points) == 8
    forms = {form for point in points for form in encodings(point)}
    assert len(forms) == 14
    for form in forms:
        assert signature.weakness(form) is not None
        for s in (0, 1):
            made_up = form + s.to_bytes(32, "little")
            assert not any(signature.is_valid(made_up, digest.to_bytes(32), form) for digest in range(16))
        file = device.etc / "weak.pub"
        file.write_text(form.hex())
        file.chmod(0o644)
        keys = trust.trusted_keys(device.places)
        assert keys.by_value == {}
        assert len(keys.complaints) == 1
        assert str(file) in keys.complaints[0]
        device.sign("vendor")
        with pytest.raises(WeftError, match=r"weak\.pub is"):
            signing.verify(SCREEN, device.package, file)
        bad = device.revoked / "weak"
        bad.write_text(form.hex())
        bad.chmod(0o644)
        with pytest.raises(WeftError, match="revoked/weak is"):
            trust.trusted_keys(device.places)
        bad.unlink()


@pytest.mark.parametrize("y", range(P, 2**255))
def test_a_second_form_of_a_key_is_none(y: int) -> None:
    assert signature.weakness(y.to_bytes(32, "little")) is not None
    assert signature.weakness((y | 1 << 255).to_bytes(32, "little")) is not None


def test_a_signature_has_one_form() -> None:
    seed, digest = bytes(range(32)), bytes(32)
    key, good = signature.public_key(seed), signature.sign(digest, seed)
    assert signature.is_valid(good, digest, key)
    order = 2**252 + 27742317777372353535851937790883648493
    s = int.from_bytes(good[32:], "little")
    for other in (s + order, s + 2 * order, s | 1 << 255):
        assert not signature.is_valid(good[:32] + other.to_bytes(32, "little"), digest, key)
