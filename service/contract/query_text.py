"""The two forms of a query: how it may be shown, and how it is compared.

It knows nothing about users, tasks or models.
"""

import hashlib
import re
import unicodedata

_SPACES = re.compile(r"\s+")
# Cc control, Cf format (zero-width, bidi), Cs surrogate, Co private use, Cn unassigned: none is ever part of a query.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})


class _Visible(dict[int, int]):
    """A table for `str.translate` that is filled as characters are met."""

    def __missing__(self, code: int) -> int:
        self[code] = ord(" ") if unicodedata.category(chr(code)) in _UNSEEN else code
        return self[code]


_VISIBLE = _Visible()


def one_line(text: str) -> str:
    """`text` as one visible line: NFKC, unseen characters and line breaks become single spaces."""
    if text.isascii() and text.isprintable():
        return text.strip() if "  " not in text else _SPACES.sub(" ", text).strip()
    return _SPACES.sub(" ", unicodedata.normalize("NFKC", text).translate(_VISIBLE)).strip()


def match_key(text: str) -> str:
    """The form under which two queries are the same: one line, case folded, no final punctuation."""
    return one_line(text).casefold().rstrip("?!. ")


def query_id(key: str) -> int:
    """The number that stands for all queries with the match key `key`, signed and of 64 bits.

    The first eight bytes of BLAKE2b. Among a billion queries two share one with a probability of 3 %.
    """
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big", signed=True)
