"""The state store: networks and what hangs on them, in SQLite or PostgreSQL. Every act is one transaction, with its event.

Keeps and reads records; decides nothing about them and reads no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa

from adumbra.schema.errors import ConflictError, InputError, PreconditionError
from adumbra.schema.state import (
    CalibrationRecord,
    EventQuery,
    EventRecord,
    NetworkQuery,
    NetworkRecord,
    NetworkState,
    NetworkVersion,
    NewTraining,
    ObservationRecord,
    ObservationState,
    ProfileRecord,
    SavedTraining,
    ShadowRecord,
    Tallies,
    TrainingRecord,
    TrainingVersion,
)
from adumbra.store import queries, rows, tables, trainings
from adumbra.store.access import AccessStore
from adumbra.store.database import Database, names_subject
from adumbra.store.jobs import JobStore
from adumbra.store.mirrors import MirrorStore
from adumbra.store.names import storable
from adumbra.store.plans import PlanStore
from adumbra.store.policies import PolicyStore
from adumbra.store.processes import has_died, this_process
from adumbra.store.shipments import ShipmentStore
from adumbra.store.sources import SourceStore
from adumbra.store.statements import (
    DELETED,
    find,
    find_kept,
    hanging_on,
    held,
    move,
    next_version,
    note,
    numbered,
    of_networks,
    set_network,
)

MAX_EVENTS_ANSWERED = 1_000
KEPT_OBSERVATIONS, KEPT_SPECS, KEPT_CALIBRATIONS, KEPT_PROFILES = 10_000, 100, 20, 20
"""How many are kept of each network; older ones are removed as new ones come."""


class StateStore:
    """Networks, shadows, observations, trainings, profiles and events. Opened by `with`; threads may share it.

    access, jobs, plans, policies, mirrors, sources, shipments: the rooms of those who may act, of work, of plans and their
    steps, of what plans are held to, of mirrors on hosts, of sources to be observed and of what their taps told of, in the
    same database.

    Times are ns since the epoch. Mappings must be plain JSON data; NumPy scalars and tuples are turned into it, and a NaN
    into null. Every method raises StoreError when the database fails, and NotFoundError for a network that isn't there.
    Several processes may use one store at once.
    """

    def __init__(self, url_or_path: str | Path) -> None:
        self.database = Database(url_or_path)
        self.access = AccessStore(self.database)
        self.jobs = JobStore(self.database)
        self.plans = PlanStore(self.database)
        self.policies = PolicyStore(self.database)
        self.mirrors = MirrorStore(self.database)
        self.sources = SourceStore(self.database)
        self.shipments = ShipmentStore(self.database)
        self._writing, self._reading = self.database.writing, self.database.reading

    def __enter__(self) -> Self:
        """Opens the database, makes it if it isn't there, and brings its tables up to date. Raises StoreError."""
        self.database.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.database.__exit__(*exc)

    @property
    def on_one_host(self) -> bool:
        """Whether only processes of this host can use the store: it is a file."""
        return self.database.on_one_host

    # Networks

    def create_network(self, name: str, spec_text: str, now_ns: int, spec_json: str = "") -> NetworkRecord:
        """A new network, its shadow and the event of it, all or nothing. Raises ConflictError where the name is taken."""
        with self._writing(f"create the network {name}") as connection:
            try:
                network_id = rows.insert(
                    connection, tables.networks, name=name, spec_text=storable(spec_text), version=1,
                    state=NetworkState.SHADOWING.value, created_ns=now_ns, updated_ns=now_ns, spec_since_ns=now_ns,
                    spec_json=storable(spec_json),
                )  # fmt: skip
            except sa.exc.IntegrityError:
                raise ConflictError(
                    f"there is a network {name!r} already",
                    f"change it with `adumbra network update`, remove it with `adumbra network delete {name}`, "
                    "or choose another name",
                ) from None
            rows.insert(connection, tables.shadows, network_id=network_id, created_ns=now_ns)
            note(connection, now_ns, name, "network.created", f"Created the network {name} and its shadow.")
            names_subject(f"network/{name}")
            return rows.network(find(connection, name))

    def network(self, name: str) -> NetworkRecord:
        """The network of that name. Raises NotFoundError naming close ones."""
        with self._reading(f"read the network {name}") as connection:
            return rows.network(find(connection, name))

    def networks(self) -> tuple[NetworkRecord, ...]:
        """All networks, by name."""
        with self._reading("list the networks") as connection:
            found = connection.execute(sa.select(tables.networks).order_by(tables.networks.c.name))
            return tuple(rows.network(row) for row in found)

    def network_numbers(self) -> dict[str, int]:
        """The number of each network, by its name: one that is created again has another."""
        with self._reading("list the networks") as connection:
            return {row.name: row.id for row in connection.execute(sa.select(tables.networks.c.name, tables.networks.c.id))}

    def tallies(self) -> Tallies:
        """How many of what there are, by state."""
        with self._reading("count what there is") as connection:

            def count(table: sa.Table, *columns: str) -> dict[tuple[str, ...], int]:
                chosen = [table.c[name] for name in columns]
                found = connection.execute(sa.select(*chosen, sa.func.count()).group_by(*chosen))
                return {tuple(map(str, names)): int(number) for *names, number in found}

            return Tallies(
                count(tables.networks, "state"), count(tables.sources, "place", "state"), count(tables.jobs, "kind", "state")
            )

    def networks_of(self, query: NetworkQuery) -> tuple[NetworkRecord, ...]:
        """Some networks, by name: a page. Raises InputError for a limit that isn't one."""
        with self._reading("list networks") as connection:
            return queries.networks(connection, query)

    def shadow(self, network: str) -> ShadowRecord:
        """The network's shadow."""
        with self._reading(f"read the shadow of {network}") as connection:
            owner, table = find(connection, network), tables.shadows
            row = connection.execute(sa.select(table).where(table.c.network_id == owner.id)).one()
            return ShadowRecord(row.id, network, row.created_ns)

    def update_network(
        self, name: str, spec_text: str, now_ns: int, was: int | None = None, spec_json: str = ""
    ) -> NetworkRecord:
        """Gives the network a new spec and its next version; the old spec is kept.

        Raises PreconditionError where its version isn't `was` (None: any).
        """
        with self._writing(f"update the network {name}") as connection:
            old = find_kept(connection, name)
            if was is not None and old.version != was:
                raise PreconditionError(
                    f"{name} was changed meanwhile: it is of version {old.version}, not {was}",
                    "look at it as it is now, and make the change again",
                )
            rows.insert(
                connection, tables.network_versions, network_id=old.id, version=old.version, spec_text=old.spec_text,
                created_ns=old.spec_since_ns, replaced_ns=now_ns,
            )  # fmt: skip
            rows.keep_newest(connection, tables.network_versions, KEPT_SPECS, network_id=old.id)
            new = {"spec_text": storable(spec_text), "version": old.version + 1, "spec_since_ns": now_ns}
            set_network(connection, old.id, updated_ns=now_ns, spec_json=storable(spec_json), **new)
            message = f"Updated the network {name} to version {old.version + 1}."
            note(connection, now_ns, name, "network.updated", message, version=old.version + 1)
            if old.state == NetworkState.READY.value and old.spec_text != spec_text:
                move(connection, old, NetworkState.SHADOWING, now_ns, "its spec changed, and its profile is of the old one")
            names_subject(f"network/{name}")
            return rows.network(find(connection, name))

    def network_versions(self, name: str) -> tuple[NetworkVersion, ...]:
        """The specs that the network had before its present one, newest first."""
        with self._reading(f"read the versions of {name}") as connection:
            found = hanging_on(connection, tables.network_versions, find(connection, name).id, KEPT_SPECS)
            return tuple(NetworkVersion(row.version, row.spec_text, row.created_ns, row.replaced_ns) for row in found)

    def set_network_state(self, name: str, state: NetworkState, now_ns: int, reason: str) -> NetworkRecord:
        """Moves the network to a state, for a reason that its event tells. Raises ConflictError for a move that there isn't."""
        with self._writing(f"set the state of {name}") as connection:
            move(connection, find(connection, name), state, now_ns, reason)
            if state is NetworkState.DELETING:
                names_subject(f"network/{name}")
            return rows.network(find(connection, name))

    def delete_network(self, name: str, now_ns: int) -> None:
        """Removes the network and all that hangs on it. Its events stay."""
        with self._writing(f"delete the network {name}") as connection:
            network_id = find(connection, name).id
            connection.execute(sa.delete(tables.networks).where(tables.networks.c.id == network_id))
            note(connection, now_ns, name, "network.deleted", f"Deleted the network {name} and its shadow.")

    # Observations

    def begin_observation(self, network: str, source: str, fingerprint: str, now_ns: int) -> ObservationRecord:
        """Notes that this process begins to observe a source."""
        with self._writing(f"begin an observation of {network}") as connection:
            owner, table = find(connection, network), tables.observations
            observation_id = rows.insert(
                connection, table, network_id=owner.id, source=storable(source), fingerprint=storable(fingerprint),
                state=ObservationState.RUNNING.value, accounts={}, process=this_process(), started_ns=now_ns,
            )  # fmt: skip
            rows.keep_newest(connection, table, KEPT_OBSERVATIONS, (ObservationState.RUNNING.value,), network_id=owner.id)
            note(connection, now_ns, network, "observation.begun", f"Began to observe {source}.", id=observation_id)
            names_subject(f"observation/{observation_id}")
            return rows.observation(_find_observation(connection, observation_id))

    def finish_observation(
        self, observation_id: int, outcome: ObservationState, accounts: Mapping[str, Any], now_ns: int
    ) -> ObservationRecord:
        """Notes how an observation ended, `done` or `failed`, and where everything went.

        Raises NotFoundError where it isn't there (any more), ConflictError where it was finished before.
        """
        with self._writing(f"finish the observation {observation_id}") as connection:
            found = _find_observation(connection, observation_id)
            if found.state in {ObservationState.DONE, ObservationState.FAILED}:
                raise ConflictError(f"the observation {observation_id} was finished before", "begin a new one")
            return _end_observation(connection, found, ObservationState(outcome), accounts, now_ns)

    def observations(self, network: str, limit: int = KEPT_OBSERVATIONS) -> tuple[ObservationRecord, ...]:
        """The network's observations, newest first; `limit` of them at most."""
        with self._reading(f"list the observations of {network}") as connection:
            owner = find(connection, network)
            found = _observations(tables.observations.c.network_id == owner.id).limit(limit)
            return tuple(rows.observation(row) for row in connection.execute(found))

    def interrupted_observations(self) -> tuple[ObservationRecord, ...]:
        """The observations noted as running whose process has died, newest first. Changes nothing."""
        with self._reading("look for interrupted observations") as connection:
            return tuple(rows.observation(row) for row in self._interrupted(connection))

    def mark_interrupted(self, now_ns: int) -> tuple[ObservationRecord, ...]:
        """Marks these as interrupted, each with an event, and gives them as they are then."""
        with self._writing("mark interrupted observations") as connection:
            return tuple(
                _end_observation(connection, row, ObservationState.INTERRUPTED, {}, now_ns)
                for row in self._interrupted(connection)
            )

    def _interrupted(self, connection: sa.Connection) -> list[sa.Row[Any]]:
        of_running = _observations(tables.observations.c.state == ObservationState.RUNNING.value)
        running = held(connection, of_running, tables.observations)
        return [row for row in running if has_died(row.process, other_hosts=not self.on_one_host)]

    # Calibrations

    def save_calibration(self, network: str, calibration: Mapping[str, Any], message: str, now_ns: int) -> CalibrationRecord:
        """Keeps what measured use said, as the network's next version, with an event that says `message`."""
        with self._writing(f"save a calibration of {network}") as connection:
            owner, table = find(connection, network), tables.calibrations
            version = next_version(connection, table, owner.id)
            rows.insert(
                connection, table, network_id=owner.id, version=version, calibration=rows.plain(calibration),
                created_ns=now_ns, emulated_ns=None,
            )  # fmt: skip
            rows.keep_newest(connection, table, KEPT_CALIBRATIONS, network_id=owner.id)
            names_subject(f"calibration/{network}/{version}")
            note(connection, now_ns, network, "calibration.saved", message, version=version)
            return rows.calibration(network, hanging_on(connection, table, owner.id, 1)[0])

    def calibration(self, network: str) -> CalibrationRecord | None:
        """The newest calibration; None where there is none."""
        with self._reading(f"read the calibration of {network}") as connection:
            newest = hanging_on(connection, tables.calibrations, find(connection, network).id, 1)
            return rows.calibration(network, newest[0]) if newest else None

    def note_emulated(self, network: str, version: int, now_ns: int) -> None:
        """Notes that all that is stored of the network is emulated by that version of its calibration."""
        with self._writing(f"note the emulation of {network}") as connection:
            table, owner = tables.calibrations, find(connection, network)
            chosen = (table.c.network_id == owner.id) & (table.c.version == version)
            connection.execute(sa.update(table).where(chosen).values(emulated_ns=now_ns))

    # Trainings and profiles

    def save_training(self, network: str, new: NewTraining, now_ns: int) -> SavedTraining:
        """Keeps what was learned, as the network's next version, which serves from now on if it is to.

        Those beyond the bounds of store.trainings go. Raises ConflictError where another version serves than `new` says.
        """
        with self._writing(f"save a training of {network}") as connection:
            return trainings.save(connection, find(connection, network), new, now_ns)

    def training(self, network: str, version: int | None = None) -> TrainingRecord | None:
        """The training that serves, or the one of that version; None where there is none (any more)."""
        with self._reading(f"read the training of {network}") as connection:
            return trainings.read(connection, find(connection, network), version)

    def trainings(self, network: str) -> tuple[TrainingVersion, ...]:
        """The network's trainings that are kept, newest first."""
        with self._reading(f"list the trainings of {network}") as connection:
            return trainings.every(connection, find(connection, network))

    def serve_training(self, network: str, version: int, now_ns: int) -> TrainingVersion:
        """Lets a version serve, with an event; nothing happens where it does. Raises NotFoundError for one that isn't there."""
        with self._writing(f"serve a training of {network}") as connection:
            names_subject(f"training/{network}/{version}")
            return trainings.serve(connection, find(connection, network), version, now_ns)

    def forget_training(self, network: str, version: int, now_ns: int) -> TrainingVersion:
        """Removes a version, with an event. Raises NotFoundError, and ConflictError for the one that serves."""
        with self._writing(f"forget a training of {network}") as connection:
            return trainings.forget(connection, find(connection, network), version, now_ns)

    def save_profile(self, network: str, profile_json: Mapping[str, Any], now_ns: int, was: int | None = None) -> ProfileRecord:
        """Keeps a resource profile, as the network's next version. was: the version of the spec that it is of; with it, a
        network that was shadowing is ready. Raises PreconditionError where the spec has another version by now.
        """
        with self._writing(f"save a profile of {network}") as connection:
            owner, table = find(connection, network), tables.profiles
            if was is not None and owner.version != was:
                raise PreconditionError(f"the spec of {network} changed while its VMs were sized", "size them again")
            version = next_version(connection, table, owner.id)
            rows.insert(
                connection, table, network_id=owner.id, version=version, profile=rows.plain(profile_json), created_ns=now_ns
            )
            rows.keep_newest(connection, table, KEPT_PROFILES, network_id=owner.id)
            names_subject(f"profile/{network}/{version}")
            note(connection, now_ns, network, "profile.saved", f"Made profile version {version}.", version=version)
            if was is not None and owner.state == NetworkState.SHADOWING.value:
                move(connection, owner, NetworkState.READY, now_ns, "it has a profile to activate")
            return rows.profile(network, hanging_on(connection, table, owner.id, 1)[0])

    def profile(self, network: str) -> ProfileRecord | None:
        """The newest profile; None where there is none yet."""
        with self._reading(f"read the profile of {network}") as connection:
            newest = hanging_on(connection, tables.profiles, find(connection, network).id, 1)
            return rows.profile(network, newest[0]) if newest else None

    def profiles(self, network: str) -> tuple[ProfileRecord, ...]:
        """The network's profiles that are kept, newest first."""
        with self._reading(f"list the profiles of {network}") as connection:
            found = hanging_on(connection, tables.profiles, find(connection, network).id, KEPT_PROFILES)
            return tuple(rows.profile(network, row) for row in found)

    # Events

    def add_event(self, network: str | None, kind: str, message: str, data: Mapping[str, Any], now_ns: int) -> EventRecord:
        """Notes something that happened, to a network or to none. The acts above note theirs themselves."""
        with self._writing("note an event") as connection:
            event_id = note(connection, now_ns, network, kind, message, **data)
            row = connection.execute(sa.select(tables.events).where(tables.events.c.id == event_id)).one()
            return rows.event(row)

    def events(self, network: str | None = None, limit: int = 100, before_id: int | None = None) -> tuple[EventRecord, ...]:
        """Events of a network, there or deleted, or of all (None), newest first; `before_id` pages on.

        Raises InputError for a limit outside 1 to MAX_EVENTS_ANSWERED.
        """
        if not 1 <= limit <= MAX_EVENTS_ANSWERED:
            raise InputError(f"{limit} events can't be shown at once", f"ask for 1 to {MAX_EVENTS_ANSWERED}")
        return self.events_of(EventQuery(None if network is None else (network,), before_id=before_id, limit=limit))

    def events_of(self, query: EventQuery) -> tuple[EventRecord, ...]:
        """Some events: a page. Raises InputError for a limit that isn't one."""
        with self._reading("list the events") as connection:
            return queries.events(connection, query)

    def newest_event(self) -> int:
        """The number of the newest event; 0 where there is none."""
        with self._reading("look for the newest event") as connection:
            return queries.newest_event(connection)


def _observations(condition: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return of_networks(tables.observations).where(condition).order_by(tables.observations.c.id.desc())


def _find_observation(connection: sa.Connection, observation_id: int) -> sa.Row[Any]:
    return numbered(connection, tables.observations, observation_id, "observation", DELETED)


def _end_observation(
    connection: sa.Connection, found: sa.Row[Any], state: ObservationState, accounts: Mapping[str, Any], now_ns: int
) -> ObservationRecord:
    table = tables.observations
    new = {"state": state.value, "accounts": rows.plain(accounts), "finished_ns": now_ns}
    connection.execute(sa.update(table).where(table.c.id == found.id).values(**new))
    message = f"The observation of {found.source} is {state.value}."
    note(connection, now_ns, found.network, f"observation.{state.value}", message, id=found.id)
    return rows.observation(_find_observation(connection, found.id))
