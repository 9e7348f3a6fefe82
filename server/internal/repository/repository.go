// Package repository finds the versions of a model: in a model folder, in a single file, or in memory. It reads no
// content of a model file.
//
//	NAME/model.yaml              optional settings
//	NAME/1/model.pt              versions, numbered from 1
//	NAME/2/model.pt2
//
// All access to a model folder goes through os.Root, so a link that leads out of the folder is an error.
package repository

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/torchherd/torchherd/server/internal/settings"
)

// A Source is the location of one model.
type Source struct {
	name    string
	path    string // absolute path of the folder or the file; empty: in memory
	folder  bool
	content []byte // of a model in memory
}

// Open returns the source at a path, which must be that of a folder or a file.
func Open(path string) (*Source, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	path, err = filepath.Abs(path) // so that the path "." has a name
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return &Source{name: filepath.Base(path), path: path, folder: true}, nil
	}
	file := filepath.Base(path)
	return &Source{name: strings.TrimSuffix(file, filepath.Ext(file)), path: path}, nil
}

// Expect returns the source at a path where nothing may be yet, or nothing that can be read. A path with an extension is
// taken for a file, and another one for a folder.
func Expect(path string) (*Source, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	file, extension := filepath.Base(path), filepath.Ext(path)
	return &Source{name: strings.TrimSuffix(file, extension), path: path, folder: extension == ""}, nil
}

// InMemory returns the source of a bundled model: the content of its file, which must not change.
func InMemory(name string, content []byte) *Source { return &Source{name: name, content: content} }

// Name returns the model's name: the folder's, or the file's without its extension.
func (s *Source) Name() string { return s.name }

// Numbered reports whether the versions have numbers, as they have in a model folder.
func (s *Source) Numbered() bool { return s.folder }

// String returns the location for messages.
func (s *Source) String() string {
	if s.path == "" {
		return "the bundled model"
	}
	return s.path
}

// A Listing is what a source holds at one moment.
type Listing struct {
	// Versions are the versions that have a model file, the newest first. List returns at least one, or an error.
	Versions []Version
	// Settings is the content of model.yaml; nil if there is no such file.
	Settings []byte
	// Slips say what is ignored because of its name but was probably meant to be used, and what to do.
	Slips []string
}

// A Version identifies a model file in the state in which it was listed. Versions that are equal are the same file in the
// same state.
type Version struct {
	// Number is the version's number in a model folder. It is 0 for a single file and for a model in memory.
	Number int
	// Fingerprint changes when the file is replaced or modified. It is empty for a model in memory.
	Fingerprint string
	path        string // of the model file; relative to the folder, if there is one
	// problem is the text of the error that Open returns, for example about a link that leads out of the folder.
	problem string
}

// fingerprint identifies a file and its state by its device, inode, size and time of modification.
func fingerprint(info fs.FileInfo) string {
	device, inode := uint64(0), uint64(0)
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		device, inode = uint64(stat.Dev), stat.Ino //nolint:unconvert // Dev is an int32 on macOS
	}
	return fmt.Sprintf("%x-%x-%x-%x", device, inode, info.Size(), info.ModTime().UnixNano())
}

// List returns what the source holds now.
func (s *Source) List() (Listing, error) {
	switch {
	case s.path == "":
		return Listing{Versions: []Version{{}}}, nil
	case !s.folder:
		info, err := os.Stat(s.path)
		if err != nil {
			return Listing{}, err
		}
		return Listing{Versions: []Version{{Fingerprint: fingerprint(info), path: s.path}}}, nil
	}
	root, err := os.OpenRoot(s.path)
	if err != nil {
		return Listing{}, err
	}
	defer func() { _ = root.Close() }()
	var l Listing
	if l.Settings, err = readSettings(root); err != nil {
		return Listing{}, fmt.Errorf("%s: %w", s.path, err)
	}
	if l.Versions, err = versions(root); err != nil {
		return Listing{}, fmt.Errorf("%s: %w", s.path, err)
	}
	l.Slips = slips(root)
	if len(l.Versions) == 0 {
		if len(l.Slips) > 0 {
			return Listing{}, fmt.Errorf("%s: no versions found; %s", s.path, strings.Join(l.Slips, "; "))
		}
		if names := modelsBelow(root); len(names) > 0 {
			return Listing{}, fmt.Errorf("%s contains the model folders %s; name those to serve, for example %s", s.path, strings.Join(names, ", "), filepath.Join(s.path, names[0]))
		}
		return Listing{}, fmt.Errorf("%s: no versions found; add a model file as 1/model.pt or 1/model.pt2", s.path)
	}
	return l, nil
}

