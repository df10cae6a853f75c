"""``export RUN``: write a run's model as a folder that Hugging Face's ``transformers`` loads, with the same logits.

With ``--format nanogpt`` it writes the ``ckpt.pt`` from which nanoGPT resumes, with the state of its AdamW.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from minigpt_flax.bounds import Bound
from minigpt_flax.cli.parser import Parser
from minigpt_flax.console import output
from minigpt_flax.console.output import Output
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs.files import output_errors, require_absent, staged

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
    if format == "nanogpt":
        at, write = _nanogpt(Path(folder), step, not no_optimizer)
    else:
        at, write = _gpt2(Path(folder), step, shard_size)
    with output_errors(target), staged(target) as scratch:
        text = write(scratch)
    files = sorted(path.name for path in target.iterdir())
    about = {"folder": show(target), "files": files, "step": at}
    answer.note(f"{show(target)}: {', '.join(files)}, of step {at:,}{text}", about)
    return 0


def _gpt2(folder: Path, step: str, shard_size: float) -> tuple[int, Callable[[Path], str]]:
    """Reads the run; returns its step, and a function that writes the files and returns what the user should know."""
    from minigpt_flax.model.huggingface import save_gpt2
    from minigpt_flax.train.restore import restore

    found = restore(folder, step)

    def write(scratch: Path) -> str:
        ids = write_tokenizer(scratch, found.tokenizer, found.model.context, found.model.vocab_size)
        save_gpt2(scratch, found.params, found.model, token_ids=ids, shard_bytes=max(1, int(shard_size * 1e9)))
        if not (scratch / TOKENIZER).exists():
            return f"\nthe {found.tokenizer.name} tokenizer can't be exported: use minigpt_flax to encode text"
        if "pad_token_id" in ids:
            return ""
        return (
            "\nthe tokenizer has no padding token, so transformers can't pad a batch of texts: a run with --tokenizer "
            f'"bpe(eot=True)", or with --vocab-size {found.model.vocab_size + 1} or more, has one'
        )

    return found.step, write


def _nanogpt(folder: Path, step: str, with_optimizer: bool) -> tuple[int, Callable[[Path], str]]:
    """As :func:`_gpt2`, for nanoGPT's ``ckpt.pt``."""
    from minigpt_flax.model.huggingface import NANOGPT
    from minigpt_flax.model.nanogpt import check_nanogpt, nanogpt_groups, save_nanogpt
    from minigpt_flax.train.exported_optimizer import check_adamw, nanogpt_optimizer
    from minigpt_flax.train.restore import restore, restore_state, settings_of

    if with_optimizer:
        check_adamw(settings_of(folder)[1])
        found, state = restore_state(folder, step)
        check_nanogpt(found.model)
        optimizer, params = nanogpt_optimizer(found.config, state, nanogpt_groups(found.model)), state.params
    else:
        found, optimizer = restore(folder, step), None
        check_nanogpt(found.model)
        params = found.params
    best = min((loss for at, loss in found.folder.scores().items() if at <= found.step), default=float("inf"))

    def write(scratch: Path) -> str:
        how = {"step": found.step, "val_loss": best, "optimizer": optimizer}
        save_nanogpt(scratch / NANOGPT, params, found.model, **how)
        return "\nnanoGPT continues with --init_from=resume and this folder as --out_dir" * with_optimizer

    return found.step, write


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
