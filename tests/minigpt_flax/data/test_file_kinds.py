"""Every kind of file that people have: read as documents or tokens, or refused in one line that says what to do."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from minigpt_flax.__main__ import main
from minigpt_flax.data import load_corpus
from minigpt_flax.data.corpora import is_text
from minigpt_flax.data.encodings import LEGACY, detect
from minigpt_flax.data.tokenizers.bpe import bpe
from minigpt_flax.errors import UserError
from minigpt_flax.train.dataset import load_dataset
from tests.minigpt_flax.train.test_build import config

DOCUMENTS = ("the first document", "the second,\nof two lines")
CHINESE = "优化理论研究如何调整参数，使损失函数达到最小值。学习率太大会发散，太小则收敛缓慢。\n" * 3
LINES = "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(DOCUMENTS)).encode()
LIST = json.dumps([{"text": text} for text in DOCUMENTS]).encode()
CSV = b'id,text\n1,the first document\n2,"the second,\nof two lines"\n'
TSV = b'id\ttext\r\n1\tthe first document\r\n2\t"the second,\nof two lines"\r\n'
TOKENS = np.arange(300) % 97

READ = {  # name -> content; each holds DOCUMENTS
    "a.jsonl": LINES,
    "a.ndjson": LINES,
    "mark.jsonl": b"\xef\xbb\xbf" + LINES,
    "lines.json": LINES,
    "list.json": LIST,
    "text.json": json.dumps(DOCUMENTS).encode(),
    "a.csv": CSV,
    "mark.csv": b"\xef\xbb\xbf" + CSV,
    "a.tsv": TSV,
    "a.jsonl.gz": gzip.compress(LINES),
    "a.NDJSON.bz2": bz2.compress(LINES),
    "list.json.xz": lzma.compress(LIST),
    "a.csv.gz": gzip.compress(CSV),
}
TEXTS = {  # name -> content; each is CHINESE
    "a.txt": CHINESE.encode(),
    "mark.txt": b"\xef\xbb\xbf" + CHINESE.encode(),
    "a.txt.gz": gzip.compress(CHINESE.encode()),
    "a.log.xz": lzma.compress(CHINESE.encode()),
    "a.bz2": bz2.compress(CHINESE.encode()),
}
ARCHIVE = io.BytesIO()
with zipfile.ZipFile(ARCHIVE, "w") as _file:
    _file.writestr("archive/data.pkl", b"x")
EMPTY = {
    "empty.txt": b"",
    "space.txt": b" \n\n",
    "empty.jsonl": b"",
    "empty.json": b"[]",
    "empty.csv": b"",
    "e.gz": b"",
}
REFUSED = (
    {  # name -> content, and what the one line says
        "utf16.txt": (CHINESE.encode("utf-16"), "is UTF-16, not UTF-8; convert it with iconv -f UTF-16 -t utf-8 "),
        "utf16.jsonl": (LINES.decode().encode("utf-16"), "convert it with iconv -f UTF-16 "),
        "utf16.csv": (CSV.decode().encode("utf-16-be"), "iconv -f UTF-16BE "),
        "utf32.txt": (CHINESE.encode("utf-32"), "is UTF-32, .* iconv -f UTF-32 "),
        "nearly.txt": (
            CHINESE.encode() + b"\xff\n" + CHINESE.encode(),
            "remove the wrong bytes with iconv -c -f utf-8 ",
        ),
        "binary.txt": (b"\1\2\0\3" * 9 + b"\0\0", "is binary, not UTF-8 text"),
        "cut.txt.gz": (gzip.compress(CHINESE.encode())[:-9], "cut.txt.gz is damaged: "),
        "no.jsonl.gz": (LINES, "no.jsonl.gz is damaged: "),
        "cut.xz": (lzma.compress(CHINESE.encode())[:40], "cut.xz is damaged: "),
        "torch.bin": (ARCHIVE.getvalue(), "is a zip archive, such as the weights of torch.save, not tokens"),
        "llama.bin": (b"GGUF" + bytes(60), "is the weights of llama.cpp, not tokens"),
        "train.bin.gz": (gzip.compress(TOKENS.astype("<u2").tobytes()), "is compressed, and tokens are memory-mapped"),
        "u32.bin": (TOKENS.astype("<u4").tobytes(), r"looks like uint32 tokens .* give --data '.*u32.bin#uint32'"),
        "u32large.bin": ((TOKENS * 1300).astype("<u4").tobytes(), "looks like uint32 tokens without a header"),
        "data.zip": (ARCHIVE.getvalue(), "is an archive of files: unpack it"),
        "data.tar.gz": (gzip.compress(b"x"), "is an archive of files: unpack it"),
        "other.csv": (b"id;text\n1;x\n", r"has no field 'text'; it has: 'id;text'"),
        "other.json": (b'{"body": "x"}', "has no field 'text'; it has: 'body'"),
        "numbers.json": (b"[1, 2]", "record 0, is not a JSON object"),
        "open.csv": (b'id,text\n1,"x\n', "open.csv', line 2, is damaged"),
        "null.jsonl": (b'{"text": null}\n', "line 1, has no text in the field 'text', but None: fix or remove it"),
        "tokens.npy": (b"\x93NUMPY\x01\x00", r"is a NumPy file: write its tokens to a .bin file"),
    }
    | {name: (content, f"{name}' has no text: give another file") for name, content in EMPTY.items()}
)


def written(folder, name, content):
    (folder / name).write_bytes(content)
    return str(folder / name)


@pytest.mark.parametrize("name", READ)
def test_records_are_one_document_each(tmp_path, name):
    source = written(tmp_path, name, READ[name])
    assert load_corpus(source).documents == DOCUMENTS and is_text(source)
    if name != "text.json":  # a list of texts has no fields
        with pytest.raises(UserError, match="has no field 'body'; it has: "):
            load_corpus(f"{source}#body")


@pytest.mark.parametrize("name", TEXTS)
def test_text_is_unchanged(tmp_path, name):
    assert load_corpus(written(tmp_path, name, TEXTS[name])).text == CHINESE


@pytest.mark.parametrize("name", REFUSED)
def test_other_files_are_refused_in_one_line(tmp_path, name):
    content, says = REFUSED[name]
    with pytest.raises(UserError, match=says) as error:
        load_corpus(written(tmp_path, name, content))
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize("target", ["nowhere", "link.txt"])
def test_a_link_that_leads_nowhere_is_named(tmp_path, target):
    (tmp_path / "link.txt").symlink_to(target)
    with pytest.raises(UserError, match=f"link.txt' is a link to '{target}', which can't be opened"):
        load_corpus(str(tmp_path / "link.txt"))


@pytest.mark.parametrize("name", ["page.html", "notebook.ipynb", "letter.rtf", "page.xml.gz"])
def test_markup_is_read_as_it_is_with_a_note(tmp_path, name):
    content = CHINESE.encode()
    corpus = load_corpus(written(tmp_path, name, gzip.compress(content) if name.endswith("gz") else content))
    assert corpus.text == CHINESE and corpus.notes[0].endswith(f"{name}' is read as it is, with its markup")


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.zst"])
def test_formats_of_other_packages(tmp_path, name, monkeypatch):
    package = {"a.parquet": "pyarrow", "a.jsonl.zst": "zstandard"}[name]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=f"{name} needs the package {package}: pip install {package}"):
            load_corpus(written(tmp_path, name, b"x"))
    made = pytest.importorskip(package)
    if package == "pyarrow":
        from pyarrow import parquet

        parquet.write_table(made.table({"id": [1, 2], "text": DOCUMENTS}), tmp_path / name)
    else:
        half = len(LINES) // 2
        written(tmp_path, name, made.compress(LINES[:half]) + made.compress(LINES[half:]))  # two frames
    assert load_corpus(str(tmp_path / name)).documents == DOCUMENTS
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:20])
    with pytest.raises(UserError, match=f"{name} is damaged"):
        load_corpus(str(tmp_path / name))


@pytest.mark.parametrize("source", ["a.jsonl.gz", "a.csv", "u32.bin#uint32"])
@pytest.mark.parametrize("command", ["train", "prepare"])
def test_the_commands_read_them(tmp_path, capfd, source, command):
    name, mark, field = source.partition("#")
    files = READ | {"u32.bin": TOKENS.astype("<u4").tobytes()}
    source = f"{written(tmp_path, name, files[name])}{mark}{field}"
    if command == "prepare":
        assert main(["prepare", source, "--out", str(tmp_path / "out")]) == 0, capfd.readouterr().err
    else:
        assert len(load_dataset(config(data=source)).parts[0].train) > 8


def test_uint32_without_a_header(tmp_path):
    large = (TOKENS * 1300).astype("<u4")
    source = written(tmp_path, "a.bin", large.tobytes())
    np.testing.assert_array_equal(load_corpus(f"{source}#uint32").tokens, large)
    assert len(load_corpus(f"{source}#uint16").tokens or ()) == 600
    with pytest.raises(UserError, match="no field 'int64'; after # stands uint16 or uint32"):
        load_corpus(f"{source}#int64")
    for tokens in (TOKENS, TOKENS % 2, np.zeros(300)):  # none of these is taken for uint32
        written(tmp_path, "a.bin", tokens.astype("<u2").tobytes())
        np.testing.assert_array_equal(load_corpus(source).tokens, tokens)


FOLDERS = {  # files -> the documents or tokens that are read, or the refusal
    "text and lines": ({"a.txt": b"text", "b.jsonl": LINES, "c.ndjson.gz": gzip.compress(LINES)}, 5),
    "text and tables": ({"a.txt": b"text", "b.csv": CSV, "package.json": b"{}"}, 1),
    "tables": ({"b.csv": CSV, "c.csv": CSV}, 4),
    "compressed text": ({"a.txt.gz": gzip.compress(b"one"), "b.txt": b"two"}, 2),
    "weights beside text": ({"a.txt": b"text", "pytorch_model.bin": os.urandom(500)}, "give the one you mean"),
    "weights beside lines": ({"a.jsonl": LINES, "model.bin": os.urandom(500)}, "give the one you mean"),
    "a folder of nanoGPT": ({"readme.md": b"x", "prepare.py": b"x", "input.txt": b"x", "train.bin": bytes(80)}, 40),
    "tokens": ({"tokens.bin": bytes(80)}, 40),
    "nothing": ({"a.png": b"\x89PNG", "b.pdf": b"%PDF"}, "has no text"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_folders(tmp_path, case):
    files, expected = FOLDERS[case]
    for name, content in files.items():
        written(tmp_path, name, content)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            load_corpus(str(tmp_path))
        return
    corpus = load_corpus(str(tmp_path))
    assert len(corpus.documents if corpus.tokens is None else corpus.tokens) == expected
    left_out = case == "text and tables"
    assert corpus.notes == load_dataset(config(data=str(tmp_path))).notes
    assert bool(corpus.notes) == left_out and (not left_out or "2 files such as b.csv left out" in corpus.notes[0])


SIMPLIFIED = """\
今天天气很好，我们去公园散步吧。
学习率太大会发散，太小则收敛缓慢。
他昨天买了一本新书。
北京是中国的首都。
这个问题很难回答。
请把门关上。
我喜欢喝绿茶。
他们正在讨论明年的计划。
火车晚点了二十分钟。
春天来了，花都开了。
图书馆几点关门？
欢迎光临
"""
TRADITIONAL = """\
今天天氣很好，我們去公園散步吧。
學習率太大會發散，太小則收斂緩慢。
他昨天買了一本新書。
臺北是臺灣的首都。
這個問題很難回答。
請把門關上。
我喜歡喝綠茶。
他們正在討論明年的計畫。
火車晚點了二十分鐘。
春天來了，花都開了。
圖書館幾點關門？
歡迎光臨
"""
JAPANESE = """\
今日は天気がいいので、公園を散歩しましょう。
学習率が大きすぎると発散する。
彼は昨日新しい本を買いました。
東京は日本の首都です。
この質問に答えるのは難しい。
ドアを閉めてください。
私は緑茶が好きです。
彼らは来年の計画を話し合っている。
電車が二十分遅れた。
春が来て、花が咲いた。
図書館は何時に閉まりますか。
ようこそ
"""
KOREAN = """\
오늘은 날씨가 좋으니 공원을 산책합시다.
학습률이 너무 크면 발산한다.
그는 어제 새 책을 샀다.
서울은 한국의 수도이다.
이 질문은 대답하기 어렵다.
문을 닫아 주세요.
나는 녹차를 좋아한다.
그들은 내년 계획을 논의하고 있다.
기차가 이십 분 늦었다.
봄이 와서 꽃이 피었다.
도서관은 몇 시에 닫습니까?
어서 오세요
"""
RUSSIAN = """\
Сегодня хорошая погода, пойдём гулять в парк.
Слишком большой шаг ведёт к расхождению.
Вчера он купил новую книгу.
Москва - столица России.
На этот вопрос трудно ответить.
Закройте, пожалуйста, дверь.
Я люблю зелёный чай.
Они обсуждают план на будущий год.
Поезд опоздал на двадцать минут.
Пришла весна, расцвели цветы.
Когда закрывается библиотека?
Добро пожаловать
"""
WESTERN = """\
Die Größe der Straße überrascht uns.
Il fait très beau, allons nous promener à l'école.
El niño comió una manzana mañana por la mañana.
O coração não é uma máquina de calcular.
Voilà l’été, dit-elle, et où êtes-vous ?
Flickan åt ett äpple på bänken.
¿Dónde está la biblioteca?
Ça m'a coûté 20 €, c'est déjà trop cher.
Grüße aus München und Köln!
Le garçon a reçu une leçon de français.
Perché non è più così?
L'œuvre « complète » fut publiée à Genève.
"""
ENCODED = {  # encoding -> a dozen sentences
    "GB18030": SIMPLIFIED,
    "BIG5": TRADITIONAL,
    "CP932": JAPANESE,
    "EUC-JP": JAPANESE,
    "CP949": KOREAN,
    "CP1251": RUSSIAN,
    "KOI8-R": RUSSIAN,
    "CP1252": WESTERN,
}


@pytest.mark.parametrize("encoding", ENCODED)
def test_the_line_that_converts_an_encoding(tmp_path, encoding):
    pytest.importorskip("chardet", minversion="7.7")
    text = ENCODED[encoding]
    source = written(tmp_path, "my text.txt", b"plain\n" * 9000 + text.encode(encoding))
    with pytest.raises(UserError, match=rf" {encoding} \(.*: convert it with iconv -f {encoding} -t utf-8 '.*my text"):
        load_corpus(source)
    assert encoding in LEGACY


@pytest.mark.parametrize("encoding", ENCODED)
def test_one_sentence_tells_its_encoding(encoding):
    pytest.importorskip("chardet", minversion="7.7")
    unclear = 0
    for sentence in ENCODED[encoding].splitlines():
        content = sentence.encode(encoding)
        guesses = detect(content)
        assert sentence in [content.decode(guess, "replace") for guess in guesses]
        unclear += len(guesses) > 1
    assert unclear <= (8 if encoding == "CP1252" else 1)  # few bytes of Western European text are other than ASCII


def test_an_unclear_encoding_is_called_so(tmp_path):
    pytest.importorskip("chardet", minversion="7.7")
    with pytest.raises(
        UserError, match=r"it may be .* or .*CP1252 \(.*: convert it .* or name another encoding after -f"
    ):
        load_corpus(written(tmp_path, "a.txt", "Perché non è più così?".encode("cp1252")))


@pytest.mark.parametrize("package", [None, SimpleNamespace(detect_all=lambda byte_str: [])])  # absent, or before 7.2
def test_without_the_package_there_is_no_guess(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, "chardet", package)
    with pytest.raises(UserError, match="convert it first with iconv -f ENCODING -t utf-8.*pip install 'chardet>="):
        load_corpus(written(tmp_path, "a.txt", CHINESE.encode("gb18030")))


class Hostile:
    """Runs a command when a pickle of it is loaded by Python's own unpickler."""

    def __reduce__(self):
        return os.system, ("touch hacked",)


