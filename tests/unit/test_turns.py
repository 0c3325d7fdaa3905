# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.appd.turns and answers: who is served when, and how long answers are made."""

import asyncio
import gc
import time
from collections.abc import Hashable, Iterator

import pytest

from weft_runtime.appd import answers
from weft_runtime.appd.answers import LongAnswer, Places, Steps
from weft_runtime.appd.turns import ACCOUNTS_KEPT, CREDIT_S, Turns
from weft_runtime.protocol import QueryAppState, Response, Subscribed


class Worker:
    """A client with `work` things to do, each of which is noted in `done`."""

    def __init__(self, name: str, owner: Hashable, work: int, done: list[str], cost_s: float = 0.0) -> None:
        """Each thing uses `cost_s` seconds of CPU."""
        self.name = name
        self.owner = owner
        self.work = work
        self.done = done
        self.cost_s = cost_s

    def take_turn(self) -> bool:
        if self.name == "broken":
            raise ZeroDivisionError
        begun = time.thread_time()
        while time.thread_time() - begun < self.cost_s:
            pass
        self.done.append(self.name)
        self.work -= 1
        return self.work > 0


def order(
    *workers: tuple[str, Hashable, int] | tuple[str, Hashable, int, float], leaving: str = ""
) -> list[str]:
    """The names in the order in which their turns came, when all ask at once."""
    done: list[str] = []

    async def run() -> None:
        turns = Turns(lambda client, error: done.append("failed"))
        clients = [Worker(*worker[:3], done, *worker[3:]) for worker in workers]
        for client in clients:
            turns.ask(client)
            turns.ask(client)
        for client in clients:
            if client.name == leaving:
                turns.leave(client)
                turns.leave(client)
        # One piece of work an iteration of the loop, so that everything else is looked at in between.
        while any(client.work for client in clients if client.name not in (leaving, "broken")):
            before = len(done)
            await asyncio.sleep(0)
            assert len(done) <= before + 1

    asyncio.run(run())
    return done


async def passes(done: list[str], count: int) -> None:
    """Let the loop go on until so much is done."""
    while len(done) < count:  # noqa: ASYNC110 - it is the passes that count
        await asyncio.sleep(0)


def test_clients_come_in_turns() -> None:
    assert order(("a", 1, 3), ("b", 2, 1), ("c", 3, 2)) == ["a", "b", "c", "a", "c", "a"]


def test_a_user_with_many_connections_has_the_turns_of_one() -> None:
    assert order(("a", 1, 2), ("b", 1, 2), ("c", 1, 2), ("victim", 2, 3)) == [
        "a", "victim", "b", "victim", "c", "victim", "a", "b", "c",
    ]  # fmt: skip


def test_who_has_left_gets_no_turn_and_a_failure_costs_nobody_else_a_turn() -> None:
    assert order(("a", 1, 2), ("gone", 1, 1), ("b", 2, 2), leaving="gone") == ["a", "b", "a", "b"]
    assert order(("broken", 1, 1), ("a", 2, 2)) == ["failed", "a", "a"]


def test_owners_share_the_time_and_not_the_turns() -> None:
    # As much as CREDIT_S at once, so that it is soon used up.
    costly, cheap = ("costly", 1, 6, CREDIT_S), ("cheap", 2, 50)
    assert order(costly, cheap) == ["costly", *["cheap"] * 50, *["costly"] * 5]
    half = ("half", 2, 6, CREDIT_S * 0.55)
    assert order(costly, half) == [*["costly", "half", "half"] * 3, *["costly"] * 3]


def test_who_comes_late_is_served_first_but_for_so_long_only() -> None:
    """Whoever has asked for nothing for a while is ahead of who asks for much, and of who has come often."""
    done: list[str] = []

    async def run() -> None:
        turns = Turns(lambda client, error: done.append("failed"))
        turns.ask(Worker("much", 1, 1000, done, CREDIT_S / 10))
        await passes(done, 40)
        for name in ("first", "second"):
            turns.ask(Worker(name, 2, 30, done, CREDIT_S / 10))
        begun = len(done)
        await passes(done, begun + 40)
        late = [name for name in done[begun:] if name != "much"]
        # The time that it has not used is not saved: it is not ahead of the other one for longer than its credit.
        assert 20 <= len(late) <= 30
        assert "much" not in done[begun + 1 : begun + 8]
        assert late[:6] == ["first", "second"] * 3

    asyncio.run(run())


