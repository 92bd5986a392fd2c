"""What a network's plans are held to: its policy, which administrators change."""

from __future__ import annotations

from fastapi import APIRouter, Response

from adumbra.api.access import Admin, Viewer
from adumbra.api.acts import Changing
from adumbra.api.asked import NetworkName
from adumbra.api.context import At
from adumbra.api.etags import IfMatch, etag, wanted_version
from adumbra.api.shapes.common import instant
from adumbra.api.shapes.policies import NewPolicy, PolicyOut
from adumbra.service import networks, policies
from adumbra.service.policies import KeptPolicy

router = APIRouter(prefix="/networks/{name}/policy", tags=["policy"])


@router.get("", summary="The policy that a network's plans are held to")
def show(name: NetworkName, at: At, who: Viewer, response: Response) -> PolicyOut:
    networks.get(at.workspace, name)
    found = policies.shown(at.workspace, name)
    response.headers["ETag"] = etag(found.record.version)
    return _out(found)


@router.put("", summary="Give a network a policy, in place of the one that it has")
def put(
    name: NetworkName, asked: NewPolicy, at: At, who: Admin, change: Changing, response: Response, if_match: IfMatch = None
) -> PolicyOut:
    was = at.workspace.state.policies.newest(name)
    made, _ = change.make_once(
        lambda: policies.put(at.workspace, name, asked.policy, at.now, was=wanted_version(if_match)),
        lambda _: policies.shown(at.workspace, name),
        asked={"policy": asked.policy}, before=None if was is None else {"version": was.version, "policy": was.text},
        after=lambda kept: {"version": kept.record.version},
    )  # fmt: skip
    at.wake()
    response.headers["ETag"] = etag(made.record.version)
    return _out(made)


@router.delete("", status_code=204, summary="Take a network's policy away")
def clear(name: NetworkName, at: At, who: Admin, change: Changing) -> None:
    was = at.workspace.state.policies.newest(name)
    before = None if was is None else {"version": was.version, "policy": was.text}
    change.make_once(lambda: policies.clear(at.workspace, name, at.now), lambda _: None, before=before)
    at.wake()


def _out(kept: KeptPolicy) -> PolicyOut:
    return PolicyOut.model_validate(
        kept.to_dict() | {"created": instant(kept.record.created_ns), "text": kept.record.text}
    )  # fmt: skip
