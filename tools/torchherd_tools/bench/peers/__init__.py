"""The servers that torchherd is compared with. They need requirements-peers.txt."""
