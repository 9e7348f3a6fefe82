package torch

/*
#include <stdlib.h>
#include "torchherd.h"
*/
import "C"

import (
	"archive/zip"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/cpu"
	"golang.org/x/sys/unix"
)

// packageDir is the directory of an AOTInductor package that contains a directory for each of its models.
const packageDir = "data/aotinductor/"

// defaultModel is the name of a package's model unless its exporter chose another one.
const defaultModel = "model"

// packageModels returns the files of each model in a package, by the model's name. There are none if the archive isn't a
// package.
func (a archive) packageModels() map[string][]*zip.File {
	models := map[string][]*zip.File{}
	for _, file := range a.zip.File {
		inside, found := strings.CutPrefix(below(file), packageDir)
		if name, _, isFile := strings.Cut(inside, "/"); found && isFile && !strings.HasSuffix(file.Name, "/") {
			models[name] = append(models[name], file)
		}
	}
	return models
}

// packageFiles returns the files of the model in a package: the one with the default name, or else the only one. It returns
// none if the archive isn't a package, or if it has several models and none with that name.
func (a archive) packageFiles() []*zip.File {
	models := a.packageModels()
	if len(models) == 1 {
		for _, files := range models {
			return files
		}
	}
	return models[defaultModel]
}

// loadPackage unpacks a package and loads it. On the CPU it removes the files as soon as the library is loaded, so that
// a killed process leaves nothing behind. On CUDA the kernels are read from their files when they first run.
func (f *File) loadPackage(files []*zip.File, options Options) (*Module, error) {
	stated, err := f.archive.statement()
	if err != nil {
		return nil, err
	}
	if err := stated.checkPyTorch(); err != nil {
		return nil, err
	}
	if err := checkTarget(files, options.Device); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(options.PackageFolder, "torchherd-package-")
	if err != nil {
		return nil, fmt.Errorf("torch: load: create a directory for the unpacked package: %w", err)
	}
	m, err := loadUnpacked(files, dir, options)
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	m.limits = stated.limits
	m.info.Precision = stated.precision()
	m.dir = dir
	if options.Device == CPU {
		m.dir = ""
		err = os.RemoveAll(dir)
	}
	if err != nil {
		_ = m.Close()
		return nil, err
	}
	return m, nil
}

// loadUnpacked unpacks a package's files into dir and loads them.
func loadUnpacked(files []*zip.File, dir string, options Options) (*Module, error) {
	var library string
	for _, file := range files {
		name := filepath.Join(dir, path.Base(file.Name))
		if err := writeRecord(file, name, 0o700); err != nil {
			return nil, fmt.Errorf("torch: load: unpack the package: %w", err)
		}
		if strings.HasSuffix(name, ".so") {
			library = name
		}
	}
	if library == "" {
		return nil, &Error{Op: "load", Kind: ErrNotAModule, Detail: "the package contains no shared library (.so)"}
	}
	if err := checkLibrary(library); err != nil {
		return nil, &Error{Op: "load", Kind: ErrNotAModule, Detail: "the package's shared library is corrupt: " + err.Error()}
	}
	if err := unix.Access(library, unix.X_OK); err != nil {
		return nil, fmt.Errorf("torch: load: code can't run from %s, whose file system is mounted noexec: choose another folder by --package-folder: %w",
			filepath.Dir(dir), err)
	}
	cLibrary, cDir := C.CString(library), C.CString(dir)
	defer C.free(unsafe.Pointer(cLibrary))
	defer C.free(unsafe.Pointer(cDir))
	return load(options, func(options *C.thd_load_options, out **C.thd_module) *C.thd_error {
		return C.thd_module_load_package(cLibrary, cDir, options, out)
	})
}

// checkLibrary checks that a shared library isn't truncated. The dynamic linker maps the segments that the header
// states, and access beyond the end of the file kills the process.
func checkLibrary(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	library, err := elf.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = library.Close() }()
	for _, segment := range library.Progs {
		if segment.Off+segment.Filesz > uint64(info.Size()) {
			return errors.New("it is truncated")
		}
	}
	return nil
}

// target is the machine that a package was compiled for, as its metadata states it.
type target struct {
	Device  string `json:"AOTI_DEVICE_KEY"` // "cpu", "cuda"
	Machine string `json:"AOTI_MACHINE"`    // "x86_64", "aarch64"
	ISA     string `json:"AOTI_CPU_ISA"`    // such as "AVX2" or "AVX512 AVX512_VNNI"
	System  string `json:"AOTI_PLATFORM"`   // "linux"
	// Capability is the compute capability of the GPU, such as "90"; empty for the CPU.
	Capability string `json:"AOTI_COMPUTE_CAPABILITY"`
}

// checkTarget checks that this machine can run the package: machine code for another processor would crash the process.
func checkTarget(files []*zip.File, device Device) error {
	for _, file := range files {
		if !strings.HasSuffix(file.Name, "_metadata.json") {
			continue
		}
		text, err := readRecord(file, maxExtra)
		var t target
		if err == nil {
			err = json.Unmarshal(text, &t)
		}
		if err != nil {
			return &Error{Op: "load", Kind: ErrNotAModule, Detail: fmt.Sprintf("the package's metadata (%s): %v", path.Base(file.Name), err)}
		}
		mismatch := t.mismatch(device)
		if mismatch == "" && hasKernels(files) {
			if mismatch, err = t.gpuMismatch(device); err != nil {
				return err
			}
		}
		if mismatch != "" {
			return &Error{Op: "load", Kind: ErrDevice, Detail: "the package was compiled for " + mismatch + "; export it for this machine"}
		}
	}
	return nil
}