// modelsBelow returns the names of the model folders inside this folder. Other model servers take the folder that contains
// all models, so users may name that one.
func modelsBelow(root *os.Root) []string {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil
	}
	var names []string
	for _, entry := range entries {
		below, err := root.OpenRoot(entry.Name())
		if err != nil {
			continue
		}
		found, err := versions(below)
		_ = below.Close()
		if err == nil && len(found) > 0 {
			names = append(names, entry.Name())
		}
	}
	return names
}

// maxSettings is the maximum size of a model.yaml in bytes.
const maxSettings = 1 << 20

func readSettings(root *os.Root) ([]byte, error) {
	file, err := root.OpenFile(settings.FileName, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, explainLink(settings.FileName, err)
	}
	defer func() { _ = file.Close() }()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file; replace or delete it", settings.FileName)
	}
	text, err := io.ReadAll(io.LimitReader(file, maxSettings+1))
	if len(text) > maxSettings {
		return nil, fmt.Errorf("%s is larger than %d bytes; shorten it", settings.FileName, maxSettings)
	}
	return text, err // not nil, even if the file is empty
}

// versions returns the versions of a folder, the newest first. It ignores every name that isn't a number, so a copy in
// progress can have such a name.
func versions(root *os.Root) ([]Version, error) {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, err
	}
	var found []Version
	for _, entry := range entries {
		number, err := strconv.Atoi(entry.Name())
		if err != nil || number < 1 || strconv.Itoa(number) != entry.Name() {
			continue
		}
		if v := version(root, number); v.path != "" || v.problem != "" {
			found = append(found, v)
		}
	}
	slices.SortFunc(found, func(a, b Version) int { return b.Number - a.Number })
	return found, nil
}

// modelFiles are the names that a version's file can have.
var modelFiles = []string{"model.pt", "model.pt2"}

// version finds the model file of a version. If there is none, the result has neither path nor problem.
func version(root *os.Root, number int) Version {
	v := Version{Number: number}
	for _, name := range modelFiles {
		file := path.Join(strconv.Itoa(number), name)
		info, err := root.Stat(file)
		switch {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
			continue
		case err != nil:
			return Version{Number: number, problem: explainLink(file, err).Error()}
		case v.path != "":
			return Version{Number: number, problem: fmt.Sprintf("version %d has two files, %s and %s; delete one", number, path.Base(v.path), name)}
		}
		v.path, v.Fingerprint = file, fingerprint(info)
	}
	return v
}

// ErrChanged is returned by Open and Unchanged for a file that is no longer in the state in which it was listed.
var ErrChanged = errors.New("the model file was replaced, modified or deleted during loading; load the model again")

// A File is a version's model file, open for reading. Code that needs more than a reader uses OS, or Bytes for a model in
// memory.
type File struct {
	io.Reader
	file    *os.File
	content []byte
}

// OS returns the open file, or nil for a model in memory.
func (f *File) OS() *os.File { return f.file }

// Bytes returns the content of a model in memory, or nil.
func (f *File) Bytes() []byte { return f.content }

// Close closes the file. It does nothing if the file is closed already, by another user of OS for example.
func (f *File) Close() error {
	if f.file == nil {
		return nil
	}
	if err := f.file.Close(); !errors.Is(err, fs.ErrClosed) {
		return err
	}
	return nil
}

// Open opens a version's model file. The caller must Close it.
func (s *Source) Open(v Version) (*File, error) {
	if s.path == "" {
		return &File{Reader: bytes.NewReader(s.content), content: s.content}, nil
	}
	if v.problem != "" {
		return nil, errors.New(v.problem)
	}
	file, err := s.open(v.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrChanged
	}
	if err != nil {
		return nil, err
	}
	if info, err := file.Stat(); err != nil || fingerprint(info) != v.Fingerprint {
		_ = file.Close()
		return nil, errors.Join(ErrChanged, err)
	}
	return &File{Reader: file, file: file}, nil
}

// open opens a file. It doesn't block on a pipe without a writer.
func (s *Source) open(name string) (*os.File, error) {
	const flags = os.O_RDONLY | syscall.O_NONBLOCK
	if !s.folder {
		return os.OpenFile(name, flags, 0)
	}
	root, err := os.OpenRoot(s.path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	return root.OpenFile(name, flags, 0)
}

// Unchanged returns ErrChanged if the version's file is no longer at its path, in the state in which it was listed.
func (s *Source) Unchanged(v Version) error {
	if v.Fingerprint == "" {
		return nil
	}
	file, err := s.Open(v)
	if err != nil {
		return err
	}
	return file.Close()
}
