"""The Python tools of torchherd: models, training, test data, parity and the benchmark."""
