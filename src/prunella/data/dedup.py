"""Near duplicates: pictures whose perceptual hashes differ in few bits."""

import itertools

from prunella.data.images import HASH_BITS


class DuplicateFinder:
    """Remembers perceptual hashes and tells whether a new one lies within `distance` bits of an earlier one.

    Two hashes that differ in d bits agree in at least one of d + 1 bands, so only hashes that share a band are
    compared: for a million pictures and 7 bits about 120.
    """

    def __init__(self, distance: int):
        self.distance = distance
        edges = [HASH_BITS * i // (distance + 1) for i in range(distance + 2)]
        self.bands = [(low, (1 << high - low) - 1) for low, high in itertools.pairwise(edges)]
        self.tables: list[dict[int, list[int]]] = [{} for _ in self.bands]

    def check_and_add(self, value: int) -> bool:
        """Whether `value` is near an earlier one; it is remembered if not."""
        entries = [(table, value >> low & mask) for table, (low, mask) in zip(self.tables, self.bands, strict=True)]
        for table, band in entries:
            if any((value ^ other).bit_count() <= self.distance for other in table.get(band, ())):
                return True
        for table, band in entries:
            table.setdefault(band, []).append(value)
        return False
