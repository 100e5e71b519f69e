"""How many requests of one project are served in a second: a bucket of tokens for each, refilled as time goes.

In memory, for this process only; what a project may do in all is this times the number of processes.
"""

from __future__ import annotations

from collections import OrderedDict

from hansa.gateways.s3.wire.errors import S3Error

PROJECTS_MAX = 10_000


class Pace:
    """`at` is seconds of any clock that does not go back."""

    def __init__(self) -> None:
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # project → tokens, when they were counted

    def take(self, project: str, per_s: int, at: float) -> None:
        """Raises SlowDown when the project has asked for more than `per_s` a second, bursts of a second apart."""
        left, since = self._left.get(project, (float(per_s), at))
        left = min(float(per_s), left + (at - since) * per_s)
        if left < 1.0:
            self._left[project] = (left, at)
            raise S3Error.of("SlowDown", f"The project may ask {per_s} times a second.").with_headers(
                {"retry-after": "1"}
            )
        self._left[project] = (left - 1.0, at)
        self._left.move_to_end(project)  # forgotten is who has not asked for longest
        if len(self._left) > PROJECTS_MAX:
            self._left.popitem(last=False)
