"""Wires the parts of a node that take part in the consumer group: updater, standby follower and stream."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from lifeline.config import Settings
from lifeline.core.paths import partitions_in
from lifeline.core.security import SecuritySettings
from lifeline.node.cluster_view import ClusterView
from lifeline.node.peer import ask_owner
from lifeline.rpc.directory import PartitionDirectory
from lifeline.rpc.owners import Owners
from lifeline.store.partition import PartitionStore
from lifeline.stream.action_stream import ActionStream
from lifeline.stream.dead_letters import DeadLetterPublisher
from lifeline.stream.decode import Rules
from lifeline.stream.fingerprint_log import FingerprintLog
from lifeline.stream.membership import Membership
from lifeline.stream.observer import Observer
from lifeline.stream.placement import Placement
from lifeline.stream.standby import StandbyFollower
from lifeline.stream.stores import StoreAccess
from lifeline.stream.updater import Updater


@dataclass(frozen=True, slots=True)
class GroupPart:
    """The parts that read the actions topic, for owned and for followed partitions."""

    updater: Updater[PartitionStore]
    standby: StandbyFollower[PartitionStore]
    stream: ActionStream[PartitionStore]
    owners: Owners
    view: ClusterView

    @classmethod
    def of(
        cls,
        settings: Settings,
        stores: StoreAccess[PartitionStore],
        directory: PartitionDirectory,
        observer: Observer,
        security: Callable[[], SecuritySettings],
    ) -> Self:
        """Wire the parts; nothing runs before `stream.start`. Call it in the event loop that they will run in.

        `security` returns the present security settings.
        """
        rules = Rules.of(settings.vocabulary, settings.kafka.partitions, settings.updater)
        fingerprints = FingerprintLog(settings.updater.fingerprint_every)
        owners = Owners(settings.kafka.partitions)

        async def take_over(number: int) -> PartitionStore | None:
            return await standby.release(number)

        def on_placement(placement: Placement) -> None:
            owners.update(placement)
            standby.on_placement(placement)

        updater: Updater[PartitionStore] = Updater(
            settings.updater,
            rules,
            stores,
            directory=directory,
            dead_letters=DeadLetterPublisher(settings.kafka, settings.updater),
            take_over=take_over,
            fingerprints=fingerprints,
            observer=observer,
        )
        standby: StandbyFollower[PartitionStore] = StandbyFollower(
            settings.kafka,
            settings.updater,
            rules,
            stores,
            is_held=updater.holds,
            fingerprints=fingerprints,
            ask_owner=lambda address, partitions: ask_owner(address, partitions, security()),
        )
        updater.on_suspend = standby.suspend
        membership = Membership(
            (standby, updater),
            address=lambda: owners.own_address,
            on_disk=lambda: partitions_in(settings.node.data_dir),
            on_placement=on_placement,
        )
        stream = ActionStream(settings.kafka, settings.updater, updater, standby=standby, membership=membership)
        return cls(updater, standby, stream, owners, ClusterView(updater, standby, fingerprints, owners))

    def store_of(self, partition: int) -> PartitionStore | None:
        """Return the open store of a partition that is owned or followed; callable from any thread."""
        return self.updater.store_of(partition) or self.standby.store_of(partition)
