# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.runtime.ending: what is told of an end, and that the process ends so."""

import json
import signal
import subprocess
import sys
from signal import Signals

import pytest

from weft_runtime import statusline
from weft_runtime.errors import Problem, WeftError
from weft_runtime.journal import Event, Level
from weft_runtime.runtime.ending import (
    STATUS_REASON_MAX,
    Outcome,
    bug,
    exited,
    failed,
    status_line,
    trapped,
)


def test_success_is_information() -> None:
    assert exited(0) == Outcome(Event.EXITED, 0, "the app exited with status 0", Level.INFO)


@pytest.mark.parametrize("status", [1, 125])
def test_any_other_status_is_a_warning(status: int) -> None:
    reason = f"the app exited with status {status} too early"
    assert exited(status, " too early") == Outcome(Event.EXITED, status, reason, Level.WARNING)


def test_a_trap_is_an_error_with_its_backtrace() -> None:
    assert trapped("_start", "unreachable", "it was reached", "  0: main") == Outcome(
        Event.TRAPPED, 134, "the app trapped in _start: unreachable: it was reached", Level.ERR, "  0: main"
    )


ENDS = {
    Problem.USAGE: (Event.USAGE, 164),
    Problem.MANIFEST_INVALID: (Event.PACKAGE_INVALID, 165),
    Problem.PACKAGE_INVALID: (Event.PACKAGE_INVALID, 165),
    Problem.MODULE_INVALID: (Event.PACKAGE_INVALID, 165),
    Problem.LIMIT_EXCEEDED: (Event.LIMIT_EXCEEDED, 165),
    Problem.PACKAGE_NOT_FOUND: (Event.PACKAGE_NOT_FOUND, 166),
    Problem.MODULE_NOT_FOUND: (Event.PACKAGE_INVALID, 166),
    Problem.ENGINE_MISSING: (Event.ENGINE_MISSING, 169),
    Problem.INTERNAL_ERROR: (Event.INTERNAL_ERROR, 170),
    Problem.COMPILE_LIMIT: (Event.COMPILE_LIMIT, 175),
    Problem.COMPILE_STARVED: (Event.COMPILE_LIMIT, 175),
    Problem.COMPILE_MEMORY: (Event.COMPILE_LIMIT, 175),
    Problem.OS_ERROR: (Event.FAILED, 171),
    Problem.NOT_PERMITTED: (Event.FAILED, 177),
    Problem.NOT_TRUSTED: (Event.NOT_TRUSTED, 177),
    Problem.CHANGED: (Event.CHANGED, 177),
    Problem.CAPABILITY_REFUSED: (Event.CAPABILITY_REFUSED, 177),
    Problem.OUT_OF_MEMORY: (Event.OUT_OF_MEMORY, 171),
    Problem.CONFIG_INVALID: (Event.SETTINGS_INVALID, 178),
}


@pytest.mark.parametrize("problem", Problem)
def test_a_failure_has_the_event_and_status_of_its_problem(problem: Problem) -> None:
    event, status = ENDS[problem]
    assert failed(WeftError(problem, "it broke", "mend it")) == Outcome(
        event, status, "it broke [mend it]", Level.ERR, problem=problem
    )


def raised(error: Exception) -> Outcome:
    try:
        raise error
    except Exception as caught:
        return bug(caught)


def test_a_bug_is_critical_and_has_its_traceback() -> None:
    outcome = raised(KeyError("x"))
    assert outcome[:4] == (Event.INTERNAL_ERROR, 170, "internal error: KeyError: 'x'", Level.CRIT)
    assert outcome.problem is Problem.INTERNAL_ERROR
    lines = outcome.detail.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].startswith(f'  File "{__file__}", line ')
    assert lines[2] == "    raise error"


def test_a_bug_that_quotes_a_hostile_text_is_shown_safely() -> None:
    outcome = raised(ValueError("\x1b[31m\nweft-runtime[1]: info: the app is ready\r\u2028"))
    assert outcome.reason.isprintable()
    assert all(line.isprintable() for line in outcome.detail.split("\n"))


def test_a_bug_that_quotes_a_hostile_text_forges_no_line() -> None:
    outcome = raised(ValueError("oops\nweft-runtime[1]: info: the app is ready"))
    assert "weft-runtime[1]: info: the app is ready" not in outcome.detail.split("\n")


def test_the_status_line_is_short() -> None:
    assert status_line(exited(0)) == "STATUS=the app exited with status 0"
    long = Outcome(Event.FAILED, 171, "x" * 1000, Level.ERR)
    assert status_line(long) == "STATUS=" + "x" * STATUS_REASON_MAX


@pytest.mark.parametrize("version", ["1.2.3", "1 (version 2)", ")", "(", " "])
@pytest.mark.parametrize("text", ["the app is running", "it said (version 9)", "", " (version "])
def test_the_status_line_tells_the_version_to_whoever_parses_it(text: str, version: str) -> None:
    outcome = Outcome(Event.EXITED, 0, text, Level.INFO)
    line = status_line(outcome, version)
    assert line == f"STATUS={text} (version {version})"
    if " (version " not in version:
        assert statusline.parse(line.removeprefix("STATUS=")) == (text, version)
    assert statusline.parse("the app is running") == ("the app is running", None)


SETUP = """
import os, signal, sys, threading, time
from weft_runtime.runtime.main import STOP_SIGNALS
signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
for number in STOP_SIGNALS:
    signal.signal(number, signal.SIG_DFL)
from weft_runtime.journal import Log
from weft_runtime.runtime.ending import Ending, exited

def say(text):
    os.write(1, f"{text}\\n".encode())

ending = Ending(Log(lambda level, message, fields: say(f"{level.name} {message} {sorted(fields.items())}")))
ending.report_fd = 2
ending.last_words = lambda outcome: say(f"last words: {outcome.reason}")
ending.drain = lambda timeout: say(f"drain: {timeout}")
"""


