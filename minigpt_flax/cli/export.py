"""``export RUN``: write a run's model as a folder that Hugging Face's ``transformers`` loads, with the same logits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from minigpt_flax.bounds import Bound
from minigpt_flax.cli.parser import Parser
from minigpt_flax.console import output
from minigpt_flax.console.output import Output
from minigpt_flax.invocation import show
from minigpt_flax.runs.files import output_errors, require_absent, staged

if TYPE_CHECKING:
    from minigpt_flax.data import Tokenizer

TOKENIZER = "tokenizer.json"
PAD = "<|pad|>"  # padding token of a tokenizer without an end-of-text token
SHARD = Bound(0, 1e6, above=True)
SUMMARY = "Export a run's model in GPT-2's format, for Hugging Face transformers."


def declare(parser: Parser) -> None:
    """Adds the arguments."""
    parser.add_argument("folder", metavar="RUN", help="the run's folder")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder to create; must not exist")
    parser.add_argument("--step", default="best", metavar="STEP", help="checkpoint: a step, best or last [best]")
    parser.add_argument("--shard-size", type=SHARD, default=5.0, metavar="GB", help="maximum size of a file [5]")
    output.declare(parser)


def run(*, folder: str, out: str, step: str, shard_size: float, quiet: bool, json: bool) -> int:
    """Writes the folder.

    Raises:
      UserError: the run or checkpoint is missing, the format can't represent the model, or the folder can't be created.
      Failed: the disk is full; the folder is removed.
    """
    answer = Output(quiet, json)
    from minigpt_flax.model.huggingface import save_gpt2
    from minigpt_flax.train.restore import restore

    target = Path(out)
    require_absent(target)
    restored = restore(Path(folder), step)
    with output_errors(target), staged(target) as scratch:
        ids = write_tokenizer(scratch, restored.tokenizer, restored.model.context, restored.model.vocab_size)
        save_gpt2(scratch, restored.params, restored.model, token_ids=ids, shard_bytes=max(1, int(shard_size * 1e9)))
    files = sorted(path.name for path in target.iterdir())
    text = f"{show(target)}: {', '.join(files)}, of step {restored.step:,}"
    if TOKENIZER not in files:
        text += f"\nthe {restored.tokenizer.name} tokenizer can't be exported: use minigpt_flax to encode text"
    elif "pad_token_id" not in ids:
        text += (
            "\nthe tokenizer has no padding token, so transformers can't pad a batch of texts: a run with --tokenizer "
            f'"bpe(eot=True)", or with --vocab-size {restored.model.vocab_size + 1} or more, has one'
        )
    answer.note(text, {"folder": show(target), "files": files, "step": restored.step})
    return 0


def write_tokenizer(folder: Path, tokenizer: Tokenizer, context: int, rows: int) -> dict[str, int]:
    """Writes the files that ``AutoTokenizer`` reads, if the tokenizer can be exported.

    A tokenizer without an end-of-text token gets a padding token if the embedding has a row for it.

    Args:
      folder: where to write.
      tokenizer: of the run.
      context: context length of the model.
      rows: of the embedding.

    Returns:
      The ids of the special tokens, as fields of ``config.json``.
    """
    from minigpt_flax.data.tokenizers.bpe import special_token
    from minigpt_flax.model.weight_files import write_json

    model, special = tokenizer.hugging_face(), tokenizer.roles
    if model is None:
        return {}
    if "pad_token" not in special and tokenizer.vocab_size < rows:
        special = {**special, "pad_token": PAD}
        model["added_tokens"] = [*model["added_tokens"], special_token(PAD, tokenizer.vocab_size)]
    write_json(folder / TOKENIZER, model)
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context, "padding_side": "left"}
    write_json(folder / "tokenizer_config.json", {**about, "clean_up_tokenization_spaces": False, **special})
    number_of = {token["content"]: token["id"] for token in model["added_tokens"]}
    return {f"{role}_id": number_of[token] for role, token in special.items()}
