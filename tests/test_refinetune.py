import json
import math
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from reflectune.agents.student.adapters import hash_adapter
from reflectune.agents.student.refinetune import _pack_epochs, check_refinetune, refinetune_student
from reflectune.agents.student.student import Student
from reflectune.agents.student.targets import Encoded
from reflectune.agents.student.trainer import TrainingRows, _keep_device, train_rows
from reflectune.state.config import RefinetuneConfig, RunConfig
from reflectune.state.errors import AdapterError, StudentError
from reflectune.state.records import Pair
from tests.tiny_models import save_tiny_llama, save_tiny_model

PAIRS = [Pair(f"Add {a} and {b}.", "", f"The sum is {a + b}.") for a in range(4) for b in range(4)]

# What a killed training does: the same call as here, in another process that ends itself at a step.
KILLED = """
import os, signal, sys
from pathlib import Path
from reflectune.agents.student.refinetune import refinetune_student
from reflectune.state.config import RunConfig
from reflectune.state.records import Pair
from tests.test_refinetune import PAIRS

def on_step(step, steps, loss):
    if step == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

config = RunConfig.model_validate_json(sys.argv[1])
refinetune_student(config, PAIRS, Path(sys.argv[2]), previous=None, round=1, on_step=on_step)
"""


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


def train(config, out, *, pairs=PAIRS, previous=None, round=1, steps=None):
    return refinetune_student(
        config,
        pairs,
        out,
        previous=previous,
        round=round,
        on_step=lambda *step: None if steps is None else steps.append(step),
    )


@pytest.fixture(scope="module")
def undisturbed(folder, tmp_path_factory):
    """The adapter of a training of 5 epochs that nothing interrupted."""
    out = tmp_path_factory.mktemp("undisturbed") / "adapter"
    train(configure(folder, epochs=5), out)
    return out


def weights(adapter):
    return (adapter / "adapter_model.safetensors").read_bytes()


def stop_at(step):
    """An on_step that breaks off, as Ctrl-C does."""

    def on_step(done, steps, loss):
        if done == step:
            raise KeyboardInterrupt

    return on_step


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


def test_refinetune_of_a_single_step_trains(folder, tmp_path):
    metrics = train(configure(folder, epochs=1, batch_tokens=100_000), tmp_path / "adapter")
    assert metrics["steps"] == 1
    trained = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    moved = [name for name, weights in trained.items() if "lora_B" in name and weights.any()]
    assert moved  # each begins at zero


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_refinetune_lowers_the_loss_and_leaves_a_whole_adapter(folder, tmp_path, dtype):
    out, steps = tmp_path / "adapters" / "round-01", []
    config = configure(folder, student={"dtype": dtype}, epochs=6, lr=3e-2)
    metrics = train(config, out, steps=steps)
    assert sorted(path.name for path in out.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "metrics.json",
        "origin.json",
    ]
    assert [path.name for path in out.parent.iterdir()] == ["round-01"]
    assert [step for step, _, _ in steps] == list(range(1, len(steps) + 1))
    assert {total for _, total, _ in steps} == {len(steps)}
    assert all(math.isfinite(loss) for _, _, loss in steps)
    assert steps[-1][2] < steps[0][2] - 2.0
    assert metrics["steps"] == len(steps)
    assert metrics["train_loss"] == pytest.approx(sum(loss for _, _, loss in steps) / len(steps))
    assert (metrics["pairs"], metrics["left_out"]) == (16, 0)
    trained = load_file(out / "adapter_model.safetensors")
    assert {values.dtype for values in trained.values()} == {torch.float32}
    with Student.open(config.student, out) as student:
        assert student.score([(PAIRS[0], "response_alone")])[0].status == "ok"


def test_adapter_configuration_does_not_depend_on_the_order_of_sets(folder, tmp_path):
    train(configure(folder, epochs=1), tmp_path / "adapter")
    modules = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert len(modules) == 14
    assert modules == sorted(modules)


@pytest.mark.slow
def test_refinetuned_student_answers_what_it_learned(folder, tmp_path):
    pairs = [Pair("Name a colour.", "", "Blue."), Pair("Name a fruit.", "", "An apple.")]
    config = configure(folder, epochs=100, lr=2e-2, r=16, alpha=16, batch_tokens=64)
    train(config, tmp_path / "adapter", pairs=pairs)
    with Student.open(config.student, tmp_path / "adapter") as student:
        responses = student.respond(pairs, 30)
    assert [response.text for response in responses] == ["Blue.", "An apple."]


