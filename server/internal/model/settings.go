package model

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// Settings is what a model's file says of itself. models/export.py writes it; a file of another maker has none.
type Settings struct {
	// Size is that of the pictures that the model wants: "228x228", or "keep" for any. Empty: not said.
	Size string `json:"size"`
	// Range is what the values of its tensors lie between. Nil: not said.
	Range *[2]float64 `json:"range"`
}

// settingsRecord is where the settings stand in the archive, below the folder at its top: where PyTorch keeps what
// isn't its own, in TorchScript as well as in AOTInductor packages.
const settingsRecord = "extra/torchherd.json"

// maxSettings bounds what is read of the record, in bytes.
const maxSettings = 1 << 16

// ReadSettings returns the settings inside a model's file, or inside its content when path is empty. A file without
// them, one that is no archive and one that can't be read have none: what is wrong with those, Load tells. It returns
// an error for settings that are broken or that can't be served.
func ReadSettings(path string, content []byte) (Settings, error) {
	archive, size, closeArchive, err := open(path, content)
	if err != nil {
		return Settings{}, nil // Load tells
	}
	defer closeArchive()
	reader, err := zip.NewReader(archive, size)
	if err != nil {
		return Settings{}, nil // likewise
	}
	for _, file := range reader.File {
		if _, name, _ := strings.Cut(file.Name, "/"); name == settingsRecord {
			settings, err := readSettings(file)
			if err != nil {
				return Settings{}, fmt.Errorf("model: the settings inside (%s): %w", settingsRecord, err)
			}
			return settings, nil
		}
	}
	return Settings{}, nil
}

func open(path string, content []byte) (io.ReaderAt, int64, func(), error) {
	if path == "" {
		return bytes.NewReader(content), int64(len(content)), func() {}, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, nil, err
	}
	info, err := file.Stat()
	if err != nil {
		_ = file.Close()
		return nil, 0, nil, err
	}
	return file, info.Size(), func() { _ = file.Close() }, nil
}

func readSettings(file *zip.File) (Settings, error) {
	record, err := file.Open()
	if err != nil {
		return Settings{}, err
	}
	defer func() { _ = record.Close() }()
	text, err := io.ReadAll(io.LimitReader(record, maxSettings))
	if err != nil {
		return Settings{}, err
	}
	var settings Settings
	if err := json.Unmarshal(text, &settings); err != nil {
		return Settings{}, err
	}
	if r := settings.Range; r != nil && *r != [2]float64{0, 1} {
		return Settings{}, fmt.Errorf("its values lie in %g..%g, and torchherd gives and takes 0..1: export it inside a module that scales", r[0], r[1])
	}
	return settings, nil
}
