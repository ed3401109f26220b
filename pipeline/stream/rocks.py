"""RocksDB as all its users here open it."""

from __future__ import annotations

import re

from rocksdict import BlockBasedOptions, Cache, Options

__all__ = ["is_locked", "options"]

#: How RocksDB says so, of another process or this one; "block checksum mismatch" has a lock in it too.
_LOCKED = re.compile(r"\block (file|hold)")


def options(cache: Cache, *, buffer_bytes: int, open_files: int, logs: int) -> Options:
    """Bytes in, bytes out; made where it is not there; blocks, their indexes and Bloom filters in ``cache``.

    ``buffer_bytes``: of writes that are not flushed; ``open_files``, ``logs``: at most so many.
    """
    blocks = BlockBasedOptions()
    blocks.set_block_cache(cache)
    blocks.set_bloom_filter(10, False)
    blocks.set_cache_index_and_filter_blocks(True)
    made = Options(raw_mode=True)
    made.create_if_missing(True)
    made.set_block_based_table_factory(blocks)
    made.set_write_buffer_size(buffer_bytes)
    made.set_max_open_files(open_files)
    made.set_keep_log_file_num(logs)
    return made


def is_locked(error: Exception) -> bool:
    """Whether opening failed because a process, perhaps this one, has it open."""
    return _LOCKED.search(str(error)) is not None
