# SPDX-License-Identifier: Apache-2.0
"""A small process that starts the measured programs and says what each cost.

It is small because Linux counts as a program's peak memory what its process had before execve(2), too:
that is the size of whoever started it. So it imports next to nothing. It talks in marshal on its standard
input and output, which costs no import of a file either.
"""

import marshal
import os
import select
import sys
import time

JOURNAL_SOCKET = "/run/systemd/journal/socket"
STAND_IN = "--stand-in-journal"
DATAGRAM_MAX = 256 * 1024

Program = tuple[list[str], dict[str, str], str]
"""Command line, environment, and the file for standard output."""


def main() -> None:
    count = stand_in_journal() if STAND_IN in sys.argv else None
    answer([])  # here we are
    while True:
        try:
            request = marshal.load(sys.stdin.buffer)
        except EOFError:
            return
        if request is None:
            answer([[0 if count is None else int.from_bytes(os.pread(count, 8, 0), "little")]])
        else:
            programs, one_cpu = request
            answer(measure(programs, one_cpu=one_cpu))


def answer(values: list[list[float]]) -> None:
    marshal.dump(values, sys.stdout.buffer)
    sys.stdout.buffer.flush()


def measure(programs: list[Program], *, one_cpu: bool) -> list[list[float]]:
    """Run programs all at once, with `one_cpu` on the same one, each to its end.

    Of each: begin, end, user and system time in seconds, peak memory in KiB, exit status.
    """
    all_cpus = os.sched_getaffinity(0)
    if one_cpu:
        os.sched_setaffinity(0, {max(all_cpus)})
    begun: dict[int, float] = {}
    results: dict[int, list[float]] = {}
    for argv, env, stdout in programs:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, stdout, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ]
        now = time.monotonic()
        begun[os.posix_spawn(argv[0], argv, env, file_actions=actions)] = now
    while len(results) < len(begun):
        pid, status, usage = os.wait4(-1, 0)
        ended = time.monotonic()
        if pid in begun:
            status = os.waitstatus_to_exitcode(status)
            times = [begun[pid], ended, usage.ru_utime, usage.ru_stime]
            results[pid] = [*times, usage.ru_maxrss, status]
    os.sched_setaffinity(0, all_cpus)
    return [results[pid] for pid in begun]


def stand_in_journal() -> int:
    """Start a process that takes what is sent to the journal's socket, as journald would.

    Returns a descriptor of the file in which it counts the entries. It ends with this process, whose end
    of a pipe is its sign of life.
    """
    count = os.memfd_create("entries")
    alive, our_end = os.pipe()
    listening, ready = os.pipe()
    if os.fork() == 0:
        os.close(our_end)
        os.close(0)
        os.close(1)
        receive(count, alive, ready)
        os._exit(0)
    os.close(alive)
    os.close(ready)
    if os.read(listening, 1) != b"+":
        sys.exit("the stand-in for the journal did not start")
    os.close(listening)
    return count


def receive(count: int, alive: int, ready: int) -> None:
    import socket  # noqa: PLC0415 - for this child alone: it would make the parent larger

    journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    journal.bind(JOURNAL_SOCKET)
    os.write(ready, b"+")
    waiting = select.poll()
    waiting.register(journal, select.POLLIN)
    waiting.register(alive, select.POLLHUP)
    received = 0
    while True:
        for fd, _ in waiting.poll():
            if fd == alive:
                return
            journal.recv(DATAGRAM_MAX)
            received += 1
            os.pwrite(count, received.to_bytes(8, "little"), 0)


if __name__ == "__main__":
    main()
