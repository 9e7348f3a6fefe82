package model

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// exporterRecord is what models/export.py says in a file of how it made it.
const exporterRecord = "torchherd.json"

// effective returns the settings that a model's file is served with: the defaults; over them what the file says of
// itself, the exporter's record and then a model.yaml inside; over them the text of the model.yaml beside it; over them
// what the host says.
func effective(file *torch.File, beside []byte, host *Host) (settings.Settings, error) {
	s := settings.Default()
	if err := readExporters(&s, file); err != nil {
		return s, err
	}
	inside, err := file.Extra(settings.FileName)
	if err == nil {
		err = s.Read(inside)
	}
	if err == nil && (s.Digest != "" || s.Versions.Latest != 1) {
		err = errors.New("digest and versions are said beside a file, in the folder's " + settings.FileName)
	}
	if err != nil {
		return s, fmt.Errorf("model: the file's own %s (extra/%s): %w", settings.FileName, settings.FileName, err)
	}
	if err := s.Read(beside); err != nil {
		return s, fmt.Errorf("model: %s: %w", settings.FileName, err)
	}
	if host.Override != nil {
		host.Override(&s)
	}
	if err := s.Validate(); err != nil {
		return s, fmt.Errorf("model: its settings: %w", err)
	}
	return s, nil
}

// readExporters changes those settings that the exporter has written down.
func readExporters(s *settings.Settings, file *torch.File) error {
	text, err := file.Extra(exporterRecord)
	if err != nil || text == nil {
		return err
	}
	var record struct {
		Size  string     `json:"size"`
		Range *[]float64 `json:"range"` // of both tensors' values
	}
	err = json.Unmarshal(text, &record)
	if err == nil && record.Size != "" {
		err = s.Size.UnmarshalText([]byte(record.Size))
	}
	if err == nil && record.Range != nil {
		s.InputRange, err = settings.NewRange(*record.Range)
		s.OutputRange = s.InputRange
	}
	if err != nil {
		return fmt.Errorf("model: what its exporter wrote into it (extra/%s): %w", exporterRecord, err)
	}
	return nil
}

// checkDigest compares a file's digest with the one that is wanted, if one is.
func checkDigest(content io.Reader, want settings.Digest) error {
	if want == "" {
		return nil
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, content); err != nil {
		return fmt.Errorf("model: %w", err)
	}
	if have := settings.NewDigest(sum.Sum(nil)); have != want {
		return fmt.Errorf("model: the file's digest is %s, and %s is wanted: it isn't the file that the settings are for", have, want)
	}
	return nil
}
