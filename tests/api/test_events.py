"""The events of a project, asked for again and again: none is missed and none comes twice."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Talk

pytestmark = pytest.mark.anyio
EVENTS = "/events/v1/projects/demo"
BLANK = {"diskSize": {"amount": 1, "unit": "GB"}, "placement": {"zone": "a"}}


async def polled(talk: Talk, after: int, limit: int) -> list[int]:
    """All revisions after one, as a polling client comes by them."""
    seen: list[int] = []
    for _ in range(200):
        page = await talk.read(f"{EVENTS}?after={after}&limit={limit}")
        seen += [event["revision"] for event in page["items"]]
        if page["revision"] == after:
            return seen
        after = page["revision"]
    raise AssertionError("it never comes to an end")


async def at_rest(talk: Talk, cloud: Any) -> int:
    for name in ("d1", "d2", "d3"):
        await talk.make(talk.at("disks"), name, BLANK)
        await talk.until(talk.at(f"disks/{name}"))
    return int(await cloud.store.revision())


async def test_small_pages_tell_every_event_once(talk: Talk, cloud: Any) -> None:
    last = await at_rest(talk, cloud)
    whole = [e["revision"] for e in (await talk.read(f"{EVENTS}?after=0&limit=500"))["items"]]
    assert whole and max(whole) <= last
    assert [n for n in await polled(talk, 0, 2) if n <= last] == whole


@pytest.mark.parametrize("question", ["", "?after=0&limit=500"])
async def test_what_is_written_while_a_page_is_read_comes_with_the_next(
    question: str, talk: Talk, cloud: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await at_rest(talk, cloud)
    changes, late = type(cloud.store).changes, []

    async def slow(*words: Any, **more: Any) -> Any:
        page = await changes(*words, **more)
        if "scope" not in more:  # somebody else's question
            return page
        monkeypatch.setattr(type(cloud.store), "changes", changes)
        late.append(await talk.make(talk.at("disks"), "late", BLANK))
        return page

    monkeypatch.setattr(type(cloud.store), "changes", slow)
    first = await talk.read(EVENTS + question)
    assert late and "late" not in {e["id"] for e in first["items"]}
    then = await talk.read(f"{EVENTS}?after={first['revision']}&limit=500")
    assert ("late", "create") in {(e["id"], e["act"]) for e in then["items"]}
    revisions = [e["revision"] for page in (first, then) for e in page["items"]]
    assert len(revisions) == len(set(revisions))
