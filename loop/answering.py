"""A student's answers to the instructions of any dataset, as AlpacaEval's outputs."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TypedDict

from reflectune.agents.machines import open_machines
from reflectune.agents.student.answering import Response, Writer
from reflectune.agents.student.templates import open_template
from reflectune.agents.tokenizers import open_tokenizer
from reflectune.loop.context import find_adapter
from reflectune.loop.pipeline import compute_groups
from reflectune.loop.progress import Display
from reflectune.loop.run import listen
from reflectune.state.config import RunConfig
from reflectune.state.data.datasets import Dataset, Record
from reflectune.state.data.writing import put_into_place
from reflectune.state.errors import DatasetError
from reflectune.state.folder import RunFolder
from reflectune.state.groups import in_groups
from reflectune.state.records import StudentRecord

__all__ = ["Answered", "answer_dataset"]

_Written = tuple[Sequence[Record], Sequence[Response | None]]


class Answered(TypedDict):
    """What `answer --json` prints."""

    name: str
    round: int
    student: str
    out: str
    written: int
    left_out: int  # instructions whose prompt alone fills student.max_length: they have no answer


def answer_dataset(
    folder: RunFolder,
    config: RunConfig,
    student: StudentRecord,
    dataset: Dataset,
    out: Path,
    display: Display,
) -> Answered:
    """Write greedy answers of a run's student, at most `evaluate.max_tokens` long, in the order of the data.

    The file is a JSON array of instruction, output, generator, and dataset where the record has one; an input
    is part of its instruction, as the template writes it. It is put into its place once it is whole.

    Raises:
        DatasetError: records are of conversations, which the format has no place for, or `out` is impossible.
    """
    if dataset.account.contexts:
        raise DatasetError("AlpacaEval's outputs have no place for the turns before an instruction")
    template = open_template(config.student, open_tokenizer(config.student))
    adapter, total = find_adapter(folder, student), len(dataset)
    written = left_out = 0
    with ExitStack() as stack:
        part = stack.enter_context(put_into_place(out))
        file = stack.enter_context(part.open("w", encoding="utf-8", errors="backslashreplace"))
        machines = stack.enter_context(open_machines(config, listen(display)))
        pool = stack.enter_context(machines.open_writers(adapter, total) or machines.open_students(adapter))
        stage = stack.enter_context(display.stage(f"answer · {student.id}", total=total))
        stage.watch(pool.workers)

        def commit(group: _Written) -> None:
            nonlocal written, left_out
            for record, response in zip(*group, strict=True):
                if response is None:
                    left_out += 1
                    continue
                instruction = template.instruction_target(record.pair)
                named = {"dataset": record.meta["dataset"]} if "dataset" in record.meta else {}
                row = {"instruction": instruction, "output": response.text, "generator": generator} | named
                file.write((",\n" if written else "[\n") + json.dumps(row, ensure_ascii=False, indent=1))
                written += 1
            stage.update(written + left_out, total)

        generator = f"{config.name}-{student.id}"
        size = pool.submit(attrgetter("at_once")).result()
        job = partial(_respond, config.evaluate.max_tokens)
        compute_groups(
            in_groups(dataset, size), lambda group: pool.submit(partial(job, group)), commit, pool.at_once
        )
        file.write("\n]\n" if written else "[]\n")
    return {
        "name": config.name,
        "round": student.round,
        "student": student.id,
        "out": str(out),
        "written": written,
        "left_out": left_out,
    }


def _respond(max_tokens: int, records: Sequence[Record], writer: Writer) -> _Written:
    return records, writer.respond([record.pair for record in records], max_tokens)