@pytest.mark.slow
def test_first_loss_is_the_mean_over_all_targets_of_the_step(folder, tmp_path):
    # Responses of very different lengths in rows of very different sizes: a mean of means would differ.
    pairs = [Pair("Say a.", "", "a"), Pair("Count.", "", "1 2 3 4 5 6 7 8 9 " * 5), *PAIRS[:3]]
    steps = []
    config = configure(folder, student={"batch_tokens": 64}, batch_tokens=4000, epochs=1)
    metrics = train(config, tmp_path / "adapter", pairs=pairs, steps=steps)
    assert len(steps) == 1
    assert steps[0][2] == pytest.approx(mean_target_nll(folder, pairs), rel=1e-5)
    assert metrics["target_tokens"] < metrics["tokens"]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_gradients_do_not_depend_on_how_a_step_is_cut_into_rows(tmp_path, architecture):
    model = save_tiny_model(tmp_path / "model", architecture)
    if architecture == "gpt2":  # its own dropout would differ from row to row
        settings = json.loads((model / "config.json").read_text())
        off = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
        (model / "config.json").write_text(json.dumps(settings | off))
    trained = []
    for batch_tokens in (32, 512):
        out = tmp_path / f"rows-of-{batch_tokens}"
        student = {"batch_tokens": batch_tokens}
        train(configure(model, student=student, epochs=1, batch_tokens=4000), out, pairs=PAIRS[:6])
        trained.append(load_file(out / "adapter_model.safetensors"))
    for name, values in trained[0].items():
        assert torch.allclose(values, trained[1][name], atol=1e-5), name


def test_training_rows_learn_targets_only():
    rows = TrainingRows([[Encoded([10, 11, 12, 13], 2), Encoded([20, 21], 1)]])
    assert len(rows) == 1
    row = {name: values.tolist() for name, values in rows[0].items()}
    assert row == {
        "input_ids": [[10, 11, 12, 13, 20, 21]],
        "position_ids": [[0, 1, 2, 3, 0, 1]],
        "labels": [[-100, -100, 12, 13, -100, 21]],
    }


@pytest.mark.slow
def test_refinetune_gives_the_same_bits_again(folder, tmp_path):
    config = configure(folder, dropout=0.1)
    train(config, tmp_path / "one" / "adapter")
    torch.manual_seed(77)
    train(config, tmp_path / "other" / "adapter")
    assert hash_adapter(tmp_path / "one" / "adapter") == hash_adapter(tmp_path / "other" / "adapter")


@pytest.mark.parametrize(
    ("tokens", "lengths"),
    # Three sequences of 4 tokens in rows of at most 8: 8 and 4 tokens an epoch.
    [(1, [8]), (8, [8]), (9, [8, 4]), (12, [8, 4]), (13, [8, 4, 8]), (30, [8, 4, 8, 4, 8])],
)
def test_training_by_tokens_ends_with_the_row_that_reaches_them(tokens, lengths):
    sequences = [Encoded([start, 1, 2, 3], 1) for start in (10, 20, 30)]
    rows = _pack_epochs(sequences, 8, 7, RefinetuneConfig(tokens=tokens))
    assert [sum(len(sequence.ids) for sequence in row) for row in rows] == lengths
    assert rows == _pack_epochs(sequences, 8, 7, RefinetuneConfig(epochs=3))[: len(rows)]


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 16, 160])
def test_refinetune_by_tokens_trains_as_much_on_few_pairs_as_on_many(folder, tmp_path, size):
    # Rows of at most 64 tokens: past 600 tokens by less than that. Steps of about 300 tokens: about 2.
    config = configure(folder, student={"batch_tokens": 64}, tokens=600)
    metrics = train(config, tmp_path / "adapter", pairs=(PAIRS * 10)[:size])
    assert 600 <= metrics["tokens"] < 664
    assert 2 <= metrics["steps"] <= 3
    assert metrics["pairs"] == size


@pytest.mark.slow
def test_refinetune_by_the_tokens_of_its_epochs_gives_the_same_bits(folder, undisturbed, tmp_path):
    metrics = json.loads((undisturbed / "metrics.json").read_text())
    train(configure(folder, tokens=int(metrics["tokens"])), tmp_path / "adapter")
    assert hash_adapter(tmp_path / "adapter") == hash_adapter(undisturbed)


