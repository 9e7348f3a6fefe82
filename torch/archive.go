package torch

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// maxExtra bounds a record that ReadExtra reads, in bytes.
const maxExtra = 1 << 20

// ReadExtra returns a record of a model's file that isn't PyTorch's own: those that torch.jit.save and
// aoti_compile_and_package keep in the archive's folder extra. It is read from the file at path, or from content when
// path is empty. A file without the record, one that is no archive and one that can't be opened have none, and nil is
// returned: what is wrong with those, Load tells.
func ReadExtra(path string, content []byte, name string) ([]byte, error) {
	archive, err := openArchive(path, content)
	if err != nil {
		return nil, nil // Load tells
	}
	defer archive.close()
	return archive.extra(name)
}

// archive is a model's file: a zip with one folder at the top.
type archive struct {
	zip   *zip.Reader
	close func()
}

func openArchive(path string, content []byte) (*archive, error) {
	if path == "" {
		reader, err := zip.NewReader(bytes.NewReader(content), int64(len(content)))
		return &archive{zip: reader, close: func() {}}, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a file")
	}
	var reader *zip.Reader
	if err == nil {
		reader, err = zip.NewReader(file, info.Size())
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return &archive{zip: reader, close: func() { _ = file.Close() }}, nil
}

// below returns a record's name without the folder at the top.
func below(file *zip.File) string {
	_, name, _ := strings.Cut(file.Name, "/")
	return name
}

func (a *archive) extra(name string) ([]byte, error) {
	for _, file := range a.zip.File {
		if below(file) == "extra/"+name {
			content, err := readRecord(file, maxExtra)
			if err != nil {
				return nil, fmt.Errorf("torch: the record extra/%s: %w", name, err)
			}
			return content, nil
		}
	}
	return nil, nil
}

// readRecord returns a record's content, limit bytes at most.
func readRecord(file *zip.File, limit uint64) ([]byte, error) {
	if file.UncompressedSize64 > limit {
		return nil, fmt.Errorf("%d bytes are more than %d", file.UncompressedSize64, limit)
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
