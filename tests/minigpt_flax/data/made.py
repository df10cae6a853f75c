"""Data files for tests."""

import json

import numpy as np


def llmc(path, tokens, *, magic=20240520, version=1, count=None, dtype="<u2"):
    """A file in llm.c's format, as its dev/data/data_common.py writes it."""
    header = np.zeros(256, np.int32)
    header[:3] = magic, version, len(tokens) if count is None else count
    path.write_bytes(header.tobytes() + np.asarray(tokens).astype(dtype).tobytes())
    return path


def jsonl(path, documents, field="text"):
    path.write_text("".join(json.dumps({"id": i, field: text}) + "\n" for i, text in enumerate(documents)), "utf-8")
    return path
