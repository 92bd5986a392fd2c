"""Networks: create, list, show, update, delete; the specs that they had."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Query, Response

from adumbra.api.access import Known, Operator, Viewer, allowed
from adumbra.api.acts import Changing
from adumbra.api.asked import NetworkName
from adumbra.api.context import At
from adumbra.api.etags import IfMatch, IfNoneMatch, etag, holds, wanted_version
from adumbra.api.paging import DEFAULT_LIMIT, After, Limit, page
from adumbra.api.shapes.common import Page, instant
from adumbra.api.shapes.networks import NetworkOut, NetworkRow, NetworkVersionOut, NewNetwork, VmOut
from adumbra.schema.access import Role
from adumbra.schema.errors import InputError, NotFoundError
from adumbra.schema.spec import Vm, spec_to_dict
from adumbra.schema.state import NetworkQuery, NetworkState
from adumbra.service import networks
from adumbra.service.networks import Network

router = APIRouter(prefix="/networks", tags=["networks"])


@router.post("", status_code=201, summary="Create a network, and its shadow in the same act")
def create(asked: NewNetwork, at: At, who: Known, change: Changing, response: Response) -> NetworkOut:
    spec = networks.check(asked.spec, "spec")
    allowed(who, Role.OPERATOR, spec.name)
    made, _ = change.make_once(
        lambda: networks.create(at.workspace, asked.spec, "spec", at.now()),
        lambda subject: networks.get(at.workspace, subject.partition("/")[2]),
        asked=spec_to_dict(spec), after=lambda network: {"version": network.record.version}, network=spec.name,
    )  # fmt: skip
    at.wake()
    response.headers["ETag"] = _tag(made)
    response.headers["Location"] = f"/v1/networks/{made.name}"
    return network_out(made)


@router.get("", summary="List the networks")
def listing(
    at: At,
    who: Viewer,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
    state: Annotated[NetworkState | None, Query(description="Only those in this state.")] = None,
    specs: Annotated[bool, Query(description="With the spec of each.")] = False,
) -> Page[NetworkRow]:
    query = NetworkQuery(who.networks, state, after, limit + 1)
    these, following = page(at.workspace.state.networks_of(query), limit, lambda record: record.name)
    return Page(items=[_row(networks.of_record(each), specs=specs) for each in these], next=following)


@router.get("/{name}", summary="Show a network", responses={304: {"description": "It is as you know it"}})
def show(name: NetworkName, at: At, who: Viewer, response: Response, if_none_match: IfNoneMatch = None) -> NetworkOut:
    found = networks.get(at.workspace, name)
    response.headers["ETag"] = _tag(found)
    if holds(if_none_match, _tag(found)):
        return Response(status_code=304, headers=dict(response.headers))  # type: ignore[return-value]
    return network_out(found)


@router.put("/{name}", summary="Give a network another spec; what was observed stays")
def update(
    name: NetworkName, asked: NewNetwork, at: At, who: Operator, change: Changing, response: Response, if_match: IfMatch = None
) -> NetworkOut:
    spec = networks.check(asked.spec, "spec")
    if spec.name != name:
        raise InputError(f"the spec is of {spec.name}, not of {name}", "a network keeps its name")
    was = networks.get(at.workspace, name)
    made, _ = change.make_once(
        lambda: networks.update(at.workspace, asked.spec, "spec", at.now(), wanted_version(if_match)),
        lambda _: networks.get(at.workspace, name),
        asked=spec_to_dict(spec), before=spec_to_dict(was.spec) | {"version": was.record.version},
        after=lambda network: spec_to_dict(network.spec) | {"version": network.record.version},
    )  # fmt: skip
    at.wake()
    response.headers["ETag"] = _tag(made)
    return network_out(made)


@router.delete("/{name}", status_code=204, summary="Delete a network, its shadow, and what was learned of it")
def delete(
    name: NetworkName,
    at: At,
    who: Operator,
    change: Changing,
    force: Annotated[bool, Query(description="Also where its VMs may stand; they are left alone.")] = False,
) -> None:
    was = networks.get(at.workspace, name)

    def remove() -> None:
        networks.delete(at.workspace, name, at.now(), force=force)

    def finish(_: str) -> None:  # the server that was asked first died, or is at it; a later network of that name isn't meant
        if was.record.state is NetworkState.DELETING:
            with suppress(NotFoundError):
                remove()

    told = {"asked": {"force": force}, "before": spec_to_dict(was.spec) | {"version": was.record.version}}
    change.make_once(remove, finish, **told)


@router.get("/{name}/versions", summary="The specs that a network has, or had, newest first")
def versions(name: NetworkName, at: At, who: Viewer) -> list[NetworkVersionOut]:
    now, earlier = at.workspace.state.network(name), at.workspace.state.network_versions(name)
    since_ns = earlier[0].replaced_ns if earlier else now.created_ns
    told = [NetworkVersionOut(version=now.version, created=instant(since_ns), replaced=None, spec_text=now.spec_text)]
    return told + [
        NetworkVersionOut(
            version=each.version, created=instant(each.created_ns), replaced=instant(each.replaced_ns), spec_text=each.spec_text
        )
        for each in earlier
        if each.version != now.version  # an update came between
    ]


def _tag(network: Network) -> str:
    """An update asks for the version that was read; what was read differs as well where its state does."""
    return etag(f"{network.record.version}-{network.record.updated_ns:x}")


def network_out(network: Network) -> NetworkOut:
    record = network.record
    return NetworkOut(
        name=network.name, state=record.state, version=record.version,
        created=instant(record.created_ns), updated=instant(record.updated_ns), spec=spec_to_dict(network.spec),
        vms=[vm_out(vm) for vm in network.vms],
    )  # fmt: skip


def vm_out(vm: Vm) -> VmOut:
    addresses = [str(block) for block in vm.addresses]
    return VmOut(name=vm.name, subnet=vm.subnet, role=vm.role, addresses=addresses, declared=vm.declared)


def _row(network: Network, *, specs: bool) -> NetworkRow:
    record = network.record
    return NetworkRow(
        name=network.name, state=record.state, version=record.version, vms=len(network.vms),
        cidrs=[str(cidr) for cidr in network.spec.cidrs],
        created=instant(record.created_ns), updated=instant(record.updated_ns),
        spec=spec_to_dict(network.spec) if specs else None,
    )  # fmt: skip
