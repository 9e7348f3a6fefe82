// Package models embeds the bundled model, which torchherd serves if no other is named. The rest of this folder is Python
// code that trains, exports and checks models.
package models

import _ "embed" // for Bundled

// Bundled is the content of the bundled model's TorchScript file. Its model card is models/photo2ink/README.md.
//
//go:embed photo2ink/model.pt
var Bundled []byte

// BundledName is the name of the bundled model.
const BundledName = "photo2ink"
