"""Trains the tokenizer of the base model: byte-level BPE of 4,096 tokens, lower case, one token for a separator.

It knows nothing about models. Two choices serve a small model that must copy: every line and query begins with a
space, so a word has the same tokens at the start of a query as inside one, and each digit is a token of its own. The
fixed frame of each task's prompt is one token a piece, which shortens a prompt to half; a frame holds line breaks,
so nothing that a person types can become one of these tokens.
"""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from service.contract.tasks import all_tasks
from service.contract.tokenizer import PromptTokenizer, TextFormat
from service.contract.types import PromptContext
from trainer.catalogue.catalogue import load_catalogue
from trainer.catalogue.compose import compose
from trainer.catalogue.example import Example

VOCABULARY = 4096
PAD, START, END, SEPARATOR = "<pad>", "<s>", "</s>", "<sep>"
FORMAT = TextFormat(separator=SEPARATOR, separator_is_token=True)
_PROBE_N, _PROBE_QUERY = 7919, "probe"


def train_tokenizer(directory: Path, *, seed: int = 0, examples: int = 40_000) -> PromptTokenizer:
    """Train on composed examples and save to `directory` as a Hugging Face tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "merged_with_previous"),
            pre_tokenizers.ByteLevel(add_prefix_space=True),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A", special_tokens=[(START, 1)])
    frames = list(_frames())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(frames),
        special_tokens=[PAD, START, END, SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(islice(compose(load_catalogue(), seed), examples)), trainer)
    tokenizer.add_tokens([AddedToken(frame, normalized=False, special=False) for frame in frames])
    save_tokenizer(tokenizer, directory)
    return PromptTokenizer(directory, FORMAT)


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Write the files that `transformers.AutoTokenizer` and `PromptTokenizer` read."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": START,
        "eos_token": END,
        "pad_token": PAD,
        "add_bos_token": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1024,
        "padding_side": "right",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _frames() -> Iterator[str]:
    """The fixed pieces of every task's prompt: before the number, after it, and before the response."""
    with TemporaryDirectory() as scratch:
        empty = Tokenizer(models.BPE())
        empty.add_special_tokens([PAD, START, END, SEPARATOR])
        save_tokenizer(empty, Path(scratch))
        plain = PromptTokenizer(Path(scratch), FORMAT)
        context = PromptContext(n=_PROBE_N, query=_PROBE_QUERY)
        texts = [task.render(context, plain, budget=10_000).text for task in all_tasks().values()]
    pieces = [piece for text in texts for piece in re.split(rf"{_PROBE_N}|Query: {_PROBE_QUERY}\n", text)]
    yield from dict.fromkeys(piece for piece in pieces if "\n" in piece)


def _texts(examples: Iterable[Example]) -> Iterator[str]:
    for example in examples:
        context = example.context
        yield from (text for text in (context.query, context.answer, *context.session, *context.co_queries) if text)
        yield from (event.text for event in context.history)
        yield from example.queries
        yield from (f"{name}: {text}" for name, text in example.texts.items())
        yield "query: searched: clicked: bought: visited: session: often next: document: answer:"
