package torch_test

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/torch"
)

// negate.pt2 supports batches of 1 to 4 images of 32x24 and is compiled for x86-64 with AVX2 on Linux.
const packageWidth, packageHeight, packageBatch = 32, 24, 4

// loadPackage loads negate.pt2. It skips the test on a machine that the package wasn't compiled for.
func loadPackage(t *testing.T, path string, options torch.Options) *torch.Module {
	t.Helper()
	m, err := torch.Load(path, options)
	if err != nil && strings.Contains(err.Error(), "the package was compiled for") {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// images returns a batch of noise.
func images(count, height, width int) torch.Images {
	batch := torch.Images{Height: height, Width: width, Channels: 3}
	for i := range count {
		batch.Items = append(batch.Items, goldens.Noise(uint32(i), height*width*3))
	}
	return batch
}

func TestPackage(t *testing.T) {
	m := loadPackage(t, goldens.Path("modules/negate.pt2"), torch.Options{PackageFolder: t.TempDir()})
	if info := m.Info(); info.Precision != torch.FP32 || info.Device != torch.CPU {
		t.Errorf("info: %+v", info)
	}
	reference := load(t, "negate.pt")
	for count := 1; count <= packageBatch; count++ {
		batch := images(count, packageHeight, packageWidth)
		expectSame(t, "negate.pt2", m, reference, batch)
	}
}

// The code of a package doesn't check the shape of its input, so other shapes must not reach it.
func TestPackageRefusesOtherInputs(t *testing.T) {
	m := loadPackage(t, goldens.Path("modules/negate.pt2"), torch.Options{})
	for name, batch := range map[string]torch.Images{
		"width":      images(1, packageHeight, packageWidth+1),
		"height":     images(1, packageHeight-1, packageWidth),
		"transposed": images(1, packageWidth, packageHeight),
		"batch":      images(packageBatch+1, packageHeight, packageWidth),
	} {
		if _, err := forward(m, batch, nil); err == nil {
			t.Errorf("%s: accepted", name)
		} else {
			expectKind(t, err, torch.ErrShape)
		}
	}
	_, err := m.Forward(&torch.Tensor{DType: torch.Uint8, Shape: []int64{1, 3, packageHeight, packageWidth}, Data: make([]byte, 3*packageHeight*packageWidth)})
	expectKind(t, err, torch.ErrDType)
	if _, err := forward(m, images(1, packageHeight, packageWidth), nil); err != nil {
		t.Errorf("after the errors: %v", err)
	}
}

// A package of another exporter doesn't state its input, so it must check the input itself.
func TestPackageWithoutARecord(t *testing.T) {
	path := goldens.Package(t, func(records map[string][]byte) { delete(records, goldens.RecordOfPackage) })
	m := loadPackage(t, path, torch.Options{})
	if precision := m.Info().Precision; precision != torch.AsCompiled {
		t.Errorf("the precision is %v", precision)
	}
	if _, err := forward(m, images(2, packageHeight, packageWidth), nil); err != nil {
		t.Error(err)
	}
	_, err := forward(m, images(2, packageHeight, packageWidth+1), nil)
	expectKind(t, err, torch.ErrForward)
}

// A package's refusal of its input is one line, and names the dimension and what it takes.
func TestReasonsOfPackages(t *testing.T) {
	unstated := func(records map[string][]byte) { delete(records, goldens.RecordOfPackage) }
	path := goldens.Package(t, unstated)
	m := loadPackage(t, path, torch.Options{})
	for text, test := range map[string]struct {
		batch torch.Images
		wants *torch.Dimension
	}{
		"the package takes images with a height of 24, and this one has 25": {images(1, packageHeight+1, packageWidth), &torch.Dimension{Index: 2, Size: packageHeight}},
		"the package takes images with a width of 32, and this one has 16":  {images(2, packageHeight, packageWidth/2), &torch.Dimension{Index: 3, Size: packageWidth}},
	} {
		expectReason(t, m.CheckFinite(test.batch), text, test.wants)
		m := loadPackage(t, path, torch.Options{}) // one that hasn't run
		_, err := forward(m, test.batch, nil)
		expectReason(t, err, text, test.wants)
	}
	_, err := m.Forward(&torch.Tensor{DType: torch.Uint8, Shape: []int64{1, 3, packageHeight, packageWidth}, Data: make([]byte, 3*packageHeight*packageWidth)})
	expectReason(t, err, "the package takes input 0 of the type Float only", nil)

	// Packages of older PyTorch versions have no function that returns the reason.
	silent := loadPackage(t, goldens.Package(t, func(records map[string][]byte) {
		unstated(records)
		for record, content := range records {
			records[record] = bytes.ReplaceAll(content, []byte("AOTInductorGetLastError\x00"), []byte("AOTInductorGetL4stError\x00"))
		}
	}), torch.Options{})
	_, err = forward(silent, images(1, packageHeight, packageWidth+1), nil)
	expectReason(t, err, "the package failed and doesn't say why, as packages of older PyTorch versions; most likely it takes images of another size or type, or batches of another size", nil)
}

func expectReason(t *testing.T, err error, text string, wants *torch.Dimension) {
	t.Helper()
	expectKind(t, err, torch.ErrForward)
	var failure *torch.Error
	if !errors.As(err, &failure) {
		return
	}
	if failure.Detail != text || failure.Trace == "" {
		t.Errorf("got reason %q, trace %q, want %q and a trace", failure.Detail, failure.Trace, text)
	}
	if (failure.Wants == nil) != (wants == nil) || wants != nil && *failure.Wants != *wants {
		t.Errorf("%s: wants %v, want %v", text, failure.Wants, wants)
	}
}

// The name of a package's only model doesn't matter. Of several models, the one with the usual name is loaded.
func TestNamesOfPackagedModels(t *testing.T) {
	// copyTo returns a package that has the model under these names, and keeps the usual one or not.
	copyTo := func(keep bool, names ...string) string {
		return goldens.Package(t, func(records map[string][]byte) {
			for record, content := range maps.Clone(records) {
				if !strings.Contains(record, "/aotinductor/model/") {
					continue
				}
				for _, name := range names {
					records[strings.Replace(record, "/model/", "/"+name+"/", 1)] = content
				}
				if !keep {
					delete(records, record)
				}
			}
		})
	}
	for _, path := range []string{copyTo(false, "generator"), copyTo(true, "generator")} {
		m := loadPackage(t, path, torch.Options{})
		expectSame(t, path, m, load(t, "negate.pt"), images(2, packageHeight, packageWidth))
	}
	_, err := torch.Load(copyTo(false, "generator", "discriminator"), torch.Options{})
	expectKind(t, err, torch.ErrNotAModule)
	if want := "an AOTInductor package of several models (discriminator, generator); package one of them alone"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}

func TestPackageOfAnotherMachine(t *testing.T) {
	for name, replacement := range map[string][2]string{
		"device":    {`"AOTI_DEVICE_KEY": "cpu"`, `"AOTI_DEVICE_KEY": "cuda"`},
		"machine":   {`"AOTI_MACHINE": "x86_64"`, `"AOTI_MACHINE": "s390x"`},
		"system":    {`"AOTI_PLATFORM": "linux"`, `"AOTI_PLATFORM": "plan9"`},
		"processor": {`"AOTI_CPU_ISA": "AVX2"`, `"AOTI_CPU_ISA": "AVX2 AVX10_64"`},
	} {
		path := goldens.Package(t, func(records map[string][]byte) {
			for record, content := range records {
				records[record] = bytes.ReplaceAll(content, []byte(replacement[0]), []byte(replacement[1]))
			}
		})
		_, err := torch.Load(path, torch.Options{})
		if name == "processor" && err == nil {
			continue // unknown features are ignored
		}
		expectKind(t, err, torch.ErrDevice)
	}
}

func TestKernelsRun(t *testing.T) {
	for _, test := range []struct {
		compiled, have int
		want           bool
	}{{90, 90, true}, {80, 86, true}, {86, 80, false}, {80, 90, false}, {90, 80, false}, {90, 100, false}, {100, 103, true}} {
		if got := torch.KernelsRun(test.compiled, test.have); got != test.want {
			t.Errorf("kernels for %d on a GPU of %d: %v", test.compiled, test.have, got)
		}
	}
}

// A package that states its PyTorch version must have this LibTorch's.
func TestPackageOfAnotherPyTorch(t *testing.T) {
	loadPackage(t, goldens.Path("modules/negate.pt2"), torch.Options{})
	version := strings.Split(torch.Version(), ".")
	this := version[0] + "." + version[1]
	for madeBy, want := range map[string]string{
		"torchherd_tools export, PyTorch " + this + ".99":      "",
		"torchherd_tools export, PyTorch " + this + ".0+cu130": "",
		"somebody":                               "",
		"PyTorch main":                           "",
		"torchherd_tools export, PyTorch 1.13.1": "made by PyTorch 1.13, and this is LibTorch " + this + ": export it again with PyTorch " + this,
		"torchherd_tools export, PyTorch " + this + "9.0": "made by PyTorch " + this + "9,",
	} {
		path := goldens.Package(t, func(records map[string][]byte) {
			const record = goldens.RecordOfPackage
			records[record] = bytes.ReplaceAll(records[record], []byte("torchherd models/fixtures.py"), []byte(madeBy))
		})
		m, err := torch.Load(path, torch.Options{})
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", madeBy, err)
			} else {
				_ = m.Close()
			}
			continue
		}
		expectKind(t, err, torch.ErrNotAModule)
		if err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %q doesn't contain %q", madeBy, err, want)
		}
	}
}