// hasKernels reports whether a package contains kernels as machine code of a GPU. A package may instead contain kernels
// that the driver compiles for the machine's GPU.
func hasKernels(files []*zip.File) bool {
	return slices.ContainsFunc(files, func(file *zip.File) bool { return strings.HasSuffix(file.Name, ".cubin") })
}

// gpuMismatch describes the GPUs that the kernels were compiled for and the one that the machine has. It returns an
// empty string if the GPU can run the kernels, or if this is unknown.
func (t target) gpuMismatch(device Device) (string, error) {
	compiled, _ := strconv.Atoi(t.Capability)
	if compiled == 0 { // unknown
		return "", nil
	}
	have, err := device.capability()
	if err != nil || have == 0 || kernelsRun(compiled, have) {
		return "", err
	}
	return fmt.Sprintf("GPUs of compute capability %s, and %v has %s", capabilityText(compiled), device, capabilityText(have)), nil
}

// kernelsRun reports whether a GPU of compute capability have can run kernels that were compiled for another one: the
// major numbers must be equal, and the minor number of the kernels must not be above the GPU's.
func kernelsRun(compiled, have int) bool { return compiled/10 == have/10 && compiled <= have }

// capabilityText formats 90 as 9.0.
func capabilityText(capability int) string { return fmt.Sprintf("%d.%d", capability/10, capability%10) }

// mismatch describes the machine that the package was compiled for, if it can't run on this one. It returns an empty
// string if it can.
func (t target) mismatch(device Device) string {
	kind, _, _ := strings.Cut(device.String(), ":")
	machine := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	switch {
	case t.Device != "" && t.Device != kind:
		return t.Device + ", and the device is " + device.String()
	case t.Machine != "" && t.Machine != machine || t.System != "" && t.System != runtime.GOOS:
		return t.System + " on " + t.Machine
	}
	for _, feature := range strings.Fields(t.ISA) {
		if has, known := cpuFeatures[feature]; known && !has {
			return "processors with " + feature + ", and this one lacks it"
		}
	}
	return ""
}

// cpuFeatures maps AOTInductor's names of processor features to whether this processor has them.
var cpuFeatures = map[string]bool{
	"AVX2":        cpu.X86.HasAVX2,
	"AVX512":      cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL,
	"AVX512_VNNI": cpu.X86.HasAVX512VNNI,
	"AVX512_BF16": cpu.X86.HasAVX512BF16,
	"AMX_TILE":    cpu.X86.HasAMXTile,
	"AMX_BF16":    cpu.X86.HasAMXBF16,
}

// limits are the inputs that a package supports. The zero value has no limits.
type limits struct {
	Input []int64  `json:"input"` // the shape of an item
	Batch [2]int64 `json:"batch"` // the smallest and the largest number of items
}

// statement is the record that torchherd_tools export writes into a package. It is zero for a package without the record.
type statement struct {
	limits
	Precision string `json:"precision"`
	MadeBy    string `json:"made_by"` // such as "torchherd_tools export, PyTorch 2.15.0"
}

func (a archive) statement() (statement, error) {
	var s statement
	record, err := a.extra("torchherd.json")
	if err == nil && record != nil {
		if err = json.Unmarshal(record, &s); err != nil {
			err = fmt.Errorf("record extra/torchherd.json: %w", err)
		}
	}
	if err != nil {
		return s, &Error{Op: "load", Kind: ErrNotAModule, Detail: err.Error()}
	}
	return s, nil
}

// checkPyTorch checks that the package was compiled by the PyTorch version of this LibTorch, if the package states it.
// The package calls functions of LibTorch, which may differ between versions.
func (s *statement) checkPyTorch() error {
	_, version, stated := strings.Cut(s.MadeBy, "PyTorch ")
	compiled, have := minorVersion(version), minorVersion(Version())
	if !stated || compiled == "" || compiled == have {
		return nil
	}
	return &Error{Op: "load", Kind: ErrNotAModule, Detail: fmt.Sprintf(
		"the package was made by PyTorch %s, and this is LibTorch %s: export it again with PyTorch %s", compiled, have, have)}
}

// minorVersion returns the first two numbers of a version, or an empty string if it has none.
func minorVersion(version string) string {
	return regexp.MustCompile(`^\d+\.\d+`).FindString(version)
}

func (s *statement) precision() Precision {
	precision, err := NewPrecision(s.Precision)
	if err != nil {
		return AsCompiled
	}
	return precision
}

// check returns an error for an input outside the limits, which the code of a package doesn't check.
func (l *limits) check(op string, dtype DType, shape []int64) error {
	if l.Input == nil {
		return nil
	}
	if dtype != Float32 {
		return &Error{Op: op, Kind: ErrDType, Detail: "the package takes float32, and the input is " + dtype.String()}
	}
	if !slices.Equal(shape[1:], l.Input) {
		return &Error{Op: op, Kind: ErrShape, Detail: fmt.Sprintf("the package takes items of %v, and the input has %v", l.Input, shape[1:])}
	}
	if n := shape[0]; n < l.Batch[0] || n > l.Batch[1] {
		return &Error{Op: op, Kind: ErrShape, Detail: fmt.Sprintf("the package takes batches of %d to %d, and this one has %d", l.Batch[0], l.Batch[1], n)}
	}
	return nil
}