@pytest.mark.slow
def test_refinetune_by_tokens_that_is_interrupted_gives_the_same_bits(folder, tmp_path):
    config = configure(folder, tokens=2000, dropout=0.1)
    whole = train(config, tmp_path / "whole")
    assert interrupt(config, tmp_path / "resumed", 5)
    steps = []
    resumed = train(config, tmp_path / "resumed", steps=steps)
    assert steps[0][0] > 1
    assert resumed | {"seconds": 0} == whole | {"seconds": 0}
    assert hash_adapter(tmp_path / "resumed") == hash_adapter(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"seed": 1}, {"round": 2}])
def test_refinetune_depends_on_seed_and_round(folder, tmp_path, change):
    train(configure(folder), tmp_path / "one")
    train(configure(folder, seed=change.get("seed", 0)), tmp_path / "other", round=change.get("round", 1))
    assert weights(tmp_path / "one") != weights(tmp_path / "other")


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 5])
def test_refinetune_killed_in_the_middle_gives_the_same_bits(folder, tmp_path, step):
    config = configure(folder, dropout=0.1)
    train(config, tmp_path / "undisturbed")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, config.model_dump_json(), str(tmp_path / "killed"), str(step)],
        cwd=Path(__file__).parents[1],
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed").exists()
    assert (tmp_path / ".killed.partial").is_dir()
    steps = []
    metrics = train(config, tmp_path / "killed", steps=steps)
    assert (steps[0][0] > 1) == (step > 2)  # it did not begin again where a checkpoint was there
    assert hash_adapter(tmp_path / "killed") == hash_adapter(tmp_path / "undisturbed")
    undisturbed = json.loads((tmp_path / "undisturbed" / "metrics.json").read_text())
    assert metrics | {"seconds": 0} == undisturbed | {"seconds": 0}


def interrupt(config, out, step):
    with pytest.raises(KeyboardInterrupt):
        refinetune_student(config, PAIRS, out, previous=None, round=1, on_step=stop_at(step))
    partial = out.with_name(f".{out.name}.partial")
    return sorted(partial.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))


@pytest.mark.slow
def test_refinetune_begins_again_where_its_note_is_damaged(folder, undisturbed, tmp_path, capfd):
    config = configure(folder, epochs=5)
    assert interrupt(config, tmp_path / "adapter", 9)
    (tmp_path / ".adapter.partial/fingerprint").write_bytes(b"\xff\xfe")
    steps = []
    train(config, tmp_path / "adapter", steps=steps)
    assert steps[0][0] == 1
    assert weights(tmp_path / "adapter") == weights(undisturbed)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "optimizer.pt", "trainer_state.json", "rng_state.pth"]
)
def test_refinetune_goes_on_from_the_last_checkpoint_that_is_whole(folder, undisturbed, tmp_path, name):
    config = configure(folder, epochs=5)
    checkpoints = interrupt(config, tmp_path / "adapter", 9)
    assert len(checkpoints) == 2
    damaged = checkpoints[-1] / name
    damaged.write_bytes(damaged.read_bytes()[:-20])
    steps = []
    train(config, tmp_path / "adapter", steps=steps)
    assert steps[0][0] == int(checkpoints[0].name.partition("-")[2]) + 1
    assert weights(tmp_path / "adapter") == weights(undisturbed)


@pytest.mark.slow
def test_refinetune_saves_about_every_fifth_of_the_steps(folder, tmp_path):
    *_, last = interrupt(configure(folder, epochs=5), tmp_path / "adapter", 9)
    steps = json.loads((last / "trainer_state.json").read_text())["max_steps"]
    assert int(last.name.partition("-")[2]) % math.ceil(steps / 5) == 0
    assert sorted(path.name for path in last.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
        "optimizer.pt",
        "rng_state.pth",
        "scheduler.pt",
        "trainer_state.json",
    ]


