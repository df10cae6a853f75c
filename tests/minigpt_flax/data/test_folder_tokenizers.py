"""The tokenizer of a Hugging Face folder in every form, and what text can't become: a special token."""

import json

import numpy as np
import pytest

from minigpt_flax.data import TOKENIZERS, load_tokenizer
from minigpt_flax.data.tokenizers.base import END, merged
from minigpt_flax.data.tokenizers.bpe import Bpe, special_token
from minigpt_flax.data.tokenizers.folder import read_folder
from minigpt_flax.errors import UserError
from tests.minigpt_flax.foreign import TOKENIZER_FILES

TEXT = "The quick brown fox, it's 12 years old.\n\n  Größe 优化理论\n"
TRAINED = TOKENIZERS["bpe"](TEXT * 9, vocab_size=300, eot=True)
MODEL = TRAINED.hugging_face()
PIECES = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "the", "fox", "##es", "优", "化", ",", "<eos>"]


def as_tokenizer_json(folder):
    (folder / "tokenizer.json").write_text(json.dumps(MODEL))


def as_vocab_and_merges(folder, names=("vocab.json", "merges.txt")):
    (folder / names[0]).write_text(json.dumps(MODEL["model"]["vocab"]))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in MODEL["model"]["merges"]), ""]
    (folder / names[1]).write_text("\n".join(lines), encoding="utf-8")


def as_openai(folder):
    as_vocab_and_merges(folder, ("encoder.json", "vocab.bpe"))


FORMS = {f.__name__: f for f in (as_tokenizer_json, as_vocab_and_merges, as_openai)}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_tokens(tmp_path, form):
    FORMS[form](tmp_path)
    found = read_folder(tmp_path)
    assert found is not None and (found.eot, found.vocab_size) == (TRAINED.eot, TRAINED.vocab_size)
    for text in (TEXT, f"a {END} b"):
        np.testing.assert_array_equal(found.encode(text), TRAINED.encode(text))
        assert found.decode(found.encode(text)) == text and found.eot not in found.encode(text)
    found.save(tmp_path)
    np.testing.assert_array_equal(load_tokenizer(tmp_path).encode(TEXT), TRAINED.encode(TEXT))


@pytest.mark.parametrize("form", FORMS)
def test_files_that_windows_has_rewritten_give_the_same_tokens(tmp_path, form):
    FORMS[form](tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    np.testing.assert_array_equal(read_folder(tmp_path).encode(TEXT), TRAINED.encode(TEXT))


@pytest.mark.parametrize("name", ["added_tokens.json", "tokenizer_config.json"])
def test_tokens_beside_the_vocabulary_are_added(tmp_path, name):
    as_vocab_and_merges(tmp_path)
    number = TRAINED.vocab_size
    entry = {"content": "<pad>", "special": True}
    settings = {"added_tokens.json": {"<pad>": number}, "tokenizer_config.json": {"pad_token": "<pad>"}}
    if name == "tokenizer_config.json":
        settings = {
            name: settings[name]
            | {"added_tokens_decoder": {str(number): entry, "x": entry, "7": {}, "9" * 5000: entry}}
        }
    for file, content in settings.items():
        (tmp_path / file).write_text(json.dumps(content))
    found = read_folder(tmp_path)
    assert found.vocab_size == number + 1 and found.roles["pad_token"] == "<pad>"
    assert found.special_tokens["<pad>"] == number and number not in found.encode("a <pad>")


def test_wordpiece(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "[PAD]", "eos_token": "<eos>"}))
    found = read_folder(tmp_path)
    assert found is not None and found.roles["pad_token"] == "[PAD]"
    assert found.encode("The FOXES, 优化 [CLS]").tolist() == [4, 5, 6, 9, 7, 8, 0, 0, 0]  # no special tokens around it
    assert found.eot == 10 and found.vocab_size == len(PIECES)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    cased = read_folder(tmp_path)
    assert cased is not None and cased.encode("The fox").tolist() == [0, 5]


def test_a_folder_without_one(tmp_path):
    assert read_folder(tmp_path) is None


OTHERS = {
    "tokenizer.model": ({}, "has a tokenizer in tokenizer.model, which is not supported: give --tokenizer, or write "),
    "vocab.json": ({}, "has a tokenizer in vocab.json, which is not supported"),  # without merges.txt
    "vocab.txt": ({"tokenizer_class": "BertJapaneseTokenizer"}, "of the class 'BertJapaneseTokenizer' in vocab.txt"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_forms_are_named_with_the_line_that_converts_them(tmp_path, name):
    settings, says = OTHERS[name]
    (tmp_path / name).write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=says) as error:
        read_folder(tmp_path)
    assert "python -c " in str(error.value) and "\n" not in str(error.value)


ROLES = {  # file -> how it names the end-of-text token
    "tokenizer_config.json": {"eos_token": "<end>"},
    "special_tokens_map.json": {"eos_token": {"content": "<end>", "lstrip": False}},
    "config.json": {"eos_token_id": 300},
}


@pytest.mark.parametrize("name", ROLES)
def test_the_end_of_text_token_is_the_folders(tmp_path, name):
    model = MODEL | {"added_tokens": [*MODEL["added_tokens"], special_token("<end>", 300)]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(model | {"truncation": None}))
    (tmp_path / name).write_text(json.dumps(ROLES[name] | {"bos_token": "<missing>"}))
    found = read_folder(tmp_path)
    assert found is not None
    expected = 300 if len(MODEL["model"]["vocab"]) == 300 else found.eot
    assert found.eot == expected and found.roles["bos_token"] == found.roles["eos_token"] == "<end>"
    found.save(tmp_path)
    assert load_tokenizer(tmp_path).roles == found.roles


@pytest.mark.parametrize("kind", TOKENIZER_FILES)
def test_text_never_becomes_a_special_token(kind):
    values = TOKENIZER_FILES[kind]
    tokenizer = Bpe(values)
    special = {token["id"]: token["content"] for token in values["added_tokens"] if token.get("special")}
    ignored = {values["model"].get("unk_id"), tokenizer._inner.token_to_id(values["model"].get("unk_token") or "")}
    for number, content in special.items():
        if number not in ignored and values["model"].get("type") != "WordLevel":
            assert number not in tokenizer.encode(f"a {content} b{content}").tolist(), content


def test_what_shortens_a_corpus_is_switched_off_and_said():
    tokenizer = Bpe(TOKENIZER_FILES["gpt2"])
    assert tokenizer.notes == ("truncation and padding of tokenizer.json switched off: all text is encoded",)
    assert TRAINED.notes == () and Bpe(TOKENIZER_FILES["gpt2"] | {"padding": None}).notes[0].startswith("truncation of")
    assert all(tokenizer.hugging_face()[name] is None for name in ("truncation", "padding", "post_processor"))


@pytest.mark.parametrize("spec", ["char", "byte"])
def test_character_and_byte_tokenizers_are_written_for_hugging_face(spec):
    tokenizer = TOKENIZERS[spec](TEXT)
    other = Bpe(tokenizer.hugging_face() or {})
    np.testing.assert_array_equal(other.encode(TEXT), tokenizer.encode(TEXT))
    assert other.decode(other.encode(TEXT)) == TEXT and other.vocab_size == tokenizer.vocab_size
    assert (other.eot, other.roles) == (None, {})


def test_a_special_token_that_is_missing_is_damage(tmp_path):
    fields = {"name": "bpe", "model": merged({"a": 0}, None, {"type": "Fuse"}), "special": {"eos_token": "<end>"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match="the special token '<end>' is not in the vocabulary"):
        load_tokenizer(tmp_path)
