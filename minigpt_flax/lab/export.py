"""``export RUN``: a run's model as a folder that Hugging Face's ``transformers`` loads, with the same logits."""

from __future__ import annotations

import shutil
from json import dumps
from pathlib import Path

from minigpt_flax.errors import UserError
from minigpt_flax.invoked import show
from minigpt_flax.train import output
from minigpt_flax.train.cli import Parser
from minigpt_flax.train.output import Output

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
    """
    answer = Output(quiet, json)
    from minigpt_flax.model.gpt2_folder import save_gpt2
    from minigpt_flax.train.restore import restore

    found, target = restore(Path(folder), step), Path(out)
    tokenizer = found.tokenizer.hugging_face()
    try:
        target.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"can't make the folder {show(target)}: {error.strerror}; give another --out") from error
    try:
        save_gpt2(target, found.params, found.model)
        if tokenizer is not None:
            (target / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
            about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": found.model.context}
            (target / "tokenizer_config.json").write_text(dumps(about) + "\n", encoding="utf-8")
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)  # nothing half-written
        raise
    files = sorted(path.name for path in target.iterdir())
    said = f"{show(target)}: {', '.join(files)}, of step {found.step:,}"
    if tokenizer is None:
        said += f"\nthe {found.tokenizer.name} tokenizer has no such form: encode with this run's own"
    answer.note(said, {"folder": show(target), "files": files, "step": found.step})
    return 0
