package goldens

import (
	"archive/zip"
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Package writes a copy of testdata/modules/negate.pt2 whose records change has changed, and returns its path. The keys are
// the full names of records.
func Package(t testing.TB, change func(records map[string][]byte)) string {
	t.Helper()
	content := Read(t, "modules/negate.pt2")
	original, err := zip.NewReader(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	records := map[string][]byte{}
	for _, file := range original.File {
		record, err := file.Open()
		if err != nil {
			t.Fatal(err)
		}
		if records[file.Name], err = io.ReadAll(record); err != nil {
			t.Fatal(err)
		}
		_ = record.Close()
	}
	change(records)
	var file bytes.Buffer
	out := zip.NewWriter(&file)
	for _, name := range slices.Sorted(maps.Keys(records)) {
		record, created := out.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		if created != nil {
			t.Fatal(created)
		}
		_, written := record.Write(records[name])
		err = errors.Join(err, written)
	}
	path := filepath.Join(t.TempDir(), "changed.pt2")
	if err = errors.Join(err, out.Close(), os.WriteFile(path, file.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	return path
}

// RecordOfPackage is the name of the record in negate.pt2 with which torchherd_tools states what a package takes.
const RecordOfPackage = "archive/extra/torchherd.json"
