"""Builders of tiny models and tokenizers for tests: real files, random or hand-set weights, no network."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

transformers.utils.logging.disable_progress_bar()

TEXTS = [
    "Name three primary colours. Red, yellow and blue are the primary colours.",
    "Write the plural of mouse.\nThe plural of mouse is mice.",
    "### Instruction\nAdd 12 and 30.\n\n### Response\nThe sum of 12 and 30 is 42.",
    "Explain why the sky is blue: sunlight is scattered by the air, blue more than red.",
]

BYTES = [f"<0x{value:02X}>" for value in range(256)]

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "<assistant>{{ message['content'] }}{{ eos_token }}{% else %}<user>{{ message['content'] }}\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def byte_level_tokenizer(*, bos: bool = True, chat: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE of a few hundred tokens, like those of GPT-2, Llama 3 and Qwen."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    wrapped = _wrap(tokenizer, bos)
    if chat:
        wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def metaspace_tokenizer(*, bos: bool = True) -> PreTrainedTokenizerFast:
    """A sentencepiece-like BPE with word-start marks and byte fallback, like Llama 2's."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>", "<pad>", "<unk>", *BYTES], show_progress=False
    )
    tokenizer.train_from_iterator([line for text in TEXTS for line in text.split(" ")], trainer)
    return _wrap(tokenizer, bos)


def letter_tokenizer(letters: str) -> PreTrainedTokenizerFast:
    """One token a letter, behind them the bytes for all others; ids 0 and 1 are BOS and EOS."""
    tokens = ["<s>", "</s>", *letters, *BYTES]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def _wrap(tokenizer: Tokenizer, bos: bool) -> PreTrainedTokenizerFast:
    first = "<s>" if bos else None
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=first, eos_token="</s>", pad_token="<pad>"
    )


def build_model(
    architecture: str = "llama",
    *,
    vocabulary: int = 400,
    context: int = 512,
    seed: int = 0,
    scale: float = 0.1,
    heads: int = 4,
    width: int = 32,
) -> Any:
    """A random two-layer causal language model: llama, qwen2 or gpt2.

    `scale` is the standard deviation of the weights; large enough that contexts matter.
    """
    torch.manual_seed(seed)
    shape = {
        "hidden_size": width,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
    }
    shared = {
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
        "initializer_range": scale,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }
    match architecture:
        case "llama":
            model = LlamaForCausalLM(LlamaConfig(**shape, **shared, num_key_value_heads=(heads + 1) // 2))
        case "qwen2":
            model = Qwen2ForCausalLM(Qwen2Config(**shape, **shared, num_key_value_heads=2))
        case _:
            model = GPT2LMHeadModel(GPT2Config(n_embd=width, n_layer=2, n_head=4, **shared))
    return model.eval()


def save_tiny_model(
    folder: Path, architecture: str = "llama", *, bos: bool = True, chat: bool = False, **shape: int
) -> Path:
    """Write a model folder (config.json, model.safetensors, tokenizer.json) and return it."""
    tokenizer = byte_level_tokenizer(bos=bos, chat=chat)
    build_model(architecture, vocabulary=len(tokenizer), **shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_tiny_llama(folder: Path, *, chat: bool = False, **shape: int) -> Path:
    """Write a random tiny Llama with a byte-level tokenizer that has BOS, EOS and PAD."""
    return save_tiny_model(folder, chat=chat, **shape)


def save_tiny_adapter(folder: Path, model: Any, *, seed: int = 0, scale: float = 0.3) -> Path:
    """Write a random LoRA adapter for a model, far enough from zero to change its scores."""
    torch.manual_seed(seed)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=scale)
    adapted.save_pretrained(folder)
    adapted.unload()
    return folder


def save_bigram_llama(folder: Path, letters: str, table: Mapping[str, Mapping[str, float]]) -> Path:
    """Write a Llama whose next-token distribution is a table of the current token alone.

    Every layer writes zero, so a token's hidden state is its own embedding: one-hot, and after the
    norm sqrt(H) times that. The head then holds log p(next | current) / sqrt(H).

    Args:
        folder: where to write the model folder.
        letters: the vocabulary between "<s>" and "</s>" and the bytes, one token a letter.
        table: current token ("<s>", "</s>" or a letter) -> next token -> probability; each row sums to
            1, a token without a row goes to all alike. A next token left out has probability e^-30.
    """
    tokens = ["<s>", "</s>", *letters, *BYTES]
    size = len(tokens)
    width = size + size % 2
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size,
            hidden_size=width,
            intermediate_size=4,
            num_hidden_layers=1,
            num_attention_heads=1,
            max_position_embeddings=512,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=1,
        )
    )
    logs = torch.full((size, size), -math.log(size))  # (current, next)
    for current, row in table.items():
        assert math.isclose(sum(row.values()), 1.0), current
        logs[tokens.index(current)] = torch.tensor([math.log(row[t]) if t in row else -30.0 for t in tokens])
    layer = model.model.layers[0]
    with torch.no_grad():
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        # Large, so that the norm's epsilon does not show.
        model.model.embed_tokens.weight.copy_(1e3 * torch.eye(size, width))
        model.lm_head.weight.copy_(torch.nn.functional.pad(logs.T, (0, width - size)) / math.sqrt(width))
    model.save_pretrained(folder)
    letter_tokenizer(letters).save_pretrained(folder)
    return folder
