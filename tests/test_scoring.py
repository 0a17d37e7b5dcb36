import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from reflectune.agents.hardware import torch_threads
from reflectune.agents.student.attention import settle_attention
from reflectune.agents.student.head import find_body
from reflectune.agents.student.rows import build_row, pack
from reflectune.agents.student.scoring import Packing, choose_packing, score_sequences
from reflectune.agents.student.targets import Encoded
from reflectune.state.errors import StudentError
from reflectune.state.records import Score
from tests.tiny_models import (
    build_model,
    save_bigram_llama,
    save_tiny_adapter,
)

torch.set_num_threads(2)
VOCABULARY = 400
MODELS = {name: build_model(name, vocabulary=VOCABULARY) for name in ("llama", "qwen2", "gpt2")}


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A Llama with a random adapter, and the same without it."""
    folder = save_tiny_adapter(tmp_path_factory.mktemp("adapter"), build_model(vocabulary=VOCABULARY))
    return PeftModel.from_pretrained(build_model(vocabulary=VOCABULARY), folder).eval()


@pytest.fixture(scope="module")
def bigram(tmp_path_factory):
    """p(a|<s>) = 1/2, p(b|a) = 1/4, p(a|b) = 1/8, all else as unlikely as it may be."""
    table = {
        "<s>": {"a": 1 / 2, "b": 1 / 2},
        "a": {"b": 1 / 4, "a": 3 / 4},
        "b": {"a": 1 / 8, "b": 7 / 8},
    }
    return AutoModelForCausalLM.from_pretrained(
        save_bigram_llama(tmp_path_factory.mktemp("bigram"), "ab", table)
    )


def score_alone(model, sequence):
    """The plain way: one sequence, all logits, no positions, no packing."""
    with torch.no_grad():
        logits = model(torch.tensor([sequence.ids])).logits[0].double()
    logprobs = logits.log_softmax(-1)
    places = range(sequence.first_target, len(sequence.ids))
    return sum(float(logprobs[place - 1, sequence.ids[place]]) for place in places)


def assert_as_alone(model, items, scores, **tolerance):
    """Every score, as a mean per token, is that of the plain way."""
    assert [score.num_tokens for score in scores] == [item.num_targets for item in items]
    means = [score.sum_logprob / score.num_tokens for score in scores]
    alone = [score_alone(model, item) / item.num_targets for item in items]
    assert means == pytest.approx(alone, **(tolerance or {"abs": 1e-5}))


def tree(row_tokens):
    return Packing(row_tokens, shares_prefixes=True)


def choose(model, batch_tokens):
    return choose_packing(model, batch_tokens, share_prefixes=True)


OPENINGS = ([], [7], [7, 8, 9, 10, 11], [7, 8, 9, 200, 201, 202], list(range(20, 40)))


def a_sequence(draw, longest=40):
    """Some begin alike, some are the beginning of others, some are equal."""
    own = st.lists(st.integers(0, VOCABULARY - 1) | st.just(7), min_size=2, max_size=longest)
    ids = draw(st.sampled_from(OPENINGS)) + draw(own)
    return Encoded(ids, draw(st.integers(1, len(ids) - 1)))


sequences = st.lists(st.composite(a_sequence)(), max_size=12)


def test_score_sums_the_known_probabilities_of_a_bigram_model(bigram):
    # <s> | a b a: log 1/2 + log 1/4 + log 1/8;  <s> a | b a: log 1/4 + log 1/8;  <s> b | a: log 1/8
    items = [Encoded([0, 2, 3, 2], 1), Encoded([0, 2, 3, 2], 2), Encoded([0, 3, 2], 2, truncated=True)]
    scores = score_sequences(bigram, items, tree(100))
    assert [score.sum_logprob for score in scores] == pytest.approx(
        [math.log(1 / 64), math.log(1 / 32), math.log(1 / 8)], abs=1e-5
    )
    assert [score.num_tokens for score in scores] == [3, 2, 1]
    assert {score.status for score in scores} == {"ok"}
    assert [score.truncated for score in scores] == [False, False, True]


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(sequences, st.builds(Packing, st.integers(1, 100), st.booleans()), st.sampled_from(sorted(MODELS)))
def test_packed_scores_equal_one_by_one(items, packing, name):
    assert_as_alone(MODELS[name], items, score_sequences(MODELS[name], items, packing))


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(sequences, st.integers(1, 100))
def test_packed_scores_equal_one_by_one_with_an_adapter(adapted, items, budget):
    scores = score_sequences(adapted, items, tree(budget))
    assert_as_alone(adapted, items, scores, rel=1e-5, abs=1e-5)


BRANCHING = {name: build_model(name, vocabulary=VOCABULARY) for name in MODELS}
for branching in BRANCHING.values():
    settle_attention(branching)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(sequences, st.integers(1, 200), st.sampled_from(sorted(BRANCHING)))
def test_scores_branch_by_branch_equal_one_by_one(items, budget, name):
    assert_as_alone(MODELS[name], items, score_sequences(BRANCHING[name], items, tree(budget)))


HALVED = {name: build_model(name, vocabulary=VOCABULARY, scale=0.05).bfloat16() for name in MODELS}
WHOLE = {name: build_model(name, vocabulary=VOCABULARY, scale=0.05) for name in MODELS}


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(sequences, st.sampled_from(sorted(MODELS)))
def test_scores_in_bfloat16_are_near_those_in_float32(items, name):
    halved = score_sequences(HALVED[name], items, choose(HALVED[name], 100))
    assert_as_alone(WHOLE[name], items, halved, abs=2e-2)


def test_branches_reach_the_attention_of_every_layer(monkeypatch):
    # Under a mask alone the scores would be as right, and slower.
    seen = []
    plain = torch.nn.functional.scaled_dot_product_attention

    def attend(query, *rest, **settings):
        seen.append(query.shape[2])
        return plain(query, *rest, **settings)

    for model in BRANCHING.values():
        find_body(model)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
    for name in sorted(BRANCHING):
        score_sequences(BRANCHING[name], [Encoded([0, 1, 2, 3], 1), Encoded([0, 1, 4], 2)], tree(100))
    assert seen == [4, 1] * 2 * len(BRANCHING)


def test_score_of_a_long_row_goes_through_the_head_in_chunks():
    sequence = Encoded([index % VOCABULARY for index in range(1100)], 1)
    model = build_model(vocabulary=VOCABULARY, context=2048)
    (score,) = score_sequences(model, [sequence], tree(2000))
    assert score.num_tokens == 1099
    assert score.sum_logprob == pytest.approx(score_alone(model, sequence), rel=1e-6)


def test_score_does_without_logits_to_keep_and_positions():
    model = MODELS["llama"]

    class Bare:
        """The least a causal language model can take."""

        config, device, _is_stateful = model.config, model.device, False

        def forward(self, input_ids, use_cache):
            return SimpleNamespace(logits=model(input_ids, use_cache=use_cache).logits)

        __call__ = forward

    items = [Encoded([0, 5, 9, 77], 2), Encoded([0, 8, 3], 1)]
    assert choose(Bare(), 100) == Packing(1, shares_prefixes=False)
    assert_as_alone(model, items, score_sequences(Bare(), items, choose(Bare(), 100)))


def broken_model(token):
    model = build_model(vocabulary=VOCABULARY)
    with torch.no_grad():
        model.model.embed_tokens.weight[token] = math.nan
    return model


def test_score_that_is_not_finite_is_a_failure_and_spares_its_neighbours():
    items = [Encoded([0, 5, 9, 77], 2), Encoded([0, 13, 3], 1), Encoded([0, 8, 3], 1)]
    scores = score_sequences(broken_model(13), items, tree(100))
    assert scores[1] == Score(None, None, "non-finite")
    healthy = [score_alone(MODELS["llama"], items[index]) for index in (0, 2)]
    assert [scores[0].sum_logprob, scores[2].sum_logprob] == pytest.approx(healthy)


def test_score_of_an_impossible_token_or_a_broken_model_is_non_finite():
    items = [Encoded([0, 7], 1, truncated=True), Encoded([0, 6], 1)]
    failed, model = Score(None, None, "non-finite", True), build_model(vocabulary=VOCABULARY)
    model.lm_head = torch.nn.Linear(32, VOCABULARY).requires_grad_(False)
    model.lm_head.bias[7] = -math.inf
    impossible, possible = score_sequences(model, items, tree(9))
    assert (impossible, possible.status) == (failed, "ok")
    model.lm_head.weight.fill_(math.nan)
    assert score_sequences(model, items, tree(9)) == [failed, Score(None, None, "non-finite")]


def limit_model(limit):
    """A Llama that runs out of memory in a pass over more tokens than `limit`, and what it passed."""
    model, passed = build_model(vocabulary=VOCABULARY), []
    find_body(model)

    def enter(body, inputs, settings):
        tokens = settings["input_ids"].shape[1]
        if tokens > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        passed.append(tokens)

    model.model.register_forward_pre_hook(enter, with_kwargs=True)
    return model, passed


# One thread takes row after row, as a GPU does; several take rows side by side.
@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(sequences, st.booleans(), st.integers(60, 120), st.sampled_from([1, 3]))
def test_score_out_of_memory_halves_the_rows_and_loses_nothing(items, shares, limit, threads):
    (model, passed), packing = limit_model(limit), Packing(200, shares)
    with torch_threads(threads):
        scores = score_sequences(model, items, packing)
        assert torch.get_num_threads() == threads
    assert_as_alone(MODELS["llama"], items, scores, rel=1e-5, abs=1e-5)
    assert packing.row_tokens in (200, 100, 50)
    if not shares and threads == 1:  # every token went through the model once
        assert sum(passed) == sum(len(sequence.ids) for sequence in items)
    again = score_sequences(model, items, packing)
    assert_as_alone(MODELS["llama"], items, again, rel=1e-5, abs=1e-5)


def test_score_out_of_memory_packs_what_is_left_anew():
    # Rows of 16: 6 + 6 tokens pass, 8 + 7 do not; rows of 8 take each alone, and stay for the next call.
    lengths = [6, 6, 8, 7, 3, 4]
    items = [Encoded(list(range(length)), 1) for length in lengths]
    (model, passed), packing = limit_model(12), Packing(16, shares_prefixes=False)
    with torch_threads(1):
        score_sequences(model, items, packing)
        assert passed == [12, 8, 7, 7]
        assert packing.row_tokens == 8
        score_sequences(model, items[:2], packing)
    assert passed[4:] == [6, 6]


def test_scores_do_not_depend_on_the_number_of_threads():
    items = [Encoded([0, *range(1, length)], 2) for length in range(3, 40)]
    found = []
    for number in (1, 2, 4):
        with torch_threads(number):
            found.append(score_sequences(MODELS["llama"], items, Packing(64, shares_prefixes=False)))
    assert len(pack(items, 64)) > 4
    assert found[0] == found[1] == found[2]


def test_score_out_of_memory_on_one_sequence_says_what_to_lower():
    items = [Encoded(list(range(length)), 1) for length in (5, 30)]
    with pytest.raises(StudentError, match="one sequence of 30 tokens; end what else uses"):
        score_sequences(limit_model(20)[0], items, tree(100))


def test_packing_without_memory_for_anything_says_so():
    with pytest.raises(StudentError, match="no memory is left on cpu"):
        choose(limit_model(2)[0], 100)


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 60))
def test_pack_keeps_order_and_budget(lengths, budget):
    rows = pack([Encoded(list(range(length)), 1) for length in lengths], budget)
    assert [index for row in rows for index in row] == list(range(len(lengths)))
    assert all(len(row) == 1 or sum(lengths[index] for index in row) <= budget for row in rows)
    # No row could have taken the first of the next.
    for row, following in itertools.pairwise(rows):
        assert sum(lengths[index] for index in [*row, following[0]]) > budget


def test_build_row_restarts_positions_and_predicts_no_sequence_from_another():
    row = build_row([Encoded([10, 11, 12], 1), Encoded([20, 21], 1)])
    assert row.ids.tolist() == [10, 11, 12, 20, 21]
    assert row.positions.tolist() == [0, 1, 2, 0, 1]
    assert row.predicting[row.predictors].tolist() == [0, 1, 3]
    assert row.targets.tolist() == [11, 12, 21]


@pytest.mark.slow
@given(sequences.filter(len))
def test_tree_row_holds_what_sequences_begin_with_once(items):
    ordered = sorted(items, key=lambda sequence: sequence.ids)
    row = build_row(ordered, share_prefixes=True)
    assert len(row.ids) <= sum(len(sequence.ids) for sequence in ordered)
    read = iter(zip(row.predicting[row.predictors].tolist(), row.targets.tolist(), strict=True))
    for sequence in ordered:
        for place in range(sequence.first_target, len(sequence.ids)):
            at, target = next(read)
            assert target == sequence.ids[place]
            seen = row.mask[at].nonzero()[:, 0]
            assert row.ids[seen].tolist() == sequence.ids[:place]
            assert row.positions[seen].tolist() == list(range(place))
            (branch,) = [branch for branch in row.branches if branch.start <= at < branch.end]
            among = torch.arange(len(row.ids))[branch.seen]
            if branch.mask is not None:
                assert among[branch.mask[at - branch.start]].tolist() == seen.tolist()
            else:
                assert among[: at - branch.start + 1].tolist() == seen.tolist()
    assert next(read, None) is None


def test_head_runs_once_on_each_token_that_predicts_and_on_no_other():
    rows = []
    model = build_model(vocabulary=VOCABULARY)
    find_body(model)
    model.lm_head.register_forward_hook(lambda module, inputs, output: rows.append(output.shape[1]))
    score_sequences(model, [Encoded([0, 1, 2, 3, 4], 3), Encoded([0, 1, 2], 2)], tree(100))
    shared = list(range(100))  # predict one token each, whoever's target it is
    score_sequences(model, [Encoded([*shared, last], 1) for last in range(200, 250)], tree(1000))
    assert rows == [2 + 1, 100]


def test_tree_row_of_a_shared_prompt_is_as_long_as_its_parts():
    prompt = list(range(50))
    row = build_row([Encoded([*prompt, 60, 61], 50), Encoded([*prompt, 70], 50)], share_prefixes=True)
    assert row.ids.tolist() == [*prompt, 60, 61, 70]
    assert row.positions.tolist() == [*range(50), 50, 51, 50]
    assert row.predicting[row.predictors].tolist() == [49, 50, 49]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_packing_of_a_transformer_on_a_cpu_shares_prefixes_in_rows_of_at_most_1024(name):
    model = build_model(name, vocabulary=VOCABULARY)
    assert choose_packing(model, 2048, share_prefixes=False) == Packing(512, shares_prefixes=False)
    assert choose(model, 2048) == Packing(512, shares_prefixes=True)  # under a mask
    settle_attention(model)
    assert choose(model, 2048) == Packing(1024, shares_prefixes=True)
    assert choose(model, 100) == Packing(100, shares_prefixes=True)


def test_packing_leaves_a_model_that_does_not_ask_for_sdpa_as_it_is():
    model = build_model(vocabulary=VOCABULARY)
    model.set_attn_implementation("eager")  # adds masks to the weights, and so takes none of ours
    settle_attention(model)
    assert choose(model, 2048) == Packing(512, shares_prefixes=False)
    assert model.config._attn_implementation == "eager"


SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
STATES = {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 1, "initializer_range": 0.5}


@pytest.mark.parametrize(
    ("build", "config", "pads"),
    [
        # A mask of ours would lift the window; what is recurrent carries over from sequence to sequence.
        (MistralForCausalLM, MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=4), False),
        (MambaForCausalLM, MambaConfig(**STATES), True),
    ],
    ids=["sliding window", "recurrent"],
)
def test_packing_of_a_model_that_can_share_no_prefixes(build, config, pads):
    torch.manual_seed(0)
    config.vocab_size = VOCABULARY
    model = build(config).eval()
    packing = choose(model, 100)
    assert packing == Packing(100, shares_prefixes=False, pads=pads)
    items = [Encoded(list(range(5, 25)), 3), Encoded(list(range(5, 40)), 3)]
    assert_as_alone(model, items, score_sequences(model, items, packing))


def test_padded_batches_hold_sequences_of_like_lengths_and_run_the_head_on_what_predicts():
    # 2 times 5 tokens fill a batch of 10, in which 2 and 1 tokens predict; 7 of the long one do.
    model, rows = build_model(vocabulary=VOCABULARY), []
    find_body(model)
    model.lm_head.register_forward_hook(lambda module, inputs, output: rows.append(output.shape[:2]))
    items = [Encoded(list(range(10)), 3), Encoded([0, 1, 2, 3, 4], 3), Encoded([0, 1, 2], 2)]
    packing = Packing(10, shares_prefixes=False, pads=True)
    scores = score_sequences(model, items, packing)
    assert rows[-2:] == [(1, 2 + 1), (1, 7)]
    assert_as_alone(model, items, scores)


def test_packing_sees_what_leaks_though_positions_are_taken(monkeypatch):
    model = build_model(vocabulary=VOCABULARY)
    whole = model.model.forward

    def forward(position_ids=None, **inputs):
        return whole(**inputs)  # takes positions and forgets them

    monkeypatch.setattr(model.model, "forward", forward)
    assert choose_packing(model, 100, share_prefixes=False) == Packing(1, shares_prefixes=False)
    assert choose(model, 100) == Packing(100, shares_prefixes=False, pads=True)


def test_packing_sees_what_leaks_into_padded_sequences(monkeypatch):
    model = build_model(vocabulary=VOCABULARY)
    whole = model.model.forward

    def forward(position_ids=None, **inputs):
        output = whole(**inputs)
        output.last_hidden_state *= 1 + output.last_hidden_state.abs().mean() / 10
        return output

    monkeypatch.setattr(model.model, "forward", forward)
    assert choose(model, 100) == Packing(1, shares_prefixes=False)


def test_packing_of_a_broken_model_is_no_error():
    assert choose(broken_model(0), 100).row_tokens in (1, 100)
