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
)

// packageFolder is where an AOTInductor package keeps the model called "model", the only one that there is unless its
// maker chose otherwise.
const packageFolder = "data/aotinductor/model/"

// packageFiles returns the files of the package that the archive is; none when it is no package.
func (a archive) packageFiles() []*zip.File {
	var files []*zip.File
	for _, file := range a.zip.File {
		if strings.HasPrefix(below(file), packageFolder) && !strings.HasSuffix(file.Name, "/") {
			files = append(files, file)
		}
	}
	return files
}

// loadPackage unpacks a package and loads it. The loaded library keeps its file's content, so on the CPU the folder is
// removed at once, and a process that is killed leaves nothing behind; CUDA reads its kernels when they first run.
func (f *File) loadPackage(files []*zip.File, options Options) (*Module, error) {
	stated, err := f.archive.statement()
	if err != nil {
		return nil, err
	}
	if err := stated.checkMaker(); err != nil {
		return nil, err
	}
	if err := checkTarget(files, options.Device); err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp(options.PackageFolder, "torchherd-package-")
	if err != nil {
		return nil, fmt.Errorf("torch: load: a package must be unpacked, and there is no place for it: %w", err)
	}
	m, err := loadUnpacked(files, folder, options)
	if err != nil {
		_ = os.RemoveAll(folder)
		return nil, err
	}
	m.limits = stated.limits
	m.info.Precision = stated.precision()
	m.folder = folder
	if options.Device == CPU {
		m.folder = ""
		err = os.RemoveAll(folder)
	}
	if err != nil {
		_ = m.Close()
		return nil, err
	}
	return m, nil
}

func loadUnpacked(files []*zip.File, folder string, options Options) (*Module, error) {
	var library string
	for _, file := range files {
		name := filepath.Join(folder, path.Base(file.Name))
		if err := writeRecord(file, name, 0o700); err != nil {
			return nil, fmt.Errorf("torch: load: unpacking the package: %w", err)
		}
		if strings.HasSuffix(name, ".so") {
			library = name
		}
	}
	if library == "" {
		return nil, &Error{Op: "load", Kind: ErrNotAModule, Detail: "the package holds no shared library (.so)"}
	}
	if err := checkLibrary(library); err != nil {
		return nil, &Error{Op: "load", Kind: ErrNotAModule, Detail: "the package's shared library is damaged: " + err.Error()}
	}
	cLibrary, cFolder := C.CString(library), C.CString(folder)
	defer C.free(unsafe.Pointer(cLibrary))
	defer C.free(unsafe.Pointer(cFolder))
	return load(options, func(options *C.thd_load_options, out **C.thd_module) *C.thd_error {
		return C.thd_module_load_package(cLibrary, cFolder, options, out)
	})
}

// checkLibrary makes sure that a shared library is whole. The dynamic linker maps what the header says, and beyond the
// file's end a process is killed.
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
			return errors.New("it ends too early")
		}
	}
	return nil
}

// target is what a package's metadata says it was compiled for.
type target struct {
	Device  string `json:"AOTI_DEVICE_KEY"` // "cpu", "cuda"
	Machine string `json:"AOTI_MACHINE"`    // "x86_64", "aarch64"
	ISA     string `json:"AOTI_CPU_ISA"`    // such as "AVX2" or "AVX512 AVX512_VNNI"
	System  string `json:"AOTI_PLATFORM"`   // "linux"
	// Capability is of the GPU that it was compiled on, such as "90"; empty for the CPU.
	Capability string `json:"AOTI_COMPUTE_CAPABILITY"`
}

// checkTarget makes sure that this machine can run the package: machine code for another processor would end the
// process.
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
		problem := t.problem(device)
		if problem == "" && hasKernels(files) {
			if problem, err = t.problemOfGPU(device); err != nil {
				return err
			}
		}
		if problem != "" {
			return &Error{Op: "load", Kind: ErrDevice, Detail: "the package was compiled for " + problem + "; export it for this machine"}
		}
	}
	return nil
}

// hasKernels tells whether there are kernels in a GPU's own machine code. A package can also carry them in a form that
// is compiled for the GPU that is there.
func hasKernels(files []*zip.File) bool {
	return slices.ContainsFunc(files, func(file *zip.File) bool { return strings.HasSuffix(file.Name, ".cubin") })
}

// problemOfGPU says what of the target the GPU isn't; empty: nothing, or that can't be known.
func (t target) problemOfGPU(device Device) (string, error) {
	compiled, _ := strconv.Atoi(t.Capability)
	if compiled == 0 { // not said
		return "", nil
	}
	have, err := device.capability()
	if err != nil || have == 0 || kernelsRun(compiled, have) {
		return "", err
	}
	return fmt.Sprintf("GPUs of compute capability %s, and %v has %s", capabilityText(compiled), device, capabilityText(have)), nil
}

// kernelsRun tells whether a GPU runs kernels that were compiled for a compute capability: for the same major one, and
// a minor one that isn't above its own.
func kernelsRun(compiled, have int) bool { return compiled/10 == have/10 && compiled <= have }

// capabilityText writes 90 as 9.0.
func capabilityText(capability int) string { return fmt.Sprintf("%d.%d", capability/10, capability%10) }

// problem says what of the target isn't here; empty: nothing.
func (t target) problem(device Device) string {
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
			return "processors with " + feature + ", which this one doesn't have"
		}
	}
	return ""
}

// cpuFeatures are those that AOTInductor names, in its spelling.
var cpuFeatures = map[string]bool{
	"AVX2":        cpu.X86.HasAVX2,
	"AVX512":      cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL,
	"AVX512_VNNI": cpu.X86.HasAVX512VNNI,
	"AVX512_BF16": cpu.X86.HasAVX512BF16,
	"AMX_TILE":    cpu.X86.HasAMXTile,
	"AMX_BF16":    cpu.X86.HasAMXBF16,
}

// limits are what a package's input must be. The zero value has none.
type limits struct {
	Input []int64  `json:"input"` // sizes of an item's dimensions
	Batch [2]int64 `json:"batch"` // fewest and most items
}

// statement is the record that models/export.py writes into a package; all zero where there is none.
type statement struct {
	limits
	Precision string `json:"precision"`
	MadeBy    string `json:"made_by"` // such as "torchherd models/export.py, PyTorch 2.15.0"
}

func (a archive) statement() (statement, error) {
	var s statement
	record, err := a.extra("torchherd.json")
	if err == nil && record != nil {
		if err = json.Unmarshal(record, &s); err != nil {
			err = fmt.Errorf("the record extra/torchherd.json: %w", err)
		}
	}
	if err != nil {
		return s, &Error{Op: "load", Kind: ErrNotAModule, Detail: err.Error()}
	}
	return s, nil
}

// checkMaker makes sure that a package that tells its PyTorch was compiled by this one's: its code calls functions of
// LibTorch, and of another version they may be others.
func (s *statement) checkMaker() error {
	_, version, said := strings.Cut(s.MadeBy, "PyTorch ")
	compiled, have := minorVersion(version), minorVersion(Version())
	if !said || compiled == "" || compiled == have {
		return nil
	}
	return &Error{Op: "load", Kind: ErrNotAModule, Detail: fmt.Sprintf(
		"the package was made by PyTorch %s, and this is LibTorch %s: export it anew with PyTorch %s", compiled, have, have)}
}

// minorVersion is the first two numbers of a version; empty when there are none.
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

// check compares an input with the limits, of which a package's code takes no notice.
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
