"""Writing: atomic, without following links, without replacing or removing a user's files."""

import ast
import errno
import os
import resource
import signal
import stat
from pathlib import Path

import pytest

from minigpt_flax.errors import UserError
from minigpt_flax.runs import files

ROOT = Path(__file__).parents[3]
SOURCES = sorted([*ROOT.glob("minigpt_flax/**/*.py"), *ROOT.glob("jaxopt_mini/**/*.py"), ROOT / "train.py"])
WRITERS = {  # calls that write, move or remove; ``open`` only with a mode that writes
    *("write_text", "write_bytes", "mkdir", "rmdir", "unlink", "rename", "touch", "symlink_to", "hardlink_to", "chmod"),
    *("rmtree", "copyfile", "copytree", "save_file", "mkstemp", "mkdtemp", "makedirs"),
    *("NamedTemporaryFile", "tofile", "savez", "savetxt"),
}
OTHERS = {"minigpt_flax/train/parallel/multihost.py": {".open"}}  # standard output, by its descriptor
THEIR_OWN = {"os.open", "os.replace", "os.remove", "shutil.move"}


def sentinel(path, text="precious"):
    path.write_text(text)
    return path


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_is_replaced_atomically(tmp_path):
    path = tmp_path / "a.txt"
    files.replace(path, "one")
    path.chmod(0o640)
    files.replace(path, b"two")
    assert path.read_text() == "two" and stat.S_IMODE(path.stat().st_mode) == 0o640
    with pytest.raises(RuntimeError), files.replacing(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_text() == "two" and names(tmp_path) == ["a.txt"]


def test_a_long_name_can_be_replaced(tmp_path):
    path = tmp_path / ("n" * 255)
    files.replace(path, "x")
    assert path.read_text() == "x"


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = sentinel(tmp_path / "a.txt")
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError) as caught:
            files.replace(path, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(path)
    assert path.read_text() == "precious" and names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("write", [lambda p: files.replace(p, "x"), files.open_append, files.open_lock])
@pytest.mark.parametrize("kind", ["link", "dangling", "folder", "pipe", "loop"])
def test_only_a_plain_file_is_written(tmp_path, write, kind):
    target, path = sentinel(tmp_path / "target"), tmp_path / "path"
    make = {
        "link": lambda: path.symlink_to(target),
        "dangling": lambda: path.symlink_to(tmp_path / "none"),
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "loop": lambda: path.symlink_to(path),
    }
    make[kind]()
    before = names(tmp_path)
    with pytest.raises(OSError) as caught:
        write(path)
    assert caught.value.filename == str(path)
    assert target.read_text() == "precious" and names(tmp_path) == before


def test_a_second_hard_link_is_not_changed(tmp_path):
    target = sentinel(tmp_path / "target")
    (tmp_path / "path").hardlink_to(target)
    with pytest.raises(OSError, match="second hard link"):
        files.open_append(tmp_path / "path")
    with files.open_lock(tmp_path / "path") as lock:
        files.set_content(lock, b"process 1")
    files.replace(tmp_path / "path", "new")
    assert target.read_text() == "precious"


def test_a_folder_is_renamed_when_it_is_complete(tmp_path):
    out = tmp_path / "deep" / "out"
    with files.staged(out) as scratch:
        files.replace(scratch / "a", "1")
        assert not out.exists() and scratch.parent == out.parent
        with pytest.raises(UserError, match="another process is making"), files.staged(out):
            pass
    assert names(out) == ["a"] and names(out.parent) == ["out"]
    with pytest.raises(UserError, match="exists already"), files.staged(out):
        pass


def test_a_failed_block_leaves_no_folder(tmp_path):
    with pytest.raises(KeyboardInterrupt), files.staged(tmp_path / "out"):
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_a_killed_processs_folder_is_made_again(tmp_path):
    (tmp_path / "out.partial").mkdir()
    sentinel(tmp_path / "out.partial" / "half")
    with pytest.raises(UserError, match="was not made by this program"), files.staged(tmp_path / "out"):
        pass
    sentinel(tmp_path / "out.partial" / files.MARKER, "")
    with files.staged(tmp_path / "out") as scratch:
        files.replace(scratch / "a", "1")
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["a"]


@pytest.mark.parametrize("parent", ["file", "link to nowhere"])
def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path, parent):
    above = tmp_path / "above"
    sentinel(above) if parent == "file" else above.symlink_to(tmp_path / "none")
    with pytest.raises(UserError, match="can't make the folder"), files.staged(above / "in" / "out"):
        pass


