"""Imports of archives that are cut off or damaged, and on disks that refuse."""

from __future__ import annotations

import errno
import gzip
import io
import lzma
import os
import random
import tarfile
from pathlib import Path
from typing import Any

import pytest
from making import exported, ids_on_disk, imported, lay, make, plain, sealed, tar

import mailq
from mailq import transfer
from mailq.engines.maildir import names
from mailq.engines.maildir.disk import Disk
from mailq.transfer.items import ErrorText, Item


def name_of(number: int, data: bytes = b"body") -> str:
    return names.format_name(sealed(number, data))


GOOD = (f"new/{name_of(1)}", b"body")


# What is cut off


def whole() -> bytes:
    """An archive of five messages: each takes a header and two blocks."""
    return tar(*((f"new/{name_of(n, b'x' * 600)}", b"x" * 600) for n in range(5)))


def counted(path: Path) -> bytes:
    """An export of six messages, two of them dead with an error text each."""
    for n in range(4):
        lay(path, plain(n))
    for n in (4, 5):
        lay(path, plain(n, tries="Er", state="dead")._replace(texts=(ErrorText(1, b"text", 0),)))
    return exported(path)


def noise(size: int) -> bytes:
    return random.Random(4).randbytes(size)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress], ids=["plain", "gzip", "xz"])
def test_wherever_an_archive_is_cut_what_came_before_is_stored_and_it_is_told(path: Path, pack: Any) -> None:
    make(path)
    data = pack(whole())
    end = len(data) if pack is not bytes else len(data.rstrip(b"\0")) // 512 * 512 + 512
    stored = 0
    for cut in (*range(1, end, 97), end - 4, end - 1):
        try:
            done = imported(path, data[:cut])
        except transfer.ImportStopped as stopped:
            cause, done = stopped.__cause__, stopped.done
        else:
            pytest.fail(f"cut after {cut} bytes of {end}, and nobody noticed")
        assert isinstance(cause, transfer.ArchiveDamaged | EOFError)
        stored += done.imported
        assert len(ids_on_disk(path)) == stored
    assert imported(path, data) == transfer.Imported(5 - stored, stored, 0)


@pytest.mark.parametrize("data", [b"", b"\x1f", b"\xfd7zXZ", b"rubbish", noise(5000), b"\x7fELF" + bytes(2000)])
def test_what_is_no_archive_makes_no_queue(path: Path, data: bytes) -> None:
    with pytest.raises(transfer.ImportStopped):
        imported(path, data, create=True)
    assert not path.exists()


def test_an_archive_that_goes_mad_in_the_middle_is_read_up_to_there(path: Path) -> None:
    make(path)
    data = bytearray(whole())
    data[3 * 1536 + 600 :] = noise(len(data) - 3 * 1536 - 600)
    with pytest.raises(transfer.ImportStopped, match="after 4 members") as stopped:
        imported(path, bytes(data))
    assert stopped.value.done.imported == 3


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress], ids=["gzip", "xz"])
def test_a_byte_that_was_flipped_in_a_compressed_archive_is_damage_wherever_it_is(
    path: Path, place: str, pack: Any
) -> None:
    data = pack(counted(Path(make(path))))
    stopped: list[BaseException | None] = []
    for at in range(10, len(data), 7):
        flipped = data[:at] + bytes([data[at] ^ 64]) + data[at + 1 :]
        try:
            assert imported(f"{place}/{at}", flipped, create=True) == transfer.Imported(6), "a bit that says nothing"
        except transfer.ImportStopped as error:
            stopped.append(error.__cause__)
    assert len(stopped) > len(data) // 7 - 5
    assert all(isinstance(cause, transfer.ArchiveDamaged) for cause in stopped)


def test_a_length_that_no_computer_has_room_for_is_damage(path: Path) -> None:
    """Tarfile takes it for the place where the next key stands."""
    record = b"9" * 40 + b" comment=x\n"
    info = tarfile.TarInfo("PaxHeaders/x")
    info.type, info.size = tarfile.XHDTYPE, len(record)
    header = info.tobuf(tarfile.USTAR_FORMAT) + record + bytes(-len(record) % 512)
    data = counted(Path(make(path)))
    with pytest.raises(transfer.ImportStopped, match="not an archive"):
        imported(path.parent / "other", header + data, create=True)


# What was zeroed


def silently(path: Path, data: bytes) -> transfer.Imported | None:
    """What was imported; None if something was told of."""
    make(path)
    told: list[str] = []
    try:
        done = imported(path, data, tell=told.append)
    except transfer.ImportStopped as stopped:
        done = stopped.done
        told.append(str(stopped))
    assert len(ids_on_disk(path)) == done.imported
    return None if told else done


