"""Checked reading (regular files of bounded size, JSON of bounded depth, typed fields), and the keys of metrics."""

import os

import pytest

from minigpt_flax.errors import UserError
from minigpt_flax.runs import schema
from tests.minigpt_flax.training import records, start

FIELDS = {"a": int, "b": float | None, "c": tuple[str, ...], "d": bool, "e": str, "f": dict}
GOOD = {"a": 1, "b": 0.5, "c": ["x"], "d": True, "e": "t", "f": {}}


def test_fields_of_the_right_types_are_accepted():
    assert schema.check_fields(GOOD, FIELDS, "file") == {**GOOD, "c": ("x",)}
    assert schema.check_fields({**GOOD, "b": None}, FIELDS, "file")["b"] is None
    assert schema.check_fields({"a": 1}, FIELDS, "file", optional="bcdef") == {"a": 1}


WRONG = {
    "a": (None, True, 0.5, "1", [1], {}, float("nan")),
    "b": (True, "1", float("nan"), float("inf"), 10**400, -(10**400), [0.5], {}),
    "c": ("x", [1], [None], [["x"]], None, {}, 1),
    "d": (0, 1, None, "true", []),
    "e": (None, 1, ["x" * 200], True),
    "f": (None, [], "{}", 1),
}
CASES = [
    *({**GOOD, name: value} for name, values in WRONG.items() for value in values),
    *({k: v for k, v in GOOD.items() if k != name} for name in GOOD),
    {**GOOD, "g": 1},
]


@pytest.mark.parametrize("values", CASES, ids=lambda values: str(values)[:60])
def test_a_wrong_field_is_named_in_one_line(values):
    wrong = next(
        name for name in "abcdefg" if name in values and values[name] is not GOOD.get(name) or name not in values
    )
    with pytest.raises(UserError, match=rf"^file.*\b{wrong}\b") as caught:
        schema.check_fields(values, FIELDS, "file")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "[1]",
        "1",
        "null",
        "{" * 100_000,
        "[" * 100_000,
        '{"a": 1, "a": 2}',
        '{"a": ' + "9" * 10_000 + "}",
        "{'a': 1}",
    ],
    ids=lambda text: text[:12],
)
def test_text_that_is_not_an_object_is_rejected(text):
    with pytest.raises(UserError, match="^file is damaged: "):
        schema.parse_json(text, "file")


@pytest.mark.parametrize("kind", ["none", "folder", "pipe", "device", "loop", "large", "latin", "nul", "below a file"])
def test_only_a_regular_text_file_of_bounded_size_is_read(tmp_path, kind):
    path = tmp_path / "file"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "large":
        path.write_bytes(b"x" * 101)
    elif kind == "latin":
        path.write_bytes(b"\xff")
    elif kind == "nul":
        path = tmp_path / "a\0b"
    elif kind == "below a file":
        path.write_text("x")
        path = path / "y"
    with pytest.raises(UserError):
        schema.read_text(path, limit=100)


def test_a_link_to_a_file_may_be_read(tmp_path):
    (tmp_path / "target").write_text("x")
    (tmp_path / "file").symlink_to(tmp_path / "target")
    assert schema.read_text(tmp_path / "file") == "x"


def test_every_key_of_a_record_is_documented(tmp_path):
    probes = ("norms", "ratios", "layers", "moments", "clip", "cosine", "noise(every=1)", "sharpness(every=1, depth=2)")
    flags = [flag for probe in probes for flag in ("--probe", probe)]
    assert start(tmp_path / "run", *flags, steps=2, schedule="constant", on_nan="skip") == 0
    keys = {key for record in records(tmp_path / "run") for key in record}
    assert {"skipped", "update_ratio/matrix", "mu_norm/matrix", "noise/scale", "sharpness", "val_loss"} <= keys
    assert not [key for key in keys if schema.find_metric(key) is None]
    assert schema.find_metric("val_loss/other.txt") and not schema.find_metric("los")


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "settings.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert schema.read_text(path) == '{"a": 1}' and schema.read_json(path) == {"a": 1}