def test_links_are_found_at_any_depth(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert files.find_link(tmp_path, ["a", "none"]) is None
    (tmp_path / "a" / "b" / "c").symlink_to("/")
    assert files.find_link(tmp_path, ["a"]) == tmp_path / "a" / "b" / "c"
    assert files.find_link(tmp_path, ["a"], deep=False) is None


def test_removing_follows_no_link(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    sentinel(outside / "file")
    gone = tmp_path / "gone"
    gone.mkdir()
    (gone / "link").symlink_to(outside)
    files.remove_folder(gone)
    (tmp_path / "link").symlink_to(outside)
    files.remove_folder(tmp_path / "link")
    assert not gone.exists() and names(outside) == ["file"]


def test_only_own_files_and_folders_are_replaced(tmp_path):
    files.require_own_file(tmp_path / "none", "--out")
    with pytest.raises(UserError, match="--out .*thesis.tex: that file exists and was not made by this program"):
        files.require_own_file(sentinel(tmp_path / "thesis.tex"), "--out")
    files.require_own_file(sentinel(tmp_path / "page.html", "<!-- minigpt_flax -->"), "--out")
    with pytest.raises(UserError, match="holds other files, such as 'page.html'"):
        files.require_own_folder(tmp_path, {"thesis.tex"}, "--out")
    files.require_own_folder(tmp_path, {"thesis.tex", "page.html"}, "--out")
    with pytest.raises(UserError, match="that is not a folder"):
        files.require_own_folder(tmp_path / "thesis.tex", set(), "--out")
    files.require_replaceable(tmp_path / "a" / "b", {"page.html"})
    with pytest.raises(UserError, match="thesis.tex is not a folder: give another --out"):
        files.require_replaceable(tmp_path / "thesis.tex" / "a" / "b", {"page.html"})


def called(node):
    """``module.function`` or the function's name, of a call."""
    function = node.func
    if isinstance(function, ast.Attribute):
        above = function.value.id if isinstance(function.value, ast.Name) else ""
        return above, function.attr
    return "", getattr(function, "id", "")


def writes(node):
    above, name = called(node)
    if above in ("files", "re", "dataclasses", "operator", "np", "jnp", "sharding"):
        return False
    if name in ("open", "fdopen"):
        modes = [arg.value for arg in (*node.args, *(k.value for k in node.keywords)) if isinstance(arg, ast.Constant)]
        return any(isinstance(mode, str) and set(mode) & set("wax+") and set(mode) <= set("rwaxbt+") for mode in modes)
    if name == "savefig":  # to an open file, not to a path
        return not (isinstance(node.args[0], ast.Name) and node.args[0].id == "file")
    return name in WRITERS or f"{above}.{name}" in THEIR_OWN


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_other_module_writes(path):
    if path == ROOT / "minigpt_flax" / "runs" / "files.py":
        return
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    allowed = OTHERS.get(str(path.relative_to(ROOT)), set())
    calls = [node for node in calls if writes(node) and ".".join(called(node)) not in allowed]
    wrong = [f"line {node.lineno}: {'.'.join(called(node))}" for node in calls]
    assert not wrong, f"writes files without runs.files: {', '.join(wrong)}"


def test_a_name_stays_inside_its_folder(tmp_path):
    assert files.folder_in(tmp_path, "a/b") == tmp_path / "a" / "b"
    for name in ("..", "../x", "a/../../x", "/tmp/x", ".", ""):
        with pytest.raises(UserError, match="must be a folder inside --out"):
            files.folder_in(tmp_path, name)