def test_a_crowd_of_users_does_not_make_forgotten_what_one_of_them_has_used() -> None:
    done: list[str] = []

    async def run() -> None:
        turns = Turns(lambda client, error: done.append("failed"))
        turns.ask(Worker("much", 0, 2, done, CREDIT_S))
        for number in range(1, 3 * ACCOUNTS_KEPT):
            turns.ask(Worker("little", number, 1, done))
            await passes(done, number + 1)
            assert len(turns._used) <= ACCOUNTS_KEPT + 1
        turns.ask(Worker("much", 0, 1, done))
        turns.ask(Worker("another", -1, 1, done))
        await passes(done, len(done) + 2)
        assert done[-2:] == ["another", "much"]

    asyncio.run(run())


def test_an_answer_is_made_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "SLICE_S", 0)  # each step is a slice then
    loop = asyncio.new_event_loop()
    waited: asyncio.Future[int] = loop.create_future()

    def steps() -> Steps:
        yield None
        yield waited
        return Subscribed(waited.result())

    def encode(message: Response) -> Iterator[bytes]:
        assert message == Subscribed(7)
        yield b"ab"
        yield b"cde"

    answer = LongAnswer(steps(), encode)
    waits = [(answer.go_on(), answer.waits_for) for _ in range(3)]
    # A turn that comes for another reason changes nothing.
    assert waits == [(False, None), (False, waited), (False, waited)]
    waited.set_result(7)
    assert [answer.go_on() for _ in range(3)] == [False, False, True]
    assert (answer.pieces, answer.size) == ([b"ab", b"cde"], 5)
    loop.close()


def test_an_answer_that_is_dropped_ends_its_steps_at_once() -> None:
    ended: list[bool] = []
    loop = asyncio.new_event_loop()

    def steps() -> Steps:
        try:
            yield loop.create_future()
        finally:
            ended.append(True)
        return None

    def encode(_: Response) -> Iterator[bytes]:
        raise AssertionError(QueryAppState)

    answer: LongAnswer[bytes] | None = LongAnswer(steps(), encode)
    assert answer is not None
    assert not answer.go_on()
    gc.disable()  # which would come some time, and until then a place is taken
    try:
        answer = None
        assert ended == [True]
    finally:
        gc.enable()
        loop.close()


def test_an_answer_that_was_sent_by_its_steps_has_no_pieces() -> None:
    def steps() -> Steps:
        yield None
        return None

    def encode(_: Response) -> Iterator[str]:
        raise AssertionError(QueryAppState)

    answer = LongAnswer(steps(), encode)
    assert answer.go_on()
    assert answer.pieces == []


def test_an_owner_has_four_answers_made_at_a_time() -> None:
    """Whoever waits gets the place of one that is done, or gone, in order; who is gone takes none."""
    begun: list[str] = []

    def steps(name: str) -> Steps:
        begun.append(name)
        yield None
        return None

    async def run() -> None:
        places = Places()
        made = {name: places.when_free(1, steps(name)) for name in "abcdefgh"}
        for one in made.values():
            next(one)
        assert begun == list("abcd")
        next(places.when_free(2, steps("other")))
        made["e"].close()  # while it waits
        with pytest.raises(StopIteration):
            next(made["a"])
        made["f"].close()  # when it has a place and has not begun
        next(made["g"])
        made["b"].close()  # in the middle of it
        next(made["h"])
        assert begun == ["a", "b", "c", "d", "other", "g", "h"]
        for name in "cdgh":
            made[name].close()
        again = [places.when_free(1, steps(name)) for name in "ijklm"]
        for one in again:
            next(one)
        assert begun[-4:] == list("ijkl")

    asyncio.run(run())
