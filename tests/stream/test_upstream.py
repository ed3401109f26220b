"""What Faust and aiokafka do wrong, or don't do, and we work around: each as it is in the versions that are pinned.

A test that fails here says that a new version behaves: its docstring says what of ours can go then, and
docs/upstream.md lists them with the issues upstream. None of them is a wish: mend ours first, then the list.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import pkgutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiokafka.protocol
import faust
import pytest
import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError, OutOfOrderSequenceNumber
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.producer.sender import SendProduceReqHandler
from aiokafka.protocol.api import Request
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.transaction import EndTxnRequest, TxnOffsetCommitRequest
from eventually import eventually
from faust.assignor.client_assignment import ClientAssignment, ClientMetadata, CopartitionedAssignment
from faust.assignor.copartitioned_assignor import CopartitionedAssignor
from faust.types import TP
from records import make_topic

from pipeline.stream.group import faust_app
from pipeline.stream.kafka import FetchingEnded, Kafka, disconnect
from pipeline.stream.lanes import LaneChannel
from pipeline.stream.reader import open_reader

NOWHERE = Kafka("nowhere:9")


def test_the_versions_are_those_whose_behaviour_was_read() -> None:
    assert version("faust-streaming") == "0.15.3"
    assert version("aiokafka") == "0.14.0"


# -- Faust: acknowledgements and commits --------------------------------------------------------------------------


@pytest.fixture
def faust_consumer() -> Any:
    """Faust's consumer of an app that is not started."""
    return faust_app(NOWHERE, "app").consumer


async def test_faust_commits_past_an_event_that_is_still_processed(faust_consumer: Any) -> None:
    """#606. Event 7 is in hand, 8 and 9 are done: 10 would be committed, and 7 is lost if the process dies.

    Fixed: one reason less for lanes; see decision 0002.
    """
    tp = TP("t", 0)
    faust_consumer._committed_offset[tp] = 7
    faust_consumer._acked[tp] = [8, 9]
    assert faust_consumer._new_offset(tp) == 10


