"""Ways to break mailq that matter, each with the tests that must notice.

A test that never fails proves nothing. Each mutant is one small change of the
source that breaks one promise; ``breaking.py`` makes it in a copy, and runs its tests.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Mutant(NamedTuple):
    """A change of one file, and what pytest is given to find it out."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


_STATES: Final = "tests/crash/test_crash_states.py::test_no_power_cut_breaks_a_promise"
_CONTRACT: Final = "tests/contract/test_engines.py"
_STORE: Final = "mailq/engines/maildir/store.py"
_ENGINE: Final = "mailq/engines/maildir/engine.py"
_DISK: Final = "mailq/engines/disk.py"
_ADMIN: Final = "mailq/engines/maildir/admin.py"
_REMAKING: Final = "mailq/engines/maildir/remaking.py"

DURABILITY: Final = (
    Mutant(
        "the directory of a push is not synced",
        _STORE,
        "                directory.sync()\n",
        "                pass\n",
        (f"{_STATES}[push]",),
    ),
    Mutant(
        "the wrong directory is synced: where a push came from",
        _STORE,
        "Held(self.disk, directory, ",
        "Held(self.disk, self.layout.tmp, ",
        (f"{_STATES}[push]",),
    ),
    Mutant(
        "the file of a push is not synced",
        _STORE,
        "sync=self.durable and not together",
        "sync=False",
        (f"{_STATES}[push]",),
    ),
    Mutant(
        "a batch is not synced",
        _STORE,
        "self.disk.syncfs(fd)",
        "pass",
        (f"{_STATES}[push_many]",),
    ),
    Mutant(
        "a push writes where it is delivered from",
        _STORE,
        """                    f"{self.layout.tmp}/{message.name}", message.data""",
        """                    f"{message.directory}/{message.name}", message.data""",
        (f"{_CONTRACT}", "-k", "a_body_comes_out_as_it_went_in"),
    ),
    Mutant(
        "a dead letter is not synced",
        _STORE,
        "                self.disk.sync_directory(os.path.dirname(target))\n",
        "                pass\n",
        (f"{_STATES}[reject]",),
    ),
    Mutant(
        "what a killed creator left is not synced",
        _STORE,
        "            self._sync_root(self.layout)\n",
        "",
        ("tests/crash/test_crash_states.py", "-k", "first_creator_was_killed"),
    ),
    Mutant(
        "the marker comes before its directories are synced",
        "mailq/engines/maildir/layout.py",
        "        _sync_with_ancestors(layout.root, disk)  # before",
        "        pass  # before",
        (f"{_STATES}[init_in_directories_to_be_made]",),
    ),
    Mutant(
        "an edit unlinks before it renames",
        _ADMIN,
        "            store.disk.rename(temporary, hold)\n",
        "            store.disk.unlink(hold)\n            store.disk.rename(temporary, hold)\n",
        (f"{_STATES}[edit]",),
    ),
    Mutant(
        "a reply is not synced",
        "mailq/engines/maildir/replies.py",
        "sync=store.durable)\n",
        "sync=False)\n",
        (f"{_STATES}[reply]",),
    ),
    Mutant(
        "a push does not notice that its directory was made anew",
        _REMAKING,
        "            if os.path.samestat(status, os.stat(self._path)):\n                return\n",
        "            return\n",
        (f"{_STATES}[remade_meanwhile]",),
    ),
    Mutant(
        "what was in the old directory is not synced before that is removed",
        _REMAKING,
        "                if self._store.durable:\n                    disk.sync_directory(path)\n",
        "                pass\n",
        (f"{_STATES}[remake]",),
    ),
    Mutant(
        "what was left in an old directory is not taken over",
        _REMAKING,
        "        for path in spares_of(self._store.layout):",
        "        for path in ():",
        (f"{_STATES}[remade_by_halves]",),
    ),
    Mutant(
        "the sync of a file is tried again after it failed",
        _DISK,
        """            if sync:
                self.fsync(fd)
""",
        """            if sync:
                try:
                    self.fsync(fd)
                except OSError:
                    self.fsync(fd)
""",
        ("tests/unit/test_disk.py", "-k", "never_tried_again"),
    ),
    Mutant(
        "a failed push leaves what it wrote",
        _STORE,
        """                self.disk.unlink(f"{self.layout.tmp}/{message.name}")
            except OSError:
""",
        """                pass
            except OSError:
""",
        ("tests/faults/test_each_call_fails.py", "-k", "push"),
    ),
    Mutant(
        "a failed push does not say what may be in the queue",
        _STORE,
        "                    maybe.append(target.id)\n",
        "                    pass\n",
        ("tests/faults/test_vanished.py",),
    ),
)

