import json
import math
import shutil
import tracemalloc
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.llama.modeling_llama import LlamaModel, LlamaRMSNorm

from reflectune.agents.student.adapters import hash_adapter
from reflectune.agents.student.refinetune import check_refinetune, refinetune_student
from reflectune.agents.student.steps import TrainingSteps
from reflectune.agents.student.student import Student
from reflectune.agents.student.targets import Encoded, EncodedTexts
from reflectune.agents.student.trainer import _keep_device, train_steps
from reflectune.state.config import RefinetuneConfig, RunConfig
from reflectune.state.errors import AdapterError, StudentError
from reflectune.state.records import Pair, Turn
from tests.tiny_models import save_tiny_llama, save_tiny_model

PAIRS = [Pair(f"Add {a} and {b}.", "", f"The sum is {a + b}.") for a in range(4) for b in range(4)]
WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


def configure(folder, *, seed=0, student=None, **refinetune):
    return RunConfig.model_validate(
        {
            "name": "x",
            "seed": seed,
            "data": {"path": "data.json"},
            "teacher": {"engine": "recorded", "path": "teacher.jsonl"},
            "student": {"model": str(folder), "template": "plain", "threads": 1} | (student or {}),
            "refinetune": {"r": 4, "alpha": 8, "lr": 1e-2, "batch_tokens": 300} | refinetune,
        }
    )


def train(config, out, *, pairs=PAIRS, previous=None, round=1):
    """The metrics of a training, and what it told of its steps."""
    steps = []
    metrics = refinetune_student(
        config, pairs, out, previous=previous, round=round, on_step=lambda *step: steps.append(step)
    )
    return metrics, steps


def interrupt(config, out, step):
    """Break a training off at a step, as Ctrl-C does; its checkpoints, the oldest first."""

    def on_step(done, steps, loss):
        if done == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refinetune_student(config, PAIRS, out, previous=None, round=1, on_step=on_step)
    assert not out.exists()
    return sorted(out.with_name(f".{out.name}.partial").glob("checkpoint-*"), key=step_of)


def step_of(checkpoint):
    return int(checkpoint.name.partition("-")[2])


def weights(adapter):
    return load_file(adapter / WEIGHTS)


def content(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def config(folder):
    """A training of 5 epochs, for those that are broken off or replaced."""
    return configure(folder, epochs=5)


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    """What that training ends with if nothing interrupts it."""
    out = tmp_path_factory.mktemp("undisturbed") / "adapter"
    train(config, out)
    return out


def mean_target_nll(folder, pairs):
    """The plain way: each pair alone, labels on the response and the EOS after it, torch's own loss."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    total = count = 0.0
    for pair in pairs:
        prompt = f"### Instruction\n{pair.instruction}\n\n### Response\n"
        ids = [0, *tokenizer(prompt + pair.response, add_special_tokens=False).input_ids, 1]
        start = len(ids) - 1 - len(tokenizer(pair.response, add_special_tokens=False).input_ids)
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0]
        losses = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none")
        total += float(losses[start - 1 :].sum())
        count += len(ids) - start
    return total / count


@contextmanager
def counted_layers(architecture):
    """One entry for every pass through a layer's first norm."""
    calls = []
    norm = {"llama": LlamaRMSNorm, "gpt2": torch.nn.LayerNorm}[architecture]
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: calls.append(1) if isinstance(module, norm) else None
    )
    try:
        yield calls
    finally:
        handle.remove()


# What is trained