async def test_faust_books_a_commit_that_failed_as_done(faust_consumer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """#316; mended on the main branch by #692, in no release yet. Fixed: one reason less for lanes."""

    async def failing(offsets: Any) -> bool:
        return False

    async def flush() -> None:
        pass

    tp = TP("t", 0)
    monkeypatch.setattr(faust_consumer, "assignment", lambda: {tp})
    monkeypatch.setattr(faust_consumer, "_commit", failing)
    monkeypatch.setattr(faust_consumer.app, "producer", SimpleNamespace(flush=flush))
    assert not await faust_consumer._commit_offsets({tp: 5})
    assert faust_consumer._committed_offset[tp] == 5


async def test_faust_forgets_at_a_revocation_what_was_done_and_not_yet_committed(
    faust_consumer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """#502: what was done is done twice. Fixed: one reason less for lanes."""
    tp = TP("t", 0)
    faust_consumer._acked[tp] = [8, 9]
    left: list[bool] = []

    async def revoked(partitions: set[TP]) -> None:
        left.append(tp in faust_consumer._acked)

    monkeypatch.setattr(faust_consumer, "_on_partitions_revoked", revoked)
    await faust_consumer.on_partitions_revoked({tp})
    assert left == [False]


@asynccontextmanager
async def started(app: faust.App) -> AsyncIterator[faust.App]:
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


@pytest.mark.kafka
async def test_faust_commits_an_event_whose_processing_raised(kafka: Kafka, prefix: str) -> None:
    """#315 (and robinhood/faust#604): the `finally` of its streams acknowledges; `noack()` changes nothing of it.

    Fixed: one reason less for lanes.
    """
    await make_topic(kafka, prefix, 1)
    producer = kafka.producer()
    await producer.start()
    await producer.send_and_wait(prefix, b"x")
    await producer.stop()
    app = faust_app(kafka, prefix, broker_commit_interval=0.1, consumer_auto_offset_reset="earliest")

    @app.agent(app.topic(prefix, value_serializer="raw"), name="failing")
    async def fail(stream: Any) -> None:
        async for _ in stream:
            raise ValueError("a bug")

    consumer = kafka.consumer(group_id=prefix)
    await consumer.start()
    try:
        async with started(app):

            async def committed() -> bool:
                return bool(await consumer.committed(TopicPartition(prefix, 0)) == 1)

            await eventually(committed, 20, what="the commit of an event that failed")
    finally:
        await consumer.stop()


# -- Faust: tables ------------------------------------------------------------------------------------------------


@pytest.mark.kafka
async def test_faust_restores_for_ever_where_the_last_offset_holds_no_record(kafka: Kafka, prefix: str) -> None:
    """#176, #597, #47: it waits for a record at "end - 1", where a transaction marker stands, or what
    compaction took away. Fixed: `pipeline.stream.restore` is still 50 times as fast.
    """
    changelog = f"{prefix}-t-changelog"
    await make_topic(kafka, prefix, 1)
    await make_topic(kafka, changelog, 1)
    producer = kafka.producer(transactional_id=prefix)
    await producer.start()
    async with producer.transaction():
        await producer.send(changelog, b"1", key=b"k")
    await producer.stop()
    app = faust_app(kafka, prefix, store="memory://", topic_partitions=1)
    table = app.Table("t", partitions=1, key_type=bytes, value_type=bytes)

    @app.agent(app.topic(prefix, value_serializer="raw"), name="counting")
    async def count(stream: Any) -> None:
        async for _ in stream:
            table[b"k"] = b"2"

    starting = asyncio.create_task(app.start())  # it does not return before all is restored
    try:
        recovery = app.tables.recovery
        await eventually(lambda: recovery.active_offsets.get(TP(changelog, 0)) == 0, 20, what="the one record read")
        assert recovery.need_recovery()
        assert recovery.active_remaining_total() == 1
        assert not starting.done()
    finally:
        await app.stop()
        await starting


# -- Faust: groups ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("standbys", "own"), [(0, False), (1, True)])
async def test_faust_takes_another_assignor_where_there_are_no_standbys(standbys: int, own: bool) -> None:
    """#402 brought it, #658 would mend it for static members. The members of a group must agree on an assignor.

    Fixed: `table_standby_replicas=max(1, …)` in `pipeline.stream.lanes`.
    """
    app = faust_app(NOWHERE, "app", table_standby_replicas=standbys)
    thread = app.consumer._thread
    thread._create_worker_consumer(app.transport)
    assert (thread._assignor is app.assignor) == own
    assert (thread._assignor is RoundRobinPartitionAssignor) != own


def test_faust_gives_nothing_to_a_worker_that_comes_late() -> None:
    """#93: shares are rounded up, so of 8 lanes four workers have two, and a fifth that joins them gets none.

    Fixed: the advice in docs/operations.md.
    """
    shares: dict[str, Any] = {}
    for n in range(5):
        shares[f"worker {n}"] = CopartitionedAssignment(topics={"t"})
        shares = CopartitionedAssignor({"t"}, shares, num_partitions=8, replicas=1).get_assignment()
    assert sorted(len(share.actives) for share in shares.values()) == [0, 2, 2, 2, 2]


def test_faust_turns_a_static_member_away_that_comes_back_from_another_host() -> None:
    """The broker hands a static member its old assignment, and that has the old address in it (no issue found).

    Fixed: the host name of deploy/compose.yaml, and what docs/operations.md says of it.
    """
    old, new = (faust_app(NOWHERE, "app", canonical_url=f"http://{host}:6066") for host in ("old", "new"))
    metadata = ClientMetadata(
        assignment=ClientAssignment(actives={"lanes": [0]}, standbys={}),
        url=str(old.conf.canonical_url),
        changelog_distribution={},
        external_topic_distribution={},
        topic_groups={},
    )
    assignment = ConsumerProtocolMemberAssignment(1, [("lanes", [0])], old.assignor._compress(metadata.dumps()))
    old.assignor.on_assignment(assignment)
    with pytest.raises(AssertionError):
        new.assignor.on_assignment(assignment)


@pytest.mark.kafka
async def test_faust_lets_a_worker_without_partitions_drop_out_of_its_group(kafka: Kafka, prefix: str) -> None:
    """aiokafka#720, robinhood/faust#517: it does not poll for such a worker, so aiokafka leaves the group after
    `broker_max_poll_interval`, and never joins again. A spare worker is none then.

    Fixed: a `broker_max_poll_interval` without end.
    """
    await make_topic(kafka, prefix, 1)

    def member() -> faust.App:
        app = faust_app(kafka, prefix, broker_max_poll_interval=2.0, broker_session_timeout=6.0)

        @app.agent(app.topic(prefix, value_serializer="raw"), name="membership")
        async def hold(stream: Any) -> None:
            async for _ in stream:
                pass

        return app

    admin = kafka.admin()
    await admin.start()
    try:

        async def members() -> int:
            (answer,) = await admin.describe_consumer_groups([prefix])
            (group,) = answer.to_object()["groups"]
            return len(group["members"]) if group["state"] == "Stable" else -1

        async with started(member()), started(member()):

            async def both() -> bool:
                return await members() == 2

            async def one() -> bool:
                return await members() == 1

            await eventually(both, 20, what="two members")
            await eventually(one, 20, what="one of them gone")
    finally:
        await admin.close()


async def test_a_rebalance_empties_faust_s_channels() -> None:
    """`flow_control.clear()`, at each rebalance: whoever waits for what he sent there waits for ever.

    Fixed: `pipeline.stream.lanes.LaneChannel`.
    """
    app = faust_app(NOWHERE, "app")
    left = []
    for channel in (faust.Channel(app, maxsize=4), LaneChannel(app, maxsize=4)):
        channel.queue.put_nowait("work")
        app.flow_control.suspend()
        app.flow_control.clear()
        left.append(channel.queue.qsize())
    assert left == [0, 1]


@pytest.mark.parametrize(("rebalancing", "first"), [(False, "event"), (True, "bare")])
async def test_faust_s_streams_skip_events_while_a_rebalance_begins(rebalancing: bool, first: str) -> None:
    """Those of channels too, which no rebalance concerns: whoever waits for what comes of one waits for ever.

    Fixed: `LaneApp._submit` may send events; today it puts bare values, which are not skipped.
    """
    app = faust_app(NOWHERE, "app")
    channel = LaneChannel(app, maxsize=4)
    if not rebalancing:
        app.flow_control.resume()
    taken = asyncio.create_task(anext(aiter(app.stream(channel))))
    await eventually(lambda: channel.subscriber_count, 10, what="the stream")
    await channel.send(value="event")
    await channel.put("bare")
    assert await asyncio.wait_for(taken, 10) == first


# -- Faust: what is switched off ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    ["web_enabled", "web_tables_enabled", "web_router_enabled", "topic_disable_leader", "topic_allow_declare"],
)
def test_what_is_switched_off_would_be_on(setting: str) -> None:
    """A web server that shows tables to anyone, a leader topic (#602), topics made without being asked for.

    Fixed: the setting in `pipeline.stream.group.faust_app`.
    """
    assert getattr(faust.App("app").conf, setting) != getattr(faust_app(NOWHERE, "app").conf, setting)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_faust_leaves_a_directory_where_it_was_started(elsewhere: Path) -> None:
    """Fixed: `pipeline.stream.group._App`."""
    faust_app(NOWHERE, "ours")._create_directories()
    assert [*elsewhere.iterdir()] == []
    faust.App("app")._create_directories()
    assert [path.name for path in elsewhere.iterdir()] == ["app-data"]


# -- aiokafka: protocols ------------------------------------------------------------------------------------------


def requests() -> list[Any]:
    """Every request that aiokafka can make."""
    modules = [
        importlib.import_module(f"aiokafka.protocol.{found.name}")
        for found in pkgutil.iter_modules(aiokafka.protocol.__path__)
    ]
    return [
        each
        for module in modules
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Request) and each is not Request
    ]


