"""The catalogue is named after what stands behind it."""

from __future__ import annotations

from hansa.data import catalogue
from hansa.engines.qemu.images import RECIPES


def test_an_image_is_named_after_the_recipe_of_its_family() -> None:
    found = catalogue.images(stand_ins=True)
    assert {family for _, family in found.values()} == set(RECIPES)
    for name, (document, family) in found.items():
        recipe, size = RECIPES[family], document["defaultSize"]
        assert (document["osImage"], document["osVersion"]) == (recipe.os_image, recipe.os_version), name
        assert size["unit"] == "GB" and size["amount"] * 10**9 == recipe.default_bytes, name


def test_a_stand_in_says_which_image_it_is_not() -> None:
    for name in catalogue.IMAGES:
        document, _ = catalogue.images(stand_ins=True)[name]
        assert name in document["description"] and "Stands in" in document["description"]


def test_without_stand_ins_what_cannot_be_had_boots_nothing() -> None:
    found = catalogue.images(stand_ins=False)
    assert {name for name, (_, family) in found.items() if not family} == set(catalogue.IMAGES)
    for name in catalogue.IMAGES:
        assert found[name][0]["osImage"] == "unavailable" and "Not imported" in found[name][0]["description"]
