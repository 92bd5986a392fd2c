"""Instance types of a provider, from the bundled figures: what each gives and costs, and the cheapest that fits.

Looks up and compares; decides no sizes, calls no cloud. Sources of the figures: data/SOURCES.md.
"""

from __future__ import annotations

import csv
import difflib
import functools
import importlib.resources
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from adumbra.schema.errors import InputError, NotFoundError
from adumbra.schema.records import Floats
from adumbra.schema.sizing import RESOURCES, InstanceType, Machine, SizingPolicy

DEFAULT_STORAGE_GB = 20.0
"""The disk of a machine declared by type alone: a type says nothing about disks, and a small Debian fits with room."""

MAX_STORAGE_GB = 16_384.0
"""The largest network disk that any type can have: 16 TiB, what a gp3 volume can have everywhere."""

DEFAULT_ARCH = "x86_64"

_TYPE_NAME = re.compile(r"(?:c|m|r|x|i|im|is|hpc)(?P<generation>[5-9])(?P<maker>[a-z]?)[a-z]*[.-]")
_FILES = {"aws": "aws-us-east-1.csv"}


@dataclass(frozen=True, slots=True)
class Choices:
    """Types that may be chosen, cheapest first, and what they give: float64[types, RESOURCES]."""

    types: tuple[InstanceType, ...]
    gives: Floats

    @classmethod
    def of(cls, types: Iterable[InstanceType]) -> Choices:
        chosen = tuple(types)
        rows = [[capacity(choice, name) for name in RESOURCES] for choice in chosen]
        return cls(chosen, np.array(rows, dtype=np.float64).reshape(len(chosen), len(RESOURCES)))

    def cheapest(self, need: Mapping[str, float]) -> InstanceType | None:
        """The first that gives at least `need` (resource -> amount in its unit; a resource left out is not asked for)."""
        least = np.array([need.get(name, -math.inf) for name in RESOURCES])
        fits = (self.gives >= least).all(axis=1)
        return self.types[int(fits.argmax())] if fits.any() else None


@dataclass(frozen=True, slots=True)
class Catalog:
    """The types of one provider, by name. `by_price` holds those with a known price, cheapest first, ties by name."""

    provider: str
    types: Mapping[str, InstanceType]
    by_price: tuple[InstanceType, ...]

    def type(self, name: str) -> InstanceType:
        """The type of that name. Raises InputError with close names."""
        found = self.types.get(name)
        if found is None:
            close = difflib.get_close_matches(name, self.types, n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else "give a current type, such as m7i.large"
            raise NotFoundError(f"{self.provider} has no current instance type {name[:64]!r} in the catalogue", hint)
        return found

    def machine(self, name: str) -> Machine:
        """The size of a machine declared by type: baseline and peak bandwidth; a disk of DEFAULT_STORAGE_GB.

        Raises InputError with close names.
        """
        found = self.type(name)
        return Machine(found.cpu_cores, found.memory_gb, found.bandwidth_mbps, DEFAULT_STORAGE_GB, found.peak_bandwidth_mbps)

    def choices(self, policy: SizingPolicy) -> Choices:
        """The types that the policy lets be chosen, cheapest first, ties by name. Types without a price never are.

        Named types are taken as they are, burstable or not, of any architecture unless the policy has one. Without names:
        all of the policy's architecture (default x86_64) whose cores are whole, so no burstable ones. Raises InputError
        for a name that isn't in the catalogue.
        """
        if policy.provider != self.provider:
            raise InputError(f"the policy sizes for {policy.provider}, the catalogue is {self.provider}'s", "use one provider")
        named = {self.type(name).name for name in policy.allowed_types}
        arch = policy.arch if named else policy.arch or DEFAULT_ARCH
        return Choices.of(
            candidate
            for candidate in self.by_price
            if (candidate.name in named if named else not candidate.burstable) and arch in {None, candidate.arch}
        )

    def cheapest(self, need: Mapping[str, float], policy: SizingPolicy) -> InstanceType | None:
        """The cheapest type that gives at least `need` (resource -> amount in its unit), or None. Raises InputError."""
        return self.choices(policy).cheapest(need)


def capacity(type: InstanceType, resource: str) -> float:
    """What a type gives of a resource, in its unit. Storage is a network disk, the same for all."""
    return MAX_STORAGE_GB if resource == "storage_gb" else float(getattr(type, resource))


def shortages(type: InstanceType, need: Mapping[str, float]) -> tuple[str, ...]:
    """The resources of which a type gives less than needed, in the order of RESOURCES."""
    return tuple(name for name in RESOURCES if name in need and need[name] > capacity(type, name))


@functools.cache
def load_catalog(provider: str = "aws") -> Catalog:
    """The bundled catalogue of a provider, read once. Raises InputError where there is none."""
    if provider not in _FILES:
        raise InputError(f"there is no catalogue of instance types for {provider[:64]!r}", f"use one of: {', '.join(_FILES)}")
    file = importlib.resources.files("adumbra.profile").joinpath("data", _FILES[provider])
    types = [_type(provider, row) for row in csv.DictReader(file.read_text(encoding="utf-8").splitlines())]
    priced = sorted((t for t in types if t.price_per_hour is not None), key=lambda t: (t.price_per_hour or 0.0, t.name))
    return Catalog(provider, {t.name: t for t in types}, tuple(priced))


def _type(provider: str, row: Mapping[str, str]) -> InstanceType:
    price = float(row["usd_per_hour"]) if row["usd_per_hour"] else None
    if price is not None and not (math.isfinite(price) and price > 0):
        raise ValueError(f"{row['type']} has no possible price: {price}")
    return InstanceType(
        provider=provider,
        name=row["type"],
        arch=row["arch"],
        cpu_cores=float(row["vcpus"]),
        memory_gb=float(row["memory_gib"]),
        bandwidth_mbps=float(row["network_baseline_gbps"]) * 1000,
        peak_bandwidth_mbps=float(row["network_peak_gbps"]) * 1000,
        # AWS' flex types have no credits, but they too promise only a share of each core (40 %) and the whole of it for
        # 95 % of a day: more shortage than the dial usually allows.
        burstable=row["burstable"] == "true" or row["type"].partition(".")[0].endswith("-flex"),
        price_per_hour=price,
        core_speed=_core_speeds(provider).get(_processor(row["type"])),
    )


@functools.cache
def _core_speeds(provider: str) -> Mapping[tuple[str, str], float]:
    """How fast a core of each (generation, maker) is, in reference cores."""
    file = importlib.resources.files("adumbra.profile").joinpath("data", f"{provider}-core-speeds.csv")
    rows = csv.DictReader(file.read_text(encoding="utf-8").splitlines())
    return {(row["generation"], row["maker"]): float(row["core_speed"]) for row in rows}


def _processor(name: str) -> tuple[str, str]:
    """The generation and maker of a type's processor, as AWS names types: m7g.large is of generation 7, Graviton.

    https://docs.aws.amazon.com/ec2/latest/instancetypes/instance-type-names.html
    """
    found = _TYPE_NAME.match(name)
    if found is None:
        return "", ""
    return found["generation"], {"a": "amd", "g": "graviton"}.get(found["maker"], "intel")