def newest(request: Any) -> int:
    """The highest version of a request that aiokafka knows."""
    return max(int(each.API_VERSION) for each in request._CLASSES)


def test_aiokafka_has_neither_cooperative_rebalances_nor_kip_848() -> None:
    """#1126. So a rebalance takes all lanes away, and steps 9 and 10 of `pipeline.stream.lane` hold them meanwhile.

    Fixed, and taken up by Faust: `Lane.hold` and `go_on`.
    """
    keys = {each.API_KEY for each in requests()}
    join_group, consumer_group_heartbeat = 11, 68
    assert join_group in keys
    assert consumer_group_heartbeat not in keys
    package = Path(aiokafka.__path__[0])
    assert [path for path in package.rglob("*.py") if "cooperative" in path.read_text().lower()] == []


def test_aiokafka_commits_offsets_in_transactions_without_naming_the_member() -> None:
    """TxnOffsetCommit 0, before KIP-447 (3): the broker can't fence by the group's generation.

    Fixed: there may be one transactional id a process, decision 0003.
    """
    assert newest(TxnOffsetCommitRequest) < 3


def test_aiokafka_s_transactions_are_those_from_before_kip_890() -> None:
    """EndTxn 0, before KIP-890 (5): a broker that verifies transactions refuses the first batch of one as
    NotEnoughReplicas while the one before completes, and it is sent again (#1172).

    Fixed: `transaction.partition.verification.enable` in the embedded broker and deploy/compose.yaml, the row in
    docs/failures.md.
    """
    assert newest(EndTxnRequest) < 5


