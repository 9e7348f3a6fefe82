// Package models carries the model that torchherd serves when it is given none. The rest of this folder is Python:
// it trains, exports and checks models.
package models

import _ "embed" // for Bundled

// Bundled is a TorchScript module; models/photo2ink/README.md is its card.
//
//go:embed photo2ink/model.pt
var Bundled []byte

// BundledName is what Bundled is called.
const BundledName = "photo2ink"
