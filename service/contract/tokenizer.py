"""Text to token ids and back for one policy, with its separator and its chat template.

It knows nothing about tasks; what people typed can never become a special token here.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from service.contract.engine import Distinct
from service.contract.errors import ArtifactError
from service.contract.query_text import match_key, one_line
from service.contract.token_bytes import bytes_of_tokens

_CONTENT = "\u0001content\u0001"  # cannot occur in a template


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFormat:
    """How a policy writes lists. `separator_is_token`: the separator is one special token that we added."""

    separator: str = " <SEP> "
    separator_is_token: bool = False
    chat: bool = False


class PromptTokenizer:
    """The tokenizer of one policy.

    `start_ids` and `end_ids` are put around the rendered prompt: begin-of-sequence, or the chat template's two halves.
    """

    def __init__(self, directory: Path, text_format: TextFormat) -> None:
        """Read `tokenizer.json` (and the chat template) from a Hugging Face model directory.

        Raises:
            ArtifactError: There is no `tokenizer.json`, or the separator is not one token of it.
        """
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise ArtifactError(
                f"{directory} has no tokenizer.json. Usually the model was saved with a slow tokenizer: load it with "
                "transformers.AutoTokenizer and save it again, which writes the file."
            )
        self.format = text_format
        self._specials, self._plain = _read_tokenizer(path), _read_tokenizer(path)
        self._plain.encode_special_tokens = True
        config = _read_json(directory / "tokenizer_config.json")
        self.eos_ids = self._eos_ids(directory, config)
        self.start_ids, self.end_ids = self._frame(directory, config)
        self.separator_ids = tuple(self._specials.encode(text_format.separator, add_special_tokens=False).ids)
        if text_format.separator_is_token and len(self.separator_ids) != 1:
            raise ArtifactError(
                f"The separator {text_format.separator!r} is {len(self.separator_ids)} tokens in {path}, not one. "
                "Usually the manifest belongs to another tokenizer: publish the policy again with its own."
            )
        self._token_bytes = bytes_of_tokens(self._specials)
        self._token_text = lru_cache(maxsize=65_536)(lambda token_id: self.decode((token_id,)))

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; names of special tokens inside it are spelled out, never obeyed."""
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def encode_lines(self, lines: list[str]) -> list[list[int]]:
        """Token ids of each line, as `encode` gives them, in one call."""
        return [encoding.ids for encoding in self._plain.encode_batch_fast(lines, add_special_tokens=False)]

    def encode_response(self, text: str) -> list[int]:
        """Token ids of a training response: separators become their token, and the end of sequence follows."""
        ids: list[int] = []
        for number, piece in enumerate(text.split(self.format.separator)):
            ids += (self.separator_ids if number else ()) + tuple(self.encode(piece))
        return ids + list(self.eos_ids[:1])

    def distinct(self, said: Iterable[str]) -> Distinct | None:
        """What keeps a list from saying a query twice, or one of `said`. None where the separator is no token of its own."""
        if not self.format.separator_is_token:
            return None
        forms = {form for text in said for form in (one_line(text), match_key(text)) if form}
        pieces = {tuple(self.encode(space + form)) for form in forms for space in ("", " ")}
        return Distinct(separator_id=self.separator_ids[0], said=frozenset(pieces))

    def decode(self, token_ids: tuple[int, ...] | list[int]) -> str:
        """Text of token ids, special tokens written out."""
        return str(self._specials.decode(list(token_ids), skip_special_tokens=False))

    def token_ends(self, token_ids: tuple[int, ...]) -> list[int]:
        """For each token the character of the decoded text at which it ends, (T,).

        Tokens that share a character all end where it ends.
        """
        text, pieces = self.decode(token_ids), [self._token_text(token_id) for token_id in token_ids]
        if "".join(pieces) != text:  # a character is split over tokens, or the decoder looks at neighbours
            return self._streamed_ends(token_ids, len(text))
        return list(accumulate(map(len, pieces)))

    def token_bytes(self, token_ids: Sequence[int]) -> list[bytes]:
        """The bytes of each token, (T,). Together they are the text, but for a space that a decoder leaves out in front.

        Of tokens that share a character, where the decoder does not tell its bytes, the first has it all.
        """
        if self._token_bytes is not None:
            return [self._token_bytes(token_id) for token_id in token_ids]
        text = self.decode(list(token_ids))
        ends = self._streamed_ends(tuple(token_ids), len(text))
        return [text[begin:end].encode() for begin, end in pairwise([0, *ends])]

    def _streamed_ends(self, token_ids: tuple[int, ...], length: int) -> list[int]:
        ends: list[int] = []
        total, waiting, stream = 0, 0, DecodeStream(ids=[], skip_special_tokens=False)
        for token_id in token_ids:
            waiting += 1
            if piece := stream.step(self._specials, token_id):
                total += len(piece)
                ends += [min(total, length)] * waiting
                waiting = 0
        return ends + [length] * waiting

    def _eos_ids(self, directory: Path, config: dict[str, Any]) -> tuple[int, ...]:
        generation = _read_json(directory / "generation_config.json").get("eos_token_id")
        model = _read_json(directory / "config.json").get("eos_token_id")
        named = self._token_id(config.get("eos_token"))
        found = [named] if named is not None else []
        for ids in (generation, model):
            found += ids if isinstance(ids, list) else [ids] if ids is not None else []
        return tuple(dict.fromkeys(found))

    def _token_id(self, token: Any) -> int | None:
        text = token.get("content") if isinstance(token, dict) else token
        return self._specials.token_to_id(text) if text else None

    def _frame(self, directory: Path, config: dict[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if not self.format.chat:
            bos = self._token_id(config.get("bos_token"))
            return ((bos,) if bos is not None and config.get("add_bos_token", True) else ()), ()
        before, after = _chat_halves(directory, config)
        encode = self._specials.encode
        return tuple(encode(before, add_special_tokens=False).ids), tuple(encode(after, add_special_tokens=False).ids)


def _chat_halves(directory: Path, config: dict[str, Any]) -> tuple[str, str]:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    template = chat_template(directory, config)
    if not template:
        raise ArtifactError(
            f"{directory} has no chat template, but its policy says chat. Set the manifest's `chat` to false, or "
            "save the tokenizer with its template."
        )
    values = {
        name: (value.get("content") if isinstance(value, dict) else value)
        for name, value in config.items()
        if name.endswith("_token")
    }
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    messages = [{"role": "user", "content": _CONTENT}]
    try:
        rendered = environment.from_string(template).render(messages=messages, add_generation_prompt=True, **values)
    except Exception as error:  # a template is a program, and may fail in any way
        raise ArtifactError(
            f"The chat template of {directory} cannot be rendered ({type(error).__name__}: {error}). Set the "
            "manifest's `chat` to false, or mend the template."
        ) from error
    before, content, after = rendered.partition(_CONTENT)
    if not content:
        raise ArtifactError(f"The chat template of {directory} leaves the user's message out. Mend the template.")
    return before, after


def chat_template(directory: Path, config: dict[str, Any] | None = None) -> str | None:
    """The chat template of a Hugging Face model directory, the default one where it has several; None without."""
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = (config if config is not None else _read_json(directory / "tokenizer_config.json")).get("chat_template")
    if isinstance(template, list):
        template = {item["name"]: item["template"] for item in template}.get("default")
    return template if isinstance(template, str) else None


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise ArtifactError(f"{path} cannot be read ({error}). Restore it, or save the tokenizer again.") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ArtifactError(f"{path} is no JSON ({error}). Restore it, or save the model again.") from error
    return found if isinstance(found, dict) else {}
