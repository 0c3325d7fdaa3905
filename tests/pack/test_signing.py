# SPDX-License-Identifier: Apache-2.0
"""Tests of the signature: its exact bytes, what it covers, and how its files are made."""

import json
import os
from pathlib import Path

import pytest

from tests.pack import trees
from weft_runtime import signature
from weft_runtime.errors import Problem, WeftError
from weft_runtime.pack import signing
from weft_runtime.pack.screen import Screen
from weft_runtime.trust import Places

SEED = bytes(range(32))
SCREEN = Screen({})
VECTORS = Path(__file__).resolve().parents[1] / "vectors/signing.jsonl"


class Vector:
    def __init__(self, line: str) -> None:
        values = json.loads(line)
        self.name: str = values["name"]
        self.files = {path: bytes.fromhex(data) for path, data in values["files_hex"].items()}
        self.text: bytes = values["canonical_text"].encode()
        self.digest = bytes.fromhex(values["digest_hex"])
        self.seed = bytes.fromhex(values["private_key_hex"])
        self.key = bytes.fromhex(values["public_key_hex"])
        self.signature = bytes.fromhex(values["signature_hex"])


ALL = [Vector(line) for line in VECTORS.read_text().splitlines()]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key's file; its public one is beside it."""
    signing.generate_key(SCREEN, tmp_path)
    return tmp_path / signing.PRIVATE_NAME


def error_of(problem: Problem, directory: Path) -> str:
    with pytest.raises(WeftError) as caught:
        signature.read(directory)
    assert caught.value.problem is problem
    return str(caught.value)


def text_of(directory: Path) -> str:
    return signature.read(directory).text.decode()


@pytest.mark.parametrize("vector", ALL, ids=lambda vector: vector.name)
def test_a_vector_is_signed_to_the_byte(vector: Vector, tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    for path, data in vector.files.items():
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).write_bytes(data)
    content = signature.read(package)
    assert (content.text, content.digest) == (vector.text, vector.digest)
    assert signature.public_key(vector.seed) == vector.key
    assert signature.sign(content.digest, vector.seed) == vector.signature
    private = tmp_path / "a.key"
    private.touch(0o600)
    private.write_text(vector.seed.hex())
    assert signing.sign(SCREEN, package, private) == 0
    assert (package / "signature.sig").read_text() == vector.signature.hex()
    assert text_of(package).encode() == vector.text


def test_a_pair_of_keys_has_the_format_and_only_its_owner_reads_the_private_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = os.umask(0)
    try:
        assert signing.generate_key(SCREEN, tmp_path) == 0
    finally:
        os.umask(old)
    private, public = tmp_path / "weft-sign.key", tmp_path / "weft-sign.pub"
    assert capsys.readouterr().out == f"{private}\n{public}\n"
    assert (private.stat().st_mode & 0o777, public.stat().st_mode & 0o777) == (0o600, 0o644)
    assert signature.public_key(bytes.fromhex(private.read_text())).hex() == public.read_text()