FENCES: Final = (
    Mutant(
        "an ack finds its message by id",
        _ENGINE,
        """            self._disk.unlink(f"{self._layout.cur}/{receipt}")""",
        """            held = [name for name in os.listdir(self._layout.cur) if envelope.id in name]
            self._disk.unlink(f"{self._layout.cur}/{(held or [receipt])[0]}")""",
        (_CONTRACT, "-k", "stale"),
    ),
    Mutant(
        "each claim of a message has the same name",
        _ENGINE,
        """        return f"{self._claims:06x}\"""",
        """        return "1\"""",
        (_CONTRACT, "-k", "stale or never_the_same"),
    ),
    Mutant(
        "a lease that has run out is extended",
        _ENGINE,
        "        if old is None or now >= old:\n",
        "        if old is None:\n",
        (_CONTRACT, "-k", "comes_too_late"),
    ),
    Mutant(
        "an extension that may have come too late is not taken back",
        _ENGINE,
        "            if self._clock() >= old:\n",
        "            if False:\n",
        ("tests/hand", "tests/unit", "-k", "deadline or extend or extension"),
    ),
    Mutant(
        "an extended deadline stays on the message that is given back",
        _STORE,
        "                self.disk.utime(path, most)\n",
        "                pass\n",
        ("tests/clocks", "tests/hand", "-k", "future or mtime or lengthen"),
    ),
    Mutant(
        "an extension does not count",
        "mailq/engines/maildir/reaper.py",
        "        return max(envelope.until, status.st_mtime_ns)\n",
        "        return envelope.until\n",
        (_CONTRACT, "-k", "extended_lease_holds"),
    ),
    Mutant(
        "the error text is written before the rename",
        _STORE,
        """        target = f"{self.layout.directory(state)}/{names.format_name(envelope)}"
        self.move(path, target)
        if error""",
        """        target = f"{self.layout.directory(state)}/{names.format_name(envelope)}"
        if error is not None:
            texts.write(self.disk, self.layout.errors, envelope.id, number, error, mode=self._mode)
        self.move(path, target)
        if error""",
        (_CONTRACT, "-k", "stale"),
    ),
    Mutant(
        "a process whose lock can be had lives",
        "mailq/engines/maildir/owners.py",
        "        return bool(same_kernel or story",
        "        return bool(False and same_kernel or story",
        ("tests/processes/test_death.py", "-k", "fresh_consumer"),
    ),
    Mutant(
        "every owner is taken for dead",
        "mailq/engines/maildir/owners.py",
        "        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)\n",
        "",
        ("tests/processes/test_death.py", "-k", "leaves_its_neighbours"),
    ),
    Mutant(
        "an owner is seen before it is locked",
        "mailq/engines/maildir/owners.py",
        """            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Locked before it can be seen: a sweeper that met it unlocked would take it for dead.
            self._disk.rename(temporary, f"{self._layout.owners}/{token}")
""",
        """            self._disk.rename(temporary, f"{self._layout.owners}/{token}")
            sweep(self._layout, self._disk)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
""",
        ("tests/processes/test_death.py", "-k", "leaves_its_neighbours"),
    ),
)

DELIVERIES: Final = (
    Mutant(
        "no checksum is checked",
        "mailq/message.py",
        "    return envelope.crc is None or envelope.crc == checksum(data)\n",
        "    return True\n",
        ("tests/crash/test_crash_states.py", "-k", "without_the_promise and push"),
    ),
    Mutant(
        "no size is checked",
        "mailq/message.py",
        "    if envelope.size is not None and envelope.size != len(data):\n        return False\n",
        "",
        ("tests/hand", "-k", "torn or size"),
    ),
    Mutant(
        "symlinks are followed",
        _DISK,
        '_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)',
        "_NOFOLLOW: Final = 0",
        ("tests/unit/test_disk.py", "-k", "symlink"),
    ),
    Mutant(
        "a FIFO is waited for",
        _DISK,
        '_READ: Final = os.O_RDONLY | _NOFOLLOW | getattr(os, "O_NONBLOCK", 0) | _BINARY',
        "_READ: Final = os.O_RDONLY | _NOFOLLOW | _BINARY",
        ("tests/unit/test_disk.py", "-k", "fifo", "--timeout=5"),
    ),
    Mutant(
        "a listing is taken for the truth",
        _ENGINE,
        "            if older := [key for key in keys if layout.time_of(key) < begun]:\n                return older\n",
        "            if keys:\n                return keys\n",
        ("tests/unit/test_listing.py",),
    ),
    Mutant(
        "what is unfit is deleted",
        _ENGINE,
        "                self._store.settle(held, step, error=verdict.text, attempt=0)\n",
        "                self._disk.unlink(held)\n",
        ("tests/hostile/test_garbage.py", "-k", "torn"),
    ),
    Mutant(
        "one message that cannot be moved stops the claim",
        _ENGINE,
        "                    failures[key] = error\n                    continue\n",
        "                    raise\n",
        ("tests/hand/test_hardness.py", "-k", "blocks_no_other"),
    ),
    Mutant(
        "a claim that is interrupted keeps the message",
        _ENGINE,
        "        except BaseException:  # an interrupt too: nobody will have the receipt\n",
        "        except ZeroDivisionError:\n",
        ("tests/hand", "tests/unit", "-k", "interrupt or fail"),
    ),
    Mutant(
        "a lapsed lease is not counted",
        "mailq/lifecycle.py",
        """        return Step("dead", envelope.buried("retries", letter=letter))
    if""",
        """        return Step("dead", envelope.buried("retries", letter=letter))
    letter = letter if letter != "T" else ""
    if""",
        (_CONTRACT, "-k", "every_lapse_counts"),
    ),
    Mutant(
        "times go backwards with the clock",
        "mailq/message.py",
        "            self._last = max(self._last + 1, self._clock())\n",
        "            self._last = self._clock()\n",
        (_CONTRACT, "-k", "clock_steps_back"),
    ),
    Mutant(
        "without the marker a queue looks empty",
        "mailq/engines/maildir/layout.py",
        '        raise QueueNotFound(layout.root, "the queue is gone (mailq.toml is missing)") from None\n',
        "        return\n",
        ("tests/hand", "-k", "marker or unmount or gone"),
    ),
    Mutant(
        "a redrive that is not synced",
        _ADMIN,
        "        store.disk.sync_directory(store.layout.new)\n",
        "        pass\n",
        (f"{_STATES}[redrive]",),
    ),
)

MUTANTS: Final = (*DURABILITY, *FENCES, *DELIVERIES)
