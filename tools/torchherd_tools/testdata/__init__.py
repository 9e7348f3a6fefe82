"""What the tests of torchherd read: the files in testdata/."""
