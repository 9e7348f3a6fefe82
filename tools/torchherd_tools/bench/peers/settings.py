"""The settings of a peer, from the environment, which all of its processes inherit."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Settings that the module servers sets for a peer.

    model is a TorchScript file. workers is the number of worker processes, threads the number of
    threads of a forward in each, batch the maximum batch size, and wait_ms the maximum batching
    delay. The peer listens on port of 127.0.0.1.
    """

    model: str
    port: int
    workers: int
    threads: int
    batch: int
    wait_ms: int


def read() -> Settings:
    """Read the settings from the environment variables PEER_MODEL, PEER_PORT and so on."""
    numbers = ("port", "workers", "threads", "batch", "wait_ms")
    return Settings(
        os.environ["PEER_MODEL"], *(int(os.environ[f"PEER_{name.upper()}"]) for name in numbers)
    )
