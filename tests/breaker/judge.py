"""What is wrong with an outcome, by kind."""

from __future__ import annotations

import re
from pathlib import PurePath

from tests.breaker import world
from tests.breaker.cases import Case
from tests.breaker.run import THEN, Outcome

STATUSES = (0, 1, 2)  # of those that docs/start/troubleshooting.md names, the ones that need no signal and no pipe
LONGEST = 2000  # characters of a message
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
WARNING = re.compile(r"^\S*:\d+: \w*Warning\b|^[WEIF]\d{4} \d\d:|^(WARNING|ERROR):|^Exception ignored", re.MULTILINE)
ERROR = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit|Panic\w*)\b.*", re.MULTILINE)
FRAME = re.compile(r'/((?:minigpt_flax|jaxopt_mini)/\S+\.py)", (line \d+)')
PYTHON = re.compile(  # what Python and NumPy say to programmers
    r"unsupported operand|object is not|not supported between|NoneType|must be real number|could not convert|"
    r"invalid literal|takes \d+ positional|missing \d+ required|has no attribute|not subscriptable|<class |unhashable|"
    r"PathLike|\[Errno|codec can't|Expecting value|truth value of|dtype\(|Error\(|out of range: -?\d|bad operand|"
    r"cannot be interpreted as|too large to convert|math domain|can't convert|unexpected keyword|jax\.|Array\("
)


def judge(case: Case, outcome: Outcome) -> list[str]:
    """The wrong answers of a case, each ``kind: what was seen``; none if all is well."""
    err = outcome.err.decode("utf-8", "replace")
    found = [*_process(case, outcome), *_text(outcome.out.decode("utf-8", "replace"), err), *_files(case, outcome)]
    if not outcome.stopped and "Traceback" not in err:
        found += _message(case, outcome.status, err)
    return found


def _process(case: Case, outcome: Outcome) -> list[str]:
    """How it ended."""
    if outcome.stopped:
        return [outcome.stopped]
    found = ["orphans: processes were left"] if outcome.orphans else []
    if outcome.status < 0:
        found.append(f"killed: by signal {-outcome.status}")
    elif outcome.status > THEN:
        found.append(f"unusable: what was accepted; {' '.join(case.then)} ends with {outcome.status - THEN}")
    elif outcome.status and case.must:
        found.append(f"refused: status {outcome.status}")
    elif outcome.status not in STATUSES:
        found.append(f"status: {outcome.status}")
    elif outcome.status == 0 and case.refuse:
        found.append("accepted: status 0")
    return found


def _text(out: str, err: str) -> list[str]:
    """What no command may print."""
    found = []
    if "Traceback (most recent call last)" in err:
        found.append(f"traceback: {_raised(err)}")
    if warned := WARNING.search(err):
        found.append(f"warning: {err[warned.start() :].splitlines()[0][:200]}")
    for name, text in (("stdout", out), ("stderr", err)):
        if raw := CONTROL.search(text):
            found.append(f"control: {raw.group()!r} on {name}")
    return found


def _raised(err: str) -> str:
    """The error of the last traceback, and the last line of the project that it went through."""
    errors = ERROR.findall(err) or err.strip().splitlines()[-1:]
    frames = FRAME.findall(err)
    return f"{' '.join(frames[-1]) if frames else ''} {errors[-1][:200]}"


def mechanism(text: str) -> str:
    """A wrong answer less the values in it, so that those of one cause are equal."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|-?\d[\d.e+,-]*|(?<=: )(runs|tokens|gpt2|work)/\S*", "~", text)[:110]


def _message(case: Case, status: int, err: str) -> list[str]:
    """Whether a refusal is one line of its own words."""
    if status not in (1, 2):
        return []
    lines = err.strip().splitlines()
    if len(lines) != 1:
        return [f"lines: {len(lines)} lines on stderr with status {status}"]
    if len(err) > LONGEST:
        return [f"long: {len(err):,} characters"]
    if not err.partition(": ")[2].strip():
        return ["empty: no message"]
    said = err
    for word in case.argv:  # a user's own words may be anybody's
        said = said.replace(word, "")
    return [f"python: {lines[0][:300]}"] if PYTHON.search(said) else []


def _files(case: Case, outcome: Outcome) -> list[str]:
    """What was done to a user's files, and what a refusal has left."""
    before, after = outcome.before, outcome.after
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    changed = [path for path in changed if PurePath(path).name != ".lock"]
    touched = [path for path in changed if _users(path, before) and not _asked(case, outcome, path)]
    if not case.damage:  # a link that the line itself names may be followed to where nothing is
        touched = [path for path in touched if path in before]
    left = [path for path in changed if path not in touched] if outcome.status == 2 else []
    return [
        *(f"touched: {path} {_change(path, outcome)}" for path in touched[:1]),
        *(f"left: {path} {_change(path, outcome)} with status 2" for path in left[:1]),
    ]


def _users(path: str, before: dict[str, world.Entry]) -> bool:
    """Whether a file is a user's: planted, or outside of the working folder."""
    parts = PurePath(path).parts
    return parts[-1] == world.NOTES or parts[0] == world.OUTSIDE or (len(parts) == 2 and path in before)


def _asked(case: Case, outcome: Outcome, path: str) -> bool:
    """Whether the line named this very file as its output, and succeeded."""
    named = {PurePath(word.rpartition("=")[2]).name for word in case.argv}
    return outcome.status == 0 and PurePath(path).name in named and PurePath(path).parts[0] != world.OUTSIDE


def _change(path: str, outcome: Outcome) -> str:
    if path not in outcome.before:
        return "made"
    return "changed" if path in outcome.after else "removed"