// The library needs a symbol or a library that this LibTorch lacks.
func TestPackageWithUnresolvedDependencies(t *testing.T) {
	loadPackage(t, goldens.Path("modules/negate.pt2"), torch.Options{})
	for name, replacement := range map[string][2]string{
		"symbol":  {"aoti_torch_delete_tensor_object\x00", "aoti_torch_forget_tensor_object\x00"},
		"library": {"libtorch.so\x00", "libforch.so\x00"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := goldens.Package(t, func(records map[string][]byte) {
				for record, content := range records {
					if strings.HasSuffix(record, ".so") {
						records[record] = bytes.ReplaceAll(content, []byte(replacement[0]), []byte(replacement[1]))
					}
				}
			})
			_, err := torch.Load(path, torch.Options{PackageFolder: dir})
			expectKind(t, err, torch.ErrNotAModule)
			missing := strings.TrimSuffix(replacement[1], "\x00")
			for _, part := range []string{path, "most likely compiled by another PyTorch", torch.Version(), missing} {
				if err != nil && !strings.Contains(err.Error(), part) {
					t.Errorf("error %q doesn't contain %q", err, part)
				}
			}
			expectEmpty(t, dir)
		})
	}
}

func TestCorruptPackages(t *testing.T) {
	for name, change := range map[string]func(records map[string][]byte){
		"no library": func(records map[string][]byte) {
			maps.DeleteFunc(records, func(record string, _ []byte) bool { return strings.HasSuffix(record, ".so") })
		},
		"library truncated": func(records map[string][]byte) {
			for record, content := range records {
				if strings.HasSuffix(record, ".so") {
					records[record] = content[:len(content)/2]
				}
			}
		},
		"metadata": func(records map[string][]byte) {
			for record := range records {
				if strings.HasSuffix(record, "_metadata.json") {
					records[record] = []byte("{")
				}
			}
		},
		"record": func(records map[string][]byte) { records[goldens.RecordOfPackage] = []byte(`{"input": "wide"}`) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := torch.Load(goldens.Package(t, change), torch.Options{PackageFolder: dir})
			expectKind(t, err, torch.ErrNotAModule)
			expectEmpty(t, dir)
		})
	}
}

