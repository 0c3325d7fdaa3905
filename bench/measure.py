# SPDX-License-Identifier: Apache-2.0
"""Programs measured side by side, so that a machine that drifts treats all alike, and what that comes to."""

import marshal
import math
import os
import shutil
import stat
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from bench import launcher

LAUNCHER = Path(launcher.__file__)

T = TypeVar("T")

ENTRY_WAIT_S = 2
"""The journal's stand-in takes an entry a moment after it was sent."""

CALIBRATIONS = 3
"""Runs of a program that needs nothing: their peaks differ by a few pages."""

# A fresh /run, with nothing in it but the socket's directory, that only the measured programs see.
PRIVATE_RUN = 'mount -t tmpfs -o mode=0755 tmpfs /run && mkdir -p /run/systemd/journal && exec "$@"'


class BenchError(Exception):
    """A reason why nothing can be measured, for people."""


class Case(NamedTuple):
    """One program to measure."""

    name: str
    what: str
    argv: tuple[str, ...]
    env: Mapping[str, str]


class Sample(NamedTuple):
    """One run of one program: seconds, and KiB of its largest process."""

    begun: float
    ended: float
    wall: float
    user: float
    cpu: float
    peak_kib: int


class Spread(NamedTuple):
    """Several values as one."""

    median: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        known = list(values)
        return cls(statistics.median(known), min(known), max(known))


class Launcher:
    """The small process that starts the others (launcher.py), and its journal."""

    def __init__(self, command: Sequence[str], *, journal: str | None, counts_entries: bool = False) -> None:
        """Raises BenchError where it does not start. `journal` describes the journal, None means none."""
        self.journal = journal
        self.counts_entries = counts_entries
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            self._answer()
        except EOFError:
            _, complaint = self._process.communicate()
            raise BenchError(complaint.decode(errors="replace").strip()) from None
        # A program that needs next to nothing has the peak of the launcher: nobody can have less.
        nothing = Case("true", "", (shutil.which("true") or "/bin/true",), {})
        self.least_peak_kib = max(self.run(nothing).peak_kib for _ in range(CALIBRATIONS))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, case: Case, stdout: Path = Path(os.devnull)) -> Sample:
        """Run `case` once. Raises BenchError unless it succeeds."""
        return self._run([case], stdout, one_cpu=False)[0]

    def run_together(self, cases: Sequence[Case]) -> list[Sample]:
        """Run all of `cases` at once on one CPU. Raises BenchError unless all succeed."""
        return self._run(cases, Path(os.devnull), one_cpu=True)

    def repeat_in_turns(
        self, cases: Sequence[Case], *, rounds: int, warm_ups: int = 0
    ) -> dict[str, list[Sample]]:
        """Run A B C, B C A, C A B, ... and return the samples of each case by name, one a round.

        Nobody is always first, or always after the same one.
        """
        samples: dict[str, list[Sample]] = {case.name: [] for case in cases}
        for number in range(-warm_ups, rounds):
            for case in rotated(cases, number):
                sample = self.run(case)
                if number >= 0:
                    samples[case.name].append(sample)
        return samples

    def repeat_together(
        self, cases: Sequence[Case], *, rounds: int, warm_ups: int = 0
    ) -> dict[str, list[Sample]]:
        """Run all of `cases` at once on one CPU, again and again; the samples by name, one a round.

        The kernel gives each a few milliseconds in turn, so whatever else slows that CPU down slows all of
        them down alike: their CPU times compare well even where wall times do not.
        """
        samples: dict[str, list[Sample]] = {case.name: [] for case in cases}
        for number in range(-warm_ups, rounds):
            order = rotated(cases, number)
            for case, sample in zip(order, self.run_together(order), strict=True):
                if number >= 0:
                    samples[case.name].append(sample)
        return samples

    def _run(self, cases: Sequence[Case], stdout: Path, *, one_cpu: bool) -> list[Sample]:
        self._ask(([(list(case.argv), dict(case.env), str(stdout)) for case in cases], one_cpu))
        samples = []
        for case, result in zip(cases, self._answer(), strict=True):
            begun, ended, user, system, peak_kib, status = result
            if status != 0:
                raise BenchError(f"'{case.name}' ended with status {status:.0f}: {' '.join(case.argv)}")
            cost = Sample(
                begun=begun, ended=ended, wall=ended - begun,
                user=user, cpu=user + system, peak_kib=int(peak_kib),
            )  # fmt: skip
            samples.append(cost)
        return samples

    def entries(self, wanted: int) -> int:
        """How many entries the stand-in for the journal has taken, once it has `wanted` or time is up."""
        deadline = time.monotonic() + ENTRY_WAIT_S
        while True:
            self._ask(None)
            count = int(self._answer()[0][0])
            if count >= wanted or time.monotonic() > deadline:
                return count

    def _ask(self, question: tuple[list[launcher.Program], bool] | None) -> None:
        assert self._process.stdin is not None
        marshal.dump(question, self._process.stdin)
        self._process.stdin.flush()

    def _answer(self) -> list[list[float]]:
        assert self._process.stdout is not None
        answer: list[list[float]] = marshal.load(self._process.stdout)
        return answer


def open_launcher() -> tuple[Launcher, list[str]]:
    """A launcher, with a journal if one can be had; and what there is to say about it.

    The machine's own journal if it has one, else a stand-in in a private mount namespace.
    """
    plain = [sys.executable, "-I", "-S", str(LAUNCHER)]
    if is_socket(launcher.JOURNAL_SOCKET):
        return Launcher(plain, journal="this machine's own"), []
    inside = [*private_mounts(), "sh", "-c", PRIVATE_RUN, "sh", *plain, launcher.STAND_IN]
    try:
        stand_in = "a stand-in, a process that takes what is sent to the journal's socket"
        return Launcher(inside, journal=stand_in, counts_entries=True), []
    except (BenchError, OSError) as error:
        note = f"no journal here, and no stand-in: what logs to the journal is left out: {error}"
        return Launcher(plain, journal=None), [note]


def private_mounts() -> list[str]:
    """What to put before a command that is to see mounts of its own."""
    users = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *users, "--mount", "--propagation=private"]


def is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def rotated(cases: Sequence[T], number: int) -> list[T]:
    """`cases` in an order in which another one is first in each round."""
    first = number % len(cases)
    return [*cases[first:], *cases[:first]]


def percentile(values: Iterable[float], percent: float) -> float:
    """The least of the values that `percent` of them do not exceed."""
    known = sorted(values)
    return known[max(0, math.ceil(len(known) * percent / 100) - 1)]


def ratio(ours: Iterable[float], theirs: Iterable[float]) -> Spread:
    """How many times theirs ours is, round by round: a round's two runs saw about the same machine."""
    return Spread.of(mine / other for mine, other in zip(ours, theirs, strict=True))


def run(command: Sequence[str]) -> bytes:
    """What a command prints. Raises BenchError unless it succeeds."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        complaint = done.stderr.decode(errors="replace").strip()
        raise BenchError(f"'{' '.join(command)}' ended with status {done.returncode}: {complaint}")
    return done.stdout
