"""Write files so that nothing of a user's is lost. No other module of this package opens a file for writing.

A file is replaced whole: a temporary file beside it, then a rename. A symbolic link is never followed, so a link
inside a folder cannot redirect a write or a removal to a place outside it. A new folder gets its name when it is
complete. Only files and folders that this program made are removed; they are recognized by name or by a marker.

What cannot be written raises ``OSError`` with the path that was asked for; the command line prints it as one line.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from minigpt_flax.errors import UserError

SIGNATURE = "minigpt_flax"  # in every page and picture that a user names the place of
TEMPORARY = (".minigpt-", ".tmp")  # prefix and suffix of a temporary file's name
PARTIAL = ".partial"  # suffix of a folder that is being made
MARKER = ".minigpt"  # file that marks a folder that is being made; its maker holds a lock on it
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_BINARY = getattr(os, "O_BINARY", 0)  # Windows


_unfinished: list[Path] = []  # temporary files and folders that this process is writing
_made: set[Path] = set()  # folders that this process has made above those that it was asked for


def is_writing() -> bool:
    """Whether a temporary file or folder would be left if this process ended now."""
    return bool(_unfinished)


class Busy(UserError):
    """Another process is making the folder."""


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Replaces a file: readers see the old content or the new, never a part.

    Args:
        path: the file. Its folder must exist; the file need not.

    Yields:
        A binary file to write the new content to. An exception inside the block leaves the old file as it was.

    Raises:
        OSError: the file can't be written, or ``path`` is a symbolic link or a folder.
    """
    scratch = path.with_name(os.urandom(4).hex().join(TEMPORARY))
    with _blaming(path):
        mode = _mode_of(path)
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS | _BINARY, 0o666)
    _unfinished.append(scratch)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            with _blaming(path):
                file.flush()
                os.fsync(file.fileno())
        with _blaming(path):
            if mode is not None:
                os.chmod(scratch, mode)
            os.replace(scratch, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(scratch)
        if isinstance(error, OSError) and error.filename in (None, str(scratch), scratch):
            raise _named(error, path) from error
        raise
    finally:
        _unfinished.remove(scratch)
    _sync_folder(path.parent)


def replace(path: Path, content: str | bytes) -> None:
    """Replaces a file by ``content``, text in UTF-8; see :func:`replacing`."""
    with replacing(path) as file:
        file.write(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)


def open_append(path: Path) -> IO[bytes]:
    """Opens a file for appending, unbuffered; makes it if it isn't there.

    Raises:
        OSError: it can't be opened, or it is a symbolic link, has a second hard link, or is no regular file.
    """
    with _blaming(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _FLAGS | _BINARY, 0o666)
    with _closing_on_error(descriptor):
        _require_plain(os.fstat(descriptor), path)
        if os.fstat(descriptor).st_nlink > 1:
            raise OSError(errno.EMLINK, "it has a second hard link, which would change too", str(path))
    return os.fdopen(descriptor, "ab", buffering=0)


def open_lock(path: Path) -> IO[bytes]:
    """Opens a lock file for reading and writing, unbuffered; makes it if it isn't there. Changes nothing in it.

    Raises:
        OSError: it can't be opened, or it is a symbolic link or no regular file.
    """
    with _blaming(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS | _BINARY, 0o666)
    with _closing_on_error(descriptor):
        _require_plain(os.fstat(descriptor), path)
    return os.fdopen(descriptor, "r+b", buffering=0)


def try_lock(file: IO[Any]) -> bool:
    """Takes the lock of an open file; False if another process holds it. Where there are no locks, returns True.

    The system releases the lock when the process ends, however it ends.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def set_content(file: IO[bytes], content: bytes) -> None:
    """Overwrites an open lock file, unless it has a second hard link, which would change too.

    Raises:
        OSError: the disk is full.
    """
    if os.fstat(file.fileno()).st_nlink == 1:
        os.ftruncate(file.fileno(), 0)
        os.pwrite(file.fileno(), content, 0)


def make_folder(path: Path) -> None:
    """Makes a folder and those above it; one that exists is kept.

    Raises:
        OSError: it can't be made.
    """
    _make_above(path)
    _make(path, exist_ok=True)


def make_new_folder(path: Path) -> None:
    """Makes a folder that isn't there yet, and those above it.

    Raises:
        FileExistsError: something is there.
        OSError: it can't be made.
    """
    _make_above(path)
    _make(path)


def _make(path: Path, exist_ok: bool = False) -> None:
    """Makes a folder; if it can't be made, those that were made above it are removed again."""
    try:
        path.mkdir(exist_ok=exist_ok)
    except OSError:
        _remove_above(path)
        raise


def _make_above(path: Path) -> None:
    """Makes the folders above a path, and remembers which of them this process has made."""
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, f"{error.filename} is a file", str(path)) from error
    _made.update(missing)