func TestPackageFolder(t *testing.T) {
	dir := t.TempDir()
	m := loadPackage(t, goldens.Path("modules/negate.pt2"), torch.Options{PackageFolder: dir})
	expectEmpty(t, dir)
	if _, err := forward(m, images(1, packageHeight, packageWidth), nil); err != nil {
		t.Error(err)
	}
	if _, err := torch.Load(goldens.Path("modules/negate.pt2"), torch.Options{PackageFolder: filepath.Join(dir, "absent")}); err == nil {
		t.Error("a directory that doesn't exist was accepted")
	}
	_, err := torch.Load(goldens.Path("modules/negate.pt2"), torch.Options{Precision: torch.BF16})
	expectKind(t, err, torch.ErrInvalidArgument)
}

// Packages load, and run for the first time, at the same time.
func TestConcurrentPackages(t *testing.T) {
	loadPackage(t, goldens.Path("modules/negate.pt2"), torch.Options{})
	batch := images(2, packageHeight, packageWidth)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			m, err := torch.Load(goldens.Path("modules/negate.pt2"), torch.Options{})
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = m.Close() }()
			for range 20 {
				got, err := forward(m, batch, nil)
				if err != nil || got.Items[1][0] != 255-batch.Items[1][0] {
					t.Errorf("%v, %v", got.Items, err)
				}
			}
		})
	}
	wg.Wait()
}

func expectEmpty(t *testing.T, dir string) {
	t.Helper()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("the directory isn't empty: %v, %v", entries, err)
	}
}
