"""Policies of networks in the state store: each a version, with the event of it. Decides nothing about them."""

from __future__ import annotations

from adumbra.schema.errors import PreconditionError
from adumbra.schema.state import PolicyRecord
from adumbra.store import rows, tables
from adumbra.store.database import Database, names_subject
from adumbra.store.names import storable
from adumbra.store.statements import find, find_kept, hanging_on, next_version, note

KEPT_POLICIES = 20
"""How many are kept of each network; older ones are removed as new ones come."""


class PolicyStore:
    """Policies of networks. Times are ns since the epoch; every method raises StoreError when the database fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, network: str, text: str, now_ns: int, was: int | None = None) -> PolicyRecord:
        """Keeps a policy as the network's next version; "": it has none from now on.

        Raises PreconditionError where the version that holds isn't `was` (None: any; 0: none).
        """
        with self._database.writing(f"save a policy of {network}") as connection:
            owner, table = find_kept(connection, network), tables.policies
            newest = hanging_on(connection, table, owner.id, 1)
            holds = newest[0].version if newest and newest[0].policy_text else 0
            if was is not None and holds != was:
                raise PreconditionError(
                    f"the policy of {network} was changed meanwhile: it is of version {holds}, not {was}",
                    "look at it as it is now, and make the change again",
                )
            version = next_version(connection, table, owner.id)
            rows.insert(connection, table, network_id=owner.id, version=version, policy_text=storable(text), created_ns=now_ns)
            rows.keep_newest(connection, table, KEPT_POLICIES, network_id=owner.id)
            names_subject(f"policy/{network}/{version}")
            kind, message = ("set", f"Set the policy of {network}") if text else ("cleared", f"Cleared the policy of {network}")
            note(connection, now_ns, network, f"policy.{kind}", f"{message}, version {version}.", version=version)
            return PolicyRecord(network, version, text, now_ns)

    def newest(self, network: str) -> PolicyRecord | None:
        """The policy that holds; None where there is none, or it was cleared."""
        with self._database.reading(f"read the policy of {network}") as connection:
            found = hanging_on(connection, tables.policies, find(connection, network).id, 1)
            if not found or not found[0].policy_text:
                return None
            return PolicyRecord(network, found[0].version, found[0].policy_text, found[0].created_ns)