def test_refinetune_of_a_single_step_trains(folder, tmp_path):
    metrics, _ = train(configure(folder, epochs=1, batch_tokens=100_000), tmp_path / "adapter")
    assert metrics["steps"] == 1
    # Each begins at zero.
    assert any(values.any() for name, values in weights(tmp_path / "adapter").items() if "lora_B" in name)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_refinetune_lowers_the_loss_and_leaves_a_whole_adapter(folder, tmp_path, dtype):
    out = tmp_path / "adapters" / "round-01"
    config = configure(folder, student={"dtype": dtype}, epochs=6, lr=3e-2)
    metrics, steps = train(config, out)
    assert content(out) == [SETTINGS, WEIGHTS, "metrics.json", "origin.json"]
    assert content(out.parent) == ["round-01"]
    assert [step[:2] for step in steps] == [(number, len(steps)) for number in range(1, len(steps) + 1)]
    losses = [loss for _, _, loss in steps]
    assert losses[-1] < losses[0] - 2.0
    assert metrics["steps"] == len(steps)
    assert metrics["train_loss"] == pytest.approx(sum(losses) / len(steps))
    assert (metrics["pairs"], metrics["left_out"]) == (16, 0)
    assert {values.dtype for values in weights(out).values()} == {torch.float32}
    with Student.open(config.student, out) as student:
        assert student.score([(PAIRS[0], "response_alone")])[0].status == "ok"


@pytest.mark.parametrize(("asked", "number"), [("all-linear", 14), (["q_proj", "v_proj"], 4)])
def test_refinetune_adapts_the_target_modules_asked_for(folder, tmp_path, asked, number):
    train(configure(folder, target_modules=asked, epochs=1), tmp_path / "adapter")
    modules = json.loads((tmp_path / "adapter" / SETTINGS).read_text())["target_modules"]
    assert modules == sorted(modules)  # sets would have another order in another process
    adapted = {name.rpartition(".lora_")[0] for name in weights(tmp_path / "adapter")}
    assert len(adapted) == number
    assert all(name.endswith(tuple(modules)) for name in adapted)


@pytest.mark.slow
def test_refinetuned_student_answers_what_it_learned(folder, tmp_path):
    pairs = [Pair("Name a colour.", "", "Blue."), Pair("Name a fruit.", "", "An apple.")]
    config = configure(folder, epochs=100, lr=2e-2, r=16, alpha=16, batch_tokens=64)
    train(config, tmp_path / "adapter", pairs=pairs)
    with Student.open(config.student, tmp_path / "adapter") as student:
        responses = student.respond(pairs, 30)
    assert [response.text for response in responses] == ["Blue.", "An apple."]


