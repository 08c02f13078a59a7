"""The gate: how many run, who is next, and who is refused."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.server.gate import Full, Gate


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await work()

    asyncio.run(bounded())


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Visit:
    """A request that holds its slot until it is told to go."""

    def __init__(self, gate: Gate, client: str, log: list[str]) -> None:
        self.go = asyncio.Event()
        self.task = asyncio.create_task(self._run(gate, client, log))

    async def _run(self, gate: Gate, client: str, log: list[str]) -> None:
        async with gate.enter(client):
            log.append(client)
            await self.go.wait()


def test_so_many_run_and_the_rest_waits() -> None:
    async def work() -> None:
        gate, log = Gate(2, 10, 5.0), list[str]()
        visits = [Visit(gate, "a", log) for _ in range(3)]
        await settle()
        assert (gate.running, gate.waiting) == (2, 1)
        visits[0].go.set()
        await settle()
        assert (gate.running, gate.waiting, len(log)) == (2, 0, 3)
        for visit in visits:
            visit.go.set()
        await gate.idle()
        assert gate.running == 0

    run(work)


def test_clients_take_turns() -> None:
    async def work() -> None:
        gate, log = Gate(1, 10, 5.0), list[str]()
        visits = [Visit(gate, client, log) for client in ("busy", "busy", "busy", "busy", "late")]
        await settle()
        for visit in visits:
            visit.go.set()
        await gate.idle()
        assert log.index("late") == 2  # behind the one that runs and the first that waits

    run(work)


def test_a_full_queue_is_told_with_the_time_to_come_back() -> None:
    async def work() -> None:
        gate = Gate(1, 1, 5.0)
        visits = [Visit(gate, "a", []) for _ in range(2)]
        await settle()
        with pytest.raises(Full) as told:
            async with gate.enter("b"):
                pass
        assert told.value.retry_after_sec >= 1
        for visit in visits:
            visit.go.set()
        await gate.idle()

    run(work)


def test_a_wait_has_an_end_and_leaves_nothing_behind() -> None:
    async def work() -> None:
        gate = Gate(1, 5, 0.05)
        first = Visit(gate, "a", [])
        await settle()
        with pytest.raises(Full, match=r"within 0\.05 s"):
            async with gate.enter("b"):
                pass
        assert gate.waiting == 0
        first.go.set()
        await gate.idle()
        async with gate.enter("b") as waited:
            assert waited < 0.05

    run(work)


def test_whoever_goes_away_gives_up_its_place_or_its_slot() -> None:
    async def work() -> None:
        gate, log = Gate(1, 5, 5.0), list[str]()
        running, waiting, last = (Visit(gate, name, log) for name in "abc")
        await settle()
        waiting.task.cancel()
        await settle()
        assert gate.waiting == 1
        running.task.cancel()
        await settle()
        assert log == ["a", "c"]
        last.go.set()
        await gate.idle()

    run(work)


def test_held_nobody_enters_and_nobody_is_refused() -> None:
    async def work() -> None:
        gate, log = Gate(2, 5, 5.0), list[str]()
        running = Visit(gate, "a", log)
        await settle()
        gate.hold()
        held = Visit(gate, "b", log)
        await settle()
        assert log == ["a"]
        running.go.set()
        await gate.idle()
        assert log == ["a"]
        gate.release()
        await settle()
        assert log == ["a", "b"]
        held.go.set()
        await gate.idle()

    run(work)


@settings(max_examples=40, deadline=None)
@given(
    slots=st.integers(1, 4),
    clients=st.lists(st.sampled_from("abc"), min_size=1, max_size=20),
    gone=st.sets(st.integers(0, 19)),
)
def test_no_slot_is_lost_and_none_is_made(slots: int, clients: list[str], gone: set[int]) -> None:
    async def work() -> None:
        gate, log = Gate(slots, 100, 5.0), list[str]()
        visits = [Visit(gate, client, log) for client in clients]
        await settle()
        assert gate.running == min(slots, len(clients))
        for place, visit in enumerate(visits):
            if place in gone:
                visit.task.cancel()
            else:
                visit.go.set()
            await settle()
            assert 0 <= gate.running <= slots
        await gate.idle()
        assert (gate.running, gate.waiting) == (0, 0)
        stayed = Counter(client for place, client in enumerate(clients) if place not in gone)
        assert stayed <= Counter(log)

    run(work)
