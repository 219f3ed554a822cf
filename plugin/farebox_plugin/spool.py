"""The spool: an append-only file per worker, the truth of what happened until the ledger has it.

    frame    u32 length · u32 CRC-32 of the payload · payload           (little-endian)
    payload  records: u8 kind · u32 length · body                       (all records of one loop turn)

    I  intent    account subscription key policy hold rid…  about to ask for admission
    A  allowed   account rid…                               were let through (written before Envoy is answered)
    H  held      account hold rid                           what is held for it now, where that is not its intent's
    C  closed    account rid…                               refused, or this worker gave up on admitting them
    V  void      account rid…                               answered, but nothing is owed (a status that is not billed)
    S  settled   a serialized UsageEvent                    what one used, or some alike; billable from here on

Requests of one account that say the same in one turn share a record: that is what a busy account does.

Everything that one turn of the event loop has to say goes into one frame and one ``write(2)``: a process that is killed
afterwards has lost nothing, because the page cache is the kernel's. ``fdatasync`` follows from a thread within 10 ms
and bounds what a power cut can take.

A torn frame can only be the last one of a file whose writer died in the middle of a write; the reader stops before it.
Behind it may stand zeros, where a power cut let the file's size reach the disk before its content.
A broken frame anywhere else is damage, and reading stops with an error rather than skipping usage.

Positions are absolute byte offsets over the whole life of a spool. A segment's name carries the position of its first
byte, so ``position - base`` finds any byte, and segments that are shipped and checkpointed can be deleted by name.
"""

import asyncio
import contextlib
import errno
import math
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SEGMENT_BYTES = 64 * 1024 * 1024
SYNC_INTERVAL_S = 0.01
BUDGET_BYTES = 4 * 1024 * 1024 * 1024
BALLAST_BYTES = 4 * 1024 * 1024  # thousands of settlements: more than can be open at once
BALLAST_SUFFIX = ".ballast"
LOOK_INTERVAL_S = 0.5
_FRAME = struct.Struct("<II")
_RECORD = struct.Struct("<cI")

INTENT, ALLOWED, HELD, CLOSED, VOID, SETTLED = b"I", b"A", b"H", b"C", b"V", b"S"
_SEPARATOR = "\0"


class SpoolDamaged(Exception):
    """A frame that is not the last of its spool fails its checksum."""


class SpoolFull(Exception):
    """The disk does not take the record: nothing billable may be let through."""


class Record(NamedTuple):
    kind: bytes
    body: bytes

    def fields(self) -> list[str]:
        """The parts of an I, A, H, C or V record."""
        return self.body.decode().split(_SEPARATOR)


@dataclass(frozen=True, slots=True)
class Frame:
    """What one turn of the writer's loop had to say. `end` is the position behind it; cursors stand only there."""

    end: int
    records: list[Record]


def record(kind: bytes, *fields: str) -> bytes:
    body = _SEPARATOR.join(fields).encode()
    return _RECORD.pack(kind, len(body)) + body


def settled_record(event: bytes) -> bytes:
    return _RECORD.pack(SETTLED, len(event)) + event


def parse_records(payload: bytes) -> Iterator[Record]:
    position, end = 0, len(payload)
    while position < end:
        kind, length = _RECORD.unpack_from(payload, position)
        position += _RECORD.size
        yield Record(kind, payload[position : position + length])
        position += length


def segment_name(spool: str, base: int) -> str:
    return f"{spool}.{base:020d}.seg"


def segments(directory: Path) -> dict[str, list[tuple[int, Path]]]:
    """All spools in a directory: name -> [(base position, file)], ascending."""
    found: dict[str, list[tuple[int, Path]]] = {}
    for path in directory.glob("*.seg"):
        spool, base, _ = path.name.rsplit(".", 2)
        found.setdefault(spool, []).append((int(base), path))
    for parts in found.values():
        parts.sort()
    return found