def test_first_loss_is_the_mean_over_all_targets_of_the_step(folder, tmp_path):
    # Responses of very different lengths in rows of very different sizes: a mean of means would differ.
    pairs = [Pair("Say a.", "", "a"), Pair("Count.", "", "1 2 3 4 5 6 7 8 9 " * 5), *PAIRS[:3]]
    config = configure(folder, student={"batch_tokens": 64}, batch_tokens=4000, epochs=1)
    metrics, [(_, _, loss)] = train(config, tmp_path / "adapter", pairs=pairs)
    assert loss == pytest.approx(mean_target_nll(folder, pairs), rel=1e-5)
    assert metrics["target_tokens"] < metrics["tokens"]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_gradients_do_not_depend_on_how_a_step_is_cut_into_rows(tmp_path, architecture):
    model = save_tiny_model(tmp_path / "model", architecture)
    if architecture == "gpt2":  # its own dropout would differ from row to row
        settings = json.loads((model / "config.json").read_text())
        off = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
        (model / "config.json").write_text(json.dumps(settings | off))
    # Of unequal lengths, in several steps: means of rows' means would go elsewhere.
    pairs = [Pair("Count.", "", "1 2 3 4 5 6 7 8 9 " * 5), Pair("Say a.", "", "a"), *PAIRS[:4]]
    for size in (32, 512):
        config = configure(model, student={"batch_tokens": size}, epochs=3, batch_tokens=4000)
        train(config, tmp_path / f"rows-of-{size}", pairs=pairs)
    other = weights(tmp_path / "rows-of-512")
    for name, values in weights(tmp_path / "rows-of-32").items():
        assert torch.allclose(values, other[name], atol=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradient_checkpointing_trains_the_same_adapter(tmp_path, architecture, dtype):
    model = save_tiny_model(tmp_path / "model", architecture)
    passes, trained = [], []
    for checkpointing in (False, True):
        config = configure(model, student={"dtype": dtype}, epochs=1, gradient_checkpointing=checkpointing)
        with counted_layers(architecture) as calls:
            train(config, tmp_path / str(checkpointing))
        passes.append(len(calls))
        trained.append(weights(tmp_path / str(checkpointing)))
    assert passes[1] > passes[0]  # layers are computed again, not kept
    assert all(torch.equal(values, trained[1][name]) for name, values in trained[0].items())


@pytest.mark.parametrize(
    ("tokens", "lengths"),
    # Three texts of 4 tokens, two a step, epoch after epoch; the last step may have one.
    [(1, [4]), (4, [4]), (5, [8]), (9, [8, 4]), (13, [8, 8]), (30, [8, 8, 8, 8])],
)
def test_training_by_tokens_ends_with_the_text_that_reaches_them(tokens, lengths):
    texts = EncodedTexts()
    for start in (10, 20, 30):
        texts.append(Encoded([start, 1, 2, 3], 1))
    steps = TrainingSteps(texts, 7, RefinetuneConfig(tokens=tokens, batch_tokens=8))
    found = [steps[step] for step in range(len(steps))]
    assert [sum(len(text.ids) for text in step) for step in found] == lengths
    assert (steps.tokens, steps.target_tokens) == (sum(lengths), 3 * sum(lengths) // 4)
    longer = TrainingSteps(texts, 7, RefinetuneConfig(epochs=3, batch_tokens=8))
    drawn = [text for step in found for text in step]
    assert drawn[:9] == [text for step in range(len(longer)) for text in longer[step]][: len(drawn)]
    assert {text.ids[0] for text in drawn[:3]} <= {10, 20, 30}
    assert len({text.ids[0] for text in drawn[:3]}) == min(3, len(drawn))  # an epoch has each once


def test_encoded_texts_take_four_bytes_a_token():
    texts, ids = EncodedTexts(), [*range(997)]
    tracemalloc.start()
    for first in range(1, 1001):
        texts.append(Encoded(ids, first % 997))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / (1000 * len(ids)) < 4.6  # an array grows by an eighth at a time
    assert len(texts) == 1000
    assert texts[5] == Encoded(ids, 6)
    assert (texts.num_tokens(5), texts.num_targets(5)) == (997, 991)


@pytest.mark.slow
def test_refinetune_goes_on_with_the_previous_adapter(folder, undisturbed, tmp_path):
    config = configure(folder, epochs=1)
    _, fresh = train(config, tmp_path / "fresh", round=2)
    _, further = train(config, tmp_path / "further", round=2, previous=undisturbed)
    assert further[0][2] < fresh[0][2] - 1.0
    assert hash_adapter(tmp_path / "further") != hash_adapter(undisturbed)


def test_refinetune_leaves_out_pairs_without_a_response(folder, tmp_path):
    pairs = [*PAIRS[:4], Pair("Name.", "", ""), Pair("three " * 100, "", "Red.")]
    config = configure(folder, student={"max_length": 64}, epochs=1)
    metrics, _ = train(config, tmp_path / "adapter", pairs=pairs)
    assert (metrics["pairs"], metrics["left_out"]) == (4, 2)


def test_refinetune_counts_pairs_that_lose_turns_or_the_end_of_their_response(folder, tmp_path):
    long = (Turn("user", "three " * 100), Turn("assistant", "Red."))
    pairs = [*PAIRS[:2], Pair("And another?", "", "Blue.", long), Pair("Name.", "", "three " * 100)]
    config = configure(folder, student={"max_length": 64}, epochs=1)
    metrics, _ = train(config, tmp_path / "adapter", pairs=pairs)
    assert (metrics["pairs"], metrics["truncated"], metrics["left_out"]) == (4, 2, 0)


def test_refinetune_of_all_turns_trains_on_the_earlier_answers_too(folder, tmp_path):
    context = (Turn("user", "Name a colour."), Turn("assistant", "Red."))
    pairs = [Pair("And another?", "", "Blue.", context)]
    parts = [Pair("Name a colour.", "", "Red."), *pairs]
    for turns, taught in (("recycled", pairs), ("all", parts)):
        metrics, _ = train(configure(folder, epochs=1, turns=turns), tmp_path / turns, pairs=pairs)
        assert (metrics["pairs"], metrics["left_out"]) == (len(taught), 0)
        alone, _ = train(configure(folder, epochs=1), tmp_path / f"{turns}-alone", pairs=taught)
        assert (metrics["tokens"], metrics["target_tokens"]) == (alone["tokens"], alone["target_tokens"])


def test_refinetune_teaches_no_end_after_a_response_that_was_cut(folder, tmp_path):
    pair = Pair("Add.", "", "1 2 3 4 5 6 7 8 9")
    whole, _ = train(configure(folder, epochs=1), tmp_path / "whole", pairs=[pair])
    config = configure(folder, student={"max_length": int(whole["tokens"]) - 2}, epochs=1)
    cut, _ = train(config, tmp_path / "cut", pairs=[pair])
    assert cut["target_tokens"] == whole["target_tokens"] - 2


# The same again, and after an interruption


@pytest.mark.slow
def test_refinetune_depends_on_seed_and_round_alone(folder, tmp_path):
    config = configure(folder, dropout=0.1)
    found = []
    for number, (seed, round) in enumerate([(0, 1), (0, 1), (1, 1), (0, 2)]):
        torch.manual_seed(number)
        out = tmp_path / str(number)
        train(config.model_copy(update={"seed": seed}), out, round=round)
        found.append(hash_adapter(out))
    assert found[0] == found[1]
    assert len(set(found)) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("length", "student"),
    [
        ({"epochs": 3, "dropout": 0.1}, {}),
        ({"tokens": 2000, "dropout": 0.1}, {}),
        ({"epochs": 3}, {"threads": 2, "batch_tokens": 64}),  # rows pass side by side
    ],
)
@pytest.mark.parametrize("step", [1, 5])
def test_refinetune_that_is_broken_off_gives_the_same_bits(folder, tmp_path, length, student, step):
    config = configure(folder, student=student, **length)
    whole, _ = train(config, tmp_path / "whole")
    checkpoints = interrupt(config, tmp_path / "resumed", step)
    metrics, steps = train(config, tmp_path / "resumed")
    assert steps[0][0] == (step_of(checkpoints[-1]) + 1 if checkpoints else 1)
    assert bool(checkpoints) == (step > 2)
    assert metrics["tokens"] >= length.get("tokens", 0)
    assert metrics | {"seconds": 0} == whole | {"seconds": 0}
    assert hash_adapter(tmp_path / "resumed") == hash_adapter(tmp_path / "whole")


@pytest.mark.slow
def test_refinetune_goes_on_with_what_changes_only_speed_and_memory(folder, tmp_path):
    slow = configure(folder, epochs=5)
    train(slow, tmp_path / "slow")
    interrupt(slow, tmp_path / "changed", 9)
    settings = {"batch_tokens": 64, "threads": 2, "device": "cpu"}
    _, steps = train(
        configure(folder, student=settings, epochs=5, gradient_checkpointing=True), tmp_path / "changed"
    )
    assert steps[0][0] > 1  # from a checkpoint
    changed = weights(tmp_path / "changed")
    for name, values in weights(tmp_path / "slow").items():
        assert torch.allclose(values, changed[name], atol=1e-4), name


def test_refinetune_of_a_float16_base_computes_in_bfloat16(folder, tmp_path, monkeypatch):
    formats, forward = set(), LlamaModel.forward

    def note(model, *inputs, **settings):
        if model.training:
            formats.add(model.dtype)
        return forward(model, *inputs, **settings)

    monkeypatch.setattr(LlamaModel, "forward", note)
    metrics, _ = train(configure(folder, student={"dtype": "float16"}, epochs=1), tmp_path / "adapter")
    assert formats == {torch.bfloat16}
    assert math.isfinite(metrics["train_loss"])


@pytest.mark.slow
def test_refinetune_saves_about_every_fifth_of_the_steps(config, tmp_path):
    *_, last = interrupt(config, tmp_path / "adapter", 9)
    steps = json.loads((last / "trainer_state.json").read_text())["max_steps"]
    assert step_of(last) % math.ceil(steps / 5) == 0
    state = ["manifest.json", "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json"]
    assert content(last) == [SETTINGS, WEIGHTS, *state]


@pytest.mark.slow
def test_refinetune_saves_when_much_time_has_passed(config, tmp_path, monkeypatch):
    monkeypatch.setattr("reflectune.agents.student.trainer._SAVE_SECONDS", 0.0)
    assert list(map(step_of, interrupt(config, tmp_path / "adapter", 6))) == [4, 5]


@pytest.mark.slow
@pytest.mark.parametrize("why", ["another training", "damaged note"])
def test_refinetune_begins_again_where_it_cannot_go_on(config, undisturbed, tmp_path, capfd, why):
    broken_off = configure(config.student.model, epochs=5, lr=2e-2) if why == "another training" else config
    assert interrupt(broken_off, tmp_path / "adapter", 9)
    if why == "damaged note":
        (tmp_path / ".adapter.partial/fingerprint").write_bytes(b"\xff\xfe")
    _, steps = train(config, tmp_path / "adapter")
    assert steps[0][0] == 1
    assert hash_adapter(tmp_path / "adapter") == hash_adapter(undisturbed)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_refinetune_killed_while_it_replaces_an_adapter_replaces_it(config, undisturbed, tmp_path):
    interrupt(config, tmp_path / "adapter", 9)
    (tmp_path / ".adapter.partial/replaced/more").mkdir(parents=True)
    (tmp_path / "adapter").mkdir()
    train(config, tmp_path / "adapter")
    assert hash_adapter(tmp_path / "adapter") == hash_adapter(undisturbed)
    assert content(tmp_path) == ["adapter"]


def test_refinetune_that_is_done_trains_no_more(config, undisturbed, tmp_path):
    out = Path(shutil.copytree(undisturbed, tmp_path / "adapter"))
    (tmp_path / ".adapter.partial").mkdir()  # killed between renaming and tidying up
    metrics, steps = train(config, out)
    assert steps == []
    assert metrics == json.loads((undisturbed / "metrics.json").read_text())
    assert hash_adapter(out) == hash_adapter(undisturbed)
    assert content(tmp_path) == ["adapter"]


@pytest.mark.slow
def test_refinetune_replaces_the_adapter_of_another_training(folder, tmp_path):
    config, out = configure(folder, epochs=1), tmp_path / "adapter"
    train(config, out, pairs=PAIRS[:4])
    metrics, _ = train(config, out, pairs=PAIRS[4:])
    assert metrics["pairs"] == 12
    train(config, tmp_path / "alone", pairs=PAIRS[4:])
    assert hash_adapter(out) == hash_adapter(tmp_path / "alone")
    assert content(tmp_path) == ["adapter", "alone"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [WEIGHTS, SETTINGS, "metrics.json", "origin.json"])
@pytest.mark.parametrize("how", ["changed", "removed"])
def test_refinetune_replaces_a_finished_adapter_that_is_damaged(config, undisturbed, tmp_path, name, how):
    out = Path(shutil.copytree(undisturbed, tmp_path / "adapter"))
    content_of = bytearray((out / name).read_bytes())
    content_of[len(content_of) // 2] ^= 1
    (out / name).write_bytes(content_of) if how == "changed" else (out / name).unlink()
    metrics, steps = train(config, out)
    assert len(steps) == metrics["steps"]
    assert hash_adapter(out) == hash_adapter(undisturbed)
    assert content(tmp_path) == ["adapter"]


# What cannot be trained


@pytest.mark.parametrize(
    ("changes", "pairs", "previous", "message"),
    [
        ({}, PAIRS, "nothing", "not an adapter folder"),
        ({"target_modules": ["query"]}, PAIRS, None, r"refinetune\.target_modules = \['query'\]"),
        (
            {},
            [Pair("three " * 600, "", "Red.")],
            None,
            r"none of 1 pairs can be trained on.*raise student\.max_length",
        ),
    ],
)
def test_refinetune_says_what_it_cannot_train(folder, tmp_path, changes, pairs, previous, message):
    with pytest.raises(AdapterError, match=message):
        train(
            configure(folder, **changes),
            tmp_path / "adapter",
            pairs=pairs,
            previous=previous and tmp_path / previous,
        )


def test_refinetune_of_a_broken_model_leaves_nothing(folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    model = AutoModelForCausalLM.from_pretrained(broken)
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    model.save_pretrained(broken)
    with pytest.raises(AdapterError, match=r"not finite at step 1; try a lower refinetune\.lr"):
        train(configure(broken), tmp_path / "adapter")
    assert content(tmp_path) == ["broken"]


def test_refinetune_whose_weights_break_down_in_the_last_step_leaves_nothing(folder, tmp_path, monkeypatch):
    def break_down(model, *parts, **options):
        losses = train_steps(model, *parts, **options)
        weight = next(values for name, values in model.named_parameters() if "lora_B" in name)
        with torch.no_grad():
            weight[0, 0] = math.inf
        return losses

    monkeypatch.setattr("reflectune.agents.student.refinetune.train_steps", break_down)
    with pytest.raises(AdapterError, match=r"1 weights of the adapter are not finite, such as .*lora_B"):
        train(configure(folder, epochs=1), tmp_path / "adapter")
    assert content(tmp_path) == []


def test_refinetune_needs_an_eos_token(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copy")
    settings = json.loads((copied / "tokenizer_config.json").read_text())
    del settings["eos_token"]
    (copied / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(StudentError, match="no EOS token to end a response with"):
        train(configure(copied), tmp_path / "adapter")
    with pytest.raises(StudentError, match="no EOS token to end a response with"):
        check_refinetune(configure(copied))


def test_a_separator_that_is_no_token_shows_before_a_run(folder):
    config = configure(folder, student={"separator": "<none>"})
    with pytest.raises(StudentError, match=r"student\.separator = '<none>'"):
        check_refinetune(config)


def test_training_stays_on_the_gpu_of_the_student(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    arguments = SimpleNamespace(device=torch.device("cuda:0"), _n_gpu=2)
    _keep_device(arguments, torch.device("cuda:1"))
    assert chosen == [torch.device("cuda:1")] == [arguments._setup_devices]
    assert arguments._n_gpu == 1


def test_hash_adapter_depends_on_weights_and_configuration_only(undisturbed, tmp_path):
    out = Path(shutil.copytree(undisturbed, tmp_path / "adapter"))
    before = hash_adapter(out)
    assert len(before) == 32
    (out / "metrics.json").write_text("{}")
    assert hash_adapter(out) == before
    for name in (WEIGHTS, SETTINGS):
        given = (out / name).read_bytes()
        (out / name).write_bytes(given + b" ")
        assert hash_adapter(out) != before
        (out / name).write_bytes(given)
    with pytest.raises(AdapterError, match="not an adapter folder"):
        hash_adapter(tmp_path)
