// Torchherd serves PyTorch image-to-image models over HTTP, in batches.
package main

import "github.com/torchherd/torchherd/server/internal/cli"

// version is set by the linker.
var version = "unknown"

func main() { cli.Main(version) }
