package loader

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/torchherd/torchherd/server/internal/repository"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// A modelFile is a version's file as a model and as bytes.
type modelFile struct {
	*torch.File
	content *repository.File
}

// open opens a version's file. The caller must Close it.
func (l *Loader) open(version repository.Version) (modelFile, error) {
	content, err := l.source.Open(version)
	if err != nil {
		return modelFile{}, err
	}
	if memory := content.Bytes(); memory != nil {
		return modelFile{torch.NewBytes(memory), content}, nil
	}
	file, err := torch.NewFile(content.OS()) // which closes it, also on an error
	return modelFile{file, content}, err
}

// exporterRecord is the record in which the exporter describes a model.
const exporterRecord = "torchherd.json"

// effective returns the settings that a file is served with: the defaults, changed by the exporter's record in the file,
// by a model.yaml in the file, by the model.yaml beside it, and by Shared.Override, in this order.
func (l *Loader) effective(file *torch.File, beside string) (settings.Settings, error) {
	cfg := settings.Default()
	if err := readExporterRecord(&cfg, file); err != nil {
		return cfg, err
	}
	inside, err := file.Extra(settings.FileName)
	if err == nil {
		err = cfg.Read(inside)
	}
	if err == nil && (cfg.Digest != "" || cfg.Versions.Latest != 1) {
		err = errors.New("digest and versions belong in the " + settings.FileName + " beside the file")
	}
	if err != nil {
		return cfg, fmt.Errorf("loader: the file's own %s (extra/%s): %w", settings.FileName, settings.FileName, err)
	}
	if err := cfg.Read([]byte(beside)); err != nil {
		return cfg, fmt.Errorf("loader: %s: %w", settings.FileName, err)
	}
	if l.shared.Override != nil {
		l.shared.Override(&cfg)
	}
	if err := cfg.Validate(); err != nil {
		return cfg, fmt.Errorf("loader: settings: %w", err)
	}
	if cfg.Batching == settings.NoBatching {
		cfg.MaxBatchSize = 1
	}
	return cfg, nil
}

// readExporterRecord changes the settings that the exporter has recorded.
func readExporterRecord(cfg *settings.Settings, file *torch.File) error {
	text, err := file.Extra(exporterRecord)
	if err != nil || text == nil {
		return err
	}
	var record struct {
		Size  string     `json:"size"`
		Range *[]float64 `json:"range"` // of the input and the output
	}
	err = json.Unmarshal(text, &record)
	if err == nil && record.Size != "" {
		err = cfg.Size.UnmarshalText([]byte(record.Size))
	}
	if err == nil && record.Range != nil {
		cfg.InputRange, err = settings.NewRange(*record.Range)
		cfg.OutputRange = cfg.InputRange
	}
	if err != nil {
		return fmt.Errorf("loader: the exporter's record in the file (extra/%s): %w", exporterRecord, err)
	}
	return nil
}

// checkDigest compares a file's digest with the wanted one, if there is one.
func checkDigest(content io.Reader, want settings.Digest) error {
	if want == "" {
		return nil
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, content); err != nil {
		return fmt.Errorf("loader: reading the file for its digest: %w", err)
	}
	if have := settings.NewDigest(sum.Sum(nil)); have != want {
		return fmt.Errorf("loader: the file's digest is %s, but the settings ask for %s; put the right file there, or change digest in %s", have, want, settings.FileName)
	}
	return nil
}
