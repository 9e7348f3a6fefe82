package model

import (
	"encoding/json"
	"fmt"
)

// Settings is what a model's file says of itself. models/export.py writes it; a file of another maker has none.
type Settings struct {
	// Size is that of the pictures that the model wants: "228x228", or "keep" for any. Empty: not said.
	Size string `json:"size"`
	// Range is what the values of its tensors lie between. Nil: not said.
	Range *[2]float64 `json:"range"`
}

// settingsRecord is the record that the settings stand in.
const settingsRecord = "torchherd.json"

// ReadSettings returns the settings inside a model's file, or inside its content when path is empty. A file without
// them, one that is no archive and one that can't be read have none: what is wrong with those, Load tells. It returns
// an error for settings that are broken or that can't be served.
func ReadSettings(path string, content []byte) (Settings, error) {
	file, err := open(path, content)
	if err != nil {
		return Settings{}, nil // Load tells
	}
	defer func() { _ = file.Close() }()
	text, err := file.Extra(settingsRecord)
	if err != nil || text == nil {
		return Settings{}, err
	}
	var settings Settings
	if err := json.Unmarshal(text, &settings); err != nil {
		return Settings{}, fmt.Errorf("model: the settings inside (extra/%s): %w", settingsRecord, err)
	}
	if r := settings.Range; r != nil && *r != [2]float64{0, 1} {
		return Settings{}, fmt.Errorf("model: its values lie in %g..%g, and torchherd gives and takes 0..1: export it inside a module that scales", r[0], r[1])
	}
	return settings, nil
}
