"""What `hansa ssh` reads from a console and says of a key that is refused."""

from __future__ import annotations

from pathlib import Path

from hansa.cli.ssh import arguments, host_keys, refused

PRINTED = (
    "boot\r\n-----BEGIN SSH HOST KEY KEYS-----\r\nssh-ed25519 {key} root@web\r\n-----END SSH HOST KEY KEYS-----\r\n"
)


def test_the_keys_that_the_guest_printed_last_are_the_ones() -> None:
    assert host_keys(PRINTED.format(key="old") + PRINTED.format(key="new")) == ["ssh-ed25519 new"]
    assert host_keys("nothing yet") == []


def test_the_client_asks_nothing_and_knows_whom_it_speaks_to() -> None:
    words = arguments(2022, "key", Path("/known"), "hansa-1", ["uname", "-a"])
    assert words[0] == "ssh" and words[-3:] == ["evroc-user@127.0.0.1", "uname", "-a"]
    assert {"BatchMode=yes", "StrictHostKeyChecking=yes", "HostKeyAlias=hansa-1", "IdentitiesOnly=yes"} <= set(words)


def test_a_refused_key_is_told_with_what_user_data_does_to_keys() -> None:
    plain = refused({"spec": {"osSettings": {"ssh": {}}}}, "vm/web")
    assert plain == "vm/web refuses the key: give the one of spec.osSettings.ssh with -i"
    assert "users: [default]" in refused({"spec": {"osSettings": {"cloudInitUserData": "#!/bin/sh"}}}, "vm/web")
    assert refused({"spec": {}}, "vm/web") == plain