@pytest.mark.slow
def test_refinetune_saves_when_much_time_has_passed(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("reflectune.agents.student.trainer._SAVE_SECONDS", 0.0)
    checkpoints = interrupt(configure(folder, epochs=5), tmp_path / "adapter", 6)
    assert [path.name for path in checkpoints] == ["checkpoint-4", "checkpoint-5"]


@pytest.mark.slow
def test_refinetune_does_not_go_on_with_another_training(folder, tmp_path):
    interrupt(configure(folder, epochs=5), tmp_path / "adapter", 9)
    steps = []
    train(configure(folder, epochs=5, lr=2e-2), tmp_path / "adapter", steps=steps)
    assert steps[0][0] == 1


@pytest.mark.slow
def test_refinetune_that_is_done_trains_no_more(folder, tmp_path):
    out = tmp_path / "adapter"
    metrics = train(configure(folder, epochs=1), out)
    (tmp_path / ".adapter.partial").mkdir()  # killed between renaming and tidying up
    steps, before = [], hash_adapter(out)
    assert train(configure(folder, epochs=1), out, steps=steps) == metrics
    assert steps == []
    assert hash_adapter(out) == before
    assert not (tmp_path / ".adapter.partial").exists()


@pytest.mark.slow
def test_refinetune_replaces_the_adapter_of_another_training(folder, tmp_path):
    config, out = configure(folder, epochs=1), tmp_path / "adapter"
    train(config, out, pairs=PAIRS[:4])
    steps = []
    metrics = train(config, out, pairs=PAIRS[4:], steps=steps)
    assert steps
    assert metrics["pairs"] == 12
    train(config, tmp_path / "alone", pairs=PAIRS[4:])
    assert hash_adapter(out) == hash_adapter(tmp_path / "alone")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "alone"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "adapter_config.json", "metrics.json", "origin.json"]
)
@pytest.mark.parametrize("how", ["changed", "removed"])
def test_refinetune_replaces_a_finished_adapter_that_is_damaged(folder, undisturbed, tmp_path, name, how):
    out = Path(shutil.copytree(undisturbed, tmp_path / "adapter"))
    content = bytearray((out / name).read_bytes())
    content[len(content) // 2] ^= 1
    (out / name).write_bytes(content) if how == "changed" else (out / name).unlink()
    steps = []
    metrics = train(configure(folder, epochs=5), out, steps=steps)
    assert len(steps) == metrics["steps"]
    assert hash_adapter(out) == hash_adapter(undisturbed)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.slow
def test_refinetune_killed_while_it_replaces_an_adapter_replaces_it(folder, undisturbed, tmp_path):
    config, out = configure(folder, epochs=5), tmp_path / "adapter"
    interrupt(config, out, 9)
    (tmp_path / ".adapter.partial/replaced/more").mkdir(parents=True)
    out.mkdir()
    train(config, out)
    assert hash_adapter(out) == hash_adapter(undisturbed)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.slow
def test_refinetune_goes_on_with_the_previous_adapter(folder, undisturbed, tmp_path):
    config = configure(folder, epochs=1)
    fresh, further = [], []
    train(config, tmp_path / "fresh", round=2, steps=fresh)
    train(config, tmp_path / "further", round=2, previous=undisturbed, steps=further)
    assert further[0][2] < fresh[0][2] - 1.0
    assert weights(tmp_path / "further") != weights(undisturbed)


def test_refinetune_refuses_a_previous_adapter_that_is_not_there(folder, tmp_path):
    with pytest.raises(AdapterError, match="not an adapter folder"):
        train(configure(folder), tmp_path / "adapter", previous=tmp_path / "nothing")


def test_refinetune_leaves_out_pairs_without_a_response(folder, tmp_path):
    pairs = [*PAIRS[:4], Pair("Name.", "", ""), Pair("three " * 100, "", "Red.")]
    metrics = train(
        configure(folder, student={"max_length": 64}, epochs=1), tmp_path / "adapter", pairs=pairs
    )
    assert (metrics["pairs"], metrics["left_out"]) == (4, 2)


@pytest.mark.slow
def test_refinetune_teaches_no_end_after_a_response_that_was_cut(folder, tmp_path):
    pair = Pair("Add.", "", "1 2 3 4 5 6 7 8 9")
    whole = train(configure(folder, epochs=1), tmp_path / "whole", pairs=[pair])
    cut = train(
        configure(folder, student={"max_length": int(whole["tokens"]) - 2}, epochs=1),
        tmp_path / "cut",
        pairs=[pair],
    )
    assert cut["target_tokens"] == whole["target_tokens"] - 2


def test_refinetune_with_nothing_to_train_on_says_so(folder, tmp_path):
    with pytest.raises(AdapterError, match=r"none of 1 pairs can be trained on.*raise student\.max_length"):
        train(configure(folder), tmp_path / "adapter", pairs=[Pair("three " * 600, "", "Red.")])


def test_refinetune_names_target_modules_the_model_does_not_have(folder, tmp_path):
    with pytest.raises(AdapterError, match=r"refinetune\.target_modules = \['query'\]"):
        train(configure(folder, target_modules=["query"]), tmp_path / "adapter")


def test_refinetune_adapts_the_target_modules_asked_for(folder, tmp_path):
    train(configure(folder, target_modules=["q_proj", "v_proj"], epochs=1), tmp_path / "adapter")
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in names} == {"q_proj", "v_proj"}


