"""Law as data: where a project's or an organisation's things may be. Later issues widen the spec."""

from __future__ import annotations

from pydantic import Field, field_validator

from hansa.kinds.resource import Resource, Spec, Status


class SovereigntyPolicySpec(Spec):
    territories: list[str] = Field(min_length=1, max_length=64)

    @field_validator("territories")
    @classmethod
    def _countries(cls, codes: list[str]) -> list[str]:
        for code in codes:
            if len(code) != 2 or not code.isalpha() or not code.isupper():
                raise ValueError(f'"{code}" is no country: two capital letters of ISO 3166-1, as in "SE"')
        return codes


class SovereigntyPolicy(
    Resource[SovereigntyPolicySpec, Status],
    service="sovereignty", version="v1", collection="sovereigntyPolicies", scope="projects/{project}",
    also=("organizations/{organization}",), short=("policy", "policies"),
    columns=(("TERRITORIES", "spec.territories"),),
):  # fmt: skip
    """The countries in which anything of this project or organisation may be. Several policies: all hold."""
