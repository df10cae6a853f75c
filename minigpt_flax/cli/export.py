"""``export RUN``: a run's model as a folder that Hugging Face's ``transformers`` loads, with the same logits."""

from __future__ import annotations

from json import dumps
from pathlib import Path

from minigpt_flax.cli.parser import Parser
from minigpt_flax.console import output
from minigpt_flax.console.output import Output
from minigpt_flax.errors import Failed
from minigpt_flax.invocation import show
from minigpt_flax.runs.files import replace, require_absent, staged

SUMMARY = "Write a run's model in GPT-2's format, for transformers."


def declare(parser: Parser) -> None:
    """Adds the arguments."""
    parser.add_argument("folder", metavar="RUN", help="the run's folder")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder to make; must not be there yet")
    parser.add_argument("--step", default="best", metavar="STEP", help="checkpoint: a step, best or last [best]")
    output.declare(parser)


def run(*, folder: str, out: str, step: str, quiet: bool, json: bool) -> int:
    """Writes the folder.

    Raises:
      UserError: no such run or checkpoint, a model that the format can't hold, or a folder that can't be made.
      Failed: the disk is full; nothing is left of the folder.
    """
    answer = Output(quiet, json)
    from minigpt_flax.model.gpt2_folder import save_gpt2
    from minigpt_flax.train.restore import restore

    target = Path(out)
    require_absent(target)
    found = restore(Path(folder), step)
    tokenizer = found.tokenizer.hugging_face()
    try:
        with staged(target) as scratch:
            save_gpt2(scratch, found.params, found.model)
            if tokenizer is not None:
                replace(scratch / "tokenizer.json", tokenizer)
                about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": found.model.context}
                replace(scratch / "tokenizer_config.json", dumps(about) + "\n")
    except OSError as error:
        raise Failed(
            f"can't write {show(error.filename or target)}: {error.strerror}; nothing is left of it"
        ) from error
    files = sorted(path.name for path in target.iterdir())
    said = f"{show(target)}: {', '.join(files)}, of step {found.step:,}"
    if tokenizer is None:
        said += f"\nthe {found.tokenizer.name} tokenizer has no such form: encode with this run's own"
    answer.note(said, {"folder": show(target), "files": files, "step": found.step})
    return 0