def _remove_above(path: Path) -> None:
    """Removes the folders above a path that this process has made, as long as they are empty."""
    with contextlib.suppress(OSError):
        for folder in path.parents:
            if folder in _made:
                folder.rmdir()
                _made.remove(folder)


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Makes a new folder that gets its name ``out`` only when the block has ended without an exception.

    Until then it is ``OUT.partial``, which is removed if the block fails; one that a killed process left is removed by
    the next call.

    Yields:
        The folder to write into.

    Raises:
        UserError: ``out`` exists, another process is making it, or its folder can't be made.
        OSError: the disk is full.
    """
    require_absent(out)
    scratch = out.with_name(out.name + PARTIAL)
    try:
        _make_above(scratch)
        _remove_abandoned(scratch, out)
    except OSError as error:
        raise UserError(f"can't make the folder {out}: {error.strerror}") from error
    _unfinished.append(scratch)
    try:
        try:
            scratch.mkdir()
        except FileExistsError as error:
            raise _busy(out) from error
        except OSError as error:
            raise UserError(f"can't make the folder {out}: {error.strerror}") from error
        with open_lock(scratch / MARKER) as lock:
            if not try_lock(lock):  # another process began at the same moment
                raise _busy(out)
            yield scratch
            for file in scratch.iterdir():
                _sync(file)
            require_absent(out)
            with _blaming(out):
                os.rename(scratch, out)
            os.unlink(out / MARKER)
    except Busy:
        raise
    except BaseException:
        with contextlib.suppress(OSError, UserError):
            _remove_abandoned(scratch, out)
        _remove_above(scratch)
        raise
    finally:
        _unfinished.remove(scratch)
    _sync_folder(out.parent)


def require_absent(out: Path) -> None:
    """Refuses a path where something is.

    Raises:
        UserError: something is there.
    """
    if os.path.lexists(out):
        raise UserError(f"{out} exists already: give another --out, or remove it")


def is_ours(folder: Path) -> bool:
    """Whether this program makes a folder, or made it until it was killed: it is empty or carries the marker."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    marker = folder / MARKER
    return (marker.is_file() and not marker.is_symlink()) or not any(folder.iterdir())


def _remove_abandoned(scratch: Path, out: Path) -> None:
    """Removes what a killed process left of a folder, unless a living one holds its lock."""
    if not os.path.lexists(scratch):
        return
    if not is_ours(scratch):
        raise UserError(f"{scratch} exists and was not made by this program: move it, or give another --out")
    with open_lock(scratch / MARKER) as lock:
        if not try_lock(lock):
            raise _busy(out)
        remove_folder(scratch)


def _busy(out: Path) -> Busy:
    return Busy(f"another process is making {out}: wait for it, or give another --out")


def remove_folder(path: Path) -> None:
    """Removes a folder that this program made, as far as it can be removed; a symbolic link stays."""
    shutil.rmtree(path, ignore_errors=True)  # refuses a link, and follows none inside


def truncate(path: Path, size: int) -> None:
    """Cuts a file that this program made down to ``size`` bytes.

    Raises:
        OSError: it can't be cut, or it is a symbolic link or no regular file.
    """
    with open_lock(path) as file:
        os.ftruncate(file.fileno(), size)
        os.fsync(file.fileno())


