"""From a server's answers to the records that they tell of. Pure; asks nothing.

A field `created_ns` of a record travels as `created`, a time as ISO 8601 tells it, to the nanosecond.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from adumbra.schema.errors import ServerError, SpecError
from adumbra.schema.plain import of_plain
from adumbra.schema.state import NetworkRecord, NetworkState

if TYPE_CHECKING:
    from adumbra.profile.hourly import HourlySizes
    from adumbra.schema.records import Quantiles
    from adumbra.schema.state import PlanRecord, TrainingVersion
    from adumbra.service.calibrations import Calibrated
    from adumbra.service.networks import Network
    from adumbra.service.policies import KeptPolicy

T = TypeVar("T")
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")


def told(read: Callable[[Any], T], answer: Any) -> T:
    """What an answer tells, read by `read`. Raises ServerError where it isn't of the form that is known here."""
    try:
        return read(answer)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, SpecError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ServerError(
            f"the server's answer is of a form that isn't known here: {why[:200]}", "give server and client the same version"
        ) from error


def record(kind: type[T], answer: Mapping[str, Any], **known: Any) -> T:
    """A record from an answer's fields, times turned into ns; `known` stands for what the answer doesn't have."""
    given: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        name = field.name.removesuffix("_ns")
        if name != field.name and name in answer:
            given[field.name] = None if answer[name] is None else time_ns(answer[name])
        elif field.name in answer:
            given[field.name] = answer[field.name]
    return of_plain(kind, known | given)


def time_ns(text: str) -> int:
    """A time, ISO 8601 with its zone, in ns since the epoch. Raises ValueError."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is no time")
    whole = datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00")) - datetime(1970, 1, 1, tzinfo=UTC)
    return (whole.days * 86_400 + whole.seconds) * 10**9 + int((match[2] or "").ljust(9, "0"))


def network(answer: Mapping[str, Any]) -> Network:
    """A network, its spec read back from the plain data that it travels as; what measured use said of it stays unknown."""
    from adumbra.schema.spec import expand_vms, parse_spec
    from adumbra.service.networks import Network

    text = json.dumps(answer["spec"])
    spec = parse_spec(text, str(answer["name"]))
    kept = NetworkRecord(
        0, spec.name, text, int(answer["version"]), NetworkState(answer["state"]), time_ns(answer["created"]),
        time_ns(answer["updated"]),
    )  # fmt: skip
    return Network(kept, spec, expand_vms(spec))


def calibrated(answer: Mapping[str, Any]) -> Calibrated:
    """What measured use said of a network's VMs."""
    from adumbra.schema.calibration import Calibration
    from adumbra.service.calibrations import Calibrated

    known = {field.name for field in dataclasses.fields(Calibration)}
    told = {name: value for name, value in answer.items() if name in known}
    times = {"start_ns": time_ns(answer["start"]), "end_ns": time_ns(answer["end"])}
    return Calibrated(int(answer["version"]), Calibration.from_dict(told | times), {})


def policy(answer: Mapping[str, Any]) -> KeptPolicy:
    """What a network's plans are held to, read from the text that it was given as."""
    from adumbra.schema.policy import parse_policy
    from adumbra.schema.state import PolicyRecord
    from adumbra.service.policies import KeptPolicy

    record_ = PolicyRecord(str(answer["network"]), int(answer["version"]), str(answer["text"]), time_ns(answer["created"]))
    return KeptPolicy(record_, parse_policy(record_.text))


def plan(answer: Mapping[str, Any]) -> PlanRecord:
    """A plan that is kept; of each step's outcomes, the last one, whose time isn't told."""
    from adumbra.schema.state import PlanRecord, PlanState, StepRecord

    created_ns = time_ns(answer["created"])
    last = {"done": answer.get("finished_done"), "detail": answer.get("finished_detail", "")}
    steps = tuple(
        StepRecord(number, {"done": each["done"], "detail": each["detail"]}, created_ns)
        for number, each in enumerate((*answer["steps"], last))
        if each["done"] is not None
    )
    finished, decided = (None if answer[name] is None else time_ns(answer[name]) for name in ("finished", "decided"))
    return PlanRecord(
        int(answer["id"]), str(answer["network"]), PlanState(answer["state"]), answer["plan"], steps, created_ns, finished,
        answer["decided_by"], decided,
    )  # fmt: skip


def version(answer: Mapping[str, Any]) -> TrainingVersion:
    """One of a network's trainings."""
    from adumbra.schema.state import TrainingVersion

    return record(TrainingVersion, answer, artifact_bytes=answer["bytes"])


def forecast(answer: Mapping[str, Any]) -> dict[str, Quantiles]:
    """Quantiles by resource."""
    from adumbra.schema.records import Quantiles

    return {
        resource: Quantiles.from_dict(
            {**told, "resource": resource, "vms": list(told["vms"]), "start_ns": time_ns(told["start"]),
             "values": list(told["vms"].values())}
        )
        for resource, told in answer["resources"].items()
    }  # fmt: skip


def by_hour(answer: Mapping[str, Any]) -> dict[str, HourlySizes]:
    """Sizes by the hour of the week, by resource."""
    from adumbra.profile.hourly import HourlySizes

    return {resource: HourlySizes.from_dict(told) for resource, told in answer["resources"].items()}
