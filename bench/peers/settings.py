"""How a peer is to serve: from the environment, which all processes of a peer share."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What bench/servers.py chooses for a peer.

    model is a TorchScript file. workers is the number of processes that work on pictures, threads
    how many threads a forward may use in each, batch the largest batch, and wait_ms how long a
    picture waits for company. The peer listens on port of 127.0.0.1.
    """

    model: str
    port: int
    workers: int
    threads: int
    batch: int
    wait_ms: int


def read() -> Settings:
    """The settings in the environment variables PEER_MODEL, PEER_PORT and so on."""
    numbers = ("port", "workers", "threads", "batch", "wait_ms")
    return Settings(
        os.environ["PEER_MODEL"], *(int(os.environ[f"PEER_{name.upper()}"]) for name in numbers)
    )