@pytest.mark.parametrize("name", ["weft-sign.key", "weft-sign.pub"])
def test_no_key_is_overwritten(name: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to("nowhere")
    with pytest.raises(WeftError, match=f"'{tmp_path}/{name}' is there already"):
        signing.generate_key(SCREEN, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_is_signed_verifies_until_a_byte_changes(
    key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = trees.make(tmp_path / "package")
    public = key.with_suffix(".pub")
    signing.sign(SCREEN, package, key)
    capsys.readouterr()
    assert signing.verify(SCREEN, package, public) == 0
    assert capsys.readouterr().out == "OK\n"
    (package / "app.wasm").write_bytes(trees.MODULE[:-1] + b"\0")
    assert signing.verify(SCREEN, package, public) == 1
    assert capsys.readouterr().err == "INVALID signature\n"


@pytest.mark.parametrize("change", ["added", "removed", "renamed"])
def test_a_file_that_comes_goes_or_moves_breaks_the_signature(
    change: str, key: Path, tmp_path: Path
) -> None:
    package = trees.make(tmp_path / "package")
    signing.sign(SCREEN, package, key)
    page = package / "ui/index.html"
    match change:
        case "added":
            (package / ".hidden").write_text("")
        case "removed":
            page.unlink()
        case _:
            page.rename(package / "ui/other.html")
    assert signing.verify(SCREEN, package, key.with_suffix(".pub")) == 1


def test_modes_and_times_and_empty_directories_do_not_count(key: Path, tmp_path: Path) -> None:
    package = trees.make(tmp_path / "package")
    signing.sign(SCREEN, package, key)
    os.utime(package / "app.wasm", (1, 1))
    (package / "app.wasm").chmod(0o600)
    (package / "empty").mkdir()
    assert signing.verify(SCREEN, package, key.with_suffix(".pub")) == 0


def test_a_package_without_signature_is_told(key: Path, tmp_path: Path) -> None:
    package = trees.make(tmp_path / "package")
    with pytest.raises(WeftError) as caught:
        signing.verify(SCREEN, package, key.with_suffix(".pub"))
    assert str(caught.value) == f"'{package}' is not signed: it has no signature.sig"


def test_a_key_that_is_revoked_verifies_nothing(key: Path, tmp_path: Path) -> None:
    package = trees.make(tmp_path / "package")
    signing.sign(SCREEN, package, key)
    public = key.with_suffix(".pub")
    places = Places(owner=os.geteuid(), revoked=tmp_path / "revoked")
    places.revoked.mkdir()
    assert signing.verify(SCREEN, package, public, places) == 0
    stolen = places.revoked / "stolen"
    stolen.write_text(public.read_text().upper())
    with pytest.raises(WeftError) as caught:
        signing.verify(SCREEN, package, public, places)
    assert caught.value.problem is Problem.NOT_TRUSTED
    assert str(caught.value) == f"the key in '{public}' is revoked, by '{stolen}'"
    # Whoever cannot know which keys are revoked says OK to none.
    stolen.write_text("no key")
    with pytest.raises(WeftError, match="stolen does not hold 64 hexadecimal digits"):
        signing.verify(SCREEN, package, public, places)


@pytest.mark.parametrize(
    "text", ["", "ab" * 31, "ab" * 33, "zz" * 32, "ab " * 21 + "a", "é" * 64, "ab" * 4096]
)
def test_what_is_no_key_is_refused(text: str, tmp_path: Path) -> None:
    package = trees.make(tmp_path / "package")
    (package / "signature.sig").write_text("00" * 64)
    file = tmp_path / "bad.pub"
    file.write_text(text)
    with pytest.raises(WeftError, match=r"bad\.pub (does not hold 64 hexadecimal digits|has more)"):
        signing.verify(SCREEN, package, file)


def test_white_space_and_capitals_in_a_key_do_not_matter(key: Path, tmp_path: Path) -> None:
    package = trees.make(tmp_path / "package")
    signing.sign(SCREEN, package, key)
    public = key.with_suffix(".pub")
    public.write_text(f"\n {public.read_text().upper()} \n")
    assert signing.verify(SCREEN, package, public) == 0


def test_a_private_key_that_others_can_read_is_not_used(key: Path, tmp_path: Path) -> None:
    package = trees.make(tmp_path / "package")
    key.chmod(0o640)
    with pytest.raises(WeftError) as caught:
        signing.sign(SCREEN, package, key)
    assert str(caught.value) == f"others can read the private key '{key}' [chmod 600 {key}]"
    assert not (package / "signature.sig").exists()


def test_the_rest_of_a_run_that_was_ended_is_not_signed(key: Path, tmp_path: Path) -> None:
    package = trees.make(tmp_path / "package")
    before = text_of(package)
    (package / ".signature.sig.new").write_text("half")
    signing.sign(SCREEN, package, key)
    assert text_of(package) == before


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        (b"a\tb", "'a\\x09b' has a TAB or a line break in its name, which no signature can tell apart"),
        (b"a\nb", "'a\\x0ab' has a TAB or a line break in its name, which no signature can tell apart"),
        (b"a\xffb", "'a\\xffb' has a name that is not UTF-8"),
    ],
)
def test_a_name_that_could_stand_for_another_is_refused(name: bytes, complaint: str, tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(name)).write_bytes(b"")
    assert error_of(Problem.PACKAGE_INVALID, tmp_path) == complaint


def test_a_link_counts_as_the_file_that_it_leads_to(tmp_path: Path) -> None:
    package = trees.make(tmp_path / "package")
    (package / "start.html").symlink_to("ui/index.html")
    (package / "pages").symlink_to("ui")
    copy = trees.make(tmp_path / "copy")
    for name in ("start.html", "pages/index.html"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_bytes((package / "ui/index.html").read_bytes())
    assert text_of(package) == text_of(copy)


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("/etc/passwd", "is a link with an absolute path: it would lead out of the package"),
        ("../../x", "is a link that leads out of the package"),
        ("../package/app.wasm", "is a link that leads out of the package"),
        ("nowhere", "is a link to 'nowhere', which is not there"),
        ("link", "is a loop of links, or a chain of too many"),
        ("app.wasm/x", "is a link through 'app.wasm', which is a file"),
        (".", "is a link to a directory that it is in"),
    ],
)
def test_a_link_that_leads_nowhere_or_out_is_refused(target: str, complaint: str, tmp_path: Path) -> None:
    package = trees.make(tmp_path / "package")
    (package / "link").symlink_to(target)
    assert error_of(Problem.PACKAGE_INVALID, package) == f"'link' {complaint}"


def test_links_that_multiply_files_meet_the_limit(tmp_path: Path) -> None:
    for level in range(15):
        (tmp_path / f"d{level}").mkdir()
        for name in "ab":
            (tmp_path / f"d{level}" / name).symlink_to(f"../d{level + 1}")
    (tmp_path / "d15").mkdir()
    (tmp_path / "d15/file").write_text("")
    assert error_of(Problem.LIMIT_EXCEEDED, tmp_path) == (
        "with links followed there are more than 10000; the limit for files, directories and links of a package is"
        " 10000 entries"
    )


def test_a_fifo_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert error_of(Problem.PACKAGE_INVALID, tmp_path) == (
        "'pipe' is a FIFO: expected files, directories and links"
    )


def test_a_tree_that_is_too_deep_is_refused(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * 34)
    deep.mkdir(parents=True)
    assert error_of(Problem.LIMIT_EXCEEDED, tmp_path).endswith("is 32 directories")
