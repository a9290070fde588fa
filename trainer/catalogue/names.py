"""Made-up names and phrases: what no list of real entities has, so that a model must copy instead of remember.

It knows nothing about tasks; `Random` decides everything, so a seed gives the same names for ever.
"""

import re
from random import Random

from trainer.catalogue.catalogue import Catalogue, Kind, reserved, word_runs

_ONSETS = "b c d f g h j k l m n p r s t v w z b d k l m n r s t v br ch cr dr fl gr kl pr sh st th tr qu x y".split()
_VOWELS = "a a a e e e i i i o o o u u ai ea ee ia io oo ou y".split()
_CODAS = ["", "", "", *"n r l s t x m d k nd nt rd st rk sh th ck".split()]
_SUFFIXES = "pro max mini plus lite air one se ultra xl go studio neo".split()
_SLOT = re.compile(r"\{(\w+)\}")


def made_up_name(rng: Random) -> str:
    """A name that nobody knows: words of syllables, models with numbers, hyphens and letters."""
    first = _word(rng)
    form = rng.random()
    if form < 0.30:
        return first
    if form < 0.50:
        return f"{first} {_word(rng)}"
    if form < 0.58:
        return f"{first} {_word(rng)} {_word(rng)}"
    if form < 0.76:
        return f"{first} {model_number(rng)}"
    if form < 0.82:
        return f"{first} {model_number(rng)} {rng.choice(_SUFFIXES)}"
    if form < 0.88:
        return f"{first} {rng.choice(_SUFFIXES)}"
    if form < 0.94:
        return f"{first}-{rng.choice([_word(rng), model_number(rng)])}"
    return model_number(rng) if rng.random() < 0.5 else f"{first} & {_word(rng)}"


def model_number(rng: Random) -> str:
    """What stands on a machine: "x450", "3000", "wh-1000", "7b"."""
    letters = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.choice([1, 1, 2, 2, 3])))
    digits = str(rng.randrange(10 ** rng.choice([1, 2, 2, 3, 3, 4])))
    return rng.choice([letters + digits, digits, f"{letters}-{digits}", digits + letters[:1], f"{letters} {digits}"])


def unseen_name(catalogue: Catalogue, kind: Kind, rng: Random, *, for_evaluation: bool = False) -> str:
    """A new name for an entity of `kind` that is reserved for evaluation, or for training, never both.

    None of them spells a held-out entity.
    """
    while True:
        name = _phrase(catalogue, kind, rng)
        if reserved(name) == for_evaluation and catalogue.held_out.isdisjoint(word_runs(name)):
            return name


def _phrase(catalogue: Catalogue, kind: Kind, rng: Random) -> str:
    if kind.generic:
        patterns: dict[str, list[str]] = catalogue.parts["patterns"]  # type: ignore[assignment]
        return _SLOT.sub(lambda slot: _part(catalogue, slot[1], rng), rng.choice(patterns[kind.name]))
    form = rng.random()
    if form < 0.60:
        return made_up_name(rng)
    known = rng.choice(kind.training)
    if form < 0.75:
        return f"{rng.choice(catalogue.parts['adjective'])} {known}"
    if form < 0.85:
        return f"{known} {rng.choice([made_up_name(rng), model_number(rng), _word(rng)])}"
    return " ".join(rng.choice(rng.choice(kind.training).split()) for _ in range(rng.choice([2, 2, 3])))


def _part(catalogue: Catalogue, slot: str, rng: Random) -> str:
    if slot == "name":
        return made_up_name(rng)
    return model_number(rng) if slot == "model" else rng.choice(catalogue.parts[slot])


def _word(rng: Random) -> str:
    if rng.random() < 0.06:
        return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 7)))
    syllables = rng.choice([1, 2, 2, 2, 3, 3])
    word = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(syllables))
    if rng.random() < 0.3:
        word += rng.choice(_CODAS) + rng.choice(_ONSETS[:18]) + rng.choice(_VOWELS)[:1]
    return word + rng.choice(_CODAS)