def remove_file(path: Path) -> None:
    """Removes a file that this program made; a link is removed and not followed.

    Raises:
        OSError: it can't be removed.
    """
    path.unlink(missing_ok=True)


def move(path: Path, to: Path) -> Path:
    """Renames a file or folder within its folder.

    Raises:
        OSError: it can't be renamed.
    """
    return path.rename(to)


def require_own_file(path: Path, flag: str) -> None:
    """Refuses to replace a file that this program did not make: its pages and pictures name ``SIGNATURE``.

    Args:
        path: the file; it need not exist.
        flag: that named it, for the error.

    Raises:
        UserError: it exists and is another's, or is no file.
    """
    if not os.path.lexists(path):
        return
    if not path.is_file():
        raise UserError(f"{flag} {path}: that is no file: give another")
    with path.open("rb") as file:
        if SIGNATURE.encode() not in file.read():
            raise UserError(f"{flag} {path}: that file exists and was not made by this program: give another")


def require_own_folder(folder: Path, names: Collection[str], flag: str) -> None:
    """Refuses to write into a folder that holds something else than the files that are to be written.

    Args:
        folder: the folder; it need not exist.
        names: of the files.
        flag: that named the folder, for the error.

    Raises:
        UserError: it holds something else, or is no folder.
    """
    if not folder.is_dir():
        if os.path.lexists(folder):
            raise UserError(f"{flag} {folder}: that is no folder: give another")
        return
    others = [entry.name for entry in folder.iterdir() if entry.name not in names and not is_temporary(entry.name)]
    if others:
        raise UserError(f"{flag} {folder}: that folder holds other files, such as {min(others)!r}: give another")


def require_plain(path: Path) -> None:
    """Refuses a path that :func:`replacing` can't replace.

    Raises:
        OSError: it is a symbolic link, a folder or no regular file.
    """
    with _blaming(path):
        _mode_of(path)


def remove_empty_folder(path: Path) -> None:
    """Removes a folder, and those above it that this process has made; one that holds something stays.

    Raises:
        OSError: it can't be removed for another reason.
    """
    try:
        path.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise
    _remove_above(path)


def is_temporary(name: str) -> bool:
    """Whether a file of this name is a temporary one of :func:`replacing`."""
    prefix, suffix = TEMPORARY
    return name.startswith(prefix) and name.endswith(suffix)


def remove_temporary(folder: Path) -> None:
    """Removes the temporary files that a killed process left in a folder."""
    for entry in folder.iterdir():
        if is_temporary(entry.name):
            with contextlib.suppress(OSError):
                entry.unlink()


def find_link(folder: Path, names: Iterable[str], deep: bool = True) -> Path | None:
    """The first symbolic link among some entries of a folder, or at any depth below them; None if there is none."""
    for name in names:
        path = folder / name
        if path.is_symlink():
            return path
        for above, folders, files in os.walk(path) if deep else ():
            for entry in (*folders, *files):
                if (Path(above) / entry).is_symlink():
                    return Path(above) / entry
    return None


def _mode_of(path: Path) -> int | None:
    """Permissions of the file to replace; None if there is none."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    _require_plain(found, path)
    return stat.S_IMODE(found.st_mode)


def _require_plain(found: os.stat_result, path: Path) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise OSError(errno.ELOOP, "it is a symbolic link, which is not followed", str(path))
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Lets an error name the file that was asked for, not the temporary one."""
    try:
        yield
    except OSError as error:
        raise _named(error, path) from error


def _named(error: OSError, path: Path) -> OSError:
    if error.errno == errno.ELOOP:  # O_NOFOLLOW
        return OSError(errno.ELOOP, "it is a symbolic link, which is not followed", str(path))
    return OSError(error.errno, error.strerror or str(error), str(path))


@contextmanager
def _closing_on_error(descriptor: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        os.close(descriptor)
        raise


def _sync(path: Path) -> None:
    """Brings a file to the disk itself, so that a power cut can't leave a folder that only looks complete."""
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Brings a rename to the disk itself, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
