// Package repository is where a model lies: a folder with its versions and settings, a bare file, or bytes inside the
// program. It knows files and folders, and not what is in a model's file.
//
//	NAME/model.yaml              settings; may be left out
//	NAME/1/model.pt              the model's versions, numbered from 1
//	NAME/2/model.pt2
//
// Of a folder nothing is read that lies outside it, whatever its links say: all goes through os.Root.
package repository

import (
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

// A Source is where one model lies.
type Source struct {
	name    string
	path    string // of the folder or the file; empty: the content is all
	folder  bool
	content []byte
}

// Open looks at a path, which must name a folder or a file.
func Open(path string) (*Source, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	path, err = filepath.Abs(path) // the folder's own name, where "." is given
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return &Source{name: filepath.Base(path), path: path, folder: true}, nil
	}
	file := filepath.Base(path)
	return &Source{name: strings.TrimSuffix(file, filepath.Ext(file)), path: path}, nil
}

// InMemory is a model whose file's bytes are part of the program.
func InMemory(name string, content []byte) *Source { return &Source{name: name, content: content} }

// Name is the model's name: the folder's, or the file's without its ending.
func (s *Source) Name() string { return s.name }

// Numbered tells whether the versions have numbers of their own, as those in a folder.
func (s *Source) Numbered() bool { return s.folder }

// Content is the bytes of a model that lies in memory, else nil.
func (s *Source) Content() []byte { return s.content }

// String is the place, for messages.
func (s *Source) String() string {
	if s.path == "" {
		return "the bundled model"
	}
	return s.path
}

// A Listing is what lies there at one moment.
type Listing struct {
	// Versions are those that have a file, the newest first; never none, unless List returns an error.
	Versions []Version
	// Settings is the text of model.yaml; nil: there is none.
	Settings []byte
}

// A Version is a model's file as it was when it was listed.
type Version struct {
	// Number is the version's in a folder; 0 for a bare file and for one in memory, of which there is only one.
	Number int
	path   string      // below the folder, or the bare file's
	info   fs.FileInfo // nil: in memory, or there is a problem
	// problem is why the version can't be opened, such as a link that leads outside; nil: nothing is known against it.
	problem error
}

// Same tells whether the file is the one that other was, untouched.
func (v Version) Same(other Version) bool {
	if v.info == nil || other.info == nil {
		return v.info == other.info && v.Number == other.Number && fmt.Sprint(v.problem) == fmt.Sprint(other.problem)
	}
	return v.Number == other.Number && sameFile(v.info, other.info)
}

func sameFile(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// List looks what lies there now.
func (s *Source) List() (Listing, error) {
	switch {
	case s.path == "":
		return Listing{Versions: []Version{{}}}, nil
	case !s.folder:
		info, err := os.Stat(s.path)
		return Listing{Versions: []Version{{path: s.path, info: info}}}, err
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
	if len(l.Versions) == 0 {
		if name := modelBelow(root); name != "" {
			return Listing{}, fmt.Errorf("%s holds folders of models; name those instead, such as %s", s.path, filepath.Join(s.path, name))
		}
		return Listing{}, fmt.Errorf("%s: no version is there; put a model into it as 1/model.pt or 1/model.pt2", s.path)
	}
	return l, nil
}

// modelBelow is the name of a folder in this one that has a model's versions, or empty: other servers take the folder of
// all models.
func modelBelow(root *os.Root) string {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return ""
	}
	for _, entry := range entries {
		below, err := root.OpenRoot(entry.Name())
		if err != nil {
			continue
		}
		found, err := versions(below)
		_ = below.Close()
		if err == nil && len(found) > 0 {
			return entry.Name()
		}
	}
	return ""
}

// maxSettings bounds a model.yaml, in bytes.
const maxSettings = 1 << 20

func readSettings(root *os.Root) ([]byte, error) {
	file, err := root.OpenFile(settings.FileName, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", settings.FileName)
	}
	text, err := io.ReadAll(io.LimitReader(file, maxSettings+1))
	if len(text) > maxSettings {
		return nil, fmt.Errorf("%s has more than %d bytes", settings.FileName, maxSettings)
	}
	return slices.Clip(append([]byte{}, text...)), err
}

// versions returns the numbered folders that have a model's file, the newest first. Other names are no versions: a copy
// that is still being made has one of those.
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
		if v := version(root, number); v.info != nil || v.problem != nil {
			found = append(found, v)
		}
	}
	slices.SortFunc(found, func(a, b Version) int { return b.Number - a.Number })
	return found, nil
}

// version looks for a version's file. It has neither info nor problem if there is none.
func version(root *os.Root, number int) Version {
	v := Version{Number: number}
	for _, name := range []string{"model.pt", "model.pt2"} {
		place := path.Join(strconv.Itoa(number), name)
		info, err := root.Stat(place)
		switch {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
			continue
		case err != nil:
			return Version{Number: number, problem: err}
		case v.info != nil:
			return Version{Number: number, problem: fmt.Errorf("the version has two files, %s and %s; take one away", path.Base(v.path), name)}
		}
		v.path, v.info = place, info
	}
	return v
}

// ErrChanged is Open's and Unchanged's answer for a file that isn't any more as it was listed.
var ErrChanged = errors.New("the file was replaced, changed or deleted while it was being loaded; load it again")

// Open opens a version's file for reading. Not for a model in memory.
func (s *Source) Open(v Version) (*os.File, error) {
	if v.problem != nil {
		return nil, v.problem
	}
	file, err := s.open(v.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrChanged
	}
	if err != nil {
		return nil, err
	}
	if info, err := file.Stat(); err != nil || !sameFile(info, v.info) {
		_ = file.Close()
		return nil, errors.Join(ErrChanged, err)
	}
	return file, nil
}

// open doesn't wait for somebody at a pipe's other end.
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

// Unchanged returns ErrChanged unless the version's file still is where and as it was listed.
func (s *Source) Unchanged(v Version) error {
	if v.info == nil {
		return nil
	}
	file, err := s.Open(v)
	if err != nil {
		return err
	}
	return file.Close()
}
