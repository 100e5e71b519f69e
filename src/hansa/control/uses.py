"""What has one user at a time: a disk, a public address. The user is a machine, or an attachment.

The claim stands from the user's first commit on, and goes with its row.
"""

from __future__ import annotations

from collections.abc import Iterable

from hansa.control.world import World
from hansa.errors import InUse
from hansa.kinds.resource import AnyResource
from hansa.store.port import Claim


async def use_claims(user: AnyResource, used: Iterable[AnyResource], world: World) -> tuple[Claim, ...]:
    """The claims that make things the user's own. Raises InUse naming the one who has one of them."""
    claims = []
    for thing in used:
        claim = Claim(f"uses/{thing.uid}", "machine", note=f"{user.kind} {user.name}")
        for held in await world.store.claims(claim.scope):
            if held.owner != user.uid:
                raise InUse(f"InUse: {thing.key} is used by {held.claim.note}")
        claims.append(claim)
    return tuple(claims)
