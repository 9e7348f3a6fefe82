package repository

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/torchherd/torchherd/server/internal/settings"
)

// nearlyNumber is a version's folder with zeros or a v before the number.
var nearlyNumber = regexp.MustCompile(`^(?:v0*|0+)([1-9][0-9]*)$`)

// modelExtensions are those that people give to model files.
var modelExtensions = []string{".pt", ".pth", ".pt2"}

// slips returns what is in a folder under a name that isn't used but was probably meant to be, each with what to do.
func slips(root *os.Root) []string {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil // versions reports it
	}
	exists := func(name string) bool {
		_, err := root.Lstat(name)
		return err == nil
	}
	var found, files []string // files: beside the versions
	rename := func(from, to string) {
		if exists(to) {
			found = append(found, fmt.Sprintf("%s is ignored beside %s; delete one of them", from, to))
			return
		}
		found = append(found, fmt.Sprintf("%s is ignored; rename it to %s", from, to))
	}
	for _, entry := range entries {
		name := entry.Name()
		number, err := strconv.Atoi(name)
		switch match := nearlyNumber.FindStringSubmatch(name); {
		case name == "model.yml":
			rename(name, settings.FileName)
		case match != nil && len(modelsIn(root, name)) > 0:
			rename(name, match[1])
		case isModelName(name) && !entry.IsDir():
			files = append(files, name)
		case err == nil && number > 0 && strconv.Itoa(number) == name:
			if inside := modelsIn(root, name); len(inside) == 1 && !slices.Contains(modelFiles, inside[0]) {
				rename(path.Join(name, inside[0]), path.Join(name, modelName(inside[0])))
			} else if len(inside) > 1 && !slices.ContainsFunc(modelFiles, func(file string) bool { return slices.Contains(inside, file) }) {
				found = append(found, fmt.Sprintf("%s has several files, %s, and none is model.pt or model.pt2; rename one", name, strings.Join(inside, ", ")))
			}
		}
	}
	switch {
	case len(files) == 1:
		rename(files[0], path.Join("1", modelName(files[0])))
	case len(files) > 1:
		found = append(found, fmt.Sprintf("%s and %d other model files are not in version folders; rename one to 1/%s, or serve a file by its own path", files[0], len(files)-1, modelName(files[0])))
	}
	return found
}

func isModelName(name string) bool { return slices.Contains(modelExtensions, path.Ext(name)) }

// modelName returns the name that a version's file must have instead.
func modelName(name string) string {
	if path.Ext(name) == ".pt2" {
		return "model.pt2"
	}
	return "model.pt"
}

// modelsIn returns the names in a folder that have the extension of a model.
func modelsIn(root *os.Root, folder string) []string {
	entries, err := fs.ReadDir(root.FS(), folder)
	if err != nil {
		return nil // not a folder, or one outside
	}
	var names []string
	for _, entry := range entries {
		if isModelName(entry.Name()) {
			names = append(names, entry.Name())
		}
	}
	return names
}

// explainLink explains why a file of a folder can't be reached, if a link leads out of the folder: that is the only error
// of os.Root that doesn't come from the operating system.
func explainLink(file string, err error) error {
	if errors.As(err, new(syscall.Errno)) {
		return err
	}
	return fmt.Errorf("%s is reached by a link that leads out of the model's folder, which isn't followed (%w); put the file itself, or a link within the folder, there", file, err)
}