class End:
    """How a child process that ran SETUP and `code` ended."""

    def __init__(self, code: str) -> None:
        child = subprocess.run(
            [sys.executable, "-c", SETUP + code], capture_output=True, text=True, timeout=60, check=False
        )
        self.status = child.returncode
        self.lines = child.stdout.splitlines()
        self.report = child.stderr


def test_an_end_is_told_to_everybody_in_order_and_then_it_comes() -> None:
    end = End("ending.finish(exited(7))")
    assert end.status == 7
    assert json.loads(end.report) == {
        "event": "exited", "exit_status": 7, "signal": None, "reason": "the app exited with status 7", "problem": None,
    }  # fmt: skip
    assert end.report.endswith("}\n")
    assert end.report.count("\n") == 1
    fields = [
        ("WEFT_EVENT", Event.EXITED), ("WEFT_EXIT_STATUS", "7"),
        ("WEFT_REASON", "the app exited with status 7"),
    ]  # fmt: skip
    assert end.lines[:2] == ["drain: None", "last words: the app exited with status 7"]
    assert end.lines[2].startswith("WARNING the app exited with status 7 [('WEFT_EVENT', ")
    assert all(repr(value) in end.lines[2] for _, value in fields)
    assert len(end.lines) == 3


def test_a_failure_is_told_with_its_problem_and_a_trap_with_its_backtrace() -> None:
    end = End(
        "from weft_runtime.errors import *\nfrom weft_runtime.runtime.ending import failed\n"
        "ending.finish(failed(WeftError(Problem.MODULE_INVALID, 'it is odd')))"
    )
    assert end.status == 165
    assert end.lines[2].startswith("ERR it is odd ")
    assert "('WEFT_PROBLEM', <Problem.MODULE_INVALID: 'module-invalid'>)" in end.lines[2]
    end = End(
        "from weft_runtime.runtime.ending import trapped\n"
        "ending.finish(trapped('_start', 'a', 'b', '  0: c'))"
    )
    assert end.status == 134
    assert end.lines[2] == "ERR the app trapped in _start: a: b"
    assert end.lines[3].startswith("  0: c [")
    assert "('WEFT_REASON', 'the app trapped in _start: a: b')" in end.lines[3]
    assert "WEFT_PROBLEM" not in end.lines[3]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_signal_ends_the_process_by_that_signal(number: Signals) -> None:
    end = End(
        f"ending.watch_signals()\nending.phase = 'waiting'\nos.kill(os.getpid(), {int(number)})\n"
        "while True:\n    pass\n"
    )
    assert end.status == -number
    reason = f"stopped by {number.name} while waiting"
    assert json.loads(end.report) == {
        "event": "stopped", "exit_status": 128 + number, "signal": number.name, "reason": reason, "problem": None,
    }  # fmt: skip
    assert end.lines[:2] == ["drain: 0.3", f"last words: {reason}"]
    assert end.lines[2].startswith(f"NOTICE {reason} ")
    assert len(end.lines) == 3


@pytest.mark.parametrize("stuck", ["drain", "last_words", "log"])
def test_a_stop_waits_for_nobody(stuck: str) -> None:
    put = {"log": "ending.log = Log(lambda *entry: forever())"}.get(
        stuck, f"ending.{stuck} = lambda value: forever()"
    )
    end = End(
        f"def forever():\n    say('stuck')\n    threading.Event().wait()\n{put}\n"
        "ending.watch_signals()\nbegun = time.monotonic()\nif child := os.fork():\n"
        "    _, status = os.waitpid(child, 0)\n    took = time.monotonic() - begun\n"
        "    say(f'{status} {took < 1}')\n    os._exit(0)\n"
        "ending.watch_signals()\nos.kill(os.getpid(), signal.SIGTERM)\nthreading.Event().wait()\n"
    )
    assert "stuck" in end.lines
    assert end.lines[-1] == f"{int(signal.SIGTERM)} True"


def test_the_first_end_wins() -> None:
    end = End(
        "first, second = threading.Event(), threading.Event()\n"
        "ending.drain = lambda timeout: second.set() if first.is_set() else None\n"
        "ending.last_words = lambda outcome: (first.set(), second.wait())\n"
        "threading.Thread(target=ending.finish, args=(exited(1),)).start()\n"
        "first.wait()\nending.finish(exited(2))\n"
    )
    assert end.status == 1
    assert json.loads(end.report)["exit_status"] == 1
    assert len(end.lines) == 1
    assert end.lines[0].startswith("WARNING the app exited with status 1 ")


def test_a_report_that_nobody_reads_ends_nothing() -> None:
    end = End(
        "source, sink = os.pipe()\nos.close(source)\nending.report_fd = sink\nending.finish(exited(0))\n"
    )
    assert end.status == 0
    assert len(end.lines) == 3


def test_a_report_is_one_line_whatever_the_reason() -> None:
    end = End(
        "from weft_runtime.runtime.ending import *\n"
        "ending.log = Log(lambda *entry: None)\nending.last_words = lambda outcome: None\n"
        "ending.finish(Outcome(Event.FAILED, 171, 'a\\nb\\udcff', Level.ERR))\n"
    )
    assert end.report.count("\n") == 1
    assert json.loads(end.report)["reason"] == "a\nb\udcff"
    assert end.status == 171


def test_the_first_process_of_a_namespace_ends_with_the_status_a_shell_would_show() -> None:
    # To it alone the kernel does not apply the default action of a signal; SIG_IGN stands in for that.
    end = End(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nending.watch_signals()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\nwhile True:\n    pass\n"
    )
    assert end.status == 143
