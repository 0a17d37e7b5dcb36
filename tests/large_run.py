"""A made-up run of any size, to measure what browsing a large run takes.

It is a run of the machine itself, whose teacher and students draw by lot: every reason but `policy` comes
about. The words mean nothing but come as often as words do (Zipf's law).
"""

import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np

from reflectune.agents.pool import LocalPool
from reflectune.agents.student.answering import Response
from reflectune.agents.teacher.teacher import Reflected
from reflectune.loop.context import LoopContext
from reflectune.loop.graph import build_graph, hash_graph
from reflectune.loop.nodes.evaluate import evaluate_round
from reflectune.loop.progress import LineDisplay
from reflectune.loop.run import begin_lineage
from reflectune.state.config import RunConfig, parse_config
from reflectune.state.data.datasets import sample_id
from reflectune.state.folder import RunFolder
from reflectune.state.lineage.writer import LineageWriter
from reflectune.state.records import (
    TERMS,
    CallStatus,
    Pair,
    Reflection,
    Sample,
    Score,
    TeacherCall,
    Term,
    Version,
)

__all__ = ["make_large_run", "vocabulary"]

_WORDS = 50_000  # in the vocabulary
# What becomes of a question to the teacher, asked twice at most: the statuses of its calls, and how often.
_COURSES: dict[tuple[CallStatus, ...], float] = {
    ("ok",): 0.940,
    ("unparsable", "ok"): 0.025,
    ("error", "ok"): 0.005,
    ("unchanged", "unchanged"): 0.015,
    ("declined", "declined"): 0.005,
    ("cut", "cut"): 0.004,
    ("repetition", "placeholder"): 0.003,
    ("error", "error"): 0.002,
    ("refused",): 0.001,
}


def vocabulary(seed: int = 0) -> list[str]:
    """All words of the texts, the commonest first: that of rank n comes about 1/n as often as the first."""
    rng = random.Random(f"{seed}/words")
    onsets, vowels = (*"bcdfghjklmnprstvwz", "ch", "sh", "st", "tr"), (*"aeiouäöé", "ai", "ou")
    found: dict[str, None] = {}
    while len(found) < _WORDS:
        syllables = rng.choice((1, 2, 2, 3, 3, 4)) if len(found) > 200 else 1
        word = "".join(rng.choice(onsets) + rng.choice(vowels) for _ in range(syllables))
        found[word + rng.choice("nrslt")] = None
    return list(found)


def make_large_run(
    folder: Path, samples: int = 153_000, rounds: int = 3, seed: int = 0, name: str = "large"
) -> RunFolder:
    """Write a finished run into the runs folder `folder`, of 1 + 2 * rounds versions a sample less 7 %.

    The same arguments give the same versions, scores and decisions.
    """
    config = _config(name, samples, rounds, seed)
    with RunFolder.create(folder, name) as run:
        run.write_config(config.to_toml())
        with LineageWriter.create(run.lineage) as store:
            # Nobody needs this file if the machine fails meanwhile.
            store.db.execute("PRAGMA synchronous = OFF")
            store.db.execute("PRAGMA cache_size = -1000000")
            with store.transaction():
                _run_loop(config, run, store, samples)
    return RunFolder(folder / name)


