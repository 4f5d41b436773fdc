"""Finds texts that are there twice: equal ones by a key, nearly equal ones by MinHash.

    seen = NearDuplicates(threshold=0.8)
    seen.add("row 1", "Find the sum of 3 and 4.")    # None: new
    seen.add("row 2", "Find  the sum of $3$ and 4")  # "row 1"
    seen.add("row 3", "Find the sum of 3 and 5.")    # None: another problem

Two texts are near duplicates where the sets of their n-grams overlap by the threshold (intersection over union,
estimated by MinHash; candidates come from datasketch's locality-sensitive hashing) and, by default, they hold the same
numbers: problems of one template differ in nothing else, and merging them would lose problems.

The n-grams are of characters. Problems are short, and one changed word takes five word 5-grams with it, a fifth of a
problem of 25 words, but only as many character 5-grams as it has letters, and four.

Hashing is the heavy part, and `signature` is pure, so worker processes can do it:

    for key, value in zip(keys, pool.map(signature, texts)):
        earlier = seen.add_signature(key, value)
"""

from __future__ import annotations

import hashlib
import zlib
from functools import cache
from typing import TYPE_CHECKING, final

import numpy as np

from redi_lab.curation.decontamination import normalised_words
from redi_lab.errors import UserError

if TYPE_CHECKING:
    from datasketch import MinHash

_SEED = 1
_SCHEME = "affine32"
_HASH_BYTES = 4
_BATCH = 4096  # n-grams that are permuted at a time: a long trace would take 128 x 50,000 numbers at once
_MISSED = 0.05


def exact_key(text: str) -> str:
    """The sha256 (hexadecimal) of the text, case folded, with every run of white space as one space."""
    return hashlib.sha256(" ".join(text.casefold().split()).encode("utf-8", "surrogatepass")).hexdigest()


def signature(text: str, num_perm: int = 128, ngram: int = 5, *, same_numbers: bool = True) -> bytes:
    """The MinHash of a text, the same on every machine and in every process.

    Args:
        text: any text; case, punctuation and LaTeX spacing do not count (see `redi_lab.curation.decontamination`).
        num_perm: hash values.
        ngram: characters in an n-gram.
        same_numbers: give texts that do not hold the same numbers, as often, signatures that agree nowhere.

    Returns:
        `num_perm` hash values of 4 bytes.
    """
    words = normalised_words(text)
    sketch = _blank(num_perm).copy()
    grams = list(_ngrams(" ".join(words), ngram))
    for start in range(0, len(grams), _BATCH):
        sketch.update_batch(grams[start : start + _BATCH])
    values = sketch.hashvalues.astype("<u4")
    if same_numbers:  # XOR with one constant keeps equal values equal, and makes others so by accident only
        numbers = sorted(word.lstrip("-+*/=<>") for word in words if word[-1].isdigit())
        values ^= np.uint32(zlib.crc32(" ".join(numbers).encode()))
    return bytes(values.tobytes())


@final
class NearDuplicates:
    """Remembers texts, and recognises later ones that nearly equal one of them.

    Args:
        threshold: the similarity from which two texts are near duplicates, above 0 and up to 1.
        num_perm: hash values of a signature. The similarity's standard error is at most 0.5/√num_perm.
        ngram: characters in an n-gram.
        same_numbers: only texts that hold the same numbers can be near duplicates. Right for problems; long traces
            hardly ever hold exactly the same numbers.

    Raises:
        UserError: an argument is out of its range.
    """

    def __init__(
        self, threshold: float = 0.8, num_perm: int = 128, ngram: int = 5, *, same_numbers: bool = True
    ) -> None:
        if not 0 < threshold <= 1:
            raise UserError(f"threshold={threshold}: must be above 0 and at most 1, e.g. 0.8")
        if num_perm < 16:
            raise UserError(f"num_perm={num_perm}: fewer than 16 hash values say nothing; 128 is the usual number")
        if ngram < 1:
            raise UserError(f"ngram={ngram}: an n-gram has at least one character; 5 is the usual number")
        from datasketch import MinHashLSH

        self.threshold = threshold
        self.num_perm = num_perm
        self.ngram = ngram
        self.same_numbers = same_numbers
        self._index = MinHashLSH(threshold=threshold, num_perm=num_perm, params=_bands(threshold, num_perm))
        self._keys: list[str] = []
        self._values: list[bytes] = []

    def add(self, key: str, text: str) -> str | None:
        """The key of the most similar earlier text if there is a near duplicate; else None, and the text is kept."""
        return self.add_signature(key, signature(text, self.num_perm, self.ngram, same_numbers=self.same_numbers))

    def add_signature(self, key: str, signature: bytes) -> str | None:
        """As `add`, with what `signature` gave for the text and the same options."""
        if len(signature) != _HASH_BYTES * self.num_perm:
            raise ValueError(f"the signature of {key} has {len(signature)} bytes, not {_HASH_BYTES * self.num_perm}")
        sketch = _restore(signature, self.num_perm)
        found: list[int] = self._index.query(sketch)
        best = max(((self._similarity(signature, place), -place) for place in found), default=None)
        if best is not None and best[0] >= self.threshold:
            return self._keys[-best[1]]
        self._index.insert(len(self._keys), sketch)
        self._keys.append(key)
        self._values.append(signature)
        return None

    def _similarity(self, signature: bytes, place: int) -> float:
        ours, theirs = (np.frombuffer(value, dtype="<u4") for value in (signature, self._values[place]))
        return float(np.count_nonzero(ours == theirs)) / self.num_perm


def _ngrams(text: str, size: int) -> set[bytes]:
    return {text[start : start + size].encode("utf-8", "replace") for start in range(max(1, len(text) - size + 1))}


@cache
def _blank(num_perm: int) -> MinHash:
    from datasketch import MinHash

    return MinHash(num_perm=num_perm, seed=_SEED, scheme=_SCHEME)


def _bands(threshold: float, num_perm: int) -> tuple[int, int]:
    """Bands and rows of the index: the longest bands in which a pair at the threshold still meets 19 times in 20.

    Longer bands give fewer candidates to check; what the index does not find is lost.
    """
    rows = [r for r in range(1, num_perm // 2 + 1) if (1 - threshold**r) ** (num_perm // r) <= _MISSED]
    longest = max(rows, default=1)
    return num_perm // longest, longest


def _restore(signature: bytes, num_perm: int) -> MinHash:
    from datasketch import MinHash

    values = np.frombuffer(signature, dtype="<u4")
    return MinHash(seed=_SEED, hashvalues=values, permutations=_blank(num_perm).permutations, scheme=_SCHEME)
