"""The catalogues of the contract (3.1.1 and 3.1.2): profiles and published images.

What an image is named after is what boots: `osImage` and `osVersion` are those of the family that stands behind it.
"""

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
TINY, DEBIAN = ("tiny", "1", 1), ("debian", "12", 10)  # family and system, its version, the size of a disk in GB


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
    found = {
        "tiny.1": (_image(TINY, "The tiny test guest: busybox, dropbear and Debian's kernel."), TINY[0]),
        "debian.12-1": (_image(DEBIAN, "Debian 12 with cloud-init, built here from Debian's packages."), DEBIAN[0]),
    }
    for name in IMAGES:
        if stand_ins:
            found[name] = (_image(DEBIAN, f"Stands in for {name}: this is Debian 12, not that image."), DEBIAN[0])
        else:
            said = f"Not imported: {name} cannot be had here, and stand-ins are switched off."
            found[name] = (_image(("unavailable", "0", DEBIAN[2]), said), "")
    return found


def _image(system: tuple[str, str, int], description: str) -> Document:
    os_image, os_version, amount = system
    return {"osImage": os_image, "osVersion": os_version, "version": 1,
            "defaultSize": {"amount": amount, "unit": "GB"}, "osArch": "amd64", "description": description}  # fmt: skip
