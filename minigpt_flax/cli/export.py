"""``export RUN``: write a run's model as a folder that Hugging Face's ``transformers`` loads, with the same logits.

With ``--format nanogpt`` it writes the ``ckpt.pt`` from which nanoGPT resumes, with the state of its AdamW.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from minigpt_flax.bounds import Bound
from minigpt_flax.cli.parser import Parser
from minigpt_flax.console import output
from minigpt_flax.console.output import Output
from minigpt_flax.errors import Failed, UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs.files import require_absent, staged

if TYPE_CHECKING:
    from minigpt_flax.data import Tokenizer

TOKENIZER = "tokenizer.json"
PAD = "<|pad|>"  # padding token of a tokenizer without an end-of-text token
SHARD = Bound(0, 1e6, above=True)
FORMATS = ("gpt2", "nanogpt")
SUMMARY = "Export a run's model for Hugging Face transformers, or for nanoGPT."


def declare(parser: Parser) -> None:
    """Adds the arguments."""
    parser.add_argument("folder", metavar="RUN", help="the run's folder")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder to create; must not exist")
    parser.add_argument("--step", default="best", metavar="STEP", help="checkpoint: a step, best or last [best]")
    parser.add_argument(
        "--format", default="gpt2", choices=FORMATS, help="gpt2 (transformers) or nanogpt (its ckpt.pt) [gpt2]"
    )
    parser.add_argument(
        "--no-optimizer", action="store_true", help="nanogpt: leave out the optimizer's state; nanoGPT can't resume"
    )
    parser.add_argument("--shard-size", type=SHARD, default=5.0, metavar="GB", help="maximum size of a file [5]")
    output.declare(parser)


def run(
    *, folder: str, out: str, step: str, format: str, no_optimizer: bool, shard_size: float, quiet: bool, json: bool
) -> int:
    """Writes the folder.

    Raises:
      UserError: the run or checkpoint is missing, the format can't represent the model, or the folder can't be created.
      Failed: the disk is full; the folder is removed.
    """
    answer, target = Output(quiet, json), Path(out)
    require_absent(target)
    if no_optimizer and format != "nanogpt":
        raise UserError("--no-optimizer is for --format nanogpt: the format gpt2 has no optimizer; omit it")
    try:
        with staged(target) as scratch:
            if format == "nanogpt":
                at, text = _write_nanogpt(scratch, Path(folder), step, not no_optimizer)
            else:
                at, text = _write_gpt2(scratch, Path(folder), step, shard_size)
    except OSError as error:
        raise Failed(
            f"can't write {show(error.filename or target)}: {error.strerror}; the folder was removed"
        ) from error
    files = sorted(path.name for path in target.iterdir())
    about = {"folder": show(target), "files": files, "step": at}
    answer.note(f"{show(target)}: {', '.join(files)}, of step {at:,}{text}", about)
    return 0


def _write_gpt2(scratch: Path, folder: Path, step: str, shard_size: float) -> tuple[int, str]:
    """Writes model and tokenizer; returns the step, and what the user should know."""
    from minigpt_flax.model.huggingface import save_gpt2
    from minigpt_flax.train.restore import restore

    restored = restore(folder, step)
    ids = write_tokenizer(scratch, restored.tokenizer, restored.model.context, restored.model.vocab_size)
    shard_bytes = max(1, int(shard_size * 1e9))
    save_gpt2(scratch, restored.params, restored.model, token_ids=ids, shard_bytes=shard_bytes)
    if not (scratch / TOKENIZER).exists():
        text = f"\nthe {restored.tokenizer.name} tokenizer can't be exported: use minigpt_flax to encode text"
    elif "pad_token_id" not in ids:
        text = (
            "\nthe tokenizer has no padding token, so transformers can't pad a batch of texts: a run with --tokenizer "
            f'"bpe(eot=True)", or with --vocab-size {restored.model.vocab_size + 1} or more, has one'
        )
    else:
        text = ""
    return restored.step, text


def _write_nanogpt(scratch: Path, folder: Path, step: str, with_optimizer: bool) -> tuple[int, str]:
    """Writes ``ckpt.pt``; returns the step, and what the user should know."""
    from minigpt_flax.model.huggingface import NANOGPT
    from minigpt_flax.model.nanogpt import check_nanogpt, nanogpt_groups, save_nanogpt
    from minigpt_flax.train.exported_optimizer import check_adamw, nanogpt_optimizer
    from minigpt_flax.train.restore import restore, restore_state, settings_of

    if not with_optimizer:
        found = restore(folder, step)
        save_nanogpt(scratch / NANOGPT, found.params, found.model, step=found.step)
        return found.step, ""
    check_adamw(settings_of(folder)[1])
    found, state = restore_state(folder, step)
    check_nanogpt(found.model)
    saved = nanogpt_optimizer(found.config, state, nanogpt_groups(found.model))
    losses = [loss for at, loss in found.folder.scores().items() if at <= found.step]
    best = min(losses, default=float("inf"))
    save_nanogpt(scratch / NANOGPT, state.params, found.model, step=found.step, val_loss=best, optimizer=saved)
    return found.step, "\nnanoGPT continues with --init_from=resume and this folder as --out_dir"


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
