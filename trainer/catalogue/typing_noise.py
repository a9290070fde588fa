"""What fingers make of a query: a dropped small word, swapped or missing letters. Responses stay clean.

It knows nothing about tasks or kinds.
"""

from random import Random

_SMALL = frozenset("a an the of for to in on is are do does my i you should what how".split())


def as_typed(query: str, entity: str, rng: Random, *, share: float = 0.12) -> str:
    """`query` as a person may type it; the words of `entity` stay, since nobody could guess them back."""
    if rng.random() >= share:
        return query
    words, kept = query.split(" "), set(entity.split(" "))
    places = [i for i, word in enumerate(words) if word not in kept]
    if not places:
        return query
    place = rng.choice(places)
    if words[place] in _SMALL:
        del words[place]
    elif len(words[place]) > 3:
        words[place] = _slip(words[place], rng)
    return " ".join(words) or query


def _slip(word: str, rng: Random) -> str:
    i = rng.randrange(1, len(word) - 1)
    return rng.choice(
        [word[:i] + word[i + 1] + word[i] + word[i + 2 :], word[:i] + word[i + 1 :], word[:i] + word[i] + word[i:]]
    )
