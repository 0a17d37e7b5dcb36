"""What a run made of its data, in the shapes that trainers read.

Reading is in datasets.py, how rows come into files in writing.py. The same records give the same bytes.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from reflectune.state.data.conversations import user_turn
from reflectune.state.data.shapes import PAIR_FIELDS
from reflectune.state.data.writing import Container, find_container, put_into_place, write_rows
from reflectune.state.errors import DatasetError
from reflectune.state.records import CALLING_FIELDS, Pair, Split, Turn
from reflectune.state.text import is_empty

__all__ = [
    "PREFERENCE_FORMATS",
    "Also",
    "ExportFormat",
    "Exported",
    "TrainerName",
    "add_given",
    "retell",
    "with_labels",
    "write_records",
]

ExportFormat = Literal["alpaca", "messages", "sharegpt", "parquet", "implicit", "ultrafeedback"]
TrainerName = Literal["trl", "llama-factory", "axolotl", "verl"]
Also = Literal["meta", "ids", "split", "scores"]
Layout = Literal["alpaca", "messages", "sharegpt", "implicit", "ultrafeedback"]
PREFERENCE_FORMATS = ("implicit", "ultrafeedback")  # which hold nothing else
Row = dict[str, Any]

_SHAREGPT = {"user": "human", "assistant": "gpt"}
_TURNS = {"messages": "messages", "sharegpt": "conversations"}  # the field that holds them
# The fields of a record, of pairs and of preferences, by layout.
_FIELDS = {
    "alpaca": (("instruction", "input", "output"), ("prompt", "chosen", "rejected")),
    "messages": ((_TURNS["messages"],), ("prompt", "chosen", "rejected")),
    "sharegpt": ((_TURNS["sharegpt"],), (_TURNS["sharegpt"], "chosen", "rejected")),
    "implicit": ((), ("chosen", "rejected")),
    "ultrafeedback": ((), ("prompt", "prompt_id", "chosen", "rejected", "messages")),
}
# Of alpaca, where some record has such a context; what the others have there. The names are LLaMA-Factory's.
_CONTEXT: Row = {"system": "", "history": []}
_IDS = ("sample_ids", "version_ids", "round")
_SPLIT = "split"
_SCORES = ("score_chosen", "score_rejected")  # UltraFeedback's names
# Names by which readers find a pair, its texts or its tokens, whatever else a row has.
_READ = (*PAIR_FIELDS, "rejected", "text", "input_ids", "labels")
_NEEDED = ("name", *CALLING_FIELDS)  # fields of turns without which others may make no sense
_LASTING = ("name", "weight")  # fields of a turn that hold whatever it says


def retell(turn: Turn, text: str) -> Turn:
    """The turn with a text; if that is another, without what was said of the old, such as thoughts."""
    message = turn.as_message()
    kept = message if text == turn.content else {name: message[name] for name in _LASTING if name in message}
    return Turn.of_message(kept | {"role": turn.role, "content": text})


@dataclass(frozen=True, slots=True)
class Exported:
    """One record to write: a conversation with what became of its exchanges."""

    turns: tuple[Turn, ...]
    asked: tuple[str, str] | None = None  # instruction and input of the last exchange, where they are known
    rejected: Turn | None = None  # of a preference: what lost to the last turn
    meta: Mapping[str, Any] = field(default_factory=dict)  # the other fields of the given record
    sample_ids: tuple[str, ...] = ()
    version_ids: tuple[str, ...] = ()  # one a sample; of a preference the chosen one, then the rejected one
    round: int = 0
    split: Split = "train"
    # Of a preference, what the policy compared: chosen and rejected, the higher the better.
    scores: tuple[float, float] | None = None

    @classmethod
    def of_pair(
        cls, pair: Pair, given: Sequence[Turn] = (), *, rejected: str | None = None, **others: Any
    ) -> "Exported":
        """A pair after its context, and nothing that follows.

        Args:
            pair: after its context.
            given: the two turns that were given for it, if it is of a conversation.
            rejected: of a preference, the response that lost.
            others: further fields.
        """
        user, assistant = given or (Turn("user", ""), Turn("assistant", ""))
        asked = pair.instruction, pair.input
        exchange = retell(user, user_turn(*asked)), retell(assistant, pair.response)
        lost = None if rejected is None else retell(assistant, rejected)
        return cls((*pair.context, *exchange), asked, lost, **others)


def write_records(
    path: Path,
    format: ExportFormat | None,
    records: Callable[[], Iterable[Exported]],
    *,
    is_preferences: bool = False,
    also: Collection[Also] = (),
) -> int:
    """Write records for trainers and count them.

    alpaca: instruction, input and output of the last exchange, with `system` and `history` (a list of
    [instruction, response]) where turns come before it in some record; the other records have these empty.
    messages (OpenAI) and sharegpt: all turns with their other fields, such as weights, which alpaca leaves
    out; the input is part of the user's.
    Preferences are prompt, chosen and rejected as DPO trainers read them: texts in alpaca, lists of
    messages in messages (TRL's conversational form), in sharegpt conversations with a turn each in chosen and
    rejected. Two formats are of preferences alone: implicit has the whole conversation in chosen and in
    rejected (TRL's implicit prompt), ultrafeedback the columns of ultrafeedback_binarized, with its scores.

    The path's suffix says what file it is: JSON, JSON Lines or Parquet. Without one, alpaca is a JSON array,
    parquet is alpaca's columns in Parquet, the others are JSON Lines. No format is alpaca.

    Args:
        path: written whole or not at all.
        format: how a record is written.
        records: all of them, from the first, the same at every call.
        is_preferences: whether they are, which matters where there are none.
        also: further fields. meta: those of the given record under their own names, or with `given_` in front
            where the record has such a field otherwise or readers may take it for the pair; ids: sample_ids,
            version_ids, round; split; scores: score_chosen and score_rejected of preferences, the policy's
            values, negated where the lowest is the best, and margin, by how much the first is higher.

    Raises:
        DatasetError: the target cannot be written, or ends as no such file does; a conversation that alpaca
            cannot hold.
    """
    layout: Layout = "alpaca" if format is None or format == "parquet" else format
    if layout == "ultrafeedback":
        also = {*also, "scores"}
    own = [*_FIELDS[layout][is_preferences], *(_CONTEXT if layout == "alpaca" else ())]

    blank = Exported.of_pair(Pair("", "", ""), rejected="" if is_preferences else None)
    with put_into_place(path) as part:
        container = _container(path, format)
        context = _find_context(records()) if layout == "alpaca" else {}

        def rows() -> Iterator[Row]:
            return (_row(record, layout, own, also, context) for record in records())

        return write_rows(part, container, rows, example=_row(blank, layout, own, also, context))


def _container(path: Path, format: ExportFormat | None) -> Container:
    """The kind of file that a path's suffix says, or that a format goes into where it has none."""
    if format == "parquet" and path.suffix.lower() not in ("", ".parquet"):
        raise DatasetError(
            f"{path}: format parquet goes into .parquet; end the name so, or leave the format out"
        )
    default: Container = "json" if format in (None, "alpaca") else "jsonl"
    return find_container(path, "parquet" if format == "parquet" else default, ("json", "jsonl", "parquet"))


def _find_context(records: Iterable[Exported]) -> Row:
    """Those of alpaca's fields of a context that some record has, empty: `datasets` wants them in all."""
    found: Row = {}
    for record in records:
        found |= {name: nothing for name, nothing in _CONTEXT.items() if name in _alpaca(record)}
        if len(found) == len(_CONTEXT):
            break
    return found


def _row(record: Exported, layout: Layout, own: Sequence[str], also: Collection[Also], context: Row) -> Row:
    row = _alpaca(record) if layout == "alpaca" else _conversation(record, layout)
    lacking = {name: nothing for name, nothing in context.items() if name not in row}
    return with_labels(row | lacking, record, own, also)


def with_labels(row: Row, record: Exported, own: Sequence[str], also: Collection[Also]) -> Row:
    """A row with what else is known of its record, as `write_records` says of `also`.

    Args:
        row: of the record, in some layout.
        record: what the row is of.
        own: names of fields that rows of the layout may have.
        also: further fields.
    """
    labels: Row = {}
    if "ids" in also:
        values = list(record.sample_ids), list(record.version_ids), record.round
        labels |= dict(zip(_IDS, values, strict=True))
    if "split" in also:
        labels[_SPLIT] = record.split
    if "scores" in also and record.scores is not None:
        labels |= dict(zip(_SCORES, record.scores, strict=True))
        labels["margin"] = record.scores[0] - record.scores[1]
    if "meta" in also:
        add_given(row, record.meta, taken=[*own, *labels, *_READ])
    return row | labels


def add_given(row: Row, given: Mapping[str, Any], taken: Collection[str]) -> None:
    """Add given fields under their own names, or with `given_` in front where a name is taken."""
    for name, value in given.items():
        while name in taken or name in row:
            name = f"given_{name}"
        row[name] = value


def _conversation(record: Exported, layout: Layout) -> Row:
    turns = [_turn(turn, layout) for turn in record.turns]
    if record.rejected is None:
        return {_TURNS[layout]: turns}
    *prompt, chosen = turns
    rejected = _turn(record.rejected, layout)
    if layout == "messages":
        return {"prompt": prompt, "chosen": [chosen], "rejected": [rejected]}
    if layout in PREFERENCE_FORMATS:
        whole = {"chosen": turns, "rejected": [*prompt, rejected]}
        if layout == "implicit":
            return whole
        asked = {"prompt": record.turns[-2].content, "prompt_id": "".join(record.sample_ids)}
        return asked | whole | {"messages": turns}
    return {_TURNS[layout]: prompt, "chosen": chosen, "rejected": rejected}


def _turn(turn: Turn, layout: Layout) -> Row:
    message = turn.as_message()
    if layout != "sharegpt":
        return message
    more = {name: value for name, value in message.items() if name not in ("role", "content")}
    row = {"from": _SHAREGPT.get(turn.role, turn.role), "value": turn.content}
    add_given(row, more, taken=())
    return row


def _alpaca(record: Exported) -> Row:
    turns = record.turns
    system = turns[0].content if turns and turns[0].role == "system" else None
    exchanges = turns[system is not None :]
    roles = [turn.role for turn in exchanges]
    messages = [turn.as_message() for turn in turns]
    lost = [name for name in _NEEDED if not all(is_empty(message.get(name)) for message in messages)]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2) or lost:
        raise DatasetError(
            f"sample {', '.join(record.sample_ids)}: format alpaca holds exchanges after a system message, "
            f"not {', '.join(turn.role for turn in turns)}{' with ' * bool(lost)}{', '.join(lost)}; "
            "take --format messages or sharegpt"
        )
    texts = [turn.content for turn in exchanges]
    *earlier, (user, response) = zip(texts[::2], texts[1::2], strict=True)
    instruction, input = record.asked or (user, "")
    if record.rejected is None:
        row: Row = {"instruction": instruction, "input": input, "output": response}
    else:
        row = {"prompt": user, "chosen": response, "rejected": record.rejected.content}
    if system is not None:
        row["system"] = system
    if earlier:
        row["history"] = [list(exchange) for exchange in earlier]
    return row