def _config(name: str, samples: int, rounds: int, seed: int) -> RunConfig:
    return parse_config(
        {
            "name": name,
            "rounds": rounds,
            "seed": seed,
            "data": {"path": "/data/made-up.json", "holdout": max(samples // 100, 1)},
            "teacher": {
                "engine": "openai", "base_url": "http://localhost:8000/v1", "model": "made-up-teacher",
                "retries": 1, "freeze_after": 2, "price_in": 0.5, "price_out": 1.5,
            },
            "student": {"model": "/models/made-up-student", "template": "plain"},
        },
        source="large run",
    )  # fmt: skip


def _run_loop(config: RunConfig, run: RunFolder, store: LineageWriter, samples: int) -> None:
    texts = _Texts(config.seed)
    held_out = set(texts.rng.sample(range(samples), int(config.data.holdout)))
    given = [_sample(texts, number, number in held_out) for number in range(samples)]
    versions = {"reflectune": "0.1.0", "graph": hash_graph()}
    begin_lineage(store, config, given, versions)
    context = LoopContext(
        config=config,
        folder=run,
        lineage=store,
        display=LineDisplay(),
        checker=None,
        open_teacher=lambda student: _Teacher(texts),  # type: ignore[arg-type, return-value]
        open_students=lambda adapter: LocalPool(lambda: _Student(adapter.name if adapter else "base")),
        refinetune_student=_train,
    )
    evaluate_round(context, 0)
    store.finish_round(0, None)
    build_graph().invoke(
        {"run": config.name, "round": 1, "phase": "instruction", "student": "s0", "stop_reason": None},
        {"recursion_limit": 100},
        context=context,
    )
    store.set_run_status("finished")


def _sample(texts: "_Texts", number: int, is_held_out: bool) -> Sample:
    pair = texts.pair()
    id = sample_id(number, pair.content_hash, 0)
    return Sample(id, number, "holdout" if is_held_out else "train", pair)


def _train(config: RunConfig, pairs: Sequence[Pair], out: Path, **options: Any) -> dict[str, float]:
    out.mkdir(parents=True)
    (out / "adapter_model.safetensors").write_text(out.name)
    (out / "adapter_config.json").write_text("{}")
    return {"train_loss": 1.9, "steps": len(pairs) // 16, "pairs": len(pairs)}


class _Opened:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


class _Texts:
    """Texts of words that come as often as their rank says."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.words = self._words(seed)

    def _words(self, seed: int) -> Iterator[str]:
        rng, known = np.random.default_rng(seed), np.array(vocabulary(seed), dtype=object)
        shares = np.cumsum(1 / np.arange(1, len(known) + 1))
        while True:
            yield from known[np.searchsorted(shares / shares[-1], rng.random(1_000_000))]

    def take(self, number: float) -> list[str]:
        return [next(self.words) for _ in range(min(max(int(number), 3), 400))]

    def pair(self) -> Pair:
        input = self.take(self.rng.gauss(20, 8)) if self.rng.random() < 0.3 else []
        lengths = self.rng.gauss(15, 5), self.rng.lognormvariate(math.log(48), 0.6)
        instruction, response = (" ".join(self.take(length)) for length in lengths)
        return Pair(instruction, " ".join(input), response)

    def rewrite(self, text: str) -> str:
        """Another stretch of words, a few more than it had, in the place of one."""
        words = text.split()
        start, end = sorted(self.rng.sample(range(len(words) + 1), 2))
        more = self.rng.randrange(1 + min(len(words), 120) // 8)
        return " ".join([*words[:start], *self.take(end - start + more), *words[end:]])


class _Teacher(_Opened):
    waiting, workers = "", tuple

    def __init__(self, texts: _Texts) -> None:
        self.texts = texts

    def reflect(
        self, reflections: Iterable[Reflection], may_ask: Callable[[], bool]
    ) -> Iterator[list[Reflected]]:
        for asked in reflections:
            (course,) = self.texts.rng.choices([*_COURSES], [*_COURSES.values()])
            yield [self._answer(asked, attempt, status) for attempt, status in enumerate(course, 1)]

    def _answer(self, asked: Reflection, attempt: int, status: CallStatus) -> Reflected:
        rng, pair = self.texts.rng, asked.pair
        if status == "ok":
            instruction, input = pair.instruction, pair.input
            if asked.phase == "instruction":
                instruction, input = self.texts.rewrite(instruction), ""
            pair = Pair(instruction, input, self.texts.rewrite(pair.response))
        critique = " ".join(self.texts.take(30))
        answer = {"critique": critique, "instruction": pair.instruction, "response": pair.response}
        text = "" if status in ("error", "refused") else json.dumps(answer, ensure_ascii=False)
        counts = (len(text) // 5 + 400, len(text) // 4) if text else (None, None)
        call = TeacherCall(
            round=asked.round, phase=asked.phase, sample_id=asked.sample_id, candidate=asked.candidate,
            attempt=attempt, engine="openai", model="made-up-teacher",
            prompt_hash=f"{rng.getrandbits(128):032x}", text=text,
            finish_reason="length" if status == "cut" else "stop", status=status,
            error="the server said 503: overloaded" if not text else None,
            critique=critique if status == "ok" else None, prompt_tokens=counts[0],
            completion_tokens=counts[1], cost_usd=len(text) / 1e6, seconds=rng.lognormvariate(0.5, 0.4),
        )  # fmt: skip
        place = (asked.sample_id, asked.incumbent_id, asked.round, asked.phase, asked.candidate)
        return call, Version(*place, pair, call.id) if status == "ok" else None


class _Student(_Opened):
    def __init__(self, name: str) -> None:
        self.name = name

    def score(self, questions: Sequence[tuple[Pair, Term]]) -> list[Score]:
        known = cache(self._scores)
        return [known(pair)[term] for pair, term in questions]

    def _scores(self, pair: Pair) -> dict[Term, Score]:
        """IFD and r-IFD drawn by the pair and the student; one in 300 pairs cannot be scored by any."""
        if random.Random(pair.content_hash).random() < 0.003:
            return dict.fromkeys(TERMS, Score(None, None, "truncated-away"))
        rng = random.Random(f"{self.name}/{pair.content_hash}")
        scores: dict[Term, Score] = {}
        for (given, alone), text in (
            (TERMS[:2], pair.response),
            (TERMS[2:], f"{pair.instruction} {pair.input}"),
        ):
            tokens = len(text.split()) * 3 // 2
            # Some are equal to the last bit, so that there are ties.
            nll, ratio = (3.0, -0.5) if rng.random() < 0.05 else (rng.gauss(3.2, 0.4), rng.gauss(-0.55, 0.3))
            scores[given] = Score(-max(nll + ratio, 0.01) * tokens, tokens, "ok")
            scores[alone] = Score(-nll * tokens, tokens, "ok")
        return scores

    at_once = 500

    def respond(self, pairs: Sequence[Pair], max_tokens: int) -> list[Response | None]:
        return [Response(pair.response, len(pair.response.split())) for pair in pairs]