class SpoolWriter:
    """Appends to one spool. Not thread-safe: it belongs to one event loop (`sync` may be called by any thread).

    What is over must be written even when the disk is full; what has not begun can be refused. So some space is kept by
    a file of its own (the ballast) that gives way when it is needed; from then on, as beyond `budget_bytes` of spools
    in the directory, nothing new is accepted.
    """

    def __init__(
        self,
        directory: Path,
        spool: str,
        segment_bytes: int = SEGMENT_BYTES,
        budget_bytes: int = BUDGET_BYTES,
        ballast_bytes: int = BALLAST_BYTES,
    ) -> None:
        self.spool = spool
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._budget_bytes = budget_bytes
        self._ballast_bytes = ballast_bytes
        self._ballast = directory / f"{spool}{BALLAST_SUFFIX}"
        self._is_accepting = False
        self._looked_at = -math.inf
        self._base = 0
        self._size = 0
        self._dirty = False
        self._syncing = threading.Lock()  # held over whatever must not meet a file that is closed or exchanged
        directory.mkdir(parents=True, exist_ok=True)
        self._file = self._open()

    @property
    def is_accepting(self) -> bool:
        """Whether there is room for requests that have not begun: looked at twice a second."""
        now = time.monotonic()
        if now - self._looked_at > LOOK_INTERVAL_S:
            self._looked_at = now
            self._is_accepting = self._has_ballast() and self._bytes_in_directory() < self._budget_bytes
        return self._is_accepting

    @property
    def end(self) -> int:
        return self._base + self._size

    def append(self, records: list[bytes]) -> None:
        """Write records as one frame. When it returns they survive the death of this process."""
        payload = b"".join(records)
        frame = _FRAME.pack(len(payload), zlib.crc32(payload)) + payload
        if self._size and self._size + len(frame) > self._segment_bytes:
            self._rotate()
        try:
            self._write(frame)
        except SpoolFull:
            if not self._ballast.exists():
                raise
            self._ballast.unlink(missing_ok=True)
            self._is_accepting = False
            self._looked_at = time.monotonic()
            self._write(frame)
        self._size += len(frame)
        self._dirty = True

    def _write(self, frame: bytes) -> None:
        if self._file < 0:
            raise SpoolFull("the spool is closed")
        try:
            written = os.write(self._file, frame)
        except OSError as fault:
            raise SpoolFull(os.strerror(fault.errno or errno.EIO)) from fault
        if written != len(frame):
            # A short write means the disk is full. Take the torn frame back: the next one must not be lost behind it.
            os.ftruncate(self._file, self._size)
            raise SpoolFull("no space left on device")

    def sync(self) -> None:
        """Force what was written to the disk (blocking)."""
        if self._dirty:
            with self._syncing:
                self._dirty = False
                if self._file >= 0:  # else it was closed meanwhile, and that has synced it
                    os.fdatasync(self._file) if hasattr(os, "fdatasync") else os.fsync(self._file)

    async def keep_synced(self, failed: Callable[[OSError], None]) -> None:
        """Group commit, for as long as the task runs.

        After a failed sync the kernel may have dropped the pages: `failed` must stop admissions.
        """
        loop = asyncio.get_running_loop()
        fault: asyncio.Future[OSError] = loop.create_future()
        is_over = threading.Event()

        def found(error: OSError) -> None:
            if not fault.done():
                fault.set_result(error)

        # A thread of its own that sleeps by itself. To hand each sync to a pool, and its end back to the loop, costs
        # 3 us a request in passing the interpreter's lock to and fro.
        def sync_now_and_then() -> None:
            while not is_over.is_set():
                time.sleep(SYNC_INTERVAL_S)
                try:
                    self.sync()
                except OSError as error:
                    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to be told
                        loop.call_soon_threadsafe(found, error)
                    return

        threading.Thread(target=sync_now_and_then, name="spool-sync", daemon=True).start()
        try:
            failed(await fault)
        finally:
            is_over.set()

    def close(self) -> None:
        self.sync()
        with self._syncing:
            os.close(self._file)
            self._file = -1  # the number may soon be another file's
        self._ballast.unlink(missing_ok=True)

    def _has_ballast(self) -> bool:
        """Make it if it is not there; False: there is no room for it."""
        if self._ballast.exists():
            return True
        draft = os.open(self._ballast.with_suffix(".new"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(draft, 0, self._ballast_bytes)
            else:
                os.write(draft, bytes(self._ballast_bytes))
        except OSError:
            self._ballast.with_suffix(".new").unlink()
            return False
        finally:
            os.close(draft)
        self._ballast.with_suffix(".new").replace(self._ballast)
        return True

    def _bytes_in_directory(self) -> int:
        total = 0
        for parts in segments(self._directory).values():
            for _, path in parts:
                with contextlib.suppress(FileNotFoundError):  # delivered and deleted meanwhile
                    total += path.stat().st_size
        return total

    def _open(self) -> int:
        path = self._directory / segment_name(self.spool, self._base)
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        directory = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return opened

    def _rotate(self) -> None:
        with self._syncing:
            os.fsync(self._file)
            os.close(self._file)
            self._base, self._size, self._dirty = self._base + self._size, 0, False
            self._file = self._open()


class SpoolReader:
    """Reads one spool from a position on, while its writer may still be appending."""

    def __init__(self, directory: Path, spool: str, position: int = 0) -> None:
        self.spool = spool
        self.position = position
        self._directory = directory

    def read(self, bytes_max: int = 1 << 22) -> list[Frame]:
        """The next whole frames, about `bytes_max` at a time; moves `position` behind them. Empty: there is no more.

        Raises SpoolDamaged when a frame that cannot be a torn tail is broken.
        """
        found = self._segment()
        if found is None:
            return []
        base, path, is_last = found
        with path.open("rb") as file:
            file.seek(self.position - base)
            data = file.read(bytes_max)
            is_all = len(data) < bytes_max
            frames, used = self._frames(data, may_be_torn=is_last and is_all)
            if not used and not is_all:  # one frame is larger than the window
                data, is_all = data + file.read(), True
                frames, used = self._frames(data, may_be_torn=is_last)
        if is_all and used < len(data) and not is_last:
            raise SpoolDamaged(f"{self.spool}: half a frame at {self.position + used}")
        self.position += used
        return frames

    def _segment(self) -> tuple[int, Path, bool] | None:
        """The segment in which `position` lies: (its first position, file, whether it is the last)."""
        parts = segments(self._directory).get(self.spool, [])
        for index in range(len(parts) - 1, -1, -1):
            base, path = parts[index]
            if base <= self.position:
                return base, path, index == len(parts) - 1
        if parts:
            raise SpoolDamaged(f"{self.spool}: bytes {self.position}..{parts[0][0]} are missing")
        return None

    def _frames(self, data: bytes, *, may_be_torn: bool) -> tuple[list[Frame], int]:
        frames: list[Frame] = []
        position, end = 0, len(data)
        while end - position >= _FRAME.size:
            length, checksum = _FRAME.unpack_from(data, position)
            start = position + _FRAME.size
            if start + length > end:
                break
            payload = data[start : start + length]
            if zlib.crc32(payload) != checksum:
                # After a power cut a file may be longer than what reached the disk: the rest of it is zeros.
                if may_be_torn and not data[start + length :].strip(b"\0"):
                    break
                raise SpoolDamaged(f"{self.spool}: checksum at {self.position + position}")
            position = start + length
            frames.append(Frame(self.position + position, list(parse_records(payload))))
        return frames, position
