"""Write files without losing a user's data. No other module of this package opens a file for writing.

A file is replaced atomically: a temporary file beside it, then a rename. Symbolic links are never followed, so a link
inside a folder can't redirect a write or a removal to a path outside it. A new folder is created under a temporary
name and renamed when it is complete. Only files and folders made by this program are removed; their name or a marker
identifies them.

A failed write raises ``OSError`` with the requested path; the command line prints it as one line.
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

from minigpt_flax.errors import Failed, UserError
from minigpt_flax.invocation import show

SIGNATURE = "minigpt_flax"  # contained in every page and image whose path a user chooses
TEMPORARY = (".minigpt-", ".tmp")  # prefix and suffix of a temporary file's name
PARTIAL = ".partial"  # suffix of an unfinished folder
MARKER = ".minigpt"  # marker file of an unfinished folder; the process that makes it holds a lock on it
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_BINARY = getattr(os, "O_BINARY", 0)  # Windows


_unfinished: list[Path] = []  # temporary files and folders of this process
_made: set[Path] = set()  # parent folders that this process has made


def is_writing() -> bool:
    """Whether this process would leave a temporary file or folder if it ended now."""
    return bool(_unfinished)


class Busy(UserError):
    """Raised if another process is making the folder."""


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Replaces a file atomically: readers see either the old or the new content.

    Args:
      path: the file; its folder must exist, the file need not.

    Yields:
      A binary file for the new content. An exception inside the block leaves the old file unchanged.

    Raises:
      OSError: the file can't be written, or ``path`` is a symbolic link or a folder.
    """
    scratch = path.with_name(os.urandom(4).hex().join(TEMPORARY))
    with _errors_naming(path):
        mode = _mode_of(path)
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS | _BINARY, 0o666)
    _unfinished.append(scratch)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            with _errors_naming(path):
                file.flush()
                os.fsync(file.fileno())
        with _errors_naming(path):
            if mode is not None:
                os.chmod(scratch, mode)
            os.replace(scratch, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(scratch)
        if isinstance(error, OSError) and error.filename in (None, str(scratch), scratch):
            raise _with_path(error, path) from error
        raise
    finally:
        _unfinished.remove(scratch)
    _sync_folder(path.parent)


def replace(path: Path, content: str | bytes) -> None:
    """Replaces the content of a file, text as UTF-8; see :func:`replacing`."""
    with replacing(path) as file:
        file.write(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)


def open_append(path: Path) -> IO[bytes]:
    """Opens a file for unbuffered appending; creates it if it doesn't exist.

    Raises:
      OSError: the file can't be opened, is a symbolic link, has a second hard link, or is not a regular file.
    """
    with _errors_naming(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _FLAGS | _BINARY, 0o666)
    with _closing_on_error(descriptor):
        _require_plain(os.fstat(descriptor), path)
        if os.fstat(descriptor).st_nlink > 1:
            raise OSError(errno.EMLINK, "it has a second hard link, which would change as well", str(path))
    return os.fdopen(descriptor, "ab", buffering=0)


def open_lock(path: Path) -> IO[bytes]:
    """Opens a lock file for unbuffered reading and writing, without changing it; creates it if it doesn't exist.

    Raises:
      OSError: the file can't be opened, is a symbolic link, or is not a regular file.
    """
    with _errors_naming(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS | _BINARY, 0o666)
    with _closing_on_error(descriptor):
        _require_plain(os.fstat(descriptor), path)
    return os.fdopen(descriptor, "r+b", buffering=0)


def try_lock(file: IO[Any]) -> bool:
    """Acquires the lock of an open file; False if another process holds it. True if the system has no locks.

    The system releases the lock when the process exits for any reason.
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
    """Overwrites an open lock file, unless it has a second hard link, which would change as well.

    Raises:
      OSError: the disk is full.
    """
    if os.fstat(file.fileno()).st_nlink == 1:
        os.ftruncate(file.fileno(), 0)
        os.pwrite(file.fileno(), content, 0)


def folder_in(out: Path | str, name: str) -> Path:
    """The folder ``out/name``.

    Raises:
      UserError: the name leads out of ``out``.
    """
    parts = Path(name).parts
    if not parts or os.path.isabs(name) or ".." in parts:
        raise UserError(
            f"--name {name!r} must be a folder inside --out {show(Path(out))}: give another --out for others"
        )
    return Path(out) / name


def make_folder(path: Path) -> None:
    """Makes a folder and its parents; an existing folder is kept.

    Raises:
      OSError: the folder can't be made.
    """
    _make_parents(path)
    _make(path, exist_ok=True)


def make_new_folder(path: Path) -> None:
    """Makes a new folder and its parents.

    Raises:
      FileExistsError: the path exists.
      OSError: the folder can't be made.
    """
    _make_parents(path)
    _make(path)


def _make(path: Path, exist_ok: bool = False) -> None:
    """Makes a folder; if that fails, removes the parents that were made for it."""
    try:
        path.mkdir(exist_ok=exist_ok)
    except OSError:
        _remove_parents(path)
        raise


def _make_parents(path: Path) -> None:
    """Makes the parents of a path and records in ``_made`` which of them are new."""
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, f"{error.filename} is a file", str(path)) from error
    _made.update(missing)


def _remove_parents(path: Path) -> None:
    """Removes the parents of a path that this process has made, as long as they are empty."""
    with contextlib.suppress(OSError):
        for folder in path.parents:
            if folder in _made:
                folder.rmdir()
                _made.remove(folder)


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Makes a new folder that gets its name ``out`` only if the block ends without an exception.

    Until then its name is ``OUT.partial``. If the block fails the folder is removed; if the process is killed, the next
    call removes it.

    Yields:
      The folder to write into.

    Raises:
      UserError: ``out`` exists, another process is making it, or it can't be made.
      OSError: the disk is full.
    """
    require_absent(out)
    scratch = out.with_name(out.name + PARTIAL)
    try:
        _make_parents(scratch)
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
            if not try_lock(lock):  # another process started at the same time
                raise _busy(out)
            yield scratch
            for file in scratch.iterdir():
                _sync(file)
            require_absent(out)
            with _errors_naming(out):
                os.rename(scratch, out)
            os.unlink(out / MARKER)
    except Busy:
        raise
    except BaseException:
        with contextlib.suppress(OSError, UserError):
            _remove_abandoned(scratch, out)
        _remove_parents(scratch)
        raise
    finally:
        _unfinished.remove(scratch)
    _sync_folder(out.parent)


@contextmanager
def output_errors(out: Path) -> Iterator[None]:
    """Ends a command in one line if the system refuses to write its output, which the block removes then.

    Raises:
      Failed: in place of an OSError; names the file.
    """
    try:
        yield
    except OSError as error:
        named = show(error.filename or out)
        raise Failed(f"can't write {named}: {error.strerror}; the folder was removed") from error


def require_absent(out: Path) -> None:
    """Checks that a path doesn't exist.

    Raises:
      UserError: the path exists.
    """
    if os.path.lexists(out):
        raise UserError(f"{out} exists already: give another --out, or remove it")


def is_ours(folder: Path) -> bool:
    """Whether a folder is empty or has the marker, so this program is making it or was killed while making it."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    marker = folder / MARKER
    return (marker.is_file() and not marker.is_symlink()) or not any(folder.iterdir())


def _remove_abandoned(scratch: Path, out: Path) -> None:
    """Removes the unfinished folder of a killed process, unless a running process holds its lock."""
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
    """Removes a folder that this program made, ignoring errors; a symbolic link is kept."""
    shutil.rmtree(path, ignore_errors=True)  # rejects a link, and doesn't follow links inside


def truncate(path: Path, size: int) -> None:
    """Truncates a file that this program made to ``size`` bytes.

    Raises:
      OSError: the file can't be truncated, is a symbolic link, or is not a regular file.
    """
    with open_lock(path) as file:
        os.ftruncate(file.fileno(), size)
        os.fsync(file.fileno())


def remove_file(path: Path) -> None:
    """Removes a file that this program made; of a link, the link itself.

    Raises:
      OSError: the file can't be removed.
    """
    path.unlink(missing_ok=True)


def move(path: Path, to: Path) -> Path:
    """Renames a file or folder within its folder.

    Raises:
      OSError: the path can't be renamed.
    """
    return path.rename(to)


def require_own_file(path: Path, flag: str) -> None:
    """Checks that a file may be replaced: its content has ``SIGNATURE``, as every page and image of this program.

    Args:
      path: the file; it need not exist.
      flag: command-line flag that gave the path, for the error.

    Raises:
      UserError: the path exists and is not a file, or not a file made by this program.
    """
    if not os.path.lexists(path):
        return
    if not path.is_file():
        raise UserError(f"{flag} {path}: that is not a file: give another")
    with path.open("rb") as file:
        if SIGNATURE.encode() not in file.read():
            raise UserError(f"{flag} {path}: that file exists and was not made by this program: give another")


def require_own_folder(folder: Path, names: Collection[str], flag: str) -> None:
    """Checks that a folder holds only files that this program is about to write.

    Args:
      folder: the folder; it need not exist.
      names: names of these files.
      flag: command-line flag that gave the folder, for the error.

    Raises:
      UserError: the folder holds another file, or is not a folder.
    """
    if not folder.is_dir():
        if os.path.lexists(folder):
            raise UserError(f"{flag} {folder}: that is not a folder: give another")
        return
    others = [entry.name for entry in folder.iterdir() if entry.name not in names and not is_temporary(entry.name)]
    if others:
        raise UserError(f"{flag} {folder}: that folder holds other files, such as {min(others)!r}: give another")


def require_replaceable(folder: Path, names: Iterable[str]) -> None:
    """Checks, before anything is written, that :func:`replacing` can replace these files of a folder.

    Args:
      folder: of the files; it need not exist.
      names: of the files.

    Raises:
      UserError: the folder is not one, or a file is a symbolic link, a folder, or not a regular file.
    """
    above = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not above.is_dir():
        raise UserError(f"{show(above)} is not a folder: give another --out or --name")
    for name in sorted(names):
        try:
            require_plain(folder / name)
        except OSError as error:
            raise UserError(f"can't write {show(folder / name)}: {error.strerror}") from error


def require_plain(path: Path) -> None:
    """Checks that :func:`replacing` can replace a path.

    Raises:
      OSError: the path is a symbolic link, a folder, or not a regular file.
    """
    with _errors_naming(path):
        _mode_of(path)


def remove_empty_folder(path: Path) -> None:
    """Removes a folder and the parents that this process has made, as far as they are empty.

    Raises:
      OSError: the folder is empty but can't be removed.
    """
    try:
        path.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise
    _remove_parents(path)


def is_temporary(name: str) -> bool:
    """Whether a file name is that of a temporary file of :func:`replacing`."""
    prefix, suffix = TEMPORARY
    return name.startswith(prefix) and name.endswith(suffix)


def remove_temporary(folder: Path) -> None:
    """Removes temporary files that a killed process left in a folder."""
    for entry in folder.iterdir():
        if is_temporary(entry.name):
            with contextlib.suppress(OSError):
                entry.unlink()


def find_link(folder: Path, names: Iterable[str], deep: bool = True) -> Path | None:
    """The first symbolic link among some entries of a folder and, if ``deep``, below them; None without one."""
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
    """Permissions of the file to replace; None if it doesn't exist."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    _require_plain(status, path)
    return stat.S_IMODE(status.st_mode)


def _require_plain(status: os.stat_result, path: Path) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, "it is a symbolic link, which is not followed", str(path))
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))


@contextmanager
def _errors_naming(path: Path) -> Iterator[None]:
    """Makes an ``OSError`` name this path instead of the temporary one."""
    try:
        yield
    except OSError as error:
        raise _with_path(error, path) from error


def _with_path(error: OSError, path: Path) -> OSError:
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
    """Flushes a file to disk, so that a power failure can't leave a folder that only looks complete."""
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Flushes a rename to disk, if the system supports it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
