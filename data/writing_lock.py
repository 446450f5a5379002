"""The lock of a stage's folder: one run at a time writes to its manifest, also where several hosts share the folder.

It is two locks. The operating system's ends with its process; on network storage it may reach no other host, or not
exist. Beside it lies a file with the holder's host, process and claim (filelock's ``SoftFileLease``), made with an
exclusive open, which NFS guarantees. Its time is touched every few seconds. Who finds it waits until the time moves,
and then knows that the holder lives; it takes the lock over at once if the holder was a process of this host that has
ended, and otherwise if the time has not moved for half a minute of its own steady clock. Clocks are never compared. On
NFS and SMB, where two names cannot be exchanged in one step, the half minute holds for this host too.

A process that stood still for so long has lost its lock, and learns it before it records anything (:func:`still_ours`).
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

from .artifact import STAGE_FILES, say_weaker, whole
from .errors import BusyError
from .file_names import UNFINISHED
from .surroundings import patiently, surroundings
from .workspace import make_folder, refuse_link

LEASE_SECONDS: Final = 30.0
"""A lock whose time has not moved for so long is taken over. All runs that share a folder must use the same."""
_HOLDER_SHOWN: Final = 300
_UNSIGNED: Final = 20.0
"""Seconds to wait for the signature of a holder."""
_PAUSE: Final = 0.1
_LOOKS: Final = 40
"""How often the time is looked at while the lease lasts."""

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL})
"""What file systems answer that have no locks (some of NFS, SMB and FUSE)."""


class FolderLock:
    """A lock of a folder, held by at most one process of all hosts.

    :param folder: where its files lie: ``.lock``, ``.lock-file`` and, for messages, ``.lock-holder.json``.
    :param name: of a further lock in that folder, before the names of its files.
    :param lease: seconds after which a lock whose time does not move is taken over.
    """

    def __init__(self, folder: Path, name: str = "", *, lease: float = LEASE_SECONDS) -> None:
        self.folder = folder
        self.file, self.claim = folder / f"{name}.lock", folder / f"{name}.lock-file"
        self.signed = folder / f"{name}.lock-holder.json"
        self._system: BaseFileLock | None = None
        self._lease = SoftFileLease(self.claim, lease_duration=lease, thread_local=False)
        self._seen: tuple[int, ...] | None = None
        self._seen_since = 0.0
        self._pause = lease / _LOOKS

    @property
    def holder(self) -> str:
        """What the holder wrote of itself."""
        try:
            text = self.signed.read_text() if self.signed.is_file() and not self.signed.is_symlink() else "unknown"
        except (OSError, UnicodeDecodeError):
            return "unknown"
        return "".join(character if character.isprintable() else " " for character in text[:_HOLDER_SHOWN])

    def acquire(self, **about: str) -> None:
        """Take the lock, or wait until it is certain that its holder lives.

        :param about: further words on what it is held for.
        :raises BusyError: another process holds it; the message says which.
        """
        while (taken := self.try_to_acquire(**about)) is None:
            time.sleep(self._pause)
        if not taken:
            raise self.busy()

    def try_to_acquire(self, **about: str) -> bool | None:
        """Take the lock if it is free; False if its holder lives, None if that is not certain yet: try again soon."""
        if self._system is None and not self._take_the_systems():
            return False
        try:
            self._lease.acquire(timeout=0)
        except Timeout:
            uncertain = self._may_be_dead()
            if not uncertain:
                self._release_the_systems()
            return None if uncertain else False
        except BaseException:
            self._release_the_systems()
            raise
        try:
            self._sign(about)
        except BaseException:
            self.release()
            raise
        _held[self.claim.absolute()] = self
        return True

    def _take_the_systems(self) -> bool:
        system = FileLock(self.file, fallback_to_soft=False)
        try:
            patiently(lambda: system.acquire(timeout=0), self.folder)
        except Timeout:
            return False
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise
            say_weaker("has no locks: a file with a heartbeat stands for them", self.folder)
        self._system = system
        return True

    def _release_the_systems(self) -> None:
        if self._system is not None:
            self._system.release()
            self._system = None

    def _may_be_dead(self) -> bool:
        """Whether the time of the claim has not moved since it was first seen here."""
        owner = self._lease.owner
        try:
            status = self.claim.stat()
        except FileNotFoundError:
            return True  # given back just now
        if status.st_size and (owner is None or owner.mode != "lease"):
            return False  # of an earlier wsipipe, which did not touch it: nobody can see whether its holder lives
        now = _stamp(status)
        if now != self._seen:
            first, self._seen, self._seen_since = self._seen is None, now, time.monotonic()
            return first
        if time.monotonic() - self._seen_since > self._lease.lease_duration + 2 * self._pause:
            self._clear_away(now)
        return True

    def _clear_away(self, dead: tuple[int, ...]) -> None:
        """Remove the claim of a dead holder where filelock does not: NFS and SMB cannot exchange two names at once.

        It is renamed first, which one of several contenders can do, and then looked at: if another's claim stands
        there by now, it is put back. If that fails, its holder sees before its next record that it has lost it.
        """
        aside = self.claim.with_name(f"{UNFINISHED}{self.claim.name}.{secrets.token_hex(8)}")
        with suppress(OSError):  # another contender was quicker
            self.claim.rename(aside)
            with aside.open("rb") as stream:  # opened, because the attributes in an NFS client's cache may be older
                if _stamp(os.fstat(stream.fileno())) != dead:
                    os.link(aside, self.claim)  # which replaces none
        with suppress(OSError):
            aside.unlink()

    def _sign(self, about: Mapping[str, str]) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        who = {"host": socket.gethostname(), "pid": os.getpid(), "since": now, **about}
        with whole(self.signed) as scratch:
            scratch.write_text(json.dumps(who))

    def busy(self) -> BusyError:
        """The error that says who holds it."""
        hint = "wait until it ends, or stop it; its lock ends with it"
        if self.claim.exists():
            hint = f"wait until it ends, or stop it; if it has ended already, remove {self.claim}"
        return BusyError(f"another run is writing here: {self.holder}", path=self.folder, hint=hint)

    def release(self) -> None:
        """Give the lock back, if it is held; nothing of it stays but the file of the operating system's."""
        _held.pop(self.claim.absolute(), None)
        if self._lease.is_locked and not self._is_lost():
            with suppress(OSError):  # only for messages
                self.signed.unlink(missing_ok=True)
        self._lease.release(force=True)
        self._release_the_systems()

    def _is_lost(self) -> bool:
        """Whether the claim on the disk is another's now. A contender may hold it aside for a moment to look at it."""
        for pause in (0.05, 0.2, 0.5):
            owner = patiently(lambda: self._lease.owner, self.claim)
            if owner is not None and owner.token == self._lease.token:
                return False
            time.sleep(pause)
        return True

    def check(self) -> None:
        """Make sure that the lock is still held.

        :raises BusyError: this process stood still for so long that another has taken it over.
        """
        if self._is_lost():
            raise BusyError(
                f"this run stood still, and its lock was taken over by another: {self.holder}; nothing was recorded "
                "since",
                path=self.folder,
                hint="when that one has ended, run the same command again: what is done stays done",
            )


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_mtime_ns


