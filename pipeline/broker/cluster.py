"""The one door to a Kafka: an existing cluster where the environment names one, else the embedded broker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.broker.errors import BrokerError
from pipeline.broker.jars import Report
from pipeline.broker.ready import reach
from pipeline.broker.superuser import MECHANISM, Superuser
from pipeline.settings import KafkaSettings, Settings
from pipeline.stream.kafka import Kafka

__all__ = ["cluster"]

REACH_S = 30.0
RETRY_S = 0.5


@asynccontextmanager
async def cluster(
    settings: Settings,
    kafka_settings: KafkaSettings,
    *,
    progress: Report | None = None,
    deadline_s: float = REACH_S,
) -> AsyncIterator[Kafka]:
    """A Kafka that has answered. An embedded one keeps its data in ``<data_dir>/kafka`` and runs until the
    context ends; an existing one has ``deadline_s`` seconds to answer (it may be starting up beside us). Where the
    settings have SASL credentials and no address, the embedded one takes them as its superuser's.

    Raises BrokerError when there is none to be had.
    """
    if kafka_settings.bootstrap_servers:
        kafka = kafka_settings.kafka()
        await _await_cluster(kafka, deadline_s)
        yield kafka
        return
    broker = EmbeddedBroker(settings.data_dir / "kafka", superuser=_superuser(kafka_settings))
    await (broker.start_async(progress) if progress else broker.start_async())
    try:
        yield broker.kafka
    finally:
        await broker.stop_async()


def _superuser(given: KafkaSettings) -> Superuser | None:
    if given.security_protocol == "PLAINTEXT":
        return None
    if (given.security_protocol, given.sasl_mechanism) != ("SASL_PLAINTEXT", MECHANISM):
        raise BrokerError(
            f"the embedded Kafka takes KAFKA_SECURITY_PROTOCOL=SASL_PLAINTEXT with KAFKA_SASL_MECHANISM={MECHANISM}, "
            "or no credentials at all; for others name a cluster in KAFKA_BOOTSTRAP_SERVERS"
        )
    if not given.sasl_username or given.sasl_password is None:
        raise BrokerError("set KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD: they become the embedded Kafka's superuser")
    return Superuser(given.sasl_username, given.sasl_password.get_secret_value())


async def _await_cluster(kafka: Kafka, deadline_s: float) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + deadline_s
    with _client_errors() as reasons:
        while True:
            try:
                await reach(kafka, max(0.1, deadline - loop.time()))
                return
            except Exception as error:
                # A setting that is wrong (a certificate that is not there, an address that is none) stays so.
                hopeless = isinstance(error, FileNotFoundError | ValueError | AssertionError)
                if hopeless or loop.time() + RETRY_S > deadline:
                    why = (
                        reasons[-1]
                        if reasons and not hopeless
                        else f"{type(error).__name__}: {str(error) or 'no answer in time'}"
                    )
                    raise BrokerError(
                        f"the Kafka cluster at {kafka.bootstrap_servers} ({kafka.security_protocol}) does not "
                        f"answer: {why}. Check KAFKA_BOOTSTRAP_SERVERS, the KAFKA_SASL_* and KAFKA_SSL_* "
                        "settings and the network; without KAFKA_BOOTSTRAP_SERVERS an embedded one is used"
                    ) from error
            await asyncio.sleep(RETRY_S)


@contextmanager
def _client_errors() -> Iterator[list[str]]:
    """What the client says of its attempts: it logs why a connection failed, and raises only that it did."""
    reasons: list[str] = []

    def collect(record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        reasons.append(record.getMessage())
        return False

    loggers = [logging.getLogger("aiokafka"), logging.getLogger("aiokafka.conn")]
    for logger in loggers:
        logger.addFilter(collect)
    try:
        yield reasons
    finally:
        for logger in loggers:
            logger.removeFilter(collect)
