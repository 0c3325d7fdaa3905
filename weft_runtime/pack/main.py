# SPDX-License-Identifier: Apache-2.0
"""The program `weft-pack`."""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from weft_runtime import __version__
from weft_runtime.commandline import ArgumentParser, checked, prepare_streams, write_note
from weft_runtime.errors import Problem, WeftError
from weft_runtime.escape import printable
from weft_runtime.ids import AppId
from weft_runtime.pack import languages
from weft_runtime.pack.screen import PROGRAM, Screen

FAILURE = 1
"""The exit status of every failure, a wrong command line included: that of the existing system."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. The one place that turns exceptions into one."""
    prepare_streams()
    screen = Screen(os.environ)
    arguments, rest = _split(sys.argv[1:] if argv is None else argv)
    try:
        return _run(build_parser().parse_args(arguments), screen, os.environ, rest)
    except WeftError as error:
        screen.error(str(error))
        if error.problem is Problem.USAGE:
            write_note(build_parser().format_usage(), end="")
        return FAILURE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # whoever read our output has gone
        return 128 + signal.SIGPIPE
    except Exception as error:
        screen.error(f"internal error: {type(error).__name__}: {printable(str(error))}")
        write_note(traceback.format_exc().rstrip())
        return FAILURE


def build_parser() -> argparse.ArgumentParser:
    """The parser; manual page and completion are checked against it."""
    parser = ArgumentParser(
        prog=PROGRAM,
        description="Check, run, sign, bundle, install, compile and remove the packages of apps.",
        epilog=f"See {PROGRAM}(1) for all of it, and '{PROGRAM} COMMAND --help' for one command.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    add = parser.add_subparsers(metavar="COMMAND", dest="command", required=True).add_parser

    def command(name: str, summary: str) -> argparse.ArgumentParser:
        text = f"{summary[0].upper()}{summary[1:]}."
        return add(name, help=summary, description=text)

    sub = command("check", "find all that is wrong with a package")
    _add_directory(sub)
    sub.add_argument("--json", action="store_true", help="print an array of objects")
    sub = command("info", "tell what the manifest of a package says")
    _add_directory(sub)
    sub.add_argument("--json", action="store_true", help="print an object")
    sub = command("new", "make the beginning of an app: sources, manifest, build script")
    sub.add_argument("directory", metavar="DIR", type=Path, help="directory to make")
    sub.add_argument(
        "--lang", metavar="LANG", type=checked(languages.parse), required=True, help=languages.listed()
    )
    sub.add_argument(
        "--id", metavar="ID", type=checked(AppId.parse), help="its app id (default: made from DIR)"
    )
    sub.add_argument("--ui", action="store_true", help="with a user interface: a first page")
    sub.epilog = f"How to use another language is in {languages.SDK}."
    sub = command("run", "run an app from its directory, without installing it")
    _add_directory(sub)
    sub.usage = f"{PROGRAM} run [-h] DIR [-- ARGS]"
    sub.epilog = "ARGS are options for weft-runtime, such as --preopen or --log-level."
    sub = command("install", "check a package and put it where apps are started from")
    sub.add_argument("source", metavar="PATH", help="directory or archive; with --rollback the id of an app")
    sub.add_argument(
        "--user", action="store_true", help="for yourself, where the system's daemon does not look"
    )
    sub.add_argument("--force", action="store_true", help="even in place of a newer version")
    sub.add_argument(
        "--rollback", action="store_true", help="go back to the version before the last upgrade"
    )
    sub = command("uninstall", "remove an installed app; its data stays")
    sub.add_argument("app", metavar="APP", type=checked(AppId.parse), help="app id, as 'list' shows it")
    sub.add_argument("--user", action="store_true", help="from your own store")
    sub.add_argument("--force", action="store_true", help="even while it runs")
    sub.add_argument("--purge", action="store_true", help="remove its data too")
    sub.add_argument("--json", action="store_true", help="print an object")
    sub = command("compile", "compile installed apps, so that their first launch need not")
    sub.add_argument(
        "apps", metavar="APP", nargs="*", type=checked(AppId.parse), help="app id, as 'list' shows it"
    )
    sub.add_argument("--all", action="store_true", help="all that are installed")
    sub.add_argument("--json", action="store_true", help="print an array of objects")
    sub = command("list", "list the installed apps")
    sub.add_argument("--json", action="store_true", help="print an array of objects")
    sub = command("generate-key", "make a pair of keys: weft-sign.key, weft-sign.pub")
    sub.add_argument(
        "directory", metavar="DIR", nargs="?", type=Path, default=Path(), help="where (default: here)"
    )
    sub = command("sign", "sign a package with a private key")
    _add_directory(sub)
    sub.add_argument("--key", metavar="F", type=Path, required=True, help="file of the private key")
    sub = command("verify", "verify the signature of a package with a public key")
    _add_directory(sub)
    sub.add_argument("--key", metavar="F", type=Path, required=True, help="file of the public key")
    sub = command("bundle", "make an archive of a package")
    _add_directory(sub)
    _add_out(sub)
    sub = command("unbundle", "unpack an archive")
    sub.add_argument("archive", metavar="ARCHIVE", type=Path, help="file, as 'bundle' made it")
    _add_out(sub)
    return parser


def _run(
    options: argparse.Namespace, screen: Screen, environ: Mapping[str, str], rest: Sequence[str]
) -> int:
    """Each command imports what it needs: signing and archives need libraries that the others do without."""
    match options.command:
        case "check":
            from weft_runtime.pack import check  # noqa: PLC0415

            return check.show(screen, environ, options.directory, as_json=options.json)
        case "info":
            from weft_runtime.pack import info  # noqa: PLC0415

            return info.show(screen, options.directory, as_json=options.json)
        case "new":
            from weft_runtime.pack import new  # noqa: PLC0415

            return new.make(screen, options.directory, options.lang, options.id, with_ui=options.ui)
        case "run":
            from weft_runtime.pack import run  # noqa: PLC0415

            return run.run(screen, environ, options.directory, rest)
        case "install":
            from weft_runtime.pack import install  # noqa: PLC0415

            return install.install(screen, environ, options)
        case "uninstall":
            from weft_runtime.pack import install  # noqa: PLC0415

            return install.uninstall(screen, environ, options)
        case "compile":
            from weft_runtime.pack import compile as compile_  # noqa: PLC0415

            return compile_.compile_apps(screen, environ, options)
        case "list":
            from weft_runtime.pack import install  # noqa: PLC0415

            return install.list_packages(screen, environ, as_json=options.json)
        case "generate-key":
            from weft_runtime.pack import signing  # noqa: PLC0415

            return signing.generate_key(screen, options.directory)
        case "sign":
            from weft_runtime.pack import signing  # noqa: PLC0415

            return signing.sign(screen, options.directory, options.key)
        case "verify":
            from weft_runtime.pack import signing  # noqa: PLC0415

            return signing.verify(screen, options.directory, options.key)
        case "bundle":
            from weft_runtime.pack import archive  # noqa: PLC0415

            return archive.bundle(screen, options.directory, options.out)
        case _:
            from weft_runtime.pack import archive  # noqa: PLC0415

            return archive.unbundle(screen, options.archive, options.out)


def _add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="directory of the package")


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="D", type=Path, default=Path(), help="where to (default: here)")


def _split(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """What is for us, and what `run` hands on: argparse would look for arguments of its own behind a `--`."""
    if arguments[:1] == ["run"] and "--" in arguments:
        at = arguments.index("--")
        return arguments[:at], arguments[at + 1 :]
    return arguments, ()


if __name__ == "__main__":
    sys.exit(main())
