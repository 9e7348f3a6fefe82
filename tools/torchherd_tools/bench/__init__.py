"""The comparison of torchherd with other servers."""