# -- aiokafka: producing ------------------------------------------------------------------------------------------


def test_aiokafka_takes_a_first_record_that_is_larger_than_the_batch() -> None:
    """The broker then refuses the batch. Fixed: the check of sizes in `pipeline.stream.transaction._Output.add`."""
    batch = BatchBuilder(100, 0)
    assert batch.append(timestamp=0, key=None, value=b"x" * 1000) is not None
    assert batch.append(timestamp=0, key=None, value=b"x") is None


@pytest.mark.kafka
async def test_aiokafka_forgets_a_topic_that_it_did_not_have_to_ask_for(kafka: Kafka, prefix: str) -> None:
    """Until it was asked for one by name it refreshes the metadata of all; once it was, of those that it was asked for
    and did not know. A batch for another then waits until it times out (#440, #1018 are near it).

    Fixed: `pipeline.stream.kafka.know`.
    """
    old, new = f"{prefix}.old", f"{prefix}.new"
    await make_topic(kafka, old, 1)
    producer = kafka.producer()
    await producer.start()
    try:
        await producer.client.force_metadata_update()  # as every few minutes, and after any error of a broker
        assert await producer.partitions_for(old) == {0}
        await make_topic(kafka, new, 1)
        assert await producer.partitions_for(new) == {0}
        assert old not in producer.client.cluster.topics()
    finally:
        await producer.stop()


def test_aiokafka_never_gives_up_on_a_batch_of_an_idempotent_producer() -> None:
    """By design (#197). Fixed: decision 0006 could be taken anew."""
    late = SimpleNamespace(expired=lambda: True)
    error = SimpleNamespace(retriable=True)
    for idempotent in (True, False):
        sender = SimpleNamespace(_txn_manager=object() if idempotent else None, _client=None, _retry_backoff=0)
        handler = SendProduceReqHandler.__new__(SendProduceReqHandler)
        handler._sender = sender
        assert handler._can_retry(error, late) == idempotent


@pytest.mark.kafka
async def test_a_batch_that_is_refused_leaves_a_hole_in_aiokafka_s_sequence(kafka: Kafka, prefix: str) -> None:
    """#1017 is of this kind. So a lane, and a redrive, start a new producer after a refusal (step 7).

    Fixed: they could go on with the one that they have; decision 0006 could be taken anew.
    """
    await make_topic(kafka, prefix, 1, **{"max.message.bytes": "1000"})
    producer = kafka.producer(compression_type=None)
    await producer.start()
    try:
        await producer.send_and_wait(prefix, b"x")
        with pytest.raises(MessageSizeTooLargeError):
            await producer.send_and_wait(prefix, b"x" * 2000)
        with pytest.raises(OutOfOrderSequenceNumber):
            await asyncio.wait_for(producer.send_and_wait(prefix, b"x"), 20)
    finally:
        await producer.stop()


# -- aiokafka: consuming ------------------------------------------------------------------------------------------


