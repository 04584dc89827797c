"""What a power cut may leave on the disk after the first calls of a log.

The rules, on purpose weaker than those of any one file system:

- Of a file, what was written since it was last synced may be there whole, be missing, be
  torn, or be zeros.
- ORDERED: the journal of a file system keeps the names and times of some moment, not before
  the last sync of anything (of what a file holds alone, by fdatasync, is none).
- UNORDERED: each file for itself is at any of the places that it has had since the last sync
  of a directory that it came to (or, unlinked, was in). A rename happens or not: never two
  places, never none. Times go back to the last sync of the file.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from recorder import Op, RecordingDisk

Place = tuple[int, str]
"""The directory that something is in, and its name there."""

Places = frozenset[Place]
NOWHERE: Places = frozenset()
SYNCS = frozenset(("fsync", "dirsync", "syncfs"))


class State(NamedTuple):
    """A tree: directories, and files with their bytes and times (None: whatever it is)."""

    directories: tuple[str, ...]
    files: tuple[tuple[str, bytes, int | None], ...]


class Choice(NamedTuple):
    """What may have become of one file: since which call it is where it is, and what is in it."""

    op: int
    places: Places
    data: bytes
    ns: int | None


class Node:
    """One file or directory with the places, bytes and times it had; op 0 is before the log."""

    def __init__(self, op: int, place: Place, *, directory: int = 0, data: bytes = b"", ns: int | None = None) -> None:
        self.directory = directory
        self.moves: list[tuple[int, Places]] = [(0, frozenset((place,)))] if op == 0 else [(0, NOWHERE)]
        self.floor = 0
        self.data = self.durable = data
        self.changed = range(0)
        self.times = [(0, ns)]
        self.times_floor = 0
        if op:
            self.move(op, frozenset((place,)))

    def move(self, op: int, places: Places) -> None:
        self.moves.append((op, places))

    def write(self, data: bytes, offset: int) -> None:
        self.data = self.data[:offset].ljust(offset, b"\0") + data + self.data[offset + len(data) :]
        end = offset + len(data)
        self.changed = (
            range(min(self.changed.start, offset), max(self.changed.stop, end)) if self.changed else range(offset, end)
        )

    def sync_data(self) -> None:
        self.durable, self.changed = self.data, range(0)

    def sync(self) -> None:
        self.sync_data()
        self.times_floor = len(self.times) - 1

    def sync_names(self, directory: int | None) -> None:
        """What came to this directory is durable, or was removed from it, with all before; None is all of them.

        Not what left it for another: to sync the source of a rename is to sync the wrong directory.
        """
        for index in range(self.floor + 1, len(self.moves)):
            before, after = self.moves[index - 1][1], self.moves[index][1]
            changed = after - before or before - after
            if directory is None or any(place[0] == directory for place in changed):
                self.floor = index

    def contents(self) -> list[bytes]:
        """What may be in it."""
        now, then = self.data, self.durable
        if now == then:
            return [now]
        start, stop = self.changed.start, self.changed.stop
        half, front = (start + stop) // 2, now[:start]
        torn = [
            now[:half] + then[half:],
            now[: stop - 1] + then[stop - 1 :],
            now[:half].ljust(stop, b"\0") + now[stop:],
        ]
        return list(dict.fromkeys([now, then, *torn, front.ljust(stop, b"\0") + now[stop:]]))

    def choices(self, moves: Sequence[tuple[int, Places]], times: Sequence[int | None]) -> list[Choice]:
        """Every combination; a file that is nowhere has no content."""
        found = []
        for op, places in moves:
            if not places or self.directory:
                found.append(Choice(op, places, b"", None))
                continue
            found += [Choice(op, places, data, ns) for data in self.contents() for ns in dict.fromkeys(times)]
        return found

    def at(self, moment: int) -> list[Choice]:
        """What may have become of it if names and times are those of a moment."""
        move = [entry for entry in self.moves if entry[0] <= moment][-1]
        time = [ns for op, ns in self.times if op <= moment][-1]
        return self.choices([move], [time])

    def since_synced(self) -> list[Choice]:
        """What may have become of it if nothing keeps it with the others."""
        return self.choices(self.moves[self.floor :], [ns for _, ns in self.times[self.times_floor :]])


class Moment:
    """The disk and its cache after the first calls of a log."""

    def __init__(self, disk: RecordingDisk, count: int) -> None:
        self.count = count
        self.last_sync = 0
        self._directories = dict(disk.first_directories)
        self._nodes: dict[int, Node] = {}
        self._together: list[tuple[int, Node, Node]] = []
        for path, ino in self._directories.items():
            if path:
                self._nodes[ino] = Node(0, self._place(path), directory=ino)
        for path, (ino, data, ns) in disk.first_files.items():
            self._nodes[ino] = Node(0, self._place(path), data=data, ns=ns)
        for number, op in enumerate(disk.ops[:count], 1):
            self._apply(number, op)
            if op.kind in SYNCS:
                self.last_sync = number

    def _place(self, path: str) -> Place:
        parent, _, name = path.rpartition("/")
        return self._directories[parent], name

    def _apply(self, number: int, op: Op) -> None:
        match op.kind:
            case "create":
                self._nodes[op.ino] = Node(number, self._place(op.path))
            case "mkdir":
                self._nodes[op.ino] = Node(number, self._place(op.path), directory=op.ino)
                self._directories[op.path] = op.ino
            case "write":
                self._nodes[op.ino].write(op.data, op.offset)
            case "utime":
                self._nodes[op.ino].times.append((number, op.ns))
            case "fsync":
                self._nodes[op.ino].sync()
            case "fdatasync":
                self._nodes[op.ino].sync_data()
            case "dirsync" | "syncfs":
                self._sync(op)
            case "exchange":
                self._exchange(number, op)
            case _:
                self._rename(number, op)

    def _sync(self, op: Op) -> None:
        for node in self._nodes.values():
            node.sync_names(None if op.kind == "syncfs" else op.ino)
            if op.kind == "syncfs":
                node.sync()

    def _exchange(self, number: int, op: Op) -> None:
        """Both or neither."""
        one, other = self._at(op.path), self._at(op.target)
        one.move(number, frozenset((self._place(op.target),)))
        other.move(number, frozenset((self._place(op.path),)))
        self._together.append((number, one, other))
        if one.directory:
            self._directories[op.path], self._directories[op.target] = other.directory, one.directory

    def _at(self, path: str) -> Node:
        """What has this name now."""
        place = self._place(path)
        (node,) = (node for node in self._nodes.values() if place in node.moves[-1][1])
        return node

    def _rename(self, number: int, op: Op) -> None:
        """Rename, link, unlink and rmdir: what changes the places of a file."""
        node = self._nodes[op.ino]
        places = node.moves[-1][1]
        if op.kind == "rename":
            target = self._place(op.target)
            for other in self._nodes.values():
                if target in other.moves[-1][1]:
                    other.move(number, other.moves[-1][1] - {target})
                    self._together.append((number, other, node))
        gone = NOWHERE if op.kind == "link" else frozenset((self._place(op.path),))
        came = NOWHERE if op.kind in ("unlink", "rmdir") else frozenset((self._place(op.target),))
        node.move(number, (places - gone) | came)
        if op.kind == "rmdir":
            del self._directories[op.path]

    def states(self, generator: random.Random, limit: int, *, ordered: bool = False) -> Iterator[State]:
        """The states that a cut may leave, on a file system that is ``ordered`` or on any.

        Of more than ``limit`` in one way of ordering, a sample.
        """
        nodes = list(self._nodes.values())
        for moment in range(self.last_sync, self.count + 1):
            for picked in _combinations([node.at(moment) for node in nodes], generator, limit):
                yield _state(nodes, picked)
        if ordered:
            return
        for picked in _combinations([node.since_synced() for node in nodes], generator, limit):
            if self._is_possible(nodes, picked):
                yield _state(nodes, picked)

    def _is_possible(self, nodes: Sequence[Node], picked: Sequence[Choice]) -> bool:
        taken = [place for choice in picked for place in choice.places]
        if len(set(taken)) < len(taken):
            return False  # a name stands for one file
        op_of = {id(node): choice.op for node, choice in zip(nodes, picked, strict=True)}
        return all((op_of[id(old)] >= number) == (op_of[id(new)] >= number) for number, old, new in self._together)


def _combinations(axes: Sequence[Sequence[Choice]], generator: random.Random, limit: int) -> Iterator[Sequence[Choice]]:
    """All of them; of too many the extremes, each single deviation from them, and some at random."""
    if math.prod(len(axis) for axis in axes) <= limit:
        yield from itertools.product(*axes)
        return
    left = limit
    for base in ([axis[-1] for axis in axes], [axis[0] for axis in axes]):
        yield base
        single = [(number, choice) for number, axis in enumerate(axes) for choice in axis if choice != base[number]]
        for number, choice in generator.sample(single, min(len(single), limit // 3)):
            left -= 1
            yield [*base[:number], choice, *base[number + 1 :]]
    for _ in range(left):
        yield [generator.choice(axis) for axis in axes]


def _state(nodes: Sequence[Node], picked: Sequence[Choice]) -> State:
    """What can be reached: in a directory that was never made there is nothing."""
    pairs = list(zip(nodes, picked, strict=True))
    homes = {node.directory: place for node, choice in pairs if node.directory for place in choice.places}
    directories = [path for place in homes.values() if (path := _path(place, homes))]
    files = (
        (path, choice.data, choice.ns)
        for node, choice in pairs
        if not node.directory
        for place in choice.places
        if (path := _path(place, homes))
    )
    return State(tuple(sorted(directories)), tuple(sorted(files)))


def _path(place: Place, homes: Mapping[int, Place]) -> str | None:
    directory, name = place
    if directory == 0:
        return name
    above = _path(homes[directory], homes) if directory in homes else None
    return None if above is None else f"{above}/{name}"