def _ended_here(owner: Any) -> bool:
    """Whether the owner of a claim was a process of this host that has ended."""
    if owner is None or owner.hostname != _this_host():
        return False
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is another user's
        return False
    return False


def _this_host() -> str:
    """The host as a claim names it: where process ids are another container's, the name says so."""
    with suppress(OSError):
        if (namespace := Path("/proc/self/ns/pid").stat().st_ino) != _FIRST_NAMESPACE:
            return f"{socket.gethostname()}?pidns-{namespace:x}"
    return socket.gethostname()


_FIRST_NAMESPACE: Final = 0xEFFFFFFC
"""The number that Linux gives to the namespace of process ids that is no container's."""

_held: Final[dict[Path, FolderLock]] = {}
"""Claim → the lock, of those that this process holds."""


def still_ours(folder: Path, name: str = "") -> None:
    """Make sure before a record is written that a lock of a folder, if this process has taken it, was not lost since.

    :raises BusyError: it was.
    """
    lock = _held.get((folder / f"{name}.lock-file").absolute())
    if lock is not None:
        lock.check()


def holder_of(folder: Path, name: str = "") -> str | None:
    """Say which run holds a lock of a folder now; None if none does. Writes nothing."""
    lock = FolderLock(folder, name)
    kinds: tuple[tuple[Path, Any], ...] = (
        (lock.file, FileLock),
        (lock.claim, lambda file: SoftFileLease(file, lease_duration=LEASE_SECONDS)),
    )
    for file, kind in kinds:
        if not file.is_file() or file.is_symlink():
            continue
        one = kind(file)
        try:
            one.acquire(timeout=0)
        except Timeout:
            if isinstance(one, SoftFileLease) and _ended_here(one.owner):
                continue  # its claim is still there: on NFS and SMB until the next run takes it over
            return lock.holder
        except (OSError, NotImplementedError):
            continue  # read-only, or without locks: nobody can be seen to hold it
        one.release()
    return None


def acquire_each(locks: Sequence[FolderLock]) -> list[FolderLock]:
    """Try to take several locks at once, so that those of dead holders are waited for only once; those not taken."""
    undecided, busy = list(locks), []
    while undecided:
        answers = {id(lock): lock.try_to_acquire() for lock in undecided}
        busy += [lock for lock in undecided if answers[id(lock)] is False]
        undecided = [lock for lock in undecided if answers[id(lock)] is None]
        if undecided:
            time.sleep(max(lock._pause for lock in undecided))
    return busy


@contextmanager
def locked(folder: Path, *, lease: float = LEASE_SECONDS, wait: float = 0.0, **about: str) -> Iterator[None]:
    """Hold the lock of a stage's folder, as the only writer of its manifest; the folder is made if it is not there.

    :param lease: seconds after which a lock whose time does not move is taken over.
    :param wait: seconds to wait for a holder that holds it for a shard, which it does for a moment.
    :param about: what it is held for, for messages.
    :raises BusyError: another run holds it; the message says which.
    :raises UsageError: the folder is outside of the workspace, or a link stands for the manifest or its lock.
    """
    for file in STAGE_FILES:
        refuse_link(folder / file)
    lock, begin = FolderLock(folder, lease=lease), time.monotonic()
    try:
        make_folder(folder)
        while True:
            try:
                lock.acquire(**about)
                break
            except BusyError as error:
                unsigned = "unknown" in error.what  # it has just taken the lock, or given it back
                patience = wait if '"shard"' in error.what else min(wait, _UNSIGNED) if unsigned else 0.0
                if time.monotonic() - begin >= patience:
                    raise
            time.sleep(_PAUSE)
    except OSError as error:
        raise surroundings(error, folder / STAGE_FILES[0]) or error from error
    try:
        yield
    finally:
        lock.release()
