"""Addresses of `hansa bucket`: `s3://BUCKET/KEY` beside names of files, read and completed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from hansa.errors import HansaError

SCHEME = "s3://"
LIMIT_S = 1.0
NAMES_MAX = 500


@dataclass(frozen=True, slots=True)
class Address:
    """A bucket, or what is below a key in it."""

    bucket: str
    key: str = ""

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}"


def is_address(text: str) -> bool:
    return text.startswith(SCHEME)


def address_of(text: str) -> Address:
    """`s3://BUCKET[/KEY]`, or `BUCKET[/KEY]` where no file can be meant. Raises UsageError."""
    bucket, _, key = text.removeprefix(SCHEME).partition("/")
    if not bucket:
        raise click.UsageError(f"{text!r} names no bucket: s3://BUCKET[/KEY]")
    return Address(bucket, key)


class AddressWord(click.ParamType[str]):
    """`buckets`: of buckets alone; `files`: names of files too."""

    name = "address"

    def __init__(self, *, buckets: bool = False, files: bool = False) -> None:
        self.buckets, self.files = buckets, files

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if self.files and not is_address(text) and "://" in text:
            self.fail(f"{text!r} is neither a file nor s3://BUCKET/KEY", param, ctx)
        return text

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        if self.files and not is_address(incomplete):
            return [CompletionItem(incomplete, type="file")]
        from hansa.cli.completion import Late, within

        try:
            with within(LIMIT_S):
                return [CompletionItem(word) for word in self._words(ctx.params.get("data"), incomplete)]
        except (HansaError, OSError, ValueError, Late):
            return []

    def _words(self, data: Path | None, incomplete: str) -> list[str]:
        from hansa.cli.bucket import s3_of

        s3, (bucket, slash, key) = s3_of(data), incomplete.removeprefix(SCHEME).partition("/")
        if not slash or self.buckets:
            ending = "" if self.buckets else "/"
            return [f"{SCHEME}{name}{ending}" for name, _ in s3.buckets() if name.startswith(bucket)][:NAMES_MAX]
        page = s3.page(bucket, key, "/")
        found = [*page.prefixes, *(each.key for each in page.objects)]
        return [str(Address(bucket, each)) for each in found][:NAMES_MAX]
