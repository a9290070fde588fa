"""The bytes that each token of a vocabulary stands for, so that text is found again in ids that a model sampled.

It knows no policy. Decoding and encoding again is no way: of 300 random sequences of ids 299 come back as others.
"""

import json
import re
from collections.abc import Callable
from functools import cache

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def bytes_of_tokens(tokenizer: Tokenizer) -> Callable[[int], bytes] | None:
    """The bytes of one token id, whatever stands around it; None for a decoder that looks at neighbours (WordPiece)."""
    decoder = json.loads(tokenizer.to_str())["decoder"] or {"type": "None"}
    kinds = {each["type"] for each in decoder.get("decoders", [decoder])}
    added = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items()}
    read = _of_byte_level if "ByteLevel" in kinds else _of_pieces if kinds & {"ByteFallback", "Metaspace"} else None
    if read is None:
        return None

    def found(token_id: int) -> bytes:
        if token_id in added:
            return added[token_id].encode()
        token = tokenizer.id_to_token(token_id)
        return read(token) if token is not None else b""

    return found


def decoded(content: bytes) -> tuple[str, list[int]]:
    """Text of bytes, and the byte at which each of its characters ends; what is no UTF-8 becomes U+FFFD."""
    text, ends, at = "", list[int](), 0
    while at < len(content):
        try:
            piece, broken = content[at:].decode(), 0
        except UnicodeDecodeError as error:
            piece, broken = content[at : at + error.start].decode(), error.end - error.start
        for character in piece:
            at += len(character.encode())
            ends.append(at)
        at += broken
        text += piece + ("\ufffd" if broken else "")
        ends += [at] if broken else []
    return text, ends


def _of_byte_level(token: str) -> bytes:
    alphabet = _alphabet()
    if all(character in alphabet for character in token):
        return bytes(alphabet[character] for character in token)
    return token.encode()


def _of_pieces(token: str) -> bytes:
    byte = _BYTE.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("\u2581", " ").encode()


@cache
def _alphabet() -> dict[str, int]:
    """The byte of each character of byte-level BPE: printable bytes stand for themselves, the others follow from 256 on."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in set(own))
    found = {chr(byte): byte for byte in own} | {chr(256 + number): byte for number, byte in enumerate(others)}
    if set(found) != set(ByteLevel.alphabet()):
        raise RuntimeError("The library's byte-level alphabet is another than this code's; pin tokenizers again.")
    return found
