"""The store of signed bundles below the state folder: staged, put to work by a symbolic link, confirmed or taken back.

    staged/NAME@VERSION/   bundles with their releases; a folder gets this name when it is whole
    current -> staged/...  serves; without it the bundle that ships does
    confirmed -> ...       was in good health for update.confirm_s; ``current`` elsewhere is on trial
    previous -> ...        was confirmed before that
    highest                number of the newest release ever confirmed here: nothing below it is installed or activated
    taken-back             numbers of releases that were rolled back: they serve again only when activated by name

Every change is one rename(2), so a power cut leaves the old state or the new. Signatures and hashes are checked when a
bundle is staged, when it is activated, and whenever it is opened to serve.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgefer import bundle as bundles
from edgefer import durable, release
from edgefer.bundle import Bundle
from edgefer.errors import BundleError, ServiceError, UsageError
from edgefer.intake import copy_head, copy_rest
from edgefer.release import NAME, Keys, Release

log = logging.getLogger("edgefer.store")

CURRENT, CONFIRMED, PREVIOUS = "current", "confirmed", "previous"
STAGED, HIGHEST, TAKEN_BACK, LOCK = "staged", "highest", "taken-back", ".lock"
MAX_STAGED = 8
MAX_REMEMBERED = 64
"""numbers of what was taken back; the lowest are forgotten first"""
SelfTest = Callable[[Bundle], None]
"""runs the golden vectors; raises BundleError"""


@dataclass(frozen=True)
class Entry:
    """A staged bundle: its title, its release number (0: cannot be read) and what the links say of it."""

    name: str
    number: int
    roles: tuple[str, ...]

    @property
    def on_trial(self) -> bool:
        return CURRENT in self.roles and CONFIRMED not in self.roles


class Store:
    """``folder`` is created when it is missing. Every method raises BundleError of one line, ServiceError for a disk
    that does not take it; several processes may use one store."""

    def __init__(self, folder: Path, keys: Keys, self_test: SelfTest) -> None:
        self.folder, self._keys, self._self_test = folder, keys, self_test

    # -- changes ------------------------------------------------------------------------------------------------------

    def install(self, source: Path) -> Entry:
        """Copy the signed bundle in the folder ``source`` into the store; it does not serve yet."""
        with self._locked():
            self._tidy(self.highest())
            part = self.folder / STAGED / ".incoming"
            part.mkdir(mode=0o700)
            try:
                return self._entry(self._take_in(source, part))
            except BundleError as e:  # what is wrong with the copy is wrong with the source
                raise BundleError(str(e).replace(str(part), str(source))) from None
            finally:
                shutil.rmtree(part, ignore_errors=True)

    def activate(self, name: str) -> Entry:
        """Let the staged bundle ``name`` (NAME@VERSION, never a path) serve from the next start or reload on.

        It is on trial until `confirm`. What served before is untouched when anything is wrong with it. What was taken
        back is as good as new.
        """
        self._self_test(self.open(name))
        with self._locked():
            signed = self._verified(name)
            self._refuse_older(signed, self.path(name))
            durable.point(self.folder / CURRENT, f"{STAGED}/{name}")
            self._remember(self.taken_back() - {signed.number})
            return self._entry(name)

    def confirm(self, name: str) -> Entry | None:
        """The bundle ``name`` was seen to be good: nothing below its number comes back in.

        None when it is not the one on trial: another may have been activated that has not served yet.
        """
        with self._locked():
            if name != self.current() or name == self._link(CONFIRMED):
                return None
            # This order: cut short, the trial goes on with the bar already raised, never with the bar forgotten.
            highest = max(self.highest(), self._verified(name).number)
            durable.write(self.folder / HIGHEST, f"{highest}\n".encode())
            before = self._link(CONFIRMED)
            self._point(PREVIOUS, before)
            durable.point(self.folder / CONFIRMED, f"{STAGED}/{name}")
            self._tidy(highest)
            return self._entry(name)

    def rollback(self) -> str | None:
        """Back to the confirmed bundle, or when that is the current one to the one before; returns what serves then.

        None: the bundle that ships. The bar for new releases stays where it is.
        """
        with self._locked():
            current, confirmed = self.current(), self._link(CONFIRMED)
            if current is None and not os.path.lexists(self.folder / CURRENT):
                raise BundleError("nothing to roll back: the bundle that ships serves already")
            self._remember(self.taken_back() | {self.number(current)} - {0})
            if current == confirmed:
                confirmed = self._link(PREVIOUS)
                self._point(CONFIRMED, confirmed)  # first: cut short, the current one is on trial and can be taken back
                self._point(PREVIOUS, None)
            self._point(CURRENT, confirmed)
            return confirmed

    # -- looking ------------------------------------------------------------------------------------------------------

    def open(self, name: str) -> Bundle:
        """The staged bundle ``name``, every hash and its signature right."""
        self._verified(name)
        return bundles.open_bundle(self.path(name))

    def path(self, name: str) -> Path:
        """The folder of the staged bundle ``name``."""
        if not NAME.fullmatch(name):
            raise UsageError(f"{name[:80]!r} is no name of a staged bundle; names look like default@1.2.0")
        return self.folder / STAGED / name

    def current(self) -> str | None:
        """The bundle that serves; None: the one that ships."""
        return self._link(CURRENT)

    def on_trial(self) -> bool:
        return self.current() is not None and self.current() != self._link(CONFIRMED)

    def candidates(self) -> list[str]:
        """What may serve, best first; the bundle that ships stands behind them all."""
        names = [self._link(role) for role in (CURRENT, CONFIRMED, PREVIOUS)]
        return list(dict.fromkeys(n for n in names if n is not None))

    def number(self, name: str | None) -> int:
        """The release number of a staged bundle; 0 for the one that ships (None) and for one that cannot be read."""
        with contextlib.suppress(BundleError):
            return self._verified(name).number if name else 0
        return 0

    def highest(self) -> int:
        try:
            return int((self.folder / HIGHEST).read_text(encoding="ascii"))
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as e:
            raise BundleError(
                f"{self.folder / HIGHEST}: unreadable ({e}); write the number of the release in it"
            ) from None

    def taken_back(self) -> set[int]:
        """Numbers of releases that were rolled back here and not activated since."""
        with contextlib.suppress(OSError):  # a worn file must keep no bundle from going back
            return {int(n) for n in re.findall(rb"\d{1,18}", (self.folder / TAKEN_BACK).read_bytes())}
        return set()

    def newest(self) -> str:
        """The staged bundle with the highest number that was not taken back. Raises BundleError where it serves already
        and a newer one was, or where there is none."""
        entries, gone = self.entries(), self.taken_back()
        left = [e for e in entries if e.number not in gone or CURRENT in e.roles]
        if entries and entries[0] not in left and (not left or CURRENT in left[0].roles):
            raise BundleError(
                f"{entries[0].name} was taken back here: `edgefer bundle activate` it on the device, or release it "
                "under a higher number"
            )
        if not left:
            raise BundleError("no bundle is staged here; `edgefer bundle install` its folder first")
        return left[0].name

    def entries(self) -> list[Entry]:
        """Every staged bundle, newest release first."""
        staged = self.folder / STAGED
        names = [n for n in os.listdir(staged) if NAME.fullmatch(n)] if staged.is_dir() else []
        return sorted((self._entry(n) for n in names), key=lambda e: (-e.number, e.name))

    # -- inside -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            (self.folder / STAGED).mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(self.folder / LOCK, "ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as e:
            raise ServiceError(f"{e.filename or self.folder}: {e.strerror}; the bundle in use stays in use") from None

    def _verified(self, name: str) -> Release:
        path = self.path(name)
        if not path.is_dir():
            raise BundleError(f"{name}: not staged here; `edgefer bundle install` its folder first")
        signed = release.verify(path, self._keys)
        if signed.title != name:
            raise BundleError(f"{path}: its release is of {signed.title}; install it again")
        return signed

    def _link(self, role: str) -> str | None:
        try:
            target = os.readlink(self.folder / role)
        except OSError:
            return None
        name = target.removeprefix(f"{STAGED}/")
        return name if NAME.fullmatch(name) else None

    def _point(self, role: str, name: str | None) -> None:
        if name is None:
            durable.remove(self.folder / role)
        else:
            durable.point(self.folder / role, f"{STAGED}/{name}")

    def _remember(self, numbers: set[int]) -> None:
        """``numbers`` were taken back. A disk that does not take this keeps no bundle from going back."""
        if numbers == self.taken_back():
            return
        kept = sorted(numbers)[-MAX_REMEMBERED:]
        try:
            durable.write(self.folder / TAKEN_BACK, "".join(f"{n}\n" for n in kept).encode())
        except OSError as e:
            log.error("%s: %s; cmd/reload may activate again what is taken back", self.folder / TAKEN_BACK, e.strerror)

    def _entry(self, name: str) -> Entry:
        roles = (CURRENT, CONFIRMED, PREVIOUS)
        return Entry(name, self.number(name), tuple(r for r in roles if self._link(r) == name))

    def _refuse_older(self, signed: Release, where: Path) -> None:
        highest = self.highest()
        if signed.number < highest:
            raise BundleError(
                f"{where}: its release number {signed.number} is below {highest}, the highest confirmed here; "
                "sign it again under a higher number"
            )

    def _already_here(self, signed: Release) -> bool:
        """Whether this very release is staged. Another one under its name goes, unless a link holds it."""
        path = self.path(signed.title)
        with contextlib.suppress(BundleError):
            self.open(signed.title)
            if self._verified(signed.title) == signed:
                return True
            if self._entry(signed.title).roles:
                raise UsageError(f"{signed.title} is in use with other content; give the new one another version")
        if path.exists():
            self._discard(path)
        return False

    def _take_in(self, source: Path, part: Path) -> str:
        """The title of what was staged. Judged is the copy; nothing is copied unvouched for."""
        copy_head(source, part)
        signed = release.verify(part, self._keys)
        self._refuse_older(signed, part)
        if self._already_here(signed):
            return signed.title
        if len(self.entries()) >= MAX_STAGED:
            raise BundleError(f"{self.folder}: {MAX_STAGED} bundles are staged already; activate one, the rest goes")
        copy_rest(source, part)
        opened = bundles.open_bundle(part)
        if opened.title != signed.title:
            raise BundleError(f"{part}: its release is of {signed.title}, its manifest of {opened.title}")
        durable.sync_folder(part)
        os.rename(part, self.path(signed.title))
        durable.sync_folder(part.parent)
        return signed.title

    def _tidy(self, highest: int) -> None:
        """Without leftovers of a power cut, and without what can never serve again."""
        for leftover in (self.folder / STAGED).glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for entry in self.entries():
            if not entry.roles and entry.number < highest:
                self._discard(self.path(entry.name))

    def _discard(self, path: Path) -> None:
        gone = path.with_name(f".{path.name}.gone")  # half deleted it must not bear a bundle's name
        shutil.rmtree(gone, ignore_errors=True)
        os.rename(path, gone)
        shutil.rmtree(gone, ignore_errors=True)


def become_owner(folder: Path) -> None:
    """When root works on the service's store: go on as its owner, for good. Raises ServiceError."""
    if os.geteuid() != 0:
        return
    try:
        owner = os.stat(next(p for p in (folder, *folder.parents) if p.exists()))
        if owner.st_uid != 0:
            os.setgroups([])
            os.setresgid(owner.st_gid, owner.st_gid, owner.st_gid)
            os.setresuid(owner.st_uid, owner.st_uid, owner.st_uid)
    except OSError as e:
        raise ServiceError(f"{folder}: cannot work as its owner: {e.strerror}") from None
