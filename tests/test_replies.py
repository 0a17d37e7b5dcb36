"""Bodies of successful replies as servers write them: text, finish reason, counts and status."""

import json
from typing import Any

import pytest

from reflectune.agents.teacher.engines.replies import read_completion
from reflectune.agents.teacher.parsing import AnswerParser, Proposal
from reflectune.agents.teacher.prompts import open_prompts
from reflectune.state.records import Answer, Pair

PAIR = Pair("Add 2 and 2.", "", "5")
SAID = '{"critique": "Wrong.", "response": "4"}'
DRAFT = '{"critique": "Draft.", "response": "3"}'
THOUGHT = f"<think>\nThe sum is {DRAFT}"  # how a thought that came apart stands in a text
HM = f"The sum is {DRAFT}"


def body(message: Any, finish: Any = "stop", counts: Any = (9, 4), **choice: Any) -> dict[str, Any]:
    usage = counts and {"prompt_tokens": counts[0], "completion_tokens": counts[1]}
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": finish} | choice],
        "usage": usage,
    }


def said(content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content} | fields


MISTRAL = {"type": "thinking", "thinking": [{"type": "text", "text": HM}]}
DETAILS = [{"type": "reasoning.text", "text": HM, "format": "unknown", "index": 0}]
HARMONY = f"<|channel|>analysis<|message|>{HM}<|end|><|start|>assistant<|channel|>final<|message|>{SAID}"
# Server and shape -> body, text, finish reason, status. As reports to the projects or their docs quote
# them: where vllm, sglang, deepseek, mistral, ollama, llama.cpp and openrouter put thoughts, harmony with and
# without marks, and openrouter's two reasons. The rest is from memory.
ROWS: dict[str, tuple[dict[str, Any], str, str | None, str]] = {
    "openai, string": (body(said(SAID, refusal=None)), SAID, "stop", "ok"),
    "openai, refusal": (body(said(None, refusal="No.")), "No.", "refusal", "declined"),
    "openai, filtered": (body(said(None), "content_filter"), "", "content_filter", "declined"),
    "openai, cut": (body(said(SAID[:20]), "length"), SAID[:20], "length", "cut"),
    "azure, output_text part": (body(said([{"type": "output_text", "text": SAID}])), SAID, "stop", "ok"),
    "texts as parts": (body(said([SAID[:9], SAID[9:]])), SAID, "stop", "ok"),
    "JSON that was read already": (
        body(said({"critique": "c", "response": "4"})), '{"critique": "c", "response": "4"}', "stop", "ok"),
    "a part without a type": (body(said([{"text": SAID}])), SAID, "stop", "ok"),
    "azure, refusal part": (
        body(said([{"type": "refusal", "refusal": "No."}])), "No.", "refusal", "declined"),
    "anthropic": (body(said(SAID), "end_turn"), SAID, "stop", "ok"),
    "anthropic, cut": (body(said(SAID[:20]), "max_tokens"), SAID[:20], "length", "cut"),
    "anthropic, refusal": (body(said(""), "refusal"), "", "refusal", "declined"),
    "gemini, safety": (body(said(None), "SAFETY"), "", "content_filter", "declined"),
    "gemini, cut": (body(said(SAID[:20]), "MAX_TOKENS"), SAID[:20], "length", "cut"),
    "mistral, parts": (body(said([MISTRAL, {"type": "text", "text": SAID}])), SAID, "stop", "ok"),
    "mistral, thought": (body(said([MISTRAL]), "model_length"), THOUGHT, "length", "thought"),
    "deepseek": (body(said(SAID, reasoning_content=HM)), SAID, "stop", "ok"),
    "deepseek, thought": (body(said("", reasoning_content=HM), "length"), THOUGHT, "length", "thought"),
    "vllm, thought": (body(said(None, reasoning=HM), "length"), THOUGHT, "length", "thought"),
    "vllm, two fields": (
        body(said(None, reasoning=HM, reasoning_content=HM)), THOUGHT, "stop", "thought"),
    "vllm, no parser": (
        body(said(f"<think>{HM}</think>\n{SAID}")), f"<think>{HM}</think>\n{SAID}", "stop", "ok"),
    "vllm, a lone end": (body(said(f"{HM}\n</think>\n{SAID}")), f"{HM}\n</think>\n{SAID}", "stop", "ok"),
    "vllm, harmony": (body(said(HARMONY)), HARMONY, "stop", "ok"),
    "vllm, no final channel": (
        body(said(HARMONY.split("<|end|>")[0])), HARMONY.split("<|end|>")[0], "stop", "thought"),
    "vllm, whole harmony, no final channel": (
        body(said(f"<|start|>assistant{HARMONY.split('<|end|>')[0]}"), "length"),
        f"<|start|>assistant{HARMONY.split('<|end|>')[0]}", "length", "thought"),
    "sglang, harmony without marks": (
        body(said(f"analysis{HM}assistantfinal{SAID}")), f"analysis{HM}assistantfinal{SAID}", "stop", "ok"),
    "sglang, harmony without marks or final": (
        body(said(f"analysis{HM}")), f"analysis{HM}", "stop", "thought"),
    "sglang": (body(said(SAID, reasoning_content=None), "stop", matched_stop=2), SAID, "stop", "ok"),
    "tgi": (body(said(SAID), "eos_token"), SAID, "stop", "ok"),
    "together": (body(said(SAID), "eos"), SAID, "stop", "ok"),
    "a text completion": (
        {"choices": [{"text": SAID, "finish_reason": "stop_sequence"}],
         "usage": {"prompt_tokens": 9, "completion_tokens": 4}}, SAID, "stop", "ok"),
    "ollama": (body(said("", reasoning=HM), "length"), THOUGHT, "length", "thought"),
    "a proxy of ollama's own api": (
        body(said("", thinking=HM), "length"), THOUGHT, "length", "thought"),
    "ollama, a mark in the thought": (
        body(said("", reasoning=f"I end </think> {DRAFT}")), f"<think>\nI end   {DRAFT}", "stop", "thought"),
    "llama.cpp": (body(said(SAID, reasoning_content=HM)), SAID, "stop", "ok"),
    "openrouter": (
        body(said(SAID, reasoning=HM, reasoning_details=DETAILS), native_finish_reason="STOP"),
        SAID, "stop", "ok"),
    "openrouter, details alone": (
        body(said("", reasoning=None, reasoning_details=DETAILS), "length"), THOUGHT, "length", "thought"),
    "openrouter, native reason": (
        body(said(""), "stop", native_finish_reason="SAFETY"), "", "content_filter", "declined"),
    "openrouter, native reason alone": (
        body(said(SAID[:20]), None, native_finish_reason="max_output_tokens"), SAID[:20], "length", "cut"),
    "litellm, nothing": (body(said(None)), "", "stop", "unparsable"),
    "litellm, odd reason": (body(said(SAID), "weird"), SAID, "weird", "ok"),
}  # fmt: skip


def status_of(answer: Answer) -> str:
    parser = AnswerParser(open_prompts(None), "response", PAIR, True, "0a1b2c3d")
    parsed = parser.parse(answer.text, answer.finish_reason)
    if isinstance(parsed, Proposal):
        assert parsed.pair.response == "4"
        return "ok"
    return parsed


@pytest.mark.parametrize("row", ROWS)
def test_completion_is_read_as_its_server_means_it(row: str) -> None:
    reply, text, reason, status = ROWS[row]
    answer = read_completion("1", json.dumps(reply))
    assert (answer.text, answer.finish_reason, answer.error) == (text, reason, None)
    assert (answer.prompt_tokens, answer.completion_tokens) == (9, 4)
    assert status_of(answer) == status


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_answer_that_the_server_broke_off_is_a_failure(reason: str) -> None:
    answer = read_completion("1", json.dumps(body(said(SAID[:20]), reason)))
    assert (answer.error, answer.prompt_tokens, answer.completion_tokens) == ("failed", 9, 4)
    assert answer.message == f"broken off by the server, finish reason {reason}"
