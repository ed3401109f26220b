"""Fault 12: a long time under load, with a worker that is killed now and then beside one that is not.

``SOAK_MINUTES`` (2): how long. ``SOAK_CSV``: a file for what was measured, a line a sample.
"""

from __future__ import annotations

import asyncio
import csv
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import psutil
import pytest
from chaos_world import Worker, World, seed

MINUTES = float(os.environ.get("SOAK_MINUTES", "2"))
RATE = 200.0
_SAMPLE_SECONDS = 2.0
_KILL_SECONDS = 25.0
#: Outputs may stand still for a session and a rebalance, and the input of that time is caught up with afterwards.
_LAG_SECONDS = 40.0


@dataclass
class Sample:
    """Seconds since the start; of the worker that is never killed: memory and open files; of the role: lag."""

    seconds: float
    memory_mib: float
    files: int
    lag: int
    kills: int


@pytest.mark.slow
@pytest.mark.timeout(int(MINUTES * 60 * 1.5) + 300)
async def test_memory_and_files_stay_flat_and_lag_bounded_for_as_long_as_it_runs(world: World, tmp_path: Path) -> None:
    rng = seed()
    steady, victim = world.start("steady"), world.start("victim")
    samples: list[Sample] = []
    kills = 0
    began = killed = shown = time.monotonic()
    async with world.load(RATE, rng):
        await world.progressed_in_all_lanes(1, 60)
        while (now := time.monotonic()) - began < MINUTES * 60:
            await asyncio.sleep(_SAMPLE_SECONDS)  # the interval of the samples, nothing is waited for
            assert steady.alive, "the worker that is never killed has ended"
            samples.append(await _sample(world, steady, now - began, kills))
            if now - killed > _KILL_SECONDS:
                victim.kill()
                victim, killed, kills = world.start("victim"), now, kills + 1
            if now - shown > 30:
                shown = now
                print(f"soak {(now - began) / 60:.1f} of {MINUTES:g} min: {samples[-1]}", flush=True)
    _write(samples, Path(os.environ.get("SOAK_CSV") or tmp_path / "soak.csv"))
    await world.check(history=False)
    _check(samples)


async def _sample(world: World, worker: Worker, seconds: float, kills: int) -> Sample:
    process = psutil.Process(worker.process.pid)
    ends = await world.ends("in0", "in1")
    lag = sum(sum(each) for each in ends.values()) - world.progress()
    return Sample(seconds, process.memory_info().rss / 2**20, process.num_fds(), lag, kills)


def _check(samples: Sequence[Sample]) -> None:
    """The last quarter beside the second: what is before that is warming up."""
    quarter = len(samples) // 4
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    memory = [statistics.median(each.memory_mib for each in part) for part in (early, late)]
    files = [statistics.median(each.files for each in part) for part in (early, late)]
    assert memory[1] <= memory[0] * 1.15 + 8, f"memory grew from {memory[0]:.0f} to {memory[1]:.0f} MiB"
    assert files[1] <= files[0] + 10, f"open files grew from {files[0]:g} to {files[1]:g}"
    worst = max(samples, key=lambda each: each.lag)
    assert worst.lag <= RATE * 2 * _LAG_SECONDS, f"{worst}"
    assert statistics.median(each.lag for each in late) <= RATE * 4, "the lag is not caught up with"


def _write(samples: Sequence[Sample], file: Path) -> None:
    with file.open("w", newline="") as out:
        table = csv.writer(out)
        table.writerow(Sample.__dataclass_fields__)
        table.writerows(astuple(each) for each in samples)
