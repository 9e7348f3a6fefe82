module github.com/torchherd/torchherd

go 1.26