def test_refinetune_of_a_broken_model_leaves_nothing(folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    model = AutoModelForCausalLM.from_pretrained(broken)
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    model.save_pretrained(broken)
    with pytest.raises(AdapterError, match=r"not finite at step 1; try a lower refinetune\.lr"):
        train(configure(broken), tmp_path / "adapter")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_refinetune_whose_weights_break_down_in_the_last_step_leaves_nothing(folder, tmp_path, monkeypatch):
    def break_down(model, rows, folder, **options):
        losses = train_rows(model, rows, folder, **options)
        name, weight = next((n, w) for n, w in model.named_parameters() if "lora_B" in n)
        with torch.no_grad():
            weight[0, 0] = math.inf
        assert math.isfinite(losses[-1]), name
        return losses

    monkeypatch.setattr("reflectune.agents.student.refinetune.train_rows", break_down)
    with pytest.raises(AdapterError, match=r"1 weights of the adapter are not finite, such as .*lora_B"):
        train(configure(folder, epochs=1), tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_refinetune_out_of_memory_says_what_to_lower(folder, tmp_path, monkeypatch):
    def run_out(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("reflectune.agents.student.refinetune.train_rows", run_out)
    with pytest.raises(AdapterError, match=r"memory; set refinetune\.gradient_checkpointing or lower"):
        train(configure(folder), tmp_path / "adapter")


def test_refinetune_needs_an_eos_token(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copy")
    path = copied / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings["eos_token"]
    path.write_text(json.dumps(settings))
    with pytest.raises(StudentError, match="no EOS token to end a response with"):
        train(configure(copied), tmp_path / "adapter")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradient_checkpointing_trains_the_same_adapter(tmp_path, architecture, dtype):
    model = save_tiny_model(tmp_path / "model", architecture)
    passes, trained = [], []
    for checkpointing in (False, True):
        config = configure(model, student={"dtype": dtype}, epochs=1, gradient_checkpointing=checkpointing)
        out = tmp_path / f"checkpointing-{checkpointing}"
        with counted_layers(architecture) as calls:
            train(config, out)
        passes.append(len(calls))
        trained.append(load_file(out / "adapter_model.safetensors"))
    assert passes[1] > passes[0]  # layers are computed again, not kept
    for name, values in trained[0].items():
        assert torch.equal(values, trained[1][name]), name


def test_four_bit_base_is_refused_where_it_cannot_be(folder, tmp_path):
    config = configure(folder, load_in_4bit=True, student={"device": "cpu"})
    with pytest.raises(AdapterError, match=r"refinetune\.load_in_4bit needs a CUDA device"):
        train(config, tmp_path / "adapter")
    with pytest.raises(AdapterError, match=r"refinetune\.load_in_4bit needs a CUDA device"):
        check_refinetune(config)
    check_refinetune(configure(folder))
    assert list(tmp_path.iterdir()) == []


def test_training_stays_on_the_gpu_of_the_student(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    arguments = SimpleNamespace(device=torch.device("cuda:0"), _n_gpu=2)
    _keep_device(arguments, torch.device("cuda:1"))
    assert chosen == [torch.device("cuda:1")]
    assert arguments._n_gpu == 1
    assert arguments._setup_devices == torch.device("cuda:1")


def test_hash_adapter_depends_on_weights_and_configuration_only(folder, tmp_path):
    out = tmp_path / "adapter"
    train(configure(folder, epochs=1), out)
    before = hash_adapter(out)
    assert len(before) == 32
    (out / "metrics.json").write_text("{}")
    assert hash_adapter(out) == before
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        path = out / name
        given = path.read_bytes()
        path.write_bytes(given + b" ")
        assert hash_adapter(out) != before
        path.write_bytes(given)
    with pytest.raises(AdapterError, match="not an adapter folder"):
        hash_adapter(tmp_path)
