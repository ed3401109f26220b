"""A record batch that can be compressed before the producer knows its place in the sequence, and so in a thread.

aiokafka compresses a batch as it sends it, on the loop: a seventh of a busy lane's time. Compression lets go of the
interpreter; what the producer adds later (its id, its epoch, the batch's sequence number) lies outside the compressed
part, so it is written into the finished batch, and the checksum taken anew.
Source: Kafka's protocol guide, "Record Batch" (magic 2).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.util import calc_crc32c

__all__ = ["RecordBatch", "compress", "new_batch"]

_CRC, _ATTRIBUTES, _PRODUCER = 17, 21, 43


class RecordBatch(BatchBuilder):  # type: ignore[misc]
    """aiokafka's builder, with `compress`."""

    def compress(self) -> None:
        """Finish the batch; nothing can be added. May run in any thread, while nobody else touches the batch."""
        self._build()

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        if self._buffer is None:
            super()._set_producer_state(producer_id, producer_epoch, base_sequence)
            return
        struct.pack_into(">qhi", self._buffer, _PRODUCER, producer_id, producer_epoch, base_sequence)
        struct.pack_into(">I", self._buffer, _CRC, calc_crc32c(memoryview(self._buffer)[_ATTRIBUTES:]))


def compress(batches: Iterable[RecordBatch]) -> None:
    """Finish these batches."""
    for batch in batches:
        batch.compress()


def new_batch(producer: AIOKafkaProducer) -> RecordBatch:
    """An empty batch with the settings of ``producer``, as its own ``create_batch`` makes them."""
    accumulator = producer._message_accumulator
    return RecordBatch(
        accumulator._batch_size,
        accumulator._compression_type,
        is_transactional=producer._txn_manager is not None and producer._txn_manager.transactional_id is not None,
    )
