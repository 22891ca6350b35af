"""Everything a decision looks at, computed once: candidates, open edits, beliefs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from nightlab.agents.policy.archive import Archive
from nightlab.agents.policy.decisions import Head
from nightlab.agents.policy.evidence import Evidence
from nightlab.agents.policy.interface import Context
from nightlab.agents.policy.puct import blocked, puct, shortlist
from nightlab.agents.policy.surrogate import Kernel, Surrogate
from nightlab.errors import UsageError

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
Mask = NDArray[np.bool_]

CANDIDATES = 20
"""Parents on the list of one decision."""


@dataclass(frozen=True)
class Edits:
    """Every (part, variant) of the menu at some programs; arrays of shape (programs, pairs)."""

    open: Mask
    """Allowed: changes the program, is not closed, repeats nothing in the archive."""
    mean: Floats
    """Foretold rank score; 0 where nothing is foretold."""
    deviation: Floats
    gain: Floats
    """Expected improvement over the best program, in rank scores; 0 where closed."""


class Situation:
    """One decision's view of a campaign. Rows are candidates, pairs are (part, variant)."""

    def __init__(self, context: Context, kernel: Kernel | None) -> None:
        archive = context.archive
        valid = archive.valid_rows()
        if not valid:
            raise UsageError("The policy needs at least one measured program to start from.")
        self.context = context
        self.archive: Archive = archive
        self.evidence = Evidence(archive)
        parts = archive.menu.parts
        self.pairs = [(part.name, variant) for part in parts for variant in part.variants]
        self.pair_part = np.repeat(np.arange(len(parts)), [len(part.variants) for part in parts])
        self.pair_code = np.concatenate(
            [np.arange(len(part.variants)) for part in parts] or [np.zeros(0, np.int64)]
        ).astype(np.int64)
        self._place = {pair: place for place, pair in enumerate(self.pairs)}
        self._weights = _hash_weights(len(parts))
        self._keys = self._hash(np.array(list(archive.seen), dtype=np.int64))
        self.authors = self._authors()
        self._wanted = self._wanted_pairs()
        scores = puct(archive, valid)
        free = self._reachable(valid)
        picked = shortlist(archive, scores[free], [valid[at] for at in free], CANDIDATES)
        picked = [free[at] for at in picked]
        self.rows = [valid[position] for position in picked]
        self.puct: Floats = scores[picked]
        self.rewards = archive.rewards(self.rows)
        self.all_rewards = archive.rewards(valid)
        self.spread = self.evidence.spread
        self.surrogate = None if kernel is None else Surrogate.of(archive, kernel, context.noise)
        self.codes: Codes = np.array([archive.codes[row] for row in self.rows], dtype=np.int64)
        self.belief = self._parents()
        self.best = float(self.belief[0].max())
        self.edits = self.at(self.codes, [archive.attempts[row].id for row in self.rows])
        self.parent_mask = self._parent_mask()

    def at(self, codes: Codes, ids: list[str]) -> Edits:
        """All edits of some programs; ``ids`` names them for the lookup of closed pairs."""
        is_open = self._open(codes, ids)
        mean = np.zeros(is_open.shape)
        deviation = np.ones(is_open.shape)
        gain = np.zeros(is_open.shape)
        if self.surrogate is not None and is_open.any():
            at_row, at_pair = np.nonzero(is_open)
            changed = codes[at_row]
            changed[np.arange(len(at_pair)), self.pair_part[at_pair]] = self.pair_code[at_pair]
            belief = self.surrogate.predict(changed)
            mean[is_open], deviation[is_open] = belief.mean, belief.deviation
            gain[is_open] = improvement(belief.mean, belief.deviation, self.best)
        return Edits(is_open, mean, deviation, gain)

    def allowed(self, head: Head, options: list[str], mask: Mask) -> Mask:
        """The mask under a person's restriction, unless that leaves nothing."""
        only = self.context.only.get(head)
        if only is None:
            return mask
        narrowed: Mask = mask & np.array([option in only for option in options], dtype=np.bool_)
        return narrowed if narrowed.any() else mask

    def _open(self, codes: Codes, ids: list[str]) -> Mask:
        """Pairs that can change a program into one that the archive does not hold."""
        now = codes[:, self.pair_part]
        with np.errstate(over="ignore"):
            shift = (self.pair_code - now) * self._weights[self.pair_part]
            keys = self._hash(codes)[:, None] + shift
        is_open: Mask = (now != self.pair_code) & ~np.isin(keys, self._keys) & self._wanted
        for row, name in enumerate(ids):
            closed = self.context.closed.get(name)
            if closed:
                is_open[row, [self._place[pair] for pair in closed if pair in self._place]] = False
        return is_open

    def _reachable(self, valid: list[int]) -> list[int]:
        """Positions of the programs that something can still be done to; all where none is."""
        if self._asked():
            return list(range(len(valid)))
        codes = np.array([self.archive.codes[row] for row in valid], dtype=np.int64)
        ids = [self.archive.attempts[row].id for row in valid]
        free = np.flatnonzero(self._open(codes, ids).any(axis=1)).tolist()
        if not free and not self._wanted.all():
            self._wanted = np.ones(len(self.pairs), dtype=np.bool_)
            return self._reachable(valid)
        if not free:
            raise UsageError("Everything one edit away from a measured program has been tried.")
        return list(free)

    def _authors(self) -> frozenset[str]:
        """Authors that can be asked and that a directive allows (unless it leaves none)."""
        able = frozenset(self.archive.menu.authors) - self.context.closed_authors
        return able & self.context.only.get(Head.AUTHOR, able) or able

    def _wanted_pairs(self) -> Mask:
        """Pairs that a directive allows; dropped where it would leave nothing to do."""
        parts = self.context.only.get(Head.PART)
        variants = self.context.only.get(Head.VARIANT)
        wanted = [
            (parts is None or part in parts) and (variants is None or variant in variants)
            for part, variant in self.pairs
        ]
        return np.array(wanted, dtype=np.bool_) if any(wanted) else np.ones(len(wanted), np.bool_)

    def _asked(self) -> bool:
        """Whether an author can be asked that is not bound to the menu."""
        return bool(self.authors - {"catalogue"})

    def _parents(self) -> tuple[Floats, Floats]:
        if self.surrogate is None:
            deviation = float(self.all_rewards.std()) or 1.0
            mean = (self.rewards - self.all_rewards.mean()) / deviation
            return mean, np.full(len(self.rows), 0.1)
        belief = self.surrogate.predict(self.codes)
        return belief.mean, belief.deviation

    def _parent_mask(self) -> Mask:
        mask: Mask = np.asarray(self.edits.open.any(axis=1), dtype=np.bool_)
        if self._asked():
            mask = np.ones(len(self.rows), dtype=np.bool_)
        family = blocked(self.archive)
        outside: Mask = np.array([row not in family for row in self.rows], dtype=np.bool_)
        unblocked: Mask = np.logical_and(mask, outside)
        return unblocked if unblocked.any() else mask

    def _hash(self, codes: Codes) -> Codes:
        """A 64-bit key per program (last axis = parts)."""
        with np.errstate(over="ignore"):
            keys: Codes = ((codes + 2) * self._weights).sum(axis=-1)
        return keys


def _hash_weights(parts: int) -> Codes:
    """Odd 64-bit factors, the same in every process."""
    rng = np.random.Generator(np.random.PCG64(0))
    weights: Codes = rng.integers(1, 2**62, size=parts, dtype=np.int64) * 2 + 1
    return weights


def improvement(mean: Floats, deviation: Floats, best: float) -> Floats:
    """Expected improvement over ``best`` of a normal belief, shape kept."""
    z = (mean - best) / deviation
    density = np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi)
    result: Floats = deviation * (z * ndtr(z) + density)
    return np.maximum(result, 0.0)
