# SPDX-License-Identifier: Apache-2.0
"""What is told of the end of a session."""

import signal

from weft_runtime.appd.cgroups import Usage, in_units
from weft_runtime.appd.child import Exit
from weft_runtime.appd.live import Live
from weft_runtime.appd.report import Account
from weft_runtime.journal import UNASKED_END, Event, Level

ITSELF = "itself"
"""Who is behind the end of an app that nobody has asked to end."""

_BY_SIGNAL = (128 + signal.SIGTERM, 128 + signal.SIGINT)
"""Statuses of a runtime that was told to end by a signal, and not by us."""


def tell(live: Live, account: Account, result: Exit, usage: Usage) -> None:
    """Log why and how `live` has ended: by what its runtime said, what its process left, and what it used."""
    _tell_cause(live, account, result, usage)
    _tell_end(live, result, usage)


def _tell_cause(live: Live, account: Account, result: Exit, usage: Usage) -> None:
    """Tell what its runtime would have told, had it not left that to us; and what it could not know."""
    event, reason = account.event, account.reason
    if reason is None and usage.out_of_memory:
        event, reason = Event.OUT_OF_MEMORY, usage.out_of_memory
    if event is None or reason is None:
        return
    fields = {"WEFT_REASON": reason}
    if result.status is not None:
        fields["WEFT_EXIT_STATUS"] = str(result.status)
    if account.problem is not None:
        fields["WEFT_PROBLEM"] = account.problem
    level = Level.CRIT if event is Event.INTERNAL_ERROR else Level.ERR
    live.entry(level, f"{reason}\n{account.detail}" if account.detail else reason, event, **fields)


def _by(live: Live, result: Exit) -> str | None:
    """Who is behind the end; None where nobody knows: any user's process may have got a signal from anybody."""
    if live.session.facts.ended_by is not None:
        return live.session.facts.ended_by
    is_signalled = result.signal is not None or result.status in _BY_SIGNAL
    return None if is_signalled else ITSELF


def _tell_end(live: Live, result: Exit, usage: Usage) -> None:
    session = live.session
    assert session.stopped_at is not None
    run_time = session.stopped_at - session.launched_at
    how = f"by {result.signal}" if result.signal else f"with status {result.status}"
    used = f"CPU {usage.cpu_seconds:.3f} s"
    if usage.memory_peak is not None:
        used += f", memory peak {in_units(usage.memory_peak)}"
    message = f"ended {how} after {run_time:.3f} s ({used}): {session.reason}"
    as_asked = result.status == 0 or session.stop_expected
    fields = {} if result.status is None else {"WEFT_EXIT_STATUS": str(result.status)}
    if result.signal is not None:
        fields["WEFT_SIGNAL"] = result.signal
    if (by := _by(live, result)) is not None:
        fields["WEFT_CALLER"] = by
    if not as_asked:
        fields["MESSAGE_ID"] = UNASKED_END
    if usage.memory_peak is not None:
        fields["WEFT_MEMORY_PEAK"] = str(usage.memory_peak)
    live.entry(
        Level.INFO if as_asked else Level.WARNING, message, Event.SESSION_ENDED,
        WEFT_REASON=session.reason or "", WEFT_RUN_USEC=str(round(run_time * 1e6)),
        WEFT_CPU_USEC=str(round(usage.cpu_seconds * 1e6)), **fields,
    )  # fmt: skip
