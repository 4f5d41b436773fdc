"""Finds texts that are there twice: equal ones by a hash, nearly equal ones by MinHash.

    seen = SeenTexts("problem", threshold=0.8)
    seen.reason_to_drop(text_key("Find the sum of 3 and 4.", "near"))    # None: new
    seen.reason_to_drop(text_key("Find  the sum of $3$ and 4", "near"))  # "near duplicate of an earlier problem"
    seen.reason_to_drop(text_key("Find the sum of 3 and 5.", "near"))    # None: another problem

Two texts are near duplicates where the sets of their n-grams overlap by the threshold (intersection over union,
estimated by MinHash; candidates come from datasketch's locality-sensitive hashing) and, by default, they hold the same
numbers: problems of one template differ in nothing else, and merging them would lose problems.

The n-grams are of characters. Problems are short, and one changed word takes five word 5-grams with it, a fifth of a
problem of 25 words, but only as many character 5-grams as it has letters, and four.

Hashing is the expensive part, and `text_key` is pure, so worker processes can do it.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal, final

import numpy as np

from redi_lab.curation.decontamination import normalised_words

if TYPE_CHECKING:
    from datasketch import MinHash, MinHashLSH

Duplicates = Literal["keep", "exact", "near"]

NUM_HASHES = 128  # of 4 bytes; the standard error of a similarity is at most 0.5/√128
_NGRAM = 5
_SEED = 1
_SCHEME = "affine32"
_BATCH = 4096  # n-grams that are permuted at a time: a long trace would take 128 x 50,000 numbers at once
_MISSED = 0.05


@final
@dataclass(frozen=True, slots=True)
class TextKey:
    """What two texts are compared by: a hash, and the MinHash signature if near duplicates are looked for."""

    exact: str
    near: bytes | None


def text_key(text: str, how: Duplicates, *, same_numbers: bool = True) -> TextKey | None:
    """The key of a text; None where duplicates are kept.

    Args:
        text: Any text. Exact duplicates may differ in case and white space.
        how: What counts as a duplicate.
        same_numbers: Only texts that hold the same numbers can be near duplicates. Right for problems; long traces
            hardly ever hold exactly the same numbers.
    """
    if how == "keep":
        return None
    exact = hashlib.sha256(" ".join(text.casefold().split()).encode("utf-8", "surrogatepass")).hexdigest()
    return TextKey(exact, signature(text, same_numbers=same_numbers) if how == "near" else None)


def signature(text: str, *, same_numbers: bool = True) -> bytes:
    """The MinHash of a text, `NUM_HASHES` values of 4 bytes, the same on every machine and in every process.

    Args:
        text: Any text; case, punctuation and LaTeX spacing do not count (see `redi_lab.curation.decontamination`).
        same_numbers: Give texts that do not hold the same numbers, as often, signatures that agree nowhere.
    """
    words = normalised_words(text)
    joined = " ".join(words)
    places = range(max(1, len(joined) - _NGRAM + 1))
    grams = list({joined[start : start + _NGRAM].encode("utf-8", "replace") for start in places})
    sketch = _blank().copy()
    for start in range(0, len(grams), _BATCH):
        sketch.update_batch(grams[start : start + _BATCH])
    values = sketch.hashvalues.astype("<u4")
    if same_numbers:  # XOR with one constant keeps equal values equal, and makes others so by accident only
        numbers = sorted(word.lstrip("-+*/=<>") for word in words if word[-1].isdigit())
        values ^= np.uint32(zlib.crc32(" ".join(numbers).encode()))
    return bytes(values.tobytes())


def similarity(left: bytes, right: bytes) -> float:
    """The share of n-grams that two texts have in common, estimated from their signatures."""
    agree = np.frombuffer(left, dtype="<u4") == np.frombuffer(right, dtype="<u4")
    return float(np.count_nonzero(agree)) / NUM_HASHES


@final
class SeenTexts:
    """Remembers texts, and recognises later ones that repeat one of them.

    Memory: a hash for each text, and about 7 KB more where near duplicates are looked for.

    Args:
        what: What the texts are, for the reason.
        threshold: The similarity from which two texts are near duplicates, above 0 and up to 1.
    """

    def __init__(self, what: str, threshold: float) -> None:
        self._what = what
        self._threshold = threshold
        self._exact: set[str] = set()
        self._index: MinHashLSH | None = None
        self._signatures: list[bytes] = []

    def reason_to_drop(self, key: TextKey | None) -> str | None:
        """Why the text is a repetition; otherwise it is remembered, and None returned."""
        if key is None:
            return None
        if key.exact in self._exact:
            return f"duplicate of an earlier {self._what}"
        if key.near is not None and self._is_near(key.near):
            return f"near duplicate of an earlier {self._what}"
        self._exact.add(key.exact)
        return None

    def _is_near(self, signature: bytes) -> bool:
        """Whether an earlier signature is similar; otherwise this one is remembered."""
        from datasketch import MinHash, MinHashLSH

        if self._index is None:
            self._index = MinHashLSH(threshold=self._threshold, num_perm=NUM_HASHES, params=_bands(self._threshold))
        values = np.frombuffer(signature, dtype="<u4")
        sketch = MinHash(seed=_SEED, hashvalues=values, permutations=_blank().permutations, scheme=_SCHEME)
        for place in self._index.query(sketch):
            if similarity(signature, self._signatures[place]) >= self._threshold:
                return True
        self._index.insert(len(self._signatures), sketch)
        self._signatures.append(signature)
        return False


@cache
def _blank() -> MinHash:
    from datasketch import MinHash

    return MinHash(num_perm=NUM_HASHES, seed=_SEED, scheme=_SCHEME)


def _bands(threshold: float) -> tuple[int, int]:
    """Bands and rows of the index: the longest bands in which a pair at the threshold still meets 19 times in 20.

    Longer bands give fewer candidates to check; what the index does not find is lost.
    """
    rows = [r for r in range(1, NUM_HASHES // 2 + 1) if (1 - threshold**r) ** (NUM_HASHES // r) <= _MISSED]
    longest = max(rows, default=1)
    return NUM_HASHES // longest, longest