@pytest.mark.kafka
async def test_aiokafka_s_getmany_without_an_assignment_never_returns(kafka: Kafka) -> None:
    """Whatever its timeout (#666 is of this kind).

    Fixed: the wait for a first stream in `pipeline.sinks.reader`; lanes read with a method of their own.
    """
    consumer = kafka.consumer()
    await consumer.start()
    try:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(consumer.getmany(timeout_ms=10), 2)
    finally:
        await consumer.stop()


@pytest.mark.kafka
def test_aiokafka_does_not_expect_what_uvloop_says_of_a_closed_connection(kafka: Kafka) -> None:
    """#1038. What it does then, it does never again: fetch, send, take part in its group.

    Fixed: `pipeline.stream.kafka._refusing_closed`.
    """

    async def lose_a_connection() -> None:
        client = AIOKafkaClient(**kafka.auth())
        await client.bootstrap()
        try:
            node = client.get_random_node()
            theirs = functools.partial(AIOKafkaConnection.send.__wrapped__, await client._get_conn(node))
            for send, error in ((theirs, RuntimeError), (functools.partial(client.send, node), KafkaConnectionError)):
                connection = await client._get_conn(node)
                connection._writer.transport.abort()
                assert connection.connected()  # it does not know yet
                with pytest.raises(error):
                    await send(MetadataRequest([]))
                await eventually(functools.partial(_lost, connection))
            await eventually(client.force_metadata_update)
        finally:
            await client.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(lose_a_connection())


@pytest.mark.kafka
async def test_aiokafka_waits_for_ever_once_its_fetching_has_ended(
    kafka: Kafka, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """#983. Fixed: `pipeline.stream.kafka.Consumer` can go."""
    await make_topic(kafka, prefix, 1)
    reader, consumer = open_reader(kafka), kafka.consumer()
    for each in (reader, consumer):
        await each.start()
        monkeypatch.setattr(each._fetcher, "_proc_fetch_request", _bug)
    try:
        reader.read_from({TopicPartition(prefix, 0): 0})
        consumer.assign([TopicPartition(prefix, 0)])
        consumer.seek(TopicPartition(prefix, 0), 0)
        await eventually(reader._fetcher.error_future.done)
        await eventually(consumer._fetcher.error_future.done)
        assert await AIOKafkaConsumer.getmany(consumer, timeout_ms=500) == {}
        with pytest.raises(FetchingEnded):
            await consumer.getmany(timeout_ms=500)
        with pytest.raises(FetchingEnded):
            await reader.take(0.5, 10)
    finally:
        for each in (reader, consumer):
            await disconnect(each)


def _lost(connection: AIOKafkaConnection) -> bool:
    return not connection.connected()


async def _bug(*_: object) -> bool:
    raise RuntimeError("a bug")


@pytest.mark.kafka
async def test_aiokafka_does_not_go_back_where_nothing_was_committed(kafka: Kafka, prefix: str) -> None:
    """#1003. Faust goes back so after a rebalance, and loses what it had read by then.

    Fixed: nothing of ours; lanes ask for the beginning by name (`pipeline.stream.inputs`).
    """
    await make_topic(kafka, prefix, 1)
    producer = kafka.producer()
    await producer.start()
    await producer.send_and_wait(prefix, b"x")
    await producer.stop()
    tp = TopicPartition(prefix, 0)
    consumer = kafka.consumer(group_id=prefix)
    await consumer.start()
    try:
        consumer.assign([tp])
        assert (await asyncio.wait_for(consumer.getone(tp), 20)).offset == 0
        assert await consumer.seek_to_committed(tp) == {tp: None}
        assert await consumer.position(tp) == 1
    finally:
        await consumer.stop()


def test_aiokafka_asks_for_one_committed_offset_at_a_time() -> None:
    """300 topics are 300 requests. Fixed: `pipeline.stream.decided.committed`."""
    assert [*inspect.signature(AIOKafkaConsumer.committed).parameters] == ["self", "partition"]


def test_aiokafka_asks_for_offsets_that_a_transaction_may_change() -> None:
    """``require_stable`` came with version 7. Fixed: the request in `pipeline.stream.decided`."""
    assert max(struct.API_VERSION for struct in OffsetFetchRequest._CLASSES) == 3
