# SPDX-License-Identifier: Apache-2.0
"""What the app receives: the arguments and the environment of its manifest, and nothing else of the host."""

from pathlib import Path

import pytest

from tests.command.guests import TEXT, guest, leave_on_error
from tests.command.harness import Run
from tests.packages import install, manifest
from weft_runtime import limits


def dumping(what: str) -> bytes:
    """A module that writes all its arguments or variables, each ended by NUL, to standard output."""
    sizes = leave_on_error(f"(call ${what}_sizes_get (i32.const 32) (i32.const 36))")
    # The pointers may need as much room as the text: they go to the last of four pages.
    get = leave_on_error(f"(call ${what}_get (i32.const 196608) (i32.const {TEXT}))")
    return guest(
        f"{sizes} {get} (drop (call $write (i32.const 1) (i32.const {TEXT}) (i32.load (i32.const 36))))"
    )


ARGS, ENV = dumping("args"), dumping("environ")
HOST = {"HOME": "/root", "LANG": "C.UTF-8", "USER": "somebody", "SECRET": "secret", "RUST_LOG": "trace"}


def strings(stdout: bytes) -> list[str]:
    assert stdout.startswith(b"READY\n")
    return stdout.removeprefix(b"READY\n").decode().split("\0")[:-1]


def test_the_first_argument_is_the_name_of_the_module(store: Path, run: Run) -> None:
    install(store, ARGS)
    assert strings(run().stdout) == ["app.wasm"]


def test_it_is_the_file_name_alone(store: Path, run: Run) -> None:
    package = install(store, ARGS, toml=manifest(module="bin/./älter.wasm"))
    (package / "bin").mkdir()
    (package / "app.wasm").rename(package / "bin/älter.wasm")
    assert strings(run().stdout) == ["älter.wasm"]


@pytest.mark.parametrize(
    ("toml", "args"),
    [
        ("args = []", []),
        ('args = ["--a", "", "a b", "ä€\\n\\u001b", "--a"]', ["--a", "", "a b", "ä€\n\x1b", "--a"]),
    ],
)  # fmt: skip
def test_the_arguments_are_those_of_the_manifest(store: Path, run: Run, toml: str, args: list[str]) -> None:
    install(store, ARGS, toml=manifest(runtime=toml))
    assert strings(run("--ipc-socket", "/s", "--log-level", "info").stdout) == ["app.wasm", *args]


@pytest.mark.parametrize("option", [[], ["--sd-notify", "--ipc-socket", "/s"]])
def test_nothing_of_the_environment_of_the_host_is_seen(store: Path, run: Run, option: list[str]) -> None:
    install(store, ENV)
    done = run(*option, env=HOST)
    assert (done.status, strings(done.stdout)) == (0, [])


def test_the_environment_is_that_of_the_manifest(store: Path, run: Run) -> None:
    extra = (
        '[runtime.env]\nHOME = "/data"\nEMPTY = ""\n"a.b c" = "x=y"\nÄ = "n/a"\nTEXT = "ä€\\n"\n'.replace(
            "Ä =", '"Ä" ='
        )
    )
    install(store, ENV, toml=manifest(extra=extra))
    done = run(env=HOST)
    assert done.status == 0
    assert sorted(strings(done.stdout)) == sorted(
        ["HOME=/data", "EMPTY=", "a.b c=x=y", "Ä=n/a", "TEXT=ä€\n"]
    )


def test_many_arguments_and_variables_arrive(store: Path, run: Run) -> None:
    args = [f"argument {index}" for index in range(1000)]
    path = install(store, ARGS, toml=manifest(runtime=f"args = {args}")) / "app.wasm"
    assert strings(run().stdout) == ["app.wasm", *args]

    path.write_bytes(ENV)
    variables = "".join(f'V{index} = "{"x" * 20}"\n' for index in range(1000))
    (path.parent / "wapp.toml").write_text(manifest(extra=f"[runtime.env]\n{variables}"))
    assert strings(run().stdout) == [f"V{index}={'x' * 20}" for index in range(1000)]


def test_the_largest_argument_arrives(store: Path, run: Run) -> None:
    install(store, ARGS, toml=manifest(runtime=f'args = ["{"x" * (limits.ARGUMENTS.value - 1)}"]'))
    assert strings(run().stdout) == ["app.wasm", "x" * (limits.ARGUMENTS.value - 1)]


def test_the_working_directory_and_the_clock_of_the_host_change_nothing(store: Path, run: Run) -> None:
    install(store, ENV)
    assert strings(run(cwd=store, env={"TZ": "Asia/Tokyo", "PWD": "/"}).stdout) == []