def test_no_block_of_an_export_can_be_zeroed_in_silence(path: Path, place: str) -> None:
    data = counted(Path(make(path)))
    whole = transfer.Imported(6)
    last = len(data.rstrip(b"\0")) // 512
    for block in range(last + 1):
        at = block * 512
        for name, count in (("one", 1), ("three", 3), ("rest", len(data) // 512 - block)):
            zeroed = data[:at] + bytes(512 * count) + data[at + 512 * count :]
            done = silently(Path(f"{place}/{block}-{name}"), zeroed)
            assert done in (None, whole), (block, name)
            assert done is None or name != "rest"


def test_the_header_of_no_member_can_be_zeroed_in_silence(place: str) -> None:
    data = whole()
    for n in range(5):
        # Of the last one all together looks like the end: without a count nobody can know.
        for count in (1, 3) if n < 4 else (1,):
            zeroed = data[: n * 1536] + bytes(512 * count) + data[n * 1536 + 512 * count :]
            assert silently(Path(f"{place}/{n}-{count}"), zeroed) is None


END = {
    "two blocks": (bytes(1024), True),
    "a record": (bytes(10_240), True),
    "as tar -b 64": (bytes(64 * 512 - 4 * 1536), True),
    "as tar -b 2048": (bytes(2048 * 512 - 4 * 1536), True),
    "one block": (bytes(512), False),
    "one block and a half": (bytes(700), False),
    "more than any record": (bytes(1 << 21), False),
    "as no record": (bytes(64 * 512), False),
    "a member": (bytes(1024) + tar(GOOD), False),
    "something far behind": (bytes(9000) + b"x", False),
    "half a member": (bytes(512) + tar(GOOD), False),
}


@pytest.mark.parametrize(("end", "good"), END.values(), ids=END)
def test_an_archive_ends_as_tars_end_and_not_with_whatever_was_zeroed(path: Path, end: bytes, *, good: bool) -> None:
    members = tar(*((f"new/{name_of(n, b'x' * 600)}", b"x" * 600) for n in range(4)), end=False)
    assert len(members) == 4 * 1536
    assert (silently(path, members + end) == transfer.Imported(4)) is good
    assert len(ids_on_disk(path)) == 4


def test_an_export_with_a_message_taken_out_is_told_of_and_the_rest_is_taken(path: Path, tmp_path: Path) -> None:
    data = counted(Path(make(path)))
    name = names.format_name(sealed(2)).encode()
    at = data.index(b"new/" + name) // 512 * 512
    with pytest.raises(transfer.ImportStopped, match="there should be 6 messages before this, there are 5"):
        imported(make(tmp_path / "copy"), data[:at] + data[at + 1024 :])
    assert len(ids_on_disk(tmp_path / "copy")) == 5


def test_exports_may_be_put_together(path: Path, tmp_path: Path) -> None:
    data = counted(Path(make(path)))
    lay(path, plain(9))
    end = len(data.rstrip(b"\0")) // 512 * 512 + 512
    assert silently(tmp_path / "copy", data[:end] + exported(path)) == transfer.Imported(7, 6, 0)


class Endless(io.RawIOBase):
    """A tar whose second member has eight exabytes, as far as one reads."""

    def __init__(self, head: bytes, most: int) -> None:
        self.rest, self.most, self.largest = head, most, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.largest = max(self.largest, len(buffer))
        if not self.rest and self.most <= 0:
            return 0
        some = self.rest[: len(buffer)] or bytes(min(len(buffer), self.most))
        self.rest, self.most = self.rest[len(some) :], self.most - len(some)
        buffer[: len(some)] = some
        return len(some)


def test_an_endless_member_is_read_in_small_pieces_and_never_kept(path: Path) -> None:
    make(path)
    info = tarfile.TarInfo(f"new/{name_of(3)}")
    info.size = 1 << 60
    stream = Endless(tar(GOOD, end=False) + info.tobuf(tarfile.GNU_FORMAT), 20_000_000)
    told: list[str] = []
    with pytest.raises(transfer.ImportStopped, match="cut off") as stopped:
        transfer.import_(path, io.BufferedReader(stream), tell=told.append)
    assert stopped.value.done == transfer.Imported(1, 0, 1)
    assert "max_message_bytes" in told[0]
    assert stream.largest <= 1 << 17


@pytest.mark.parametrize("head", [b"", tar(GOOD)], ids=["nothing", "an archive"])
def test_endless_zeros_are_not_read_for_ever(path: Path, head: bytes) -> None:
    make(path)
    stream = Endless(head, 1 << 40)
    with pytest.raises(transfer.ImportStopped, match="what a power cut or a bad disk leaves") as stopped:
        transfer.import_(path, io.BufferedReader(stream))
    assert stopped.value.done.imported == bool(head)
    assert stream.most > (1 << 40) - (2 << 20)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("size", [1 << 40, -1])
def test_a_header_of_a_terabyte_is_not_read(path: Path, kind: bytes, size: int) -> None:
    make(path)
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, size
    with pytest.raises(transfer.ImportStopped, match=r"after 1 members: .*header") as stopped:
        imported(path, tar(GOOD, end=False) + info.tobuf(tarfile.GNU_FORMAT) + bytes(10_000))
    assert stopped.value.done.imported == 1


# When the disk refuses


class FailingDisk(Disk):
    """From one call on there is no room left."""

    def __init__(self, after: int, number: int) -> None:
        self.left, self.number = after, number

    def _step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(self.number, os.strerror(self.number))

    def write(self, fd: int, data: bytes | memoryview) -> int:
        self._step()
        return super().write(fd, data)

    def rename(self, source: str, target: str) -> None:
        self._step()
        super().rename(source, target)

    def sync_names(self, fd: int) -> os.stat_result:
        self._step()
        return super().sync_names(fd)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_full_disk_stops_it_nothing_is_half_there_and_a_second_run_completes_it(tmp_path: Path, number: int) -> None:
    source = make(tmp_path / "source")
    for n in range(4):
        lay(source, Item("ready", sealed(n, tries="E"), b"body", None, (ErrorText(1, b"text", 0),)))
    data = exported(source)
    for after in range(100):
        path = tmp_path / f"jobs{after}"
        mailq.open(path).close()
        disk = FailingDisk(after, number)
        try:
            done = imported(path, data, disk=disk)
        except transfer.ImportStopped as stopped:
            cause, done = stopped.__cause__, stopped.done
        else:
            cause = None
        assert disk.left >= 0 or (isinstance(cause, mailq.StorageError) and cause.errno == number)
        assert done.imported == (4 if disk.left >= 0 else 0)
        assert os.listdir(path / "tmp") == []
        assert len(ids_on_disk(path)) == done.imported
        if not done.imported:
            assert os.listdir(path / "errors") == []
        again = imported(path, data)
        assert again == transfer.Imported(4 - done.imported, done.imported, 0)
        assert sorted(os.listdir(path / "errors")) == sorted(os.listdir(f"{source}/errors")) or done.imported
        if disk.left >= 0:
            return
    pytest.fail("the disk never had room enough")


def test_what_a_killed_import_left_in_tmp_is_not_in_the_way_and_is_swept(path: Path) -> None:
    class Dies(Disk):
        def rename(self, source: str, target: str) -> None:
            raise SystemExit  # and, as who is killed, takes nothing back

        def unlink(self, path: str) -> None:
            raise SystemExit

    make(path)
    with pytest.raises(SystemExit):
        imported(path, tar(GOOD), disk=Dies())
    (left,) = os.listdir(path / "tmp")
    assert names.parse(left) is not None, "what reaps knows it for ours"
    assert imported(path, tar(GOOD)) == transfer.Imported(1, 0, 0)


def test_a_queue_in_memory_has_no_archive() -> None:
    with pytest.raises(mailq.UsageError, match="only queues on disk"):
        imported("memory://", b"")
    with pytest.raises(mailq.UsageError, match="only queues on disk"):
        exported("memory://")


# Headers that tarfile would take for more than they are


def header(name: str, kind: bytes, data: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def record(key: str, value: str) -> bytes:
    text = f" {key}={value}\n"
    return f"{len(text) + 2}{text}".encode()


def test_more_headers_in_a_row_than_a_member_has_are_damage(path: Path) -> None:
    make(path)
    some = header("x", tarfile.XGLTYPE, record("comment", "xxx"))
    with pytest.raises(transfer.ImportStopped, match=r"after 1 members: .*header") as stopped:
        imported(path, tar(GOOD, end=False) + some * 2000 + tar(GOOD))
    assert stopped.value.done.imported == 1


def test_what_a_global_header_says_is_not_kept(path: Path) -> None:
    make(path)
    some = header("x", tarfile.XGLTYPE, record("comment", "mailq export of 9 messages"))
    data = some + tar((f"new/{name_of(2)}", b"body"), (f"new/{name_of(3)}", b"body"))
    with pytest.raises(transfer.ImportStopped, match="should be 9 messages before this, there are 0"):
        imported(path, data)


@pytest.mark.parametrize(
    "says",
    [{"size": "-600"}, {"size": "x"}, {"mtime": "inf"}, {"GNU.sparse.map": "0,4,x"}, {"hdrcharset": "BINARY"}],
    ids=str,
)
def test_a_header_that_says_nonsense_stops_nothing_before_it(path: Path, says: dict[str, str]) -> None:
    make(path)
    (item,) = says.items()
    odd = header("x", tarfile.XHDTYPE, record(*item)) + tar((f"dead/{name_of(2, b'')}", b""), end=False)
    told: list[str] = []
    try:
        done = imported(path, tar(GOOD, end=False) + odd + tar((f"new/{name_of(3)}", b"body")), tell=told.append)
    except transfer.ImportStopped as stopped:
        done = stopped.done
    assert done.imported >= 1
    assert len(ids_on_disk(path)) == done.imported


def test_a_sparse_file_is_not_a_message(path: Path) -> None:
    make(path)
    sparse = header("x", tarfile.XHDTYPE, record("GNU.sparse.map", "0,4") + record("GNU.sparse.size", "9"))
    told: list[str] = []
    done = imported(path, tar(GOOD, end=False) + sparse + tar((f"new/{name_of(2)}", b"body")), tell=told.append)
    assert done == transfer.Imported(1, 0, 1)
    assert "not a regular file" in told[0]
