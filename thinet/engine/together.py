"""What the processes of a run tell each other."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from thinet.artifacts.store import dump_state
from thinet.base.collective import agree, decided
from thinet.base.errors import ThinetError
from thinet.engine.settings import Devices

T = TypeVar("T")


class Together:
    """One of the processes that run together, one a device; all of them call the same methods.

    Attributes:
        devices: Where they run.
    """

    devices: Devices

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """That of this process."""

    @property
    def world(self) -> int:
        """How many processes there are."""
        return self.devices.devices * self.devices.num_nodes

    @property
    def rank(self) -> int:
        """This process, among all."""
        ready = torch.distributed.is_available() and torch.distributed.is_initialized()
        return torch.distributed.get_rank() if ready else 0

    def agree(self, value: T) -> T:
        """The value of the first process, on every process."""
        return agree(value, self.world)

    def decide(self, choose: Callable[[], T]) -> T:
        """What the first process finds, or the error that it meets: see :func:`decided`."""
        return decided(choose, self.rank == 0, self.agree)

    def exists(self, path: Path) -> bool:
        """Whether the first process sees a file that all of them are to read.

        Raises:
            ThinetError: On every process, if another one does not see it.
        """
        seen = self.gather(path.exists())
        if seen[0] and not all(seen):
            raise ThinetError(
                f"{path} is not to be seen by every process of this run: type the same command "
                "again, or give all machines the same paths.outputs and paths.cache."
            )
        return seen[0]

    def gather(self, value: T) -> list[T]:
        """The values of all processes, on every process."""
        found = [value] * self.world
        if self.world > 1:
            torch.distributed.all_gather_object(found, value)
        return found

    def digests(self, network: nn.Module) -> list[str]:
        """SHA-256 of the network's weights on each process, the same for all if all is well."""
        return self.gather(hashlib.sha256(dump_state(network)).hexdigest())

    def share(self, network: nn.Module) -> None:
        """The first process's tensors for all: DDP leaves each its own BatchNorm statistics."""
        if self.world > 1:
            network.to(self.device)
            for tensor in network.state_dict(keep_vars=True).values():
                torch.distributed.broadcast(tensor.data, 0)

    def barrier(self) -> None:
        """Wait for the other processes."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
