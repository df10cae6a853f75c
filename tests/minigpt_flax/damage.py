"""Ways to damage a file that a program reads: each field of its JSON, and the file as a whole."""

import copy
import json
import os

VALUES = (None, True, 1.5, -1, 0, 10**9, 10**30, "x", "\ud800", "x" * 2000, [], [None], {}, {"x": []}, float("nan"))
FILES = ("missing", "empty", "cut", "garbage", "folder", "pipe", "loop", "deep", "list", "NULs")


def damaged_json(values, leave=()):
    """(what was done, the damaged values) for each field, nested ones too, but those in `leave`."""
    for path in list(_paths(values)):
        name = ".".join(map(str, path))
        if name in leave:
            continue
        without = copy.deepcopy(values)
        del _at(without, path[:-1])[path[-1]]
        yield f"{name} removed", without
        for value in VALUES:
            other = copy.deepcopy(values)
            if type(_at(other, path)) is type(value) and _at(other, path) == value:
                continue
            _at(other, path[:-1])[path[-1]] = value
            yield f"{name} = {value!r:.20}", other
    for path in [(), *(path for path in _paths(values) if isinstance(_at(values, path), dict))]:
        other = copy.deepcopy(values)
        _at(other, path)["unknown"] = 1
        yield f"{'.'.join(map(str, path))} with an unknown field", other


def _paths(values, above=()):
    """The path of every field; of a list or a table of many alike, the first two alone."""
    items = list(values.items() if isinstance(values, dict) else enumerate(values))
    for name, value in items if len(items) < 12 else items[:2]:
        yield (*above, name)
        if isinstance(value, dict | list):
            yield from _paths(value, (*above, name))


def _at(values, path):
    for name in path:
        values = values[name]
    return values


def damage_file(path, how):
    """Puts something else in the place of a file."""
    content = path.read_bytes()
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "loop":
        path.symlink_to(path.name)
    elif how != "missing":
        other = {"empty": b"", "cut": content[: len(content) // 2], "garbage": bytes(range(256)) * 8}
        other |= {"deep": b'{"a":' * 100_000, "list": json.dumps([1]).encode(), "NULs": bytes(len(content))}
        path.write_bytes(other[how])