@pytest.mark.parametrize(
    ("meta", "characters"),
    [
        ({"vocab_size": 3, "itos": {0: "\n", 1: "a", 2: "b"}, "stoi": {"\n": 0, "a": 1, "b": 2}}, "\nab"),
        ({"vocab_size": 2, "itos": {0: "b", 1: "a"}}, None),  # not in their order
        ({"vocab_size": 2, "itos": {0: "b", 1: Hostile()}}, None),
        (Hostile(), None),
        ([1], None),
    ],
)
def test_nanogpts_characters_are_read_without_executing_anything(tmp_path, monkeypatch, meta, characters):
    monkeypatch.chdir(tmp_path)
    np.array([0, 1, 1, 0] * 20, "<u2").tofile("train.bin")
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta))
    data = load_dataset(config(data=str(tmp_path / "train.bin")))
    if characters is None:
        assert data.tokenizer.name == "ids" and "meta.pkl is not nanoGPT's table" in data.notes[0]
    else:
        assert data.tokenizer.decode([1, 2, 0]) == "ab\n" and not data.notes
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("preset", ["gpt2", "gpt2-xl", "speedrun"])
def test_token_data_needs_no_vocabulary(tmp_path, monkeypatch, preset):
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    TOKENS.astype("<u2").tofile(tmp_path / "train.bin")
    from minigpt_flax.train.config.run_config import resolve

    data = load_dataset(resolve({"data": str(tmp_path / "train.bin")}, preset))
    assert (data.tokenizer.vocab_size, data.tokenizer.eot) == (50257, 50256)
    assert "token ids only, so samples are numbers: gpt2 needs the package tiktoken" in data.notes[0]
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UserError, match="gpt2 needs the package tiktoken"):
        load_dataset(resolve({"data": str(tmp_path / "a.txt")}, preset))


def test_the_validation_split_can_be_shortened(tmp_path):
    TOKENS.astype("<u2").tofile(tmp_path / "train.bin")
    for wanted, expected in ((None, 30), (10, 11), (10**9, 30)):
        (part,) = load_dataset(config(data=str(tmp_path / "train.bin"), val_tokens=wanted)).parts
        assert len(part.val) == expected and np.asarray(part.val[:1]).tolist() == [270 % 97]


def test_bpe_learns_from_a_long_text_without_space():
    letters = "".join(chr(97 + i) for i in np.random.default_rng(0).integers(0, 26, 60_000))
    tokenizer = bpe(letters, vocab_size=300)  # took minutes as a single word
    assert tokenizer.vocab_size == 300 and tokenizer.decode(tokenizer.encode(letters)) == letters
