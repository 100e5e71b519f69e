"""The catalogues of the contract (3.1.1 and 3.1.2): profiles and published images."""

from __future__ import annotations

from hansa.kinds.resource import Document

_PLAIN = {
    "a1a": {"xs": (1, 4), "s": (2, 8), "m": (4, 16), "l": (8, 32), "xl": (16, 64), "2xl": (32, 128)},
    "c1a": {"s": (2, 4), "m": (4, 8), "l": (8, 16), "xl": (16, 32), "2xl": (32, 64)},
    "m1a": {"s": (2, 16), "m": (4, 32), "l": (8, 64), "xl": (16, 128)},
}
_GPU = {
    "gn-l40s": ("L40S", {"s": (15, 198, 1, 3800), "m": (30, 396, 2, 7600), "l": (60, 792, 4, 15200)}),
    "gn-b200": ("B200", {"s": (26, 262, 1, 4000), "m": (52, 524, 2, 8000), "l": (104, 1048, 4, 16000),
                         "xl": (208, 2096, 8, 32000)}),
}  # fmt: skip

IMAGES = (
    "ubuntu-minimal.24-04.1", "ubuntu.24-04.1", "ubuntu.22-04.1", "rocky.10-1.1", "rocky.10-0.1", "rocky.9-6.1",
    "rocky.9-5.1", "rocky.8-10.1", "opensuse.15-6.1", "opensuse.15-5.1", "sles.15-6.1", "sles.15-5.1",
    "sl-micro.6-1.1",
)  # fmt: skip
TINY_BYTES = 1  # GB


def profiles() -> dict[str, Document]:
    """Every compute profile by id. `t1.nano` is ours: what a tiny guest needs."""
    found: dict[str, Document] = {"t1.nano": _profile(1, 128, "MB"), "t1.micro": _profile(1, 512, "MB")}
    for family, sizes in _PLAIN.items():
        found |= {f"{family}.{size}": _profile(vcpus, memory, "GB") for size, (vcpus, memory) in sizes.items()}
    for family, (model, shapes) in _GPU.items():
        for size, (vcpus, memory, count, local) in shapes.items():
            gpus = {"model": model, "quantity": count, "localDisk": local}
            found[f"{family}.{size}"] = {**_profile(vcpus, memory, "GB"), "gpus": gpus}
    return found


def _profile(vcpus: int, memory: int, unit: str) -> Document:
    return {"vCPUs": vcpus, "memory": {"amount": memory, "unit": unit}, "processorArchitecture": "amd64"}


def images(*, stand_ins: bool) -> dict[str, tuple[Document, str]]:
    """Every image by id, with the family that really boots ("" when nothing does)."""
    found = {"tiny.1": (_tiny("The tiny test guest: busybox, dropbear and Debian's kernel."), "tiny")}
    for name in IMAGES:
        if stand_ins:
            found[name] = (_tiny(f"Stands in for {name}: this is the tiny test guest, not that image."), "tiny")
        else:
            said = f"Not imported: {name} cannot be had here, and stand-ins are switched off."
            found[name] = ({**_tiny(said), "osImage": "unavailable", "osVersion": "0"}, "")
    return found


def _tiny(description: str) -> Document:
    return {"osImage": "tiny", "osVersion": "1", "version": 1, "defaultSize": {"amount": TINY_BYTES, "unit": "GB"},
            "osArch": "amd64", "description": description}  # fmt: skip
