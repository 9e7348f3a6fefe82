package torch

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"strings"
)

// maxExtra is the largest size of a record that Extra reads, in bytes.
const maxExtra = 1 << 20

// An archive lists the records of a model file, which is a zip file with one directory at the top.
type archive struct{ zip *zip.Reader }

// openArchive reads the list. For a file that isn't an archive, it returns an archive without records.
func openArchive(file io.ReaderAt, size int64) archive {
	reader, err := zip.NewReader(file, size)
	if err != nil {
		reader = &zip.Reader{}
	}
	return archive{reader}
}

// below returns a record's name without the top directory.
func below(file *zip.File) string {
	_, name, _ := strings.Cut(file.Name, "/")
	return name
}

func (a archive) extra(name string) ([]byte, error) {
	for _, file := range a.zip.File {
		if below(file) == "extra/"+name {
			content, err := readRecord(file, maxExtra)
			if err != nil {
				return nil, fmt.Errorf("record extra/%s: %w", name, err)
			}
			return content, nil
		}
	}
	return nil, nil
}

// size returns the total size of all records, uncompressed.
func (a archive) size() int64 {
	sum := int64(0)
	for _, file := range a.zip.File {
		if file.UncompressedSize64 > uint64(math.MaxInt64-sum) { // a corrupt file may state any size
			return math.MaxInt64
		}
		sum += int64(file.UncompressedSize64)
	}
	return sum
}

// readRecord returns a record's content. A record of more than limit bytes is an error.
func readRecord(file *zip.File, limit uint64) ([]byte, error) {
	if file.UncompressedSize64 > limit {
		return nil, fmt.Errorf("%d bytes exceed the limit of %d", file.UncompressedSize64, limit)
	}
	record, err := file.Open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = record.Close() }()
	return io.ReadAll(record)
}

// writeRecord writes a record's content to a new file.
func writeRecord(file *zip.File, path string, mode fs.FileMode) error {
	record, err := file.Open()
	if err != nil {
		return err
	}
	defer func() { _ = record.Close() }()
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, record)
	return errors.Join(err, out.Close())
}
