"""Secrets: readable with the key, by id, until erased; and by nobody else."""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from control_topics import make_control_topics
from eventually import eventually
from pydantic import SecretStr

from pipeline.control.secrets import MAX_CHARACTERS, SecretError, Secrets, load_keys
from pipeline.settings import Settings
from pipeline.stream.kafka import Kafka

KEY, OTHER = os.urandom(32), os.urandom(32)
VALUE = "hunter2-😀-whsec"


@asynccontextmanager
async def following(kafka: Kafka, *keys: bytes) -> AsyncIterator[Secrets]:
    secrets = Secrets(kafka, keys or (KEY,))
    await secrets.start()
    try:
        yield secrets
    finally:
        await secrets.stop()


@pytest.fixture
async def secrets(kafka: Kafka) -> AsyncIterator[Secrets]:
    await make_control_topics(kafka)
    async with following(kafka) as found:
        yield found


async def stored(kafka: Kafka) -> list[tuple[bytes | None, bytes | None]]:
    """Every record of the topic, as bytes."""
    async with kafka.consumer("secrets") as consumer:
        records: list[tuple[bytes | None, bytes | None]] = []
        partitions = consumer.assignment()
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            for batch in (await consumer.getmany(timeout_ms=200)).values():
                records += [(record.key, record.value) for record in batch]
        return records


@pytest.mark.kafka
async def test_a_secret_is_got_back_in_every_process_and_is_not_on_the_topic(secrets: Secrets, kafka: Kafka) -> None:
    async with following(kafka) as other:
        name = await secrets.put(VALUE)
        assert secrets.get(name) == VALUE
        assert await other.wait(name) == VALUE
    for key, value in await stored(kafka):
        assert VALUE.encode() not in (key or b"") + (value or b"")
    for text in (repr(secrets), str(secrets)):
        assert VALUE not in text
        assert repr(KEY) not in text


@pytest.mark.kafka
async def test_an_erased_secret_is_gone_everywhere_and_stays_gone(secrets: Secrets, kafka: Kafka) -> None:
    async with following(kafka) as other:
        name = await secrets.put(VALUE)
        await other.wait(name)
        sealed = other._sealed[name]
        await secrets.erase(name)
        with pytest.raises(SecretError, match="erased"):
            secrets.get(name)
        await eventually(lambda: name not in other._sealed, 5.0)
        with pytest.raises(SecretError, match="erased"):
            await other.wait(name)
        await other._write(name, sealed)  # a record that comes too late
        with pytest.raises(SecretError, match="erased"):
            other.get(name)


@pytest.mark.kafka
async def test_rotation_encrypts_with_the_new_key_and_the_old_one_can_go(secrets: Secrets, kafka: Kafka) -> None:
    name = await secrets.put(VALUE)
    async with following(kafka, OTHER) as stranger:
        with pytest.raises(SecretError, match="HEADRACE_SECRET_KEY"):
            stranger.get(name)
        foreign = [key for key, sealed in secrets._sealed.items() if sealed[1:5] != secrets._current]
        for key in foreign:  # left by other tests, under keys nobody has
            await secrets.erase(key)
        async with following(kafka, OTHER, KEY) as rotating:
            assert rotating.get(name) == VALUE
            assert await rotating.rotate() >= 1
            assert await rotating.rotate() == 0

        def readable() -> bool:
            try:
                return stranger.get(name) == VALUE
            except SecretError:  # the rotated record is still on its way to this follower
                return False

        await eventually(readable, 5.0, what="the rotated secret, read with the new key alone")


@pytest.mark.kafka
async def test_a_secret_cannot_be_passed_off_as_another_nor_altered(secrets: Secrets) -> None:
    name, victim = await secrets.put(VALUE), await secrets.put("other")
    sealed = secrets._sealed[name]
    for forged in (sealed, sealed[:-1] + bytes([sealed[-1] ^ 1]), sealed[:10], b"\x01", b"\x02" + sealed[1:]):
        await secrets._write(victim, forged)
        with pytest.raises(SecretError) as caught:
            secrets.get(victim)
        assert "other" not in str(caught.value).replace("another", "")
    assert secrets.get(name) == VALUE
    await secrets.erase(victim)


@pytest.mark.kafka
async def test_unknown_and_oversized(secrets: Secrets) -> None:
    with pytest.raises(SecretError, match="unknown"):
        secrets.get("s-nothing")
    with pytest.raises(SecretError, match="unknown"):
        await secrets.wait("s-nothing", timeout=0.05)
    for value in ("", "x" * (MAX_CHARACTERS + 1)):
        with pytest.raises(SecretError, match="characters"):
            await secrets.put(value)


def test_the_local_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: load_keys(settings), range(8)))
    assert all(each == keys[0] for each in keys)
    assert len(keys[0][0]) == 32
    path = tmp_path / "data" / "secret.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [child.name for child in path.parent.iterdir()] == ["secret.key"]
    path.chmod(0o644)
    with pytest.raises(SecretError, match="chmod 600"):
        load_keys(settings)


def test_keys_from_the_environment(tmp_path: Path) -> None:
    text = ",".join(base64.b64encode(key).decode() for key in (OTHER, KEY))
    assert load_keys(Settings(secret_key=SecretStr(text), data_dir=tmp_path)) == [OTHER, KEY]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "short", "!!!!", base64.b64encode(b"x" * 31).decode(), "ключ"])
def test_a_bad_key_is_refused_without_showing_it(text: str, tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="32 bytes in base64") as caught:
        load_keys(Settings(secret_key=SecretStr(text), data_dir=tmp_path))
    assert not text or text not in str(caught.value)


def test_a_key_of_another_length_is_refused() -> None:
    for keys in ([], [b"short"]):
        with pytest.raises(SecretError, match="32 bytes"):
            Secrets(Kafka("localhost:1"), keys)
