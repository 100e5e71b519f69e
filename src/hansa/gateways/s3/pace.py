"""How many requests projects and organisations are served in a second: a bucket of tokens for each, refilled as time goes.

In memory, for this process only. The gateways of a cloud share a rate evenly: each grants what it is divided by their
number, so that all of them together never grant more, and who keeps to one connection meets one share.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from hansa.gateways.s3.ports import Rate
from hansa.gateways.s3.wire.errors import S3Error

HOLDERS_MAX = 10_000
WAIT_MAX_S = 60  # what a client is told at most
_WORDS = {
    "project": "The project may ask {} times a second.",
    "organization": "The projects of the organisation may ask {} times a second together.",
}
_Holder = tuple[str, str, bool]  # kind and name, and whether it is the crowd at the door


class Pace:
    """One for the process. `processes`: how many serve side by side."""

    def __init__(self, processes: int = 1) -> None:
        self._processes = processes
        self._left: OrderedDict[_Holder, tuple[float, float]] = OrderedDict()  # → tokens, when they were counted

    def take(self, rates: Sequence[Rate], at: float, *, crowd: bool = False) -> None:
        """One request that counts against all of these. `at` is seconds of any clock that does not go back; `crowd`:
        nobody signed it, and such are counted apart.

        Raises SlowDown when more was asked than one of them allows, bursts of a second apart; then none is counted.
        """
        if not rates:
            return
        left = [(rate, self._counted(rate, at, crowd)) for rate in rates]
        for rate, tokens in left:
            if tokens < 1.0:
                raise self._too_fast(rate, tokens)
        for rate, tokens in left:
            holder = (rate.kind, rate.name, crowd)
            self._left[holder] = (tokens - 1.0, at)
            self._left.move_to_end(holder)  # forgotten is who has not been served for longest
        while len(self._left) > HOLDERS_MAX:
            self._left.popitem(last=False)

    def _counted(self, rate: Rate, at: float, crowd: bool) -> float:
        """The tokens that are left at this moment."""
        share = rate.per_s / self._processes
        most = max(1.0, share) if share else 0.0
        tokens, since = self._left.get((rate.kind, rate.name, crowd), (most, at))
        return min(most, tokens + (at - since) * share)

    def _too_fast(self, rate: Rate, tokens: float) -> S3Error:
        share = rate.per_s / self._processes
        wait_s = min(WAIT_MAX_S, max(1, math.ceil((1.0 - tokens) / share))) if share else WAIT_MAX_S
        error = S3Error.of("SlowDown", _WORDS[rate.kind].format(rate.per_s))
        return error.with_headers({"retry-after": str(wait_s)})
