"""The same pairs scored by Reflectune and by others that can: speed, passes, memory, agreement.

Each way runs in a process of its own, with the same student in float32 and the same number of threads.
data-juicer and lm-eval have an environment of their own (`make .venv/peers/ready`).

    python -m tests.bench.peers --pairs 300
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from reflectune.agents.chat import find_separator
from reflectune.agents.student.targets import Encoded, TargetEncoder
from reflectune.agents.student.templates import open_template
from reflectune.agents.tokenizers import open_tokenizer
from reflectune.state.records import Pair
from tests.bench.memory import MIB
from tests.bench.peer_ways import TARGETS, WAYS, Taken, Task
from tests.bench.results import options, publish, table
from tests.bench.scoring import STUDENT, TEMPLATE, read_pairs, run_config

__all__ = ["Comparison", "compare_taken", "make_task"]

_PEERS = Path(".venv/peers/bin/python")
_ELSEWHERE = ("data-juicer", "lm-eval")  # the ways that run there


class Comparison(NamedTuple):
    """A way's sums against Reflectune's."""

    alike: int  # targets that both took over the same tokens
    other: Counter[str]  # the others, by what differs
    worst: float  # the largest difference of the first, nats


def main() -> None:
    parser = options(__doc__, pairs=300)
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs of each way, the median counts (default 3)"
    )
    parser.add_argument(
        "--peers", type=Path, default=_PEERS, help=f"Python with the peers (default {_PEERS})"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pairs = read_pairs(2 * arguments.pairs)
    task = make_task(STUDENT, TEMPLATE, pairs, arguments)
    answers = {way: _ask(way, task, arguments) for way in WAYS}
    ours = answers["Reflectune"]
    rows = [_row(way, answer, ours, len(task.pairs)) for way, answer in answers.items()]
    header = (
        "pairs/s | targets a pair | targets/s | passes | MiB open | MiB at most | same tokens | differ by | "
        "other tokens"
    )
    body = [
        f"{len(task.pairs)} usable pairs of alpaca-2000.json, student-6m in float32, {arguments.threads} "
        f"threads. Each way in a process of its own, once unmeasured, then the median of {arguments.repeats} "
        "more; opening the model is not counted. MiB: resident, libraries included, once the model is open "
        "(of vLLM with the 1 GiB that it sets aside) and at most while it scores. Differ by: the largest "
        "difference of a target's sum of log-probabilities from Reflectune's, in nats, over the targets that "
        "both took over the same tokens.",
        "",
        *table(f"way | {header}", rows),
        "Other tokens: `boundary` where the same text was split elsewhere into prompt and target; "
        "`beginning` where the same target stood behind other tokens; `target` where its own tokens are "
        "others. data-juicer joins prompt and response with a space, and so takes another first token behind "
        "every prompt. vLLM gets token ids: its time is without tokenising. Its passes are steps of its "
        "engine.",
    ]
    publish("Peers", body, arguments)


def make_task(model: Path, template: Path | str, pairs: Sequence[Pair], arguments: Namespace) -> Task:
    """The first pairs that fit the context whole, with room for the token that vLLM cannot but write."""
    config = run_config(model, template, "float32", arguments.threads).student
    tokenizer = open_tokenizer(config)
    prompts = open_template(config, tokenizer)
    encoder = TargetEncoder(tokenizer, config.max_length, find_separator(tokenizer))
    task = Task(
        str(model), str(template), config.max_length, arguments.threads, arguments.repeats, [], [], [], []
    )
    for pair in pairs:
        texts = [prompts.render(pair, term) for term in TARGETS]
        encoded = [item for item in encoder.encode(texts) if isinstance(item, Encoded)]
        fits = all(len(item.ids) < config.max_length for item in encoded)
        if len(task.pairs) == arguments.pairs or len(encoded) < len(texts) or not fits:
            continue
        task.pairs.append((pair.instruction, pair.input, pair.response))
        for term, text, item in zip(TARGETS, texts, encoded, strict=True):
            is_alone = term.endswith("alone")
            task.texts.append(("" if is_alone else text[0], text[1]))
            taken = encoder.alone(item) if is_alone else item
            task.ids.append(taken.ids)
            task.firsts.append(taken.first_target)
    return task


def compare_taken(ours: Sequence[Taken], theirs: Sequence[Taken | None]) -> Comparison:
    """Hold sums against ours where the very same tokens were scored behind the very same tokens."""
    alike, worst, other = 0, 0.0, Counter[str]()
    for one, two in zip(ours, theirs, strict=True):
        if two is None:
            continue
        if (one.ids, one.first) == (two.ids, two.first):
            alike += 1
            worst = max(worst, abs(one.sum_logprob - two.sum_logprob))
        else:
            other[_tell_difference(one, two)] += 1
    return Comparison(alike, other, worst)


def _tell_difference(ours: Taken, theirs: Taken) -> str:
    if ours.ids == theirs.ids:
        return "boundary"
    if ours.ids[ours.first :] == theirs.ids[theirs.first :]:
        return "beginning"
    return "target"


def _ask(way: str, task: Task, arguments: Namespace) -> dict[str, Any] | str:
    """What a process that scores in this way has measured, or in a line why there is nothing."""
    python = arguments.peers if way in _ELSEWHERE else Path(sys.executable)
    if not python.exists():
        return f"not installed: no {python}"
    threads = str(task.threads)
    environment = os.environ | {"OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        given, answer = Path(folder, "task.json"), Path(folder, "answer.json")
        given.write_text(json.dumps(task._asdict()), encoding="utf-8")
        command = [python, "-m", "tests.bench.peer_ways", way, given, answer]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if not answer.exists():
            return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    found["taken"] = [item and Taken(*item) for item in found["taken"]]
    return found


def _row(way: str, answer: dict[str, Any] | str, ours: dict[str, Any] | str, pairs: int) -> str:
    if isinstance(answer, str):
        return " | ".join([f"{way}: {answer}", *[""] * 9])
    seconds = statistics.median(answer["seconds"])
    targets = sum(item is not None for item in answer["taken"])
    name = ", ".join(filter(None, [f"{way} ({answer['version']})", answer["note"]]))
    cells = [
        name,
        f"{pairs / seconds:.1f}",
        f"{targets // pairs}",
        f"{targets / seconds:.1f}",
        f"{answer['passes']:,}",
        f"{answer['before'] / MIB:,.0f}",
        f"{answer['peak'] / MIB:,.0f}",
    ]
    if isinstance(ours, str):
        return " | ".join([*cells, "", "", ""])
    alike, other, worst = compare_taken(ours["taken"], answer["taken"])
    reasons = ", ".join(f"{number} {reason}" for reason, number in other.items())
    return " | ".join([*cells, f"{alike:,}", f"{worst:.1e}" if alike else "", reasons or "0"])


if __name__ == "__main__":
    main()
