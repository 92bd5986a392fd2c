"""Who may call which route: what the matrix test holds the app to. A route that isn't here fails it."""

from __future__ import annotations

from enum import Enum

from adumbra.schema.access import Role


class Rule(Enum):
    """What a route asks of whoever calls it."""

    OPEN = "nothing"
    KNOWN = "to be known"
    VIEWER = "to be a viewer"
    OPERATOR = "to be an operator"
    GIVER = "to be an administrator, of all networks or of some"
    APPROVER = "to be an administrator of that network"
    ADMIN = "to be an administrator of all networks"

    @property
    def role(self) -> Role:
        if self in {Rule.GIVER, Rule.APPROVER, Rule.ADMIN}:
            return Role.ADMIN
        return Role.OPERATOR if self is Rule.OPERATOR else Role.VIEWER


OPEN, KNOWN, VIEWER, OPERATOR, GIVER, APPROVER, ADMIN = Rule

RULES = {
    "GET /v1/openapi.json": OPEN,
    "GET /healthz": OPEN,
    "GET /readyz": OPEN,
    "GET /metrics": OPEN,  # to this host; to others as to a viewer of all networks
    # Of one's own networks; that a network in the path must be one's own is of all routes.
    "POST /v1/networks": OPERATOR,
    "GET /v1/networks": VIEWER,
    "GET /v1/networks/{name}": VIEWER,
    "PUT /v1/networks/{name}": OPERATOR,
    "DELETE /v1/networks/{name}": OPERATOR,
    "GET /v1/networks/{name}/versions": VIEWER,
    "POST /v1/specs/check": VIEWER,
    "GET /v1/networks/{name}/shadow": VIEWER,
    "GET /v1/networks/{name}/observations": VIEWER,
    "POST /v1/networks/{name}/observations": OPERATOR,
    "GET /v1/networks/{name}/metrics": VIEWER,
    "GET /v1/networks/{name}/metrics/latest": VIEWER,
    "GET /v1/networks/{name}/calibration": VIEWER,
    "POST /v1/networks/{name}/calibration": OPERATOR,
    "POST /v1/networks/{name}/calibration/from-traffic": OPERATOR,
    "POST /v1/networks/{name}/calibration/from-prometheus": OPERATOR,
    "POST /v1/networks/{name}/calibration/from-live": OPERATOR,
    "DELETE /v1/networks/{name}/calibration": OPERATOR,
    "POST /v1/networks/{name}/trainings": OPERATOR,
    "GET /v1/networks/{name}/trainings": VIEWER,
    "POST /v1/networks/{name}/trainings/rollback": OPERATOR,
    "GET /v1/networks/{name}/trainings/{version}": VIEWER,
    "POST /v1/networks/{name}/trainings/{version}/serve": OPERATOR,
    "DELETE /v1/networks/{name}/trainings/{version}": OPERATOR,
    "GET /v1/networks/{name}/forecast": VIEWER,
    "GET /v1/networks/{name}/profile": VIEWER,
    "POST /v1/networks/{name}/profile": OPERATOR,
    "GET /v1/networks/{name}/profile/by-hour": VIEWER,
    "GET /v1/networks/{name}/profiles": VIEWER,
    "GET /v1/networks/{name}/profiles/{version}": VIEWER,
    "POST /v1/networks/{name}/whatif": VIEWER,
    "GET /v1/networks/{name}/plan": VIEWER,
    "GET /v1/networks/{name}/plans": VIEWER,
    "GET /v1/networks/{name}/plans/{number}": VIEWER,
    "POST /v1/networks/{name}/plans/dry-run": VIEWER,
    "POST /v1/networks/{name}/plans/{number}/approval": APPROVER,
    "POST /v1/networks/{name}/plans/{number}/rejection": OPERATOR,
    "POST /v1/networks/{name}/plans/rollback": OPERATOR,
    "GET /v1/networks/{name}/policy": VIEWER,
    "PUT /v1/networks/{name}/policy": APPROVER,
    "DELETE /v1/networks/{name}/policy": APPROVER,
    "POST /v1/networks/{name}/activations": OPERATOR,
    "POST /v1/networks/{name}/deactivations": OPERATOR,
    "GET /v1/networks/{name}/live": VIEWER,
    "GET /v1/events": VIEWER,
    "GET /v1/networks/{name}/stream": VIEWER,
    "GET /v1/networks/{name}/shadow/followed": VIEWER,
    "GET /v1/networks/{name}/sources": VIEWER,
    "POST /v1/networks/{name}/sources": OPERATOR,
    "GET /v1/networks/{name}/sources/{number}": VIEWER,
    "POST /v1/networks/{name}/sources/{number}/stop": OPERATOR,
    "POST /v1/networks/{name}/sources/{number}/heartbeat": OPERATOR,
    "POST /v1/networks/{name}/batches": OPERATOR,
    "PATCH /v1/networks/{name}/batches": OPERATOR,
    "DELETE /v1/networks/{name}/batches": OPERATOR,
    "GET /v1/networks/{name}/series": VIEWER,
    "POST /v1/networks/{name}/series": VIEWER,
    "GET /v1/store": VIEWER,
    "GET /v1/jobs": VIEWER,
    "GET /v1/jobs/{number}": VIEWER,
    "POST /v1/jobs/{number}/cancel": OPERATOR,
    "GET /v1/jobs/{number}/stream": VIEWER,
    "POST /v1/tokens": GIVER,
    "GET /v1/tokens": GIVER,
    "GET /v1/tokens/{token}": GIVER,
    "DELETE /v1/tokens/{token}": GIVER,
    "POST /v1/users": GIVER,
    "GET /v1/users": GIVER,
    "GET /v1/users/{user}": GIVER,
    "POST /v1/users/{user}/disable": GIVER,
    "POST /v1/users/{user}/enable": GIVER,
    "PUT /v1/users/{user}/rights": GIVER,
    "PUT /v1/users/{user}/password": GIVER,
    "POST /v1/sessions": OPEN,
    "GET /v1/sessions/current": KNOWN,
    "DELETE /v1/sessions/current": KNOWN,
    "PUT /v1/sessions/current/password": KNOWN,
    "GET /v1/audit": OPERATOR,
    "GET /v1/oidc/sign-in": OPEN,
    "GET /v1/oidc/return": OPEN,
}
