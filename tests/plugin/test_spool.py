import asyncio
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox_plugin import spool
from farebox_plugin.spool import (
    ALLOWED,
    CLOSED,
    INTENT,
    SYNC_INTERVAL_S,
    SpoolDamaged,
    SpoolFull,
    SpoolReader,
    SpoolWriter,
    record,
    segments,
    settled_record,
)

TURN = [record(INTENT, "rid1", "acct1", "hold"), record(ALLOWED, "acct1", "rid1")]


def read_all(folder: Path, spool: str = "w0", position: int = 0) -> list[bytes]:
    reader = SpoolReader(folder, spool, position)
    kinds = []
    while frames := reader.read():
        kinds += [each.kind for frame in frames for each in frame.records]
    return kinds


def the_file(folder: Path) -> Path:
    return segments(folder)["w0"][-1][1]


@settings(max_examples=50)
@given(st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=5), max_size=12), st.integers(64, 4096))
def test_what_was_written_is_read_back_whatever_the_segment_size(turns: list[list[bytes]], segment_bytes: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        writer = SpoolWriter(Path(folder), "w0", segment_bytes)
        for turn in turns:
            writer.append([settled_record(body) for body in turn])
        end = writer.end
        writer.close()
        reader = SpoolReader(Path(folder), "w0")
        found = []
        while frames := reader.read(bytes_max=256):
            found += [[each.body for each in frame.records] for frame in frames]
        assert found == turns
        assert reader.position == end


def test_a_position_is_absolute_over_segments(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w0", segment_bytes=100)
    ends = []
    for _ in range(10):
        writer.append(TURN)
        ends.append(writer.end)
    writer.close()
    assert len(segments(tmp_path)["w0"]) > 1
    for done, end in enumerate(ends, start=1):
        assert len(read_all(tmp_path, position=end)) == 2 * (10 - done)


def test_a_reader_follows_a_writer(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w0")
    reader = SpoolReader(tmp_path, "w0")
    assert reader.read() == []
    writer.append(TURN)
    assert [frame.end for frame in reader.read()] == [writer.end]
    assert reader.read() == []
    writer.append([record(CLOSED, "acct1", "rid1")])
    assert [each.kind for frame in reader.read() for each in frame.records] == [CLOSED]
    writer.close()


def test_wherever_the_last_frame_is_torn_reading_stops_before_it_and_that_is_no_damage(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w0")
    writer.append(TURN)
    middle = writer.end
    writer.append(TURN)
    end = writer.end
    writer.close()
    for cut in range(1, end - middle + 1):
        os.truncate(the_file(tmp_path), end - cut)
        assert len(read_all(tmp_path)) == 2, f"{cut} bytes are missing"


@pytest.mark.parametrize("zeros", [1, 7, 8, 4096])
def test_zeros_behind_a_half_written_frame_are_a_power_cut_and_no_damage(tmp_path: Path, zeros: int) -> None:
    writer = SpoolWriter(tmp_path, "w0")
    writer.append([record(INTENT, "a", "s", "k", "p", "h", "r1")])
    whole = writer.end
    writer.append([record(INTENT, "a", "s", "k", "p", "h", "r2")])
    writer.close()
    (_, path) = segments(tmp_path)["w0"][0]
    size = path.stat().st_size
    for kept in range(whole, size):
        with path.open("r+b") as file:
            data = file.read()
            file.seek(0)
            file.write(data[:kept] + b"\0" * (size - kept + zeros))
        found = [each.fields()[-1] for frame in SpoolReader(tmp_path, "w0").read() for each in frame.records]
        assert found == ["r1"]
        path.write_bytes(data)


def test_every_flipped_bit_of_the_last_frame_is_noticed(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w0")
    writer.append(TURN)
    middle = writer.end
    writer.append(TURN)
    writer.close()
    whole = the_file(tmp_path).read_bytes()
    for position in range(middle + 4, len(whole)):
        broken = bytearray(whole)
        broken[position] ^= 1
        the_file(tmp_path).write_bytes(broken)
        assert len(read_all(tmp_path)) == 2, position


def test_a_broken_frame_before_the_last_is_damage_and_is_not_skipped(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w0")
    writer.append(TURN)
    writer.append(TURN)
    writer.close()
    broken = bytearray(the_file(tmp_path).read_bytes())
    broken[12] ^= 1
    the_file(tmp_path).write_bytes(broken)
    with pytest.raises(SpoolDamaged):
        read_all(tmp_path)


def test_a_missing_segment_is_damage(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w0", segment_bytes=100)
    for _ in range(6):
        writer.append(TURN)
    writer.close()
    parts = segments(tmp_path)["w0"]
    assert len(parts) > 2
    parts[0][1].unlink()
    with pytest.raises(SpoolDamaged, match="missing"):
        read_all(tmp_path)


def test_what_append_has_taken_survives_kill_9(tmp_path: Path) -> None:
    script = (
        "import os, sys, pathlib\n"
        "from farebox_plugin.spool import *\n"
        "w = SpoolWriter(pathlib.Path(sys.argv[1]), 'w0')\n"
        "for n in range(100): w.append([record(INTENT, str(n), 'a')])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert len(read_all(tmp_path)) == 100


def test_a_full_disk_refuses_the_record_and_loses_none_before_or_after(tmp_path: Path) -> None:
    # A file-size limit makes write(2) come up short exactly as a full disk does.
    script = (
        "import resource, signal, sys, pathlib\n"
        "from farebox_plugin.spool import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "w = SpoolWriter(pathlib.Path(sys.argv[1]), 'w0')\n"
        "big = [settled_record(b'x' * 1000)]\n"
        "w.append(big)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1500, -1))\n"
        "try: w.append(big)\n"
        "except SpoolFull: print('full')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))\n"
        "w.append(big)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "full"
    assert len(read_all(tmp_path)) == 2


def test_spools_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    SpoolWriter(tmp_path, "w0").close()
    assert the_file(tmp_path).stat().st_mode & 0o077 == 0


def test_an_unwritable_folder_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        SpoolWriter(tmp_path / "file" / "spool", "w0")


def test_a_full_disk_takes_what_is_over_and_nothing_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SpoolWriter(tmp_path, "w0", ballast_bytes=4096)
    assert writer.is_accepting
    (ballast,) = tmp_path.glob("*.ballast")
    assert ballast.stat().st_blocks * 512 >= 4096, "a ballast with holes keeps no room"
    write = os.write

    def on_a_full_disk(file: int, data: bytes) -> int:
        if ballast.exists():
            raise OSError(errno.ENOSPC, "full")
        return write(file, data)

    monkeypatch.setattr("farebox_plugin.spool.os.write", on_a_full_disk)
    writer.append(TURN)
    assert not ballast.exists()
    assert not writer.is_accepting
    assert len(read_all(tmp_path)) == 2
    monkeypatch.undo()
    writer._looked_at = -1e9  # half a second later
    assert writer.is_accepting, "room again"
    writer.close()
    assert not list(tmp_path.glob("*.ballast"))


def test_without_room_for_the_ballast_nothing_new_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("farebox_plugin.spool.os.posix_fallocate", no_room)
    writer = SpoolWriter(tmp_path, "w0")
    assert not writer.is_accepting
    assert list(tmp_path.glob("*.ballast*")) == []
    writer.close()


def test_beyond_the_budget_of_all_spools_together_nothing_new_is_accepted(tmp_path: Path) -> None:
    other = SpoolWriter(tmp_path, "w1")
    other.append([settled_record(b"x" * 2000)])
    assert SpoolWriter(tmp_path, "w0", budget_bytes=3000).is_accepting
    full = SpoolWriter(tmp_path, "w2", budget_bytes=1000)
    assert not full.is_accepting
    full.append(TURN)


def test_a_closed_spool_takes_nothing_and_writes_into_nobody_elses_file(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w0")
    writer.close()
    other = os.open(tmp_path / "other", os.O_WRONLY | os.O_CREAT)
    with pytest.raises(SpoolFull):
        writer.append(TURN)
    os.close(other)
    assert (tmp_path / "other").read_bytes() == b""


async def test_what_was_written_is_soon_forced_to_the_disk_and_what_was_not_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    writer = SpoolWriter(tmp_path, "w0")
    keeping = asyncio.create_task(writer.keep_synced(pytest.fail))
    await asyncio.sleep(5 * SYNC_INTERVAL_S)
    assert synced == []
    for turn in (1, 2):
        writer.append(TURN)
        async with asyncio.timeout(5):
            while len(synced) < turn:  # noqa: ASYNC110
                await asyncio.sleep(0)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await asyncio.sleep(2 * SYNC_INTERVAL_S)
    writer.append(TURN)
    await asyncio.sleep(5 * SYNC_INTERVAL_S)
    assert len(synced) == 2, "the task is over"
    writer.close()


async def test_a_disk_that_does_not_sync_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    writer = SpoolWriter(tmp_path, "w0")
    monkeypatch.setattr(os, "fdatasync", broken)
    told: list[OSError] = []
    writer.append(TURN)
    async with asyncio.timeout(5):
        await writer.keep_synced(told.append)
    assert [fault.errno for fault in told] == [errno.EIO]
    monkeypatch.undo()
    writer.close()


async def test_syncing_never_meets_a_segment_that_is_exchanged_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "SYNC_INTERVAL_S", 0.0)
    told: list[OSError] = []
    writer = SpoolWriter(tmp_path, "w0", segment_bytes=100)
    synced, closed = [-1], []
    sync_file, close = os.fdatasync, os.close

    def slow(number: int) -> None:
        synced[0] = number
        time.sleep(0.002)  # long enough for the loop to want another segment
        sync_file(number)
        synced[0] = -1

    def closing(number: int) -> None:
        closed.append(number == synced[0])
        close(number)

    monkeypatch.setattr(os, "fdatasync", slow)
    monkeypatch.setattr(os, "close", closing)
    keeping = asyncio.create_task(writer.keep_synced(told.append))
    met = 0
    for _ in range(60):
        met += synced[0] >= 0
        writer.append(TURN)
        await asyncio.sleep(0.001)
    writer.close()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert (told, any(closed)) == ([], False)
    assert met, "no append came while a sync was under way"
    assert len(segments(tmp_path)["w0"]) > 10
