"""The gate: closed as long as asked, one probe, late answers open nothing."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.sinks.gate import Gate


async def test_closed_it_lets_one_probe_pass_and_opens_on_its_success() -> None:
    gate = Gate()
    assert gate.close(await gate.enter(), 0.05, "wait", alert=False)
    waiting = [asyncio.create_task(gate.enter()) for _ in range(3)]
    done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert (len(done), len(pending)) == (1, 2)
    assert gate.succeed(done.pop().result())
    await asyncio.gather(*pending)
    assert gate.pause is None


async def test_an_answer_to_a_request_from_before_the_closing_opens_nothing() -> None:
    gate = Gate()
    early, other = await gate.enter(), await gate.enter()
    gate.close(early, 60, "wait", alert=False)
    assert not gate.succeed(other)
    assert gate.pause is not None


async def test_a_probe_that_is_given_up_leaves_its_place() -> None:
    gate = Gate()
    gate.close(await gate.enter(), 0, "wait", alert=True)
    gate.leave(await gate.enter())
    await asyncio.wait_for(gate.enter(), 5)


async def test_a_failed_probe_closes_it_again_and_counts() -> None:
    gate = Gate()
    gate.close(await gate.enter(), 0, "one", alert=True)
    gate.close(await gate.enter(), 60, "two", alert=True)
    assert gate.closings == 2
    assert gate.pause is not None
    assert gate.pause.reason == "two"


async def test_an_edit_opens_it_for_those_who_wait() -> None:
    gate = Gate()
    gate.close(await gate.enter(), 60, "wrong", alert=True)
    waiting = asyncio.create_task(gate.enter())
    await asyncio.sleep(0)
    assert gate.reset()
    await asyncio.wait_for(waiting, 5)


async def test_a_late_refusal_only_ever_lengthens_the_closing() -> None:
    gate = Gate()
    first, late = await gate.enter(), await gate.enter()
    gate.close(first, 60, "one", alert=False)
    assert gate.pause is not None
    until = gate.pause.until
    assert not gate.close(late, 1, "two", alert=False), "it was closed already"
    assert gate.pause.until - until == pytest.approx(0, abs=1)
    gate.close(late, 120, "three", alert=False)
    assert gate.pause.until - until == pytest.approx(60, abs=5)
    assert gate.closings == 1
