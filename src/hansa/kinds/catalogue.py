"""Imports every module that declares kinds, so that the registry is whole; and names what is not built yet."""

from __future__ import annotations

from hansa.kinds import bindings, compute, fleet, iam, networking, quotas, sovereignty, storage
from hansa.kinds.compute import REGIONAL
from hansa.kinds.iam import PROJECT
from hansa.kinds.registry import unbuilt

MODULES = (bindings, compute, fleet, iam, networking, quotas, sovereignty, storage)

unbuilt("loadbalancer", "v1alpha1", REGIONAL, "loadBalancers", "backendPools", "backendServices", "l4Routes", reason="load balancers are not built yet")  # fmt: skip
unbuilt("storage", "v1", REGIONAL, "fileStores", reason="file storage is not built yet")
unbuilt("think", "v1beta2", REGIONAL, "instances", reason="model serving is not built yet")
unbuilt("think", "v1beta2", PROJECT, "models", "sharedModels", "sizes", "apiKeys", reason="model serving is not built yet")  # fmt: skip
