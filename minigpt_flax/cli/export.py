"""``export RUN``: write a run's model as a folder that Hugging Face's ``transformers`` loads, with the same logits."""

from __future__ import annotations

from json import dumps
from pathlib import Path

from minigpt_flax.cli.parser import Parser
from minigpt_flax.console import output
from minigpt_flax.console.output import Output
from minigpt_flax.errors import Failed
from minigpt_flax.invocation import show
from minigpt_flax.runs.files import replace, require_absent, staged

SUMMARY = "Export a run's model in GPT-2's format, for Hugging Face transformers."


def declare(parser: Parser) -> None:
    """Adds the arguments."""
    parser.add_argument("folder", metavar="RUN", help="the run's folder")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder to create; must not exist")
    parser.add_argument("--step", default="best", metavar="STEP", help="checkpoint: a step, best or last [best]")
    output.declare(parser)


def run(*, folder: str, out: str, step: str, quiet: bool, json: bool) -> int:
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
    tokenizer = restored.tokenizer.hugging_face()
    try:
        with staged(target) as scratch:
            save_gpt2(scratch, restored.params, restored.model)
            if tokenizer is not None:
                replace(scratch / "tokenizer.json", tokenizer)
                about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": restored.model.context}
                replace(scratch / "tokenizer_config.json", dumps(about) + "\n")
    except OSError as error:
        raise Failed(
            f"can't write {show(error.filename or target)}: {error.strerror}; the folder was removed"
        ) from error
    files = sorted(path.name for path in target.iterdir())
    text = f"{show(target)}: {', '.join(files)}, of step {restored.step:,}"
    if tokenizer is None:
        text += f"\nthe {restored.tokenizer.name} tokenizer can't be exported: use minigpt_flax to encode text"
    answer.note(text, {"folder": show(target), "files": files, "step": restored.step})
    return 0
