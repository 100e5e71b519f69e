"""What `hansa explain` says of a kind: every field that a user may write, in words, and what can be asked of it."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from hansa.api.explain import explain, explain_document
from hansa.cli.main import VERBS, hansa
from hansa.kinds.registry import all_kinds, kind_named


def test_types_are_words_and_lists_are_looked_into() -> None:
    fields = {f["path"]: f for f in explain(kind_named("SecurityGroup"))["fields"]}
    assert fields["spec.vpcRef"] | {"description": ""} == {
        "path": "spec.vpcRef", "type": "reference to VirtualPrivateCloud", "required": True, "rule": "fixed",
        "description": "",
    }  # fmt: skip
    assert fields["spec.rules"]["type"] == "list of objects" and not fields["spec.rules"]["required"]
    assert fields["spec.rules[].direction"]["type"] == "Ingress or Egress"
    assert fields["spec.rules[].remote.securityGroupRef"]["type"] == "reference to SecurityGroup"
    assert fields["spec.rules[].port"]["type"] == "whole number"
    machine = {f["path"]: f["type"] for f in explain(kind_named("VirtualMachine"))["fields"]}
    groups = "spec.networking.securityGroupSettings.securityGroupMemberRefs"
    assert machine[groups] == "list of references to SecurityGroup"
    assert machine["spec.osSettings.ssh.authorizedKeys[].value"] == "text"


def test_no_type_and_no_description_shows_python() -> None:
    for kind in explain_document()["items"]:
        assert not re.search(r"^ {2}", kind["description"], re.MULTILINE), kind["kind"]
        for field in kind["fields"]:
            assert not re.search(r"[\[\]|]|typing|hansa\.", field["type"]), field


def test_a_machine_is_told_with_what_can_be_asked_of_it() -> None:
    said = CliRunner().invoke(hansa, ["explain", "vm"]).output
    assert "called  vm, vms\n" in said and "verbs   get, describe, apply, delete\n" in said
    actions = kind_named("VirtualMachine").actions
    assert {"start", "stop", "logs", "console", "ssh"} == set(actions)
    for action in actions:
        assert re.search(rf"^ +hansa {action} NAME +{re.escape(VERBS[action][1])}$", said, re.MULTILINE)


@pytest.mark.parametrize("kind", [k.kind for k in all_kinds() if k.public])
def test_every_kind_can_be_explained(kind: str) -> None:
    done = CliRunner().invoke(hansa, ["explain", kind])
    assert done.exit_code == 0 and done.output.startswith(f"{kind}  ("), done.output


def test_an_action_without_a_command_is_a_request() -> None:
    said = CliRunner().invoke(hansa, ["explain", "credential"]).output
    accounts = "/iam/v1beta1/projects/{project}/serviceAccounts/{serviceAccount}"
    assert f"POST {accounts}/serviceAccountCredentials/{{credential}}/revoke" in said
    assert "apply" in CliRunner().invoke(hansa, ["explain", "org"]).output  # changed, though never created
    assert "verbs   get, describe\n" in CliRunner().invoke(hansa, ["explain", "zone"]).output
